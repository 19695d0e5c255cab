//! Whatever a guest asks of a language model, it is told what was wrong with it, and when it has
//! gone nothing of its texts is left.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod common;
#[path = "text/repeated.rs"]
mod repeated;
#[path = "common/scribe.rs"]
mod scribe;

use std::sync::atomic::Ordering;
use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant};

use common::{load, run, spec, tight};
use scribe::{CONTEXT, OneScribe, PAGE, Pace, Scribe};
use skep_registry::{Grants, Limits};
use skep_sandbox::{Cancel, FailedRun, Quota, RunError, RunReport, RunSpec, Sandbox};

static SANDBOX: LazyLock<Sandbox> = LazyLock::new(common::sandbox);

fn with(scribe: &Arc<Scribe>, limits: Limits) -> RunSpec {
    RunSpec {
        models: Some(Arc::new(OneScribe(Arc::clone(scribe)))),
        ..spec(limits)
    }
}

/// Enough for calls with thousands of requests.
fn roomy() -> Limits {
    Limits {
        call_bytes: Some(8 << 20),
        time: Some(Duration::from_secs(60)),
        ..tight()
    }
}

/// One request as it lies in a guest's memory, with texts behind all of them.
#[derive(Clone)]
struct Asked {
    prompt: Vec<u8>,
    prompt_tokens: Option<Vec<u32>>,
    max_tokens: u32,
    /// temperature, top-k, top-p, min-p and the three penalties.
    sampling: Option<(f32, u32, f32, f32, [f32; 3])>,
    stop: Option<String>,
    constraint: Option<(u8, String)>,
    samples: u32,
    logprobs: Option<u32>,
    adapter: Option<String>,
}

impl Default for Asked {
    fn default() -> Self {
        Asked {
            prompt: b"Once upon a time".to_vec(),
            prompt_tokens: None,
            max_tokens: 5,
            sampling: None,
            stop: None,
            constraint: None,
            samples: 1,
            logprobs: None,
            adapter: None,
        }
    }
}

/// The input of the guest `text_requests`.
fn input(requests: &[Asked]) -> Vec<u8> {
    const AT: usize = 65552;
    const SIZE: usize = 128;
    let (mut records, mut texts) = (Vec::new(), Vec::new());
    let behind = AT + requests.len() * SIZE;
    let mut place = |bytes: &[u8]| {
        while texts.len() % 8 != 0 {
            texts.push(0);
        }
        let at = (behind + texts.len()) as u32;
        texts.extend_from_slice(bytes);
        [at.to_le_bytes(), (bytes.len() as u32).to_le_bytes()].concat()
    };
    for asked in requests {
        let mut record = vec![0_u8; SIZE];
        let mut put = |at: usize, bytes: &[u8]| record[at..at + bytes.len()].copy_from_slice(bytes);
        match &asked.prompt_tokens {
            None => put(4, &place(&asked.prompt)),
            Some(tokens) => {
                let bytes: Vec<u8> = tokens
                    .iter()
                    .flat_map(|token| token.to_le_bytes())
                    .collect();
                let mut list = place(&bytes);
                list[4..].copy_from_slice(&(tokens.len() as u32).to_le_bytes());
                put(0, &[2]);
                put(4, &list);
            }
        }
        put(12, &asked.max_tokens.to_le_bytes());
        if let Some((temperature, top_k, top_p, min_p, penalties)) = asked.sampling {
            put(16, &[1]);
            put(24, &temperature.to_le_bytes());
            put(28, &top_k.to_le_bytes());
            put(32, &top_p.to_le_bytes());
            put(36, &min_p.to_le_bytes());
            for (nth, penalty) in penalties.iter().enumerate() {
                put(40 + 4 * nth, &penalty.to_le_bytes());
            }
        }
        if let Some(stop) = &asked.stop {
            let stop = place(stop.as_bytes());
            let list = place(&stop);
            put(80, &list[..4]);
            put(84, &1_u32.to_le_bytes());
        }
        if let Some((case, text)) = &asked.constraint {
            put(88, &[1]);
            put(92, &[*case]);
            put(96, &place(text.as_bytes()));
        }
        put(104, &asked.samples.to_le_bytes());
        if let Some(rivals) = asked.logprobs {
            put(108, &[1]);
            put(112, &rivals.to_le_bytes());
        }
        if let Some(adapter) = &asked.adapter {
            put(116, &[1]);
            put(120, &place(adapter.as_bytes()));
        }
        records.extend(record);
    }
    let length = 16 + records.len() + texts.len();
    let mut input = [requests.len() as u32, length as u32, 0, 0]
        .map(u32::to_le_bytes)
        .concat();
    input.extend(records);
    input.extend(texts);
    input
}

