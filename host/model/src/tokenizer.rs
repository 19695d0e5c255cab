//! Texts to tokens, within bounds.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use crate::error::LoadError;
use crate::folder::read_limited;

/// A tokenizer file is read up to this many bytes.
const FILE_LIMIT: u64 = 64 << 20;

/// A longer text is cut into tokens piece by piece, each of about this many bytes and ending at
/// white space, so that what the library allocates stays bounded and no more is looked at than
/// is needed. Tokenizers of the BERT family never join what white space parts, so pieces give the
/// tokens of the whole.
const PIECE: usize = 16 << 10;

/// The tokenizer of a model, with the special tokens that it puts around a text.
pub(crate) struct Tokenizer {
    inner: tokenizers::Tokenizer,
    before: Vec<u32>,
    after: Vec<u32>,
    lower_case: bool,
}

impl Tokenizer {
    /// Reads `tokenizer.json` for a model with `vocabulary` tokens that takes `max_tokens`.
    pub fn read(
        path: &Path,
        vocabulary: usize,
        max_tokens: usize,
        lower_case: bool,
    ) -> Result<Self, LoadError> {
        let content = read_limited(path, FILE_LIMIT)?;
        let malformed = |reason: String| LoadError::Malformed {
            path: path.to_owned(),
            reason,
        };
        let loaded = guarded(|| {
            let mut inner = tokenizers::Tokenizer::from_bytes(&content)?;
            inner.with_padding(None);
            inner.with_truncation(None)?;
            let greatest = inner.get_vocab(true).into_values().max();
            Ok((inner, greatest))
        });
        let (inner, greatest) = loaded.map_err(malformed)?;
        let greatest = greatest.ok_or_else(|| malformed("it has no tokens".to_owned()))?;
        if greatest as usize >= vocabulary {
            return Err(LoadError::TokenOutsideVocabulary {
                path: path.to_owned(),
                token: greatest,
                vocabulary: vocabulary as u32,
            });
        }
        let mut tokenizer = Self {
            inner,
            before: Vec::new(),
            after: Vec::new(),
            lower_case,
        };
        tokenizer
            .find_special(vocabulary, max_tokens)
            .map_err(malformed)?;
        Ok(tokenizer)
    }

    /// Finds what stands before and after a text, by tokenizing one.
    fn find_special(&mut self, vocabulary: usize, max_tokens: usize) -> Result<(), String> {
        let probe = "a";
        let (plain, full) = guarded(|| {
            let plain = self.inner.encode_fast(probe, false)?;
            let full = self.inner.encode_fast(probe, true)?;
            Ok((plain.get_ids().to_vec(), full.get_ids().to_vec()))
        })?;
        let at = full
            .windows(plain.len().max(1))
            .position(|part| part == plain);
        let Some(at) = at.filter(|_| !plain.is_empty()) else {
            return Err("the tokens of a text do not appear between its special tokens".to_owned());
        };
        let (before, after) = (&full[..at], &full[at + plain.len()..]);
        if before.len() + after.len() >= max_tokens {
            return Err(format!(
                "{} special tokens leave no room among {max_tokens}",
                before.len() + after.len()
            ));
        }
        if full.iter().any(|&id| id as usize >= vocabulary) {
            return Err("a special token lies outside the model's vocabulary".to_owned());
        }
        (self.before, self.after) = (before.to_vec(), after.to_vec());
        Ok(())
    }

    /// Appends the tokens of `text` to `ids`, special ones included, at most `max_tokens`.
    /// Returns how many.
    pub fn encode(
        &self,
        text: &str,
        max_tokens: usize,
        ids: &mut Vec<u32>,
    ) -> Result<usize, String> {
        let room = max_tokens.saturating_sub(self.before.len() + self.after.len());
        let start = ids.len();
        ids.extend_from_slice(&self.before);
        let mut left = room;
        for piece in pieces(text.trim()) {
            let tokens = self.tokens(piece)?;
            let taken = tokens.len().min(left);
            ids.extend_from_slice(&tokens[..taken]);
            left -= taken;
            if left == 0 {
                break;
            }
        }
        ids.extend_from_slice(&self.after);
        Ok(ids.len() - start)
    }

    /// The number of tokens of `text`, special ones included, before any cut.
    pub fn count(&self, text: &str) -> Result<usize, String> {
        let mut count = self.before.len() + self.after.len();
        for piece in pieces(text.trim()) {
            count += self.tokens(piece)?.len();
        }
        Ok(count)
    }

    fn tokens(&self, text: &str) -> Result<Vec<u32>, String> {
        let lower;
        let text = if self.lower_case {
            lower = text.to_lowercase();
            &lower
        } else {
            text
        };
        guarded(|| Ok(self.inner.encode_fast(text, false)?.get_ids().to_vec()))
    }
}

/// The pieces of `text`: each ends before the first white space at [`PIECE`] bytes or later, or
/// at twice that where there is none.
fn pieces(text: &str) -> impl Iterator<Item = &str> {
    let mut rest = text;
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let from = rest.ceil_char_boundary(PIECE);
        let to = rest.ceil_char_boundary(2 * PIECE);
        let end = rest[from..to]
            .find(char::is_whitespace)
            .map_or(to, |at| from + at);
        let (piece, after) = rest.split_at(end);
        rest = after;
        Some(piece)
    })
}

/// Runs `f`; a panic inside, which is the tokenizer library's way to refuse some files and texts,
/// becomes an error like any other.
pub(crate) fn guarded<T>(f: impl FnOnce() -> tokenizers::Result<T>) -> Result<T, String> {
    match catch_unwind(AssertUnwindSafe(f)) {
        Ok(result) => result.map_err(|error| error.to_string()),
        Err(_) => Err("the tokenizer library gave up on it".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_end_at_white_space_and_are_bounded() {
        assert_eq!(pieces("").count(), 0);
        assert_eq!(pieces("one two").collect::<Vec<_>>(), ["one two"]);
        let words = "größer ".repeat(10_000);
        let cut: Vec<&str> = pieces(&words).collect();
        assert_eq!(cut.concat(), words);
        assert!(cut.len() > 4);
        assert!(cut[1..].iter().all(|piece| piece.starts_with(' ')));
        let endless = "é".repeat(50_000);
        let cut: Vec<&str> = pieces(&endless).collect();
        assert_eq!(cut.concat(), endless);
        assert!(cut.iter().all(|piece| piece.len() <= 2 * PIECE + 1));
    }

    #[test]
    fn a_panic_inside_becomes_an_error() {
        let refused: Result<(), String> = guarded(|| panic!("inside"));
        assert!(refused.is_err());
    }
}
