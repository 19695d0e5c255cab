//! What a text's commitments show: that this model wrote it to this prompt, in whatever company,
//! and that nothing else did.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod common;
#[path = "commitments/rounded.rs"]
mod rounded;

use std::path::Path;
use std::sync::Arc;

use common::backend::{IS_DEVICE, processor, start};
use common::{adapter, caller, drafted, model, tiny};
use skep_engine::{
    CheckRequest, Checked, Completion, Constraint, Engine, EngineError, Finish, FollowRequest,
    Followed, LanguageModel, Options, Priority, Request, Sampling, ScoreRequest,
};
use skep_evidence::activations::{Thresholds, compare_all};
use skep_kernels::Isa;
use skep_kernels::kv::KvFormat;
use skep_text::TextTokenizer;
use skep_weights::Gguf;

/// As far as sums in another order move a logit of the tiny models, with room.
const TOLERANCE: f64 = 1e-3;

fn options(pages: usize, drafts: usize) -> Options {
    Options {
        kv_format: KvFormat::F32,
        pages,
        batch_texts: 6,
        batch_tokens: 48,
        drafts,
        // What is the same to the last bit is seen by whoever sees it.
        rounded_checks: false,
        ..Options::default()
    }
}

fn engine_of(model: Arc<LanguageModel>, pages: usize, drafts: usize) -> Engine {
    start(model, options(pages, drafts))
}

fn engine() -> Engine {
    engine_of(model(), 512, 0)
}

/// A request whose tokens are drawn with shared noise, from what several options leave.
fn request(number: u32) -> Request {
    let prompt = (0..30 + number % 7).map(|n| 3 + (n * n + number) % 150);
    Request {
        sampling: Sampling {
            temperature: [0.0, 0.8, 1.4][number as usize % 3],
            top_k: [0, 40][number as usize % 2],
            repetition_penalty: 1.1,
            seed: u64::from(number),
            shared_noise: true,
            ..Sampling::GREEDY
        },
        commit: true,
        ..Request::greedy(prompt.collect(), 20 + number as usize * 13 % 60)
    }
}

fn write(engine: &Engine, requests: &[Request]) -> Vec<Completion> {
    let caller = caller(1, Priority::Normal);
    let answers = engine.generate(&caller, requests.to_vec()).wait();
    assert_eq!(caller.account.usage().device_bytes, 0);
    let answers = answers.into_iter().map(Result::unwrap);
    answers.map(|mut samples| samples.remove(0)).collect()
}

fn claim(request: &Request, text: &Completion) -> CheckRequest {
    CheckRequest {
        request: request.clone(),
        sample: 0,
        tokens: text.tokens.clone(),
        commitments: text.commitments.clone(),
        tolerance: TOLERANCE,
    }
}

fn check(engine: &Engine, claims: Vec<CheckRequest>) -> Vec<Checked> {
    let caller = caller(2, Priority::Normal);
    let checked = engine.check(&caller, claims).wait().unwrap();
    assert_eq!(caller.account.usage().device_bytes, 0);
    checked
}

/// Whether a text is what should have come, bit for bit; on a device, as far as its own last bits
/// leave the same text in other batches.
fn is_exact(checked: &Checked) -> bool {
    if IS_DEVICE {
        return checked.is_honest(&Thresholds::default(), 20);
    }
    let chunk =
        |c: &skep_evidence::activations::Comparison| c.matches == c.compared && c.mantissa_sum == 0;
    checked.is_whole && checked.ties + checked.different == 0 && checked.chunks.iter().all(chunk)
}

/// Texts to the same requests are the same: bit for bit, or on a device as far as whoever checks
/// them can tell.
fn assert_same(here: &Engine, requests: &[Request], texts: &[Completion], expected: &[Completion]) {
    if IS_DEVICE {
        let claims = requests.iter().zip(texts).map(|(r, t)| claim(r, t));
        let checked = check(here, claims.collect());
        assert!(checked.iter().all(is_exact), "{checked:?}");
    } else {
        assert_eq!(texts, expected);
    }
}

