//! What commitments cost, and where the thresholds between honest and dishonest lie.
//!
//! * `commitments rates [threads [FORMATS]]`: a model of 0.3 billion random weights, in each of four
//!   formats or in those that are named (`mixed`, `bytes`, `halves`, `floats`), writes 256 tokens with and
//!   without commitments, in turn; then they are checked.
//! * `commitments calibrate MODEL.gguf TEXTS [--tokens LENGTHS] [--whole] [NAME=OTHER.gguf ...]`: so many
//!   honest texts in all, by every set of instructions that the machine has, on one thread and on two, alone
//!   and in batches (and, built with `--features cuda` or `wgsl`, by a graphics processor as well), checked by
//!   the best set of instructions on two threads, as audits check: with floats rounded where that is quicker,
//!   unless `--whole` says otherwise. Then texts by other models under the name of the first, and by itself
//!   with the prompt cut short or the sampling changed. Prompts are what the model says of its own accord. How
//!   many of the honest texts have more other tokens than the near limit of audits allows is printed besides,
//!   and at the end how chunks compare, by how many states are in them. Texts have 40 tokens each, or take
//!   turns with other lengths: `2-7,40` are seven.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

#[cfg(any(feature = "cuda", feature = "wgsl"))]
#[allow(dead_code, reason = "tests need more of it")]
#[path = "../tests/common/backend.rs"]
mod backend;
#[path = "commitments/chunks.rs"]
mod chunks;
#[path = "../../decoder/examples/random_model/mod.rs"]
mod random_model;

use std::hint::black_box;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use chunks::{Furthest, tokens_of};
use random_model::{Format, Shape, VOCABULARY, WIDTH, write_model};
use skep_accounts::{Account, Limits};
use skep_decoder::Decoder;
use skep_engine::{
    Caller, CheckRequest, Checked, Engine, Grammars, LanguageModel, Options, Priority, Request,
    Sampling,
};
use skep_evidence::activations::{Commitment, Committer, States, Thresholds};
use skep_evidence::following::{FAR, NEAR, TOLERANCE};
use skep_kernels::{Isa, Team};

/// Tokens of a text that is calibrated with, if nothing else is said.
const TOKENS: usize = 40;
/// Texts that are checked together, and written together where nothing else is said.
const TOGETHER: usize = 100;
/// How honest writers go about it: on so many threads, so many texts at once.
const MANNERS: [(usize, usize); 3] = [(1, 1), (2, 7), (1, TOGETHER)];
/// Rounds of which a rate is the median.
const ROUNDS: usize = 7;
/// Texts of each kind of cheat, at most.
const CHEATS: usize = 500;

fn main() {
    let mut arguments = std::env::args().skip(1);
    match arguments.next().as_deref() {
        Some("calibrate") => {
            let model = arguments.next().expect("a model");
            let texts = arguments.next().map_or(200, |n| n.parse().unwrap());
            let (mut tokens, mut others) = (vec![TOKENS], Vec::new());
            let mut rounded = true;
            while let Some(argument) = arguments.next() {
                if argument == "--whole" {
                    rounded = false;
                    continue;
                }
                if argument == "--tokens" {
                    tokens = lengths(&arguments.next().expect("lengths of texts"));
                    continue;
                }
                let (name, path) = argument.split_once('=').expect("NAME=OTHER.gguf");
                others.push((name.to_owned(), path.to_owned()));
            }
            calibrate((Path::new(&model), rounded), texts, &tokens, &others);
        }
        _ => {
            let threads = arguments.next().map_or(2, |n| n.parse().unwrap());
            rates(threads, &arguments.collect::<Vec<_>>());
        }
    }
}

/// Lengths of texts, in tokens: `40`, `2-7`, or some of these with commas between.
fn lengths(said: &str) -> Vec<usize> {
    let number = |text: &str| -> usize { text.parse().expect("a number of tokens") };
    let parts = said.split(',').flat_map(|part| {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        number(first)..=number(last)
    });
    let lengths: Vec<usize> = parts.collect();
    assert!(!lengths.is_empty(), "{said} are no lengths");
    assert!(!lengths.contains(&0), "a text has at least one token");
    lengths
}

fn model_of(path: &Path, isa: Isa) -> Arc<LanguageModel> {
    Arc::new(LanguageModel {
        name: "model".to_owned(),
        decoder: Arc::new(Decoder::load(path).unwrap().with_isa(isa)),
        tokenizer: None,
        template: None,
        weights_bytes: std::fs::metadata(path).unwrap().len(),
        grammars: Grammars::default(),
        draft: None,
    })
}

