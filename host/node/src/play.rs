//! Playing a village: a person walks and talks, line by line.
//!
//! This module knows what a player types and what they are shown. The village and the renderer run
//! in the sandbox, behind [`Game`]; nothing here knows a fact of the village but through it.

mod command;
mod evidence;
mod judging;
mod sandboxed;
mod screen;
mod told;
mod witness;

use std::io::{BufRead, Write};
use std::path::Path;

use serde::Serialize;

pub use command::{Command, parse};
pub use evidence::Evidence;
pub use judging::{Bench, Judged, Worth};
pub use sandboxed::{Part, Sandboxed, Setting};
use screen::Screen;
pub use witness::{Witness, Witnessed};

use crate::beside::folder_of;

/// Bytes of a line that is read at most; the rest of a longer one is dropped.
const LINE_BYTES: usize = 4096;

/// The village and its renderer, as a player meets them.
pub trait Game {
    /// What the player sees.
    ///
    /// # Errors
    /// When a component failed.
    fn look(&mut self) -> Result<View, PlayError>;

    /// The player does something.
    ///
    /// # Errors
    /// [`PlayError::Refused`] when it cannot be done.
    fn act(&mut self, deed: &Deed) -> Result<Vec<Event>, PlayError>;

    /// The player says something to somebody, who answers.
    ///
    /// # Errors
    /// [`PlayError::Refused`] when they are not there.
    fn say(&mut self, person: &str, words: &str) -> Result<Answer, PlayError>;

    /// Everything that is so, and its hash.
    ///
    /// # Errors
    /// When a component failed.
    fn state(&mut self) -> Result<Snapshot, PlayError>;

    /// How the game stands.
    ///
    /// # Errors
    /// When a component failed.
    fn tally(&mut self) -> Result<Tally, PlayError>;
}

/// Why something did not happen.
#[derive(Debug, thiserror::Error)]
pub enum PlayError {
    /// The village said no; the game goes on.
    #[error("{0}")]
    Refused(String),
    /// A component or the model failed; the game ends.
    #[error("the game cannot go on: {0}")]
    Failed(String),
    /// The player's lines cannot be read, or theirs not be written.
    #[error("the terminal failed: {0}")]
    Terminal(#[from] std::io::Error),
}

/// What a player does, by names.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Deed {
    /// Walks to the place.
    Go(String),
    /// Takes up the item.
    Take(String),
    /// Lays the item down.
    Drop(String),
    /// Hands the item to the person.
    Give(String, String),
    /// Hands so many coins to the person.
    Pay(u32, String),
    /// Lets so many minutes pass.
    Wait(u32),
}

/// What came of it, by names. `you` is the player.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Event {
    /// The player came to the place.
    Came(String),
    /// The item lies at the place now.
    Laid(String, String),
    /// The person has the item now.
    Handed(String, String),
    /// The one paid the other so many coins.
    Paid(String, String, u32),
    /// The person was brought the item, and paid so many coins.
    Fulfilled(String, String, u32),
    /// The person asked for the item, for so many coins.
    Asked(String, String, u32),
    /// The person walked away to the place.
    Left(String, String),
    /// The person saw the player take their item.
    Caught(String, String),
    /// So many minutes went by.
    Passed(u32),
}

/// What a player sees.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct View {
    /// Where they are.
    pub place: String,
    /// The day, from 1.
    pub day: u32,
    /// Minutes since midnight.
    pub minute: u32,
    /// The part of the day.
    pub time: String,
    /// The weather.
    pub weather: String,
    /// Where paths lead.
    pub paths: Vec<String>,
    /// Who is there, and what they do for a living.
    pub people: Vec<(String, String)>,
    /// Items that lie there.
    pub lying: Vec<String>,
    /// Items that the player has.
    pub carried: Vec<String>,
    /// Their coins.
    pub coins: u32,
    /// What they were asked to bring: by whom, what, for how many coins, and whether they did.
    pub wishes: Vec<(String, String, u32, bool)>,
}

