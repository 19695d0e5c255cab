//! A device that fails, or computes what is no number: the texts that it was computing are told so, and nothing else
//! comes of it.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod common;

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering};

use common::backend::backend;
use common::world::{MODEL, TWIN, Told, World, options, take, text};
use common::{Alone, caller};
use skep_decoder::{Batch, Decoder};
use skep_engine::runner::Results;
use skep_engine::scheduler::{Event, Options, Task};
use skep_engine::{
    AdapterPool, Backend, CheckRequest, Completion, Engine, EngineError, ModelRunner, Priority,
    Request, RunnerError, StartError,
};
use skep_evidence::activations::Thresholds;
use skep_kernels::kv::KvFormat;

/// What is to go wrong from now on.
#[derive(Default)]
struct Faults {
    passes: AtomicBool,
    copies: AtomicBool,
    /// Models that can be loaded before there is no room for more.
    room: AtomicUsize,
    /// Which of the models that were loaded fails; all if it is `usize::MAX`.
    model: AtomicUsize,
    /// The position of a text whose state is another number; none if it is `usize::MAX`.
    position: AtomicUsize,
    /// The bits of that number.
    state: AtomicU32,
}

/// A backend that fails where it is told to, and otherwise does what another does.
struct Failing {
    inner: Box<dyn Backend>,
    faults: Arc<Faults>,
    loaded: AtomicUsize,
}

impl Failing {
    fn new() -> (Self, Arc<Faults>) {
        let faults = Arc::new(Faults {
            room: AtomicUsize::new(usize::MAX),
            model: AtomicUsize::new(usize::MAX),
            position: AtomicUsize::new(usize::MAX),
            ..Faults::default()
        });
        let failing = Self {
            inner: backend(1),
            faults: Arc::clone(&faults),
            loaded: AtomicUsize::new(0),
        };
        (failing, faults)
    }
}

struct FailingRunner {
    inner: Box<dyn ModelRunner>,
    faults: Arc<Faults>,
    number: usize,
}

fn lost() -> RunnerError {
    RunnerError::Device {
        device: "cuda:7".to_owned(),
        reason: "it fell off the bus".to_owned(),
    }
}

impl Backend for Failing {
    fn name(&self) -> &'static str {
        "cuda:7"
    }

    fn load(
        &self,
        decoder: &Arc<Decoder>,
        format: KvFormat,
        pages: usize,
    ) -> Result<Box<dyn ModelRunner>, RunnerError> {
        let number = self.loaded.fetch_add(1, Ordering::Relaxed);
        if number >= self.faults.room.load(Ordering::Relaxed) {
            return Err(lost());
        }
        Ok(Box::new(FailingRunner {
            inner: self.inner.load(decoder, format, pages)?,
            faults: Arc::clone(&self.faults),
            number,
        }))
    }
}

impl FailingRunner {
    fn check(&self, fault: &AtomicBool) -> Result<(), RunnerError> {
        let which = self.faults.model.load(Ordering::Relaxed);
        let own = which == self.number || which == usize::MAX;
        match own && fault.load(Ordering::Relaxed) {
            true => Err(lost()),
            false => Ok(()),
        }
    }
}

impl ModelRunner for FailingRunner {
    fn run(
        &mut self,
        batch: &Batch<'_>,
        states: &[usize],
        results: &mut Results,
    ) -> Result<(), RunnerError> {
        self.check(&self.faults.passes)?;
        self.inner.run(batch, states, results)?;
        let wrong = self.faults.position.load(Ordering::Relaxed);
        let state = f32::from_bits(self.faults.state.load(Ordering::Relaxed));
        let width = results.states.len() / states.len().max(1);
        for (row, place) in results.states.chunks_exact_mut(width.max(1)).zip(states) {
            if position(batch, *place) == wrong {
                row[width / 2] = state;
            }
        }
        Ok(())
    }

    fn copy(&mut self, from: u32, to: u32, slots: usize) -> Result<(), RunnerError> {
        self.check(&self.faults.copies)?;
        self.inner.copy(from, to, slots)
    }

    fn adapter_pool(&mut self) -> &mut dyn AdapterPool {
        self.inner.adapter_pool()
    }

    fn device_bytes(&self) -> u64 {
        self.inner.device_bytes()
    }
}

/// Where in its text a token of a batch is.
fn position(batch: &Batch<'_>, place: usize) -> usize {
    let mut first = 0;
    for part in batch.parts {
        if place < first + part.tokens {
            return part.start + place - first;
        }
        first += part.tokens;
    }
    panic!("there are {first} tokens, and none is at {place}");
}

fn is_lost(error: &EngineError) -> bool {
    matches!(error, EngineError::Device { device, .. } if device == "cuda:7")
        && error.to_string().contains("it fell off the bus")
}

