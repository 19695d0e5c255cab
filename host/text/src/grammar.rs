//! Texts that must keep to a form: one of several choices, what a regular expression matches, JSON
//! after a schema, or what a grammar admits.
//!
//! A [`GrammarVocabulary`] knows what each token of a tokenizer writes; it is made once. With it a
//! [`Constraint`] is compiled to a [`Grammar`], which any number of texts share. Each text has a
//! [`GrammarState`], which says what tokens may come next. The work is done by `llguidance`, which
//! reads lexemes by derivatives of regular expressions and rules by Earley's algorithm.
//!
//! What this module must never do: admit a token after which the constraint cannot be kept; take
//! time or memory without bound for a grammar that a stranger wrote.

mod mask;
mod source;
mod vocabulary;

use std::sync::Arc;

use llguidance::Matcher;
use llguidance::api::StopReason;

pub use mask::TokenMask;
pub use vocabulary::GrammarVocabulary;

/// A constraint may have so many bytes.
const SOURCE_LIMIT: usize = 256 << 10;
/// So many choices.
const CHOICES_LIMIT: usize = 4096;

/// What may be written: only texts that the constraint admits whole.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Constraint {
    /// One of these texts.
    Choices(Vec<String>),
    /// What a regular expression matches as a whole, in the syntax of Rust's `regex` without
    /// anchors and bounds of words; `.` is any letter but a line break.
    Regex(String),
    /// JSON that a JSON schema admits, on one line: after `,` and `:` there may be a space, and
    /// nowhere else. `"x-guidance"` in the schema changes that, as llguidance documents it.
    JsonSchema(String),
    /// What a grammar admits, in llguidance's dialect of Lark.
    Lark(String),
}

/// Why a text cannot be held to a constraint.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum GrammarError {
    /// The constraint is not valid, or asks for what is not supported.
    #[error("the constraint is not valid: {0}")]
    Invalid(String),
    /// The constraint is larger than one may be.
    #[error("the constraint has {is} {what}; at most {limit} are taken")]
    TooLarge {
        /// What there is too much of.
        what: &'static str,
        /// How much there is.
        is: usize,
        /// How much there may be.
        limit: usize,
    },
    /// Following the constraint takes more time or memory than a step may.
    #[error(
        "the constraint is too complex to follow: {0}; a simpler one takes fewer alternatives at once"
    )]
    TooComplex(String),
    /// The token may not come next. The state is as it was.
    #[error("the constraint does not admit token {token} here")]
    NotAdmitted {
        /// The token.
        token: u32,
    },
    /// No token of the vocabulary goes on towards a text that the constraint admits.
    #[error(
        "the tokens of this model cannot express any text that the constraint admits from here"
    )]
    DeadEnd,
}

/// A constraint, compiled for a vocabulary. Cheap to clone.
#[derive(Clone)]
pub struct Grammar {
    vocabulary: Arc<vocabulary::Inner>,
    /// The state before the first token.
    start: Arc<Matcher>,
}

/// How far a text has come in its constraint. A clone goes its own way, and what it learns about
/// the grammar it keeps to itself.
pub struct GrammarState {
    vocabulary: Arc<vocabulary::Inner>,
    matcher: Matcher,
    /// An end token was accepted.
    ended: bool,
}

impl GrammarVocabulary {
    /// Compiles a constraint. This takes milliseconds, so a grammar that is used again is worth
    /// keeping.
    ///
    /// # Errors
    /// When the constraint is not valid or too large, or too complex to begin with.
    pub fn compile(&self, constraint: &Constraint) -> Result<Grammar, GrammarError> {
        let source = source::of(constraint)?;
        let inner = self.inner();
        let parser = inner.factory().create_parser(source);
        let matcher = Matcher::new(Ok(parser.map_err(|error| refused(&error.to_string()))?));
        if let Some(error) = matcher.get_error() {
            return Err(refused(&error));
        }
        Ok(Grammar {
            vocabulary: inner.clone(),
            start: Arc::new(matcher),
        })
    }
}

impl Grammar {
    /// The state of a new text. What it learns about the grammar it keeps to itself, so that one
    /// text's work never counts against another's bounds.
    pub fn start(&self) -> GrammarState {
        GrammarState {
            vocabulary: self.vocabulary.clone(),
            matcher: self.start.deep_clone(),
            ended: false,
        }
    }
}

impl Clone for GrammarState {
    fn clone(&self) -> Self {
        Self {
            vocabulary: self.vocabulary.clone(),
            // A clone of the library's would share the states of its lexer, and their bound.
            matcher: self.matcher.deep_clone(),
            ended: self.ended,
        }
    }
}