/// What somebody answered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Answer {
    /// Who.
    pub person: String,
    /// What they said.
    pub line: String,
    /// What they did, in the words of the contract: `nothing`, `give map`.
    pub action: String,
    /// What came of it.
    pub events: Vec<Event>,
    /// Why the model's own reply was refused, if it was.
    pub refused: Option<Refused>,
}

/// A model's reply that did not stand.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Refused {
    /// What kind of fault it has.
    pub fault: String,
    /// The node that produced it.
    pub producer: String,
    /// What was wrong, in words.
    pub reason: String,
    /// The reply.
    pub text: String,
}

/// A village's state, for whoever wants to check it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Snapshot {
    /// The hash of the state, as the village says.
    pub hash: String,
    /// The canonical bytes of the state, as the village says, in hexadecimal digits.
    pub bytes: String,
}

/// How a game stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Tally {
    /// The hash of the village's state.
    pub hash: String,
    /// Talks that were answered.
    pub talks: u32,
    /// Replies that did not stand.
    pub violations: u32,
}

/// Plays until the lines end or the player leaves.
///
/// # Errors
/// When a component failed or a line could not be read or written.
pub fn play(
    game: &mut impl Game,
    input: &mut impl BufRead,
    output: &mut impl Write,
    manner: Manner,
) -> Result<Tally, PlayError> {
    let mut screen = Screen::new(output, manner);
    let mut partner = None;
    screen.view(&game.look()?)?;
    loop {
        screen.ask()?;
        let Some(line) = read_line(input)? else {
            break;
        };
        if manner.echo {
            screen.echo(&line)?;
        }
        let view = game.look()?;
        match parse(&line, &view, partner.as_deref()) {
            Err(hint) => screen.hint(&hint)?,
            Ok(Command::Nothing) => {}
            Ok(Command::Leave) => break,
            Ok(Command::Look) => screen.view(&view)?,
            Ok(Command::Bag) => screen.bag(&view)?,
            Ok(Command::Help) => screen.help()?,
            Ok(Command::State) => screen.state(&game.state()?)?,
            Ok(Command::Do(deed)) => match game.act(&deed) {
                Ok(events) => {
                    screen.events(&events)?;
                    if matches!(deed, Deed::Go(_) | Deed::Wait(_)) {
                        partner = None;
                        screen.view(&game.look()?)?;
                    }
                }
                Err(PlayError::Refused(reason)) => screen.hint(&reason)?,
                Err(error) => return Err(error),
            },
            Ok(Command::Say(person, words)) => match game.say(&person, &words) {
                Ok(answer) => {
                    screen.answer(&answer)?;
                    partner = Some(person);
                }
                Err(PlayError::Refused(reason)) => screen.hint(&reason)?,
                Err(error) => return Err(error),
            },
        }
    }
    let tally = game.tally()?;
    screen.tally(&tally)?;
    Ok(tally)
}

/// How a game is shown.
#[derive(Debug, Clone, Copy, Default)]
pub struct Manner {
    /// One JSON object a line instead of words.
    pub json: bool,
    /// Whether lines are shown as they are read: they come from a file.
    pub echo: bool,
}

/// The next line, without its end; nothing at the end of the input. What is no UTF-8 is replaced.
fn read_line(input: &mut impl BufRead) -> std::io::Result<Option<String>> {
    let mut line = Vec::new();
    let mut ended = false;
    let mut any = false;
    while !ended {
        let part = input.fill_buf()?;
        if part.is_empty() {
            break;
        }
        any = true;
        let end = part.iter().position(|byte| *byte == b'\n');
        let taken = end.map_or(part.len(), |end| end + 1);
        let room = LINE_BYTES - line.len();
        line.extend(part.iter().take(end.unwrap_or(part.len()).min(room)));
        ended = end.is_some();
        input.consume(taken);
    }
    Ok(any.then(|| {
        String::from_utf8_lossy(&line)
            .trim_end_matches('\r')
            .to_owned()
    }))
}

/// Writes a file so that a crash leaves what was there before or all of this.
fn save(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    let mut file = tempfile::NamedTempFile::new_in(folder_of(path))?;
    file.write_all(bytes)?;
    file.persist(path)?;
    Ok(())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;
