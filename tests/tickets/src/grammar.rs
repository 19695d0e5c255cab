//! Expands phrases: every `{name}` becomes one of the entries of the slot of that name.

use crate::phrases::common::SLOTS;
use rand::Rng;
use rand::seq::IndexedRandom;

/// One of the phrases, or the empty string where there are none.
pub fn pick<'a>(phrases: &[&'a str], rng: &mut impl Rng) -> &'a str {
    phrases.choose(rng).copied().unwrap_or_default()
}

/// The phrase with its slots filled. A slot that does not exist stays as it is written.
pub fn expand(phrase: &str, rng: &mut impl Rng) -> String {
    let mut text = String::new();
    let mut rest = phrase;
    while let Some((before, after)) = rest.split_once('{') {
        text.push_str(before);
        let Some((name, tail)) = after.split_once('}') else {
            rest = after;
            continue;
        };
        match SLOTS.iter().find(|(slot, _)| *slot == name) {
            Some((_, entries)) => text.push_str(&expand(pick(entries, rng), rng)),
            None => {
                text.push('{');
                text.push_str(name);
                text.push('}');
            }
        }
        rest = tail;
    }
    text.push_str(rest);
    text
}

/// The text with its first letter made a capital one.
pub fn sentence(text: &str) -> String {
    let mut letters = text.chars();
    match letters.next() {
        Some(first) => first.to_uppercase().chain(letters).collect(),
        None => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::phrases::{CATEGORIES, common};
    use rand::SeedableRng;
    use rand_chacha::ChaCha8Rng;

    #[test]
    fn every_slot_that_is_named_exists_and_ends() {
        let mut rng = ChaCha8Rng::seed_from_u64(1);
        let slots = SLOTS.iter().flat_map(|(_, entries)| entries.iter());
        let own = CATEGORIES
            .iter()
            .flat_map(|c| c.cores.iter().chain(c.details));
        let shared = [
            common::OPENINGS,
            common::MOODS,
            common::CLOSINGS,
            common::ASIDES,
        ];
        for phrase in slots.chain(own).chain(shared.into_iter().flatten()) {
            let text = expand(phrase, &mut rng);
            assert!(!text.contains(['{', '}']), "{phrase} became {text}");
        }
    }

    #[test]
    fn an_unknown_or_open_slot_does_no_harm() {
        let mut rng = ChaCha8Rng::seed_from_u64(1);
        assert_eq!(expand("a {nonsense} b", &mut rng), "a {nonsense} b");
        assert_eq!(expand("a {open", &mut rng), "a open");
    }
}
