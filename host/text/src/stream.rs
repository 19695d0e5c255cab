//! Tokens that a model writes one by one, as text.
//!
//! A token may hold a part of a letter, so a [`TextStream`] hands out whole letters only. It also
//! looks for stops, texts at which writing ends, and holds back what may yet become one. What comes
//! out does not depend on how the text was cut into tokens.

use std::collections::VecDeque;

use crate::tokenizer::TextTokenizer;

/// What stands before the tokens of a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TextStart {
    /// Nothing: all of the stream is [`TextTokenizer::decode`] of all its tokens.
    New,
    /// A text that they go on with: [`TextTokenizer::decode_part`].
    Continues,
}

/// Turns tokens into text, up to the first stop.
///
/// The first stop is the one that is complete first; of several that are complete at the same
/// letter, the longest. The text before it comes out, the stop and what follows does not.
#[derive(Debug, Clone)]
pub struct TextStream {
    stops: Vec<Stop>,
    /// The beginning of a letter, at most three bytes.
    letter: Vec<u8>,
    /// Text that may become part of a stop, as bytes.
    held: VecDeque<u8>,
    /// Whether a space that comes now is none of the text.
    at_start: bool,
    stopped: bool,
}

impl TextStream {
    /// A stream that ends at `stops`, of which empty ones are left out.
    pub fn new<S: AsRef<str>>(stops: &[S], start: TextStart) -> Self {
        let stops = stops.iter().map(AsRef::as_ref);
        Self {
            stops: stops
                .filter(|stop: &&str| !stop.is_empty())
                .map(Stop::new)
                .collect(),
            letter: Vec::new(),
            held: VecDeque::new(),
            at_start: start == TextStart::New,
            stopped: false,
        }
    }

    /// Adds a token and returns the text that is certain now. After a stop, nothing.
    pub fn push(&mut self, tokenizer: &TextTokenizer, token: u32) -> String {
        let mut bytes = tokenizer.bytes(token).unwrap_or_default();
        if self.at_start && !bytes.is_empty() {
            self.at_start = false;
            if tokenizer.puts_space_before() {
                bytes = bytes.strip_prefix(b" ").unwrap_or(bytes);
            }
        }
        self.push_bytes(bytes)
    }

    /// Ends the text and returns what was held back. A letter that is not complete becomes U+FFFD.
    pub fn finish(&mut self) -> String {
        let mut text = String::new();
        if !self.letter.is_empty() {
            self.letter.clear();
            self.add("\u{fffd}", &mut text);
        }
        if !self.stopped {
            text.push_str(&self.release(0));
        }
        self.held.clear();
        text
    }

    /// Whether a stop came up.
    pub fn stopped(&self) -> bool {
        self.stopped
    }

    fn push_bytes(&mut self, bytes: &[u8]) -> String {
        let mut text = String::new();
        let mut begun = std::mem::take(&mut self.letter);
        begun.extend_from_slice(bytes);
        let mut rest = begun.as_slice();
        // As `String::from_utf8_lossy`: each longest run that could have begun a letter becomes
        // one replacement.
        while !rest.is_empty() && !self.stopped {
            let error = match std::str::from_utf8(rest) {
                Ok(letters) => {
                    self.add(letters, &mut text);
                    break;
                }
                Err(error) => error,
            };
            let (valid, after) = rest.split_at(error.valid_up_to());
            self.add(&String::from_utf8_lossy(valid), &mut text);
            match error.error_len() {
                Some(length) => {
                    self.add("\u{fffd}", &mut text);
                    rest = &after[length..];
                }
                None => {
                    self.letter = after.to_vec();
                    break;
                }
            }
        }
        text
    }

    /// Adds letters and appends to `out` what is certain.
    fn add(&mut self, letters: &str, out: &mut String) {
        if self.stopped {
            return;
        }
        if self.stops.is_empty() {
            out.push_str(letters);
            return;
        }
        for byte in letters.bytes() {
            self.held.push_back(byte);
            let complete = self
                .stops
                .iter_mut()
                .filter_map(|stop| stop.step(byte))
                .max();
            if let Some(length) = complete {
                out.push_str(&self.release(length));
                self.held.clear();
                self.letter.clear();
                self.stopped = true;
                return;
            }
        }
        let longest = self.stops.iter().map(|stop| stop.matched).max();
        out.push_str(&self.release(longest.unwrap_or(0)));
    }

    /// Takes out what was held back but for its last `keep` bytes, which begin a stop and so a
    /// letter.
    fn release(&mut self, keep: usize) -> String {
        let certain = self.held.len().saturating_sub(keep);
        let bytes: Vec<u8> = self.held.drain(..certain).collect();
        String::from_utf8_lossy(&bytes).into_owned()
    }
}

