//! A village that does what it must not, for the tests of sessions and of the game. Its seed is what
//! it does when it is looked at:
//!
//! - 0: counts how often it was asked for its hash, and says so: honest;
//! - 1: computes for ever;
//! - 2: traps;
//! - 3: takes memory until there is none;
//! - 4: asks for its log, it gives more than one call may carry;
//! - 5: computes for ever before there is a village at all;
//! - 6: computes for a while, each time;
//! - 7: has Odo there, whose every reply it refuses. What the visitor says to him is the output that
//!   it reports then, a hundred times.

use std::cell::{Cell, RefCell};

use bindings::exports::skep::workload::villages as wit;
use bindings::skep::verify::reports;
use npc_scene::bindings::npc::{Action, Heard, Intent, Mood, Regard, Scene, Speaker};
use npc_scene::bindings::skep::types::types::Error;

mod bindings {
    //! What `wit-bindgen` makes of the world `village` with the interface for reports beside it.
    #![allow(missing_docs, clippy::all, clippy::pedantic)]

    wit_bindgen::generate!({
        path: "../../../wit",
        inline: "
            package hostile:village;
            world reporting {
                include skep:workload/village@0.1.0;
                import skep:verify/reports@0.1.0;
            }
        ",
        world: "hostile:village/reporting",
        with: {
            "skep:verify/reports@0.1.0": generate,
            "skep:workload/npc@0.1.0": npc_scene::bindings::skep::workload::npc,
            "skep:types/types@0.1.0": npc_scene::bindings::skep::types::types,
        },
    });
}

struct Villages;

struct Village {
    seed: u64,
    asked: Cell<u64>,
    words: RefCell<String>,
}

/// The village that refuses everything.
const REFUSING: u64 = 7;

impl wit::Guest for Villages {
    type Village = Village;
}

fn for_ever() -> ! {
    let mut number = 1_u64;
    loop {
        number = std::hint::black_box(number.wrapping_mul(3));
    }
}

fn a_while() {
    let mut number = 1_u64;
    for _ in 0..30_000_000 {
        number = std::hint::black_box(number.wrapping_mul(3));
    }
}

fn nowhere() -> wit::View {
    wit::View {
        place: "nowhere".to_owned(),
        day: 1,
        minute: 0,
        time: "night".to_owned(),
        weather: "fog".to_owned(),
        paths: Vec::new(),
        people: Vec::new(),
        lying: Vec::new(),
        carried: Vec::new(),
        coins: 0,
        wishes: Vec::new(),
    }
}

/// A scene in which the renderer of these tests writes what is no reply.
fn scene(person: String) -> Scene {
    Scene {
        speaker: Speaker {
            name: person,
            role: "miller".to_owned(),
            voice: "gruff".to_owned(),
            mood: Mood::Calm,
            regard: Regard::Stranger,
        },
        place: "nowhere".to_owned(),
        time: "night".to_owned(),
        weather: "fog".to_owned(),
        present: Vec::new(),
        claims: Vec::new(),
        actions: Vec::new(),
        heard: Heard {
            words: "garbage".to_owned(),
            intent: Intent::Chat,
            topics: Vec::new(),
        },
    }
}

fn no<T>() -> Result<T, Error> {
    Err(Error::Invalid("not in this village".to_owned()))
}

impl wit::GuestVillage for Village {
    fn begin(seed: u64) -> wit::Village {
        if seed == 5 {
            for_ever();
        }
        wit::Village::new(Self {
            seed,
            asked: Cell::new(0),
            words: RefCell::default(),
        })
    }

    fn resume(_: Vec<u8>) -> Result<wit::Village, Error> {
        no()
    }

    fn look(&self) -> wit::View {
        match self.seed {
            1 => for_ever(),
            2 => unreachable!("a village that traps"),
            3 => {
                let mut hoard = Vec::new();
                loop {
                    hoard.push(vec![1_u8; 1 << 20]);
                    std::hint::black_box(&hoard);
                }
            }
            seed => {
                if seed == 6 {
                    a_while();
                }
                let mut view = nowhere();
                if seed == REFUSING {
                    view.people.push(("Odo".to_owned(), "miller".to_owned()));
                }
                view
            }
        }
    }

    fn act(&self, _: wit::Deed) -> Result<Vec<wit::Event>, Error> {
        no()
    }

    fn talk(&self, person: String, words: String) -> Result<Scene, Error> {
        if self.seed != REFUSING {
            return no();
        }
        *self.words.borrow_mut() = words;
        Ok(scene(person))
    }

    fn commit(&self, text: String, producer: String) -> Result<wit::Outcome, Error> {
        if self.seed != REFUSING {
            return no();
        }
        for _ in 0..100 {
            // Some of them are none.
            let _ = reports::report(&self.words.borrow(), "as it was reported");
        }
        let violation = wit::Violation {
            fault: wit::Fault::Leak,
            producer,
            text,
        };
        Ok(wit::Outcome {
            line: "No.".to_owned(),
            action: Action::Nothing,
            claims: Vec::new(),
            events: Vec::new(),
            refused: Some((violation, "as it was refused".to_owned())),
        })
    }

    fn hash(&self) -> String {
        self.asked.set(self.asked.get() + 1);
        self.asked.get().to_string()
    }

    fn state(&self) -> Vec<u8> {
        Vec::new()
    }

    fn log(&self) -> Vec<u8> {
        vec![7; if self.seed == 4 { 16 << 20 } else { 1 }]
    }

    fn talks(&self) -> u32 {
        0
    }

    fn violations(&self) -> Vec<wit::Violation> {
        Vec::new()
    }
}

bindings::export!(Villages with_types_in bindings);