#[test]
fn a_text_commits_to_the_same_in_any_company() {
    let requests: Vec<Request> = (0..18).map(request).collect();
    let roomy = engine();
    let alone: Vec<Completion> = requests
        .iter()
        .map(|request| write(&roomy, std::slice::from_ref(request)).remove(0))
        .collect();
    for (request, text) in requests.iter().zip(&alone) {
        assert_eq!(text.tokens.len(), request.max_tokens);
        let chunks = 1 + (text.tokens.len() - 1).div_ceil(32);
        assert_eq!(text.commitments.len(), chunks);
    }
    // The prefix cache has all of them by now, and must not be asked.
    assert_same(&roomy, &requests, &write(&roomy, &requests), &alone);
    // Texts lose their pages and begin anew.
    let tight = engine_of(model(), 24, 0);
    assert_same(&roomy, &requests, &write(&tight, &requests), &alone);
    // Tokens come several at a time, and some guesses are wrong.
    for guessing in [
        engine_of(model(), 512, 6),
        engine_of(drafted("llama"), 512, 0),
    ] {
        assert_same(&roomy, &requests, &write(&guessing, &requests), &alone);
    }
    let claims = requests.iter().zip(&alone).map(|(r, t)| claim(r, t));
    let claims: Vec<_> = claims.collect();
    for engine in [&roomy, &tight] {
        let checked = check(engine, claims.clone());
        assert_eq!(checked.len(), claims.len());
        assert!(checked.iter().all(is_exact), "{checked:?}");
    }
}

/// What a device writes passes on a processor.
#[test]
fn a_text_passes_with_whoever_else_has_the_model() {
    let requests: Vec<Request> = (0..12).map(request).collect();
    let texts = write(&engine(), &requests);
    let claims = requests.iter().zip(&texts).map(|(r, t)| claim(r, t));
    let elsewhere = processor(model(), options(512, 0));
    for checked in check(&elsewhere, claims.collect()) {
        assert!(checked.is_honest(&Thresholds::default(), 20), "{checked:?}");
        assert_eq!(checked.different, 0, "{checked:?}");
    }
}

/// Its meter is the same on every node, so that who meters more can be told from who was busy.
#[test]
fn a_text_that_commits_is_charged_for_once_whatever_becomes_of_it() {
    let requests: Vec<Request> = (0..18).map(request).collect();
    let judged: Vec<ScoreRequest> = (0..6)
        .map(|n| ScoreRequest {
            prompt: request(n).prompt,
            choices: vec![vec![5, 6, 7], vec![8], vec![9, 10]],
            adapter: None,
            whole: true,
        })
        .collect();
    let charged = |engine: &Engine| {
        let (write, score) = (caller(1, Priority::Normal), caller(2, Priority::Normal));
        let texts = engine.generate(&write, requests.clone());
        let scores = engine.score(&score, judged.clone());
        assert!(texts.wait().iter().all(Result::is_ok));
        scores.wait().unwrap();
        [write, score].map(|caller| caller.account.usage().flops)
    };
    let roomy = engine();
    let alone = charged(&roomy);
    assert!(alone.iter().all(|flops| *flops > 0));
    // Remembered by now, begun anew, and guessed ahead.
    assert_eq!(charged(&roomy), alone);
    assert_eq!(charged(&engine_of(model(), 24, 0)), alone);
    assert_eq!(charged(&engine_of(model(), 512, 6)), alone);
    assert_eq!(charged(&engine_of(drafted("llama"), 512, 0)), alone);
}

#[test]
fn samples_of_one_request_commit_each_for_itself() {
    let engine = engine();
    let request = Request {
        samples: 3,
        ..request(4)
    };
    let caller = caller(1, Priority::Normal);
    let answers = engine.generate(&caller, vec![request.clone()]).wait();
    let samples = answers.into_iter().next().unwrap().unwrap();
    assert_ne!(samples[0].tokens, samples[1].tokens);
    for (sample, text) in samples.iter().enumerate() {
        let mut claim = claim(&request, text);
        claim.sample = sample;
        assert!(is_exact(&check(&engine, vec![claim.clone()])[0]));
        claim.sample = (sample + 1) % 3;
        let checked = &check(&engine, vec![claim])[0];
        assert!(
            !checked.is_honest(&Thresholds::default(), 20),
            "{checked:?}"
        );
    }
}

