//! How many receipts one core reads, verifies and posts in a second.
//!
//! `cargo run -p skep-market --example ledger_rates [receipts] [folder]`

mod common;

use std::time::{Duration, Instant};

use skep_evidence::{Keys, Receipt, Unverified, verify_agreed};
use skep_market::{Ledger, Operation, Posted};

/// As many are verified and posted at once.
const BATCH: usize = 4_000;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let count: usize = arguments.next().map_or(Ok(60_000), |count| count.parse())?;
    let folder = common::folder(arguments.next())?;
    let parties = common::Parties::new(40);
    eprintln!("signing {count} receipts");
    let encodings: Vec<Vec<u8>> = (0..count as u64)
        .map(|number| parties.receipt(number).map(|receipt| receipt.encode()))
        .collect::<Result<_, _>>()?;
    let bytes: usize = encodings.iter().map(Vec::len).sum();
    let mut ledger = Ledger::open(&folder.path().join("ledger"), common::TERMS)?;
    parties.fund(&mut ledger)?;

    let mut keys = Keys::default();
    let (mut read, mut verified, mut posted) = (Duration::ZERO, Duration::ZERO, Duration::ZERO);
    for batch in encodings.chunks(BATCH) {
        let begin = Instant::now();
        let unverified: Vec<Unverified<Receipt>> = batch
            .iter()
            .map(|encoding| Unverified::decode_agreed(encoding))
            .collect::<Result<_, _>>()?;
        read += begin.elapsed();
        let begin = Instant::now();
        let receipts = verify_agreed(unverified, &mut keys).map_err(|(_, error)| error)?;
        verified += begin.elapsed();
        let begin = Instant::now();
        let operations: Vec<_> = receipts.iter().map(Operation::Release).collect();
        for outcome in ledger.post(&operations)? {
            assert!(matches!(outcome?, Posted::New { .. }), "each is new");
        }
        posted += begin.elapsed();
    }
    let each = |duration: Duration| duration.as_secs_f64() * 1e6 / count as f64;
    let whole = read + verified + posted;
    println!(
        "{count} receipts of {} bytes, batches of {BATCH}",
        bytes / count
    );
    println!("read:     {:6.2} µs each", each(read));
    println!("verified: {:6.2} µs each (two signatures)", each(verified));
    println!("posted:   {:6.2} µs each (durably)", each(posted));
    println!(
        "together: {:.0} receipts/s",
        count as f64 / whole.as_secs_f64()
    );
    Ok(())
}
