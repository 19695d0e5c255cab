//! Which letters of a rendered conversation came from messages.
//!
//! A template is a program: it trims, splits and joins what messages say, so where their text ends
//! up cannot be told from outside. Letters are therefore covered before rendering: each letter of a
//! message that could be part of a mark is replaced by one that occurs nowhere else, a private one
//! of Unicode. Wherever the template moves it, it can be told from the template's own, and is put
//! back afterwards. A mark that is complete without a covered letter was written by the template.
//!
//! A template that looks into messages (`'</think>' in message.content`) may look at the letters
//! that were covered. So fewer and fewer are: at first all letters that are in any mark, then one
//! of each mark, chosen in several ways. Each choice leaves no mark that messages could complete;
//! the first under which the template writes what it writes without covers is taken.

use std::collections::BTreeSet;

use serde_json::{Map, Value};

use super::ChatError;
use super::environment::Context;
use crate::tokenizer::{MarkedText, MarksInText};

/// Unicode's private letters beyond the first plane.
const PRIVATE: [std::ops::RangeInclusive<u32>; 2] = [0xF_0000..=0xF_FFFD, 0x10_0000..=0x10_FFFD];

/// Letters, and those that cover them.
pub(super) struct Shadow {
    letters: Vec<char>,
    /// The cover of the first letter; the others follow.
    base: u32,
}

/// Which letters to cover, the best choice first. Under each, every mark has a covered letter.
pub(super) fn sets(marks: &[&str]) -> Vec<BTreeSet<char>> {
    let mut sets = Vec::new();
    let mut every = BTreeSet::new();
    for mark in marks {
        let harmless: Vec<char> = mark.chars().filter(|c| class_of(*c) < WRITTEN).collect();
        match harmless.is_empty() {
            true => every.extend(mark.chars()),
            false => every.extend(harmless),
        }
    }
    sets.push(every);
    for order in [[0, 1, 2, 3], [0, 2, 1, 3], [0, 3, 1, 2], [3, 0, 1, 2]] {
        let rank = |c: &char| order.iter().position(|class| *class == class_of(*c));
        let one_of_each = marks.iter().filter_map(|mark| {
            let letters = mark.chars();
            letters.min_by_key(|c| rank(c).unwrap_or(order.len()))
        });
        let set = one_of_each.collect();
        if !sets.contains(&set) {
            sets.push(set);
        }
    }
    sets
}

/// The class of letters that are written in another way in JSON, or trimmed from texts.
const WRITTEN: usize = 4;

/// Letters by how likely templates look for them in messages.
fn class_of(letter: char) -> usize {
    match letter {
        '"' | '\\' => WRITTEN,
        c if c.is_whitespace() || c.is_control() => WRITTEN,
        '<' | '[' | '{' => 1,
        '>' | ']' | '}' | '/' => 2,
        c if c.is_alphanumeric() || c == '_' => 3,
        _ => 0,
    }
}

impl Shadow {
    /// Covers for `letters` that occur neither in `texts` nor in a conversation.
    pub fn new(
        letters: BTreeSet<char>,
        texts: [&str; 2],
        context: &Context,
    ) -> Result<Self, ChatError> {
        let mut taken = BTreeSet::new();
        for text in texts {
            note(text, &mut taken);
        }
        for (key, value) in &context.strangers {
            note(key, &mut taken);
            note_all(value, &mut taken);
        }
        let wanted = letters.len() as u32;
        for plane in PRIVATE {
            let mut base = *plane.start();
            while base + wanted <= *plane.end() + 1 {
                let Some(&used) = taken.range(base..base + wanted).next_back() else {
                    return Ok(Self {
                        letters: letters.into_iter().collect(),
                        base,
                    });
                };
                base = used + 1;
            }
        }
        Err(ChatError::TooLong)
    }

    /// The conversation with its letters covered, keys that a template may look up excepted.
    pub fn cover(&self, context: &Context, marks: &[&str]) -> Context {
        let words: Vec<&str> = marks.iter().copied().filter(|mark| is_word(mark)).collect();
        let mut covered = context.clone();
        for value in covered.strangers.values_mut() {
            self.cover_value(value, &words);
        }
        covered
    }

