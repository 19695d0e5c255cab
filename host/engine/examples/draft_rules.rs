//! How many guesses of a draft model are kept: `draft_rules` prints, for the project's own small
//! language model and for the same model without its last layer or layers as its draft, how often
//! both draw the same token with the same random number, which is what is kept here; how often a
//! guess of the likeliest token is kept; and `Σ min(p, q)`, the most that any rule can keep
//! (Leviathan et al., arXiv 2211.17192).
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

use std::path::Path;

use skep_decoder::{Batch, Decoder, Part, Workspace};
use skep_engine::{Sampler, Sampling, Scratch};
use skep_kernels::Team;
use skep_kernels::kv::{KvFormat, KvPages, PAGE_TOKENS};

const TEXTS: u64 = 24;
const TOKENS: usize = 64;

/// The model's file with fewer layers: what says how many there are comes once, as a number of 32
/// bits after its name and its type.
fn with_layers(file: &[u8], layers: u32) -> Vec<u8> {
    let name = b"llama.block_count";
    let at = file
        .windows(name.len())
        .position(|bytes| bytes == name)
        .unwrap();
    let at = at + name.len() + 4;
    let mut file = file.to_vec();
    file[at..at + 4].copy_from_slice(&layers.to_le_bytes());
    file
}

struct Text<'a> {
    decoder: &'a Decoder,
    pages: KvPages,
    table: Vec<u32>,
    workspace: Workspace,
    start: usize,
}

impl<'a> Text<'a> {
    fn new(decoder: &'a Decoder) -> Self {
        let pages = 512 / PAGE_TOKENS;
        Self {
            decoder,
            pages: KvPages::new(decoder.kv_shape(KvFormat::F32), pages),
            table: (0..pages as u32).collect(),
            workspace: Workspace::default(),
            start: 0,
        }
    }

    /// The logits after these tokens.
    fn go_on(&mut self, team: &Team, tokens: &[u32]) -> Vec<f32> {
        let part = Part {
            tokens: tokens.len(),
            start: self.start,
            pages: &self.table,
            adapter: None,
        };
        self.start += tokens.len();
        let batch = Batch {
            tokens,
            parts: &[part],
            outputs: &[tokens.len() - 1],
        };
        let logits = self
            .decoder
            .forward(team, &mut self.workspace, &mut self.pages, &batch);
        logits.unwrap().to_vec()
    }
}

fn main() {
    let path = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../../models/skep-mini-lm/skep-mini-lm.gguf"
    );
    let file = std::fs::read(path).unwrap();
    let target = Decoder::load(Path::new(path)).unwrap();
    let team = Team::new(1).unwrap();
    let scratch = tempfile::tempdir().unwrap();
    let vocabulary = target.config().vocabulary;
    for layers in [5, 4, 3] {
        let path = scratch.path().join(format!("{layers}.gguf"));
        std::fs::write(&path, with_layers(&file, layers)).unwrap();
        let draft = Decoder::load(&path).unwrap();
        for (temperature, top_p) in [(0.7, 1.0), (1.0, 1.0), (1.0, 0.9)] {
            let (mut same, mut likeliest, mut most) = (0.0, 0.0, 0.0);
            for seed in 0..TEXTS {
                let sampling = Sampling {
                    temperature,
                    top_p,
                    seed,
                    ..Sampling::GREEDY
                };
                let prompt: Vec<u32> = (0..8)
                    .map(|n| (seed as u32 * 97 + n * n * 13) % 4000 + 3)
                    .collect();
                let mut sampler = Sampler::new(&sampling, &prompt, vocabulary).unwrap();
                let (mut one, mut other) = (Text::new(&target), Text::new(&draft));
                let mut scratch = Scratch::default();
                let mut next = prompt;
                for _ in 0..TOKENS {
                    let (p, q) = (one.go_on(&team, &next), other.go_on(&team, &next));
                    let mut choose = |logits: &[f32]| {
                        let chosen = sampler.choose(logits, None, None, &mut scratch);
                        chosen.unwrap().token
                    };
                    let (token, guess) = (choose(&p), choose(&q));
                    let best = q.iter().copied().fold(f32::MIN, f32::max);
                    let best = q.iter().position(|x| *x == best).unwrap() as u32;
                    let mut distribution =
                        |logits: &[f32]| sampler.distribution(logits, None, &mut scratch).unwrap();
                    let (p, q) = (distribution(&p), distribution(&q));
                    same += f64::from(u8::from(token == guess));
                    likeliest += p.probability(best);
                    let both = p.probabilities().iter();
                    most += both
                        .map(|(token, p)| p.min(q.probability(*token)))
                        .sum::<f64>();
                    sampler.accept(token);
                    next = vec![token];
                }
            }
            let all = (TEXTS as usize * TOKENS) as f64;
            println!(
                "{layers} of 6 layers, temperature {temperature}, top_p {top_p}: {:.1} % with the same \
                 number, {:.1} % of the likeliest, {:.1} % at most",
                100.0 * same / all,
                100.0 * likeliest / all,
                100.0 * most / all,
            );
        }
    }
}
