//! Sessions of the sandbox: a guest lives on from call to call, every limit holds for all of them
//! and for each, and a guest that fails is never called again.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::fs;
use std::sync::Arc;
use std::time::Duration;

use skep_registry::{Digest, Limits};
use skep_sandbox::records::{Deed, Heard, Intent, Manner, Mood, Regard, Scene, Speaker};
use skep_sandbox::{
    Beginning, CallError, CallLimits, Cancel, Program, Renderer, Reported, RunError, RunReport,
    RunSpec, Sandbox, SandboxConfig, Village,
};
use skep_tests::Built;
use skep_tests::village::Facts;

fn sandbox() -> Sandbox {
    Sandbox::new(SandboxConfig::default()).unwrap()
}

fn load(sandbox: &Sandbox, name: &str) -> Arc<Program> {
    let bytes = fs::read(Built::component(name)).unwrap_or_else(|error| {
        panic!("{name} is not built ({error}); `cargo xtask guests` builds it")
    });
    Arc::new(sandbox.load(bytes).unwrap())
}

/// Much of everything.
fn roomy() -> Limits {
    Limits {
        memory: Some(64 << 20),
        cpu_time: Some(Duration::from_secs(60)),
        time: Some(Duration::from_secs(120)),
        call_bytes: Some(1 << 20),
        ..Limits::default()
    }
}

/// Little processor time for each call.
const SHORT: CallLimits = CallLimits {
    cpu: Duration::from_millis(200),
    wall: Duration::from_secs(60),
};

fn village(
    name: &str,
    beginning: Beginning,
    limits: Limits,
    call: CallLimits,
) -> Result<Village, CallError> {
    let sandbox = sandbox();
    let spec = RunSpec {
        limits,
        ..RunSpec::default()
    };
    let program = load(&sandbox, name);
    sandbox.open_village(&program, &spec, call, beginning, &Cancel::new())
}

fn hostile(seed: u64, limits: Limits, call: CallLimits) -> Village {
    village("hostile-village", Beginning::Seed(seed), limits, call).unwrap()
}

/// How a session ended.
#[track_caller]
fn over<T: std::fmt::Debug>(result: Result<T, CallError>) -> Arc<skep_sandbox::FailedRun> {
    match result {
        Err(CallError::Over(failed)) => failed,
        other => panic!("the session goes on: {other:?}"),
    }
}

#[test]
fn a_guest_remembers_from_call_to_call() {
    let mut village = hostile(0, roomy(), CallLimits::default());
    for number in 1..=100 {
        assert_eq!(village.hash().unwrap(), number.to_string());
    }
    // A guest that says no goes on.
    let refused = village.act(Deed::Wait(1));
    assert!(matches!(&refused, Err(CallError::Refused(why)) if why == "not in this village"));
    assert_eq!(village.hash().unwrap(), "101");
    let report = village.close().unwrap();
    assert!(report.peak_memory_bytes > 0);
}

#[test]
fn a_call_that_computes_for_ever_ends_the_session() {
    let mut village = hostile(1, roomy(), SHORT);
    assert_eq!(village.hash().unwrap(), "1");
    let failed = over(village.look());
    let limit = SHORT.cpu;
    assert!(
        matches!(failed.error, RunError::CallCpuTime { limit: l } if l == limit),
        "{failed}"
    );
    assert!(failed.report.cpu_ms >= 200, "{:?}", failed.report);
    // Whatever comes later is told why.
    assert!(Arc::ptr_eq(&over(village.hash()), &failed));
    assert!(Arc::ptr_eq(&over(village.close()), &failed));
}

#[test]
fn a_call_that_takes_too_long_ends_the_session() {
    let call = CallLimits {
        cpu: Duration::from_secs(60),
        wall: Duration::from_millis(300),
    };
    let failed = over(hostile(1, roomy(), call).look());
    assert!(
        matches!(failed.error, RunError::CallTime { .. }),
        "{failed}"
    );
    assert_eq!(failed.error.limit(), Some("call-time"));
}

#[test]
fn a_guest_that_computes_for_ever_at_its_beginning_is_no_session() {
    let limits = roomy();
    let failed = over(village("hostile-village", Beginning::Seed(5), limits, SHORT).map(|_| ()));
    assert_eq!(failed.error.limit(), Some("call-cpu-time"), "{failed}");
}

#[test]
fn what_calls_use_adds_up() {
    let limits = Limits {
        cpu_time: Some(Duration::from_millis(300)),
        ..roomy()
    };
    let mut village = hostile(6, limits, CallLimits::default());
    let mut calls = 0;
    let failed = loop {
        match village.look() {
            Ok(_) => calls += 1,
            Err(CallError::Over(failed)) => break failed,
            Err(error) => panic!("{error}"),
        }
    };
    assert_eq!(failed.error.limit(), Some("cpu-time"), "{failed}");
    assert!(calls >= 1, "not one call ended");
}

