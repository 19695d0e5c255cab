//! Both sides of a lease, and what each refuses.

use std::collections::BTreeSet;

use skep_evidence::{AuditTerms, Candidates, Share, Split, Work};

use super::*;
use crate::choose::{Offer, Warmth, rank};
use crate::reputation::Reputation;
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
        residency: 100,
        largest_output: 1_000_000,
        slots: 1,
        tariff: TARIFF,
        operator: None,
        unpaid: Credits::MAX,
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
            tokens: u64::MAX,
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
            followed: false,
            follows: None,
        },
    }
}

fn offered(lease: Lease) -> Undertaking {
    Undertaking {
        lease: lease.sign(&key(1)).unwrap().encode(),
        key: Vec::new(),
        input_bytes: 1_000,
        script_bytes: 0,
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
        shown: None,
        sequence: 0,
        nonce: [9; 32],
        started: 2_000,
        finished: 3_000,
    }
}

/// What key 2 sends for a lease, as it is sent.
struct Made {
    commitment: Vec<u8>,
    receipt: Vec<u8>,
    handover: Vec<u8>,
    shown: Vec<u8>,
}

impl Made {
    fn of(lease: &Agreed<Lease>, done: &Done) -> Self {
        let (commitment, receipt) = conclude(lease, done, &key(2)).unwrap();
        Self::with(lease, &commitment, &receipt)
    }

    /// These statements, handed over for that lease.
    fn with(
        lease: &Agreed<Lease>,
        commitment: &Signed<ResultCommitment>,
        receipt: &Signed<Receipt>,
    ) -> Self {
        let (named, billed) = (commitment.digest(), receipt.digest());
        let handover = hand_over(lease, named, billed, &key(2)).unwrap();
        Self {
            commitment: commitment.encode(),
            receipt: receipt.encode(),
            handover: handover.encode(),
            shown: Vec::new(),
        }
    }

    fn received(
        &self,
        lease: &Agreed<Lease>,
        output: Digest,
        moved: u64,
    ) -> Result<Delivery, BadDelivery> {
        let sent = Sent {
            commitment: &self.commitment,
            receipt: &self.receipt,
            handover: &self.handover,
            shown: &self.shown,
        };
        receive(lease, &sent, output, moved, &mut Keys::default())
    }
}

#[test]
fn what_a_provider_concludes_its_requester_receives() {
    let lease = accept(lease()).unwrap();
    let made = Made::of(&lease, &done(2_000_000_000_000));
    let output = digest("output", 3);
    let delivery = made.received(&lease, output, 2_000).unwrap();
    assert_eq!(delivery.receipt.price, credits(2_000 + 4));
    assert_eq!(delivery.commitment.meter, delivery.receipt.meter);
    assert!(matches!(
        made.received(&lease, digest("output", 4), 2_000),
        Err(BadDelivery::Output { .. })
    ));
    // Bytes that were never moved are not paid.
    assert!(matches!(
        made.received(&lease, output, 1_999),
        Err(BadDelivery::Breach(_))
    ));
    // Statements that are not what they are sent as, or not those that are handed over.
    let swapped = Made {
        commitment: made.receipt.clone(),
        receipt: made.commitment.clone(),
        ..Made::of(&lease, &done(1))
    };
    assert!(matches!(
        swapped.received(&lease, output, 2_000),
        Err(BadDelivery::Statement(_))
    ));
    let mixed = Made {
        handover: Made::of(&lease, &done(1)).handover,
        ..made
    };
    assert!(matches!(
        mixed.received(&lease, output, 2_000),
        Err(BadDelivery::Breach(_))
    ));
}

#[test]
fn what_contradicts_itself_comes_with_its_evidence() {
    let accepted = accept(lease()).unwrap();
    let output = digest("output", 3);
    let proven = |made: &Made| match made.received(&accepted, output, 2_000) {
        Err(BadDelivery::Fraud { evidence, .. }) => evidence.offenders().unwrap(),
        other => panic!("{other:?}"),
    };
    let guilty = (vec![account(2)], accepted.digest());
    let (commitment, receipt) = conclude(&accepted, &done(7), &key(2)).unwrap();
    let changed = |change: fn(&mut Receipt)| {
        let mut receipt = receipt.body().clone();
        change(&mut receipt);
        Made::with(&accepted, &commitment, &receipt.sign(&key(2)).unwrap())
    };
    // A price above the tariff, and a bill for what the commitment does not say.
    let dear = changed(|receipt| receipt.price = credits(4_000));
    assert_eq!(proven(&dear), guilty);
    let inflated = changed(|receipt| {
        receipt.meter.flops = 2_000_000_000_000;
        receipt.price = credits(2_000 + 4);
    });
    assert_eq!(proven(&inflated), guilty);
    // What was signed for an earlier lease, once more.
    let earlier = accept(Lease {
        shard: 2,
        ..lease()
    })
    .unwrap();
    let (_, old) = conclude(&earlier, &done(7), &key(2)).unwrap();
    assert_eq!(proven(&Made::with(&accepted, &commitment, &old)), guilty);
    // All of an earlier delivery proves nothing, and is nothing.
    let everything = Made::of(&earlier, &done(7));
    assert!(matches!(
        everything.received(&accepted, output, 2_000),
        Err(BadDelivery::Breach(_))
    ));
    // A receipt for another result, though both are signed.
    let other = Done {
        nonce: [8; 32],
        ..done(7)
    };
    let (_, other) = conclude(&accepted, &other, &key(2)).unwrap();
    assert_eq!(proven(&Made::with(&accepted, &commitment, &other)), guilty);
}

