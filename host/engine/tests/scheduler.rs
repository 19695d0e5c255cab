//! What the scheduler promises, one promise at a time: who comes first, what is not computed
//! again, what is refused, and when adapters are there.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod common;

use std::collections::HashMap;

use common::world::{MODEL, TWIN, Told, World, options, take, text};
use common::{ADAPTERS, Alone, caller};
use skep_accounts::{Account, Limits};
use skep_engine::adapters::Residency;
use skep_engine::scheduler::{Delivery, Event, Options, Task};
use skep_engine::{Caller, EngineError, Priority, Request, ScoreRequest};
use skep_kernels::kv::KvFormat;

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
        whole: false,
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
