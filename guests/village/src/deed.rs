//! Deeds: what a visitor does, when it may be done, and what comes of it.
//!
//! A deed is checked whole before anything changes, so one that is refused leaves no trace.

use crate::clock;
use crate::state::{ItemId, PersonId, PlaceId, Quest, Stage, State, VISITOR, Whereabouts};

/// Minutes that one may wait at once.
pub const LONGEST_WAIT: u32 = 12 * 60;

/// What a visitor does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Deed {
    /// Walks along a path.
    Go(PlaceId),
    /// Takes up an item that lies here.
    Take(ItemId),
    /// Lays an item down here.
    Drop(ItemId),
    /// Hands somebody an item.
    Give(ItemId, PersonId),
    /// Hands somebody coins.
    Pay(u32, PersonId),
    /// Lets minutes pass.
    Wait(u32),
}

/// Why a deed was not done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// There is no such place, person or item.
    #[error("there is no such thing in this village")]
    Nothing,
    /// No path leads there from here.
    #[error("no path leads there from here")]
    NoPath,
    /// The item is not here for the taking.
    #[error("it does not lie here")]
    NotHere,
    /// The visitor does not have it.
    #[error("you do not have that")]
    NotYours,
    /// The person is elsewhere.
    #[error("they are not here")]
    Elsewhere,
    /// Not enough coins, or none at all to be paid.
    #[error("you do not have so many coins")]
    Coins,
    /// A wait of no time, or of too long.
    #[error("one waits from 1 to {LONGEST_WAIT} minutes")]
    Wait,
}

/// What came of a deed or a talk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// The visitor came to a place.
    Came(PlaceId),
    /// An item changed its place.
    Moved(ItemId, Whereabouts),
    /// Coins went from the one to the other.
    Paid(PersonId, PersonId, u32),
    /// Somebody was brought what they missed, and paid the reward.
    Fulfilled(PersonId, ItemId, u32),
    /// Somebody asked the visitor for something that they miss.
    Asked(PersonId, ItemId, u32),
    /// Somebody walked away to a place.
    Left(PersonId, PlaceId),
    /// Somebody saw the visitor take what is theirs.
    Caught(PersonId, ItemId),
    /// Minutes went by.
    Passed(u32),
}

/// Does the deed.
///
/// # Errors
/// When it cannot be done; then nothing changed.
pub fn perform(state: &mut State, deed: &Deed) -> Result<Vec<Event>, Refusal> {
    let here = state.place_of(VISITOR).ok_or(Refusal::Nothing)?;
    let mut events = Vec::new();
    let minutes = match deed {
        Deed::Go(place) => {
            let paths = state
                .places
                .get(usize::from(here.0))
                .ok_or(Refusal::Nothing)?;
            if !paths.paths.contains(place) {
                return Err(Refusal::NoPath);
            }
            if let Some(visitor) = state.person_mut(VISITOR) {
                visitor.at = *place;
            }
            events.push(Event::Came(*place));
            10
        }
        Deed::Take(item) => {
            let thing = state.item(*item).ok_or(Refusal::Nothing)?;
            if thing.at != Whereabouts::Lies(here) {
                return Err(Refusal::NotHere);
            }
            let owner = thing.owner;
            take(state, *item, owner, &mut events);
            2
        }
        Deed::Drop(item) => {
            state.item(*item).ok_or(Refusal::Nothing)?;
            if !state.has(VISITOR, *item) {
                return Err(Refusal::NotYours);
            }
            put(state, *item, Whereabouts::Lies(here), &mut events);
            2
        }
        Deed::Give(item, person) => {
            state.item(*item).ok_or(Refusal::Nothing)?;
            met(state, *person)?;
            if !state.has(VISITOR, *item) {
                return Err(Refusal::NotYours);
            }
            give(state, *item, *person, &mut events);
            3
        }
        Deed::Pay(coins, person) => {
            met(state, *person)?;
            if *coins == 0 || !pay(state, VISITOR, *person, *coins, &mut events) {
                return Err(Refusal::Coins);
            }
            state.sway(
                *person,
                VISITOR,
                i8::try_from((*coins).min(10)).unwrap_or(10),
            );
            2
        }
        Deed::Wait(minutes) => {
            if *minutes == 0 || *minutes > LONGEST_WAIT {
                return Err(Refusal::Wait);
            }
            events.push(Event::Passed(*minutes));
            *minutes
        }
    };
    state.turns = state.turns.saturating_add(1);
    clock::pass(state, minutes);
    Ok(events)
}

/// Whether the visitor stands before this villager.
///
/// # Errors
/// When they do not.
pub fn met(state: &State, person: PersonId) -> Result<(), Refusal> {
    if person == VISITOR || state.person(person).is_none() {
        return Err(Refusal::Nothing);
    }
    if state.together(person, VISITOR) {
        Ok(())
    } else {
        Err(Refusal::Elsewhere)
    }
}

fn take(state: &mut State, item: ItemId, owner: PersonId, events: &mut Vec<Event>) {
    let sought = |quest: &Quest| quest.item == item && quest.stage == Stage::Offered;
    let asked = state.quests.iter().any(sought);
    if owner != VISITOR && !asked && state.together(owner, VISITOR) {
        state.sway(owner, VISITOR, -30);
        state.cheer(owner, -15);
        events.push(Event::Caught(owner, item));
    }
    put(state, item, Whereabouts::With(VISITOR), events);
}

fn give(state: &mut State, item: ItemId, person: PersonId, events: &mut Vec<Event>) {
    put(state, item, Whereabouts::With(person), events);
    let owner = state.item(item).map(|item| item.owner);
    if owner == Some(VISITOR)
        && let Some(item) = state.item_mut(item)
    {
        item.owner = person;
    }
    state.sway(person, VISITOR, 12);
    state.cheer(person, 10);
    let wish = |quest: &&mut Quest| {
        quest.item == item && quest.giver == person && quest.stage < Stage::Done
    };
    let Some(quest) = state.quests.iter_mut().find(wish) else {
        return;
    };
    quest.stage = Stage::Done;
    let coins = std::mem::take(&mut quest.purse);
    if let Some(visitor) = state.person_mut(VISITOR) {
        visitor.coins = visitor.coins.saturating_add(coins);
    }
    state.sway(person, VISITOR, 25);
    state.cheer(person, 25);
    events.push(Event::Fulfilled(person, item, coins));
}

/// Puts an item somewhere, from wherever it was.
pub(crate) fn put(state: &mut State, item: ItemId, at: Whereabouts, events: &mut Vec<Event>) {
    if let Some(thing) = state.item_mut(item) {
        thing.at = at;
        events.push(Event::Moved(item, at));
    }
}

/// Pays coins from the one to the other, if there are so many.
pub(crate) fn pay(
    state: &mut State,
    from: PersonId,
    to: PersonId,
    coins: u32,
    events: &mut Vec<Event>,
) -> bool {
    let Some(left) = state
        .person(from)
        .and_then(|person| person.coins.checked_sub(coins))
    else {
        return false;
    };
    let more = state
        .person(to)
        .and_then(|person| person.coins.checked_add(coins));
    let Some(more) = more.filter(|_| from != to) else {
        return false;
    };
    if let Some(person) = state.person_mut(from) {
        person.coins = left;
    }
    if let Some(person) = state.person_mut(to) {
        person.coins = more;
    }
    events.push(Event::Paid(from, to, coins));
    true
}
