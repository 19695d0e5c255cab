//! Keys of accounts, what these made out or signed, and packages, for the tests of jobs.
//!
//! It must never have a value that a test is about: the test itself says those.

#![allow(clippy::unwrap_used)]

use skep_evidence::{
    AccountKey, AuditTerms, Candidates, Credits, Lease, Meter, Receipt, Signed, Split,
    Statement as _, Tariff, Work,
};
use skep_registry::{Content, Digest, Draft, FileEntry, PublisherKey, SignedRelease};

pub(super) fn key(seed: u8) -> AccountKey {
    AccountKey::from_seed(&[seed; 32])
}

/// The same work for everybody.
fn work() -> Work {
    Work {
        package: Digest::of(b"package"),
        model: None,
        adapter: None,
        input: Digest::of(b"input"),
        seed: 0,
    }
}

/// A lease between the accounts with these keys, which costs nothing and is not audited.
pub(super) fn lease(requester: u8, provider: u8) -> Lease {
    Lease {
        job: Digest::of(b"job"),
        shard: 0,
        attempt: 0,
        requester: key(requester).id(),
        provider: key(provider).id(),
        work: work(),
        tariff: Tariff::default(),
        allowance: Meter::default(),
        limit: Credits::ZERO,
        split: Split::default(),
        issued: 1,
        deadline: 2,
        audit: AuditTerms {
            secret: Digest::of(b"secret"),
            candidates: Candidates::new(Vec::new()).unwrap().digest(),
            rate: 0,
            panel: 3,
            exact: false,
            followed: false,
            follows: None,
        },
    }
}

/// What the provider with this key signed for the lease that a number names, of so many micro-credits.
pub(super) fn bill(lease: u8, provider: u8, requester: u8, price: u64) -> Signed<Receipt> {
    let receipt = Receipt {
        lease: Digest::of(&[lease]),
        job: Digest::of(b"job"),
        shard: u32::from(lease),
        sequence: u64::from(lease),
        provider: key(provider).id(),
        requester: key(requester).id(),
        work: work(),
        commitment: Digest::of(b"commitment"),
        output: Digest::of(b"output"),
        meter: Meter::default(),
        price: Credits::from_micro(price),
        split: Split::default(),
        started: 1,
        finished: 2,
    };
    receipt.sign(&key(provider)).unwrap()
}

/// The first release of a package of this name, which has one file: its path, and what is in it.
pub(super) fn signed_release(
    key: &PublisherKey,
    name: &str,
    content: Content,
    (path, bytes): (&str, &[u8]),
) -> SignedRelease {
    let draft = Draft {
        name: name.parse().unwrap(),
        version: "1.0.0".parse().unwrap(),
        description: None,
        license: None,
        readme: None,
        content,
        files: vec![FileEntry {
            path: path.parse().unwrap(),
            digest: Digest::of(bytes),
            size: bytes.len() as u64,
        }],
    };
    draft.sign(key, None).unwrap()
}