fn ask(scribe: &Arc<Scribe>, requests: &[Asked], limits: Limits) -> Result<RunReport, FailedRun> {
    ask_by(scribe, requests, &with(scribe, limits))
}

fn ask_by(
    scribe: &Arc<Scribe>,
    requests: &[Asked],
    spec: &RunSpec,
) -> Result<RunReport, FailedRun> {
    sent_by("text_requests", scribe, requests, spec)
}

fn sent_by(
    guest: &str,
    scribe: &Arc<Scribe>,
    requests: &[Asked],
    spec: &RunSpec,
) -> Result<RunReport, FailedRun> {
    let program = load(&SANDBOX, guest);
    let ended = SANDBOX.run_task(
        &program,
        spec,
        &[],
        input(requests).as_slice(),
        std::io::sink(),
        &Cancel::new(),
    );
    assert_eq!(
        scribe.open.load(Ordering::SeqCst),
        0,
        "nothing is left open"
    );
    ended
}

/// What a guest is told of one request among good ones.
fn told(change: impl FnOnce(&mut Asked)) -> String {
    let scribe = Scribe::new(Pace::AtOnce);
    let mut odd = Asked::default();
    change(&mut odd);
    let failed = ask(&scribe, &[Asked::default(), odd, Asked::default()], roomy()).unwrap_err();
    assert_eq!(
        scribe.asked.lock().unwrap().len(),
        2,
        "the others are written to"
    );
    failed.to_string()
}

#[test]
fn a_good_request_is_answered_and_accounted_for() {
    let scribe = Scribe::new(Pace::AtOnce);
    let asked = Asked {
        samples: 3,
        adapter: Some("village".to_owned()),
        ..Asked::default()
    };
    let report = ask(&scribe, &[asked], roomy()).unwrap();
    assert_eq!(report.kv_bytes_peak, 3 * PAGE);
    assert_eq!(report.device_bytes_peak, 3 * PAGE);
    assert_eq!((report.weights_bytes, report.adapter_bytes), (7, 11));
    let asked = scribe.asked.lock().unwrap();
    assert_eq!(asked[0].prompt.len(), "Once upon a time".len());
    assert_eq!(asked[0].adapter.as_deref(), Some("village, first version"));
}

#[test]
fn when_a_run_is_over_models_are_told_to_forget_it_however_it_ended() {
    for pace in [Pace::AtOnce, Pace::Broken] {
        let scribe = Scribe::new(pace);
        let runs = [(); 2].map(|()| ask(&scribe, &[Asked::default()], roomy()).is_ok());
        assert_eq!(runs, [pace == Pace::AtOnce; 2]);
        let owners = scribe.owners.lock().unwrap().clone();
        assert_eq!(*scribe.forgotten.lock().unwrap(), owners);
        assert_ne!(owners[0], owners[1]);
    }
}

#[test]
fn an_engine_that_is_full_is_said_to_be_busy() {
    let scribe = Scribe::new(Pace::Full);
    let failed = ask(&scribe, &[Asked::default()], roomy()).unwrap_err();
    assert!(failed.to_string().contains("the node was busy"), "{failed}");
}

#[test]
fn more_tokens_than_fit_are_as_many_as_fit() {
    let scribe = Scribe::new(Pace::AtOnce);
    let asked = Asked {
        max_tokens: u32::MAX,
        ..Asked::default()
    };
    ask(&scribe, &[asked], roomy()).unwrap();
    assert_eq!(scribe.asked.lock().unwrap()[0].max_tokens, CONTEXT as usize);
}

/// What makes a request one that cannot be answered.
type Spoil = Box<dyn FnOnce(&mut Asked)>;

