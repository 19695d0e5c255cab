//! The engine as its callers see it: from several threads at once, as a whole and piece by piece,
//! given up half-way.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod common;

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};
use std::thread::Thread;
use std::time::Instant;

use common::backend::{IS_DEVICE, start};
use common::{Alone, caller, model};
use skep_accounts::{Account, Limits};
use skep_engine::{
    Caller, Engine, EngineError, Finish, Options, Priority, Request, Sampling, ScoreRequest,
};
use skep_kernels::kv::KvFormat;

fn options() -> Options {
    Options {
        kv_format: KvFormat::F32,
        pages: 256,
        batch_texts: 8,
        batch_tokens: 64,
        ..Options::default()
    }
}

fn engine(options: Options) -> Engine {
    start(model(), options)
}

fn prompt(number: u32) -> Vec<u32> {
    (0..20 + number % 7)
        .map(|n| 3 + (n * n + number) % 150)
        .collect()
}

/// A request whose tokens are drawn.
fn drawn(number: u32, seed: u64) -> Request {
    let mut request = Request::greedy(prompt(number), 12);
    request.sampling = Sampling {
        temperature: 1.3,
        top_p: 0.95,
        repetition_penalty: 1.1,
        seed,
        ..Sampling::GREEDY
    };
    request
}

struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

/// Runs a future on this thread.
fn block_on<T>(future: impl Future<Output = T>) -> T {
    let mut future = pin!(future);
    let waker = Waker::from(Arc::new(Unpark(std::thread::current())));
    loop {
        match future.as_mut().poll(&mut Context::from_waker(&waker)) {
            Poll::Ready(result) => return result,
            Poll::Pending => std::thread::park(),
        }
    }
}

#[test]
fn many_threads_get_what_each_would_get_alone() {
    let engine = engine(options());
    let alone = model();
    std::thread::scope(|scope| {
        for owner in 0..4_u32 {
            let (engine, alone) = (engine.clone(), &alone);
            scope.spawn(move || {
                let caller = caller(u64::from(owner), Priority::Normal);
                let prompts: Vec<_> = (0..6).map(|n| prompt(owner * 10 + n)).collect();
                let requests = prompts.iter().map(|p| Request::greedy(p.clone(), 9));
                let answers = engine.generate(&caller, requests.collect()).wait();
                for (prompt, answer) in prompts.iter().zip(answers) {
                    let [answer] = answer.unwrap().try_into().unwrap();
                    let expected = Alone::new(alone, KvFormat::F32).write(prompt, 9);
                    assert_eq!(answer.tokens, expected);
                    assert_eq!(
                        (answer.finish, answer.prompt_tokens),
                        (Finish::Length, prompt.len())
                    );
                }
                assert_eq!(caller.account.usage().device_bytes, 0);
            });
        }
    });
    assert_eq!(engine.memory().kv, 0);
}

#[test]
fn a_seed_gives_the_same_text_whatever_else_is_in_the_batch() {
    let caller = caller(1, Priority::Normal);
    let alone = engine(options());
    let text = |engine: &Engine, requests: Vec<Request>| {
        let answers = engine.generate(&caller, requests).wait();
        let first = answers.into_iter().next().unwrap().unwrap();
        first.into_iter().map(|c| c.tokens).collect::<Vec<_>>()
    };
    let mut request = drawn(1, 7);
    request.samples = 3;
    let expected = text(&alone, vec![request.clone()]);
    assert_ne!(expected[0], expected[1]);
    assert_ne!(expected[0], text(&alone, vec![drawn(1, 8)])[0]);
    let crowd = (2..12).map(|n| drawn(n, 3));
    let requests = std::iter::once(request.clone()).chain(crowd).collect();
    let tight = engine(Options {
        pages: 12,
        prefix_cache: false,
        ..options()
    });
    assert_eq!(text(&tight, requests), expected);
    // Nor do guesses change it.
    let guessing = engine(Options {
        drafts: 4,
        ..options()
    });
    assert_eq!(text(&guessing, vec![request]), expected);
}

