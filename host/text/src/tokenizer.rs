//! Texts to the tokens of a language model, and back.
//!
//! A [`TextTokenizer`] is built from what a GGUF file says about its tokenizer, or from the folder
//! of a model in the layout of Hugging Face. Pieces are joined by sentencepiece's rule
//! (`tokenizer/pieces.rs`), by that of byte-level byte-pair encoding (`tokenizer/byte_level.rs`) or
//! by the steps that `tokenizer.json` lists (`tokenizer/hugging_face.rs`); marks that stand for one
//! token as they are, such as `<|im_start|>`, are found before (`tokenizer/marks.rs`). Whether marks
//! in a text count is the caller's choice: in what a template wrote they do, in what a stranger
//! wrote they must not. A [`MarkedText`] holds both.

mod byte_level;
mod cut;
mod ends;
mod files;
mod hugging_face;
mod marked;
mod marks;
mod pieces;
mod sound;

use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use skep_weights::GgufTokenizer;
use skep_weights::gguf::{SpecialTokens, TokenKind, TokenizerKind};

use byte_level::ByteLevel;
use hugging_face::HuggingFace;
use marks::Marks;
use pieces::Pieces;

pub use files::TokenizerFiles;
pub(crate) use files::read as read_file;
pub use marked::{MarkedText, MarksInText};

/// A longer text is refused; it would be longer than any model's context.
const TEXT_LIMIT: usize = 4 << 20;

/// Why a tokenizer could not be built, or a text not be cut into tokens.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TokenizerError {
    /// The rule by which texts are cut before pieces are joined is not known.
    #[error(
        "the tokenizer cuts texts by the rule {0:?}, which is not supported; default, gpt-2, \
         llama-bpe, qwen2, smollm and tekken are"
    )]
    UnknownRule(String),
    /// The vocabulary cannot express every text.
    #[error("the tokenizer's vocabulary is unsound: {0}")]
    Vocabulary(String),
    /// A file could not be read.
    #[error("{file} could not be read: {reason}")]
    Read {
        /// The file.
        file: String,
        /// What the system said.
        reason: String,
    },
    /// A file is not what it should be, or asks for what is not supported.
    #[error("{file} cannot be used: {reason}")]
    Malformed {
        /// The file.
        file: &'static str,
        /// What is wrong with it.
        reason: String,
    },
    /// The model has no logits for some of the tokens.
    #[error(
        "the tokenizer has {tokens} tokens but the model has {model}: they do not belong \
         together; take both from the same folder"
    )]
    OtherModel {
        /// Tokens of the tokenizer.
        tokens: usize,
        /// Tokens of the model.
        model: usize,
    },
    /// The text is too long.
    #[error("the text has {bytes} bytes; at most {TEXT_LIMIT} are cut into tokens at once")]
    TooLong {
        /// Its length.
        bytes: usize,
    },
    /// The library that joins pieces refused.
    #[error("the text could not be cut into tokens: {0}")]
    Refused(String),
}

/// The tokenizer of a language model.
pub struct TextTokenizer {
    rule: Rule,
    /// Marks that are control tokens.
    control: Marks,
    /// How control tokens are written.
    names: HashMap<u32, Box<str>>,
    /// What each token stands for, by id; nothing for control tokens.
    bytes: Vec<Box<[u8]>>,
    special: SpecialTokens,
    /// In order, each once.
    end_tokens: Vec<u32>,
    /// Tokens before a whole text.
    before: Vec<u32>,
    /// Tokens after a whole text.
    after: Vec<u32>,
    /// Whether a space is put before every text, and taken from before what tokens stand for.
    space_prefix: bool,
}

enum Rule {
    Pieces(Box<Pieces>),
    ByteLevel(Box<ByteLevel>),
    HuggingFace(Box<HuggingFace>),
}

