//! Support tickets for demos and tests.
//!
//! Everything is made up: a shop that sells household and outdoor things, has an app and a few
//! subscriptions, and gets mail about them. A ticket is built from phrases of its category, with
//! an opening, a mood, details, a closing, sometimes an aside about another matter, sometimes
//! typing mistakes. The same seed gives the same tickets on every machine.
//!
//! This crate must never hold text that somebody else wrote, and must stay free of everything
//! but the random numbers: the tests of other crates count on it being cheap.

#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic))]

mod grammar;
mod noise;
mod phrases;
mod write;

pub use write::{Format, Malformed, labels_to_json, to_jsonl, write_labels, write_tickets};

use phrases::{CATEGORIES, Category, common};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde::Serialize;
use std::collections::HashSet;

/// One ticket, with the label it deserves.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Ticket {
    /// `t00001`, `t00002`, ….
    pub id: String,
    /// What the customer wrote.
    pub text: String,
    /// The name of its category.
    pub label: String,
}

/// A category as a classifier is told about it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Label {
    /// The name of the category.
    pub name: String,
    /// What it means, in words.
    pub description: String,
    /// Tickets of this category.
    pub examples: Vec<String>,
}

/// The names of all categories.
pub fn label_names() -> Vec<&'static str> {
    CATEGORIES.iter().map(|category| category.name).collect()
}

/// `count` tickets, all different, with every category about as often as every other.
pub fn tickets(seed: u64, count: usize) -> Vec<Ticket> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let mut seen = HashSet::new();
    let mut tickets = Vec::new();
    while tickets.len() < count {
        let category = &CATEGORIES[rng.random_range(0..CATEGORIES.len())];
        let text = ticket_text(category, &mut rng);
        if !is_example(&text) && seen.insert(text.clone()) {
            let id = format!("t{:05}", tickets.len() + 1);
            tickets.push(Ticket {
                id,
                text,
                label: category.name.to_owned(),
            });
        }
    }
    tickets
}

/// Every category with as many examples as asked for. No example of any seed is ever among the
/// [`tickets`] of any seed.
pub fn labels(seed: u64, examples_per_label: usize) -> Vec<Label> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let mut label = |category: &Category| {
        let mut examples: Vec<String> = Vec::new();
        while examples.len() < examples_per_label {
            let text = ticket_text(category, &mut rng);
            if is_example(&text) && !examples.contains(&text) {
                examples.push(text);
            }
        }
        Label {
            name: category.name.to_owned(),
            description: category.description.to_owned(),
            examples,
        }
    };
    CATEGORIES.iter().map(&mut label).collect()
}

/// Whether a text belongs to the examples rather than to the tickets: a fifth of all texts,
/// chosen by their FNV-1a hash (Fowler, Noll and Vo), so that the two are apart for every seed.
fn is_example(text: &str) -> bool {
    let hash = text.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    (hash >> 32).is_multiple_of(5)
}

/// One text of a category.
fn ticket_text(category: &Category, rng: &mut ChaCha8Rng) -> String {
    let mut sentences: Vec<String> = Vec::new();
    let mut say = |phrases: &[&str], chance: f64, rng: &mut ChaCha8Rng| {
        if rng.random_bool(chance) {
            sentences.push(grammar::sentence(&grammar::expand(
                grammar::pick(phrases, rng),
                rng,
            )));
        }
    };
    say(common::OPENINGS, 0.35, rng);
    say(common::MOODS, 0.25, rng);
    say(category.cores, 1.0, rng);
    say(category.details, 0.6, rng);
    say(category.details, 0.1, rng);
    say(common::MOODS, 0.05, rng);
    if rng.random_bool(0.08) {
        let other = &CATEGORIES[rng.random_range(0..CATEGORIES.len())];
        say(common::ASIDES, 1.0, rng);
        say(other.cores, 1.0, rng);
    }
    say(common::CLOSINGS, 0.4, rng);

    let text = sentences.join(" ");
    match rng.random_range(0..20) {
        0..2 => noise::careless(&text),
        2..6 => noise::typos(&text, 40, rng),
        6 => noise::typos(&noise::careless(&text), 20, rng),
        _ => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashMap;

    #[test]
    fn the_same_seed_gives_the_same_tickets_and_another_seed_does_not() {
        assert_eq!(tickets(7, 200), tickets(7, 200));
        assert_eq!(tickets(7, 200)[..50], tickets(7, 50));
        assert_ne!(tickets(7, 200), tickets(8, 200));
        assert_eq!(labels(1, 8), labels(1, 8));
    }

    #[test]
    fn thousands_are_different_and_spread_over_all_categories() {
        let tickets = tickets(1, 5000);
        let texts: HashSet<_> = tickets.iter().map(|ticket| &ticket.text).collect();
        assert_eq!(texts.len(), 5000);
        let mut counts = HashMap::new();
        for ticket in &tickets {
            *counts.entry(&ticket.label).or_insert(0) += 1;
        }
        assert_eq!(counts.len(), CATEGORIES.len());
        assert!(
            counts.values().all(|&count| (500..750).contains(&count)),
            "{counts:?}"
        );
    }

    #[test]
    fn examples_are_never_tickets() {
        let tickets: HashSet<_> = tickets(1, 5000)
            .into_iter()
            .map(|ticket| ticket.text)
            .collect();
        for seed in 0..5 {
            for label in labels(seed, 20) {
                assert_eq!(label.examples.len(), 20);
                assert!(
                    label
                        .examples
                        .iter()
                        .all(|example| !tickets.contains(example))
                );
            }
        }
    }

    /// What the demo reports as accuracy means something only while the task is neither trivial
    /// nor impossible: counting words with 8 examples a label must do better than chance by far,
    /// and worse than perfect by far.
    #[test]
    fn counting_words_solves_some_of_it() {
        let words = |text: &str| -> HashSet<String> {
            text.split(|c: char| !c.is_alphanumeric())
                .map(str::to_lowercase)
                .collect()
        };
        let mut right = 0;
        let learned: Vec<Vec<HashSet<String>>> = labels(1, 8)
            .iter()
            .map(|label| {
                label
                    .examples
                    .iter()
                    .map(|example| words(example))
                    .collect()
            })
            .collect();
        let mut rarity: HashMap<&String, f64> = HashMap::new();
        for word in learned.iter().flatten().flatten() {
            *rarity.entry(word).or_insert(0.0) += 1.0;
        }
        let tickets = tickets(2, 1000);
        for ticket in &tickets {
            let own = words(&ticket.text);
            let score = |examples: &Vec<HashSet<String>>| -> f64 {
                let common = examples
                    .iter()
                    .flat_map(|example| example.intersection(&own));
                common.map(|word| (64.0 / rarity[word]).ln()).sum()
            };
            let best = learned
                .iter()
                .enumerate()
                .max_by(|(_, a), (_, b)| score(a).total_cmp(&score(b)))
                .map(|(index, _)| CATEGORIES[index].name);
            right += u32::from(best == Some(ticket.label.as_str()));
        }
        assert!((350..850).contains(&right), "{right} of 1000");
    }
}
