//! Byte-level byte-pair encoding, as GPT-2 began it: a text is cut into words by a regular
//! expression, each byte is written as a letter, and of two neighbours those are joined first
//! whose pair comes first in the list of merges.
//!
//! The rules are those of the tokenizers that the names stand for, as `tokenizer.json` of such a
//! model has them; llama.cpp's `llama-vocab.cpp` names them. `default` is llama.cpp's own.

use skep_weights::GgufTokenizer;
use skep_weights::gguf::TokenKind;
use tokenizers::models::bpe::{BPE, Vocab};
use tokenizers::normalizers::unicode::NFC;
use tokenizers::pre_tokenizers::PreTokenizerWrapper;
use tokenizers::pre_tokenizers::byte_level::ByteLevel as Letters;
use tokenizers::pre_tokenizers::sequence::Sequence;
use tokenizers::pre_tokenizers::split::{Split, SplitPattern};
use tokenizers::{SplitDelimiterBehavior, Tokenizer};

use super::marks::Marks;
use super::{TokenizerError, guarded};

const GPT2: &str = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+";
const LLAMA3: &str = concat!(
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}",
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
);
const QWEN2: &str = concat!(
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}",
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
);
const TEKKEN: &str = concat!(
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+",
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*",
    r"|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
);

/// How texts are cut before pieces are joined.
struct Rule {
    /// Regular expressions, one cutting what the one before left.
    cuts: &'static [&'static str],
    /// A word that is a token is that token, whatever the merges would make of it.
    whole_words: bool,
    /// Letters are brought to their composed form first.
    composed: bool,
    /// Texts begin with a mark unless the file says otherwise.
    begins_texts: bool,
}

impl Rule {
    fn named(name: &str) -> Option<Self> {
        let plain = Rule {
            cuts: &[GPT2],
            whole_words: false,
            composed: false,
            begins_texts: false,
        };
        Some(match name {
            "gpt-2" => plain,
            "smollm" => Rule {
                cuts: &[r"\p{N}", GPT2],
                ..plain
            },
            "default" => Rule {
                cuts: &[r"[\p{P}\$\+<=>\^~\|]+", GPT2, r"\p{N}+", "[0-9][0-9][0-9]"],
                ..plain
            },
            "qwen2" => Rule {
                cuts: &[QWEN2],
                composed: true,
                ..plain
            },
            "llama-bpe" | "llama3" | "llama-v3" => Rule {
                cuts: &[LLAMA3],
                whole_words: true,
                begins_texts: true,
                ..plain
            },
            "tekken" => Rule {
                cuts: &[TEKKEN],
                whole_words: true,
                begins_texts: true,
                ..plain
            },
            _ => return None,
        })
    }
}

/// A vocabulary of byte sequences and the list of merges.
pub(super) struct ByteLevel {
    inner: Tokenizer,
    user_defined: Marks,
    begins_texts: bool,
}

impl ByteLevel {
    /// The vocabulary and the rule of a tokenizer of kind `gpt2`.
    pub fn new(description: &GgufTokenizer) -> Result<Self, TokenizerError> {
        let name = description.pre.as_deref().unwrap_or("default");
        let rule = Rule::named(name)
            .ok_or_else(|| TokenizerError::UnknownRule(name.chars().take(32).collect()))?;
        let mut vocabulary = Vocab::default();
        let tokens = description.tokens.iter().zip(&description.kinds);
        for (id, (text, kind)) in (0_u32..).zip(tokens) {
            // No text may become a control token.
            if *kind != TokenKind::Control {
                vocabulary.entry(text.clone()).or_insert(id);
            }
        }
        if let Some(byte) = missing_byte(|letter| vocabulary.contains_key(letter)) {
            return Err(TokenizerError::Vocabulary(format!(
                "it has no token for byte {byte}, so some texts cannot be expressed"
            )));
        }
        let merges = description.merges.clone();
        let inner = guarded(|| {
            let model = BPE::builder()
                .vocab_and_merges(vocabulary, merges)
                .ignore_merges(rule.whole_words)
                .build()?;
            let mut inner = Tokenizer::new(model);
            let mut steps = Vec::new();
            for cut in rule.cuts {
                let pattern = SplitPattern::Regex((*cut).to_owned());
                let split = Split::new(pattern, SplitDelimiterBehavior::Isolated, false)?;
                steps.push(PreTokenizerWrapper::Split(split));
            }
            let letters = Letters::new(false, true, false);
            steps.push(PreTokenizerWrapper::ByteLevel(letters));
            inner.with_pre_tokenizer(Some(Sequence::new(steps)));
            if rule.composed {
                inner.with_normalizer(Some(NFC));
            }
            Ok(inner)
        })
        .map_err(TokenizerError::Vocabulary)?;
        Ok(Self {
            inner,
            user_defined: Marks::new(description, |kind| kind == TokenKind::UserDefined),
            begins_texts: rule.begins_texts,
        })
    }

