//! Statements for tests: any that keep the rules, by proptest, and one of each.

use proptest::prelude::*;
use skep_registry::Digest;

use crate::*;

pub(crate) fn key(seed: u8) -> AccountKey {
    AccountKey::from_seed(&[seed; 32])
}

/// Random within the bounds of one kind of number: short and long spellings alike.
fn number() -> impl Strategy<Value = u64> {
    (any::<u64>(), 0..64_u32).prop_map(|(n, shift)| n >> shift)
}

fn digest() -> impl Strategy<Value = Digest> {
    any::<[u8; 32]>().prop_map(Digest::from_bytes)
}

fn optional() -> impl Strategy<Value = Option<Digest>> {
    (any::<bool>(), digest()).prop_map(|(some, digest)| some.then_some(digest))
}

fn work() -> impl Strategy<Value = Work> {
    (digest(), optional(), optional(), digest(), number()).prop_map(
        |(package, model, adapter, input, seed)| Work {
            package,
            model,
            adapter,
            input,
            seed,
        },
    )
}

fn meter() -> impl Strategy<Value = Meter> {
    (number(), number(), number(), number()).prop_map(|(tokens, flops, bytes, residency)| Meter {
        tokens,
        flops,
        bytes,
        residency,
    })
}

fn split() -> impl Strategy<Value = Split> {
    proptest::collection::btree_map(any::<u8>(), 1..60_000_u32, 0..5).prop_map(|shares| {
        let shares = shares.into_iter().map(|(n, parts)| Share {
            account: AccountId::from_bytes([n; 32]),
            parts,
        });
        Split::new(shares.collect()).unwrap()
    })
}

pub(crate) fn any_lease() -> impl Strategy<Value = Lease> {
    let who = (1..100_u8, 100..200_u8, digest(), any::<u32>(), any::<u32>());
    let terms = (
        work(),
        meter(),
        number(),
        split(),
        0..1_000_000_u32,
        any::<bool>(),
    );
    (who, terms, meter())
        .prop_map(|(who, terms, tariff)| Lease {
            job: who.2,
            shard: who.3,
            attempt: who.4,
            requester: key(who.0).id(),
            provider: key(who.1).id(),
            work: terms.0,
            tariff: Tariff {
                tokens: tariff.tokens,
                flops: tariff.flops,
                bytes: tariff.bytes,
                residency: tariff.residency,
            },
            allowance: terms.1,
            limit: Credits::from_micro(terms.2 / 2),
            split: terms.3,
            issued: terms.2 / 4,
            deadline: terms.2,
            audit: AuditTerms {
                secret: who.2,
                candidates: who.2,
                rate: terms.4,
                panel: 3 + terms.4 % 15 * 2,
                exact: terms.5,
                followed: terms.5 && terms.4 % 2 == 0,
                follows: (terms.5 && terms.4 % 4 == 0).then_some(who.2),
            },
        })
        .prop_filter("a deadline lies ahead", |lease| {
            lease.deadline > lease.issued
        })
}

pub(crate) fn any_receipt() -> impl Strategy<Value = Receipt> {
    (any_lease(), meter(), digest(), number()).prop_map(|(lease, meter, output, sequence)| {
        Receipt {
            lease: lease.digest(),
            job: lease.job,
            shard: lease.shard,
            sequence,
            provider: lease.provider,
            requester: lease.requester,
            work: lease.work,
            commitment: output,
            output,
            meter,
            price: lease.limit,
            split: lease.split,
            started: lease.issued,
            finished: lease.deadline,
        }
    })
}

/// A lease of deterministic work between the keys 1 and 2, all of whose results are audited.
pub(crate) fn lease(secret: &AuditSecret, candidates: &Candidates) -> Agreed<Lease> {
    let lease = Lease {
        job: Digest::of(b"job"),
        shard: 3,
        attempt: 0,
        requester: key(1).id(),
        provider: key(2).id(),
        work: Work {
            package: Digest::of(b"package"),
            model: Some(Digest::of(b"model")),
            adapter: None,
            input: Digest::of(b"input"),
            seed: 7,
        },
        tariff: Tariff {
            tokens: 1_000_000,
            ..Tariff::default()
        },
        allowance: Meter {
            tokens: 100,
            ..Meter::default()
        },
        limit: Credits::from_micro(90),
        split: Split::new(vec![Share {
            account: key(9).id(),
            parts: 50_000,
        }])
        .unwrap(),
        issued: 1_000,
        deadline: 61_000,
        audit: AuditTerms {
            secret: secret.commitment(),
            candidates: candidates.digest(),
            rate: 1_000_000,
            panel: 3,
            exact: true,
            followed: false,
            follows: None,
        },
    };
    lease.sign(&key(1)).unwrap().accept(&key(2)).unwrap()
}

/// What one of the keys says came out.
pub(crate) fn result(lease: &Signed<Lease>, worker: u8, output: &[u8]) -> Signed<ResultCommitment> {
    let result = ResultCommitment {
        lease: lease.digest(),
        work: lease.work.digest(),
        worker: key(worker).id(),
        output: Digest::of(output),
        meter: Meter {
            tokens: 80,
            ..Meter::default()
        },
        activations: None,
        nonce: [worker; 32],
    };
    result.sign(&key(worker)).unwrap()
}

/// A receipt that keeps the lease and names the result.
pub(crate) fn receipt(lease: &Signed<Lease>, result: &Signed<ResultCommitment>) -> Receipt {
    Receipt {
        lease: lease.digest(),
        job: lease.job,
        shard: lease.shard,
        sequence: 0,
        provider: lease.provider,
        requester: lease.requester,
        work: lease.work,
        commitment: result.digest(),
        output: result.output,
        meter: result.meter,
        price: Credits::from_micro(80),
        split: lease.split.clone(),
        started: 2_000,
        finished: 3_000,
    }
}
