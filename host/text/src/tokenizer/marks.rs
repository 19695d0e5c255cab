//! Texts that stand for one token wherever they appear.

use std::ops::Range;

use skep_weights::GgufTokenizer;
use skep_weights::gguf::TokenKind;

/// Longer texts are never found, so that looking takes time in proportion to the text.
const LONGEST: usize = 256;

/// A set of texts and their tokens. At each place of a text, the longest counts.
pub(super) struct Marks {
    /// By their texts, in the order of bytes, each text once.
    sorted: Vec<(Box<[u8]>, Mark)>,
    /// Whether a mark begins with that byte.
    begins: [bool; 256],
}

/// A mark's token, and how it takes to what is beside it.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Mark {
    pub id: u32,
    /// White space before it is part of it.
    pub takes_before: bool,
    /// White space after it is part of it.
    pub takes_after: bool,
    /// It does not count beside a letter, a digit or an underscore.
    pub single_word: bool,
}

impl Marks {
    /// The tokens of the kinds that `wanted` says.
    pub fn new(description: &GgufTokenizer, wanted: impl Fn(TokenKind) -> bool) -> Self {
        let tokens = (0_u32..).zip(description.tokens.iter().zip(&description.kinds));
        let marks = tokens.filter(|(_, (text, kind))| wanted(**kind) && !text.is_empty());
        Self::from_texts(marks.map(|(id, (text, _))| {
            let mark = Mark {
                id,
                ..Mark::default()
            };
            (text.as_str(), mark)
        }))
    }

    /// Where a text is there twice, its first token counts. Empty texts are left out.
    pub fn from_texts<'a>(marks: impl IntoIterator<Item = (&'a str, Mark)>) -> Self {
        let marks = marks.into_iter().filter(|(text, _)| !text.is_empty());
        let mut sorted: Vec<(Box<[u8]>, Mark)> = marks
            .map(|(text, mark)| (text.as_bytes().into(), mark))
            .collect();
        // Stable, so that of two equal texts the first stays first.
        sorted.sort_by(|(one, _), (other, _)| one.cmp(other));
        sorted.dedup_by(|(later, _), (first, _)| later == first);
        let mut begins = [false; 256];
        for (text, _) in &sorted {
            begins[usize::from(text[0])] = true;
        }
        Self { sorted, begins }
    }

    /// The length and the token of the longest mark that `text` begins with.
    pub fn at_start(&self, text: &str) -> Option<(usize, u32)> {
        let (length, mark) = self.find(text, 0, text.len())?;
        Some((length, mark.id))
    }

    /// The longest mark at `at` that ends at `end` at the latest.
    fn find(&self, text: &str, at: usize, end: usize) -> Option<(usize, Mark)> {
        let first = *text.as_bytes().get(at)?;
        if !self.begins[usize::from(first)] {
            return None;
        }
        // Those that have the text's next bytes, one more with each step. The mark that is these
        // bytes and no more comes first among them.
        let mut left = self.sorted.as_slice();
        let mut longest = None;
        let bytes = &text.as_bytes()[at..end.max(at)];
        for (depth, byte) in bytes.iter().take(LONGEST).enumerate() {
            let from = left.partition_point(|(mark, _)| mark.get(depth) < Some(byte));
            let count = left[from..].partition_point(|(mark, _)| mark.get(depth) == Some(byte));
            left = &left[from..from + count];
            let length = depth + 1;
            match left.first() {
                None => break,
                Some((mark, _)) if mark.len() > length => {}
                Some((_, mark)) => {
                    let alone = !mark.single_word
                        || !(text[..at].ends_with(of_word)
                            || text[at + length..].starts_with(of_word));
                    if alone {
                        longest = Some((length, *mark));
                    }
                }
            }
        }
        longest
    }

    /// Where the marks of `text` lie and their tokens, in order and apart from each other. Only
    /// marks that lie wholly in one of the ranges `within` count; the white space that some take
    /// may lie outside.
    pub fn spans(&self, text: &str, within: &[Range<usize>]) -> Vec<(Range<usize>, u32)> {
        let mut spans = Vec::new();
        let mut done = 0;
        for range in within {
            let mut at = range.start.max(done);
            while at < range.end {
                let Some((length, mark)) = self.find(text, at, range.end) else {
                    at += text[at..].chars().next().map_or(1, char::len_utf8);
                    continue;
                };
                let (mut start, mut stop) = (at, at + length);
                if mark.takes_before {
                    start = text[..at].trim_end().len().max(done);
                }
                if mark.takes_after {
                    stop = text.len() - text[stop..].trim_start().len();
                }
                spans.push((start..stop, mark.id));
                (at, done) = (stop, stop);
            }
        }
        spans
    }

    /// Cuts `text` at its marks: each time, the text before a mark and the mark's token; at the
    /// end what is left, and no token.
    pub fn cut<'a>(&'a self, text: &'a str) -> impl Iterator<Item = (&'a str, Option<u32>)> {
        let whole = 0..text.len();
        let mut spans = self.spans(text, std::slice::from_ref(&whole)).into_iter();
        let mut rest = Some(0);
        std::iter::from_fn(move || {
            let from = rest?;
            if let Some((span, id)) = spans.next() {
                rest = Some(span.end);
                return Some((&text[from..span.start], Some(id)));
            }
            rest = None;
            Some((&text[from..], None))
        })
    }
}

