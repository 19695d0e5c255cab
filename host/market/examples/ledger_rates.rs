//! How many receipts one core reads, verifies and posts in a second: by the clock, and by the
//! processor's time where the system tells it, which other programs disturb less.
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
    let mut spent = [Spent::default(); 3];
    for batch in encodings.chunks(BATCH) {
        let begin = Spent::now();
        let unverified: Vec<Unverified<Receipt>> = batch
            .iter()
            .map(|encoding| Unverified::decode_agreed(encoding))
            .collect::<Result<_, _>>()?;
        let read = Spent::now();
        let receipts = verify_agreed(unverified, &mut keys).map_err(|(_, error)| error)?;
        let verified = Spent::now();
        let operations: Vec<_> = receipts.iter().map(Operation::Release).collect();
        for outcome in ledger.post(&operations)? {
            assert!(matches!(outcome?, Posted::New { .. }), "each is new");
        }
        let posted = Spent::now();
        spent[0].add(begin, read);
        spent[1].add(read, verified);
        spent[2].add(verified, posted);
    }
    println!(
        "{count} receipts of {} bytes, batches of {BATCH}; µs each by the clock and by the processor",
        bytes / count
    );
    let mut whole = Spent::default();
    for (what, part) in ["read", "verified", "posted"].iter().zip(spent) {
        println!("{what:10} {}", part.show(count));
        whole.add(Spent::default(), part);
    }
    println!("{:10} {}", "together", whole.show(count));
    let rate = |part: Duration| count as f64 / part.as_secs_f64();
    println!(
        "receipts/s: {:.0} by the clock, {:.0} by the processor",
        rate(whole.clock),
        rate(whole.processor)
    );
    Ok(())
}

#[derive(Clone, Copy, Default)]
struct Spent {
    clock: Duration,
    processor: Duration,
}

impl Spent {
    fn now() -> Self {
        static BEGIN: std::sync::OnceLock<Instant> = std::sync::OnceLock::new();
        Self {
            clock: BEGIN.get_or_init(Instant::now).elapsed(),
            processor: processor(),
        }
    }

    fn add(&mut self, from: Self, to: Self) {
        self.clock += to.clock - from.clock;
        self.processor += to.processor - from.processor;
    }

    fn show(self, count: usize) -> String {
        let each = |part: Duration| part.as_secs_f64() * 1e6 / count as f64;
        format!("{:6.2} {:6.2}", each(self.clock), each(self.processor))
    }
}

/// What this thread has had of the processor, as Linux counts it.
fn processor() -> Duration {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    let nanoseconds = text.split(' ').next().and_then(|first| first.parse().ok());
    Duration::from_nanos(nanoseconds.unwrap_or(0))
}
