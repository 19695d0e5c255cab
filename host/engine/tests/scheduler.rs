//! The scheduler against one text at a time: whatever arrives, forks, is taken back or has to
//! begin anew for want of pages, each request gets what it would get alone, and no page is lost.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod common;

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, LazyLock, Mutex};

use common::{ADAPTERS, Alone, adapter, caller, drafted, model};
use proptest::prelude::*;
use skep_accounts::{Account, Limits};
use skep_engine::Tally;
use skep_engine::adapters::{AdapterStore, Residency, read};
use skep_engine::scheduler::{Delivery, Event, Options, Prepared, Scheduler, Task, store_options};
use skep_engine::{Caller, EngineError, LanguageModel, Priority, Request, Sampling, ScoreRequest};
use skep_kernels::Team;
use skep_kernels::kv::KvFormat;

static MODEL: LazyLock<Arc<LanguageModel>> = LazyLock::new(model);
static TEAM: LazyLock<Arc<Team>> = LazyLock::new(|| Arc::new(Team::new(1).unwrap()));

/// With a draft model that is the model itself, whose guesses are always right.
static TWIN: LazyLock<Arc<LanguageModel>> = LazyLock::new(|| drafted("llama"));

/// With a draft model whose guesses are hardly ever right.
static STRANGER: LazyLock<Arc<LanguageModel>> = LazyLock::new(|| drafted("smollm"));

fn options(pages: usize) -> Options {
    Options {
        pages,
        kv_format: KvFormat::F32,
        batch_texts: 5,
        batch_tokens: 40,
        ..Options::default()
    }
}

/// A scheduler, and what its requests are prepared with.
struct World {
    scheduler: Scheduler,
    model: Arc<LanguageModel>,
    options: Options,
    adapters: Arc<Mutex<AdapterStore>>,
}

impl World {
    fn new(options: Options) -> Self {
        Self::of(&MODEL, options)
    }

    fn of(model: &Arc<LanguageModel>, options: Options) -> Self {
        let adapters = AdapterStore::new(store_options(model, &options)).unwrap();
        let adapters = Arc::new(Mutex::new(adapters));
        let (own, team) = (Arc::clone(model), Arc::clone(&TEAM));
        Self {
            scheduler: Scheduler::new(own, team, options.clone(), Arc::clone(&adapters)),
            model: Arc::clone(model),
            options,
            adapters,
        }
    }

    /// Adds an adapter, or gives a name to another.
    fn adapt(&self, name: &str, which: &str) {
        let options = store_options(&self.model, &self.options);
        let weights = read(&options, &adapter(which)).unwrap();
        let mut adapters = self.adapters.lock().unwrap();
        adapters.put(name, which, adapter(which), weights);
    }

    fn prepare(&self, task: Task) -> Result<Prepared, EngineError> {
        Prepared::new(&self.model, &self.options, &self.adapters, task)
    }

