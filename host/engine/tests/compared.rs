//! Texts that are only compared, where they are computed less exactly: they share no batch with
//! others, and have as many as they would have had a part in.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod common;

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use common::backend::backend;
use common::caller;
use common::world::{MODEL, Told, World, options, take, text};
use skep_decoder::{Batch, Decoder};
use skep_engine::runner::Results;
use skep_engine::scheduler::{Event, Options, Task};
use skep_engine::{
    AdapterPool, Backend, FollowRequest, ModelRunner, Priority, Request, RunnerError,
};
use skep_kernels::kv::KvFormat;

/// A batch: whether it was one of texts that are only compared, and its tokens.
type Pass = (bool, usize);

/// A backend that says that it rounds, notes each batch, and otherwise does what another does.
struct Rounding {
    inner: Box<dyn Backend>,
    passes: Arc<Mutex<Vec<Pass>>>,
}

struct RoundingRunner {
    inner: Box<dyn ModelRunner>,
    passes: Arc<Mutex<Vec<Pass>>>,
}

impl Rounding {
    fn new() -> Self {
        Self {
            inner: backend(1),
            passes: Arc::default(),
        }
    }

    fn passes(&self) -> Vec<Pass> {
        self.passes.lock().unwrap().clone()
    }
}

impl Backend for Rounding {
    fn name(&self) -> &'static str {
        "rounding"
    }

    fn load(
        &self,
        decoder: &Arc<Decoder>,
        format: KvFormat,
        pages: usize,
    ) -> Result<Box<dyn ModelRunner>, RunnerError> {
        Ok(Box::new(RoundingRunner {
            inner: self.inner.load(decoder, format, pages)?,
            passes: Arc::clone(&self.passes),
        }))
    }
}

impl ModelRunner for RoundingRunner {
    fn run(
        &mut self,
        batch: &Batch<'_>,
        states: &[usize],
        results: &mut Results,
    ) -> Result<(), RunnerError> {
        self.passes
            .lock()
            .unwrap()
            .push((false, batch.tokens.len()));
        self.inner.run(batch, states, results)
    }

    fn run_rounded(
        &mut self,
        batch: &Batch<'_>,
        states: &[usize],
        results: &mut Results,
    ) -> Result<(), RunnerError> {
        self.passes.lock().unwrap().push((true, batch.tokens.len()));
        self.inner.run(batch, states, results)
    }

    fn rounds(&self) -> bool {
        true
    }

    fn copy(&mut self, from: u32, to: u32, slots: usize) -> Result<(), RunnerError> {
        self.inner.copy(from, to, slots)
    }

    fn adapter_pool(&mut self) -> &mut dyn AdapterPool {
        self.inner.adapter_pool()
    }

    fn device_bytes(&self) -> u64 {
        self.inner.device_bytes()
    }
}

/// Somebody's text of so many tokens, all of which but the last have to be computed.
fn followed(length: usize) -> Task {
    let (prompt, written) = (text(3, 20), text(5, length - 20));
    Task::Follow(FollowRequest {
        request: Request::greedy(prompt, written.len()),
        sample: 0,
        tokens: written,
    })
}

fn written(family: u32, prompt: usize, tokens: usize) -> Task {
    Task::Write(Request::greedy(text(family, prompt), tokens))
}

/// Computes all that there is. How many texts were followed to their end.
fn to_the_end(world: &mut World, told: &mut HashMap<u64, Told>) -> usize {
    let mut followed = 0;
    while !world.scheduler.is_idle() {
        let deliveries = world.scheduler.step().into_iter();
        let (found, others): (Vec<_>, Vec<_>) =
            deliveries.partition(|delivery| matches!(delivery.event, Event::Followed(_)));
        followed += found.len();
        take(told, others);
    }
    followed
}

