//! Conversations to the text that a model was trained to go on with.
//!
//! A model's folder brings a template in the language Jinja, which writes a conversation as one text
//! with marks between the messages. A [`ChatTemplate`] renders it within bounds, and says of every
//! letter whether the template wrote it or a message: in what messages say, marks such as
//! `<|im_end|>` are text (`chat/shadow.rs` says how that is known).
//!
//! What this module must never do: let a letter of a message complete a mark; take time or memory
//! that a template asks for without bound.

mod date;
mod environment;
mod program;
mod shadow;
mod source;

use std::path::Path;

use minijinja::{Environment, ErrorKind};
use serde_json::{Map, Value};

use crate::tokenizer::{MarkedText, MarksInText, TextTokenizer, TokenizerError};
use shadow::Shadow;

/// Messages and everything beside them may have so many bytes.
const CHAT_LIMIT: usize = 4 << 20;

/// Why a conversation could not be rendered.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ChatError {
    /// The template is none.
    #[error("the chat template is not valid at line {line}: {reason}")]
    Syntax {
        /// Where.
        line: usize,
        /// What is wrong.
        reason: String,
    },
    /// The template is too long.
    #[error("the chat template has {bytes} bytes; at most {limit} are read")]
    TemplateTooLong {
        /// Its length.
        bytes: usize,
        /// What is allowed.
        limit: usize,
    },
    /// The folder has templates, but none of the name.
    #[error("the model has no chat template {name:?}; it has {available}")]
    NoSuchTemplate {
        /// What was asked for.
        name: String,
        /// The names that are there.
        available: String,
    },
    /// A role is no plain word.
    #[error("{role:?} is no role; a role has at most 32 letters, digits, - and _")]
    Role {
        /// Its beginning.
        role: String,
    },
    /// The conversation is too long, or nested too deeply.
    #[error(
        "the conversation is too long or nested too deeply; at most {CHAT_LIMIT} bytes are rendered"
    )]
    TooLong,
    /// The template itself refuses the conversation.
    #[error("the chat template refuses the conversation: {0}")]
    Raised(String),
    /// The template takes too much time or memory.
    #[error("the chat template takes more work than a template may")]
    TooMuchWork,
    /// The thread that renders could not be started, or was lost.
    #[error("no thread for the chat template could be had; the machine may be short of memory")]
    NoThread,
    /// The template does not fit the conversation.
    #[error("the chat template fails at line {line}: {reason}")]
    Render {
        /// Where.
        line: usize,
        /// Why.
        reason: String,
    },
    /// A file could not be read, or the text not be cut into tokens.
    #[error(transparent)]
    Tokenizer(#[from] TokenizerError),
}

/// A message of a conversation.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct ChatMessage {
    /// Who speaks: `system`, `user`, `assistant` or `tool`, for most templates. It is taken for
    /// part of the template, so it must come from whoever made up the conversation.
    pub role: String,
    /// What is said.
    pub content: String,
    /// What else the template may look at: `name`, `tool_calls`, `tool_call_id`,
    /// `reasoning_content`, … A `content` in here takes the place of the other.
    pub fields: Map<String, Value>,
}

impl ChatMessage {
    /// A message with nothing but a text.
    pub fn new(role: impl Into<String>, content: impl Into<String>) -> Self {
        Self {
            role: role.into(),
            content: content.into(),
            fields: Map::new(),
        }
    }
}

/// A conversation, and how it is to be written.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Chat {
    /// What was said, in order.
    pub messages: Vec<ChatMessage>,
    /// Whether the beginning of an answer is written after the last message.
    pub add_generation_prompt: bool,
    /// Functions that the model may call, as JSON schemas.
    pub tools: Vec<Value>,
    /// Other variables of the template, such as `enable_thinking`. They do not take the place of
    /// those that are always there.
    pub variables: Map<String, Value>,
    /// Seconds since 1970-01-01 UTC, for templates that write the date. Where there is none, they
    /// write what they have for that case, and the same conversation is always the same text.
    pub now: Option<u64>,
}

impl Chat {
    /// A conversation that waits for an answer.
    pub fn new(messages: Vec<ChatMessage>) -> Self {
        Self {
            messages,
            add_generation_prompt: true,
            ..Self::default()
        }
    }
}