#[test]
fn a_session_ends_when_its_time_is_over() {
    let limits = Limits {
        time: Some(Duration::from_millis(300)),
        ..roomy()
    };
    let mut village = hostile(0, limits, CallLimits::default());
    let failed = loop {
        match village.hash() {
            Ok(_) => {}
            Err(CallError::Over(failed)) => break failed,
            Err(error) => panic!("{error}"),
        }
    };
    assert_eq!(failed.error.limit(), Some("time"), "{failed}");
}

#[test]
fn traps_bombs_and_floods_are_what_they_are_in_runs() {
    let trap = over(hostile(2, roomy(), CallLimits::default()).look());
    assert!(matches!(trap.error, RunError::Trapped { .. }), "{trap}");
    let bomb = over(hostile(3, roomy(), CallLimits::default()).look());
    assert_eq!(bomb.error.limit(), Some("memory"), "{bomb}");
    assert!(bomb.report.peak_memory_bytes <= 64 << 20);
    let flood = over(hostile(4, roomy(), CallLimits::default()).log());
    assert_eq!(flood.error.limit(), Some("call-bytes"), "{flood}");
}

#[test]
fn a_session_is_called_off() {
    let sandbox = sandbox();
    let program = load(&sandbox, "hostile-village");
    let cancel = Cancel::new();
    let spec = RunSpec::default();
    let limits = CallLimits::default();
    let opened = sandbox.open_village(&program, &spec, limits, Beginning::Seed(0), &cancel);
    let mut village = opened.unwrap();
    cancel.cancel();
    let failed = loop {
        // The call may be quicker than the cancelling.
        if let Err(CallError::Over(failed)) = village.hash() {
            break failed;
        }
    };
    assert!(matches!(failed.error, RunError::Cancelled), "{failed}");
}

#[test]
fn sessions_count_among_the_guests_at_once() {
    let sandbox = Sandbox::new(SandboxConfig {
        guests: 1,
        ..SandboxConfig::default()
    })
    .unwrap();
    let program = load(&sandbox, "hostile-village");
    let open = || {
        sandbox.open_village(
            &program,
            &RunSpec::default(),
            CallLimits::default(),
            Beginning::Seed(0),
            &Cancel::new(),
        )
    };
    let first = open().unwrap();
    let failed = over(open().map(|_| ()));
    assert!(
        matches!(failed.error, RunError::Busy { running: 1 }),
        "{failed}"
    );
    first.close().unwrap();
    open().unwrap().close().unwrap();
}

#[test]
fn a_component_of_another_world_is_refused() {
    let sandbox = sandbox();
    let program = load(&sandbox, "npc-renderer");
    assert_eq!(program.world(), Some("npc-renderer"));
    let spec = RunSpec::default();
    let limits = CallLimits::default();
    let opened = sandbox.open_village(&program, &spec, limits, Beginning::Seed(0), &Cancel::new());
    let failed = over(opened.map(|_| ()));
    assert!(
        matches!(failed.error, RunError::WrongWorld { .. }),
        "{failed}"
    );
    let program = load(&sandbox, "village");
    assert_eq!(program.world(), Some("village"));
    let failed = over(
        sandbox
            .open_renderer(&program, &spec, limits, &Cancel::new())
            .map(|_| ()),
    );
    assert!(
        matches!(failed.error, RunError::WrongWorld { .. }),
        "{failed}"
    );
}

/// A scene in which this was said.
fn scene(words: &str) -> Scene {
    Scene {
        speaker: Speaker {
            name: "Odo".to_owned(),
            role: "miller".to_owned(),
            voice: "gruff".to_owned(),
            mood: Mood::Calm,
            regard: Regard::Stranger,
        },
        place: "mill".to_owned(),
        time: "morning".to_owned(),
        weather: "rain".to_owned(),
        present: Vec::new(),
        claims: Vec::new(),
        actions: Vec::new(),
        heard: Heard {
            words: words.to_owned(),
            intent: Intent::Chat,
            topics: Vec::new(),
        },
    }
}

const MANNER: Manner = Manner {
    constrained: true,
    adapters: false,
    temperature: 0.0,
    seed: 1,
};

fn renderer() -> Renderer {
    let sandbox = sandbox();
    let program = load(&sandbox, "hostile-renderer");
    let spec = RunSpec {
        limits: roomy(),
        ..RunSpec::default()
    };
    sandbox
        .open_renderer(&program, &spec, SHORT, &Cancel::new())
        .unwrap()
}

