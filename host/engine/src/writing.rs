//! A text that is being written: how its next token is chosen, what of it is text already, and
//! when it ends.

use crate::error::EngineError;
use crate::model::LanguageModel;
use crate::request::{Chunk, Finish, Request, TokenLogprob};

/// A token that was written.
#[derive(Debug, Clone, Copy)]
pub struct Written {
    pub token: u32,
    /// Set if it is the last.
    pub finish: Option<Finish>,
}

/// A text that is being written.
#[derive(Debug)]
pub struct Writing {
    /// Tokens that may still be written.
    left: usize,
    finish: Option<Finish>,
    /// What has been written since the last chunk.
    text: String,
    tokens: Vec<u32>,
    logprobs: Vec<TokenLogprob>,
}

impl Writing {
    pub fn new(
        _model: &LanguageModel,
        _request: &Request,
        limit: usize,
    ) -> Result<Self, EngineError> {
        Ok(Self {
            left: limit,
            finish: None,
            text: String::new(),
            tokens: Vec::new(),
            logprobs: Vec::new(),
        })
    }

    pub fn for_sample(
        &self,
        request: &Request,
        _sample: usize,
        model: &LanguageModel,
    ) -> Result<Self, EngineError> {
        Self::new(model, request, self.left)
    }

    /// Chooses the token that follows, by the logits of all.
    pub fn next(&mut self, logits: &[f32]) -> Result<Written, EngineError> {
        let best = logits
            .iter()
            .enumerate()
            .max_by(|a, b| a.1.total_cmp(b.1).then(b.0.cmp(&a.0)));
        let token = best.map_or(0, |(token, _)| token) as u32;
        self.left -= 1;
        self.tokens.push(token);
        if self.left == 0 {
            self.finish = Some(Finish::Length);
        }
        Ok(Written {
            token,
            finish: self.finish,
        })
    }

    /// Tokens that may come next, at most so many.
    pub fn draft(&mut self, _tokens: &[u32], most: usize) -> Vec<u32> {
        let n = _tokens.len().min(most);
        _tokens[_tokens.len() - n..].to_vec()
    }

    /// Whether the last token was written.
    pub fn finished(&self) -> bool {
        self.finish.is_some()
    }

    /// What was written since the last chunk, if there is anything to tell.
    pub fn take_chunk(&mut self) -> Option<Chunk> {
        if self.tokens.is_empty() && self.finish.is_none() {
            return None;
        }
        Some(Chunk {
            request: 0,
            sample: 0,
            text: std::mem::take(&mut self.text),
            tokens: std::mem::take(&mut self.tokens),
            logprobs: std::mem::take(&mut self.logprobs),
            finish: self.finish,
        })
    }
}
