//! A tiny model of random weights, and what it writes when it is asked for one thing at a time.

use std::path::PathBuf;
use std::sync::Arc;

use skep_accounts::{Account, Limits};
use skep_decoder::{Batch, Decoder, Part, Workspace};
use skep_engine::{Caller, LanguageModel, Priority};
use skep_kernels::Team;
use skep_kernels::kv::{KvFormat, KvPages, PAGE_TOKENS};

/// The model that the decoder's own tests have.
pub fn model() -> Arc<LanguageModel> {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../decoder/tests/models/llama");
    Arc::new(LanguageModel {
        name: "tiny".to_owned(),
        decoder: Decoder::load(&folder).unwrap(),
        tokenizer: None,
        template: None,
        weights_bytes: 0,
        grammars: skep_engine::Grammars::default(),
    })
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
}

impl<'a> Alone<'a> {
    pub fn new(model: &'a LanguageModel, format: KvFormat) -> Self {
        let pages = 512 / PAGE_TOKENS;
        Self {
            model,
            team: Team::new(1).unwrap(),
            workspace: Workspace::default(),
            pages: KvPages::new(model.decoder.kv_shape(format), pages),
            table: (0..pages as u32).collect(),
        }
    }

    /// The logits after each of `tokens`, `[tokens, vocabulary]`, `start` being the position of
    /// the first.
    pub fn logits(&mut self, start: usize, tokens: &[u32]) -> Vec<f32> {
        let part = Part {
            tokens: tokens.len(),
            start,
            pages: &self.table,
            adapter: None,
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