    /// Whether texts begin with a mark unless the file says otherwise.
    pub fn begins_texts(&self) -> bool {
        self.begins_texts
    }

    /// Appends the tokens of `text` to `out`.
    pub fn encode(&self, text: &str, out: &mut Vec<u32>) -> Result<(), TokenizerError> {
        for (before, mark) in self.user_defined.cut(text) {
            if !before.is_empty() {
                let ids = guarded(|| Ok(self.inner.encode_fast(before, false)?.get_ids().to_vec()))
                    .map_err(TokenizerError::Refused)?;
                out.extend(ids);
            }
            out.extend(mark);
        }
        Ok(())
    }
}

/// What each token of a tokenizer of kind `gpt2` stands for.
pub(super) fn token_bytes(description: &GgufTokenizer) -> Vec<Box<[u8]>> {
    let tokens = description.tokens.iter().zip(&description.kinds);
    tokens
        .map(|(text, kind)| match kind {
            TokenKind::Control | TokenKind::Unknown => Box::default(),
            TokenKind::UserDefined => text.as_bytes().into(),
            _ => text
                .chars()
                .map(byte_of)
                .collect::<Option<_>>()
                // A token that is not written in such letters is taken as it is.
                .unwrap_or_else(|| text.as_bytes().into()),
        })
        .collect()
}

/// The letter that a byte is written as: itself where it is a visible Latin-1 letter, else the
/// next one from U+0100 on.
fn letter_of(byte: u8) -> char {
    match byte {
        0..=32 => char::from_u32(256 + u32::from(byte)),
        127..=160 => char::from_u32(256 + 33 + u32::from(byte - 127)),
        173 => char::from_u32(256 + 33 + 34),
        visible => Some(char::from(visible)),
    }
    .unwrap_or_default()
}

/// A byte whose letter is not in a vocabulary.
pub(super) fn missing_byte(is_there: impl Fn(&str) -> bool) -> Option<u8> {
    (0..=u8::MAX).find(|&byte| !is_there(letter_of(byte).encode_utf8(&mut [0; 4])))
}

/// The byte that is written as `letter`, if one is.
pub(super) fn byte_of(letter: char) -> Option<u8> {
    let byte = match u32::from(letter) {
        code @ 256..=288 => code - 256,
        code @ 289..=322 => code - 289 + 127,
        323 => 173,
        code => code,
    };
    u8::try_from(byte)
        .ok()
        .filter(|&byte| letter_of(byte) == letter)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_has_a_letter_and_back() {
        let letters: std::collections::BTreeSet<char> = (0..=u8::MAX).map(letter_of).collect();
        assert_eq!(letters.len(), 256);
        assert!((0..=u8::MAX).all(|byte| byte_of(letter_of(byte)) == Some(byte)));
        assert_eq!((letter_of(b' '), letter_of(b'\n')), ('Ġ', 'Ċ'));
        assert_eq!(
            (byte_of('\u{7f}'), byte_of('蜂'), byte_of('ł')),
            (None, None, Some(160))
        );
    }
}
