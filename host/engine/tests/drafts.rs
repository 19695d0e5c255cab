//! Draft models: whom they may guess for, how many tokens they save, and that nothing that is
//! written depends on them.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod common;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use common::backend::{processor, start};
use common::{Alone, adapter, caller, drafted, mini_lm, model, tiny};
use skep_engine::{
    Constraint, DraftError, Engine, LanguageModel, Options, Priority, Request, Sampler, Sampling,
    Scratch,
};
use skep_kernels::kv::KvFormat;
use skep_text::TextTokenizer;

fn options() -> Options {
    Options {
        kv_format: KvFormat::F32,
        pages: 512,
        batch_texts: 16,
        steady_drafts: true,
        model_drafts: 4,
        ..Options::default()
    }
}

fn engine(model: Arc<LanguageModel>, options: Options) -> Engine {
    start(model, options)
}

fn prompt(number: u32) -> Vec<u32> {
    (0..20 + number % 9)
        .map(|n| 3 + (n * n + number) % 150)
        .collect()
}

/// The answers to each request.
fn texts(engine: &Engine, requests: Vec<Request>) -> Vec<Vec<Vec<u32>>> {
    let caller = caller(1, Priority::Normal);
    let answers = engine.generate(&caller, requests).wait();
    let answers = answers.into_iter().map(Result::unwrap);
    answers
        .map(|samples| samples.into_iter().map(|sample| sample.tokens).collect())
        .collect()
}

#[test]
fn only_a_model_with_the_same_tokens_may_guess() {
    let refused = |target: LanguageModel, draft| target.with_draft(draft).err().unwrap();
    assert!(tiny("llama").with_draft(tiny("qwen3")).is_ok());
    let bare = || LanguageModel {
        tokenizer: None,
        ..mini_lm()
    };
    let error = refused(tiny("llama"), bare());
    assert!(
        matches!(
            error,
            DraftError::Vocabulary {
                has: 4096,
                wants: 160,
                ..
            }
        ),
        "{error}"
    );
    let error = refused(tiny("llama"), mini_lm());
    assert!(
        matches!(&error, DraftError::NoTokenizer { without, .. } if without == "llama"),
        "{error}"
    );
    let error = refused(mini_lm(), tiny("llama"));
    assert!(
        matches!(&error, DraftError::NoTokenizer { without, .. } if without == "llama"),
        "{error}"
    );
    let folder = "../text/tests/folders/smollm";
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(folder);
    let other = LanguageModel {
        name: "other".to_owned(),
        tokenizer: Some(Arc::new(TextTokenizer::from_folder(&folder).unwrap())),
        ..mini_lm()
    };
    let error = refused(mini_lm(), other);
    assert!(matches!(error, DraftError::Token { .. }), "{error}");
    assert!(error.to_string().contains("other"), "{error}");
    let nested = tiny("llama").with_draft(tiny("llama")).unwrap();
    let error = refused(tiny("llama"), nested);
    assert!(matches!(error, DraftError::Nested { .. }), "{error}");
    assert!(mini_lm().with_draft(mini_lm()).is_ok());
}

#[test]
fn right_guesses_save_passes_and_wrong_ones_change_nothing() {
    let requests: Vec<Request> = (0..6).map(|n| Request::greedy(prompt(n), 32)).collect();
    let plain = engine(model(), options());
    let expected = texts(&plain, requests.clone());
    let tally = plain.tally();
    assert_eq!((tally.written, tally.turns), (6 * 32, 6 * 32));
    let twin = engine(drafted("llama"), options());
    assert_eq!(texts(&twin, requests.clone()), expected);
    let tally = twin.tally();
    assert_eq!(tally.written, 6 * 32);
    assert_eq!(tally.model_guessed, tally.model_right);
    // Four guesses and one, but for the ends of pages, where there is no room to guess.
    assert!(tally.turns < 6 * 32 / 3, "{tally:?}");
    let stranger = engine(drafted("smollm"), options());
    assert_eq!(texts(&stranger, requests), expected);
    let tally = stranger.tally();
    assert!(tally.model_right < tally.model_guessed / 10, "{tally:?}");
}

#[test]
fn guesses_that_do_not_pay_are_not_made() {
    let requests: Vec<Request> = (0..4).map(|n| Request::greedy(prompt(n), 64)).collect();
    let adaptive = Options {
        steady_drafts: false,
        ..options()
    };
    // As costly as the model itself: though always right, it could not save anything.
    let twin = engine(drafted("llama"), adaptive);
    texts(&twin, requests);
    assert_eq!(twin.tally().model_guessed, 0);
}

/// The probabilities of what may be written in three tokens, by the definition.
fn exact(sampling: &Sampling, prompt: &[u32], name: Option<&str>) -> BTreeMap<Vec<u32>, f64> {
    let model = model();
    let vocabulary = model.decoder.config().vocabulary;
    let mut all = BTreeMap::from([(Vec::new(), 1.0)]);
    for _ in 0..3 {
        let mut longer = BTreeMap::new();
        for (text, probability) in all {
            let mut alone = Alone::new(&model, KvFormat::F32);
            if let Some(name) = name {
                alone = alone.with(name);
            }
            let mut sampler = Sampler::new(sampling, prompt, vocabulary).unwrap();
            text.iter().for_each(|token| sampler.accept(*token));
            let logits = alone.logits(0, &[prompt, &text].concat());
            let last = &logits[logits.len() - vocabulary..];
            let next = sampler.distribution(last, None, &mut Scratch::default());
            for (token, p) in next.unwrap().probabilities() {
                let mut text = text.clone();
                text.push(*token);
                longer.insert(text, probability * p);
            }
        }
        all = longer;
    }
    all
}