    fn submit(&mut self, caller: Caller, task: Task) -> Result<u64, EngineError> {
        let prepared = self.prepare(task)?;
        self.scheduler.submit(caller, prepared)
    }
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
        /// Drawn with this seed, or the likeliest.
        seed: Option<u64>,
        /// The name of an adapter.
        adapter: Option<usize>,
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
    /// The first name is given to the adapter of the second.
    Replace(usize, usize),
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
    let write = (
        (0..3_u64, priority, texts(), 1..20_usize, 1..4_usize),
        prop::option::of(any::<u64>()),
        prop::option::of(0..ADAPTERS.len()),
    )
        .prop_map(
            |((owner, priority, prompt, tokens, samples), seed, adapter)| Happening::Write {
                owner,
                priority,
                prompt,
                tokens,
                samples,
                seed,
                adapter,
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
        1 => (0..ADAPTERS.len(), 0..ADAPTERS.len()).prop_map(|(a, b)| Happening::Replace(a, b)),
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

/// How tokens are drawn where they are.
fn sampling(seed: Option<u64>) -> Sampling {
    match seed {
        None => Sampling::GREEDY,
        Some(seed) => Sampling {
            temperature: 1.1,
            top_k: 40,
            min_p: 0.01,
            frequency_penalty: 0.2,
            seed,
            ..Sampling::GREEDY
        },
    }
}

/// `version` is the adapter that the request's name stood for.
fn check(told: &Told, (asked, version): (&Happening, Option<&str>), format: KvFormat) {
    let mut alone = Alone::new(&MODEL, format);
    if let Some(version) = version {
        alone = alone.with(version);
    }
    match asked {
        Happening::Write {
            prompt,
            tokens,
            samples,
            seed,
            ..
        } => {
            assert_eq!(told.written.len(), *samples);
            for (sample, written) in &told.written {
                let expected = match seed {
                    None => alone.write(prompt, *tokens),
                    Some(_) => alone.draw(prompt, *tokens, &sampling(*seed), *sample),
                };
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
        Happening::Cancel(_) | Happening::Replace(..) | Happening::Step => {}
    }
}

fn run(happenings: &[Happening], model: &Arc<LanguageModel>, options: Options) -> Tally {
    let format = options.kv_format;
    let pages = options.pages;
    let mut world = World::of(model, options);
    let mut told: HashMap<u64, Told> = HashMap::new();
    let mut asked: Vec<(u64, &Happening, Option<&str>)> = Vec::new();
    let mut cancelled = Vec::new();
    let accounts: Vec<Account> = (0..3).map(|_| Account::new(Limits::UNLIMITED)).collect();
    let mut versions = ADAPTERS;
    for name in ADAPTERS {
        world.adapt(name, name);
    }
    let mut steps = 0;
    for happening in happenings {
        let (owner, priority, task) = match happening {
            Happening::Write {
                owner,
                priority,
                prompt,
                tokens,
                samples,
                seed,
                adapter,
            } => {
                let mut request = Request::greedy(prompt.clone(), *tokens);
                request.samples = *samples;
                request.sampling = sampling(*seed);
                request.adapter = adapter.map(|name| ADAPTERS[name].to_owned());
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
                    let (group, ..) = asked[which.index(asked.len())];
                    world.scheduler.cancel(group);
                    cancelled.push(group);
                }
                continue;
            }
            Happening::Replace(name, other) => {
                versions[*name] = ADAPTERS[*other];
                world.adapt(ADAPTERS[*name], versions[*name]);
                continue;
            }
            Happening::Step => {
                take(&mut told, world.scheduler.step());
                continue;
            }
        };
        let caller = Caller {
            account: accounts[owner as usize].clone(),
            owner,
            priority,
        };
        let version = match happening {
            Happening::Write { adapter, .. } => adapter.map(|name| versions[name]),
            _ => None,
        };
        let group = world.submit(caller, task).unwrap();
        told.insert(group, Told::default());
        asked.push((group, happening, version));
    }
    while !world.scheduler.is_idle() {
        take(&mut told, world.scheduler.step());
        steps += 1;
        assert!(steps < 20_000, "nothing comes to an end");
    }
    for (group, happening, version) in asked {
        let told = &told[&group];
        if told.over {
            check(told, (happening, version), format);
        } else {
            assert!(cancelled.contains(&group), "a request was forgotten");
        }
    }
    let (held, cached) = world.scheduler.held_pages();
    assert_eq!(held, 0, "pages are held for texts that are over");
    let adapters = world.scheduler.adapter_pages();
    assert_eq!(world.scheduler.pool().free() + cached + adapters, pages);
    for account in accounts {
        assert_eq!(account.usage().device_bytes, 0);
    }
    world.scheduler.tally()
}

fn formats() -> impl Strategy<Value = KvFormat> {
    prop::sample::select(vec![KvFormat::F32, KvFormat::F16, KvFormat::Int8])
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    /// With hardly more pages than the longest text and adapter need, so that texts and adapters
    /// push each other out.
    #[test]
    fn every_request_gets_what_it_would_get_alone(
        happenings in happenings(),
        pages in 24..40_usize,
        kv_format in formats(),
        prefix_cache: bool,
        drafts in 0..4_usize,
        adapter_bytes in prop::sample::select(vec![0_u64, 1 << 20]),
        (draft, model_drafts, steady_drafts) in (0..3_usize, 1..6_usize, any::<bool>()),
    ) {
        let options = Options {
            kv_format, prefix_cache, drafts, adapter_bytes, model_drafts, steady_drafts,
            ..options(pages)
        };
        let model = [&MODEL, &TWIN, &STRANGER][draft];
        run(&happenings, model, options);
    }

    /// A draft model that is the model itself is never wrong, unless what it knows of a text is:
    /// whatever was shared, copied, found again or begun anew.
    #[test]
    fn what_the_draft_model_knows_of_texts_is_true(
        happenings in happenings(),
        pages in 8..24_usize,
        kv_format in formats(),
        prefix_cache: bool,
        model_drafts in 1..6_usize,
    ) {
        let mut happenings = happenings;
        for happening in &mut happenings {
            if let Happening::Write { adapter, .. } = happening {
                *adapter = None;
            }
        }
        let options = Options {
            kv_format, prefix_cache, model_drafts, steady_drafts: true, ..options(pages)
        };
        let tally = run(&happenings, &TWIN, options);
        prop_assert_eq!(tally.model_guessed, tally.model_right);
    }
}

#[test]
fn many_requests_of_one_owner_do_not_starve_another() {
    let mut world = World::new(options(64));
    let mut told = HashMap::new();
    let submit = |world: &mut World, told: &mut HashMap<u64, Told>, owner, prompt| {
        let task = Task::Write(Request::greedy(prompt, 10));
        let group = world.submit(caller(owner, Priority::Normal), task).unwrap();
        told.insert(group, Told::default());
        group
    };
    for n in 0..500 {
        submit(&mut world, &mut told, 1, text(n % 9, 40));
    }
    for _ in 0..20 {
        take(&mut told, world.scheduler.step());
    }
    let late = submit(&mut world, &mut told, 2, text(11, 40));
    let mut steps = 0;
    while !told[&late].over {
        take(&mut told, world.scheduler.step());
        steps += 1;
    }
    // It is given as much as the other: its 60 tokens' worth, while the other is given 60 and a
    // batch, by five texts and more a step. Alone the other would take two thousand steps.
    assert!(steps <= 24, "it took {steps} steps");
}

#[test]
fn what_is_urgent_comes_first() {
    let mut world = World::new(options(64));
    let mut groups = Vec::new();
    for priority in [
        Priority::Background,
        Priority::Normal,
        Priority::Interactive,
    ] {
        for n in 0..6 {
            let task = Task::Write(Request::greedy(text(n, 30), 4));
            let group = world.submit(caller(1, priority), task).unwrap();
            groups.push((group, priority));
        }
    }
    let mut ended = Vec::new();
    while !world.scheduler.is_idle() {
        let over = world.scheduler.step().into_iter().filter(|d| d.over);
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
    let mut world = World::new(options(64));
    let mut ask = |owner, prompt: Vec<u32>| {
        let task = Task::Write(Request::greedy(prompt, 1));
        let caller = caller(owner, Priority::Normal);
        world.submit(caller, task).unwrap();
        let mut cached = 0;
        while !world.scheduler.is_idle() {
            for delivery in world.scheduler.step() {
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
fn a_long_prompt_holds_nobody_up() {
    let mut world = World::new(options(64));
    let ask = |world: &mut World, owner, prompt: Vec<u32>, tokens| {
        let task = Task::Write(Request::greedy(prompt, tokens));
        world.submit(caller(owner, Priority::Normal), task).unwrap()
    };
    let writing = ask(&mut world, 1, text(1, 10), 60);
    world.scheduler.step();
    // 400 tokens at 40 a step, of which one is the other text's.
    let long = ask(&mut world, 2, text(2, 400), 1);
    let mut steps = 0;
    loop {
        let told = world.scheduler.step();
        steps += 1;
        let grown = |delivery: &&Delivery| delivery.group == writing;
        assert_eq!(told.iter().filter(grown).count(), 1, "at step {steps}");
        if told.iter().any(|delivery| delivery.group == long) {
            break;
        }
    }
    assert_eq!(steps, 400_usize.div_ceil(39));
}

#[test]
fn what_is_taken_back_frees_its_pages_at_once() {
    for model in [&MODEL, &TWIN] {
        let mut world = World::of(model, options(64));
        let mut request = Request::greedy(text(1, 60), 60);
        request.samples = 3;
        let caller = caller(1, Priority::Normal);
        let group = world.submit(caller.clone(), Task::Write(request)).unwrap();
        for _ in 0..6 {
            world.scheduler.step();
        }
        let (held, _) = world.scheduler.held_pages();
        assert!(held > 4);
        assert_eq!(
            caller.account.usage().device_bytes,
            held as u64 * world.scheduler.page_bytes()
        );
        world.scheduler.cancel(group);
        assert_eq!(world.scheduler.held_pages().0, 0);
        assert_eq!(caller.account.usage().device_bytes, 0);
        assert!(world.scheduler.is_idle());
    }
}

#[test]
fn who_cannot_pay_is_told_and_holds_nothing() {
    let mut world = World::new(options(64));
    let poor = Account::new(Limits {
        device_memory: 3 * world.scheduler.page_bytes(),
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
        let group = world.submit(caller, task).unwrap();
        let mut last = None;
        while !world.scheduler.is_idle() {
            for delivery in world.scheduler.step() {
                assert_eq!(delivery.group, group);
                last = Some(delivery);
            }
        }
        let last = last.unwrap();
        assert!(last.over);
        assert!(matches!(last.event, Event::Failed(EngineError::Quota(_))));
        assert_eq!(account.usage().device_bytes, 0);
        assert_eq!(world.scheduler.held_pages().0, 0);
    }
}

#[test]
fn more_than_the_engine_takes_is_refused_at_once() {
    let options = Options {
        texts: 4,
        requests_of_owner: 3,
        ..options(64)
    };
    let mut world = World::new(options);
    let mut ask = |owner, samples| {
        let mut request = Request::greedy(text(1, 4), 4);
        request.samples = samples;
        world.submit(caller(owner, Priority::Normal), Task::Write(request))
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
    let world = World::new(options(4));
    let refuse = |task| {
        let error = world.prepare(task).unwrap_err();
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

#[test]
fn adapters_are_there_before_their_turn_comes() {
    // One text at a time, and no host memory for adapters that nobody waits for.
    let mut world = World::new(Options {
        batch_texts: 1,
        adapter_bytes: 0,
        ..options(64)
    });
    for name in ADAPTERS {
        world.adapt(name, name);
    }
    let place = |world: &World, name: &str| {
        let all = world.adapters.lock().unwrap().list();
        let found = all.iter().find(|info| info.name == name);
        found.unwrap().residency
    };
    let mut told = HashMap::new();
    let mut ask = |world: &mut World, priority, adapter: Option<&str>, tokens| {
        let request = Request {
            adapter: adapter.map(str::to_owned),
            ..Request::greedy(text(1, 20), tokens)
        };
        let group = world
            .submit(caller(1, priority), Task::Write(request))
            .unwrap();
        told.insert(group, Told::default());
        group
    };
    let first = ask(&mut world, Priority::Interactive, None, 60);
    let second = ask(&mut world, Priority::Normal, Some("patterns"), 4);
    assert_eq!(place(&world, "patterns"), Residency::Disk);
    take(&mut told, world.scheduler.step());
    // It is on its way: the thread that reads it has it, or will.
    assert!(world.adapters.lock().unwrap().wait());
    take(&mut told, world.scheduler.step());
    assert_eq!(place(&world, "patterns"), Residency::Device);
    assert_eq!(
        place(&world, "plain"),
        Residency::Disk,
        "nobody asks for it"
    );
    assert!(!told[&first].over && told[&second].written.is_empty());
    while !world.scheduler.is_idle() {
        take(&mut told, world.scheduler.step());
    }
    let expected = Alone::new(&MODEL, KvFormat::F32)
        .with("patterns")
        .write(&text(1, 20), 4);
    assert_eq!(told[&second].written[&0], expected);
}

#[test]
fn of_adapters_that_are_waited_for_the_most_urgent_come_first() {
    // Room for the page of the text that is written and for one adapter.
    let sizes = World::new(options(64));
    sizes.adapt("patterns", "patterns");
    let pages = sizes.adapters.lock().unwrap().list()[0].pages;
    let mut world = World::new(Options {
        batch_texts: 1,
        prefix_cache: false,
        ..options(pages + 1)
    });
    world.adapt("first", "patterns");
    world.adapt("urgent", "patterns");
    let mut ask = |priority, adapter: Option<&str>, tokens| {
        let request = Request {
            adapter: adapter.map(str::to_owned),
            ..Request::greedy(text(1, 8), tokens)
        };
        world
            .submit(caller(1, priority), Task::Write(request))
            .unwrap()
    };
    ask(Priority::Interactive, None, 8);
    ask(Priority::Background, Some("first"), 2);
    ask(Priority::Normal, Some("urgent"), 2);
    world.scheduler.step();
    let all = world.adapters.lock().unwrap().list();
    let there = all
        .iter()
        .filter(|info| info.residency == Residency::Device);
    assert_eq!(
        there.map(|info| info.name.as_str()).collect::<Vec<_>>(),
        ["urgent"]
    );
}
