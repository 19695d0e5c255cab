//! What a player is shown: sentences, or one JSON object a line.

use std::io::{Result, Write};

use serde_json::{Value, json};

use super::{Answer, Event, Manner, Snapshot, Tally, View};

/// Where a game is shown.
pub struct Screen<'a, W> {
    output: &'a mut W,
    manner: Manner,
}

impl<'a, W: Write> Screen<'a, W> {
    /// Shows a game in this manner.
    pub fn new(output: &'a mut W, manner: Manner) -> Self {
        Self { output, manner }
    }

    /// Asks for a line.
    pub fn ask(&mut self) -> Result<()> {
        if !self.manner.json {
            write!(self.output, "> ")?;
        }
        self.output.flush()
    }

    /// Shows a line that came from a file.
    pub fn echo(&mut self, line: &str) -> Result<()> {
        if self.manner.json {
            self.object(&json!({ "line": line }))
        } else {
            writeln!(self.output, "{line}")
        }
    }

    /// Shows what the player sees.
    pub fn view(&mut self, view: &View) -> Result<()> {
        if self.manner.json {
            return self.object(&json!({ "view": view }));
        }
        let (hour, minute) = (view.minute / 60, view.minute % 60);
        writeln!(
            self.output,
            "\nThe {}. Day {}, {hour}:{minute:02}, {}, {}.",
            view.place, view.day, view.time, view.weather
        )?;
        let people = view
            .people
            .iter()
            .map(|(name, role)| format!("{name} the {role}"));
        self.list("Here", people)?;
        self.list(
            "On the ground",
            view.lying.iter().map(|item| format!("a {item}")),
        )?;
        self.list("Paths", view.paths.iter().cloned())
    }

    /// Shows what the player has and was asked for.
    pub fn bag(&mut self, view: &View) -> Result<()> {
        if self.manner.json {
            let bag =
                json!({ "carried": view.carried, "coins": view.coins, "wishes": view.wishes });
            return self.object(&json!({ "bag": bag }));
        }
        let coins = std::iter::once(format!("{} coins", view.coins));
        self.list("You have", coins.chain(view.carried.iter().cloned()))?;
        for (person, item, reward, fulfilled) in &view.wishes {
            let how = if *fulfilled { "done" } else { "wanted" };
            writeln!(
                self.output,
                "  {person}: the {item}, {reward} coins ({how})"
            )?;
        }
        Ok(())
    }

    /// Shows what came of a deed.
    pub fn events(&mut self, events: &[Event]) -> Result<()> {
        if self.manner.json {
            return self.object(&json!({ "events": events }));
        }
        for event in events {
            if let Some(text) = told(event) {
                writeln!(self.output, "  ({text})")?;
            }
        }
        Ok(())
    }

    /// Shows what somebody answered.
    pub fn answer(&mut self, answer: &Answer) -> Result<()> {
        if self.manner.json {
            return self.object(&json!({ "answer": answer }));
        }
        writeln!(self.output, "{}: {}", answer.person, answer.line)?;
        if let Some(refused) = &answer.refused {
            let why = &refused.reason;
            writeln!(self.output, "  (the model's own reply was refused: {why})")?;
        }
        self.events(&answer.events)
    }

    /// Shows why a line did nothing.
    pub fn hint(&mut self, hint: &str) -> Result<()> {
        if self.manner.json {
            return self.object(&json!({ "hint": hint }));
        }
        writeln!(self.output, "  ({hint})")
    }

    /// Shows what can be typed.
    pub fn help(&mut self) -> Result<()> {
        if self.manner.json {
            return self.object(&json!({ "help": HELP }));
        }
        writeln!(self.output, "{HELP}")
    }

    /// Shows the whole state: to a script its bytes, to a person the name that they have.
    pub fn state(&mut self, state: &Snapshot) -> Result<()> {
        if self.manner.json {
            return self.object(&json!({ "state": state }));
        }
        writeln!(self.output, "  (the village is {} now)", state.hash)
    }

    /// Shows how the game stands.
    pub fn tally(&mut self, tally: &Tally) -> Result<()> {
        if self.manner.json {
            return self.object(&json!({ "tally": tally }));
        }
        writeln!(
            self.output,
            "\n{} talks, {} replies refused. The village is now {}.",
            tally.talks, tally.violations, tally.hash
        )
    }

    fn list(&mut self, what: &str, items: impl Iterator<Item = String>) -> Result<()> {
        let items: Vec<String> = items.collect();
        if items.is_empty() {
            return Ok(());
        }
        writeln!(self.output, "  {what}: {}.", items.join(", "))
    }

    fn object(&mut self, object: &Value) -> Result<()> {
        writeln!(self.output, "{object}")
    }
}

const HELP: &str = "\
  go PLACE            take ITEM           drop ITEM
  give ITEM to NAME   pay 3 to NAME       wait MINUTES
  look   bag   state   help   quit
  NAME: words         say something to somebody; without a name, to whom you spoke last";

/// An event in words; nothing for what the player sees anyway.
fn told(event: &Event) -> Option<String> {
    let text = match event {
        Event::Came(_) | Event::Passed(_) => return None,
        Event::Laid(item, place) => format!("the {item} lies at the {place} now"),
        Event::Handed(item, person) if person == "you" => format!("you have the {item} now"),
        Event::Handed(item, person) => format!("{person} has the {item} now"),
        Event::Paid(from, to, coins) if from == "you" => format!("you pay {to} {coins} coins"),
        Event::Paid(from, to, coins) => format!("{from} pays {to} {coins} coins"),
        Event::Fulfilled(person, item, coins) => {
            format!("{person} has missed the {item}, and pays you {coins} coins")
        }
        Event::Asked(person, item, coins) => {
            format!("{person} asks you to bring the {item}, for {coins} coins")
        }
        Event::Left(person, place) => format!("{person} walks away to the {place}"),
        Event::Caught(person, item) => format!("{person} saw you take the {item}, which is theirs"),
    };
    Some(text)
}