#[test]
fn a_hostile_renderer_is_held_to_its_contract() {
    let ends = |words: &str| over(renderer().render(vec![scene(words)], MANNER));
    assert_eq!(ends("loop").error.limit(), Some("call-cpu-time"));
    assert!(matches!(ends("trap").error, RunError::Trapped { .. }));
    let fewer = ends("fewer");
    assert!(
        matches!(&fewer.error, RunError::Contract(why) if why.contains("0 of 1")),
        "{fewer}"
    );
    let mut renderer = renderer();
    let no = renderer.render(vec![scene("refuse")], MANNER);
    assert!(matches!(no, Err(CallError::Refused(_))), "{no:?}");
    let replies = renderer
        .render(vec![scene("garbage"), scene("more")], MANNER)
        .unwrap();
    assert_eq!(replies.len(), 2);
    assert!(replies.iter().all(Result::is_ok));
    let report: RunReport = renderer.close().unwrap();
    assert_eq!(report.flops, 0);
}

#[test]
fn a_village_replays_in_the_sandbox_to_the_hash_that_it_has_natively() {
    // Both are the village's own test files: a log that was played natively, and where it leads.
    let tests = Built::root().join("guests/village/tests");
    let log = fs::read(tests.join("log-of-seed-7.bin")).unwrap();
    let hash = fs::read_to_string(tests.join("hash-of-seed-7.txt")).unwrap();
    let limits = CallLimits::default();
    let mut native = village("village", Beginning::Log(log.clone()), roomy(), limits).unwrap();
    assert_eq!(native.hash().unwrap(), hash.trim());
    assert_eq!(native.log().unwrap(), log);
    let state = native.state().unwrap();
    assert_eq!(blake3::hash(&state).to_hex().as_str(), hash.trim());
    assert_eq!(Facts::read(&state).unwrap().nonsense(), None);
    // It goes on from there, and the longer log leads to the same place again.
    native.act(Deed::Wait(30)).unwrap();
    let longer = native.log().unwrap();
    let mut again = village("village", Beginning::Log(longer), roomy(), limits).unwrap();
    assert_eq!(again.hash().unwrap(), native.hash().unwrap());
    assert_eq!(again.state().unwrap(), native.state().unwrap());
    // A log that says it leads elsewhere is refused.
    let mut other = log;
    let last = other.len() - 1;
    other[last] ^= 1;
    let refused = village("village", Beginning::Log(other), roomy(), limits).map(|_| ());
    assert!(matches!(refused, Err(CallError::Refused(_))), "{refused:?}");
}

/// Somebody who is where the visitor is, who walks until there is somebody.
fn somebody(village: &mut Village) -> String {
    for number in 0..100 {
        let view = village.look().unwrap();
        if let Some((name, _)) = view.people.first() {
            return name.clone();
        }
        let path = view.paths[number % view.paths.len()].clone();
        village.act(Deed::Go(path)).unwrap();
    }
    panic!("nobody is anywhere");
}

#[test]
fn a_village_reports_every_reply_that_it_refuses_however_long_it_is_played() {
    let limits = CallLimits::default();
    let mut village = village("village", Beginning::Seed(7), roomy(), limits).unwrap();
    let answer = |village: &mut Village, text: &str| {
        let person = somebody(village);
        village.talk(&person, "Hello").unwrap();
        let refused = village.commit(text, "a node").unwrap().refused;
        refused.map(|(_, why)| why)
    };
    assert_eq!(answer(&mut village, "Well, well. | nothing"), None);
    assert!(village.reports().unwrap().is_empty());
    // More than may wait at once. What is reported is the whole of an output, and not what is kept
    // of it in the log.
    for number in 0..70 {
        let text = format!("{number} {}", "is no reply ".repeat(100));
        let evidence = answer(&mut village, &text).unwrap();
        let output = Digest::of(text.as_bytes()).to_string();
        assert_eq!(village.reports().unwrap(), [Reported { output, evidence }]);
    }
    // A village that nobody listens to plays on.
    for _ in 0..70 {
        answer(&mut village, "This is no reply either").unwrap();
    }
    assert_eq!(village.reports().unwrap().len(), 64);
    // Whoever takes the game up hears of what happens from then on, and of nothing before.
    let log = village.log().unwrap();
    assert!(village.close().unwrap().reports.is_empty());
    let mut again = self::village("village", Beginning::Log(log), roomy(), limits).unwrap();
    assert_eq!(again.violations().unwrap().len(), 140);
    assert!(again.reports().unwrap().is_empty());
}