/// What makes a word go on.
fn of_word(letter: char) -> bool {
    letter.is_alphanumeric() || letter == '_'
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plain(id: u32) -> Mark {
        Mark {
            id,
            ..Mark::default()
        }
    }

    fn marks<const N: usize>(texts: [(&str, u32); N]) -> Marks {
        Marks::from_texts(texts.map(|(text, id)| (text, plain(id))))
    }

    #[test]
    fn the_longest_mark_at_the_first_place_counts() {
        let marks = marks([("<a", 1), ("<a>", 2), ("é", 3), ("<a>", 9)]);
        let cut: Vec<_> = marks.cut("x<a><a é<").collect();
        assert_eq!(
            cut,
            [("x", Some(2)), ("", Some(1)), (" ", Some(3)), ("<", None)]
        );
        assert_eq!(marks.cut("").collect::<Vec<_>>(), [("", None)]);
        assert_eq!(Marks::from_texts([]).cut("<a").count(), 1);
    }

    #[test]
    fn marks_that_lie_partly_outside_are_text() {
        let marks = marks([("<a>", 1), ("<b", 2)]);
        #[expect(clippy::single_range_in_vec_init, reason = "one range is meant")]
        let one = [1..6];
        let spans = |within: &[Range<usize>]| marks.spans("<a><a><b>", within);
        assert_eq!(spans(&[0..3, 5..9]), [(0..3, 1), (6..8, 2)]);
        assert_eq!(spans(&one), [(3..6, 1)]);
        assert!(spans(&[0..2, 2..5, 7..9]).is_empty());
        assert!(spans(&[]).is_empty());
    }

    #[test]
    fn marks_take_white_space_and_mind_their_neighbours() {
        let marks = Marks::from_texts([
            (
                "<l>",
                Mark {
                    takes_before: true,
                    takes_after: true,
                    ..plain(1)
                },
            ),
            (
                "yes",
                Mark {
                    single_word: true,
                    ..plain(2)
                },
            ),
        ]);
        let text = "a \u{a0}<l> \n <l> yes yesno_yes";
        let spans = marks.spans(text, std::slice::from_ref(&(0..text.len())));
        let found: Vec<_> = spans
            .into_iter()
            .map(|(span, id)| (&text[span], id))
            .collect();
        assert_eq!(found, [(" \u{a0}<l> \n ", 1), ("<l> ", 1), ("yes", 2)]);
    }
}
