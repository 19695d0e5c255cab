//! The scheduler against one text at a time: whatever arrives, forks, is taken back or has to
//! begin anew for want of pages, each request gets what it would get alone, and no page is lost.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod common;

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, LazyLock, Mutex};

use common::{Alone, caller, model};
use proptest::prelude::*;
use skep_accounts::{Account, Limits};
use skep_engine::adapters::AdapterStore;
use skep_engine::scheduler::{Delivery, Event, Options, Prepared, Scheduler, Task, store_options};
use skep_engine::{Caller, EngineError, LanguageModel, Priority, Request, ScoreRequest};
use skep_kernels::Team;
use skep_kernels::kv::KvFormat;

static MODEL: LazyLock<Arc<LanguageModel>> = LazyLock::new(model);
static TEAM: LazyLock<Arc<Team>> = LazyLock::new(|| Arc::new(Team::new(1).unwrap()));

/// No adapters.
static ADAPTERS: LazyLock<Arc<Mutex<AdapterStore>>> = LazyLock::new(|| {
    let store = AdapterStore::new(store_options(&MODEL, &options(1))).unwrap();
    Arc::new(Mutex::new(store))
});

fn options(pages: usize) -> Options {
    Options {
        pages,
        kv_format: KvFormat::F32,
        batch_texts: 5,
        batch_tokens: 40,
        ..Options::default()
    }
}

fn scheduler(options: &Options) -> Scheduler {
    let adapters = Arc::clone(&*ADAPTERS);
    Scheduler::new(
        Arc::clone(&MODEL),
        Arc::clone(&TEAM),
        options.clone(),
        adapters,
    )
}

fn prepare(options: &Options, task: Task) -> Result<Prepared, EngineError> {
    Prepared::new(&MODEL, options, &ADAPTERS, task)
}

/// A text that begins as others do: `family` says with which, `length` how much of it there is.
fn text(family: u32, length: usize) -> Vec<u32> {
    (0..length as u32)
        .map(|n| 3 + (family * 7 + n * n + n / 20 * family) % 157)
        .collect()
}

/// Something that happens.
#[derive(Debug, Clone)]
enum Happening {
    Write {
        owner: u64,
        priority: Priority,
        prompt: Vec<u32>,
        tokens: usize,
        samples: usize,
    },
    Judge {
        owner: u64,
        prompt: Vec<u32>,
        choices: Vec<Vec<u32>>,
    },
    Embed {
        owner: u64,
        tokens: Vec<u32>,
    },
    Cancel(prop::sample::Index),
    Step,
}

fn texts() -> impl Strategy<Value = Vec<u32>> {
    (0..3_u32, 1..90_usize).prop_map(|(family, length)| text(family, length))
}

fn happenings() -> impl Strategy<Value = Vec<Happening>> {
    let priority = prop_oneof![
        Just(Priority::Background),
        Just(Priority::Normal),
        Just(Priority::Interactive)
    ];
    let write = (0..3_u64, priority, texts(), 1..20_usize, 1..4_usize).prop_map(
        |(owner, priority, prompt, tokens, samples)| Happening::Write {
            owner,
            priority,
            prompt,
            tokens,
            samples,
        },
    );
    let judge = (
        0..3_u64,
        texts(),
        prop::collection::vec((0..9_u32, 1..20_usize), 1..4),
    )
        .prop_map(|(owner, prompt, choices)| Happening::Judge {
            owner,
            prompt,
            choices: choices.iter().map(|(f, n)| text(*f, *n)).collect(),
        });
    let embed = (0..3_u64, texts()).prop_map(|(owner, tokens)| Happening::Embed { owner, tokens });
    let one = prop_oneof![
        4 => write,
        1 => judge,
        1 => embed,
        1 => any::<prop::sample::Index>().prop_map(Happening::Cancel),
        6 => Just(Happening::Step),
    ];
    prop::collection::vec(one, 1..40)
}

/// What a request was told.
#[derive(Default)]
struct Told {
    written: BTreeMap<usize, Vec<u32>>,
    scores: BTreeMap<usize, f32>,
    mean: Option<Vec<f32>>,
    over: bool,
}

fn take(told: &mut HashMap<u64, Told>, deliveries: Vec<Delivery>) {
    for delivery in deliveries {
        let told = told.get_mut(&delivery.group).expect("it was asked for");
        assert!(!told.over, "told something after the end");
        match delivery.event {
            Event::Chunk(chunk) => {
                let text = told.written.entry(chunk.sample).or_default();
                text.extend(chunk.tokens);
            }
            Event::Scored { choice, score } => {
                told.scores.insert(choice, score.logprob);
            }
            Event::Embedded(mean) => told.mean = Some(mean),
            Event::Failed(error) => panic!("{error}"),
        }
        told.over = delivery.over;
    }
}

