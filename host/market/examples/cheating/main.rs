//! What becomes of who cheats, kind by kind: jobs of 1,000 shards on ten nodes at 5 % audits.
//!
//! `cargo run -p skep-market --example cheating`
//!
//! Scheduling, draws, panels, statements, their checks, accusations and the ledger are the real ones;
//! only the work is not done, and there is no network: each node answers at once. On the side of
//! the cheats: making up a result costs them nothing, and who cheats together knows everything of
//! each other.

mod node;
#[expect(dead_code, reason = "the other simulation needs more kinds of chance")]
#[path = "../swarm_simulation/random.rs"]
mod random;
mod swarm;

use node::Cheat;
use swarm::{PRICE, Run, STAKE};

/// So many jobs of each kind.
const RUNS: u64 = 40;
const SHARDS: u32 = 1_000;
const RATE: u32 = 50_000;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!(
        "{SHARDS} shards a job at {} % audits, {RUNS} jobs of each kind; a shard costs {PRICE} \
         credits, and each node has {STAKE} at stake",
        f64::from(RATE) / 10_000.0
    );
    println!(
        "| cheat | jobs in which it was caught | its wrong results of 1,000 until then | \
         wrong results accepted of 1,000 | it gained with them | its stake lost | profit | \
         breaks even at a stake of | honest nodes charged |"
    );
    println!("|---|---|---|---|---|---|---|---|---|");
    for cheat in Cheat::ALL {
        let mut runs = Vec::new();
        for seed in 0..RUNS {
            runs.push(Run::of(cheat, SHARDS, RATE, seed)?);
        }
        println!("{}", row(cheat, &runs));
    }
    Ok(())
}

fn row(cheat: Cheat, runs: &[Run]) -> String {
    let mean = |of: &dyn Fn(&Run) -> f64| runs.iter().map(of).sum::<f64>() / runs.len() as f64;
    let caught = runs.iter().filter(|run| run.was_caught).count();
    let gained = mean(&|run| run.gained as f64 / 1e6);
    let lost = mean(&|run| run.lost as f64 / 1e6);
    format!(
        "| {} | {caught} of {} | {:.1} | {:.1} | {gained:.3} | {lost:.3} | {:+.3} | {gained:.3} | {} |",
        cheat.name(),
        runs.len(),
        mean(&|run| f64::from(run.attempted)),
        mean(&|run| f64::from(run.accepted)),
        gained - lost,
        runs.iter().map(|run| run.honest_charged).sum::<u32>(),
    )
}
