//! What it costs a guest to write a text with a language model, beside the same call to the engine
//! without a node, a sandbox or a guest.
//!
//! ```text
//! generate_tax --skep FILE --component FILE [--model FILE] [--tokens N] [--rounds N] [--pairs N]
//! ```
//!
//! The guest is the component `generate`, run by a node as a process of its own that has loaded
//! the model already. Its time is the whole run's as `skep run --json` reports it: instantiating,
//! reading the prompt, opening the model, writing, printing. Both sides take turns, and must write
//! the same text. Without `--model` it is one of random numbers, some 70 MB large.
//!
//! Each pair of an engine and a node is started anew: where the system lays a process's memory makes
//! it some hundredths faster or slower for as long as it lives, whichever side it is on, so that one
//! pair says little however often it is asked. What is told in the end is the middle of all pairs.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod options;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use options::{number, options};
use skep_accounts::{Account, Limits};
use skep_engine::{Caller, Completion, Engine, Finish, LanguageModel, Options, Priority, Request};
use skep_kernels::Team;
use skep_tests::Node;
use skep_tests::random::{self, Shape};
use skep_text::ChatMessage;

const RANDOM: Shape = Shape {
    layers: 16,
    width: 640,
    hidden: 1728,
    heads: 10,
    kv_heads: 2,
    vocabulary: 512,
    context: 512,
};

fn main() {
    let [skep, component, model, tokens, rounds, pairs] = options([
        "--skep",
        "--component",
        "--model",
        "--tokens",
        "--rounds",
        "--pairs",
    ]);
    let (tokens, rounds) = (number(tokens, 256_usize), number(rounds, 5_usize));
    let pairs = number(pairs, 21_usize);
    let folder = tempfile::tempdir().unwrap();
    let model = model.map(PathBuf::from).unwrap_or_else(|| {
        let path = folder.path().join("random.gguf");
        random::gguf(&path, &RANDOM, 1).unwrap();
        path
    });
    let skep = PathBuf::from(skep.expect("--skep FILE"));
    let sides = Sides {
        folder: folder.path(),
        skep: &skep,
        component: PathBuf::from(component.expect("--component FILE")),
        model,
        tokens,
        rounds,
    };
    let mut more: [Vec<f64>; 2] = Default::default();
    for pair in 0..pairs {
        for (all, ratio) in more.iter_mut().zip(sides.compare(pair)) {
            all.push(ratio);
        }
    }
    println!("{tokens} tokens, the middle of {pairs} pairs of processes:");
    for (what, all) in WAYS.iter().zip(&mut more) {
        println!("  by a guest, {what}: {:+.2} %", 100.0 * median(all));
    }
}

/// How a guest asks.
const WAYS: [&str; 2] = ["in one call", "piece by piece"];

struct Sides<'a> {
    folder: &'a Path,
    skep: &'a Path,
    component: PathBuf,
    model: PathBuf,
    tokens: usize,
    rounds: usize,
}

impl Sides<'_> {
    /// Starts an engine and a node, and says what part more of the engine's time the guest takes, in
    /// each of [`WAYS`]: medians of so many rounds.
    fn compare(&self, pair: usize) -> [f64; 2] {
        let tokens = self.tokens;
        let native = Native::load(&self.model);
        // A text that does not end by itself before it is long enough.
        let lines = (0..200).map(|number| format!("Question {number}: where does the path lead?"));
        let long = lines.map(|line| {
            let (_, answer) = native.write(&line, tokens, 0);
            (line, answer)
        });
        let mut long = long.filter(|(_, answer)| answer.finish == Finish::Length);
        let (line, expected) = long.next().expect("a text of so many tokens");
        assert_eq!(expected.tokens.len(), tokens);
        let guest = Guest {
            node: Node::start(self.skep, &self.folder.join(format!("home-{pair}"))).unwrap(),
            component: self.component.clone(),
            model: self.model.clone(),
            folder: self.folder.to_path_buf(),
        };
        std::fs::write(self.folder.join("line"), &line).unwrap();
        let expected = expected.text + "\n";
        let (mut alone, mut batch, mut stream) = (Vec::new(), Vec::new(), Vec::new());
        for round in 0..=self.rounds as u64 {
            let times = [
                native.write(&line, tokens, round + 1).0,
                guest.write(tokens, &[], &expected),
                guest.write(tokens, &["stream"], &expected),
            ];
            // The first round loads and compiles.
            if round > 0 {
                alone.push(times[0]);
                batch.push(times[1]);
                stream.push(times[2]);
            }
        }
        let alone = median(&mut alone);
        println!(
            "natively {:.1} ms ({:.0} tokens/s)",
            alone * 1e3,
            tokens as f64 / alone
        );
        let ways = WAYS.iter().zip([batch, stream]);
        let more: Vec<f64> = ways
            .map(|(what, mut times)| {
                let time = median(&mut times);
                let more = time / alone - 1.0;
                println!(
                    "  by a guest, {what}: {:.1} ms ({:+.2} %)",
                    time * 1e3,
                    100.0 * more
                );
                more
            })
            .collect();
        [more[0], more[1]]
    }
}

fn median(times: &mut [f64]) -> f64 {
    times.sort_by(f64::total_cmp);
    times[times.len() / 2]
}

struct Native(Engine);

impl Native {
    fn load(path: &Path) -> Self {
        let model = Arc::new(LanguageModel::load("native", path).unwrap());
        let threads = std::thread::available_parallelism().map_or(2, usize::from);
        let team = Arc::new(Team::new(threads).unwrap());
        Self(Engine::start(model, team, Options::default()).unwrap())
    }

    /// Writes to a line, as the guest asks for it. An owner that has not asked before has no
    /// beginnings of texts to go on from, as a run has none.
    fn write(&self, line: &str, tokens: usize, owner: u64) -> (f64, Completion) {
        let caller = Caller {
            account: Account::new(Limits::UNLIMITED),
            owner,
            priority: Priority::Normal,
        };
        let began = Instant::now();
        let model = self.0.model();
        let prompt = match model.template {
            Some(_) => model.encode_chat(vec![ChatMessage::new("user", line)]),
            None => model.encode_text(line),
        };
        let request = Request {
            stop: vec!["\n".to_owned()],
            ..Request::greedy(prompt.unwrap(), tokens)
        };
        let mut answers = self.0.generate(&caller, vec![request]).wait();
        let text = answers.remove(0).unwrap().remove(0);
        (began.elapsed().as_secs_f64(), text)
    }
}

struct Guest {
    node: Node,
    component: PathBuf,
    model: PathBuf,
    folder: PathBuf,
}

impl Guest {
    fn write(&self, tokens: usize, more: &[&str], expected: &str) -> f64 {
        let (input, output) = (self.folder.join("line"), self.folder.join("output"));
        let tokens = format!("max-tokens={tokens}");
        let mut command: Vec<&std::ffi::OsStr> = vec![
            "run".as_ref(),
            self.component.as_ref(),
            "--model".as_ref(),
            self.model.as_ref(),
            "--input".as_ref(),
            input.as_ref(),
            "--output".as_ref(),
            output.as_ref(),
            "--".as_ref(),
            tokens.as_ref(),
        ];
        command.extend(more.iter().map(|argument| std::ffi::OsStr::new(*argument)));
        let report = self.node.ask(&command).unwrap();
        assert_eq!(std::fs::read_to_string(&output).unwrap(), expected);
        report["seconds"].as_f64().unwrap()
    }
}
