//! A text that is being written: how its next tokens are chosen, what of it is text already, and
//! when it ends.
//!
//! What this module must never do: take a token that the constraint forbids; give out a part of a
//! stop.

use std::sync::Arc;

use skep_text::{GrammarState, TextStart, TextStream, TextTokenizer};

use crate::error::EngineError;
use crate::model::LanguageModel;
use crate::request::{Chunk, Finish, Request, TokenLogprob};
use crate::sampling::{Sampler, Scratch, TokenMask};
use crate::speculation::{DraftOptions, Follow, NgramDraft, verify};

/// A text that is being written.
#[derive(Debug, Clone)]
pub struct Writing {
    sampler: Sampler,
    drafts: Option<NgramDraft>,
    logprobs: Option<usize>,
    script: Script,
}

/// What has been written.
#[derive(Clone)]
struct Script {
    letters: Option<Letters>,
    grammar: Option<GrammarState>,
    /// What the grammar admits next.
    admitted: Option<skep_text::TokenMask>,
    /// Why the constraint could not be followed.
    broken: Option<EngineError>,
    /// Tokens that may still be written.
    left: usize,
    finish: Option<Finish>,
    new: Chunk,
}

/// Tokens as text.
#[derive(Clone)]
struct Letters {
    tokenizer: Arc<TextTokenizer>,
    stream: TextStream,
}

impl Writing {
    /// A text to a request's prompt, of at most `limit` tokens.
    ///
    /// # Errors
    /// When the request asks for what cannot be.
    pub fn new(
        model: &LanguageModel,
        request: &Request,
        limit: usize,
        drafts: usize,
    ) -> Result<Self, EngineError> {
        let vocabulary = model.decoder.config().vocabulary;
        let sampler = Sampler::new(&request.sampling, &request.prompt, vocabulary)
            .map_err(|error| EngineError::Invalid(error.to_string()))?;
        let letters = model.tokenizer.as_ref().map(|tokenizer| Letters {
            tokenizer: Arc::clone(tokenizer),
            stream: TextStream::new(&request.stop, TextStart::Continues),
        });
        if letters.is_none() && !request.stop.is_empty() {
            return Err(EngineError::Invalid(
                "the request has stops, but the model has no tokenizer to find them with".into(),
            ));
        }
        let grammar = match &request.constraint {
            Some(constraint) => Some(model.grammar(constraint)?.start()),
            None => None,
        };
        let options = DraftOptions {
            tokens: drafts,
            ..DraftOptions::default()
        };
        Ok(Self {
            sampler,
            drafts: (drafts > 0).then(|| NgramDraft::new(options, &request.prompt)),
            logprobs: request.logprobs,
            script: Script {
                letters,
                grammar,
                admitted: None,
                broken: None,
                left: limit,
                finish: None,
                new: Chunk::default(),
            },
        })
    }

    /// The same beginning, with other random numbers.
    pub fn sample(&self, number: usize) -> Self {
        let mut copy = self.clone();
        copy.sampler = self.sampler.fork(number as u64);
        copy.script.new.sample = number;
        copy
    }

    /// Tokens that may come next, at most so many.
    pub fn draft(&self, most: usize) -> Vec<u32> {
        let mut draft = Vec::new();
        if let Some(drafts) = &self.drafts {
            drafts.draft(most.min(self.script.left - 1), &mut draft);
        }
        draft
    }

    /// Writes on. `logits` is `[draft.len() + 1, vocabulary]`: after the text so far, and after
    /// each token of `draft`. The tokens that were written are appended to `tokens`; returns of
    /// how many of them the keys and values are computed already.
    ///
    /// # Errors
    /// When no token is left that may be written.
    pub fn go_on(
        &mut self,
        logits: &[f32],
        draft: &[u32],
        tokens: &mut Vec<u32>,
        scratch: &mut Scratch,
    ) -> Result<usize, EngineError> {
        let before = self.script.new.tokens.len();
        let kept = verify(
            &mut self.sampler,
            draft,
            logits,
            self.logprobs,
            &mut self.script,
            scratch,
        );
        if let Some(broken) = self.script.broken.take() {
            return Err(broken);
        }
        let kept = kept.map_err(|error| EngineError::Failed(error.to_string()))?;
        let written = &self.script.new.tokens[before..];
        tokens.extend_from_slice(written);
        if let Some(drafts) = &mut self.drafts {
            drafts.learn(draft.len(), kept);
            for token in written {
                drafts.push(*token);
            }
        }
        Ok(kept)
    }

    /// Whether the last token was written.
    pub fn finished(&self) -> bool {
        self.script.finish.is_some()
    }

    /// What was written since the last chunk.
    pub fn take_chunk(&mut self) -> Chunk {
        let next = Chunk {
            sample: self.script.new.sample,
            ..Chunk::default()
        };
        let mut chunk = std::mem::replace(&mut self.script.new, next);
        chunk.finish = self.script.finish;
        chunk
    }
}

impl Script {
    /// Why the text ends with this token, which is the last of those written. An end token has no
    /// text.
    fn ends_with(&mut self, token: u32) -> Option<Finish> {
        if let Some(letters) = &mut self.letters {
            if letters.tokenizer.end_tokens().contains(&token) {
                return Some(Finish::End);
            }
            let text = letters.stream.push(&letters.tokenizer, token);
            self.new.text.push_str(&text);
            if letters.stream.stopped() {
                return Some(Finish::Stop);
            }
        }
        if let Some(grammar) = &mut self.grammar {
            if let Err(error) = grammar.accept(token) {
                self.broken = Some(error.into());
                return Some(Finish::End);
            }
            if grammar.must_end() {
                return Some(Finish::End);
            }
        }
        (self.left == 0).then_some(Finish::Length)
    }
}

impl Follow for Script {
    fn mask(&mut self) -> Option<TokenMask<'_>> {
        let grammar = self.grammar.as_mut()?;
        self.admitted = match grammar.mask() {
            Ok(admitted) => Some(admitted),
            Err(error) => {
                self.broken = Some(error.into());
                None
            }
        };
        let words = self.admitted.as_ref().map(skep_text::TokenMask::words);
        // Of a constraint that cannot be followed nothing is admitted.
        Some(TokenMask::new(words.unwrap_or_default()))
    }

    fn take(&mut self, token: u32, logprob: Option<TokenLogprob>) -> bool {
        self.left = self.left.saturating_sub(1);
        self.new.tokens.push(token);
        self.new.logprobs.extend(logprob);
        self.finish = self.ends_with(token);
        if self.finish.is_some()
            && let Some(letters) = &mut self.letters
        {
            self.new.text.push_str(&letters.stream.finish());
        }
        self.finish.is_none()
    }
}

impl std::fmt::Debug for Script {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Script")
            .field("left", &self.left)
            .field("finish", &self.finish)
            .finish_non_exhaustive()
    }
}
