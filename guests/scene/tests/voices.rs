//! The voices' text keeps its promises: every voice claims everything, sentences read back as
//! what they claim, and small talk names nothing and claims nothing.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::BTreeSet;

use npc_scene::frames::{TIMES, WEATHERS, fill, read};
use npc_scene::voices::{Occasion, VOICES};
use npc_scene::{Claim, Names, Relation, Slot, reply, talk};

/// Words that say who has, wants, trades or owes something, how much, when, or what is true.
/// Small talk that used them could claim something that nobody checks.
const CLAIMING: &[&str] = &[
    "had",
    "holds",
    "own",
    "owns",
    "sell",
    "sells",
    "sold",
    "bought",
    "pay",
    "paid",
    "owe",
    "coin",
    "coins",
    "price",
    "costs",
    "lost",
    "stole",
    "stolen",
    "hid",
    "hidden",
    "dead",
    "killed",
    "yes",
    "aye",
    "true",
    "false",
    "lie",
    "lies",
    "yours",
    "one",
    "two",
    "three",
    "four",
    "five",
    "six",
    "seven",
    "eight",
    "nine",
    "ten",
    "hundred",
    "dawn",
    "dusk",
    "midnight",
    "noon",
    "sun",
    "snow",
    "storm",
    "today",
    "tonight",
    "tomorrow",
    "yesterday",
    "miller",
    "baker",
    "smith",
    "innkeeper",
    "priest",
    "merchant",
    "gardener",
    "ferryman",
];

fn names() -> Names {
    let set = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
    Names {
        people: set(&["Maren", "Odo"]),
        places: set(&["mill", "fountain"]),
        items: set(&["map", "key"]),
    }
}

fn claim(relation: Relation) -> Claim {
    let terms: Vec<&str> = relation
        .slots()
        .iter()
        .map(|slot| match slot {
            Slot::Item => "map",
            Slot::Person => "Odo",
            Slot::Place => "mill",
            Slot::Place2 => "fountain",
            Slot::Coins => "12",
            Slot::Time => TIMES[2],
            Slot::Weather => WEATHERS[1],
        })
        .collect();
    Claim::new(relation, &terms)
}

#[test]
fn every_voice_claims_everything_and_is_read_back() {
    for voice in VOICES {
        for relation in Relation::ALL {
            let claim = claim(relation);
            let frames = voice.frames(relation);
            assert!(
                frames.len() >= 2,
                "{} has few frames for {relation:?}",
                voice.name
            );
            for frame in frames {
                let sentence = fill(frame, &claim);
                let read: Vec<Claim> = read(&sentence, &names()).into_iter().collect();
                assert_eq!(
                    read,
                    std::slice::from_ref(&claim),
                    "{}: {sentence}",
                    voice.name
                );
                let sentences: Vec<&str> = reply::sentences(&sentence).collect();
                assert_eq!(sentences, [sentence.as_str()], "a frame is one sentence");
                assert!(!sentence.contains('{'), "{sentence}");
            }
        }
    }
}

#[test]
fn other_names_are_no_claims() {
    assert!(read("The crown lies at the mill, dear.", &names()).is_empty());
    assert!(read("The map lies at the mill, dear. ", &names()).is_empty());
    assert!(read("The map is 1234567 coins, dear.", &names()).is_empty());
    assert!(talk::check("The crown lies at the mill, dear.").is_err());
}

#[test]
fn small_talk_claims_nothing() {
    let occasions = [
        Occasion::Friend,
        Occasion::Stranger,
        Occasion::Farewell,
        Occasion::Thanked,
        Occasion::Insulted,
        Occasion::Puzzled,
        Occasion::Glad,
        Occasion::Sour,
        Occasion::Lead,
        Occasion::Tail,
    ];
    for voice in VOICES {
        for occasion in occasions {
            assert!(
                voice.talk(occasion).len() >= 5,
                "{}: {occasion:?}",
                voice.name
            );
        }
    }
    for sentence in talk::sentences() {
        assert_eq!(talk::check(sentence), Ok(()), "{sentence}");
        assert!(read(sentence, &names()).is_empty(), "{sentence} is a claim");
    }
    let banned: BTreeSet<&str> = CLAIMING
        .iter()
        .copied()
        .chain(TIMES)
        .chain(WEATHERS)
        .collect();
    let used: Vec<&String> = talk::lexicon()
        .iter()
        .filter(|word| banned.contains(word.as_str()))
        .collect();
    assert!(used.is_empty(), "small talk has words that claim: {used:?}");
    for word in talk::lexicon() {
        assert!(
            word.chars()
                .all(|letter| letter.is_ascii_alphabetic() || "'-".contains(letter)),
            "{word}"
        );
    }
}

#[test]
fn what_is_no_small_talk_is_refused() {
    for text in [
        "",
        ".",
        "so",
        "So,.",
        "so soft.",
        "The Child.",
        "Xyzzy.",
        "So  soft.",
        "So\nsoft.",
        "So soft ",
        "So so so so so so so so so so so so so so so so so.",
    ] {
        assert!(
            talk::check(text).is_err(),
            "{text:?} was taken for small talk"
        );
    }
}