#[test]
fn pieces_make_the_whole() {
    let engine = engine(options());
    let caller = caller(1, Priority::Interactive);
    let mut request = drawn(5, 1);
    request.logprobs = Some(2);
    request.samples = 2;
    let whole = engine.generate(&caller, vec![request.clone()]).wait();
    let whole = whole.into_iter().next().unwrap().unwrap();
    let mut pieces = engine.generate(&caller, vec![request.clone()]);
    let mut tokens = [Vec::new(), Vec::new()];
    let mut finishes = [None, None];
    while let Some(chunks) = pieces.next().unwrap() {
        for chunk in chunks {
            assert_eq!(chunk.logprobs.len(), chunk.tokens.len());
            tokens[chunk.sample].extend(chunk.tokens);
            assert_eq!(finishes[chunk.sample], None, "told something after the end");
            finishes[chunk.sample] = chunk.finish;
        }
    }
    assert_eq!(pieces.next(), Ok(None));
    for (sample, completion) in whole.iter().enumerate() {
        assert_eq!(tokens[sample], completion.tokens);
        assert_eq!(finishes[sample], Some(completion.finish));
        for logprob in &completion.logprobs {
            assert!(logprob.logprob <= 0.0 && logprob.likeliest.len() == 2);
            assert!(logprob.likeliest[0].1 >= logprob.logprob);
        }
    }
    let mut polled = engine.generate(&caller, vec![request]);
    let again = block_on(std::future::poll_fn(|context| polled.poll_all(context)));
    assert_eq!(again[0].as_ref().unwrap()[1].tokens, whole[1].tokens);
}

#[test]
fn judging_and_embedding_agree_with_the_model() {
    let engine = engine(options());
    let alone_model = model();
    let mut alone = Alone::new(&alone_model, KvFormat::F32);
    let caller = caller(1, Priority::Normal);
    let choices = vec![vec![9], vec![20, 21, 22], prompt(3)];
    let request = ScoreRequest {
        prompt: prompt(1),
        choices: choices.clone(),
        adapter: None,
        whole: false,
    };
    let scores = block_on(engine.score(&caller, vec![request])).unwrap();
    for (score, choice) in scores[0].iter().zip(&choices) {
        let expected = alone.judge(&prompt(1), choice);
        assert!((f64::from(score.logprob) - expected).abs() < 1e-3);
        assert_eq!(score.tokens, choice.len());
    }
    let texts = vec![prompt(1), prompt(2)];
    let rows = engine.embed(&caller, texts.clone()).wait().unwrap();
    let again = block_on(engine.embed(&caller, texts.clone())).unwrap();
    assert_eq!(rows.len(), again.len());
    for (a, b) in rows.iter().zip(again) {
        assert!((a - b).abs() <= if IS_DEVICE { 1e-5 } else { 0.0 });
    }
    for (row, text) in rows.chunks(rows.len() / 2).zip(&texts) {
        let mean = alone.embed(text);
        let length = mean.iter().map(|x| x * x).sum::<f32>().sqrt();
        for (a, b) in row.iter().zip(mean) {
            assert!((a - b / length).abs() < 1e-5);
        }
    }
}

#[test]
fn what_is_given_up_is_not_gone_on_with() {
    let engine = engine(options());
    let caller = caller(1, Priority::Normal);
    let long = || Request::greedy(prompt(1), 400);
    let mut given_up = engine.generate(&caller, vec![long(), long(), long()]);
    given_up.next().unwrap().unwrap();
    drop(given_up);
    // What comes after is told once the engine has come to it, which is after the cancellation.
    let after = engine.generate(&caller, vec![Request::greedy(prompt(2), 1)]);
    assert!(after.wait()[0].is_ok());
    assert_eq!(engine.memory().kv, 0);
    assert_eq!(caller.account.usage().device_bytes, 0);
}

#[test]
fn one_request_that_fails_leaves_the_others() {
    let engine = engine(options());
    let caller = caller(1, Priority::Normal);
    let requests = vec![
        Request::greedy(vec![], 4),
        Request::greedy(prompt(1), 4),
        Request {
            stop: vec!["x".to_owned()],
            ..Request::greedy(prompt(1), 4)
        },
    ];
    let answers = engine.generate(&caller, requests.clone()).wait();
    assert!(matches!(answers[0], Err(EngineError::Invalid(_))));
    assert_eq!(answers[1].as_ref().unwrap()[0].tokens.len(), 4);
    assert!(matches!(answers[2], Err(EngineError::Invalid(_))));
    let mut pieces = engine.generate(&caller, requests);
    let (mut chunks, mut failures) = (0, 0);
    loop {
        match pieces.next() {
            Ok(Some(some)) => chunks += some.iter().map(|c| c.tokens.len()).sum::<usize>(),
            Ok(None) => break,
            Err(_) => failures += 1,
        }
    }
    assert_eq!((chunks, failures), (4, 2));
}

