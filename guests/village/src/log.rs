//! The log as bytes: the seed, every entry, and the hash of the state that they lead to.
//!
//! Reading takes bytes from anybody: every length is checked against a limit before anything is
//! allocated, and whether the entries can have happened is for [`Game::replay`] to say.

use npc_scene::reply::LINE_BYTES;
use npc_scene::{Action, Reply};

use crate::bytes::{BytesError, Reader, Writer};
use crate::deed::Deed;
use crate::game::{Entry, Game, GameError};
use crate::hash::hash;
use crate::state::{ItemId, PersonId, PlaceId};
use crate::violation::{FaultKind, PRODUCER_BYTES, TEXT_BYTES, Violation};
use crate::words::WORDS_BYTES;

const MAGIC: &[u8] = b"skep village log 1\n";
/// Entries at most.
const ENTRIES: u64 = 1 << 20;
/// Bytes of an action's name at most.
const NAME_BYTES: usize = 40;

/// Why a log leads nowhere.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LogError {
    /// The bytes cannot be read.
    #[error("the log cannot be read: {0}")]
    Bytes(#[from] BytesError),
    /// An entry cannot have happened.
    #[error(transparent)]
    Game(#[from] GameError),
    /// The entries lead to another state than the log says.
    #[error(
        "the log leads to {found}, and says it leads to {said}: it was changed, or is of another version"
    )]
    Diverged {
        /// Where it leads.
        found: String,
        /// Where it says it leads.
        said: String,
    },
}

/// The game's log as bytes.
pub fn encode(game: &Game) -> Vec<u8> {
    let mut writer = Writer::default();
    writer.raw(MAGIC);
    writer.number(game.state().seed);
    writer.length(game.log().len());
    for entry in game.log() {
        write_entry(&mut writer, entry);
    }
    writer.text(&hash(game.state()));
    writer.finish()
}

/// The game that a log leads to.
///
/// # Errors
/// When the bytes are no log, or one that cannot have happened.
pub fn resume(bytes: &[u8]) -> Result<Game, LogError> {
    let (seed, entries, said) = decode(bytes)?;
    let game = Game::replay(seed, &entries)?;
    let found = hash(game.state());
    if found == said {
        Ok(game)
    } else {
        Err(LogError::Diverged { found, said })
    }
}

/// The seed, the entries and the hash in a log's bytes.
///
/// # Errors
/// When they are no log.
pub fn decode(bytes: &[u8]) -> Result<(u64, Vec<Entry>, String), BytesError> {
    let mut reader = Reader::new(bytes);
    if reader.raw(MAGIC.len()) != Ok(MAGIC) {
        return Err(BytesError::Magic);
    }
    let seed = reader.number(u64::MAX)?;
    let count = reader.number(ENTRIES)?;
    let mut entries = Vec::new();
    for _ in 0..count {
        entries.push(read_entry(&mut reader)?);
    }
    let hash = reader.text(64)?;
    reader.end()?;
    Ok((seed, entries, hash))
}

fn write_entry(writer: &mut Writer, entry: &Entry) {
    let mut plain = |numbers: &[u64]| numbers.iter().for_each(|number| writer.number(*number));
    match entry {
        Entry::Deed(Deed::Go(place)) => plain(&[0, u64::from(place.0)]),
        Entry::Deed(Deed::Take(item)) => plain(&[1, u64::from(item.0)]),
        Entry::Deed(Deed::Drop(item)) => plain(&[2, u64::from(item.0)]),
        Entry::Deed(Deed::Give(item, person)) => {
            plain(&[3, u64::from(item.0), u64::from(person.0)]);
        }
        Entry::Deed(Deed::Pay(coins, person)) => {
            plain(&[4, u64::from(*coins), u64::from(person.0)]);
        }
        Entry::Deed(Deed::Wait(minutes)) => plain(&[5, u64::from(*minutes)]),
        Entry::Talk {
            person,
            words,
            reply,
            violation,
        } => {
            plain(&[6, u64::from(person.0)]);
            writer.text(words);
            writer.text(&reply.line);
            write_action(writer, &reply.action);
            match violation {
                None => writer.number(0),
                Some(violation) => {
                    writer.number(1);
                    writer.number(u64::from(violation.kind.number()));
                    writer.text(&violation.producer);
                    writer.text(&violation.text);
                }
            }
        }
    }
}

fn read_entry(reader: &mut Reader<'_>) -> Result<Entry, BytesError> {
    let entry = match reader.small()? {
        0 => Entry::Deed(Deed::Go(PlaceId(reader.small()?))),
        1 => Entry::Deed(Deed::Take(ItemId(reader.small()?))),
        2 => Entry::Deed(Deed::Drop(ItemId(reader.small()?))),
        3 => Entry::Deed(Deed::Give(
            ItemId(reader.small()?),
            PersonId(reader.small()?),
        )),
        4 => Entry::Deed(Deed::Pay(reader.medium()?, PersonId(reader.small()?))),
        5 => Entry::Deed(Deed::Wait(reader.medium()?)),
        6 => {
            let person = PersonId(reader.small()?);
            let words = reader.text(WORDS_BYTES)?;
            let line = reader.text(LINE_BYTES)?;
            let action = read_action(reader)?;
            let violation = match reader.small()? {
                0 => None,
                1 => Some(read_violation(reader)?),
                _ => return Err(BytesError::Case),
            };
            Entry::Talk {
                person,
                words,
                reply: Reply { line, action },
                violation,
            }
        }
        _ => return Err(BytesError::Case),
    };
    Ok(entry)
}

fn read_violation(reader: &mut Reader<'_>) -> Result<Violation, BytesError> {
    Ok(Violation {
        kind: FaultKind::numbered(reader.small()?).ok_or(BytesError::Case)?,
        producer: reader.text(PRODUCER_BYTES)?,
        text: reader.text(TEXT_BYTES)?,
    })
}

fn write_action(writer: &mut Writer, action: &Action) {
    let (case, name) = match action {
        Action::Nothing => (0, None),
        Action::Give(name) => (1, Some(name)),
        Action::Sell(name) => (2, Some(name)),
        Action::Offer(name) => (3, Some(name)),
        Action::Go(name) => (4, Some(name)),
    };
    writer.number(case);
    if let Some(name) = name {
        writer.text(name);
    }
}

fn read_action(reader: &mut Reader<'_>) -> Result<Action, BytesError> {
    let case = reader.small()?;
    if case == 0 {
        return Ok(Action::Nothing);
    }
    let name = reader.text(NAME_BYTES)?;
    match case {
        1 => Ok(Action::Give(name)),
        2 => Ok(Action::Sell(name)),
        3 => Ok(Action::Offer(name)),
        4 => Ok(Action::Go(name)),
        _ => Err(BytesError::Case),
    }
}
