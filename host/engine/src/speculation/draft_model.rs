//! A smaller model that guesses for a larger one.

use std::path::Path;

use skep_decoder::Decoder;
use skep_text::TextTokenizer;

use crate::model::{LanguageModel, ModelError};

/// Why a model cannot guess for another.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DraftError {
    /// Without tokenizers, models have the same tokens only if they have as many.
    #[error(
        "{draft} has {has} tokens and {target} has {wants}: their tokens are not the same; take a \
         draft model of the same family"
    )]
    Vocabulary {
        /// The draft model.
        draft: String,
        /// The model that it is to guess for.
        target: String,
        /// Tokens of the draft model.
        has: usize,
        /// Tokens of the other.
        wants: usize,
    },
    /// One of them has a tokenizer and the other none, so nothing says that their tokens are the
    /// same.
    #[error("{without} has no tokenizer to be compared with that of {with}; add it with one")]
    NoTokenizer {
        /// The one that has a tokenizer.
        with: String,
        /// The one that has none.
        without: String,
    },
    /// A token stands for different texts.
    #[error(
        "token {token} is {has:?} in {draft} and {wants:?} in {target}: their tokens are not the \
         same; take a draft model of the same family"
    )]
    Token {
        /// The first token that differs.
        token: u32,
        /// The draft model.
        draft: String,
        /// The model that it is to guess for.
        target: String,
        /// What the token stands for in the draft model.
        has: String,
        /// And in the other.
        wants: String,
    },
    /// The draft model has a draft model itself.
    #[error("{draft} has a draft model of its own; a draft model takes none")]
    Nested {
        /// The draft model.
        draft: String,
    },
}

/// A model whose tokens are those of a larger one.
pub struct DraftModel {
    /// What errors call it.
    pub name: String,
    /// The network. Its vocabulary may be padded to another length.
    pub decoder: Decoder,
    /// Bytes of its weights.
    pub weights_bytes: u64,
}

impl LanguageModel {
    /// The same model, with another that guesses its next tokens. What is written does not depend
    /// on it.
    ///
    /// # Errors
    /// When the tokens of the two are not the same.
    pub fn with_draft(mut self, draft: LanguageModel) -> Result<Self, DraftError> {
        compare(&draft, &self)?;
        self.draft = Some(DraftModel {
            name: draft.name,
            decoder: draft.decoder,
            weights_bytes: draft.weights_bytes,
        });
        Ok(self)
    }

    /// As [`LanguageModel::load`], with a draft model from another file or folder.
    ///
    /// # Errors
    /// When either cannot be loaded, or they do not belong together.
    pub fn load_with_draft(
        name: &str,
        path: &Path,
        (draft_name, draft_path): (&str, &Path),
    ) -> Result<Self, ModelError> {
        let draft = Self::load(draft_name, draft_path)?;
        Ok(Self::load(name, path)?.with_draft(draft)?)
    }
}

fn compare(draft: &LanguageModel, target: &LanguageModel) -> Result<(), DraftError> {
    let names = || (draft.name.clone(), target.name.clone());
    if draft.draft.is_some() {
        return Err(DraftError::Nested { draft: names().0 });
    }
    let (one, other) = match (&draft.tokenizer, &target.tokenizer) {
        (Some(one), Some(other)) => (one, other),
        (None, None) => {
            let vocabulary = |model: &LanguageModel| model.decoder.config().vocabulary;
            let (has, wants) = (vocabulary(draft), vocabulary(target));
            let (draft, target) = names();
            return match has == wants {
                true => Ok(()),
                false => Err(DraftError::Vocabulary {
                    draft,
                    target,
                    has,
                    wants,
                }),
            };
        }
        (one, _) => {
            let (draft, target) = names();
            let (with, without) = match one {
                Some(_) => (draft, target),
                None => (target, draft),
            };
            return Err(DraftError::NoTokenizer { with, without });
        }
    };
    // One may list more tokens that only fill it up; those are never guessed.
    let both = one.vocabulary().min(other.vocabulary());
    let differs = (0..both as u32).find(|token| {
        one.bytes(*token) != other.bytes(*token) || one.mark(*token) != other.mark(*token)
    });
    let Some(token) = differs else {
        return Ok(());
    };
    let (draft, target) = names();
    Err(DraftError::Token {
        token,
        draft,
        target,
        has: text_of(one, token),
        wants: text_of(other, token),
    })
}

/// What a token stands for, for people to read.
fn text_of(tokenizer: &TextTokenizer, token: u32) -> String {
    let text = match tokenizer.mark(token) {
        Some(mark) => mark.to_owned(),
        None => String::from_utf8_lossy(tokenizer.bytes(token).unwrap_or_default()).into_owned(),
    };
    text.chars().take(40).collect()
}