/// Sums in another order, as another processor makes them, are forgiven: by a processor, and by a
/// device.
#[test]
fn other_instructions_get_texts_that_pass() {
    let requests: Vec<Request> = (0..12).map(request).collect();
    let here = engine();
    for isa in Isa::available() {
        let mut other = tiny("llama");
        let decoder = Arc::try_unwrap(other.decoder).expect("nobody else has it");
        other.decoder = Arc::new(decoder.with_isa(isa));
        let there = processor(Arc::new(other), options(512, 0));
        let texts = write(&there, &requests);
        let claims = requests.iter().zip(&texts).map(|(r, t)| claim(r, t));
        for checked in check(&here, claims.collect()) {
            assert!(
                checked.is_honest(&Thresholds::default(), 20),
                "{isa:?}: {checked:?}"
            );
        }
    }
}

fn follow(engine: &Engine, texts: Vec<FollowRequest>) -> (Vec<Result<Followed, EngineError>>, u64) {
    let caller = caller(3, Priority::Normal);
    let mut follows = std::pin::pin!(engine.follow(&caller, texts));
    let woken = Arc::new(Woken(std::thread::current()));
    let waker = std::task::Waker::from(woken);
    let mut context = std::task::Context::from_waker(&waker);
    let found = loop {
        match follows.as_mut().poll(&mut context) {
            std::task::Poll::Ready(found) => break found,
            std::task::Poll::Pending => std::thread::park(),
        }
    };
    assert_eq!(caller.account.usage().device_bytes, 0);
    (found, caller.account.usage().flops)
}

/// A thread that is woken when its future goes on.
struct Woken(std::thread::Thread);

impl std::task::Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

/// Whoever follows a text has the same answer, at the price of having written it, and sees
/// what its writer committed to without being told.
#[test]
fn who_follows_has_the_answer_and_the_meter_of_who_wrote() {
    let here = engine_of(Arc::new(common::mini_lm()), 512, 0);
    let model = common::mini_lm();
    let requests: Vec<Request> = (0..9)
        .map(|number| Request {
            prompt: model
                .encode_text(["Once upon", "The bees", "I was charged"][number % 3])
                .unwrap(),
            stop: vec!["\n".to_owned(), ".".to_owned()],
            constraint: (number % 4 == 3)
                .then(|| Constraint::Regex("(red|green)( (red|green)){5}".to_owned())),
            ..request(number as u32)
        })
        .collect();
    for isa in Isa::available() {
        let mut other = common::mini_lm();
        let decoder = Arc::try_unwrap(other.decoder).expect("nobody else has it");
        other.decoder = Arc::new(decoder.with_isa(isa));
        let there = processor(Arc::new(other), options(512, 0));
        let writer = caller(1, Priority::Normal);
        let texts = there.generate(&writer, requests.clone()).wait();
        let texts: Vec<Completion> = texts
            .into_iter()
            .map(|text| text.unwrap().remove(0))
            .collect();
        let asked = requests
            .iter()
            .zip(&texts)
            .map(|(request, text)| FollowRequest {
                request: request.clone(),
                sample: 0,
                tokens: text.tokens.clone(),
            });
        let (found, flops) = follow(&here, asked.collect());
        assert_eq!(flops, writer.account.usage().flops, "{isa:?}");
        for (found, text) in found.into_iter().zip(&texts) {
            let found = found.unwrap();
            let answer = Completion {
                commitments: Vec::new(),
                ..text.clone()
            };
            assert_eq!(found.completion, answer, "{isa:?}");
            assert!(found.is_whole, "{isa:?}");
            let compared = compare_all(&text.commitments, &found.peaks).unwrap();
            let near = |chunk: &skep_evidence::activations::Comparison| {
                chunk.is_within(&Thresholds::default())
            };
            assert!(compared.iter().all(near), "{isa:?}: {compared:?}");
        }
    }
    // One that cannot be followed does not take the others with it.
    let honest = FollowRequest {
        request: requests[0].clone(),
        sample: 0,
        tokens: vec![5, 6, 7],
    };
    let odd = FollowRequest {
        tokens: vec![u32::MAX],
        ..honest.clone()
    };
    let (found, _) = follow(&here, vec![honest, odd]);
    assert!(
        found[0]
            .as_ref()
            .is_ok_and(|found| !found.shortfalls.is_empty()),
        "{found:?}"
    );
    assert!(
        matches!(found[1], Err(EngineError::Invalid(_))),
        "{found:?}"
    );
}