    /// Puts the letters back, and says which they are.
    pub fn uncover(&self, text: &str) -> MarkedText {
        let mut marked = MarkedText::default();
        let mut own = 0;
        for (at, letter) in text.char_indices() {
            let index = u32::from(letter).wrapping_sub(self.base) as usize;
            if let Some(covered) = self.letters.get(index) {
                marked.push(&text[own..at], MarksInText::Count);
                marked.push(covered.encode_utf8(&mut [0; 4]), MarksInText::AreText);
                own = at + letter.len_utf8();
            }
        }
        marked.push(&text[own..], MarksInText::Count);
        marked
    }

    /// Covers a value. `words` are the marks that are words, which keys may not hold.
    fn cover_value(&self, value: &mut Value, words: &[&str]) {
        match value {
            Value::String(text) => *text = self.cover_text(text),
            Value::Array(values) => {
                for value in values {
                    self.cover_value(value, words);
                }
            }
            Value::Object(map) => {
                let entries = std::mem::take(map).into_iter();
                *map = entries
                    .map(|(key, mut value)| {
                        self.cover_value(&mut value, words);
                        // Marks that are words are rare, and many of them hostile.
                        let free =
                            words.len() <= 64 && !words.iter().any(|word| key.contains(word));
                        match free && key.len() <= 64 && is_word(&key) {
                            true => (key, value),
                            false => (self.cover_text(&key), value),
                        }
                    })
                    .collect::<Map<_, _>>();
            }
            Value::Null | Value::Bool(_) | Value::Number(_) => {}
        }
    }

    fn cover_text(&self, text: &str) -> String {
        let cover = |letter| match self.letters.binary_search(&letter) {
            Ok(index) => char::from_u32(self.base + index as u32).unwrap_or(letter),
            Err(_) => letter,
        };
        text.chars().map(cover).collect()
    }
}

fn is_word(text: &str) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
    text.chars().all(plain)
}

/// Adds the private letters of `text` to `taken`.
fn note(text: &str, taken: &mut BTreeSet<u32>) {
    let private = |code: &u32| PRIVATE.iter().any(|plane| plane.contains(code));
    taken.extend(text.chars().map(u32::from).filter(private));
}

fn note_all(value: &Value, taken: &mut BTreeSet<u32>) {
    match value {
        Value::String(text) => note(text, taken),
        Value::Array(values) => values.iter().for_each(|value| note_all(value, taken)),
        Value::Object(map) => {
            for (key, value) in map {
                note(key, taken);
                note_all(value, taken);
            }
        }
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn context(content: &str) -> Context {
        let mut strangers = Map::new();
        strangers.insert(
            "messages".to_owned(),
            serde_json::json!([{"content": content}]),
        );
        Context {
            strangers,
            roles: Vec::new(),
            own: Map::new(),
            size: 0,
        }
    }

    #[test]
    fn under_every_choice_each_mark_has_a_covered_letter() {
        let marks = ["<|im_end|>", "<s>", "\n", "[INST]", "abc", "\""];
        let sets = sets(&marks);
        assert!(sets.len() > 3);
        for set in &sets {
            for mark in marks {
                assert!(mark.chars().any(|c| set.contains(&c)), "{mark} in {set:?}");
            }
        }
        assert!(sets[1].contains(&'|') && !sets[1].contains(&'_'));
    }

    #[test]
    fn covers_are_letters_that_occur_nowhere() {
        let taken = "\u{f0000}\u{f0002}";
        let marks = ["<|>"];
        let shadow =
            Shadow::new("<|>".chars().collect(), ["\u{f0006}", ""], &context(taken)).unwrap();
        assert_eq!(shadow.base, 0xf0003);
        let covered = shadow.cover(&context("a<|>\u{f0002}"), &marks);
        let content = covered.strangers["messages"][0]["content"]
            .as_str()
            .unwrap();
        assert_eq!(content, "a\u{f0003}\u{f0005}\u{f0004}\u{f0002}");
        let marked = shadow.uncover(&format!("<|>{content}"));
        assert_eq!(marked.text(), "<|>a<|>\u{f0002}");
        assert_eq!(marked.counts(), [0..4, 7..11]);
    }

    #[test]
    fn without_room_for_covers_nothing_is_rendered() {
        let all: String = PRIVATE
            .into_iter()
            .flatten()
            .step_by(2)
            .filter_map(char::from_u32)
            .collect();
        assert!(Shadow::new("ab".chars().collect(), ["", ""], &context(&all)).is_err());
    }
}