#[test]
fn a_run_that_is_over_is_answered_nothing() {
    let engine = engine(options());
    let account = Account::new(Limits::UNLIMITED);
    let caller = Caller {
        account: account.clone(),
        owner: 1,
        priority: Priority::Normal,
    };
    let mut generation = engine.generate(&caller, vec![Request::greedy(prompt(1), 400)]);
    generation.next().unwrap();
    account.cancel();
    let answers = generation.wait();
    assert!(matches!(answers[0], Err(EngineError::Quota(_))));
    assert_eq!(account.usage().device_bytes, 0);
}

#[test]
fn an_engine_that_ends_leaves_nobody_waiting() {
    let engine = engine(options());
    let caller = caller(1, Priority::Normal);
    let generation = engine.generate(&caller, vec![Request::greedy(prompt(1), 400)]);
    drop(engine);
    let answers = generation.wait();
    assert!(matches!(answers[0], Err(EngineError::Cancelled)));
}

#[test]
fn it_says_who_computes_and_what_that_takes() {
    let engine = engine(options());
    let memory = engine.memory();
    if IS_DEVICE {
        let pool = skep_engine::page_bytes(engine.model(), KvFormat::F32) * 256;
        assert_eq!(engine.device(), "device");
        assert!(memory.device > pool, "{memory:?}");
    } else {
        assert_eq!((engine.device(), memory.device), ("processor", 0));
    }
}

#[test]
fn of_an_owner_who_has_gone_no_prompt_is_remembered_and_of_others_all() {
    let engine = engine(options());
    let long: Vec<u32> = (0..70).map(|n| 3 + n % 150).collect();
    let remembered = |owner| {
        let caller = caller(owner, Priority::Normal);
        let request = Request::greedy(long.clone(), 2);
        let answers = engine.generate(&caller, vec![request]).wait();
        let answer = answers.into_iter().next().unwrap().unwrap();
        // The work of each position is charged once, and so is the token.
        let tokens = caller.account.usage().tokens;
        assert_eq!(tokens, (long.len() + 1 - answer[0].cached_tokens) as u64);
        answer[0].cached_tokens
    };
    assert_eq!([remembered(1), remembered(2)], [0, 0]);
    let known = remembered(1);
    assert!(known >= 48, "{known}");
    engine.forget(1);
    assert_eq!([remembered(1), remembered(2)], [0, known]);
}

#[test]
fn the_background_keeps_to_its_part_of_the_time() {
    let late = caller(1, Priority::Background);
    let seconds = |percent| {
        let engine = engine(Options {
            background_percent: percent,
            ..options()
        });
        let begin = Instant::now();
        let answers = engine.generate(&late, vec![Request::greedy(prompt(1), 40)]);
        let answers = answers.wait();
        let text = answers.into_iter().next().unwrap().unwrap().remove(0);
        let seconds = begin.elapsed().as_secs_f64();
        // What the last batch took need not be counted yet.
        let time = engine.background_time();
        assert!(!time.computed.is_zero(), "{time:?}");
        assert_eq!(time.rested.is_zero(), percent == 100, "{time:?}");
        (seconds, text.tokens)
    };
    let all = [(); 3].map(|()| seconds(100));
    let (least, text) = all.into_iter().min_by(|a, b| a.0.total_cmp(&b.0)).unwrap();
    // Twenty times as long. Whatever else the machine does makes it longer, not shorter.
    let (spread, same) = seconds(5);
    assert!(spread > 5.0 * least, "{spread} s and {least} s");
    assert_eq!(same, text);
    // Nobody else rests, and beside others it has no more than its part either: a token of it in a batch
    // is followed by about fifty batches without it.
    let engine = engine(Options {
        background_percent: 1,
        ..options()
    });
    let long = engine.generate(&late, vec![Request::greedy(prompt(2), 60)]);
    let soon = caller(2, Priority::Normal);
    let before = late.account.usage().tokens;
    let answers = engine.generate(&soon, vec![Request::greedy(prompt(3), 30)]);
    assert!(answers.wait().into_iter().all(|answer| answer.is_ok()));
    let meanwhile = late.account.usage().tokens - before;
    assert!(
        meanwhile < prompt(2).len() as u64 + 15,
        "{meanwhile} of 30 batches"
    );
    drop(long);
}