#[test]
fn what_was_not_done_as_asked_does_not_pass() {
    let here = engine();
    here.add_adapter("plain", "1", &adapter("plain")).unwrap();
    let honest = Request {
        adapter: Some("plain".to_owned()),
        max_tokens: 60,
        ..request(1)
    };
    let text = write(&here, std::slice::from_ref(&honest)).remove(0);
    assert!(is_exact(&check(&here, vec![claim(&honest, &text)])[0]));
    let with = |change: &dyn Fn(&mut Request)| {
        let mut other = honest.clone();
        change(&mut other);
        let text = write(&here, &[other]).remove(0);
        claim(&honest, &text)
    };
    let other_model = engine_of(Arc::new(tiny("qwen2")), 512, 0);
    let mut elsewhere = Request {
        adapter: None,
        ..honest.clone()
    };
    elsewhere.prompt.iter_mut().for_each(|token| *token %= 90);
    let mut edited = claim(&honest, &text);
    edited.tokens[7] ^= 1;
    let mut short = claim(&honest, &text);
    short.tokens.truncate(33);
    short.commitments.truncate(2);
    let cheats = [
        ("drops the adapter", with(&|r| r.adapter = None)),
        (
            "leaves out the prompt's beginning",
            with(&|r| drop(r.prompt.drain(..15))),
        ),
        (
            "draws at another temperature",
            with(&|r| r.sampling.temperature = 2.0),
        ),
        ("draws with another seed", with(&|r| r.sampling.seed = 99)),
        (
            "takes the likeliest",
            with(&|r| r.sampling.temperature = 0.0),
        ),
        ("draws from fewer", with(&|r| r.sampling.top_k = 2)),
        (
            "has another model",
            claim(&honest, &write(&other_model, &[elsewhere])[0]),
        ),
        ("writes something else", edited),
        ("ends early", short),
    ];
    for (what, cheat) in cheats {
        let checked = &check(&here, vec![cheat])[0];
        assert!(
            !checked.is_honest(&Thresholds::default(), 20),
            "{what}: {checked:?}"
        );
    }
}

#[test]
fn what_cannot_be_checked_is_refused() {
    let here = engine();
    let honest = request(1);
    let text = write(&here, std::slice::from_ref(&honest)).remove(0);
    let refused = |change: &dyn Fn(&mut CheckRequest)| {
        let mut claim = claim(&honest, &text);
        change(&mut claim);
        let caller = caller(3, Priority::Normal);
        let checked = here.check(&caller, vec![claim]).wait();
        assert!(
            matches!(checked, Err(EngineError::Invalid(_))),
            "{checked:?}"
        );
        assert_eq!(caller.account.usage().device_bytes, 0);
    };
    refused(&|c| c.request.sampling.shared_noise = false);
    refused(&|c| c.tolerance = f64::NAN);
    refused(&|c| c.tolerance = -1.0);
    refused(&|c| c.sample = 1);
    refused(&|c| c.tokens.clear());
    refused(&|c| c.tokens[0] = u32::MAX);
    refused(&|c| c.commitments.truncate(1));
    refused(&|c| c.commitments.push(c.commitments[0]));
    refused(&|c| c.tokens = vec![5; 100_000]);
}