impl TextTokenizer {
    /// Builds the tokenizer that a GGUF file describes.
    ///
    /// # Errors
    /// When its rule is not known, or its vocabulary leaves some byte without a token.
    pub fn new(description: &GgufTokenizer) -> Result<Self, TokenizerError> {
        let is_control = |kind| matches!(kind, TokenKind::Control | TokenKind::Unknown);
        let (rule, bytes, add_bos) = match description.kind {
            TokenizerKind::Llama => {
                let bytes = pieces::token_bytes(description);
                (
                    Rule::Pieces(Box::new(Pieces::new(description)?)),
                    bytes,
                    true,
                )
            }
            TokenizerKind::Gpt2 => {
                let rule = ByteLevel::new(description)?;
                let (bytes, bos) = (byte_level::token_bytes(description), rule.begins_texts());
                (Rule::ByteLevel(Box::new(rule)), bytes, bos)
            }
            other => return Err(TokenizerError::UnknownRule(format!("{other:?}"))),
        };
        let space_prefix = match rule {
            Rule::Pieces(_) => description.add_space_prefix.unwrap_or(true),
            _ => false,
        };
        let special = description.special;
        let tokens = (0_u32..).zip(description.tokens.iter().zip(&description.kinds));
        let names: HashMap<u32, Box<str>> = tokens
            .filter(|(_, (_, kind))| is_control(**kind))
            .map(|(id, (text, _))| (id, text.as_str().into()))
            .collect();
        let named = [special.eos, special.eot, special.eom];
        let (add_bos, add_eos) = (
            description.add_bos.unwrap_or(add_bos),
            description.add_eos.unwrap_or(false),
        );
        Ok(Self {
            rule,
            control: Marks::new(description, is_control),
            end_tokens: ends::end_tokens(named.into_iter().flatten(), &names),
            names,
            bytes,
            special,
            before: special.bos.into_iter().filter(|_| add_bos).collect(),
            after: special.eos.into_iter().filter(|_| add_eos).collect(),
            space_prefix,
        })
    }

    /// Builds the tokenizer of a model's folder: `tokenizer.json`, and the files beside it that
    /// say which tokens begin and end a text (see [`TokenizerFiles`]).
    ///
    /// # Errors
    /// When a file cannot be read or is longer than 64 MiB, and as for
    /// [`TextTokenizer::from_files`].
    pub fn from_folder(folder: &Path) -> Result<Self, TokenizerError> {
        Self::from_files(&TokenizerFiles::read(folder)?)
    }

    /// Builds the tokenizer that `files` describe.
    ///
    /// # Errors
    /// When a file is no JSON of its kind, asks for a step that decoder models do not use or that
    /// could take time or memory without bound, or when the vocabulary leaves some byte without a
    /// token.
    pub fn from_files(files: &TokenizerFiles) -> Result<Self, TokenizerError> {
        let loaded = HuggingFace::load(files)?;
        let (special, ends) = files.special_tokens(&loaded.ids, loaded.bytes.len())?;
        Ok(Self {
            end_tokens: ends::end_tokens(ends.into_iter(), &loaded.names),
            rule: Rule::HuggingFace(Box::new(loaded.rule)),
            control: loaded.control,
            names: loaded.names,
            bytes: loaded.bytes,
            special,
            before: loaded.before,
            after: loaded.after,
            space_prefix: loaded.space_prefix,
        })
    }

    /// Checks that a model with `vocabulary` logits has one for every token.
    ///
    /// # Errors
    /// When it has not.
    pub fn check_fits(&self, vocabulary: usize) -> Result<(), TokenizerError> {
        if self.vocabulary() <= vocabulary {
            return Ok(());
        }
        Err(TokenizerError::OtherModel {
            tokens: self.vocabulary(),
            model: vocabulary,
        })
    }

    /// The number of tokens.
    pub fn vocabulary(&self) -> usize {
        self.bytes.len()
    }

    /// Tokens with a role.
    pub fn special(&self) -> &SpecialTokens {
        &self.special
    }

    /// Tokens that end a text: the model's own, and those that by their name end a turn
    /// (`<|eot_id|>`, `<|im_end|>`, `<end_of_turn>`, …). In order; may be empty.
    pub fn end_tokens(&self) -> &[u32] {
        &self.end_tokens
    }

    /// How a control token is written in a template, `<|im_end|>` for one; nothing for others.
    pub fn mark(&self, token: u32) -> Option<&str> {
        self.names.get(&token).map(|name| &**name)
    }

    /// How the control tokens are written, in no order.
    pub fn marks(&self) -> impl Iterator<Item = &str> {
        self.names.values().map(|name| &**name)
    }