fn engine(model: Arc<LanguageModel>, threads: usize) -> Engine {
    checking_engine(model, threads, true)
}

/// An engine that rounds floats in what it checks, or does not.
fn checking_engine(model: Arc<LanguageModel>, threads: usize, rounded_checks: bool) -> Engine {
    let team = Arc::new(Team::new(threads).unwrap());
    let options = Options {
        rounded_checks,
        ..options()
    };
    Engine::start(model, team, options).unwrap()
}

fn options() -> Options {
    Options {
        // Who commits computes the prompt anew, so that both sides have to.
        prefix_cache: false,
        ..Options::default()
    }
}

/// Engines that write honestly, with what they are.
fn writers(path: &Path) -> Vec<Writer<'_>> {
    let mut writers: Vec<Writer<'_>> = Vec::new();
    for isa in Isa::available() {
        for (threads, together) in MANNERS {
            let name = format!("{isa:?}, threads: {threads}");
            let start = move || engine(model_of(path, isa), threads);
            writers.push((name, together, Box::new(start)));
        }
    }
    #[cfg(any(feature = "cuda", feature = "wgsl"))]
    for (_, together) in MANNERS {
        let start = move || backend::start(model_of(path, Isa::best()), options());
        writers.push(("a graphics processor".to_owned(), together, Box::new(start)));
    }
    writers
}

fn caller() -> Caller {
    Caller {
        account: Account::new(Limits::UNLIMITED),
        owner: 1,
        priority: Priority::Normal,
    }
}

fn claim(request: &Request, (tokens, commitments): (Vec<u32>, Vec<Commitment>)) -> CheckRequest {
    CheckRequest {
        request: request.clone(),
        sample: 0,
        tokens,
        commitments,
        tolerance: f64::from(TOLERANCE),
    }
}

fn write(engine: &Engine, requests: &[Request]) -> Vec<(Vec<u32>, Vec<Commitment>)> {
    let answers = engine.generate(&caller(), requests.to_vec()).wait();
    let texts = answers.into_iter().map(|answer| answer.unwrap().remove(0));
    texts.map(|text| (text.tokens, text.commitments)).collect()
}

fn rates(threads: usize, named: &[String]) {
    println!("{threads} threads, 256 tokens after a prompt of 64, medians of {ROUNDS}");
    let formats = [Format::Mixed, Format::Bytes, Format::Halves, Format::Floats];
    for format in formats {
        let name = format!("{format:?}").to_lowercase();
        if named.is_empty() || named.contains(&name) {
            rates_of(format, threads);
        }
    }
}

fn rates_of(format: Format, threads: usize) {
    let scratch = tempfile::tempdir().unwrap();
    let path = scratch.path().join("model.gguf");
    let shape = Shape {
        format,
        ..Shape::default()
    };
    write_model(&path, &shape);
    let engine = engine(model_of(&path, Isa::best()), threads);
    let plain = Request {
        sampling: Sampling {
            temperature: 0.8,
            shared_noise: true,
            ..Sampling::GREEDY
        },
        ..Request::greedy(
            (0..64)
                .map(|n| 3 + n * n % (VOCABULARY as u32 - 3))
                .collect(),
            256,
        )
    };
    let committing = Request {
        commit: true,
        ..plain.clone()
    };
    let seconds_of = |request: &Request| {
        let begin = Instant::now();
        write(&engine, std::slice::from_ref(request));
        begin.elapsed().as_secs_f64()
    };
    seconds_of(&committing);
    // One without, two with, one without: whatever else the machine does meets both, and what it
    // does more and more of meets both alike.
    let (mut written, mut ratios) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        let [first, second, third, last] =
            [&plain, &committing, &committing, &plain].map(seconds_of);
        written.push((first + last) / 2.0);
        ratios.push((second + third) / (first + last));
    }
    let mut commits: Vec<f64> = (0..ROUNDS).map(|_| committing_alone(WIDTH)).collect();
    let text = write(&engine, std::slice::from_ref(&committing)).remove(0);
    let (mut checks, mut furthest) = (Vec::new(), Furthest::default());
    for _ in 0..ROUNDS {
        let begin = Instant::now();
        let claim = claim(&committing, text.clone());
        let checked = engine
            .check(&caller(), vec![claim])
            .wait()
            .unwrap()
            .remove(0);
        assert!(checked.is_honest(&Thresholds::default(), FAR.one_in));
        checks.push(begin.elapsed().as_secs_f64());
        furthest = Furthest::of(&checked.chunks);
    }
    for all in [&mut written, &mut ratios, &mut commits, &mut checks] {
        all.sort_by(f64::total_cmp);
    }
    let (written_in, checked_in) = (written[ROUNDS / 2], checks[ROUNDS / 2]);
    println!("weights as {format:?}");
    println!(
        "written alone:           {:7.1} tokens/s",
        256.0 / written_in
    );
    println!(
        "with commitments:        {:+7.2} % (rounds from {:+.2} to {:+.2} %)",
        100.0 * (ratios[ROUNDS / 2] - 1.0),
        100.0 * (ratios[0] - 1.0),
        100.0 * (ratios[ROUNDS - 1] - 1.0),
    );
    let commits_in = commits[ROUNDS / 2];
    println!(
        "committing by itself:    {:7.2} ms, {:.3} % of writing",
        commits_in * 1e3,
        100.0 * commits_in / written_in
    );
    println!(
        "checked in one pass:     {:7.1} ms, {:.1} times as fast as written",
        checked_in * 1e3,
        written_in / checked_in
    );
    println!(
        "furthest of its states:  {:7.1} % match, {:.2} in the mean, {:.1} in the median",
        100.0 * furthest.matches,
        furthest.mean,
        furthest.median
    );
}

