//! Talks: what comes of an answer once it stands.

use npc_scene::{Action, Intent};

use crate::clock;
use crate::deed::{Event, pay, put};
use crate::judge::Moment;
use crate::state::{PersonId, Quest, Stage, State, VISITOR, Whereabouts};
use crate::words::Saying;

/// Minutes that a talk takes.
const MINUTES: u32 = 4;
/// What kind words alone can bring somebody to think of the visitor.
const KINDNESS: i8 = 40;

/// Does what the speaker does, and lets the visitor's manner have its effect. An action that may
/// not be done is not done: the judge has refused it before.
pub(crate) fn settle(
    state: &mut State,
    speaker: PersonId,
    saying: &Saying,
    action: &Action,
) -> Vec<Event> {
    let mut events = Vec::new();
    let moment = Moment {
        state,
        speaker,
        saying,
    };
    if moment.may(action) {
        act(state, speaker, action, &mut events);
    }
    match saying.intent {
        Intent::Insult => {
            state.sway(speaker, VISITOR, -12);
            state.cheer(speaker, -10);
        }
        Intent::Thank | Intent::Greet if state.regard(speaker, VISITOR) < KINDNESS => {
            state.sway(speaker, VISITOR, 3);
            state.cheer(speaker, 2);
        }
        _ => {}
    }
    state.turns = state.turns.saturating_add(1);
    clock::pass(state, MINUTES);
    events
}

fn act(state: &mut State, speaker: PersonId, action: &Action, events: &mut Vec<Event>) {
    match action {
        Action::Nothing => {}
        Action::Give(name) | Action::Sell(name) => {
            let Some(item) = state.item_named(name) else {
                return;
            };
            let price = state.item(item).map_or(0, |item| item.price);
            let sold = matches!(action, Action::Sell(_));
            if sold && !pay(state, VISITOR, speaker, price, events) {
                return;
            }
            let owned = state.item(item).is_some_and(|item| item.owner == speaker);
            if owned && let Some(item) = state.item_mut(item) {
                item.owner = VISITOR;
            }
            put(state, item, Whereabouts::With(VISITOR), events);
        }
        Action::Offer(name) => {
            let item = state.item_named(name);
            let wish = |quest: &&mut Quest| quest.giver == speaker && Some(quest.item) == item;
            if let Some(quest) = state.quests.iter_mut().find(wish)
                && quest.stage == Stage::Open
            {
                quest.stage = Stage::Offered;
                events.push(Event::Asked(speaker, quest.item, quest.reward));
            }
        }
        Action::Go(name) => {
            if let Some(place) = state.place_named(name)
                && let Some(person) = state.person_mut(speaker)
            {
                person.at = place;
                events.push(Event::Left(speaker, place));
            }
        }
    }
}
