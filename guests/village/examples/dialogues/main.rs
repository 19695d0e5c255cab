//! Prints dialogues to train a renderer's model on, one JSON object a line: the prompt of a scene
//! and the reply that the scripted renderer gives to it.
//!
//! A visitor wanders through one village after the other and says this and that. Every reply goes
//! before the judge; one that does not stand ends the program.
//!
//! ```sh
//! cargo run --release -p village --example dialogues -- --seed 1 --count 100000 > dialogues.jsonl
//! ```

mod visitor;

use std::io::{BufWriter, Write};
use std::process::ExitCode;

use npc_scene::dice::Dice;
use npc_scene::{prompt, script};
use village::game::Game;

/// Turns that are spent in one village before the next.
const TURNS: usize = 60;

fn main() -> ExitCode {
    let mut seed = 1;
    let mut count = 1000;
    let mut arguments = std::env::args().skip(1);
    while let Some(name) = arguments.next() {
        let value = arguments.next().and_then(|value| value.parse().ok());
        match (name.as_str(), value) {
            ("--seed", Some(value)) => seed = value,
            ("--count", Some(value)) => count = value,
            _ => {
                eprintln!("usage: dialogues [--seed NUMBER] [--count NUMBER]");
                return ExitCode::from(2);
            }
        }
    }
    match print(seed, count) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

fn print(seed: u64, count: u64) -> Result<(), Box<dyn std::error::Error>> {
    let mut dice = Dice::new(seed);
    let mut output = BufWriter::new(std::io::stdout().lock());
    let mut written = 0;
    while written < count {
        let mut game = Game::new(dice.draw());
        for _ in 0..TURNS {
            for _ in 0..dice.below(3) {
                if let Some(deed) = visitor::deed(game.state(), &mut dice) {
                    game.perform(&deed)?;
                }
            }
            let Some((person, words)) = visitor::words(game.state(), &mut dice) else {
                continue;
            };
            let scene = game.talk(person, &words)?;
            let reply = script::reply(&scene, &mut dice);
            let outcome = game.commit(&reply.to_string(), "script")?;
            if let Some((fault, _)) = outcome.refused {
                return Err(
                    format!("the script said what does not stand: {fault}\n{reply}").into(),
                );
            }
            let completion = format!(" {reply}");
            let sample = serde_json::json!({"prompt": prompt(&scene), "completion": completion});
            writeln!(output, "{sample}")?;
            written += 1;
            if written == count {
                break;
            }
        }
    }
    output.flush()?;
    Ok(())
}
