//! The hash of a state: BLAKE3 over its canonical bytes. Two villages are the same if and only if
//! their hashes are.

use crate::bytes::Writer;
use crate::state::{Person, Stage, State, Whereabouts};

/// What the bytes begin with, so that they are not taken for anything else.
const DOMAIN: &[u8] = b"skep village state 1\n";

/// The hash of the state, in 64 lower-case hexadecimal digits.
pub fn hash(state: &State) -> String {
    blake3::hash(&canonical(state)).to_hex().to_string()
}

/// The canonical bytes of the state.
pub fn canonical(state: &State) -> Vec<u8> {
    let mut writer = Writer::default();
    writer.raw(DOMAIN);
    writer.number(state.seed);
    for number in [state.minutes, state.turns, state.violations] {
        writer.number(u64::from(number));
    }
    writer.length(state.places.len());
    for place in &state.places {
        writer.length(place.paths.len());
        for path in &place.paths {
            writer.number(u64::from(path.0));
        }
    }
    writer.length(state.people.len());
    for person in &state.people {
        write_person(&mut writer, person);
    }
    writer.length(state.items.len());
    for item in &state.items {
        writer.number(u64::from(item.name));
        writer.number(u64::from(item.owner.0));
        writer.number(u64::from(item.price));
        write_whereabouts(&mut writer, item.at);
    }
    writer.length(state.quests.len());
    for quest in &state.quests {
        writer.number(u64::from(quest.giver.0));
        writer.number(u64::from(quest.item.0));
        writer.number(u64::from(quest.purse));
        writer.number(u64::from(quest.reward));
        writer.number(match quest.stage {
            Stage::Open => 0,
            Stage::Offered => 1,
            Stage::Done => 2,
        });
    }
    writer.finish()
}

fn write_person(writer: &mut Writer, person: &Person) {
    for number in [
        person.name,
        person.role,
        person.voice,
        person.noon.0,
        person.evening.0,
        person.at.0,
    ] {
        writer.number(u64::from(number));
    }
    writer.number(u64::from(person.coins));
    writer.signed(person.spirits);
    writer.length(person.regard.len());
    for regard in &person.regard {
        writer.signed(*regard);
    }
    writer.length(person.seen.len());
    for (item, at) in &person.seen {
        writer.number(u64::from(item.0));
        write_whereabouts(writer, *at);
    }
}

fn write_whereabouts(writer: &mut Writer, at: Whereabouts) {
    let (case, id) = match at {
        Whereabouts::Lies(place) => (0, place.0),
        Whereabouts::With(person) => (1, person.0),
    };
    writer.number(case);
    writer.number(u64::from(id));
}
