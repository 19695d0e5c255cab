//! The grammar is one that llguidance takes, admits what the script says, and nothing that names
//! or does what the scene does not have.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::sync::Arc;

use llguidance::api::{ParserLimits, TopLevelGrammar};
use llguidance::toktrie::{ApproximateTokEnv, TokEnv, TokRxInfo, TokTrie};
use llguidance::{Matcher, ParserFactory};
use npc_scene::dice::Dice;
use npc_scene::{
    Action, Claim, Heard, Intent, Mood, Regard, Relation, Scene, Speaker, grammar, script, voices,
};

/// The bounds that a node sets for a grammar, in llguidance's units (`skep-text` has the same).
const LIMITS: ParserLimits = ParserLimits {
    max_items_in_row: 2_000,
    initial_lexer_fuel: 1_000_000,
    step_lexer_fuel: 200_000,
    step_max_items: 50_000,
    max_lexer_states: 30_000,
    max_grammar_size: 200_000,
    precompute_large_lexemes: false,
    verbose_errors: true,
};

/// The first token that is longer than a byte.
const PIECES: u32 = 256;

/// Whether the grammar admits the text as a whole: written in the pieces of words that a model
/// would write it in, every one of which has to be in the mask of its place.
fn admits(factory: &ParserFactory, grammar: &str, text: &str) -> bool {
    let grammar = TopLevelGrammar::from_lark(grammar.to_owned());
    let mut matcher = Matcher::new(factory.create_parser(grammar));
    assert_eq!(matcher.get_error(), None, "the grammar is refused");
    let mut rest = text.as_bytes();
    while !rest.is_empty() {
        let mask = matcher
            .compute_mask_or_eos()
            .expect("a mask within the bounds");
        let (token, length) = longest(rest);
        if !mask.is_allowed(token) {
            return false;
        }
        matcher
            .consume_token(token)
            .expect("what the mask has is taken");
        rest = &rest[length..];
    }
    matcher.is_accepting().expect("the matcher works")
}

/// The token that the text begins with, and how many bytes it has.
fn longest(text: &[u8]) -> (u32, usize) {
    let place = PIECES_OF_WORDS
        .iter()
        .position(|piece| text.starts_with(piece.as_bytes()));
    match place {
        Some(place) => (PIECES + place as u32, PIECES_OF_WORDS[place].len()),
        None => (u32::from(text[0]), 1),
    }
}

/// Pieces as a tokenizer makes them, beside the single bytes.
const PIECES_OF_WORDS: [&str; 24] = [
    " the", " is", " dear", " There", " nothing", " |", " ma", "ing", "er", " I", " my", " at",
    " to", " you", "th", "in", "re", " s", " b", " love", " for", " so", "ll", " coins",
];

fn factory() -> ParserFactory {
    let mut words: Vec<Vec<u8>> = (0..=255_u8).map(|byte| vec![byte]).collect();
    words.extend(
        PIECES_OF_WORDS
            .iter()
            .map(|piece| piece.as_bytes().to_vec()),
    );
    words.push(b"\xff<end>".to_vec());
    let end = words.len() as u32 - 1;
    let info = TokRxInfo::new(words.len() as u32, end);
    let trie = TokTrie::from(&info, &words);
    let environment: TokEnv = Arc::new(ApproximateTokEnv::new(trie));
    let mut factory = ParserFactory::new_simple(&environment).expect("a vocabulary");
    factory.quiet();
    *factory.limits_mut() = LIMITS;
    factory
}

fn scene(voice: &str) -> Scene {
    Scene {
        speaker: Speaker {
            name: "Maren".to_owned(),
            role: "baker".to_owned(),
            voice: voice.to_owned(),
            mood: Mood::Glad,
            regard: Regard::Friend,
        },
        place: "mill".to_owned(),
        time: "morning".to_owned(),
        weather: "rain".to_owned(),
        present: vec!["Odo".to_owned()],
        claims: vec![
            Claim::new(Relation::Have, &["map"]),
            Claim::new(Relation::Price, &["map", "4"]),
            Claim::new(Relation::Lies, &["key", "mill"]),
            Claim::new(Relation::Refuses, &["map"]),
            Claim::new(Relation::Time, &["morning"]),
            Claim::new(Relation::Weather, &["rain"]),
            Claim::new(Relation::Sells, &["map", "4"]),
            Claim::new(Relation::Leaves, &["fountain"]),
        ],
        actions: vec![
            Action::Nothing,
            Action::Sell("map".to_owned()),
            Action::Go("fountain".to_owned()),
        ],
        heard: Heard {
            words: "I want to buy the map.".to_owned(),
            intent: Intent::Buy,
            topics: vec!["map".to_owned()],
        },
    }
}

#[test]
fn the_grammar_admits_what_the_script_says() {
    let factory = factory();
    let mut dice = Dice::new(4);
    for voice in voices::VOICES {
        let mut scene = scene(voice.name);
        for intent in [
            Intent::Buy,
            Intent::Greet,
            Intent::Insult,
            Intent::Chat,
            Intent::Beg,
        ] {
            scene.heard.intent = intent;
            let text = format!(" {}", script::reply(&scene, &mut dice));
            let grammar = grammar::grammar(&scene);
            assert!(admits(&factory, &grammar, &text), "refused: {text}");
        }
    }
}

#[test]
fn the_grammar_refuses_what_the_scene_does_not_have() {
    let factory = factory();
    let grammar = grammar::grammar(&scene("warm"));
    for text in [
        " There, there. | nothing",
        " The key lies at the mill, dear. | nothing",
        " The key lies at the mill, dear. There, there. I have the map right here, dear. | nothing",
        " Then the map is yours for 4 coins, dear. | sell map",
        " I must be off to the fountain, dear. | go fountain",
        " The map stays with me, love. | nothing",
        " Be soft, my dear bear. | nothing",
    ] {
        assert!(admits(&factory, &grammar, text), "refused: {text}");
    }
    for text in [
        "",
        " ",
        "There, there. | nothing",
        " There, there.",
        " There, there. | give map",
        " There, there. | sell key",
        " There, there. | go mill",
        " The key lies at the fountain, dear. | nothing",
        " The map lies at the mill, dear. | nothing",
        " The map is 5 coins, dear. | nothing",
        " Then the map is yours for 4 coins, dear. | nothing",
        " The map stays with me, love. | sell map",
        " I hid Excalibur, dear. | nothing",
        " Odo has the map. | nothing",
        " There, there. There, there. There, there. There, there. | nothing",
        " There, there. | nothing ",
        " 7. | nothing",
    ] {
        assert!(!admits(&factory, &grammar, text), "admitted: {text}");
    }
}

#[test]
fn the_grammar_is_small_enough_to_send() {
    let length = grammar::grammar(&scene("dreamy")).len();
    assert!(length < 32 * 1024, "the grammar has {length} bytes");
}
