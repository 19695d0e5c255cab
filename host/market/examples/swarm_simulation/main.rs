//! A swarm of 10,000 nodes that come and go, a fifth of which cheat, on the real scheduling,
//! reputation and draws of auditors; the network, the work and the clock are simulated.
//!
//! `cargo run -p skep-market --example swarm_simulation [folder for plots]`
//!
//! Assumptions, on the side of the cheats: a cheat answers at once and without working; all cheats
//! give the same wrong answer to the same shard, and as auditors they say what the other cheats
//! say. An audit takes no time, those who audit are not paid, and everyone drawn into a panel has
//! a say.

mod plot;
mod random;
mod world;

use world::{Settings, World};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let folder = std::env::args().nth(1);
    println!(
        "| audits | panel | right results | of what honest nodes could do | wrong accepted | \
         cheats convicted | honest convicted | panels called | a cheat earned | an honest node earned |"
    );
    println!("|---|---|---|---|---|---|---|---|---|---|");
    let mut histories = Vec::new();
    for (audits, panel) in [(0, 15), (10_000, 15), (50_000, 15), (50_000, 3)] {
        let settings = Settings {
            nodes: 10_000,
            cheats: 200_000,
            requesters: 400,
            neighbours: 200,
            shards: 100,
            audits,
            panel,
            hours: 4,
            seed: 7,
        };
        let mut world = World::new(settings);
        let begin = std::time::Instant::now();
        world.run();
        eprintln!("simulated in {:.1} s", begin.elapsed().as_secs_f64());
        println!("{}", world.row());
        if panel > 3 {
            histories.push((audits, world.history));
        }
    }
    if let Some(folder) = folder {
        plot::write(std::path::Path::new(&folder), &histories)?;
    }
    Ok(())
}