/// Steps until there is nothing to do. How many requests were told that the device failed.
fn failures(world: &mut World) -> usize {
    let mut failures = 0;
    while !world.scheduler.is_idle() {
        for delivery in world.scheduler.step() {
            match delivery.event {
                Event::Failed(error) => {
                    assert!(is_lost(&error) && delivery.over, "{error}");
                    failures += 1;
                }
                _ => assert!(!delivery.over),
            }
        }
    }
    failures
}

fn write(world: &mut World, told: &mut HashMap<u64, Told>, prompt: Vec<u32>) -> u64 {
    let task = Task::Write(Request::greedy(prompt, 6));
    let group = world.submit(caller(1, Priority::Normal), task).unwrap();
    told.insert(group, Told::default());
    group
}

#[test]
fn texts_in_a_pass_that_fails_are_told_so_and_the_next_go_on() {
    let (failing, faults) = Failing::new();
    let mut world = World::on(&failing, &MODEL, options(64));
    let mut told = HashMap::new();
    for family in 0..3 {
        write(&mut world, &mut told, text(family, 20));
    }
    take(&mut told, world.scheduler.step());
    faults.passes.store(true, Ordering::Relaxed);
    assert_eq!(failures(&mut world), 3);
    assert_eq!(world.scheduler.held_pages().0, 0);
    faults.passes.store(false, Ordering::Relaxed);
    let after = write(&mut world, &mut told, text(1, 20));
    while !world.scheduler.is_idle() {
        take(&mut told, world.scheduler.step());
    }
    let expected = Alone::new(&MODEL, KvFormat::F32).write(&text(1, 20), 6);
    assert_eq!(told[&after].written[&0], expected);
}

#[test]
fn a_page_that_cannot_be_copied_is_nobodys() {
    let (failing, faults) = Failing::new();
    let mut world = World::on(&failing, &MODEL, options(64));
    let request = Request {
        samples: 3,
        ..Request::greedy(text(1, 21), 6)
    };
    let caller = caller(1, Priority::Normal);
    let account = caller.account.clone();
    world.submit(caller, Task::Write(request)).unwrap();
    faults.copies.store(true, Ordering::Relaxed);
    // The samples share the prompt's last page, and each is to have one of its own.
    assert_eq!(failures(&mut world), 1);
    assert_eq!(account.usage().device_bytes, 0);
    let (held, cached) = world.scheduler.held_pages();
    assert_eq!((held, world.scheduler.pool().free() + cached), (0, 64));
}

#[test]
fn a_draft_model_that_fails_is_left_out() {
    let (failing, faults) = Failing::new();
    let options = Options {
        steady_drafts: true,
        ..options(64)
    };
    let mut world = World::on(&failing, &TWIN, options);
    faults.model.store(1, Ordering::Relaxed);
    faults.passes.store(true, Ordering::Relaxed);
    let mut told = HashMap::new();
    let group = write(&mut world, &mut told, text(2, 20));
    while !world.scheduler.is_idle() {
        take(&mut told, world.scheduler.step());
    }
    assert_eq!(world.scheduler.tally().draft_passes, 0);
    let expected = Alone::new(&MODEL, KvFormat::F32).write(&text(2, 20), 6);
    assert_eq!(told[&group].written[&0], expected);
}

#[test]
fn an_engine_whose_device_fails_leaves_nobody_waiting() {
    let (failing, faults) = Failing::new();
    let engine = Engine::start_on(Arc::clone(&MODEL), &failing, options(64)).unwrap();
    assert_eq!(engine.device(), "cuda:7");
    let caller = caller(1, Priority::Normal);
    let mut generation = engine.generate(&caller, vec![Request::greedy(text(1, 20), 400)]);
    generation.next().unwrap().unwrap();
    faults.passes.store(true, Ordering::Relaxed);
    let answers = generation.wait();
    assert!(answers[0].as_ref().is_err_and(is_lost), "{answers:?}");
    let embedded = engine.embed(&caller, vec![text(1, 9)]).wait();
    assert!(embedded.as_ref().is_err_and(is_lost), "{embedded:?}");
    faults.passes.store(false, Ordering::Relaxed);
    let answers = engine.generate(&caller, vec![Request::greedy(text(1, 20), 3)]);
    assert!(answers.wait()[0].is_ok());
    assert_eq!(engine.memory().kv, 0);
    assert_eq!(caller.account.usage().device_bytes, 0);
}