#[test]
fn every_oddity_of_a_request_is_an_error_in_its_place() {
    let plain = (1.0, 0, 1.0, 0.0, [1.0, 0.0, 0.0]);
    let cases: Vec<(&str, Spoil)> = vec![
        ("the prompt is empty", Box::new(|a| a.prompt.clear())),
        (
            "the prompt has 1000 tokens",
            Box::new(|a| a.prompt = vec![b'x'; 1000]),
        ),
        (
            "256 is no token",
            Box::new(|a| a.prompt_tokens = Some(vec![1, 256])),
        ),
        ("max-tokens is 0", Box::new(|a| a.max_tokens = 0)),
        ("samples is 0", Box::new(|a| a.samples = 0)),
        (
            "a stop is empty",
            Box::new(|a| a.stop = Some(String::new())),
        ),
        (
            "bytes in a stop",
            Box::new(|a| a.stop = Some("x".repeat(2000))),
        ),
        (
            "rivals of each token",
            Box::new(|a| a.logprobs = Some(u32::MAX)),
        ),
        (
            "temperature is NaN",
            Box::new(move |a| a.sampling = Some((f32::NAN, plain.1, plain.2, plain.3, plain.4))),
        ),
        (
            "temperature is inf",
            Box::new(move |a| {
                a.sampling = Some((f32::INFINITY, plain.1, plain.2, plain.3, plain.4));
            }),
        ),
        (
            "top-p is -1",
            Box::new(move |a| a.sampling = Some((plain.0, plain.1, -1.0, plain.3, plain.4))),
        ),
        (
            "repetition-penalty is 0",
            Box::new(move |a| {
                a.sampling = Some((plain.0, plain.1, plain.2, plain.3, [0.0, 0.0, 0.0]));
            }),
        ),
        (
            "grant it in skep.toml: grants.adapters: \"secret\"",
            Box::new(|a| a.adapter = Some("secret".to_owned())),
        ),
    ];
    for (expected, change) in cases {
        let text = told(change);
        assert!(
            text.contains(expected),
            "{text:?} does not say {expected:?}"
        );
    }
}

#[test]
fn an_absurd_top_k_keeps_all() {
    let scribe = Scribe::new(Pace::AtOnce);
    let asked = Asked {
        sampling: Some((1.0, u32::MAX, 1.0, 0.0, [1.0, 0.0, 0.0])),
        ..Asked::default()
    };
    ask(&scribe, &[asked], roomy()).unwrap();
    assert_eq!(
        scribe.asked.lock().unwrap()[0].sampling.top_k,
        u32::MAX as usize
    );
}

#[test]
fn a_call_with_too_many_requests_or_texts_is_refused_as_a_whole() {
    let scribe = Scribe::new(Pace::AtOnce);
    let many = vec![Asked::default(); 4097];
    let failed = ask(&scribe, &many, roomy()).unwrap_err();
    assert!(
        failed.to_string().contains("4097 requests in one call"),
        "{failed}"
    );
    let samples = Asked {
        samples: u32::MAX,
        ..Asked::default()
    };
    let failed = ask(&scribe, &[samples], roomy()).unwrap_err();
    assert!(failed.to_string().contains("texts in one call"), "{failed}");
    assert!(scribe.asked.lock().unwrap().is_empty());
}

#[test]
fn texts_that_may_come_to_more_than_a_call_carries_are_refused_before_they_are_written() {
    let scribe = Scribe::new(Pace::AtOnce);
    let long = Asked {
        max_tokens: 1000,
        samples: 33,
        ..Asked::default()
    };
    let limits = Limits {
        call_bytes: Some(256 << 10),
        ..roomy()
    };
    let failed = ask(&scribe, std::slice::from_ref(&long), limits.clone()).unwrap_err();
    assert!(
        matches!(&failed.error, RunError::Quota(e)
            if e.quota == Quota::CallBytes && e.limit == 256 << 10 && e.asked == 33_000 * 8),
        "{failed}"
    );
    assert!(scribe.asked.lock().unwrap().is_empty());
    let fits = Asked {
        samples: 32,
        ..long
    };
    // It fits the promise, and its keys and values fit too.
    ask(&scribe, &[fits], limits).unwrap();
}

#[test]
fn keys_and_values_count_towards_device_memory() {
    let scribe = Scribe::new(Pace::AtOnce);
    let limits = Limits {
        device_memory: Some(2 * PAGE),
        ..roomy()
    };
    let three = Asked {
        samples: 3,
        ..Asked::default()
    };
    let failed = ask(&scribe, &[three], limits).unwrap_err();
    assert_eq!(failed.error.limit(), Some("device-memory"), "{failed}");
    assert_eq!(failed.report.device_bytes_peak, 0);
}

#[test]
fn a_text_that_is_never_complete_ends_with_the_run() {
    let scribe = Scribe::new(Pace::Never);
    let began = Instant::now();
    let limits = Limits {
        time: Some(Duration::from_millis(300)),
        ..tight()
    };
    let failed = ask(&scribe, &[Asked::default()], limits).unwrap_err();
    assert!(
        matches!(failed.error, RunError::WallTime { .. }),
        "{failed}"
    );
    assert!(failed.report.cpu_ms < 200, "waiting is not computing");
    assert!(began.elapsed() < Duration::from_secs(20));
}