impl GrammarState {
    /// The tokens that may come next; end tokens are among them where the text may end. After an
    /// end, only end tokens.
    ///
    /// # Errors
    /// When the constraint is too complex, or no token leads on.
    pub fn mask(&mut self) -> Result<TokenMask, GrammarError> {
        if self.must_end() {
            return Ok(self.vocabulary.only_ends());
        }
        let bits = self.matcher.compute_mask();
        match bits {
            Ok(bits) => {
                let mask = TokenMask::new(bits.as_slice(), self.vocabulary.tokens());
                match mask.is_empty() {
                    true => Err(GrammarError::DeadEnd),
                    false => Ok(mask),
                }
            }
            Err(error) => Err(self.error(&error.to_string())),
        }
    }

    /// Adds a token to the text.
    ///
    /// # Errors
    /// When the token may not come next, in which case the state is as it was, or when the
    /// constraint is too complex.
    pub fn accept(&mut self, token: u32) -> Result<(), GrammarError> {
        if self.admitted(&[token])? == 0 {
            return Err(GrammarError::NotAdmitted { token });
        }
        if self.vocabulary.is_end(token) {
            self.ended = true;
            return Ok(());
        }
        self.consume(token)
    }

    /// How many of `tokens`, which someone drafted, could be accepted one after another. The
    /// state stays as it is.
    ///
    /// # Errors
    /// When the constraint is too complex.
    pub fn admitted(&mut self, tokens: &[u32]) -> Result<usize, GrammarError> {
        let writes = |token: &&u32| self.vocabulary.writes(**token);
        let texts = tokens.iter().take_while(writes).count();
        if self.must_end() {
            let ends = |token: &&u32| self.vocabulary.is_end(**token);
            return Ok(tokens.iter().take_while(ends).count());
        }
        let valid = match texts {
            0 => 0,
            _ => self
                .matcher
                .validate_tokens(&tokens[..texts])
                .map_err(|error| self.error(&error.to_string()))?,
        };
        let Some(&next) = tokens.get(valid) else {
            return Ok(valid);
        };
        if valid < texts || !self.vocabulary.is_end(next) {
            return Ok(valid);
        }
        // A draft that ends the text: is it complete there?
        let complete = match valid {
            0 => self.may_end()?,
            _ => {
                let mut after = self.clone();
                for &token in &tokens[..valid] {
                    after.consume(token)?;
                }
                after.may_end()?
            }
        };
        if !complete {
            return Ok(valid);
        }
        let ends = |token: &&u32| self.vocabulary.is_end(**token);
        Ok(valid + tokens[valid..].iter().take_while(ends).count())
    }

    fn consume(&mut self, token: u32) -> Result<(), GrammarError> {
        let consumed = self.matcher.consume_token(token);
        consumed.map_err(|error| self.error(&error.to_string()))
    }

    /// Whether the text is one that the constraint admits, so that it may end here.
    ///
    /// # Errors
    /// When the constraint is too complex.
    pub fn may_end(&mut self) -> Result<bool, GrammarError> {
        if self.must_end() {
            return Ok(true);
        }
        let accepting = self.matcher.is_accepting();
        accepting.map_err(|error| self.error(&error.to_string()))
    }

    /// Whether the text is complete and no token can follow, or an end token was accepted. A
    /// writer can stop here without asking the model for an end.
    pub fn must_end(&self) -> bool {
        self.ended || self.matcher.is_stopped() && self.matcher.stop_reason().is_ok()
    }

    /// The bytes that every admitted text goes on with from here; none where there is a choice.
    /// They can be drafted as tokens without asking the model.
    pub fn forced(&mut self) -> Vec<u8> {
        match self.must_end() {
            true => Vec::new(),
            false => self.matcher.compute_ff_bytes(),
        }
    }

    fn error(&self, reason: &str) -> GrammarError {
        match self.matcher.stop_reason() {
            StopReason::NoExtension | StopReason::NoExtensionBias => GrammarError::DeadEnd,
            _ => complex_or_dead(reason),
        }
    }
}

/// What the library says of a constraint that it does not compile.
fn refused(reason: &str) -> GrammarError {
    let reason = first_line(reason);
    let bounds = ["fuel", "too complex", "too many", "too large", "limit"];
    match bounds.iter().any(|bound| reason.contains(bound)) {
        true => GrammarError::TooComplex(reason),
        false => GrammarError::Invalid(reason),
    }
}

/// What the library says of a step that it does not take.
fn complex_or_dead(reason: &str) -> GrammarError {
    let reason = first_line(reason);
    match reason.contains("NoExtension") {
        true => GrammarError::DeadEnd,
        false => GrammarError::TooComplex(reason),
    }
}

fn first_line(reason: &str) -> String {
    let line = reason.lines().find(|line| !line.trim().is_empty());
    line.unwrap_or_default().chars().take(300).collect()
}
