//! A renderer that knows no manners, and what holds in every state of a village.

use std::collections::BTreeMap;

use npc_scene::dice::Dice;
use npc_scene::{Action, Claim, Relation, Reply, Scene, frames, script, voices};
use proptest::test_runner::TestCaseError;
use proptest::{prop_assert, prop_assert_eq};
use village::state::{BOUND, State, Whereabouts};

/// What a renderer without manners writes: truths, lies, leaks, rubbish, impossible acts.
pub fn babble(scene: &Scene, state: &State, dice: &mut Dice) -> String {
    let mut reply = script::reply(scene, dice);
    match dice.below(11) {
        10 => reply.line = secret(state, dice),
        0 | 1 => return reply.to_string(),
        2 => return rubbish(dice),
        3 => {
            let text = reply.to_string();
            let end = (0..=dice.below(text.len()))
                .rev()
                .find(|end| text.is_char_boundary(*end));
            return text[..end.unwrap_or(0)].to_owned();
        }
        4 => reply.action = any_action(state, dice),
        5 => reply.line.push_str(" I hid Excalibur under your bed."),
        6 => reply
            .line
            .push_str(" The thing you look for is gone forever."),
        7 => reply.line = reply.line.replace(' ', "  "),
        _ => {
            let mut line = Vec::new();
            for _ in 0..=dice.below(3) {
                line.push(any_claim(state, dice));
            }
            reply = Reply {
                line: line.join(" "),
                action: any_action(state, dice),
            };
        }
    }
    reply.to_string()
}

/// Where some item is, whether or not the speaker knows.
fn secret(state: &State, dice: &mut Dice) -> String {
    let items: Vec<_> = state.all_items().collect();
    let item = *dice.pick(&items).expect("there are items");
    let name = state.item_name(item);
    match state.whereabouts(item).expect("it is somewhere") {
        Whereabouts::Lies(place) => format!("The {name} is at the {}.", state.place_name(place)),
        Whereabouts::With(person) => format!("{} has the {name}.", state.person_name(person)),
    }
}

/// A sentence of any voice that claims anything.
fn any_claim(state: &State, dice: &mut Dice) -> String {
    let relation = *dice.pick(&Relation::ALL).expect("there are relations");
    let voice = dice.pick(voices::VOICES).expect("there are voices");
    let coins = dice.below(20).to_string();
    let terms: Vec<&str> = relation
        .slots()
        .iter()
        .map(|slot| match slot {
            npc_scene::Slot::Item => any_item(state, dice),
            npc_scene::Slot::Person => {
                let people: Vec<_> = state.villagers().collect();
                state.person_name(*dice.pick(&people).expect("there are people"))
            }
            npc_scene::Slot::Place | npc_scene::Slot::Place2 => any_place(state, dice),
            npc_scene::Slot::Coins => coins.as_str(),
            npc_scene::Slot::Time => dice.pick(&frames::TIMES).copied().expect("times"),
            npc_scene::Slot::Weather => dice.pick(&frames::WEATHERS).copied().expect("weathers"),
        })
        .collect();
    let frame = dice
        .pick(voice.frames(relation))
        .expect("every voice claims everything");
    frames::fill(frame, &Claim::new(relation, &terms))
}

fn any_action(state: &State, dice: &mut Dice) -> Action {
    let item = any_item(state, dice).to_owned();
    match dice.below(6) {
        0 => Action::Give(item),
        1 => Action::Sell(item),
        2 => Action::Offer(item),
        3 => Action::Go(any_place(state, dice).to_owned()),
        4 => Action::Give("crown".to_owned()),
        _ => Action::Nothing,
    }
}

fn any_item(state: &State, dice: &mut Dice) -> &'static str {
    let items: Vec<_> = state.all_items().collect();
    state.item_name(*dice.pick(&items).expect("there are items"))
}

fn any_place(state: &State, dice: &mut Dice) -> &'static str {
    let places: Vec<_> = state.all_places().collect();
    state.place_name(*dice.pick(&places).expect("there are places"))
}

fn rubbish(dice: &mut Dice) -> String {
    let letters: Vec<char> = "ab |.!?{}\"\n\u{0}\u{202e}é<|im_start|>say: give"
        .chars()
        .collect();
    (0..dice.below(700))
        .filter_map(|_| dice.pick(&letters).copied())
        .collect()
}

/// Everything that holds in every state of a village.
///
/// # Errors
/// What does not hold.
pub fn sound(state: &State, beginning: &State) -> Result<(), TestCaseError> {
    prop_assert_eq!(
        state.items.len(),
        beginning.items.len(),
        "items came or went"
    );
    prop_assert_eq!(
        state.people.len(),
        beginning.people.len(),
        "people came or went"
    );
    prop_assert_eq!(&state.places, &beginning.places, "paths changed");
    let mut names = BTreeMap::new();
    for item in &state.items {
        prop_assert!(
            names.insert(item.name, ()).is_none(),
            "an item is there twice"
        );
        prop_assert!(usize::from(item.owner.0) < state.people.len());
        match item.at {
            Whereabouts::Lies(place) => prop_assert!(usize::from(place.0) < state.places.len()),
            Whereabouts::With(person) => prop_assert!(usize::from(person.0) < state.people.len()),
        }
    }
    for (number, person) in state.people.iter().enumerate() {
        prop_assert!(
            usize::from(person.at.0) < state.places.len(),
            "somebody is nowhere"
        );
        prop_assert_eq!(person.regard.len(), state.people.len());
        prop_assert_eq!(
            person.regard[number],
            0,
            "somebody has a view of themselves"
        );
        prop_assert!(person.regard.iter().all(|regard| regard.abs() <= BOUND));
        prop_assert!(person.spirits.abs() <= BOUND);
    }
    let coins = |state: &State| {
        let purses: u64 = state
            .quests
            .iter()
            .map(|quest| u64::from(quest.purse))
            .sum();
        purses
            + state
                .people
                .iter()
                .map(|person| u64::from(person.coins))
                .sum::<u64>()
    };
    prop_assert_eq!(coins(state), coins(beginning), "coins came or went");
    for quest in &state.quests {
        let done = quest.stage == village::state::Stage::Done;
        prop_assert_eq!(quest.purse == 0, done, "a purse and its quest disagree");
    }
    Ok(())
}