fn check(told: &Told, asked: &Happening) {
    let mut alone = Alone::new(&MODEL, KvFormat::F32);
    match asked {
        Happening::Write {
            prompt,
            tokens,
            samples,
            ..
        } => {
            let expected = alone.write(prompt, *tokens);
            assert_eq!(told.written.len(), *samples);
            for written in told.written.values() {
                assert_eq!(written, &expected);
            }
        }
        Happening::Judge {
            prompt, choices, ..
        } => {
            assert_eq!(told.scores.len(), choices.len());
            for (choice, score) in &told.scores {
                let expected = alone.judge(prompt, &choices[*choice]);
                assert!(
                    (f64::from(*score) - expected).abs() < 1e-3,
                    "{score} {expected}"
                );
            }
        }
        Happening::Embed { tokens, .. } => {
            let expected = alone.embed(tokens);
            for (a, b) in told.mean.as_ref().unwrap().iter().zip(expected) {
                assert!((a - b).abs() < 1e-4);
            }
        }
        Happening::Cancel(_) | Happening::Step => {}
    }
}

fn run(happenings: &[Happening], options: &Options) {
    let mut scheduler = scheduler(options);
    let mut told: HashMap<u64, Told> = HashMap::new();
    let mut asked: Vec<(u64, &Happening)> = Vec::new();
    let mut cancelled = Vec::new();
    let accounts: Vec<Account> = (0..3).map(|_| Account::new(Limits::UNLIMITED)).collect();
    let mut steps = 0;
    for happening in happenings {
        let (owner, priority, task) = match happening {
            Happening::Write {
                owner,
                priority,
                prompt,
                tokens,
                samples,
            } => {
                let mut request = Request::greedy(prompt.clone(), *tokens);
                request.samples = *samples;
                (*owner, *priority, Task::Write(request))
            }
            Happening::Judge {
                owner,
                prompt,
                choices,
            } => {
                let request = ScoreRequest {
                    prompt: prompt.clone(),
                    choices: choices.clone(),
                    adapter: None,
                };
                (*owner, Priority::Normal, Task::Score(request))
            }
            Happening::Embed { owner, tokens } => {
                (*owner, Priority::Normal, Task::Embed(tokens.clone()))
            }
            Happening::Cancel(which) => {
                if !asked.is_empty() {
                    let (group, _) = asked[which.index(asked.len())];
                    scheduler.cancel(group);
                    cancelled.push(group);
                }
                continue;
            }
            Happening::Step => {
                take(&mut told, scheduler.step());
                continue;
            }
        };
        let caller = Caller {
            account: accounts[owner as usize].clone(),
            owner,
            priority,
        };
        let prepared = prepare(options, task).unwrap();
        let group = scheduler.submit(caller, prepared).unwrap();
        told.insert(group, Told::default());
        asked.push((group, happening));
    }
    while !scheduler.is_idle() {
        take(&mut told, scheduler.step());
        steps += 1;
        assert!(steps < 20_000, "nothing comes to an end");
    }
    for (group, happening) in asked {
        let told = &told[&group];
        if told.over {
            check(told, happening);
        } else {
            assert!(cancelled.contains(&group), "a request was forgotten");
        }
    }
    let (held, cached) = scheduler.held_pages();
    assert_eq!(held, 0, "pages are held for texts that are over");
    assert_eq!(scheduler.pool().free() + cached, options.pages);
    for account in accounts {
        assert_eq!(account.usage().device_bytes, 0);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    /// With hardly more pages than the longest text needs, so that texts push each other out.
    #[test]
    fn every_request_gets_what_it_would_get_alone(
        happenings in happenings(),
        pages in 8..24_usize,
        prefix_cache: bool,
        drafts in 0..4_usize,
    ) {
        let options = Options { prefix_cache, drafts, ..options(pages) };
        run(&happenings, &options);
    }
}

#[test]
fn many_requests_of_one_owner_do_not_starve_another() {
    let options = options(64);
    let mut scheduler = scheduler(&options);
    let mut told = HashMap::new();
    let submit = |scheduler: &mut Scheduler, told: &mut HashMap<u64, Told>, owner, prompt| {
        let task = Task::Write(Request::greedy(prompt, 10));
        let prepared = prepare(&options, task).unwrap();
        let group = scheduler
            .submit(caller(owner, Priority::Normal), prepared)
            .unwrap();
        told.insert(group, Told::default());
        group
    };
    for n in 0..500 {
        submit(&mut scheduler, &mut told, 1, text(n % 9, 40));
    }
    for _ in 0..20 {
        take(&mut told, scheduler.step());
    }
    let late = submit(&mut scheduler, &mut told, 2, text(11, 40));
    let mut steps = 0;
    while !told[&late].over {
        take(&mut told, scheduler.step());
        steps += 1;
    }
    // It is given as much as the other: its 60 tokens' worth, while the other is given 60 and a
    // batch, by five texts and more a step. Alone the other would take two thousand steps.
    assert!(steps <= 24, "it took {steps} steps");
}

#[test]
fn what_is_urgent_comes_first() {
    let options = options(64);
    let mut scheduler = scheduler(&options);
    let mut groups = Vec::new();
    for priority in [
        Priority::Background,
        Priority::Normal,
        Priority::Interactive,
    ] {
        for n in 0..6 {
            let task = Task::Write(Request::greedy(text(n, 30), 4));
            let prepared = prepare(&options, task).unwrap();
            let group = scheduler.submit(caller(1, priority), prepared).unwrap();
            groups.push((group, priority));
        }
    }
    let mut ended = Vec::new();
    while !scheduler.is_idle() {
        let over = scheduler.step().into_iter().filter(|d| d.over);
        ended.extend(over.map(|delivery| delivery.group));
    }
    let order = ended.iter().map(|group| {
        let found = groups.iter().find(|(other, _)| other == group);
        found.unwrap().1
    });
    let order: Vec<Priority> = order.collect();
    assert!(order.is_sorted_by(|a, b| a >= b), "{order:?}");
}

#[test]
fn a_prompt_that_begins_alike_is_not_computed_again() {
    let options = options(64);
    let mut scheduler = scheduler(&options);
    let mut ask = |owner, prompt: Vec<u32>| {
        let task = Task::Write(Request::greedy(prompt, 1));
        let prepared = prepare(&options, task).unwrap();
        let caller = caller(owner, Priority::Normal);
        scheduler.submit(caller, prepared).unwrap();
        let mut cached = 0;
        while !scheduler.is_idle() {
            for delivery in scheduler.step() {
                cached = delivery.cached_tokens;
            }
        }
        cached
    };
    let mut prompt = text(1, 70);
    assert_eq!(ask(1, prompt.clone()), 0);
    assert_eq!(ask(1, prompt.clone()), 64);
    prompt[40] = 9;
    assert_eq!(ask(1, prompt.clone()), 32);
    // What another owner asked is not to be learned.
    assert_eq!(ask(2, prompt), 0);
}

#[test]
fn who_cannot_pay_is_told_and_holds_nothing() {
    let options = options(64);
    let mut scheduler = scheduler(&options);
    let poor = Account::new(Limits {
        device_memory: 3 * scheduler.page_bytes(),
        ..Limits::UNLIMITED
    });
    let idle = Account::new(Limits {
        device_work: 1,
        ..Limits::UNLIMITED
    });
    for account in [&poor, &idle] {
        let caller = Caller {
            account: account.clone(),
            owner: 1,
            priority: Priority::Normal,
        };
        let task = Task::Write(Request::greedy(text(1, 40), 30));
        let prepared = prepare(&options, task).unwrap();
        let group = scheduler.submit(caller, prepared).unwrap();
        let mut last = None;
        while !scheduler.is_idle() {
            for delivery in scheduler.step() {
                assert_eq!(delivery.group, group);
                last = Some(delivery);
            }
        }
        let last = last.unwrap();
        assert!(last.over);
        assert!(matches!(last.event, Event::Failed(EngineError::Quota(_))));
        assert_eq!(account.usage().device_bytes, 0);
        assert_eq!(scheduler.held_pages().0, 0);
    }
}

#[test]
fn more_than_the_engine_takes_is_refused_at_once() {
    let options = Options {
        texts: 4,
        requests_of_owner: 3,
        ..options(64)
    };
    let mut scheduler = scheduler(&options);
    let mut ask = |owner, samples| {
        let mut request = Request::greedy(text(1, 4), 4);
        request.samples = samples;
        let prepared = prepare(&options, Task::Write(request)).unwrap();
        scheduler.submit(caller(owner, Priority::Normal), prepared)
    };
    for _ in 0..3 {
        ask(1, 1).unwrap();
    }
    assert_eq!(ask(1, 1), Err(EngineError::Busy { waiting: 3 }));
    assert_eq!(ask(2, 2), Err(EngineError::Busy { waiting: 3 }));
    ask(2, 1).unwrap();
    assert_eq!(ask(3, 1), Err(EngineError::Busy { waiting: 4 }));
}

#[test]
fn what_cannot_be_is_refused_with_a_reason() {
    let options = options(4);
    let refuse = |task| {
        let error = prepare(&options, task).unwrap_err();
        assert!(matches!(error, EngineError::Invalid(_)));
        error.to_string()
    };
    let write = |prompt, tokens| Task::Write(Request::greedy(prompt, tokens));
    assert!(refuse(write(vec![], 1)).contains("no tokens"));
    assert!(refuse(write(vec![160], 1)).contains("160"));
    assert!(refuse(write(vec![1], 0)).contains("max-tokens"));
    assert!(refuse(write(text(1, 512), 1)).contains("context of 512"));
    assert!(refuse(write(text(1, 60), 10)).contains("take 5 pages"));
    assert!(refuse(Task::Embed(text(1, 80))).contains("5 pages"));
    let none = ScoreRequest {
        prompt: vec![1],
        choices: vec![],
        adapter: None,
    };
    assert!(refuse(Task::Score(none)).contains("no choices"));
}