/// A template that writes conversations as texts.
#[derive(Debug)]
pub struct ChatTemplate {
    environment: Environment<'static>,
    source: String,
}

impl ChatTemplate {
    /// Compiles a template, as GGUF files have it under `tokenizer.chat_template`.
    ///
    /// # Errors
    /// When it is longer than 1 MiB or not valid.
    pub fn new(source: &str) -> Result<Self, ChatError> {
        let source = source::prepared(source)?;
        Ok(Self {
            environment: environment::environment(&source)?,
            source,
        })
    }

    /// The template of a model's folder: `chat_template.jinja`, or what `tokenizer_config.json`
    /// has under `chat_template`. Some folders have several; `name` says which (`tool_use`, …),
    /// and that of the name `default` is taken where it says nothing.
    ///
    /// # Errors
    /// When a file cannot be read or is malformed, when there is none of the name, and as for
    /// [`ChatTemplate::new`]. A folder without any template is no error.
    pub fn from_folder(folder: &Path, name: Option<&str>) -> Result<Option<Self>, ChatError> {
        let sources = source::sources(folder)?;
        source::select(sources, name)?
            .map(|source| Self::new(&source))
            .transpose()
    }

    /// The template in the content of a `tokenizer_config.json`, as
    /// [`ChatTemplate::from_folder`] finds it.
    ///
    /// # Errors
    /// As for [`ChatTemplate::from_folder`].
    pub fn from_config(config: &[u8], name: Option<&str>) -> Result<Option<Self>, ChatError> {
        source::select(source::sources_of_config(config)?, name)?
            .map(|source| Self::new(&source))
            .transpose()
    }

    /// Writes a conversation for the model of `tokenizer`. Marks count in what the template wrote
    /// and not in what came from the conversation, roles excepted.
    ///
    /// # Errors
    /// When the template does not fit the conversation, refuses it or takes too much work; when
    /// the conversation is longer than 4 MiB or a role is no plain word.
    pub fn render(&self, chat: &Chat, tokenizer: &TextTokenizer) -> Result<MarkedText, ChatError> {
        let context = environment::context(chat, tokenizer)?;
        let plain = environment::run(&self.environment, &self.source, context.clone(), chat.now)?;
        let marks: Vec<&str> = tokenizer.marks().collect();
        let mut safe = None;
        for set in shadow::sets(&marks) {
            let shadow = Shadow::new(set, [&*self.source, &*plain], &context)?;
            let covered = shadow.cover(&context, &marks);
            let Ok(shadowed) = environment::run(&self.environment, &self.source, covered, chat.now)
            else {
                continue;
            };
            let marked = shadow.uncover(&shadowed);
            if marked.text() == plain {
                return Ok(marked);
            }
            safe = Some(marked);
        }
        // The template looks at the very letters that had to be covered. What it writes then is
        // not what it would have written, but no message can forge a mark in it.
        Ok(safe.unwrap_or_else(|| MarkedText::new(plain, MarksInText::AreText)))
    }
}

impl TextTokenizer {
    /// The tokens of a conversation, as the model expects them: those of
    /// [`ChatTemplate::render`], which has what begins a text where the model wants it.
    ///
    /// # Errors
    /// As for [`ChatTemplate::render`] and [`TextTokenizer::encode_marked`].
    pub fn encode_chat(&self, template: &ChatTemplate, chat: &Chat) -> Result<Vec<u32>, ChatError> {
        let text = template.render(chat, self)?;
        Ok(self.encode_marked(&text)?)
    }
}

fn error_of(error: &minijinja::Error) -> ChatError {
    let line = error.line().unwrap_or(0);
    let reason = || {
        let detail = error.detail().map(str::to_owned);
        let reason = detail.unwrap_or_else(|| error.kind().to_string());
        reason.chars().take(500).collect()
    };
    if environment::out_of_fuel(error) {
        return ChatError::TooMuchWork;
    }
    match error.kind() {
        ErrorKind::SyntaxError | ErrorKind::BadEscape => ChatError::Syntax {
            line,
            reason: reason(),
        },
        _ => match environment::raised(error) {
            Some(message) => ChatError::Raised(message),
            None => ChatError::Render {
                line,
                reason: reason(),
            },
        },
    }
}
