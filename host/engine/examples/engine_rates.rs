//! The rates of the engine, which are not those of the bare decoder: requests go in, texts come
//! out. `engine_rates [streams|adapters|ngrams|model] [threads]` prints tokens a second of a model
//! of 0.3 billion random weights in Q4_K and Q6_K.
//!
//! * `streams`: 1 and 8 texts at a time, beside the bare decoder's loop over the same batch.
//! * `adapters`: 8 texts at a time, each with the next of 0, 1, 64 and 1,000 adapters of rank 16,
//!   which move between disk, host memory and the pool as a node's defaults have it.
//! * `ngrams`: texts that repeat themselves, with drafts of what they said before and without.
//! * `model`: the same with a draft model: the first two layers of the model. What the other
//!   layers say is turned down, so that the two agree often (as two trained models of a family do),
//!   or always.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

#[path = "../../decoder/examples/random_model/mod.rs"]
mod random_model;

use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use random_model::{Shape, VOCABULARY, write_adapter, write_model};
use skep_accounts::{Account, Limits};
use skep_decoder::{AdapterTarget, Batch, Decoder, Part, Workspace};
use skep_engine::{Caller, Engine, Grammars, LanguageModel, Options, Priority, Request};
use skep_kernels::Team;
use skep_kernels::kv::{KvFormat, KvPages, PAGE_TOKENS};

/// Tokens of a prompt.
const PROMPT: usize = 16;

fn main() {
    let mut arguments = std::env::args().skip(1);
    let what = arguments.next().unwrap_or_else(|| "streams".to_owned());
    let threads = arguments.next().map_or(2, |n| n.parse().unwrap());
    let scratch = tempfile::tempdir().unwrap();
    let team = Arc::new(Team::new(threads).unwrap());
    match what.as_str() {
        "streams" => streams(scratch.path(), &team),
        "adapters" => adapters(scratch.path(), &team),
        "ngrams" => ngrams(scratch.path(), &team),
        _ => model(scratch.path(), &team),
    }
}

fn load(scratch: &Path, name: &str, shape: &Shape) -> LanguageModel {
    let path = scratch.join(name);
    write_model(&path, shape);
    LanguageModel {
        name: name.to_owned(),
        decoder: Decoder::load(&path).unwrap(),
        tokenizer: None,
        template: None,
        weights_bytes: std::fs::metadata(&path).unwrap().len(),
        grammars: Grammars::default(),
        draft: None,
    }
}

fn caller() -> Caller {
    Caller {
        account: Account::new(Limits::UNLIMITED),
        owner: 1,
        priority: Priority::Normal,
    }
}

fn prompt(number: usize) -> Vec<u32> {
    let token = |n: usize| ((n * n * 31 + number * 7919 + 11) % VOCABULARY) as u32;
    (0..PROMPT).map(token).collect()
}

fn request(number: usize, tokens: usize) -> Request {
    Request::greedy(prompt(number), tokens)
}

/// Writes texts, and says how many tokens a second there were, prompts' time included.
fn write(engine: &Engine, requests: Vec<Request>) -> f64 {
    let began = Instant::now();
    let answers = engine.generate(&caller(), requests).wait();
    let tokens: usize = answers
        .iter()
        .map(|a| a.as_ref().unwrap()[0].tokens.len())
        .sum();
    tokens as f64 / began.elapsed().as_secs_f64()
}

fn middle(mut rates: Vec<f64>) -> f64 {
    rates.sort_by(f64::total_cmp);
    rates[rates.len() / 2]
}

/// The same batch without an engine: prompts at once, then a token of each text at a time.
fn bare(decoder: &Decoder, team: &Team, texts: usize, tokens: usize) -> f64 {
    let each = (PROMPT + tokens).div_ceil(PAGE_TOKENS);
    let mut pages = KvPages::new(decoder.kv_shape(KvFormat::F16), texts * each);
    let tables: Vec<Vec<u32>> = (0..texts)
        .map(|text| ((text * each) as u32..((text + 1) * each) as u32).collect())
        .collect();
    let mut workspace = Workspace::default();
    let mut next: Vec<Vec<u32>> = (0..texts).map(prompt).collect();
    let mut start = 0;
    let began = Instant::now();
    for _ in 0..tokens {
        let batch: Vec<u32> = next.iter().flatten().copied().collect();
        let count = next[0].len();
        let parts: Vec<Part<'_>> = tables
            .iter()
            .map(|pages| Part {
                tokens: count,
                start,
                pages,
                adapter: None,
            })
            .collect();
        let outputs: Vec<usize> = (0..texts).map(|text| (text + 1) * count - 1).collect();
        let batch = Batch {
            tokens: &batch,
            parts: &parts,
            outputs: &outputs,
        };
        let logits = decoder
            .forward(team, &mut workspace, &mut pages, &batch)
            .unwrap();
        next = logits
            .chunks(VOCABULARY)
            .map(|row| {
                let most = row.iter().copied().fold(f32::MIN, f32::max);
                vec![row.iter().position(|x| *x == most).unwrap() as u32]
            })
            .collect();
        start += count;
    }
    (texts * tokens) as f64 / began.elapsed().as_secs_f64()
}