/// A text that went on from a state which is no number, or rounds to none, would commit to nothing that it wrote.
#[test]
fn a_text_whose_states_overflow_ends_without_a_commitment_and_the_others_go_on() {
    let (failing, faults) = Failing::new();
    let engine = Engine::start_on(Arc::clone(&MODEL), &failing, options(64)).unwrap();
    let long = Request {
        commit: true,
        ..Request::greedy(text(1, 20), 6)
    };
    let short = Request {
        commit: true,
        ..Request::greedy(text(2, 5), 6)
    };
    let plain = Request {
        commit: false,
        ..long.clone()
    };
    let caller = caller(1, Priority::Normal);
    let write = || {
        let requests = vec![long.clone(), short.clone(), plain.clone()];
        let mut answers = engine.generate(&caller, requests).wait().into_iter();
        [(); 3].map(|()| answers.next().unwrap())
    };
    let claim = |request: &Request, text: &Completion| CheckRequest {
        request: request.clone(),
        sample: 0,
        tokens: text.tokens.clone(),
        commitments: text.commitments.clone(),
        tolerance: 1e-3,
    };
    let check = |request: &Request, text: &Completion| {
        let checked = engine.check(&caller, vec![claim(request, text)]).wait();
        checked.map(|checked| checked[0].is_honest(&Thresholds::default(), 20))
    };
    let is_overflow = |error: &EngineError| matches!(error, EngineError::Failed(reason) if reason.contains("is not finite"));
    let right = write().map(|answer| answer.unwrap().remove(0));
    assert_eq!(
        right.each_ref().map(|text| text.commitments.len()),
        [2, 2, 0]
    );
    // In the prompt, where none of the shorter text is, and behind the second token that the longer one writes.
    for position in [12, 21] {
        // The largest number of 32 bits rounds to infinity.
        for state in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, f32::MAX] {
            faults.state.store(state.to_bits(), Ordering::Relaxed);
            faults.position.store(position, Ordering::Relaxed);
            let [overflown, beside, without] = write();
            assert!(
                overflown.as_ref().is_err_and(is_overflow),
                "{state} at {position}: {overflown:?}"
            );
            // Nor does anybody who checks it here say anything of it.
            let checked = check(&long, &right[0]);
            assert!(checked.as_ref().is_err_and(is_overflow), "{checked:?}");
            let beside = beside.unwrap().remove(0);
            assert_eq!(beside.commitments.len(), 2);
            assert_eq!(check(&short, &beside), Ok(true));
            // Nobody asked for the states of the one that commits to nothing.
            let without = without.unwrap().remove(0);
            assert_eq!(without.tokens.len(), right[2].tokens.len());
            assert_eq!(engine.memory().kv, 0);
            assert_eq!(caller.account.usage().device_bytes, 0);
        }
    }
    // Once states are numbers again, so are those of that text.
    faults.position.store(usize::MAX, Ordering::Relaxed);
    assert_eq!(check(&long, &right[0]), Ok(true));
    let [long_again, ..] = write();
    assert_eq!(long_again.unwrap()[0].commitments.len(), 2);
}

#[test]
fn a_model_that_there_is_no_room_for_is_refused_by_name() {
    for (model, room) in [(&MODEL, 0), (&TWIN, 1)] {
        let (failing, faults) = Failing::new();
        faults.room.store(room, Ordering::Relaxed);
        let refused = Engine::start_on(Arc::clone(model), &failing, options(64));
        let error = refused.err().unwrap();
        assert!(matches!(error, StartError::Load { .. }), "{error}");
        assert!(error.to_string().contains("llama"), "{error}");
    }
}

/// A real device, whose account has memory for one token at a time and not for a prompt.
#[cfg(any(feature = "cuda", feature = "wgsl"))]
#[test]
fn a_device_without_memory_for_a_pass_fails_that_pass_alone() {
    use common::backend::device;
    use skep_accounts::{Account, Limits};

    let limited = |bytes| {
        device(Account::new(Limits {
            device_memory: bytes,
            ..Limits::UNLIMITED
        }))
    };
    let roomy = World::on(&limited(u64::MAX), &MODEL, options(64));
    let loaded = roomy.scheduler.device_bytes();
    assert!(matches!(
        Engine::start_on(Arc::clone(&MODEL), &limited(loaded / 2), options(64)),
        Err(StartError::Load { .. })
    ));
    let ask = |world: &mut World, length| -> Result<(), EngineError> {
        let task = Task::Write(Request::greedy(text(1, length), 1));
        world.submit(caller(1, Priority::Normal), task).unwrap();
        let mut result = Ok(());
        while !world.scheduler.is_idle() {
            for delivery in world.scheduler.step() {
                if let Event::Failed(error) = delivery.event {
                    result = Err(error);
                }
            }
        }
        result
    };
    let enough = (1..).map(|n| loaded + n * 8192).find(|bytes| {
        let mut world = World::on(&limited(*bytes), &MODEL, options(64));
        ask(&mut world, 1).is_ok()
    });
    let mut world = World::on(&limited(enough.unwrap()), &MODEL, options(64));
    let refused = ask(&mut world, 40);
    assert!(
        matches!(refused, Err(EngineError::Device { .. })),
        "{refused:?}"
    );
    assert_eq!(world.scheduler.held_pages().0, 0);
    assert_eq!(ask(&mut world, 1), Ok(()));
}
