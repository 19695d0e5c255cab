//! How fast a model reads and writes: `decoder_rates MODEL [--threads 2] [--prompt 512]
//! [--tokens 64] [--streams 8] [--context 64]` prints one line of JSON with tokens a second of
//! reading a prompt, of writing one text, and of writing several texts in one batch, in total.
//!
//! Keys and values are 16-bit floats in pages. Texts that are written begin after `--context`
//! tokens; their tokens are fixed, as no model can make them faster or slower. In the same run:
//! the bytes a second that the threads read from memory in a plain sum over a buffer that fits no
//! cache.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use std::path::Path;
use std::time::Instant;

use skep_decoder::{Batch, Decoder, Part, Workspace};
use skep_kernels::kv::{KvFormat, KvPages, PAGE_TOKENS};
use skep_kernels::{Isa, Team};

struct Options {
    threads: usize,
    prompt: usize,
    tokens: usize,
    streams: usize,
    context: usize,
}

/// A model with texts that it reads and writes.
struct Texts<'a> {
    model: &'a Decoder,
    team: &'a Team,
    workspace: Workspace,
    pages: KvPages,
    /// The pages of each text.
    tables: Vec<Vec<u32>>,
    lengths: Vec<usize>,
}

impl<'a> Texts<'a> {
    fn new(model: &'a Decoder, team: &'a Team, texts: usize, length: usize) -> Self {
        let each = length.div_ceil(PAGE_TOKENS);
        Self {
            model,
            team,
            workspace: Workspace::default(),
            pages: KvPages::new(model.kv_shape(KvFormat::F16), texts * each),
            tables: (0..texts)
                .map(|text| {
                    (text * each..(text + 1) * each)
                        .map(|page| page as u32)
                        .collect()
                })
                .collect(),
            lengths: vec![0; texts],
        }
    }

    /// Goes on with every text by so many tokens in one batch, and takes their last logits.
    fn step(&mut self, tokens: usize) {
        let vocabulary = self.model.config().vocabulary as u32;
        let all: Vec<u32> = (0..(tokens * self.tables.len()) as u32)
            .map(|n| (n * 7919 + self.lengths[0] as u32 * 104_729) % vocabulary)
            .collect();
        let parts: Vec<Part<'_>> = self
            .tables
            .iter()
            .zip(&self.lengths)
            .map(|(pages, start)| Part {
                tokens,
                start: *start,
                pages,
                adapter: None,
            })
            .collect();
        let outputs: Vec<usize> = (1..=self.tables.len()).map(|n| n * tokens - 1).collect();
        let batch = Batch {
            tokens: &all,
            parts: &parts,
            outputs: &outputs,
        };
        let logits = self
            .model
            .forward(self.team, &mut self.workspace, &mut self.pages, &batch)
            .unwrap();
        assert!(logits.iter().all(|x| x.is_finite()));
        self.lengths.iter_mut().for_each(|length| *length += tokens);
    }

    /// Seconds of so many steps of one token each, after `context` tokens.
    fn write(&mut self, context: usize, steps: usize) -> f64 {
        self.lengths.fill(0);
        self.step(context);
        let began = Instant::now();
        for _ in 0..steps {
            self.step(1);
        }
        began.elapsed().as_secs_f64()
    }
}

/// Bytes a second that the team reads from memory, the best of a few turns.
fn bandwidth(team: &Team) -> f64 {
    let words = vec![1_u64; 32 << 20];
    let mut best = f64::MAX;
    for _ in 0..6 {
        let began = Instant::now();
        team.share(words.len(), 1 << 17, |range| {
            let mut sums = [0_u64; 16];
            for part in words[range].as_chunks::<16>().0 {
                for (sum, word) in sums.iter_mut().zip(part) {
                    *sum = sum.wrapping_add(*word);
                }
            }
            std::hint::black_box(sums);
        });
        best = best.min(began.elapsed().as_secs_f64());
    }
    (words.len() * 8) as f64 / best
}

fn main() {
    let mut arguments = std::env::args().skip(1);
    let usage = "usage: decoder_rates MODEL [--threads N] [--prompt N] [--tokens N] [--streams N] [--context N]";
    let path = arguments.next().expect(usage);
    let mut o = Options {
        threads: 2,
        prompt: 512,
        tokens: 64,
        streams: 8,
        context: 64,
    };
    while let Some(name) = arguments.next() {
        let value = arguments.next().expect(usage).parse().expect(usage);
        match name.as_str() {
            "--threads" => o.threads = value,
            "--prompt" => o.prompt = value,
            "--tokens" => o.tokens = value,
            "--streams" => o.streams = value,
            "--context" => o.context = value,
            _ => panic!("{usage}"),
        }
    }
    let team = Team::new(o.threads).unwrap();
    let model = Decoder::load(Path::new(&path)).unwrap();
    let length = o.prompt.max(o.context + o.tokens);

    let mut one = Texts::new(&model, &team, 1, length);
    one.step(o.prompt); // Weights come from the disk, buffers grow.
    one.lengths.fill(0);
    let began = Instant::now();
    one.step(o.prompt);
    let prefill = began.elapsed().as_secs_f64();
    let decode = one.write(o.context, o.tokens);
    let mut many = Texts::new(&model, &team, o.streams, o.context + o.tokens);
    let streams = many.write(o.context, o.tokens);

    let memory = bandwidth(&team);
    let rate = |tokens: usize, seconds: f64| tokens as f64 / seconds;
    println!(
        "{{\"isa\": \"{}\", \"threads\": {}, \"prefill\": {:.2}, \"decode\": {:.2}, \
         \"streams\": {:.2}, \"memory_bytes_per_s\": {memory:.0}}}",
        Isa::best().name(),
        o.threads,
        rate(o.prompt, prefill),
        rate(o.tokens, decode),
        rate(o.streams * o.tokens, streams),
    );
}