fn streams(scratch: &Path, team: &Arc<Team>) {
    let model = Arc::new(load(scratch, "model.gguf", &Shape::default()));
    let options = Options {
        prefix_cache: false,
        ..Options::default()
    };
    let engine = Engine::start(Arc::clone(&model), Arc::clone(team), options).unwrap();
    for (texts, tokens) in [(1, 96), (8, 64)] {
        let mut rates = (Vec::new(), Vec::new());
        for _ in 0..5 {
            let requests = (0..texts).map(|n| request(n, tokens)).collect();
            rates.0.push(write(&engine, requests));
            rates.1.push(bare(&model.decoder, team, texts, tokens));
        }
        let (own, bare) = (middle(rates.0), middle(rates.1));
        println!(
            "{texts} at a time: {own:6.1} tokens/s; the bare decoder {bare:6.1}; {:5.1} % of it",
            100.0 * own / bare
        );
    }
}

fn adapters(scratch: &Path, team: &Arc<Team>) {
    const TEXTS: usize = 8;
    const TOKENS: usize = 32;
    let model = Arc::new(load(scratch, "model.gguf", &Shape::default()));
    let folder = scratch.join("adapter");
    std::fs::create_dir(&folder).unwrap();
    write_adapter(&folder, &AdapterTarget::ALL[..4]);
    let engine = |count: usize| {
        let options = Options {
            batch_texts: TEXTS,
            prefix_cache: false,
            ..Options::default()
        };
        let engine = Engine::start(Arc::clone(&model), Arc::clone(team), options).unwrap();
        for number in 0..count {
            engine
                .add_adapter(&number.to_string(), "1", &folder)
                .unwrap();
        }
        engine
    };
    let counts = [0, 1, 64, 1000];
    let engines: Vec<Engine> = counts.iter().map(|count| engine(*count)).collect();
    let mut rates = vec![Vec::new(); counts.len()];
    let mut next = [0; 4];
    // The first round only brings things where they belong.
    for round in 0..5 {
        for (place, count) in counts.iter().enumerate() {
            let requests = (0..4 * TEXTS).map(|n| {
                let mut request = request(n, TOKENS);
                request.adapter = (*count > 0).then(|| (next[place] % count).to_string());
                next[place] += 1;
                request
            });
            let rate = write(&engines[place], requests.collect());
            if round > 0 {
                rates[place].push(rate);
            }
        }
    }
    let base = middle(rates[0].clone());
    for (count, rates) in counts.iter().zip(rates) {
        let rate = middle(rates);
        println!(
            "{count:>5} adapters: {rate:6.1} tokens/s, {:5.1} % of the base",
            100.0 * rate / base
        );
    }
}

fn compare(plain: &Engine, guessing: &Engine, name: &str) {
    for (texts, tokens) in [(1, 192), (8, 96)] {
        let mut rates = (Vec::new(), Vec::new());
        let before = guessing.tally();
        for round in 0..3 {
            let requests: Vec<Request> = (0..texts)
                .map(|n| request(round * texts + n, tokens))
                .collect();
            rates.0.push(write(plain, requests.clone()));
            rates.1.push(write(guessing, requests));
        }
        let tally = guessing.tally();
        let (guessed, right) = (
            tally.ngram_guessed + tally.model_guessed - before.ngram_guessed - before.model_guessed,
            tally.ngram_right + tally.model_right - before.ngram_right - before.model_right,
        );
        let (plain, with) = (middle(rates.0), middle(rates.1));
        println!(
            "{name}, {texts} at a time: {with:6.1} tokens/s, without {plain:6.1}: {:.2} times; \
             {:.2} tokens a turn, {:.0} % of {guessed} guesses right",
            with / plain,
            (tally.written - before.written) as f64 / (tally.turns - before.turns) as f64,
            100.0 * right as f64 / guessed.max(1) as f64,
        );
    }
}

fn ngrams(scratch: &Path, team: &Arc<Team>) {
    let model = Arc::new(load(scratch, "model.gguf", &Shape::default()));
    let engine = |drafts| {
        let options = Options {
            prefix_cache: false,
            drafts,
            ..Options::default()
        };
        Engine::start(Arc::clone(&model), Arc::clone(team), options).unwrap()
    };
    compare(&engine(0), &engine(8), "n-grams");
}

fn model(scratch: &Path, team: &Arc<Team>) {
    for (quiet, name) in [(-24, "always agreeing"), (-3, "agreeing often")] {
        let shape = Shape {
            loud: 2,
            quiet,
            ..Shape::default()
        };
        let target = || load(scratch, "target.gguf", &shape);
        let first = Shape {
            layers: 2,
            ..Shape::default()
        };
        let drafted = target()
            .with_draft(load(scratch, "draft.gguf", &first))
            .unwrap();
        let engine = |model: LanguageModel| {
            let options = Options {
                prefix_cache: false,
                ..Options::default()
            };
            Engine::start(Arc::new(model), Arc::clone(team), options).unwrap()
        };
        compare(&engine(target()), &engine(drafted), name);
    }
}
