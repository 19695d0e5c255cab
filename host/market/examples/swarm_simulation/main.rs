//! A swarm of 10,000 nodes that come and go, a fifth of which cheat, on the real scheduling,
//! reputation and draws of auditors; the network, the work and the clock are simulated.
//!
//! `cargo run -p skep-market --example swarm_simulation [folder for plots]`
//!
//! Assumptions, on the side of the cheats: a cheat answers at once and without working; all cheats
//! give the same wrong answer to the same shard, and as auditors they say what the other cheats
//! say. An audit takes no time, those who audit are not paid, and everyone drawn into a panel has
//! a say.
//!
//! One more run is of the honest nodes by themselves: what cheats cost them is the difference to it.
//! `tests/swarm.rs` runs a small swarm.

mod figures;
mod plot;
mod random;
mod world;

use plot::Run;
use world::{Settings, World};

/// A swarm with cheats.
const MIXED: Settings = Settings {
    nodes: 10_000,
    cheats: 200_000,
    requesters: 400,
    neighbours: 200,
    shards: 100,
    audits: 0,
    panel: 15,
    hours: 4,
    seed: 7,
};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let folder = std::env::args().nth(1);
    println!(
        "| nodes | audits | panel | right results | of what honest nodes could do | wrong accepted | \
         cheats convicted | honest convicted | panels called | a cheat earned | an honest node earned |"
    );
    println!("|---|---|---|---|---|---|---|---|---|---|---|");
    let audited = |audits| Settings { audits, ..MIXED };
    let swarms = [
        ("no audits", MIXED),
        ("1 % audits", audited(10_000)),
        ("5 % audits", audited(50_000)),
        (
            "5 % audits, panels of 3",
            Settings {
                panel: 3,
                ..audited(50_000)
            },
        ),
        (
            "no cheats",
            // A fifth fewer nodes to know.
            Settings {
                nodes: 8_000,
                cheats: 0,
                neighbours: 160,
                ..MIXED
            },
        ),
    ];
    let mut runs = Vec::new();
    for (name, settings) in swarms {
        let mut world = World::new(settings);
        let begin = std::time::Instant::now();
        world.run();
        eprintln!("simulated in {:.1} s", begin.elapsed().as_secs_f64());
        println!("{}", world.figures().row());
        runs.push(Run {
            name,
            settings,
            history: world.history,
        });
    }
    if let Some(folder) = folder {
        plot::write(std::path::Path::new(&folder), &runs)?;
    }
    Ok(())
}
