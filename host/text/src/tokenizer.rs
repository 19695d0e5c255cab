//! Texts to the tokens of a language model, and back.
//!
//! A [`TextTokenizer`] is built from what a GGUF file says about its tokenizer. Pieces are joined
//! by sentencepiece's rule (`tokenizer/pieces.rs`) or by that of byte-level byte-pair encoding
//! (`tokenizer/byte_level.rs`); marks that stand for one token as they are, such as `<|im_start|>`,
//! are found before (`tokenizer/marks.rs`). Whether marks in a text count is the caller's choice: in
//! what a template wrote they do, in what a stranger wrote they must not.

mod byte_level;
mod marks;
mod pieces;

use skep_weights::GgufTokenizer;
use skep_weights::gguf::{SpecialTokens, TokenKind, TokenizerKind};

use byte_level::ByteLevel;
use marks::Marks;
use pieces::Pieces;

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

/// Whether marks such as `<|im_start|>` in a text stand for their tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MarksInText {
    /// They do: the text comes from a template.
    Count,
    /// They are letters like any others: the text comes from a stranger. Marks that the
    /// vocabulary lists as ordinary text (`TokenKind::UserDefined`) count even so.
    AreText,
}

/// The tokenizer of a language model.
pub struct TextTokenizer {
    rule: Rule,
    /// Marks that are control tokens.
    control: Marks,
    /// What each token stands for, by id; nothing for control tokens.
    bytes: Vec<Box<[u8]>>,
    special: SpecialTokens,
    add_bos: bool,
    add_eos: bool,
    /// Whether a space is put before every text, and taken from before what tokens stand for.
    space_prefix: bool,
}

enum Rule {
    Pieces(Box<Pieces>),
    ByteLevel(Box<ByteLevel>),
}

impl TextTokenizer {
    /// Builds the tokenizer that a GGUF file describes.
    ///
    /// # Errors
    /// When its rule is not known, or its vocabulary leaves some byte without a token.
    pub fn new(description: &GgufTokenizer) -> Result<Self, TokenizerError> {
        let control = Marks::new(description, |kind| {
            matches!(kind, TokenKind::Control | TokenKind::Unknown)
        });
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
            Rule::ByteLevel(_) => false,
        };
        let special = description.special;
        Ok(Self {
            rule,
            control,
            bytes,
            special,
            add_bos: description.add_bos.unwrap_or(add_bos) && special.bos.is_some(),
            add_eos: description.add_eos.unwrap_or(false) && special.eos.is_some(),
            space_prefix,
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

    /// The tokens of a whole text: those of [`TextTokenizer::encode_part`], between the marks
    /// that the model wants at the ends of a text.
    ///
    /// # Errors
    /// As for [`TextTokenizer::encode_part`].
    pub fn encode(&self, text: &str, marks: MarksInText) -> Result<Vec<u32>, TokenizerError> {
        let mut ids = Vec::new();
        ids.extend(self.special.bos.filter(|_| self.add_bos));
        ids.extend(self.encode_part(text, marks)?);
        ids.extend(self.special.eos.filter(|_| self.add_eos));
        Ok(ids)
    }

    /// The tokens of `text` and no others.
    ///
    /// # Errors
    /// When the text is longer than 4 MiB, or the library that joins pieces refuses it.
    pub fn encode_part(&self, text: &str, marks: MarksInText) -> Result<Vec<u32>, TokenizerError> {
        if text.len() > TEXT_LIMIT {
            return Err(TokenizerError::TooLong { bytes: text.len() });
        }
        let mut ids = Vec::new();
        if marks == MarksInText::AreText {
            self.encode_plain(text, &mut ids)?;
            return Ok(ids);
        }
        for (before, mark) in self.control.cut(text) {
            self.encode_plain(before, &mut ids)?;
            ids.extend(mark);
        }
        Ok(ids)
    }

    /// The bytes that a token stands for, none if it is a control token; nothing where there is
    /// no such token. A token may hold a part of a letter, so a text is complete only at its end.
    pub fn bytes(&self, token: u32) -> Option<&[u8]> {
        self.bytes.get(token as usize).map(|bytes| &**bytes)
    }

    /// The text of `tokens`, which need not be whole letters: what is no letter becomes U+FFFD,
    /// and tokens that are not there are left out.
    pub fn decode(&self, tokens: &[u32]) -> String {
        let bytes: Vec<u8> = tokens
            .iter()
            .filter_map(|&token| self.bytes(token))
            .flatten()
            .copied()
            .collect();
        let text = match bytes.strip_prefix(b" ") {
            Some(rest) if self.space_prefix => rest,
            _ => &bytes,
        };
        String::from_utf8_lossy(text).into_owned()
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
        }
    }
}