#[test]
fn what_is_shown_of_texts_is_what_was_signed_and_what_was_asked_for() {
    let with = |follows| {
        let mut lease = lease();
        lease.audit.exact = true;
        lease.audit.followed = true;
        lease.audit.follows = follows;
        lease
    };
    let take = |lease: Lease, script_bytes| {
        let offer = Undertaking {
            script_bytes,
            ..offered(lease)
        };
        examine(&offer, &policy(), &key(2), &mut Keys::default())
    };
    // A script comes with a lease that names one, and with no other.
    let script = Some(digest("script", 1));
    assert!(take(with(None), 10).is_err());
    assert!(take(with(script), 0).is_err());
    assert!(take(with(script), u64::MAX).is_err());
    let output = digest("output", 3);
    let transcript = Transcript::default().encode();
    for (lease, shown) in [
        (take(with(None), 0).unwrap(), transcript.clone()),
        (
            take(with(script), 10).unwrap(),
            Observation::default().encode(),
        ),
    ] {
        let done = Done {
            shown: Some(Digest::of(&shown)),
            ..done(7)
        };
        let mut made = Made::of(&lease, &done);
        for wrong in [Vec::new(), vec![0x82], vec![1; 40]] {
            made.shown = wrong;
            assert!(made.received(&lease, output, 2_000).is_err());
        }
        made.shown.clone_from(&shown);
        assert!(made.received(&lease, output, 2_000).is_ok());
        // It bound itself to something else.
        let mut other = Made::of(&lease, &self::done(7));
        other.shown = shown;
        let refused = other.received(&lease, output, 2_000);
        assert!(matches!(refused, Err(BadDelivery::Breach(_))));
    }
    let plain = accept(lease()).unwrap();
    let mut made = Made::of(&plain, &done(7));
    made.shown = transcript;
    let refused = made.received(&plain, output, 2_000);
    assert!(
        matches!(refused, Err(BadDelivery::Breach(_))),
        "nobody asked for it"
    );
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
    let warm = |residency| Lease {
        allowance: Meter {
            residency,
            ..lease().allowance
        },
        ..lease()
    };
    assert!(accept(warm(100)).is_ok());
    let too_long = Refusal::Residency {
        asked: 101,
        limit: 100,
    };
    assert_eq!(refused(warm(101)), too_long);
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
    // What is kept ready is paid before any work: half an hour of it, for 1,000.
    let mut warm = lease();
    (warm.tariff.residency, warm.allowance.residency) = (2_000, 1_800);
    assert_eq!(affordable(&warm), 3_000_000_000_000);
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

#[test]
fn a_lease_divides_its_price_as_author_and_operator_ask_and_not_otherwise() {
    let share = |number, parts| Share {
        account: account(number),
        parts,
    };
    let family = Split::new(vec![share(8, 50_000)]).unwrap();
    let operator = Some(share(9, 20_000));
    let both = Split::new(vec![share(8, 50_000), share(9, 20_000)]).unwrap();
    let divided = |split: &Split, family: &Split, operator| {
        let lease = Lease {
            split: split.clone(),
            ..lease()
        };
        divides(&lease, family, operator)
    };
    let none = Split::default();
    assert_eq!(divided(&none, &none, None), Ok(()));
    assert_eq!(divided(&both, &family, operator), Ok(()));
    // The requester to itself, somebody left out, and somebody given less.
    let itself = Split::new(vec![share(1, 1_000_000)]).unwrap();
    let less = Split::new(vec![share(8, 50_000), share(9, 10_000)]).unwrap();
    for wrong in [&itself, &family, &none, &less] {
        let refused = divided(wrong, &family, operator);
        assert!(matches!(refused, Err(Refusal::Lease(_))), "{wrong:?}");
    }
    assert!(divided(&itself, &none, None).is_err());
    // An operator that is an author too has both parts, and nobody more than the whole.
    let twice = division(&family, Some(share(8, 20_000))).unwrap();
    assert_eq!(twice.shares(), [share(8, 70_000)]);
    assert!(division(&family, Some(share(8, 950_001))).is_err());
}

#[test]
fn a_lease_has_to_allow_for_the_tokens_of_its_operations() {
    let none = Meter {
        tokens: 0,
        ..lease().allowance
    };
    let refused = accept(Lease {
        allowance: none,
        ..lease()
    });
    assert!(matches!(refused, Err(Refusal::Lease(_))));
}

#[test]
fn whoever_asks_for_tokens_alone_is_no_cheaper_for_it() {
    let offer = |seed, tariff: Tariff| Offer {
        provider: account(seed),
        price: typical(&tariff, 1_000_000, 0),
        warmth: Warmth::default(),
        reputation: Reputation::default(),
        slots: 1,
        ahead: 0,
    };
    let tokens = |tokens| Tariff {
        tokens,
        ..Tariff::default()
    };
    let order = |offers: &[Offer]| {
        let ranked = rank(offers, credits(1_000_000), digest("job", 0));
        let providers = ranked.into_iter().map(|offer| offer.provider);
        providers.collect::<Vec<_>>()
    };
    // What the one asks for tokens is more than the other asks for everything.
    let (dear, honest) = (offer(1, tokens(1_000_000)), offer(2, TARIFF));
    assert_eq!(order(&[dear, honest]), [2, 1].map(account));
    // What no lease may cost is not asked for.
    let endless = offer(3, tokens(u64::MAX));
    assert_eq!(order(&[endless, honest]), [account(2)]);
    // A tariff without a price for tokens costs what it did.
    assert_eq!(honest.price, credits(1_000 + 2_000));
}