/// Of the last bits of chances: on the processor, whoever computes otherwise.
#[test]
fn texts_with_guesses_have_the_distribution_of_the_model() {
    let sampling = |seed| Sampling {
        temperature: 1.5,
        top_k: 3,
        repetition_penalty: 1.1,
        seed,
        ..Sampling::GREEDY
    };
    let prompt = prompt(1);
    // The model writes with an adapter, of which the draft model knows nothing: it is right some of
    // the time.
    let name = Some("stable");
    let expected = exact(&sampling(0), &prompt, name);
    assert_eq!(expected.len(), 27);
    let requests: Vec<Request> = (0..20)
        .map(|seed| Request {
            samples: 200,
            sampling: sampling(seed),
            adapter: name.map(str::to_owned),
            ..Request::greedy(prompt.clone(), 3)
        })
        .collect();
    let guessing = processor(drafted("llama"), options());
    guessing
        .add_adapter("stable", "1", &adapter("stable"))
        .unwrap();
    let written = texts(&guessing, requests.clone());
    let tally = guessing.tally();
    let right = tally.model_right as f64 / tally.model_guessed as f64;
    assert!((0.1..0.97).contains(&right), "{tally:?}");
    // Text by text the same as without.
    let plain = processor(model(), options());
    plain
        .add_adapter("stable", "1", &adapter("stable"))
        .unwrap();
    assert_eq!(written, texts(&plain, requests));
    let mut counts: BTreeMap<Vec<u32>, f64> = BTreeMap::new();
    let mut draws = 0.0;
    for text in written.into_iter().flatten() {
        *counts.entry(text).or_default() += 1.0;
        draws += 1.0;
    }
    let mut squares = 0.0;
    for (text, p) in &expected {
        let count = counts.remove(text).unwrap_or(0.0);
        squares += (count - p * draws).powi(2) / (p * draws);
    }
    assert!(counts.is_empty(), "written, but not possible: {counts:?}");
    // 26 degrees of freedom: chance passes this once in a thousand sets of seeds.
    assert!(squares < 54.1, "{squares}");
}

/// Chances too are the same bits: on the processor, whoever computes otherwise.
#[test]
fn guesses_keep_to_what_the_text_is_held_to() {
    let requests = |model: &LanguageModel| -> Vec<Request> {
        let schema = r#"{"type": "object", "properties": {"name": {"type": "string",
            "maxLength": 12}, "age": {"type": "integer", "minimum": 0, "maximum": 99}},
            "required": ["name", "age"], "additionalProperties": false}"#;
        let constraints = [
            None,
            Some(Constraint::JsonSchema(schema.to_owned())),
            Some(Constraint::Regex("[a-z]{3,9}( [a-z]{2,9}){4}".to_owned())),
            Some(Constraint::Choices(vec![
                "nothing at all".to_owned(),
                "a lantern".to_owned(),
            ])),
            Some(Constraint::Lark(
                "start: \"I have \" THING \".\"\nTHING: /the (net|axe|map|candle)/".to_owned(),
            )),
        ];
        let prompts = ["What does \"honey\" mean?", "Do you have work for me?"];
        let mut requests = Vec::new();
        for (seed, constraint) in constraints.into_iter().enumerate() {
            for prompt in prompts {
                for temperature in [0.0, 0.9] {
                    requests.push(Request {
                        constraint: constraint.clone(),
                        stop: vec!["\n".to_owned(), ". ".to_owned()],
                        logprobs: Some(2),
                        samples: 2,
                        sampling: Sampling {
                            temperature,
                            seed: seed as u64,
                            logit_bias: vec![(300, 2.0)],
                            ..Sampling::GREEDY
                        },
                        ..Request::greedy(model.encode_text(prompt).unwrap(), 40)
                    });
                }
            }
        }
        requests
    };
    let plain = Arc::new(mini_lm());
    let requests = requests(&plain);
    let guessing = Arc::new(mini_lm().with_draft(mini_lm()).unwrap());
    let caller = caller(1, Priority::Normal);
    let plain = processor(plain, options());
    let expected = plain.generate(&caller, requests.clone());
    let guessing = processor(guessing, options());
    assert_eq!(
        guessing.generate(&caller, requests).wait(),
        expected.wait(),
        "texts, logprobs and ends are the same"
    );
    let tally = guessing.tally();
    assert_eq!(tally.model_guessed, tally.model_right, "it knows as much");
    assert!(tally.turns * 2 < tally.written, "{tally:?}");
}

#[test]
fn both_models_are_paid_for() {
    let (alone, with) = (model(), drafted("qwen3"));
    let bytes = |model: &LanguageModel| skep_engine::page_bytes(model, KvFormat::F32);
    let draft = &with.draft.as_ref().unwrap().decoder;
    let own = draft.kv_shape(KvFormat::F32).page_bytes();
    assert_eq!(bytes(&with), bytes(&alone) + own);
    let engine = engine(with, options());
    let caller = caller(1, Priority::Normal);
    let mut generation = engine.generate(&caller, vec![Request::greedy(prompt(1), 300)]);
    generation.next().unwrap();
    let held = caller.account.usage().device_bytes;
    assert!(
        held > 0 && held.is_multiple_of(bytes(engine.model())),
        "{held}"
    );
    drop(generation);
    assert!(texts(&engine, vec![Request::greedy(prompt(2), 1)]).len() == 1);
    assert_eq!(caller.account.usage().device_bytes, 0);
}
