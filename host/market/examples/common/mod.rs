//! What the examples share: parties, their receipts, a ledger with credits in it.

use skep_evidence::{
    AccountKey, Agreed, Credits, Meter, Receipt, Share, Split, Statement as _, StatementError, Work,
};
use skep_market::{Ledger, Operation, Terms};
use skep_registry::Digest;

/// Enough for every example.
pub const TERMS: Terms = Terms {
    supply: Credits::MAX,
    fine: Credits::from_micro(1_000_000),
    reward: 250_000,
};

/// A folder of its own in the given one, which goes away at the end.
pub fn folder(within: Option<String>) -> std::io::Result<tempfile::TempDir> {
    match within {
        Some(within) => tempfile::tempdir_in(within),
        None => tempfile::tempdir(),
    }
}

fn digest(what: &str, number: u64) -> Digest {
    Digest::of(format!("{what} {number}").as_bytes())
}

/// Providers and requesters, each requester with one job.
pub struct Parties {
    keys: Vec<AccountKey>,
}

impl Parties {
    /// So many; the first half provide, the others request.
    pub fn new(count: u8) -> Self {
        Self {
            keys: (1..=count)
                .map(|seed| AccountKey::from_seed(&[seed; 32]))
                .collect(),
        }
    }

    /// Gives every requester credits, and puts them in escrow for its job.
    pub fn fund(&self, ledger: &mut Ledger) -> Result<(), Box<dyn std::error::Error>> {
        let half = self.keys.len() / 2;
        let amount = Credits::from_micro(1 << 50);
        for (number, requester) in (0..).zip(&self.keys[half..]) {
            let operations = [
                Operation::Deposit {
                    id: digest("deposit", number),
                    account: requester.id(),
                    amount,
                },
                Operation::Escrow {
                    id: digest("escrow", number),
                    job: digest("job", number),
                    requester: requester.id(),
                    amount,
                },
            ];
            for outcome in ledger.post(&operations)? {
                outcome?;
            }
        }
        Ok(())
    }

    /// The receipt with a number, of a lease of its own, with two shares in its price.
    pub fn receipt(&self, number: u64) -> Result<Agreed<Receipt>, StatementError> {
        let half = self.keys.len() / 2;
        let provider = &self.keys[number as usize % half];
        let job = (number as usize / half) % (self.keys.len() - half);
        let requester = &self.keys[half + job];
        let share = |seed, parts| Share {
            account: AccountKey::from_seed(&[seed; 32]).id(),
            parts,
        };
        let receipt = Receipt {
            lease: digest("lease", number),
            job: digest("job", job as u64),
            shard: number as u32,
            sequence: number,
            provider: provider.id(),
            requester: requester.id(),
            work: Work {
                package: digest("package", 0),
                model: Some(digest("model", 0)),
                adapter: Some(digest("adapter", 0)),
                input: digest("input", number),
                seed: number,
            },
            commitment: digest("commitment", number),
            output: digest("output", number),
            meter: Meter {
                tokens: 5_000,
                flops: 7_000_000_000_000,
                bytes: 100_000,
                residency: 30,
            },
            price: Credits::from_micro(10_000 + number % 1_000),
            split: Split::new(vec![share(250, 50_000), share(251, 30_000)])?,
            started: 1_790_000_000_000,
            finished: 1_790_000_030_000,
        };
        receipt.sign(provider)?.accept(requester)
    }
}
