//! How long opening a ledger of many entries takes, all of them checked.
//!
//! `cargo run -p skep-market --example ledger_recovery [entries] [folder]`

mod common;

use std::time::Instant;

use skep_market::{Ledger, Operation};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let count: u64 = arguments
        .next()
        .map_or(Ok(1_000_000), |count| count.parse())?;
    let folder = common::folder(arguments.next())?;
    let path = folder.path().join("ledger");
    let parties = common::Parties::new(40);
    let mut ledger = Ledger::open(&path, common::TERMS)?;
    parties.fund(&mut ledger)?;
    let begin = Instant::now();
    let mut number = 0;
    while number < count {
        let until = count.min(number + 10_000);
        let receipts: Vec<_> = (number..until)
            .map(|number| parties.receipt(number))
            .collect::<Result<_, _>>()?;
        let operations: Vec<_> = receipts.iter().map(Operation::Release).collect();
        for outcome in ledger.post(&operations)? {
            outcome?;
        }
        number = until;
    }
    let (entries, head) = (ledger.len(), ledger.head());
    drop(ledger);
    eprintln!(
        "signed and posted in {:.1} s",
        begin.elapsed().as_secs_f64()
    );
    let begin = Instant::now();
    let ledger = Ledger::open(&path, common::TERMS)?;
    let taken = begin.elapsed();
    assert_eq!(
        (ledger.len(), ledger.head()),
        (entries, head),
        "it is the same ledger"
    );
    println!(
        "{entries} entries, {:.0} MB: opened and checked in {:.2} s",
        std::fs::metadata(&path)?.len() as f64 / 1e6,
        taken.as_secs_f64()
    );
    Ok(())
}
