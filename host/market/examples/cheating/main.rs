//! What becomes of who cheats, kind by kind: jobs of 1,000 shards on ten nodes at 5 % audits.
//!
//! `cargo run -p skep-market --example cheating [part of a kind's name]…`
//!
//! With parts of names only the kinds that have one of them are done. It fails if a kind of cheat does not end as it
//! has to, which for nearly all is to lose in the mean (`End` says what else there is), or anybody honest is charged.
//!
//! On the side of the cheats: making up a result costs them nothing, and who cheats together knows everything of
//! each other.

mod cheats;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc;
use std::thread;

use cheats::Fault;
use cheats::cheat::Cheat;
use cheats::summary::Summary;
use cheats::swarm::{PRICE, STAKE};

/// So many jobs of each kind.
const RUNS: u64 = 40;
const SHARDS: u32 = 1_000;
const RATE: u32 = 50_000;

fn main() -> Result<(), Fault> {
    let parts: Vec<String> = std::env::args().skip(1).collect();
    let cheats = chosen(&parts)?;
    println!(
        "{SHARDS} shards a job at {} % audits, {RUNS} jobs of each kind; a shard costs {PRICE} \
         credits, and each node has {STAKE} at stake",
        f64::from(RATE) / 10_000.0
    );
    println!(
        "| cheat | jobs in which it was caught | its wrong results of {SHARDS} until then | \
         wrong results accepted | audits without a finding | it gained by it | its stake lost | \
         profit | honest nodes charged |"
    );
    println!("|---|---|---|---|---|---|---|---|---|");
    let mut wrong = Vec::new();
    summarise(&cheats, |summary| {
        println!("{}", summary.row());
        wrong.extend(summary.check().err());
    })?;
    match wrong.is_empty() {
        true => Ok(()),
        false => Err(wrong.join("\n").into()),
    }
}

/// The kinds whose names have one of these parts; all if there are no parts.
fn chosen(parts: &[String]) -> Result<Vec<Cheat>, Fault> {
    let names = |part: &String| Cheat::ALL.iter().any(|cheat| cheat.name().contains(part));
    if let Some(part) = parts.iter().find(|part| !names(part)) {
        let names = Cheat::ALL.map(Cheat::name).join("\n");
        return Err(
            format!("no kind of cheat has \"{part}\" in its name; they are\n{names}").into(),
        );
    }
    let has_one = |cheat: &Cheat| parts.iter().any(|part| cheat.name().contains(part));
    let is_meant = |cheat: &Cheat| parts.is_empty() || has_one(cheat);
    Ok(Cheat::ALL.into_iter().filter(is_meant).collect())
}

/// Does the jobs of these kinds on as many threads as there are processors, and tells what came of each kind once all
/// before it are told. Every job grows from a seed of its own, so that it comes to the same on any number of threads.
fn summarise(cheats: &[Cheat], mut tell: impl FnMut(&Summary)) -> Result<(), Fault> {
    let threads = thread::available_parallelism().map_or(1, usize::from);
    let next = AtomicUsize::new(0);
    let (sender, done) = mpsc::channel();
    thread::scope(|scope| -> Result<(), Fault> {
        for _ in 0..threads {
            let (sender, next) = (sender.clone(), &next);
            scope.spawn(move || {
                loop {
                    let place = next.fetch_add(1, Ordering::Relaxed);
                    let Some(cheat) = cheats.get(place) else {
                        return;
                    };
                    let summary = Summary::of(*cheat, SHARDS, RATE, 0..RUNS);
                    // A fault cannot go to another thread, and what it says can.
                    let summary = summary.map_err(|fault| format!("{}: {fault}", cheat.name()));
                    if sender.send((place, summary)).is_err() {
                        return;
                    }
                }
            });
        }
        // The others end when the last thread does.
        drop(sender);
        let (mut waiting, mut told) = (BTreeMap::new(), 0);
        for (place, summary) in done {
            waiting.insert(place, summary?);
            while let Some(summary) = waiting.remove(&told) {
                tell(&summary);
                told += 1;
            }
        }
        Ok(())
    })
}
