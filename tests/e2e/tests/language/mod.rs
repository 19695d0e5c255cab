//! The language model that comes with skep, asked without a node, a sandbox or a guest: what
//! guests are held against.

#![allow(dead_code, reason = "each file of tests uses a part of it")]

use std::path::{Path, PathBuf};
use std::sync::Arc;

use skep_accounts::{Account, Limits};
use skep_engine::{Caller, Engine, LanguageModel, Options, Priority, Request};
use skep_kernels::Team;
use skep_tests::Built;
use skep_tests::random::Attention;
use skep_text::ChatMessage;

/// The file of the model.
pub fn mini_lm() -> PathBuf {
    Built::root().join("models/skep-mini-lm/skep-mini-lm.gguf")
}

/// A model with an engine of its own.
pub struct Native {
    pub engine: Engine,
}

impl Native {
    pub fn load(path: &Path) -> Self {
        let model = Arc::new(LanguageModel::load("native", path).unwrap());
        let team = Arc::new(Team::new(2).unwrap());
        Self {
            engine: Engine::start(model, team, Options::default()).unwrap(),
        }
    }

    /// The request that the `generate` examples make of a line.
    pub fn request(&self, line: &str, max_tokens: usize) -> Request {
        let model = self.engine.model();
        let prompt = match model.template {
            Some(_) => model.encode_chat(vec![ChatMessage::new("user", line)]),
            None => model.encode_text(line),
        };
        Request {
            stop: vec!["\n".to_owned()],
            ..Request::greedy(prompt.unwrap(), max_tokens)
        }
    }

    /// A caller without limits.
    pub fn caller() -> Caller {
        Caller {
            account: Account::new(Limits::UNLIMITED),
            owner: 1,
            priority: Priority::Normal,
        }
    }

    /// The texts to requests, each as a line.
    pub fn write(&self, requests: Vec<Request>) -> String {
        let answers = self.engine.generate(&Self::caller(), requests).wait();
        let texts = answers.into_iter().flat_map(Result::unwrap);
        texts.map(|text| text.text + "\n").collect()
    }

    /// What an adapter has to know of the model.
    pub fn attention(&self) -> Attention {
        let config = self.engine.model().decoder.config();
        Attention {
            layers: config.layers.len(),
            width: config.width,
            queries: config.heads * config.head_dim,
            values: config.kv_heads * config.head_dim,
        }
    }
}
