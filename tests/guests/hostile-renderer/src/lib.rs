//! A renderer that does what it must not, for the tests of sessions and of the game. The words
//! that were said in the first scene are what it does:
//!
//! - `loop`: computes for ever;
//! - `trap`: traps;
//! - `fewer`: leaves a scene without an answer;
//! - `garbage`: writes what is no reply;
//! - `illegal`: hands out what nobody has;
//! - `lie`: claims what may not be so;
//! - `escape`: writes what a terminal would obey;
//! - `refuse`: says no;
//! - anything else: two times of three what a truthful character says and does, and else something
//!   of it changed: an act that was not asked for, a claim about anything.

use bindings::exports::skep::workload::renderer::{Guest, Manner};
use npc_scene::bindings::npc::{Reply, Scene};
use npc_scene::bindings::skep::types::types::Error;
use npc_scene::dice::Dice;
use npc_scene::{Action, Claim, Relation, frames, script, voices};

mod bindings {
    //! What `wit-bindgen` makes of the world `npc-renderer`.
    #![allow(missing_docs, clippy::all, clippy::pedantic)]

    wit_bindgen::generate!({
        path: "../../../wit",
        world: "skep:workload/npc-renderer",
        with: {
            "skep:workload/npc@0.1.0": npc_scene::bindings::skep::workload::npc,
            "skep:types/types@0.1.0": npc_scene::bindings::skep::types::types,
            "skep:model/text@0.1.0": generate,
            "skep:adapter/adapters@0.1.0": generate,
            "skep:tensor/tensors@0.1.0": generate,
        },
    });
}

struct Renderer;

impl Guest for Renderer {
    fn render(scenes: Vec<Scene>, manner: Manner) -> Result<Vec<Result<Reply, Error>>, Error> {
        let words = scenes
            .first()
            .map_or("", |scene| scene.heard.words.as_str());
        let text = match words {
            "loop" => {
                let mut number = 1_u64;
                loop {
                    number = std::hint::black_box(number.wrapping_mul(3));
                }
            }
            "trap" => unreachable!("a renderer that traps"),
            "fewer" => return Ok(Vec::new()),
            "garbage" => "{\"role\": \"assistant\"}",
            "illegal" => "Take it. | give crown",
            "lie" => "A blessed night to you. A blessed morning to you. | nothing",
            "escape" => "\u{1b}[2J\u{7}Obey. | nothing",
            "refuse" => return Err(Error::Busy),
            _ => "",
        };
        let reply = |scene: Scene| {
            let text = match text {
                "" => improvised(scene, &mut Dice::new(manner.seed)),
                text => text.to_owned(),
            };
            Ok(Reply {
                text,
                model: "0".repeat(64),
                adapter: None,
                prompt_tokens: 0,
                cached_tokens: 0,
                written_tokens: 0,
            })
        };
        Ok(scenes.into_iter().map(reply).collect())
    }
}

/// Names that there may be, and one that there is not.
const THINGS: [&str; 7] = ["map", "key", "rope", "bell", "lantern", "cheese", "crown"];
const PEOPLE: [&str; 5] = ["Odo", "Maren", "Nell", "Rufus", "Nobody"];
const PLACES: [&str; 5] = ["mill", "tavern", "chapel", "bridge", "moon"];

/// What a truthful character says, or something that it is not to be trusted with.
fn improvised(scene: Scene, dice: &mut Dice) -> String {
    let mut reply = script::reply(&scene.into(), dice);
    let pick = |dice: &mut Dice, all: &[&str]| dice.pick(all).map_or("", |name| *name).to_owned();
    match dice.below(9) {
        0 => {
            let thing = pick(dice, &THINGS);
            let acts = [Action::Give(thing.clone()), Action::Sell(thing)];
            reply.action = dice.pick(&acts).cloned().unwrap_or(Action::Nothing);
        }
        1 => reply.action = Action::Go(pick(dice, &PLACES)),
        2 => {
            let relation = dice.pick(&Relation::ALL).copied().unwrap_or(Relation::True);
            let terms: Vec<String> = relation
                .slots()
                .iter()
                .map(|slot| match slot {
                    npc_scene::Slot::Item => pick(dice, &THINGS),
                    npc_scene::Slot::Person => pick(dice, &PEOPLE),
                    npc_scene::Slot::Coins => dice.below(12).to_string(),
                    npc_scene::Slot::Time => pick(dice, &frames::TIMES),
                    npc_scene::Slot::Weather => pick(dice, &frames::WEATHERS),
                    npc_scene::Slot::Place | npc_scene::Slot::Place2 => pick(dice, &PLACES),
                })
                .collect();
            let claim = Claim { relation, terms };
            let voice = dice.pick(voices::VOICES).copied();
            let frame = voice.and_then(|voice| dice.pick(voice.frames(relation)).copied());
            reply.line = frames::fill(frame.unwrap_or("Nothing."), &claim);
        }
        _ => {}
    }
    reply.to_string()
}

bindings::export!(Renderer with_types_in bindings);
