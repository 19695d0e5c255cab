//! A text that is being written: how its next tokens are chosen, what of it is text already, and
//! when it ends.
//!
//! What this module must never do: take a token that the constraint forbids; give out a part of a
//! stop.

use std::sync::Arc;

use skep_evidence::sampling::Agreement;
use skep_text::{GrammarState, TextStart, TextStream, TextTokenizer};

use crate::checking::Committing;
use crate::error::EngineError;
use crate::model::LanguageModel;
use crate::request::{Chunk, Finish, Request, TokenLogprob};
use crate::sampling::{Sampler, Scratch, TokenMask};
use crate::scheduler::Options;
use crate::speculation::{DraftOptions, Follow, GuessCost, NgramDraft, Pace, verify};

/// A text that is being written.
#[derive(Debug, Clone)]
pub struct Writing {
    /// Whether it commits to its states.
    pub commits: bool,
    /// Its commitments, if they are wanted and until it is complete.
    pub committing: Option<Committing>,
    sampler: Sampler,
    drafts: Option<NgramDraft>,
    lead: Option<Lead>,
    logprobs: Option<usize>,
    script: Script,
}

/// How far the draft model goes ahead.
#[derive(Debug, Clone)]
struct Lead {
    pace: Pace,
    /// Tokens at most.
    most: usize,
    /// Always so many.
    steady: bool,
}

/// Who guessed the tokens of a draft.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Guesser {
    /// Nobody but the text itself: it said them before.
    #[default]
    Text,
    /// The draft model.
    Model,
}

/// A text as the draft model goes on with it.
#[derive(Debug)]
pub struct Guess {
    sampler: Sampler,
    script: Script,
    /// Whether it has come to an end.
    over: bool,
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
        options: &Options,
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
        let ngrams = DraftOptions {
            tokens: options.drafts,
            ..DraftOptions::default()
        };
        let leads = model.draft.is_some() && options.model_drafts > 0;
        let width = model.decoder.config().width;
        let committing = || Committing::new(request.prompt.len(), width);
        Ok(Self {
            commits: request.commit,
            committing: request.commit.then(committing),
            sampler,
            drafts: (options.drafts > 0).then(|| NgramDraft::new(ngrams, &request.prompt)),
            lead: leads.then(|| Lead {
                pace: Pace::default(),
                most: options.model_drafts,
                steady: options.steady_drafts,
            }),
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

    /// Tokens that may come next, at most so many, from what the text said before.
    pub fn draft(&self, most: usize) -> Vec<u32> {
        let mut draft = Vec::new();
        if let Some(drafts) = &self.drafts {
            drafts.draft(most.min(self.ahead()), &mut draft);
        }
        draft
    }

    /// Tokens that may be written beyond the next one.
    fn ahead(&self) -> usize {
        self.script.left.saturating_sub(1)
    }

    /// Whether the draft model keeps up with this text.
    pub fn is_led(&self) -> bool {
        self.lead.is_some() && self.ahead() > 0
    }

    /// How many tokens the draft model had better guess next, `most` at most.
    pub fn lead(&self, most: usize, cost: GuessCost) -> usize {
        let Some(lead) = &self.lead else {
            return 0;
        };
        let most = most.min(lead.most).min(self.ahead());
        match lead.steady {
            true => most,
            false => lead.pace.length(most, cost),
        }
    }

    /// The draft model knows nothing of this text's tokens.
    pub fn leave_alone(&mut self) {
        self.lead = None;
    }

    /// The text for the draft model to go on with.
    pub fn guess(&self) -> Guess {
        Guess {
            sampler: self.sampler.clone(),
            script: self.script.clone(),
            over: false,
        }
    }

    /// Writes on. `logits` is `[draft.len() + 1, vocabulary]`: after the text so far, and after
    /// each token of `draft`, which `guesser` has guessed. The tokens that were written are
    /// appended to `tokens`; returns of how many of them the keys and values are computed already.
    ///
    /// # Errors
    /// When no token is left that may be written.
    pub fn go_on(
        &mut self,
        logits: &[f32],
        (draft, guesser): (&[u32], Guesser),
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
        match (guesser, &mut self.lead, draft.len()) {
            (Guesser::Model, Some(lead), guessed @ 1..) => lead.pace.learn(guessed, kept),
            (_, Some(lead), _) => lead.pace.rest(),
            _ => {}
        }
        if let Some(drafts) = &mut self.drafts {
            if guesser == Guesser::Text {
                drafts.learn(draft.len(), kept);
            }
            for token in written {
                drafts.push(*token);
            }
        }
        Ok(kept)
    }

    /// Takes `claimed` for the next token, and says how it compares with the one that these logits
    /// `[vocabulary]` lead to. Where the constraint cannot be followed any further the text ends before it:
    /// who writes has no text then, and whoever claims one must not have those fail who follow it.
    ///
    /// # Errors
    /// When the logits leave no token of those that the constraint admits.
    pub fn follow(
        &mut self,
        logits: &[f32],
        claimed: u32,
        tolerance: f64,
        scratch: &mut Scratch,
    ) -> Result<Agreement, EngineError> {
        let beyond = Agreement::Different {
            predicted: claimed,
            gap: f64::INFINITY,
        };
        if self.finished() {
            return Ok(beyond);
        }
        let mask = self.script.mask();
        let agreement = self
            .sampler
            .check(logits, mask, claimed, tolerance, scratch);
        if self.script.broken.take().is_some() {
            self.script.end(Finish::End);
            return Ok(beyond);
        }
        let agreement = agreement.map_err(|error| EngineError::Failed(error.to_string()))?;
        self.sampler.accept(claimed);
        self.script.take(claimed, None);
        Ok(match self.script.broken.take() {
            // What the constraint does not admit, and where nobody can say what should follow.
            Some(_) => beyond,
            None => agreement,
        })
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

impl Guess {
    /// The token that the draft model goes on with, `logits` being what it holds likely, or
    /// nothing if it finds none. It is drawn as the model will draw it: by the same options, under
    /// the same constraint, with the same random number.
    pub fn go_on(&mut self, logits: &[f32], scratch: &mut Scratch) -> Option<u32> {
        let mask = self.script.mask();
        let chosen = self.sampler.choose(logits, mask, None, scratch).ok()?;
        self.sampler.accept(chosen.token);
        self.over = !self.script.take(chosen.token, None);
        Some(chosen.token)
    }

    /// Whether the text ends with the tokens that were guessed.
    pub fn is_over(&self) -> bool {
        self.over
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

    /// Ends the text, and gives out what was held back of it.
    fn end(&mut self, finish: Finish) {
        self.finish = Some(finish);
        if let Some(letters) = &mut self.letters {
            self.new.text.push_str(&letters.stream.finish());
        }
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
        if let Some(finish) = self.finish {
            self.end(finish);
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
