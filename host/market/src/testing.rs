//! Keys, leases and receipts for tests.

use skep_evidence::{
    AccountId, AccountKey, Agreed, Credits, Meter, Receipt, ResultCommitment, Share, Signed, Split,
    Statement as _, Work,
};
use skep_registry::Digest;

pub(crate) fn key(seed: u8) -> AccountKey {
    AccountKey::from_seed(&[seed; 32])
}

pub(crate) fn account(seed: u8) -> AccountId {
    key(seed).id()
}

/// A digest that stands for a number.
pub(crate) fn digest(what: &str, number: u64) -> Digest {
    Digest::of(format!("{what} {number}").as_bytes())
}

pub(crate) fn credits(micro: u64) -> Credits {
    Credits::from_micro(micro)
}

/// A receipt by one key for another, of a lease that is named by a number. The operator (key 90)
/// takes 10 %, an adapter's author (key 91) 5 %.
pub(crate) fn receipt(
    job: u64,
    lease: u64,
    provider: u8,
    requester: u8,
    price: u64,
) -> Agreed<Receipt> {
    let share = |seed, parts| Share {
        account: account(seed),
        parts,
    };
    let receipt = Receipt {
        lease: digest("lease", lease),
        job: digest("job", job),
        shard: 0,
        sequence: lease,
        provider: account(provider),
        requester: account(requester),
        work: Work {
            package: digest("package", 0),
            model: None,
            adapter: Some(digest("adapter", 0)),
            input: digest("input", lease),
            seed: 0,
        },
        commitment: digest("commitment", lease),
        output: digest("output", lease),
        meter: Meter::default(),
        price: credits(price),
        split: Split::new(vec![share(90, 100_000), share(91, 50_000)]).unwrap(),
        started: 1,
        finished: 2,
    };
    let signed = receipt.sign(&key(provider)).unwrap();
    signed.accept(&key(requester)).unwrap()
}

/// Two results of one lease by the same worker: proof of a fraud.
pub(crate) fn two_results(lease: u64, worker: u8) -> [Signed<ResultCommitment>; 2] {
    [b"1", b"2"].map(|output| {
        let result = ResultCommitment {
            lease: digest("lease", lease),
            work: digest("work", lease),
            worker: account(worker),
            output: Digest::of(output),
            meter: Meter::default(),
            activations: None,
            nonce: [0; 32],
        };
        result.sign(&key(worker)).unwrap()
    })
}
