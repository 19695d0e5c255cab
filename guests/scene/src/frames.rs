//! Sentences and the claims they make: filling a frame's slots, and reading a sentence back.
//!
//! Reading asks every frame of every voice, so it does not matter who speaks. A sentence that
//! fits no frame makes no claim that anybody could check, and is judged as small talk.

use std::collections::BTreeSet;
use std::sync::OnceLock;

use crate::claim::{Claim, Relation, Slot};
use crate::voices::VOICES;

/// Every name that may stand in a slot.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Names {
    /// People, but not the visitor.
    pub people: BTreeSet<String>,
    /// Places.
    pub places: BTreeSet<String>,
    /// Items.
    pub items: BTreeSet<String>,
}

/// Parts of the day.
pub const TIMES: [&str; 4] = ["morning", "afternoon", "evening", "night"];

/// Kinds of weather.
pub const WEATHERS: [&str; 4] = ["heat", "rain", "wind", "fog"];

/// Digits of a number of coins at most.
const DIGITS: usize = 6;

/// The sentence that a frame makes of a claim. A claim with too few terms leaves its slots empty.
pub fn fill(frame: &str, claim: &Claim) -> String {
    let mut sentence = frame.to_owned();
    for (slot, term) in claim.relation.slots().iter().zip(&claim.terms) {
        sentence = sentence.replace(slot.mark(), term);
    }
    capitalised(&sentence)
}

/// The text with its first letter large.
pub fn capitalised(text: &str) -> String {
    let mut letters = text.chars();
    match letters.next() {
        Some(first) => first.to_uppercase().chain(letters).collect(),
        None => String::new(),
    }
}

/// Every claim that the sentence makes by any frame of any voice. `sentence` has its full stop.
pub fn read(sentence: &str, names: &Names) -> BTreeSet<Claim> {
    let mut claims = BTreeSet::new();
    for (relation, parts) in all_frames() {
        if let Some(found) = Reader::new(names).fits(parts, sentence) {
            claims.insert(claim_of(*relation, &found));
        }
    }
    claims
}

/// Every frame of every voice, taken apart.
fn all_frames() -> &'static [(Relation, Vec<Part<'static>>)] {
    static FRAMES: OnceLock<Vec<(Relation, Vec<Part<'static>>)>> = OnceLock::new();
    FRAMES.get_or_init(|| {
        let frames = VOICES.iter().flat_map(|voice| voice.frames);
        let each = frames.flat_map(|(relation, frames)| frames.iter().map(|one| (*relation, *one)));
        each.map(|(relation, frame)| (relation, parts(frame)))
            .collect()
    })
}

fn claim_of(relation: Relation, found: &[(Slot, String)]) -> Claim {
    let term = |slot: &Slot| found.iter().find(|(of, _)| of == slot);
    let terms = relation.slots().iter().filter_map(term);
    Claim {
        relation,
        terms: terms.map(|(_, name)| name.clone()).collect(),
    }
}

/// The parts of a frame: text and slots in turn.
fn parts(frame: &str) -> Vec<Part<'_>> {
    let mut parts = Vec::new();
    let mut rest = frame;
    while let Some(open) = rest.find('{') {
        let (text, tail) = rest.split_at(open);
        let Some(slot) = slot_at(tail) else {
            break;
        };
        if !text.is_empty() {
            parts.push(Part::Text(text));
        }
        parts.push(Part::Slot(slot));
        rest = tail.get(slot.mark().len()..).unwrap_or("");
    }
    if !rest.is_empty() {
        parts.push(Part::Text(rest));
    }
    parts
}

/// A piece of a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Part<'a> {
    /// Text as it is.
    Text(&'a str),
    /// A name of this kind.
    Slot(Slot),
}

fn slot_at(text: &str) -> Option<Slot> {
    const SLOTS: [Slot; 7] = [
        Slot::Item,
        Slot::Person,
        Slot::Place,
        Slot::Place2,
        Slot::Coins,
        Slot::Time,
        Slot::Weather,
    ];
    SLOTS.into_iter().find(|slot| text.starts_with(slot.mark()))
}

struct Reader<'a> {
    names: &'a Names,
    found: Vec<(Slot, String)>,
}

impl<'a> Reader<'a> {
    fn new(names: &'a Names) -> Self {
        Self {
            names,
            found: Vec::new(),
        }
    }

    /// What the slots of the frame stand for in the sentence, if it fits the whole of it.
    fn fits(mut self, parts: &[Part<'_>], sentence: &str) -> Option<Vec<(Slot, String)>> {
        self.rest(parts, sentence, true).then_some(self.found)
    }

    fn rest(&mut self, parts: &[Part<'_>], sentence: &str, first: bool) -> bool {
        let Some((part, parts)) = parts.split_first() else {
            return sentence.is_empty();
        };
        match part {
            Part::Text(text) => {
                let after = sentence.strip_prefix(text);
                after.is_some_and(|after| self.rest(parts, after, false))
            }
            Part::Slot(slot) => self.slot(*slot, parts, sentence, first),
        }
    }

    fn slot(&mut self, slot: Slot, parts: &[Part<'_>], sentence: &str, first: bool) -> bool {
        for name in self.candidates(slot, sentence) {
            let written = if first {
                capitalised(&name)
            } else {
                name.clone()
            };
            let Some(after) = sentence.strip_prefix(written.as_str()) else {
                continue;
            };
            // A slot that comes twice stands for the same both times.
            let before = self.found.iter().find(|(of, _)| *of == slot);
            if before.is_some_and(|(_, earlier)| *earlier != name) {
                continue;
            }
            self.found.push((slot, name));
            if self.rest(parts, after, false) {
                return true;
            }
            self.found.pop();
        }
        false
    }

    fn candidates(&self, slot: Slot, sentence: &str) -> Vec<String> {
        let all = |names: &BTreeSet<String>| names.iter().cloned().collect();
        let words = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect();
        match slot {
            Slot::Item => all(&self.names.items),
            Slot::Person => all(&self.names.people),
            Slot::Place | Slot::Place2 => all(&self.names.places),
            Slot::Time => words(&TIMES),
            Slot::Weather => words(&WEATHERS),
            Slot::Coins => {
                let digits = sentence.bytes().take_while(u8::is_ascii_digit).count();
                match sentence.get(..digits) {
                    Some(number) if (1..=DIGITS).contains(&digits) => vec![number.to_owned()],
                    _ => Vec::new(),
                }
            }
        }
    }
}
