//! The village as a component: names instead of numbers, and the contract's records. What does not
//! stand it reports to whoever runs it.

use std::cell::RefCell;

use npc_scene::bindings::npc::{Claim as WitClaim, Scene};
use npc_scene::bindings::skep::types::types::Error;

use bindings::exports::skep::workload::villages as wit;
use bindings::skep::verify::reports;
use wit::{Guest, GuestVillage};

use crate::deed::{Deed, Event};
use crate::game::{Entry, Game, Outcome};
use crate::hash::{canonical, hash};
use crate::judge::Fault;
use crate::log::{encode, resume};
use crate::state::{PersonId, Stage, State, VISITOR, Whereabouts};
use crate::violation::{FaultKind, Violation};

mod bindings {
    //! What `wit-bindgen` makes of the world `village` with the interface for reports beside it.
    #![allow(missing_docs, clippy::all, clippy::pedantic)]

    wit_bindgen::generate!({
        path: "../../wit",
        inline: "
            package skep:village;
            world reporting {
                include skep:workload/village@0.1.0;
                import skep:verify/reports@0.1.0;
            }
        ",
        world: "skep:village/reporting",
        with: {
            "skep:verify/reports@0.1.0": generate,
            "skep:workload/npc@0.1.0": npc_scene::bindings::skep::workload::npc,
            "skep:types/types@0.1.0": npc_scene::bindings::skep::types::types,
        },
    });
}

struct Villages;

/// A village in play, as a guest's resource.
struct Village(RefCell<Game>);

impl Guest for Villages {
    type Village = Village;
}

impl GuestVillage for Village {
    fn begin(seed: u64) -> wit::Village {
        wit::Village::new(Self(RefCell::new(Game::new(seed))))
    }

    fn resume(log: Vec<u8>) -> Result<wit::Village, Error> {
        let game = resume(&log).map_err(invalid)?;
        Ok(wit::Village::new(Self(RefCell::new(game))))
    }

    fn look(&self) -> wit::View {
        view(self.0.borrow().state())
    }

    fn act(&self, deed: wit::Deed) -> Result<Vec<wit::Event>, Error> {
        let mut game = self.0.borrow_mut();
        let deed = deed_of(game.state(), &deed)?;
        let events = game.perform(&deed).map_err(invalid)?;
        Ok(events_of(game.state(), &events))
    }

    fn talk(&self, person: String, words: String) -> Result<Scene, Error> {
        let mut game = self.0.borrow_mut();
        let person = person_of(game.state(), &person)?;
        let scene = game.talk(person, &words).map_err(invalid)?;
        Ok(scene.into())
    }

    fn commit(&self, text: String, producer: String) -> Result<wit::Outcome, Error> {
        let mut game = self.0.borrow_mut();
        let outcome = game.commit(&text, &producer).map_err(invalid)?;
        if let Some((fault, _)) = &outcome.refused {
            report(&text, fault);
        }
        Ok(outcome_of(game.state(), outcome))
    }

    fn hash(&self) -> String {
        hash(self.0.borrow().state())
    }

    fn state(&self) -> Vec<u8> {
        canonical(self.0.borrow().state())
    }

    fn log(&self) -> Vec<u8> {
        encode(&self.0.borrow())
    }

    fn talks(&self) -> u32 {
        let game = self.0.borrow();
        let talk = |entry: &&Entry| matches!(entry, Entry::Talk { .. });
        u32::try_from(game.log().iter().filter(talk).count()).unwrap_or(u32::MAX)
    }

    fn violations(&self) -> Vec<wit::Violation> {
        self.0.borrow().violations().map(violation_of).collect()
    }
}

/// Reports a text that did not stand, by the digest of all of it. The evidence is the fault in words,
/// which a line's length bounds.
fn report(text: &str, fault: &Fault) {
    let output = blake3::hash(text.as_bytes()).to_hex();
    // Whether there is room for it is the host's affair, and nothing in a village may depend on that.
    let _ = reports::report(&output, &fault.to_string());
}

fn invalid(error: impl std::fmt::Display) -> Error {
    Error::Invalid(error.to_string())
}