#[test]
fn a_guest_that_waits_for_a_text_keeps_no_model_thread() {
    let scribe = Scribe::new(Pace::Never);
    let waiting = 2 * std::thread::available_parallelism().map_or(2, usize::from);
    let program = load(&SANDBOX, "text_requests");
    let spec = with(&scribe, roomy());
    let cancel = Cancel::new();
    let input = input(&[Asked::default()]);
    std::thread::scope(|scope| {
        for _ in 0..waiting {
            scope.spawn(|| {
                SANDBOX.run_task(
                    &program,
                    &spec,
                    &[],
                    input.as_slice(),
                    std::io::sink(),
                    &cancel,
                )
            });
        }
        while scribe.open.load(Ordering::SeqCst) < waiting {
            std::thread::yield_now();
        }
        // Every one waits, none computes, and an encoder has its threads.
        while SANDBOX.guests_computing().any() {
            std::thread::yield_now();
        }
        let embeds = load(&SANDBOX, "honest/embed");
        run(&SANDBOX, &embeds, &common::spec(roomy())).unwrap();
        cancel.cancel();
    });
    assert_eq!(scribe.open.load(Ordering::SeqCst), 0);
    assert!(!SANDBOX.guests_computing().any());
}

#[test]
fn whoever_begins_texts_without_end_runs_out_of_handles() {
    let scribe = Scribe::new(Pace::Never);
    let limits = Limits {
        handles: Some(100),
        ..roomy()
    };
    let program = load(&SANDBOX, "text_bomb");
    let failed = run(&SANDBOX, &program, &with(&scribe, limits)).unwrap_err();
    assert!(
        matches!(&failed.error, RunError::Quota(e) if e.quota == Quota::Handles && e.limit == 100),
        "{failed}"
    );
    // The model has one of the hundred.
    assert_eq!(failed.report.kv_bytes_peak, 100 * PAGE);
    assert_eq!(scribe.open.load(Ordering::SeqCst), 0);
}

#[test]
fn whoever_takes_nothing_of_its_texts_runs_out_of_what_they_may_bring() {
    let scribe = Scribe::new(Pace::Never);
    let limits = Limits {
        call_bytes: Some(64 << 10),
        device_memory: Some(1 << 30),
        ..roomy()
    };
    let program = load(&SANDBOX, "text_bomb");
    let failed = run(&SANDBOX, &program, &with(&scribe, limits)).unwrap_err();
    assert_eq!(failed.error.limit(), Some("call-bytes"), "{failed}");
    assert_eq!(failed.report.kv_bytes_peak, (64 << 10) / 80 * PAGE);
    assert_eq!(scribe.open.load(Ordering::SeqCst), 0);
}

#[test]
fn texts_that_are_dropped_in_the_middle_leave_nothing() {
    let scribe = Scribe::new(Pace::AtOnce);
    let limits = Limits {
        handles: Some(2),
        device_memory: Some(PAGE),
        ..roomy()
    };
    let program = load(&SANDBOX, "text_leaver");
    let report = run(&SANDBOX, &program, &with(&scribe, limits)).unwrap();
    assert_eq!(report.kv_bytes_peak, PAGE);
    assert_eq!(scribe.open.load(Ordering::SeqCst), 0);
}

#[test]
fn whoever_opens_streams_of_texts_without_end_runs_out_of_handles() {
    let scribe = Scribe::new(Pace::Never);
    let limits = Limits {
        handles: Some(100),
        ..roomy()
    };
    let program = load(&SANDBOX, "text_stream_bomb");
    let failed = run(&SANDBOX, &program, &with(&scribe, limits)).unwrap_err();
    assert!(
        matches!(&failed.error, RunError::Quota(e) if e.quota == Quota::Handles && e.limit == 100),
        "{failed}"
    );
    // What was on its way to the model when the run ended has been dropped by the time that the
    // threads for models are through with it.
    while scribe.open.load(Ordering::SeqCst) > 0 {
        std::thread::yield_now();
    }
}

#[test]
fn models_and_adapters_take_a_grant() {
    let scribe = Scribe::new(Pace::AtOnce);
    let bare = |grants| RunSpec {
        grants,
        ..with(&scribe, roomy())
    };
    let program = load(&SANDBOX, "text_bomb");
    let failed = run(&SANDBOX, &program, &bare(Grants::default())).unwrap_err();
    let RunError::Refused(refusal) = &failed.error else {
        panic!("{failed}");
    };
    assert_eq!(refusal.ungranted[0].import, "skep:model/text@0.1.0");
    let thief = load(&SANDBOX, "adapter_thief");
    let failed = run(&SANDBOX, &thief, &bare(Grants::default())).unwrap_err();
    assert!(matches!(failed.error, RunError::Refused(_)), "{failed}");
    let failed = run(&SANDBOX, &thief, &with(&scribe, roomy())).unwrap_err();
    assert!(
        failed.to_string().contains("grants.adapters: \"secret\""),
        "{failed}"
    );
}
