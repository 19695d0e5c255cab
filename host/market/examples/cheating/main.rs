//! What becomes of who cheats, kind by kind: jobs of 1,000 shards on ten nodes at 5 % audits.
//!
//! `cargo run -p skep-market --example cheating`
//!
//! It fails if a kind of cheat does not lose in the mean, or anybody honest is charged.
//!
//! On the side of the cheats: making up a result costs them nothing, and who cheats together knows everything of
//! each other.

mod cheats;

use cheats::Fault;
use cheats::cheat::Cheat;
use cheats::summary::Summary;
use cheats::swarm::{PRICE, STAKE};

/// So many jobs of each kind.
const RUNS: u64 = 40;
const SHARDS: u32 = 1_000;
const RATE: u32 = 50_000;

fn main() -> Result<(), Fault> {
    println!(
        "{SHARDS} shards a job at {} % audits, {RUNS} jobs of each kind; a shard costs {PRICE} \
         credits, and each node has {STAKE} at stake",
        f64::from(RATE) / 10_000.0
    );
    println!(
        "| cheat | jobs in which it was caught | its wrong results of {SHARDS} until then | \
         wrong results accepted | audits without a finding | it gained with them | its stake lost | \
         profit | honest nodes charged |"
    );
    println!("|---|---|---|---|---|---|---|---|---|");
    let mut wrong = Vec::new();
    for cheat in Cheat::ALL {
        let summary = Summary::of(cheat, SHARDS, RATE, 0..RUNS)?;
        println!("{}", summary.row());
        wrong.extend(summary.check().err());
    }
    match wrong.is_empty() {
        true => Ok(()),
        false => Err(wrong.join("\n").into()),
    }
}