/// A stop and how much of it the text ends with (Knuth, Morris and Pratt, "Fast pattern matching
/// in strings", 1977).
#[derive(Debug, Clone)]
struct Stop {
    text: Box<[u8]>,
    /// For each length, how much of the beginning the stop's beginning of that length ends with,
    /// itself left out.
    border: Box<[usize]>,
    matched: usize,
}

impl Stop {
    fn new(text: &str) -> Self {
        let text = text.as_bytes();
        let mut border = vec![0; text.len() + 1];
        let mut length = 0;
        for at in 1..text.len() {
            while length > 0 && text[length] != text[at] {
                length = border[length];
            }
            if text[length] == text[at] {
                length += 1;
            }
            border[at + 1] = length;
        }
        Self {
            text: text.into(),
            border: border.into(),
            matched: 0,
        }
    }

    /// The stop's length, if it is complete with `byte`.
    fn step(&mut self, byte: u8) -> Option<usize> {
        while self.matched > 0 && self.text[self.matched] != byte {
            self.matched = self.border[self.matched];
        }
        if self.text[self.matched] == byte {
            self.matched += 1;
        }
        if self.matched < self.text.len() {
            return None;
        }
        self.matched = self.border[self.matched];
        Some(self.text.len())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// What is before the stop that is complete first, found by trying all.
    fn before_stop(text: &str, stops: &[String]) -> (String, bool) {
        for (end, _) in text.char_indices().chain([(text.len(), ' ')]) {
            let ending = stops
                .iter()
                .filter(|stop| !stop.is_empty() && text[..end].ends_with(&***stop));
            if let Some(length) = ending.map(String::len).max() {
                return (text[..end - length].to_owned(), true);
            }
        }
        (text.to_owned(), false)
    }

    fn streamed(stream: &mut TextStream, parts: &[Vec<u8>]) -> String {
        let mut text: String = parts.iter().map(|part| stream.push_bytes(part)).collect();
        text.push_str(&stream.finish());
        text
    }

    #[test]
    fn letters_come_out_whole() {
        let mut stream = TextStream::new::<&str>(&[], TextStart::New);
        assert_eq!(stream.push_bytes(&[b'a', 0xf0, 0x9f]), "a");
        assert_eq!(stream.push_bytes(&[0x90]), "");
        assert_eq!(stream.push_bytes(&[0x9d, b'!']), "🐝!");
        assert_eq!(stream.push_bytes(&[0xf0, 0x9f]), "");
        assert_eq!(stream.push_bytes(b"x"), "\u{fffd}x");
        assert_eq!(stream.push_bytes(&[0xc3]), "");
        assert_eq!(stream.finish(), "\u{fffd}");
    }

    #[test]
    fn what_may_become_a_stop_is_held_back() {
        let mut stream = TextStream::new(&["<|end|>", "\n\n"], TextStart::New);
        assert_eq!(stream.push_bytes(b"a<|e"), "a");
        assert_eq!(stream.push_bytes(b"mpty\n"), "<|empty");
        assert_eq!(stream.push_bytes(b"b<|end|"), "\nb");
        assert!(!stream.stopped());
        assert_eq!(stream.push_bytes(b"> more"), "");
        assert!(stream.stopped());
        assert_eq!(stream.push_bytes(b"more"), "");
        assert_eq!(stream.finish(), "");
        let mut open = TextStream::new(&["<|end|>"], TextStart::New);
        assert_eq!(open.push_bytes(b"a<|en"), "a");
        assert_eq!(open.finish(), "<|en");
    }

    #[test]
    fn a_long_stop_takes_no_longer_than_the_text() {
        let stop = "a".repeat(1 << 20);
        let mut stream = TextStream::new(&[&stop], TextStart::New);
        let text = "a".repeat((1 << 20) - 1) + "b";
        assert_eq!(streamed(&mut stream, &[text.clone().into()]), text);
    }

    proptest! {
        #[test]
        fn what_comes_out_does_not_depend_on_the_cut(
            parts in proptest::collection::vec(
                prop_oneof![
                    proptest::collection::vec(any::<u8>(), 0..4),
                    "[abé\n]{0,4}".prop_map(String::into_bytes),
                    Just("🐝".as_bytes()[..2].to_vec()),
                    Just("🐝".as_bytes()[2..].to_vec()),
                ],
                0..12,
            ),
            stops in proptest::collection::vec("[abé\n🐝\u{fffd}]{0,4}", 0..4),
        ) {
            let bytes = parts.concat();
            let whole = String::from_utf8_lossy(&bytes);
            let (expected, stopped) = before_stop(&whole, &stops);
            let mut stream = TextStream::new(&stops, TextStart::New);
            prop_assert_eq!(streamed(&mut stream, &parts), expected.clone());
            prop_assert_eq!(stream.stopped(), stopped);
            let single: Vec<Vec<u8>> = bytes.iter().map(|&byte| vec![byte]).collect();
            let mut stream = TextStream::new(&stops, TextStart::New);
            prop_assert_eq!(streamed(&mut stream, &single), expected);
        }
    }
}
