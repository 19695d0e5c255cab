//! Time: where people are at which hour, what they see, and what they tell one another.

use npc_scene::dice::Dice;

use crate::state::{PersonId, State, Whereabouts};

/// Lets minutes pass. At every full hour people go where they are at that hour, and talk.
pub(crate) fn pass(state: &mut State, minutes: u32) {
    for _ in 0..minutes {
        // After eight thousand years time stands still rather than begin anew.
        state.minutes = state.minutes.saturating_add(1);
        if state.minutes.is_multiple_of(60) {
            settle(state);
            observe(state);
            gossip(state);
        }
    }
    observe(state);
}

/// Puts everyone where they are at this hour.
pub(crate) fn settle(state: &mut State) {
    let hour = state.hour();
    for id in state.villagers() {
        let (_, work) = state.role(id);
        if let Some(person) = state.person_mut(id) {
            person.at = match hour {
                12 | 13 => person.noon,
                18..=21 => person.evening,
                _ => work,
            };
        }
    }
}

/// Everyone takes in what is at their place: items that lie there and that people have with them.
/// Who no longer sees a thing where they thought it was, forgets it.
pub(crate) fn observe(state: &mut State) {
    let places: Vec<_> = state.people.iter().map(|person| person.at).collect();
    let items: Vec<_> = state
        .all_items()
        .zip(state.items.iter().map(|item| item.at))
        .collect();
    let place_of = |at: Whereabouts| match at {
        Whereabouts::Lies(place) => Some(place),
        Whereabouts::With(person) => places.get(usize::from(person.0)).copied(),
    };
    for person in &mut state.people {
        for (item, at) in &items {
            if place_of(*at) == Some(person.at) {
                person.seen.insert(*item, *at);
            } else if person
                .seen
                .get(item)
                .is_some_and(|seen| place_of(*seen) == Some(person.at))
            {
                person.seen.remove(item);
            }
        }
    }
}

/// In every pair that is together, the one tells the other of one thing that they saw.
fn gossip(state: &mut State) {
    let mut dice = Dice::new(state.seed ^ u64::from(state.minutes).rotate_left(32));
    let people: Vec<PersonId> = state.villagers().collect();
    for one in &people {
        for other in &people {
            if one == other || !state.together(*one, *other) || state.regard(*one, *other) < 0 {
                continue;
            }
            let seen: Vec<_> = state.person(*one).map_or(Vec::new(), |person| {
                person.seen.iter().map(|(item, at)| (*item, *at)).collect()
            });
            if let Some((item, at)) = dice.pick(&seen).copied() {
                // Who stands before a thing believes their eyes.
                let wrong = state.whereabouts(item) != Some(at);
                if !wrong && let Some(person) = state.person_mut(*other) {
                    person.seen.insert(item, at);
                }
            }
            state.sway(*other, *one, 1);
        }
    }
}
