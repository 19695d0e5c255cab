//! Texts with adapters of their own, in one batch and in a pool that cannot hold all of them.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod common;

use common::backend::start;
use common::{ADAPTERS, adapter, caller, model};
use skep_engine::{Engine, EngineError, Options, Priority, Request, ScoreRequest};
use skep_kernels::kv::KvFormat;

fn engine(pages: usize, adapter_bytes: u64) -> Engine {
    let options = Options {
        kv_format: KvFormat::F32,
        pages,
        batch_texts: 6,
        batch_tokens: 48,
        adapter_bytes,
        ..Options::default()
    };
    let engine = start(model(), options);
    for name in ADAPTERS {
        engine.add_adapter(name, "1", &adapter(name)).unwrap();
    }
    engine
}

fn request(number: u32, adapter: Option<&str>) -> Request {
    let prompt = (0..18 + number % 5).map(|n| 3 + (n * n + number) % 150);
    Request {
        adapter: adapter.map(str::to_owned),
        ..Request::greedy(prompt.collect(), 10)
    }
}

fn tokens(engine: &Engine, owner: u64, requests: Vec<Request>) -> Vec<Vec<u32>> {
    let caller = caller(owner, Priority::Normal);
    let answers = engine.generate(&caller, requests).wait();
    assert_eq!(caller.account.usage().device_bytes, 0);
    let answers = answers.into_iter().map(Result::unwrap);
    answers
        .map(|mut samples| samples.remove(0).tokens)
        .collect()
}

#[test]
fn each_text_of_a_batch_has_its_own_adapter() {
    let roomy = engine(512, 1 << 20);
    // Too small for all adapters and all texts, and no host memory for those outside.
    let tight = engine(40, 0);
    // As small, but what makes room goes to memory and comes back from there.
    let parking = engine(40, 1 << 20);
    let requests: Vec<Request> = (0..24_u32)
        .map(|n| {
            request(
                n % 3,
                [None, Some(ADAPTERS[n as usize % 4])][n as usize % 5 % 2],
            )
        })
        .collect();
    let alone: Vec<_> = requests
        .iter()
        .map(|request| tokens(&roomy, 1, vec![request.clone()]).remove(0))
        .collect();
    let differing = alone.iter().filter(|text| **text != alone[0]).count();
    assert!(differing > 12, "the adapters hardly change anything");
    assert_eq!(tokens(&roomy, 2, requests.clone()), alone);
    assert_eq!(tokens(&tight, 3, requests.clone()), alone);
    assert_eq!(tokens(&parking, 4, requests), alone);
    assert!(roomy.memory().adapters > 0);
    assert_eq!((roomy.memory().kv, tight.memory().kv), (0, 0));
}

#[test]
fn a_request_finishes_on_the_version_that_it_began_with() {
    let engine = engine(512, 1 << 20);
    let old = tokens(&engine, 1, vec![request(1, Some("plain"))]).remove(0);
    let new = tokens(&engine, 1, vec![request(1, Some("patterns"))]).remove(0);
    assert_ne!(old, new);
    let caller = caller(1, Priority::Normal);
    let begun = engine.generate(&caller, vec![request(1, Some("plain"))]);
    engine
        .add_adapter("plain", "2", &adapter("patterns"))
        .unwrap();
    assert_eq!(tokens(&engine, 1, vec![request(1, Some("plain"))])[0], new);
    assert_eq!(begun.wait()[0].as_ref().unwrap()[0].tokens, old);
    engine.remove_adapter("plain").unwrap();
    let refused = engine.generate(&caller, vec![request(1, Some("plain"))]);
    assert_eq!(
        refused.wait()[0],
        Err(EngineError::NoAdapter("plain".to_owned()))
    );
    assert_eq!(engine.adapters().len(), 3);
}

#[test]
fn judging_uses_the_adapter_too() {
    let engine = engine(512, 1 << 20);
    let caller = caller(1, Priority::Normal);
    let ask = |adapter: Option<&str>| ScoreRequest {
        prompt: vec![5, 6, 7],
        choices: vec![vec![9], vec![10, 11]],
        adapter: adapter.map(str::to_owned),
        whole: false,
    };
    let scores = engine
        .score(&caller, vec![ask(None), ask(Some("plain"))])
        .wait()
        .unwrap();
    assert_ne!(scores[0][0].logprob, scores[1][0].logprob);
}

#[test]
fn a_folder_that_is_no_adapter_is_refused() {
    let engine = engine(512, 1 << 20);
    let wrong = engine.add_adapter("wrong", "1", &adapter("../models/llama"));
    assert!(matches!(wrong, Err(EngineError::Adapter(_))), "{wrong:?}");
    assert_eq!(engine.adapters().len(), 4);
}
