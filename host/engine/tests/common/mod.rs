//! Models, and what they write when they are asked for one thing at a time.

#![allow(dead_code, reason = "each file of tests uses a part of it")]

pub mod backend;
pub mod world;

use std::path::PathBuf;
use std::sync::Arc;

use skep_accounts::{Account, Limits};
use skep_decoder::{AdapterWeights, Batch, Decoder, PagedAdapter, Part, Workspace};
use skep_engine::{Caller, LanguageModel, Priority, Sampler, Sampling, Scratch};
use skep_evidence::sampling::Agreement;
use skep_kernels::Team;
use skep_kernels::kv::{KvFormat, KvPages, PAGE_TOKENS};

fn fixture(path: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("../decoder/tests")
        .join(path)
}

/// One of the tiny models of random weights that the decoder's own tests have.
pub fn tiny(name: &str) -> LanguageModel {
    LanguageModel {
        name: name.to_owned(),
        decoder: Arc::new(Decoder::load(&fixture("models").join(name)).unwrap()),
        tokenizer: None,
        template: None,
        weights_bytes: 0,
        grammars: skep_engine::Grammars::default(),
        draft: None,
    }
}

/// The model of most tests.
pub fn model() -> Arc<LanguageModel> {
    Arc::new(tiny("llama"))
}

/// That model, with a draft model.
pub fn drafted(draft: &str) -> Arc<LanguageModel> {
    Arc::new(tiny("llama").with_draft(tiny(draft)).unwrap())
}

/// Adapters for it, of ranks 1 to 12.
pub const ADAPTERS: [&str; 4] = ["layer", "plain", "stable", "patterns"];

/// The folder of one of them.
pub fn adapter(name: &str) -> PathBuf {
    fixture("adapters").join(name)
}

/// The project's own small language model, which has a tokenizer.
pub fn mini_lm() -> LanguageModel {
    let path = "../../models/skep-mini-lm/skep-mini-lm.gguf";
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(path);
    LanguageModel::load("skep-mini-lm", &path).unwrap()
}

/// A caller without limits.
pub fn caller(owner: u64, priority: Priority) -> Caller {
    Caller {
        account: Account::new(Limits::UNLIMITED),
        owner,
        priority,
    }
}

/// One text on pages of its own: no scheduler, no cache, no batch.
pub struct Alone<'a> {
    model: &'a LanguageModel,
    team: Team,
    workspace: Workspace,
    pages: KvPages,
    table: Vec<u32>,
    adapter: Option<PagedAdapter>,
}

impl<'a> Alone<'a> {
    pub fn new(model: &'a LanguageModel, format: KvFormat) -> Self {
        let pages = 512 / PAGE_TOKENS;
        Self {
            model,
            team: Team::new(1).unwrap(),
            workspace: Workspace::default(),
            pages: KvPages::new(model.decoder.kv_shape(format), 4 * pages),
            table: (0..pages as u32).collect(),
            adapter: None,
        }
    }

    /// With an adapter.
    pub fn with(mut self, name: &str) -> Self {
        let decoder = &self.model.decoder;
        let bytes = self.pages.memory().page_bytes();
        let weights = AdapterWeights::load(&adapter(name), decoder, "tiny", bytes).unwrap();
        let first = self.table.len() as u32;
        let own = (first..first + weights.adapter().pages() as u32).collect();
        let placed = weights.place(self.pages.memory_mut(), own);
        self.adapter = Some(placed.unwrap());
        self
    }

    /// The logits after each of `tokens`, `[tokens, vocabulary]`, `start` being the position of
    /// the first.
    pub fn logits(&mut self, start: usize, tokens: &[u32]) -> Vec<f32> {
        let part = Part {
            tokens: tokens.len(),
            start,
            pages: &self.table,
            adapter: self.adapter.as_ref(),
        };
        let outputs: Vec<usize> = (0..tokens.len()).collect();
        let batch = Batch {
            tokens,
            parts: &[part],
            outputs: &outputs,
        };
        let forward =
            self.model
                .decoder
                .forward(&self.team, &mut self.workspace, &mut self.pages, &batch);
        forward.unwrap().to_vec()
    }

