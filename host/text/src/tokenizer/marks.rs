//! Texts that stand for one token wherever they appear.

use std::collections::HashMap;

use skep_weights::GgufTokenizer;
use skep_weights::gguf::TokenKind;

/// A set of texts and their tokens. At each place of a text, the longest counts.
pub(super) struct Marks {
    /// By length in bytes, the longest first.
    by_length: Vec<(usize, HashMap<Box<str>, u32>)>,
    /// Whether a mark begins with that byte.
    begins: [bool; 256],
}

impl Marks {
    /// The tokens of the kinds that `wanted` says.
    pub fn new(description: &GgufTokenizer, wanted: impl Fn(TokenKind) -> bool) -> Self {
        let tokens = description.tokens.iter().zip(&description.kinds);
        let marks = tokens
            .enumerate()
            .filter(|(_, (text, kind))| wanted(**kind) && !text.is_empty())
            .map(|(id, (text, _))| (text.as_str(), id as u32));
        Self::from_texts(marks)
    }

    /// Where a text is there twice, its first token counts.
    pub fn from_texts<'a>(marks: impl IntoIterator<Item = (&'a str, u32)>) -> Self {
        let mut lengths: HashMap<usize, HashMap<Box<str>, u32>> = HashMap::new();
        let mut begins = [false; 256];
        for (text, id) in marks {
            if let Some(first) = text.bytes().next() {
                begins[usize::from(first)] = true;
                lengths
                    .entry(text.len())
                    .or_default()
                    .entry(text.into())
                    .or_insert(id);
            }
        }
        let mut by_length: Vec<_> = lengths.into_iter().collect();
        by_length.sort_by_key(|(length, _)| std::cmp::Reverse(*length));
        Self { by_length, begins }
    }

    /// The length and the token of the longest mark that `text` begins with.
    pub fn at_start(&self, text: &str) -> Option<(usize, u32)> {
        let first = text.bytes().next()?;
        if !self.begins[usize::from(first)] {
            return None;
        }
        self.by_length.iter().find_map(|(length, marks)| {
            let id = *marks.get(text.get(..*length)?)?;
            Some((*length, id))
        })
    }

    /// Cuts `text` at its marks: each time, the text before a mark and the mark's token; at the
    /// end what is left, and no token.
    pub fn cut<'a>(&'a self, text: &'a str) -> impl Iterator<Item = (&'a str, Option<u32>)> {
        let mut rest = Some(text);
        std::iter::from_fn(move || {
            let from = rest?;
            for (at, _) in from.char_indices() {
                if let Some((length, id)) = self.at_start(&from[at..]) {
                    rest = Some(&from[at + length..]);
                    return Some((&from[..at], Some(id)));
                }
            }
            rest = None;
            Some((from, None))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_mark_at_the_first_place_counts() {
        let marks = Marks::from_texts([("<a", 1), ("<a>", 2), ("é", 3), ("<a>", 9)]);
        let cut: Vec<_> = marks.cut("x<a><a é<").collect();
        assert_eq!(
            cut,
            [("x", Some(2)), ("", Some(1)), (" ", Some(3)), ("<", None)]
        );
        assert_eq!(marks.cut("").collect::<Vec<_>>(), [("", None)]);
        assert_eq!(Marks::from_texts([]).cut("<a").count(), 1);
    }
}
