//! The grammar: which replies a model may write to a scene, in llguidance's dialect of Lark.
//!
//! A line is one to three sentences. A sentence is small talk, or the speaker's way of making one
//! of the scene's claims; a claim that announces an action comes only with that action. Only the
//! scene's actions are admitted. So every name in a line stands in a sentence that was true when
//! the scene was made.

use std::collections::BTreeSet;
use std::fmt::Write;

use crate::claim::{Claim, Relation};
use crate::frames::{capitalised, fill};
use crate::reply::Action;
use crate::scene::Scene;
use crate::talk;
use crate::voices::{VOICES, Voice};

/// The grammar of the replies to a scene, which begin right after its prompt with a space.
pub fn grammar(scene: &Scene) -> String {
    let voice = Voice::named(&scene.speaker.voice).unwrap_or(VOICES[0]);
    let always =
        |claim: &&Claim| !claim.relation.announces() && claim.relation != Relation::Refuses;
    let claims: Vec<&Claim> = scene.claims.iter().filter(always).collect();
    let mut text = String::from("start: ");
    let mut lines = String::new();
    for (number, action) in scene.actions.iter().enumerate() {
        if number > 0 {
            text.push_str(" | ");
        }
        let _ = write!(
            text,
            "\" \" line{number} {}",
            literal(&format!(" | {action}"))
        );
        let own = announced(scene, action);
        let mut sentences: BTreeSet<String> = BTreeSet::new();
        for claim in &own {
            sentences.extend(
                voice
                    .frames(claim.relation)
                    .iter()
                    .map(|frame| fill(frame, claim)),
            );
        }
        let _ = writeln!(lines, "line{number}: s{number} (\" \" s{number}){{0,2}}");
        let _ = write!(lines, "s{number}: claim | TALK");
        for sentence in sentences {
            let _ = write!(lines, " | {}", literal(&sentence));
        }
        lines.push('\n');
    }
    text.push('\n');
    text.push_str(&lines);
    text.push_str("claim: ");
    let mut sentences: BTreeSet<String> = BTreeSet::new();
    for claim in claims {
        sentences.extend(
            voice
                .frames(claim.relation)
                .iter()
                .map(|frame| fill(frame, claim)),
        );
    }
    let sentences: Vec<String> = sentences.iter().map(|sentence| literal(sentence)).collect();
    text.push_str(&sentences.join(" | "));
    text.push('\n');
    small_talk(&mut text);
    text
}

/// The claims that may come with an action and no other.
fn announced(scene: &Scene, action: &Action) -> Vec<Claim> {
    let of = |relation: Relation, item: &str| {
        let claims = scene.claims.iter();
        claims
            .filter(move |claim| claim.relation == relation && claim.is_about(item))
            .cloned()
            .collect()
    };
    match action {
        Action::Nothing => {
            let refusals = scene.claims.iter();
            refusals
                .filter(|claim| claim.relation == Relation::Refuses)
                .cloned()
                .collect()
        }
        Action::Give(item) => of(Relation::Gives, item),
        Action::Sell(item) => of(Relation::Sells, item),
        Action::Offer(_) => Vec::new(),
        Action::Go(place) => of(Relation::Leaves, place),
    }
}

/// The terminal for a sentence of small talk: the same text for every scene.
fn small_talk(text: &mut String) {
    let words: Vec<&str> = talk::lexicon().iter().map(String::as_str).collect();
    let first: Vec<String> = words.iter().map(|word| capitalised(word)).collect();
    let _ = writeln!(
        text,
        "TALK: /({})(,? ({})){{0,{}}}[.!?]/",
        first.join("|"),
        words.join("|"),
        talk::WORDS - 1,
    );
}

/// The text as a literal of the grammar. It is made of letters, digits, spaces and full stops.
fn literal(text: &str) -> String {
    format!("{text:?}")
}