    /// The likeliest tokens after `prompt`, one by one.
    pub fn write(&mut self, prompt: &[u32], count: usize) -> Vec<u32> {
        let vocabulary = self.model.decoder.config().vocabulary;
        let mut written = Vec::new();
        let mut logits = self.logits(0, prompt);
        loop {
            let last = &logits[logits.len() - vocabulary..];
            let best = (0..vocabulary).max_by(|a, b| last[*a].total_cmp(&last[*b]).then(b.cmp(a)));
            let token = best.unwrap() as u32;
            written.push(token);
            if written.len() == count {
                return written;
            }
            logits = self.logits(prompt.len() + written.len() - 1, &[token]);
        }
    }

    /// Tokens that are drawn, one by one, for one of the answers to `prompt`.
    pub fn draw(
        &mut self,
        prompt: &[u32],
        count: usize,
        sampling: &Sampling,
        sample: usize,
    ) -> Vec<u32> {
        let vocabulary = self.model.decoder.config().vocabulary;
        let sampler = Sampler::new(sampling, prompt, vocabulary).unwrap();
        let mut sampler = sampler.fork(sample as u64);
        let mut scratch = Scratch::default();
        let mut written = Vec::new();
        let mut logits = self.logits(0, prompt);
        loop {
            let last = &logits[logits.len() - vocabulary..];
            let token = sampler
                .choose(last, None, None, &mut scratch)
                .unwrap()
                .token;
            sampler.accept(token);
            written.push(token);
            if written.len() == count {
                return written;
            }
            logits = self.logits(prompt.len() + written.len() - 1, &[token]);
        }
    }

    /// How far `written` falls short of what this model writes to `prompt`, drawing with shared
    /// noise or not at all: at the token that does so most, in logits divided by the temperature.
    pub fn shortfall(
        &mut self,
        prompt: &[u32],
        written: &[u32],
        sampling: &Sampling,
        sample: usize,
    ) -> f64 {
        let vocabulary = self.model.decoder.config().vocabulary;
        let mut sampler = Sampler::new(sampling, prompt, vocabulary)
            .unwrap()
            .fork(sample as u64);
        let mut scratch = Scratch::default();
        let logits = self.logits(0, &[prompt, written].concat());
        let mut most = 0.0_f64;
        for (row, token) in logits
            .chunks(vocabulary)
            .skip(prompt.len() - 1)
            .zip(written)
        {
            let agreement = sampler.check(row, None, *token, f64::INFINITY, &mut scratch);
            most = most.max(match agreement.unwrap() {
                Agreement::Same => 0.0,
                Agreement::Tie { gap } | Agreement::Different { gap, .. } => gap,
            });
            sampler.accept(*token);
        }
        most
    }

    /// The log-probability of `choice` after `prompt`.
    pub fn judge(&mut self, prompt: &[u32], choice: &[u32]) -> f64 {
        let vocabulary = self.model.decoder.config().vocabulary;
        let tokens = [prompt, choice].concat();
        let logits = self.logits(0, &tokens);
        let rows = logits.chunks(vocabulary).skip(prompt.len() - 1);
        rows.zip(choice)
            .map(|(row, token)| {
                let sum: f64 = row.iter().map(|x| f64::from(*x).exp()).sum();
                f64::from(row[*token as usize]) - sum.ln()
            })
            .sum()
    }

    /// The mean of the hidden states of `tokens`.
    pub fn embed(&mut self, tokens: &[u32]) -> Vec<f32> {
        self.logits(0, tokens);
        let width = self.model.decoder.config().width;
        let mut sum = vec![0.0; width];
        let mut row = vec![0.0; width];
        for token in 0..tokens.len() {
            self.model
                .decoder
                .hidden(&self.workspace, token, &mut row)
                .unwrap();
            for (sum, x) in sum.iter_mut().zip(&row) {
                *sum += x;
            }
        }
        sum.iter().map(|x| x / tokens.len() as f32).collect()
    }
}