/// Seconds that it takes to commit to the states of a prompt of 64 tokens and 255 after it, as
/// random as those of a random model. By the clock of whole texts so little cannot be told from
/// what the machine does besides.
fn committing_alone(width: usize) -> f64 {
    let mut number = 1_u64;
    let mut state = || -> Vec<f32> {
        let random = |_| {
            number ^= number << 13;
            number ^= number >> 7;
            number ^= number << 17;
            number as f32 / u64::MAX as f32 - 0.5
        };
        (0..width).map(random).collect()
    };
    let prompt: Vec<f32> = (0..64).flat_map(|_| state()).collect();
    let tokens: Vec<Vec<f32>> = (1..256).map(|_| state()).collect();
    let begin = Instant::now();
    let mut committer = Committer::new(width);
    committer.push_prompt(States::F32(&prompt)).unwrap();
    committer.end_prompt().unwrap();
    for state in &tokens {
        committer.push_token(States::F32(state)).unwrap();
    }
    black_box(committer.finish().unwrap());
    begin.elapsed().as_secs_f64()
}

/// What checks of many texts have shown.
#[derive(Default)]
struct Seen {
    all: Vec<Checked>,
    tokens: [usize; 3],
    furthest: Furthest,
    widest: f64,
}

impl Seen {
    fn new(all: Vec<Checked>) -> Self {
        let mut seen = Self {
            furthest: Furthest::of(all.iter().flat_map(|checked| &checked.chunks)),
            ..Self::default()
        };
        for checked in &all {
            let tokens = [checked.same, checked.ties, checked.different];
            for (sum, one) in seen.tokens.iter_mut().zip(tokens) {
                *sum += one;
            }
            if checked.widest.is_finite() {
                seen.widest = seen.widest.max(checked.widest);
            }
        }
        seen.all = all;
        seen
    }

    fn refused(&self, thresholds: &Thresholds) -> usize {
        let honest = |checked: &&Checked| checked.is_honest(thresholds, FAR.one_in);
        self.all.len() - self.all.iter().filter(honest).count()
    }

    /// Texts of which more tokens are others than audits agree to, in a run of which each is all: one may be in any.
    fn beyond_near(&self) -> usize {
        let is_near = |checked: &&Checked| NEAR.forgive(checked.different, tokens_of(checked));
        self.all.len() - self.all.iter().filter(is_near).count()
    }

    fn print(&self, what: &str, thresholds: &[Thresholds; 2]) {
        let [same, ties, different] = self.tokens;
        let [published, own] = thresholds.map(|thresholds| self.refused(&thresholds));
        let beyond = self.beyond_near();
        println!(
            "| {what} | {published} | {own} | {beyond} | {} | {:.1} % | {:.2} | {:.1} | {same} / {ties} / {different} | {:.3} |",
            self.all.len(),
            100.0 * self.furthest.matches,
            self.furthest.mean,
            self.furthest.median,
            self.widest,
        );
    }
}

/// What writes, how many texts at once, and how it is started.
type Writer<'a> = (String, usize, Box<dyn Fn() -> Engine + 'a>);

/// What a cheat does to a request.
type Change<'a> = &'a dyn Fn(&mut Request);