    /// The tokens of a whole text: those of [`TextTokenizer::encode_part`], between the marks
    /// that the model wants at the ends of a text.
    ///
    /// # Errors
    /// As for [`TextTokenizer::encode_part`].
    pub fn encode(&self, text: &str, marks: MarksInText) -> Result<Vec<u32>, TokenizerError> {
        let mut ids = self.before.clone();
        ids.extend(self.encode_part(text, marks)?);
        ids.extend(&self.after);
        Ok(ids)
    }

    /// The tokens of `text` and no others.
    ///
    /// # Errors
    /// When the text is longer than 4 MiB, or the library that joins pieces refuses it.
    pub fn encode_part(&self, text: &str, marks: MarksInText) -> Result<Vec<u32>, TokenizerError> {
        check_length(text)?;
        self.encode_marked(&MarkedText::new(text, marks))
    }

    /// The tokens of `text` and no others. Parts are not cut from each other: where no mark
    /// stands between them, their letters may be joined to one token.
    ///
    /// # Errors
    /// As for [`TextTokenizer::encode_part`].
    pub fn encode_marked(&self, text: &MarkedText) -> Result<Vec<u32>, TokenizerError> {
        let (text, counts) = (text.text(), text.counts());
        check_length(text)?;
        let spans = self.control.spans(text, counts);
        let mut ids = Vec::new();
        if let Rule::HuggingFace(rule) = &self.rule {
            rule.encode(text, &spans, &mut ids)?;
            return Ok(ids);
        }
        let mut done = 0;
        for (span, id) in spans {
            self.encode_plain(&text[done..span.start], &mut ids)?;
            ids.push(id);
            done = span.end;
        }
        self.encode_plain(&text[done..], &mut ids)?;
        Ok(ids)
    }

    /// The bytes that a token stands for, none if it is a control token; nothing where there is
    /// no such token. A token may hold a part of a letter, so a text is complete only at its end.
    pub fn bytes(&self, token: u32) -> Option<&[u8]> {
        self.bytes.get(token as usize).map(|bytes| &**bytes)
    }

    /// The text of `tokens`, which need not be whole letters: what is no letter becomes U+FFFD,
    /// and tokens that are not there are left out. The space that the tokenizer puts before a
    /// text is taken off again.
    pub fn decode(&self, tokens: &[u32]) -> String {
        let bytes = self.all_bytes(tokens);
        let text = match bytes.strip_prefix(b" ") {
            Some(rest) if self.space_prefix => rest,
            _ => &bytes,
        };
        String::from_utf8_lossy(text).into_owned()
    }

    /// The text of `tokens` that go on with a text: [`TextTokenizer::decode`], but a space before
    /// it stays.
    pub fn decode_part(&self, tokens: &[u32]) -> String {
        String::from_utf8_lossy(&self.all_bytes(tokens)).into_owned()
    }

    /// Whether the tokenizer puts a space before every text, which is none of the text.
    pub fn puts_space_before(&self) -> bool {
        self.space_prefix
    }

    fn all_bytes(&self, tokens: &[u32]) -> Vec<u8> {
        let bytes = tokens.iter().filter_map(|&token| self.bytes(token));
        bytes.flatten().copied().collect()
    }

    fn encode_plain(&self, text: &str, ids: &mut Vec<u32>) -> Result<(), TokenizerError> {
        if text.is_empty() {
            return Ok(());
        }
        match &self.rule {
            Rule::Pieces(rule) => {
                rule.encode(text, self.space_prefix, ids);
                Ok(())
            }
            Rule::ByteLevel(rule) => rule.encode(text, ids),
            Rule::HuggingFace(rule) => rule.encode(text, &[], ids),
        }
    }
}

fn check_length(text: &str) -> Result<(), TokenizerError> {
    match text.len() {
        bytes if bytes > TEXT_LIMIT => Err(TokenizerError::TooLong { bytes }),
        _ => Ok(()),
    }
}

/// Runs `f`; a panic inside, which is the tokenizer library's way to refuse some files and texts,
/// becomes an error like any other.
fn guarded<T>(f: impl FnOnce() -> tokenizers::Result<T>) -> Result<T, String> {
    match catch_unwind(AssertUnwindSafe(f)) {
        Ok(result) => result.map_err(|error| error.to_string()),
        Err(_) => Err("the tokenizer library gave up on it".to_owned()),
    }
}
