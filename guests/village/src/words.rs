//! What a visitor means: their words as an intent, the names that came up, and what they claim.
//!
//! The words are untrusted and of any length; only their beginning is looked at. What is not
//! understood is small talk. Nothing here changes anything.

use std::collections::BTreeSet;

use npc_scene::Intent;

use crate::state::{ItemId, PersonId, PlaceId, State, VISITOR, Whereabouts};

/// Bytes of words that are looked at, and kept in the log.
pub const WORDS_BYTES: usize = 240;

/// Names that are taken up from one saying.
const TOPICS: usize = 3;

/// What a visitor said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Saying {
    /// What it was about.
    pub intent: Intent,
    /// Items that came up.
    pub items: Vec<ItemId>,
    /// People that came up, but for the one spoken to.
    pub people: Vec<PersonId>,
    /// Places that came up.
    pub places: Vec<PlaceId>,
    /// Whether the one spoken to was named.
    pub addressed: bool,
    /// What it claims.
    pub claim: Option<Saw>,
}

/// A claim of the visitor's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Saw {
    /// The item is there.
    At(ItemId, Whereabouts),
    /// The item belongs to them.
    Owner(ItemId, PersonId),
}

impl Saying {
    /// How many names came up.
    pub fn names(&self) -> usize {
        self.items.len() + self.people.len() + self.places.len()
    }
}

/// The beginning of the words: at most [`WORDS_BYTES`] bytes, whole letters.
pub fn bounded(words: &str) -> &str {
    crate::violation::cut(words, WORDS_BYTES)
}

/// What the words mean, said to this person.
pub fn understand(state: &State, to: PersonId, words: &str) -> Saying {
    let words = bounded(words).to_lowercase();
    let tokens: Vec<&str> = words
        .split(|letter: char| !letter.is_alphanumeric() && letter != '\'')
        .filter(|token| !token.is_empty())
        .collect();
    let mut saying = Saying {
        intent: Intent::Chat,
        items: Vec::new(),
        people: Vec::new(),
        places: Vec::new(),
        addressed: tokens.iter().any(|token| is_named(state, to, token)),
        claim: None,
    };
    for token in &tokens {
        take_up(state, to, token, &mut saying);
    }
    let asked = words.contains('?') || tokens.first().is_some_and(|first| ASKING.contains(first));
    if !asked {
        saying.claim = claim(to, &tokens, &saying);
    }
    saying.intent = intent(&tokens, asked, &saying);
    saying
}

fn take_up(state: &State, to: PersonId, token: &str, saying: &mut Saying) {
    if saying.names() >= TOPICS {
        return;
    }
    let item = state.item_named(token);
    if let Some(item) = item.filter(|item| !saying.items.contains(item)) {
        saying.items.push(item);
    }
    let place = state.place_named(token);
    if let Some(place) = place.filter(|place| !saying.places.contains(place)) {
        saying.places.push(place);
    }
    let is = |id: &PersonId| is_named(state, *id, token);
    let person = state.villagers().find(is).filter(|person| *person != to);
    if let Some(person) = person.filter(|person| !saying.people.contains(person)) {
        saying.people.push(person);
    }
}

fn is_named(state: &State, person: PersonId, token: &str) -> bool {
    state.person_name(person).to_lowercase() == token
}

const ASKING: [&str; 14] = [
    "who", "where", "what", "which", "when", "why", "how", "do", "does", "is", "are", "did",
    "tell", "can",
];
const RUDE: [&str; 15] = [
    "fool", "idiot", "stupid", "hate", "ugly", "liar", "thief", "kill", "hit", "damn", "swine",
    "coward", "scum", "shut", "obey",
];
const THANKFUL: [&str; 5] = ["thanks", "thank", "grateful", "cheers", "kind"];
const PARTING: [&str; 6] = [
    "bye",
    "goodbye",
    "farewell",
    "later",
    "leaving",
    "goodnight",
];
const GREETING: [&str; 8] = [
    "hello",
    "hi",
    "hey",
    "greetings",
    "morning",
    "evening",
    "afternoon",
    "howdy",
];
const WORKING: [&str; 8] = [
    "work", "job", "quest", "task", "errand", "help", "need", "chore",
];
const BUYING: [&str; 7] = ["buy", "sell", "price", "cost", "costs", "coins", "much"];
const BEGGING: [&str; 9] = [
    "give", "lend", "hand", "want", "gimme", "borrow", "please", "bring", "share",
];

fn intent(tokens: &[&str], asked: bool, saying: &Saying) -> Intent {
    let any = |list: &[&str]| tokens.iter().any(|token| list.contains(token));
    let thing = !saying.items.is_empty();
    if any(&RUDE) {
        Intent::Insult
    } else if any(&BUYING) {
        Intent::Buy
    } else if any(&WORKING) && !thing {
        Intent::Work
    } else if saying.claim.is_some() {
        Intent::Claim
    } else if any(&BEGGING) {
        Intent::Beg
    } else if any(&THANKFUL) {
        Intent::Thank
    } else if any(&PARTING) {
        Intent::Part
    } else if asked || saying.names() > 0 {
        Intent::Ask
    } else if any(&GREETING) {
        Intent::Greet
    } else {
        Intent::Chat
    }
}

/// What the words claim of the first item in them: who has it, where it lies, whose it is.
fn claim(to: PersonId, tokens: &[&str], saying: &Saying) -> Option<Saw> {
    let item = *saying.items.first()?;
    let words: BTreeSet<&str> = tokens.iter().copied().collect();
    let any = |list: &[&str]| list.iter().any(|word| words.contains(word));
    if any(&[
        "not", "no", "never", "don't", "doesn't", "isn't", "if", "maybe",
    ]) {
        return None;
    }
    let person = saying.people.first().copied();
    if any(&["mine"]) || any(&["own"]) && any(&["i"]) {
        return Some(Saw::Owner(item, VISITOR));
    }
    if any(&["belongs", "owns", "yours"]) {
        // Of somebody whom the village does not have nothing was understood: who is listening is
        // meant only by "you".
        let owner = person.or(any(&["you", "yours"]).then_some(to));
        return owner.map(|owner| Saw::Owner(item, owner));
    }
    if any(&[
        "has", "have", "hold", "holds", "carries", "carry", "hid", "hides", "took", "stole",
    ]) {
        let holder = match person {
            Some(person) => person,
            None if any(&["you"]) => to,
            None if any(&["i"]) => VISITOR,
            None => return None,
        };
        return Some(Saw::At(item, Whereabouts::With(holder)));
    }
    let place = saying.places.first().copied();
    if any(&["at", "in", "lies", "by", "near"]) {
        return place.map(|place| Saw::At(item, Whereabouts::Lies(place)));
    }
    None
}

/// Whether the claim is so, as far as this person knows; nothing if they do not.
pub fn verdict(state: &State, person: PersonId, claim: Saw) -> Option<bool> {
    match claim {
        // Whose a thing is, is known to all.
        Saw::Owner(item, owner) => state.item(item).map(|item| item.owner == owner),
        Saw::At(item, at) => {
            let here = at == Whereabouts::With(person) || state.has(person, item);
            let visitor = at == Whereabouts::With(VISITOR) && state.together(person, VISITOR);
            (here || visitor || state.knows(person, item))
                .then(|| state.whereabouts(item) == Some(at))
        }
    }
}
