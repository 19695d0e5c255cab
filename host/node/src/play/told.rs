//! What the components tell, in the game's own words: the contract's records to those that a
//! player and their scripts are shown.
//!
//! Nothing that a component says reaches a terminal as it is: it might hold what a terminal
//! obeys, or be of any length.

use skep_sandbox::records as contract;

use super::{Answer, Deed, Event, Refused, View};

/// Letters of one text that are shown at most.
const LETTERS: usize = 2000;

/// A component's text, fit to be shown: what a terminal would obey is replaced.
pub fn shown(text: &str) -> String {
    let letters = text.chars().take(LETTERS);
    let plain = letters.map(|letter| match letter {
        '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' => '\u{fffd}',
        letter if letter.is_control() => '\u{fffd}',
        letter => letter,
    });
    plain.collect()
}

fn all(texts: &[String]) -> Vec<String> {
    texts.iter().map(|text| shown(text)).collect()
}

/// What the player sees.
pub fn view(view: &contract::View) -> View {
    let people = view.people.iter();
    let wishes = view.wishes.iter();
    View {
        place: shown(&view.place),
        day: view.day,
        minute: view.minute,
        time: shown(&view.time),
        weather: shown(&view.weather),
        paths: all(&view.paths),
        people: people
            .map(|(name, role)| (shown(name), shown(role)))
            .collect(),
        lying: all(&view.lying),
        carried: all(&view.carried),
        coins: view.coins,
        wishes: wishes
            .map(|wish| {
                (
                    shown(&wish.person),
                    shown(&wish.item),
                    wish.reward,
                    wish.fulfilled,
                )
            })
            .collect(),
    }
}

/// What came of something.
pub fn events(events: &[contract::Event]) -> Vec<Event> {
    let told = |event: &contract::Event| match event {
        contract::Event::Came(place) => Event::Came(shown(place)),
        contract::Event::Moved((item, contract::Whereabouts::Lies(place))) => {
            Event::Laid(shown(item), shown(place))
        }
        contract::Event::Moved((item, contract::Whereabouts::WithPerson(person))) => {
            Event::Handed(shown(item), shown(person))
        }
        contract::Event::Paid((from, to, coins)) => Event::Paid(shown(from), shown(to), *coins),
        contract::Event::Fulfilled((person, item, coins)) => {
            Event::Fulfilled(shown(person), shown(item), *coins)
        }
        contract::Event::Asked((person, item, coins)) => {
            Event::Asked(shown(person), shown(item), *coins)
        }
        contract::Event::Left((person, place)) => Event::Left(shown(person), shown(place)),
        contract::Event::Caught((person, item)) => Event::Caught(shown(person), shown(item)),
        contract::Event::Passed(minutes) => Event::Passed(*minutes),
    };
    events.iter().map(told).collect()
}

/// What somebody answered.
pub fn answer(person: &str, outcome: &contract::Outcome) -> Answer {
    Answer {
        person: shown(person),
        line: shown(&outcome.line),
        action: action(&outcome.action),
        events: events(&outcome.events),
        refused: outcome.refused.as_ref().map(|(violation, why)| Refused {
            fault: fault(violation.fault).to_owned(),
            producer: shown(&violation.producer),
            reason: shown(why),
            text: shown(&violation.text),
        }),
    }
}

fn action(action: &contract::Action) -> String {
    match action {
        contract::Action::Nothing => "nothing".to_owned(),
        contract::Action::Give(item) => format!("give {}", shown(item)),
        contract::Action::Sell(item) => format!("sell {}", shown(item)),
        contract::Action::Offer(item) => format!("offer {}", shown(item)),
        contract::Action::Go(place) => format!("go {}", shown(place)),
    }
}

/// What was wrong with a reply, as evidence names it.
pub fn fault(fault: contract::Fault) -> &'static str {
    match fault {
        contract::Fault::Unreadable => "unreadable",
        contract::Fault::Unchecked => "unchecked",
        contract::Fault::Contradiction => "contradiction",
        contract::Fault::Leak => "leak",
        contract::Fault::Illegal => "illegal",
    }
}

/// A deed as the contract has it.
pub fn deed(deed: &Deed) -> contract::Deed {
    match deed.clone() {
        Deed::Go(place) => contract::Deed::Go(place),
        Deed::Take(item) => contract::Deed::Take(item),
        Deed::Drop(item) => contract::Deed::Drop(item),
        Deed::Give(item, person) => contract::Deed::Give((item, person)),
        Deed::Pay(coins, person) => contract::Deed::Pay((coins, person)),
        Deed::Wait(minutes) => contract::Deed::Wait(minutes),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn nothing_that_a_terminal_obeys_is_shown() {
        assert_eq!(
            shown("a\u{1b}[2Jb\u{7}\u{202e}c\n"),
            "a\u{fffd}[2Jb\u{fffd}\u{fffd}c\u{fffd}"
        );
        assert_eq!(shown(&"é".repeat(9000)).chars().count(), LETTERS);
    }
}