#[test]
fn who_writes_has_every_other_batch_beside_a_long_text_that_is_compared() {
    for rounded_checks in [true, false] {
        let backend = Rounding::new();
        let options = Options {
            rounded_checks,
            ..options(64)
        };
        let mut world = World::on(&backend, &MODEL, options);
        let mut told = HashMap::new();
        let writer = caller(1, Priority::Normal);
        let writing = world.submit(writer.clone(), written(1, 10, 20)).unwrap();
        told.insert(writing, Told::default());
        let checker = caller(2, Priority::Normal);
        world.submit(checker.clone(), followed(201)).unwrap();
        assert_eq!(to_the_end(&mut world, &mut told), 1);
        assert_eq!(told[&writing].written[&0].len(), 20);
        // Each position once, whoever computes it how.
        assert_eq!(writer.account.usage().tokens, 10 + 19);
        assert_eq!(checker.account.usage().tokens, 200);
        let passes = backend.passes();
        if !rounded_checks {
            // 40 tokens at a time, all together.
            assert!(passes.iter().all(|(compared, _)| !compared), "{passes:?}");
            assert_eq!(passes[0], (false, 40), "{passes:?}");
            continue;
        }
        let kinds: Vec<bool> = passes.iter().map(|(compared, _)| *compared).collect();
        assert!(
            kinds[..10].chunks(2).all(|two| two[0] != two[1]),
            "{passes:?}"
        );
        let sum = |kind: bool| -> usize {
            let of_kind = passes.iter().filter(|(compared, _)| *compared == kind);
            of_kind.map(|(_, tokens)| tokens).sum()
        };
        assert_eq!((sum(true), sum(false)), (200, 29), "{passes:?}");
    }
}

#[test]
fn what_is_urgent_and_fills_batches_is_not_held_up_by_what_is_compared() {
    let backend = Rounding::new();
    let mut world = World::on(&backend, &MODEL, options(64));
    let mut told = HashMap::new();
    let late = caller(2, Priority::Background);
    world.submit(late, followed(201)).unwrap();
    take(&mut told, world.scheduler.step());
    for family in 0..3 {
        let urgent = caller(1, Priority::Interactive);
        let group = world.submit(urgent, written(family, 100, 1)).unwrap();
        told.insert(group, Told::default());
    }
    assert_eq!(to_the_end(&mut world, &mut told), 1);
    let passes = backend.passes();
    let mut expected = vec![(true, 40)];
    expected.extend([(false, 40); 7]);
    // It left room in the last.
    expected.push((false, 20));
    expected.extend([(true, 40); 4]);
    assert_eq!(passes, expected);
}

#[test]
fn who_compares_has_its_share_and_no_more() {
    // All of one priority: four who ask for prompts to be read, and one who compares, or the other way
    // round.
    for comparing in [1, 4] {
        let backend = Rounding::new();
        let mut world = World::on(&backend, &MODEL, options(256));
        for owner in 0..5 {
            for family in 0..4 {
                let task = match owner < comparing {
                    true => followed(101),
                    false => written(family, 100, 1),
                };
                let caller = caller(owner, Priority::Normal);
                world.submit(caller, task).unwrap();
            }
        }
        for _ in 0..25 {
            world.scheduler.step();
        }
        let passes = backend.passes();
        let compared = passes.iter().filter(|(compared, _)| *compared);
        let (compared, expected) = (compared.count(), 5 * comparing as usize);
        assert!(
            compared.abs_diff(expected) <= 2,
            "{compared} of 25 where {comparing} of 5 compare: {passes:?}"
        );
    }
}

/// Also one that had to begin anew after its owner had gone.
#[test]
fn of_an_owner_who_has_gone_no_text_is_remembered_that_begins_anew() {
    let mut world = World::new(options(8));
    let gone = caller(1, Priority::Background);
    world.submit(gone, written(1, 70, 10)).unwrap();
    world.scheduler.step();
    assert!(world.scheduler.held_pages().0 > 0);
    world.scheduler.forget(1);
    // It needs nearly all of the pages, for a while.
    let urgent = caller(2, Priority::Interactive);
    world.submit(urgent, written(2, 100, 10)).unwrap();
    world.scheduler.step();
    world.scheduler.forget(2);
    while !world.scheduler.is_idle() {
        world.scheduler.step();
    }
    assert_eq!(world.scheduler.held_pages(), (0, 0));
}