/// `rounded` says how `here` checks.
fn calibrate(
    (path, rounded): (&Path, bool),
    texts: usize,
    tokens: &[usize],
    others: &[(String, String)],
) {
    let here = checking_engine(model_of(path, Isa::best()), 2, rounded);
    let requests = requests(&here, texts, tokens);
    let run = |there: &Engine, requests: &[Request], together: usize, change: Change<'_>| {
        let mut all = Vec::with_capacity(requests.len());
        for requests in requests.chunks(TOGETHER) {
            let mut changed = requests.to_vec();
            changed.iter_mut().for_each(change);
            let texts = changed.chunks(together).flat_map(|some| write(there, some));
            let claims = requests.iter().zip(texts).map(|(r, text)| claim(r, text));
            all.extend(here.check(&caller(), claims.collect()).wait().unwrap());
        }
        Seen::new(all)
    };
    let writers = writers(path);
    // Whoever writes has texts of its own, so that as many are different as are checked.
    let mut shares = requests.chunks(texts.div_ceil(writers.len()));
    let mut honest = Vec::new();
    for (what, together, start) in writers {
        let name = format!("the model, with {what}, texts at once: {together}");
        let share = shares.next().unwrap_or_default();
        let begin = Instant::now();
        let seen = run(&start(), share, together, &|_| {});
        let seconds = begin.elapsed().as_secs_f64();
        eprintln!("{name}: {} texts in {seconds:.0} s", share.len());
        honest.push((name, seen));
    }
    // Twice as far from the model's own as honest texts were at the most.
    let all_honest: Vec<&Checked> = honest.iter().flat_map(|(_, seen)| &seen.all).collect();
    let furthest = Furthest::of(all_honest.iter().flat_map(|checked| &checked.chunks));
    let thresholds = [Thresholds::default(), furthest.twice()];
    println!("published thresholds: {:?}", thresholds[0]);
    println!("thresholds from these honest texts: {:?}", thresholds[1]);
    println!(
        "| who wrote | refused by the published | by these | more other tokens than is near | of | \
         fewest matches | largest mean | largest median | tokens same / tied / other | widest gap |"
    );
    println!("|---|---|---|---|---|---|---|---|---|---|");
    for (name, seen) in &honest {
        seen.print(name, &thresholds);
    }
    let beyond: usize = honest.iter().map(|(_, seen)| seen.beyond_near()).sum();
    let all = all_honest.len();
    println!("honest texts with more other tokens than is near: {beyond} of {all}");
    let cheated = &requests[..CHEATS.min(requests.len())];
    let mut dishonest = Vec::new();
    for (name, other) in others {
        let there = engine(model_of(Path::new(other), Isa::best()), 2);
        let seen = run(&there, cheated, TOGETHER, &|_| {});
        seen.print(name, &thresholds);
        dishonest.push((name.as_str(), seen));
    }
    let cheats: [(&str, Change<'_>); 5] = [
        ("the model, without the first quarter of the prompt", &|r| {
            drop(r.prompt.drain(1..r.prompt.len() / 4 + 1));
        }),
        ("the model, always the likeliest token", &|r| {
            r.sampling.temperature = 0.0;
        }),
        ("the model, at temperature 1.2 instead of 0.8", &|r| {
            r.sampling.temperature = 1.2;
        }),
        ("the model, with another seed", &|r| r.sampling.seed ^= 1),
        ("the model, from the five likeliest alone", &|r| {
            r.sampling.top_k = 5;
        }),
    ];
    for (what, change) in cheats {
        let seen = run(&here, cheated, TOGETHER, change);
        seen.print(what, &thresholds);
        dishonest.push((what, seen));
    }
    chunks::print_head();
    chunks::print("all honest texts", &all_honest);
    for (what, seen) in &dishonest {
        chunks::print(what, &seen.all.iter().collect::<Vec<_>>());
    }
}

/// Requests to go on with what the model has begun, for texts of these lengths in turn.
fn requests(engine: &Engine, count: usize, lengths: &[usize]) -> Vec<Request> {
    let drawn = |prompt: Vec<u32>, tokens: usize, seed: usize, commit: bool| Request {
        sampling: Sampling {
            temperature: 0.8,
            seed: seed as u64,
            shared_noise: true,
            ..Sampling::GREEDY
        },
        commit,
        ..Request::greedy(prompt, tokens)
    };
    let mut requests = Vec::with_capacity(count);
    while requests.len() < count {
        let begin = requests.len();
        let end = count.min(begin + TOGETHER);
        // From a token of its own each, so that all are different.
        let begun: Vec<Request> = (begin..end)
            .map(|n| drawn(vec![1, 10 + (n * 37 % 1000) as u32], 20 + n % 60, n, false))
            .collect();
        for (n, (request, (tokens, _))) in (begin..).zip(begun.iter().zip(write(engine, &begun))) {
            let prompt = [&request.prompt[..], &tokens].concat();
            requests.push(drawn(prompt, lengths[n % lengths.len()], n, true));
        }
    }
    requests
}