fn view(state: &State) -> wit::View {
    let here = state.place_of(VISITOR);
    let paths = here.and_then(|here| state.places.get(usize::from(here.0)));
    let people = state.villagers().filter(|id| state.together(*id, VISITOR));
    let items_at = |at: Option<Whereabouts>| -> Vec<String> {
        let items = state
            .all_items()
            .filter(|item| state.whereabouts(*item) == at);
        items.map(|item| state.item_name(item).to_owned()).collect()
    };
    let asked = state
        .quests
        .iter()
        .filter(|quest| quest.stage > Stage::Open);
    wit::View {
        place: here.map_or("", |here| state.place_name(here)).to_owned(),
        day: state.minutes / (24 * 60) + 1,
        minute: state.minutes % (24 * 60),
        time: state.time().to_owned(),
        weather: state.weather().to_owned(),
        paths: paths.map_or(Vec::new(), |place| {
            let names = place
                .paths
                .iter()
                .map(|path| state.place_name(*path).to_owned());
            names.collect()
        }),
        people: people
            .map(|id| {
                (
                    state.person_name(id).to_owned(),
                    state.role(id).0.to_owned(),
                )
            })
            .collect(),
        lying: items_at(here.map(Whereabouts::Lies)),
        carried: items_at(Some(Whereabouts::With(VISITOR))),
        coins: state.person(VISITOR).map_or(0, |visitor| visitor.coins),
        wishes: asked
            .map(|quest| wit::Wish {
                person: state.person_name(quest.giver).to_owned(),
                item: state.item_name(quest.item).to_owned(),
                reward: quest.reward,
                fulfilled: quest.stage == Stage::Done,
            })
            .collect(),
    }
}

fn deed_of(state: &State, deed: &wit::Deed) -> Result<Deed, Error> {
    let item = |name: &str| {
        let item = state.item_named(name);
        item.ok_or_else(|| Error::NotFound(format!("an item called {name}")))
    };
    match deed {
        wit::Deed::Go(name) => {
            let place = state.place_named(name);
            let place = place.ok_or_else(|| Error::NotFound(format!("a place called {name}")))?;
            Ok(Deed::Go(place))
        }
        wit::Deed::Take(name) => Ok(Deed::Take(item(name)?)),
        wit::Deed::Drop(name) => Ok(Deed::Drop(item(name)?)),
        wit::Deed::Give((name, person)) => Ok(Deed::Give(item(name)?, person_of(state, person)?)),
        wit::Deed::Pay((coins, person)) => Ok(Deed::Pay(*coins, person_of(state, person)?)),
        wit::Deed::Wait(minutes) => Ok(Deed::Wait(*minutes)),
    }
}

fn person_of(state: &State, name: &str) -> Result<PersonId, Error> {
    let person = state.person_named(name);
    person.ok_or_else(|| Error::NotFound(format!("a person called {name}")))
}

fn events_of(state: &State, events: &[Event]) -> Vec<wit::Event> {
    let person = |id| state.person_name(id).to_owned();
    let place = |id| state.place_name(id).to_owned();
    let item = |id| state.item_name(id).to_owned();
    let event = |event: &Event| match *event {
        Event::Came(to) => wit::Event::Came(place(to)),
        Event::Moved(what, Whereabouts::Lies(at)) => {
            wit::Event::Moved((item(what), wit::Whereabouts::Lies(place(at))))
        }
        Event::Moved(what, Whereabouts::With(who)) => {
            wit::Event::Moved((item(what), wit::Whereabouts::WithPerson(person(who))))
        }
        Event::Paid(from, to, coins) => wit::Event::Paid((person(from), person(to), coins)),
        Event::Fulfilled(who, what, coins) => {
            wit::Event::Fulfilled((person(who), item(what), coins))
        }
        Event::Asked(who, what, coins) => wit::Event::Asked((person(who), item(what), coins)),
        Event::Left(who, to) => wit::Event::Left((person(who), place(to))),
        Event::Caught(who, what) => wit::Event::Caught((person(who), item(what))),
        Event::Passed(minutes) => wit::Event::Passed(minutes),
    };
    events.iter().map(event).collect()
}

fn outcome_of(state: &State, outcome: Outcome) -> wit::Outcome {
    wit::Outcome {
        events: events_of(state, &outcome.events),
        line: outcome.reply.line,
        action: outcome.reply.action.into(),
        claims: outcome.claims.into_iter().map(WitClaim::from).collect(),
        refused: outcome
            .refused
            .map(|(fault, violation)| (violation_of(&violation), fault.to_string())),
    }
}

fn violation_of(violation: &Violation) -> wit::Violation {
    wit::Violation {
        fault: match violation.kind {
            FaultKind::Unreadable => wit::Fault::Unreadable,
            FaultKind::Unchecked => wit::Fault::Unchecked,
            FaultKind::Contradiction => wit::Fault::Contradiction,
            FaultKind::Leak => wit::Fault::Leak,
            FaultKind::Illegal => wit::Fault::Illegal,
        },
        producer: violation.producer.clone(),
        text: violation.text.clone(),
    }
}

bindings::export!(Villages with_types_in bindings);