#[test]
fn a_grammar_is_followed_by_whoever_checks() {
    let here = engine_of(Arc::new(common::mini_lm()), 512, 0);
    let model = common::mini_lm();
    let request = Request {
        constraint: Some(Constraint::Regex(
            "(red|green|blue)( (red|green|blue)){6}".into(),
        )),
        max_tokens: 64,
        prompt: model.encode_text("The colours are").unwrap(),
        ..request(2)
    };
    let text = write(&here, std::slice::from_ref(&request)).remove(0);
    let honest = claim(&request, &text);
    assert!(is_exact(&check(&here, vec![honest.clone()])[0]));
    let mut free = request.clone();
    free.constraint = None;
    free.max_tokens = text.tokens.len();
    let other = claim(&request, &write(&here, &[free])[0]);
    let checked = &check(&here, vec![other])[0];
    assert!(
        checked.widest.is_infinite() && checked.different > 0,
        "{checked:?}"
    );
}

/// A model that has no token for a tilde but one that ends a message.
fn without_tilde() -> LanguageModel {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models/skep-mini-lm");
    let file = Gguf::open(&folder.join("skep-mini-lm.gguf")).unwrap();
    let mut description = file.tokenizer().unwrap().unwrap();
    let tilde = description.tokens.iter().position(|token| token == "~");
    description.special.eom = tilde.map(|token| token as u32);
    LanguageModel {
        tokenizer: Some(Arc::new(TextTokenizer::new(&description).unwrap())),
        ..common::mini_lm()
    }
}

/// Nobody can write such a text, and whoever shows one must not have all those fail who look at it.
#[test]
fn a_text_that_leads_its_constraint_to_a_dead_end_is_followed_up_to_there() {
    let model = Arc::new(without_tilde());
    let here = engine_of(Arc::clone(&model), 512, 0);
    let tokenizer = model.tokenizer().unwrap();
    let token = |letter: u8| {
        let mut all = 0..tokenizer.vocabulary() as u32;
        let is_letter = |token: &u32| tokenizer.bytes(*token) == Some([letter].as_slice());
        all.find(is_letter).unwrap()
    };
    let beginning_with = |letter: u8| Request {
        constraint: Some(Constraint::Regex("red|blue~".to_owned())),
        sampling: Sampling {
            logit_bias: vec![(token(letter), 1e6)],
            ..Sampling::GREEDY
        },
        ..Request::greedy(model.encode_text("The colours are").unwrap(), 20)
    };
    let (open, closed) = (beginning_with(b'r'), beginning_with(b'b'));
    let writer = caller(1, Priority::Normal);
    let written = here.generate(&writer, vec![open.clone(), closed.clone()]);
    let written = written.wait();
    let red = &written[0].as_ref().unwrap()[0];
    assert_eq!(red.text, "red");
    assert!(
        matches!(written[1], Err(EngineError::Grammar(_))),
        "{written:?}"
    );

    let claimed: Vec<u32> = b"bluebb".iter().map(|letter| token(*letter)).collect();
    let text_of = |request: &Request, tokens: &[u32]| FollowRequest {
        request: request.clone(),
        sample: 0,
        tokens: tokens.to_vec(),
    };
    let texts = vec![text_of(&closed, &claimed), text_of(&open, &red.tokens)];
    let (found, _) = follow(&here, texts);
    let forbidden = |found: &Followed| -> Vec<u32> {
        let endless = found.shortfalls.iter().filter(|it| it.gap.is_infinite());
        endless.map(|it| it.place).collect()
    };
    let stuck = found[0].as_ref().unwrap();
    assert_eq!(forbidden(stuck), [4, 5], "{stuck:?}");
    assert_eq!(stuck.completion.tokens, claimed[..4]);
    assert_eq!(stuck.completion.text, "blue");
    assert_eq!(stuck.completion.finish, Finish::End);
    // Beside it an honest one is what it was.
    let honest = found[1].as_ref().unwrap();
    assert!(honest.is_whole, "{honest:?}");
    assert_eq!(honest.completion.text, "red");
    assert!(forbidden(honest).is_empty(), "{honest:?}");
    // One that ends there is not whole: a constraint that is not kept ends no text.
    let (found, _) = follow(&here, vec![text_of(&closed, &claimed[..4])]);
    let short = found[0].as_ref().unwrap();
    assert!(!short.is_whole, "{short:?}");
    assert!(forbidden(short).is_empty(), "{short:?}");
}
