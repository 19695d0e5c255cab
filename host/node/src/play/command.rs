//! What a player types: a few verbs, and everything else is said to somebody.

use super::{Deed, View};

/// What a line asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command {
    /// An empty line.
    Nothing,
    /// Look around.
    Look,
    /// Look at what one has.
    Bag,
    /// What can be typed.
    Help,
    /// Everything that is so.
    State,
    /// End the game.
    Leave,
    /// Do something.
    Do(Deed),
    /// Say something to somebody.
    Say(String, String),
}

/// Reads a line. Words are said to whoever is named before a colon (`Odo: hello`), else to
/// `partner`, who was spoken to last, else to whoever is alone with the player.
///
/// # Errors
/// A hint for the player, if the line is a verb without what it needs, or said to nobody.
pub fn parse(line: &str, view: &View, partner: Option<&str>) -> Result<Command, String> {
    let line = line.trim();
    if line.is_empty() || line.starts_with('#') {
        return Ok(Command::Nothing);
    }
    let (verb, rest) = line.split_once(char::is_whitespace).unwrap_or((line, ""));
    let rest = rest.trim();
    let name = || rest.strip_prefix("the ").unwrap_or(rest).to_lowercase();
    let known = |names: &[String]| names.contains(&name());
    // A verb that also begins a sentence counts only with a name after it that is there.
    match (verb.to_lowercase().as_str(), rest) {
        ("look", "") => return Ok(Command::Look),
        ("bag", "") => return Ok(Command::Bag),
        ("help" | "?", "") => return Ok(Command::Help),
        ("state", "") => return Ok(Command::State),
        ("quit" | "exit", "") => return Ok(Command::Leave),
        ("go", "") => return Err(format!("go where? {}", view.paths.join(", "))),
        ("go", _) => return Ok(Command::Do(Deed::Go(name()))),
        ("take", _) if known(&view.lying) => return Ok(Command::Do(Deed::Take(name()))),
        ("take", "") => return Err("take what?".to_owned()),
        ("drop", _) if known(&view.carried) => return Ok(Command::Do(Deed::Drop(name()))),
        ("drop", "") => return Err("drop what?".to_owned()),
        ("wait", _) => {
            let minutes = if rest.is_empty() {
                Ok(30)
            } else {
                rest.parse()
            };
            let minutes = minutes.map_err(|_| "wait how many minutes?".to_owned())?;
            return Ok(Command::Do(Deed::Wait(minutes)));
        }
        _ => {}
    }
    if let Some(deed) = handed(&verb.to_lowercase(), rest, view) {
        return Ok(Command::Do(deed));
    }
    said(line, view, partner)
}

/// `give the map to Odo`, `pay 3 to Odo`.
fn handed(verb: &str, rest: &str, view: &View) -> Option<Deed> {
    let (what, whom) = rest.rsplit_once(" to ")?;
    let person = person_of(whom.trim(), view)?;
    let what = what.trim();
    match verb {
        "give" => {
            let item = what.strip_prefix("the ").unwrap_or(what).to_lowercase();
            view.carried
                .contains(&item)
                .then_some(Deed::Give(item, person))
        }
        "pay" => {
            let coins = what.strip_suffix("coins").unwrap_or(what).trim();
            coins.parse().ok().map(|coins| Deed::Pay(coins, person))
        }
        _ => None,
    }
}

fn said(line: &str, view: &View, partner: Option<&str>) -> Result<Command, String> {
    let named = line.split_once(':').and_then(|(name, words)| {
        let person = person_of(name.trim(), view)?;
        Some(Command::Say(person, words.trim().to_owned()))
    });
    if let Some(said) = named {
        return Ok(said);
    }
    let here: Vec<&str> = view.people.iter().map(|(name, _)| name.as_str()).collect();
    let to = match (partner, here.as_slice()) {
        (Some(partner), here) if here.contains(&partner) => partner,
        (_, [alone]) => alone,
        (_, []) => {
            return Err("nobody is here to hear that; `help` says what you can do".to_owned());
        }
        (_, [first, ..]) => {
            return Err(format!(
                "to whom? begin with a name, as in `{first}: hello`"
            ));
        }
    };
    Ok(Command::Say(to.to_owned(), line.to_owned()))
}

/// The person who is here and has this name, in letters of any size.
fn person_of(name: &str, view: &View) -> Option<String> {
    let is = |(each, _): &&(String, String)| each.eq_ignore_ascii_case(name);
    view.people.iter().find(is).map(|(name, _)| name.clone())
}
