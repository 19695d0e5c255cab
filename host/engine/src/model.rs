//! A language model with all that belongs to it.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use skep_decoder::Decoder;
use skep_text::{
    Chat, ChatError, ChatMessage, ChatTemplate, Constraint, Grammar, MarksInText, TextTokenizer,
    TokenizerError,
};
use skep_weights::{GgufError, WeightsError, WeightsFile};

use crate::error::EngineError;
use crate::grammars::Grammars;
use crate::speculation::{DraftError, DraftModel};

/// Why a model could not be loaded.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ModelError {
    /// The weights cannot be read or are unsound.
    #[error(transparent)]
    Weights(#[from] WeightsError),
    /// The network is none that is supported.
    #[error(transparent)]
    Decoder(#[from] skep_decoder::LoadError),
    /// What the file says about its tokenizer is unsound.
    #[error(transparent)]
    Metadata(#[from] GgufError),
    /// The tokenizer cannot be used.
    #[error("the tokenizer of {path}: {source}")]
    Tokenizer {
        /// The file or folder.
        path: PathBuf,
        /// Why.
        source: TokenizerError,
    },
    /// The template for conversations cannot be used.
    #[error("the chat template of {path}: {source}")]
    Template {
        /// The file or folder.
        path: PathBuf,
        /// Why.
        source: ChatError,
    },
    /// The draft model does not belong to it.
    #[error(transparent)]
    Draft(#[from] DraftError),
}

/// A language model, and how texts become its tokens.
pub struct LanguageModel {
    /// What errors call it.
    pub name: String,
    /// The network.
    pub decoder: Decoder,
    /// The tokenizer. Without one there are only tokens: no texts, no stops, no constraints.
    pub tokenizer: Option<Arc<TextTokenizer>>,
    /// How conversations are laid out, if the model says.
    pub template: Option<ChatTemplate>,
    /// Bytes of its weights.
    pub weights_bytes: u64,
    /// Constraints that were compiled for it.
    pub grammars: Grammars,
    /// A smaller model that guesses its next tokens ([`LanguageModel::with_draft`]).
    pub draft: Option<DraftModel>,
}

impl LanguageModel {
    /// Loads a GGUF file (the first of its parts) or a Hugging Face folder.
    ///
    /// # Errors
    /// When a file cannot be read, is unsound, or holds what is not supported.
    pub fn load(name: &str, path: &Path) -> Result<Self, ModelError> {
        let weights = WeightsFile::open(path)?;
        let decoder = Decoder::from_weights(&weights)?;
        let tokenizer_error = |source| ModelError::Tokenizer {
            path: path.to_owned(),
            source,
        };
        let template_error = |source| ModelError::Template {
            path: path.to_owned(),
            source,
        };
        let (tokenizer, template) = match &weights {
            WeightsFile::Gguf { file, .. } => {
                let description = file.tokenizer()?;
                let tokenizer = description.as_ref().map(TextTokenizer::new).transpose();
                let source: Option<&str> = file.metadata().get("tokenizer.chat_template")?;
                let template = source.map(ChatTemplate::new).transpose();
                (
                    tokenizer.map_err(tokenizer_error)?,
                    template.map_err(template_error)?,
                )
            }
            _ => (
                Some(TextTokenizer::from_folder(path).map_err(tokenizer_error)?),
                ChatTemplate::from_folder(path, None).map_err(template_error)?,
            ),
        };
        if let Some(tokenizer) = &tokenizer {
            tokenizer
                .check_fits(decoder.config().vocabulary)
                .map_err(tokenizer_error)?;
        }
        Ok(Self {
            name: name.to_owned(),
            decoder,
            tokenizer: tokenizer.map(Arc::new),
            template,
            weights_bytes: weights.bytes(),
            grammars: Grammars::default(),
            draft: None,
        })
    }

    /// The tokens of a text that is to be gone on with: with the mark that the model wants at its
    /// beginning, and no marks of the text's own.
    ///
    /// # Errors
    /// When the text is too long, or the model has no tokenizer.
    pub fn encode_text(&self, text: &str) -> Result<Vec<u32>, EngineError> {
        let tokenizer = self.tokenizer()?;
        let mut tokens = tokenizer.encode(text, MarksInText::AreText)?;
        // What is gone on with has not ended.
        if let Some(eos) = tokenizer.special().eos
            && tokens.len() > 1
            && tokens.last() == Some(&eos)
        {
            tokens.pop();
        }
        Ok(tokens)
    }

    /// The tokens of a conversation, up to where the assistant answers.
    ///
    /// # Errors
    /// When the model has no template, or the template refuses the conversation.
    pub fn encode_chat(&self, messages: Vec<ChatMessage>) -> Result<Vec<u32>, EngineError> {
        let Some(template) = &self.template else {
            return Err(EngineError::Invalid(
                "the model has no chat template; give the prompt as a text".to_owned(),
            ));
        };
        Ok(self
            .tokenizer()?
            .encode_chat(template, &Chat::new(messages))?)
    }

    /// A constraint, compiled for the model's tokens. One that was compiled before is found again.
    ///
    /// # Errors
    /// When the constraint is not valid or too complex, or the model has no tokenizer.
    pub fn grammar(&self, constraint: &Constraint) -> Result<Grammar, EngineError> {
        let tokenizer = self.tokenizer()?;
        self.grammars.get(tokenizer, constraint)
    }

    /// The tokenizer.
    ///
    /// # Errors
    /// When there is none.
    pub fn tokenizer(&self) -> Result<&TextTokenizer, EngineError> {
        self.tokenizer.as_deref().ok_or_else(|| {
            EngineError::Invalid("the model has no tokenizer; give tokens".to_owned())
        })
    }
}
