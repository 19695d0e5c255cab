//! Both sides of a lease, and what each refuses.

use std::collections::BTreeSet;

use skep_evidence::{AuditTerms, Candidates, Split, Work};

use super::*;
use crate::testing::{account, credits, digest, key};

const TARIFF: Tariff = Tariff {
    tokens: 0,
    flops: 1_000,
    bytes: 2_000_000,
    residency: 0,
};

fn policy() -> Policy {
    Policy {
        take: true,
        publishers: BTreeSet::new(),
        worlds: BTreeSet::new(),
        largest_input: 1_000_000,
        largest_output: 1_000_000,
        slots: 1,
        tariff: TARIFF,
    }
}

fn lease() -> Lease {
    Lease {
        job: digest("job", 1),
        shard: 3,
        attempt: 0,
        requester: account(1),
        provider: account(2),
        work: Work {
            package: digest("package", 0),
            model: None,
            adapter: None,
            input: digest("input", 3),
            seed: 0,
        },
        tariff: TARIFF,
        allowance: Meter {
            tokens: 0,
            flops: u64::MAX,
            bytes: 500_000,
            residency: 0,
        },
        limit: credits(5_000),
        split: Split::default(),
        issued: 1_000,
        deadline: 61_000,
        audit: AuditTerms {
            secret: digest("secret", 1),
            candidates: Candidates::new(Vec::new()).unwrap().digest(),
            rate: 0,
            panel: 3,
            exact: false,
        },
    }
}

fn offered(lease: Lease) -> Undertaking {
    Undertaking {
        lease: lease.sign(&key(1)).unwrap().encode(),
        key: Vec::new(),
        input_bytes: 1_000,
        sources: Vec::new(),
    }
}

fn accept(lease: Lease) -> Result<Agreed<Lease>, Refusal> {
    examine(&offered(lease), &policy(), &key(2), &mut Keys::default())
}

fn done(flops: u64) -> Done {
    Done {
        output: digest("output", 3),
        meter: Meter {
            flops,
            bytes: 2_000,
            ..Meter::default()
        },
        sequence: 0,
        nonce: [9; 32],
        started: 2_000,
        finished: 3_000,
    }
}

#[test]
fn what_a_provider_concludes_its_requester_receives() {
    let lease = accept(lease()).unwrap();
    let (commitment, receipt) = conclude(&lease, &done(2_000_000_000_000), &key(2)).unwrap();
    let (commitment, receipt) = (commitment.encode(), receipt.encode());
    let keys = &mut Keys::default();
    let output = digest("output", 3);
    let delivery = receive(&lease, &commitment, &receipt, output, 2_000, keys).unwrap();
    assert_eq!(delivery.receipt.price, credits(2_000 + 4));
    assert!(matches!(
        receive(
            &lease,
            &commitment,
            &receipt,
            digest("output", 4),
            2_000,
            keys
        ),
        Err(BadDelivery::Output { .. })
    ));
    // A receipt for another result, though both are signed.
    let other = Done {
        nonce: [8; 32],
        ..done(1)
    };
    let (_, other) = conclude(&lease, &other, &key(2)).unwrap();
    assert!(matches!(
        receive(&lease, &commitment, &other.encode(), output, 2_000, keys),
        Err(BadDelivery::Breach(_))
    ));
    assert!(receive(&lease, &receipt, &commitment, output, 2_000, keys).is_err());
    // Bytes that were never moved are not paid.
    assert!(matches!(
        receive(&lease, &commitment, &receipt, output, 1_999, keys),
        Err(BadDelivery::Breach(_))
    ));
}

#[test]
fn a_provider_takes_what_it_asked_for_and_nothing_else() {
    let refused = |lease: Lease| accept(lease).unwrap_err();
    let to_another = Lease {
        provider: account(3),
        ..lease()
    };
    assert!(matches!(refused(to_another), Refusal::Lease(_)));
    let cheaper = Lease {
        tariff: Tariff { flops: 1, ..TARIFF },
        ..lease()
    };
    assert!(matches!(refused(cheaper), Refusal::Lease(_)));
    let tight = Lease {
        allowance: Meter {
            bytes: 999,
            ..lease().allowance
        },
        ..lease()
    };
    assert!(matches!(refused(tight), Refusal::Lease(_)));
    let warm = Lease {
        allowance: Meter {
            residency: 1,
            ..lease().allowance
        },
        ..lease()
    };
    assert!(matches!(refused(warm), Refusal::Lease(_)));
    let large = Undertaking {
        input_bytes: 1_000_001,
        ..offered(lease())
    };
    let answer = examine(&large, &policy(), &key(2), &mut Keys::default());
    assert!(matches!(answer, Err(Refusal::InputTooLarge { .. })));
}

#[test]
fn work_is_stopped_where_it_is_no_longer_paid() {
    // 5,000 micro-credits, 1,000 of them for bytes, at 1,000 for 10^12 operations.
    assert_eq!(affordable(&lease()), 4_000_000_000_000);
    let lease = accept(lease()).unwrap();
    assert!(conclude(&lease, &done(4_000_000_000_000), &key(2)).is_ok());
    assert!(matches!(
        conclude(&lease, &done(5_000_000_000_000), &key(2)),
        Err(Refusal::Failed(_))
    ));
    let free = Lease {
        tariff: Tariff::default(),
        ..lease.body().clone()
    };
    assert_eq!(affordable(&free), u64::MAX);
}
