//! Batches say what their receipts say, and are settled once.

use std::collections::BTreeMap;

use proptest::prelude::*;
use skep_evidence::{AccountId, Credits};

use super::*;
use crate::ledger::{Book, Ledger, Operation, PostError, Terms};
use crate::recompute;
use crate::testing::{account, credits, digest, receipt};

const TERMS: Terms = Terms {
    supply: Credits::from_micro(1_000_000_000),
    fine: Credits::from_micro(500),
    reward: 250_000,
};

fn some_receipts() -> impl Strategy<Value = Vec<Agreed<Receipt>>> {
    let one = (0..40_u64, 1..6_u8, 1..6_u8, 0..5_000_u64)
        .prop_filter("two parties", |(_, provider, requester, _)| {
            provider != requester
        });
    proptest::collection::vec(one, 1..20).prop_map(|list| {
        let unique: BTreeMap<_, _> = list.into_iter().map(|one| (one.0, one)).collect();
        unique
            .into_values()
            .map(|(lease, provider, requester, price)| {
                receipt(9, lease, provider, requester, price)
            })
            .collect()
    })
}

/// What no receipt of these is for.
fn other_debt() -> Debt {
    Debt::of(&receipt(9, 999, 1, 2, 5))
}

/// A ledger in which the keys 1 to 5 have so much.
fn ledger(folder: &tempfile::TempDir, each: u64) -> Ledger {
    let mut ledger = Ledger::open(&folder.path().join("ledger"), TERMS).unwrap();
    let deposits: Vec<_> = (1..6)
        .map(|who| Operation::Deposit {
            id: digest("deposit", u64::from(who)),
            account: account(who),
            amount: credits(each),
        })
        .collect();
    assert!(ledger.post(&deposits).unwrap().iter().all(Result::is_ok));
    ledger
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    #[test]
    fn transfers_bring_everyone_to_what_the_receipts_say(mut receipts in some_receipts()) {
        let batch = net(&receipts).unwrap();
        prop_assert_eq!(batch.positions().iter().map(|p| i128::from(p.amount)).sum::<i128>(), 0);
        let mut moved: BTreeMap<AccountId, i128> = BTreeMap::new();
        for transfer in batch.transfers() {
            prop_assert!(transfer.amount > Credits::ZERO && transfer.from != transfer.to);
            *moved.entry(transfer.from).or_default() -= i128::from(transfer.amount.micro());
            *moved.entry(transfer.to).or_default() += i128::from(transfer.amount.micro());
        }
        let mut expected = recompute(&receipts);
        expected.retain(|_, amount| *amount != 0);
        prop_assert_eq!(moved, expected);
        prop_assert!(batch.transfers().len() < batch.positions().len().max(1));
        // In another order, and with one twice, it is the same batch.
        receipts.reverse();
        receipts.push(receipts[0].clone());
        prop_assert_eq!(net(&receipts).unwrap(), batch);
    }

    #[test]
    fn everything_in_a_batch_is_proven_by_its_root(receipts in some_receipts()) {
        let batch = net(&receipts).unwrap();
        let root = batch.root();
        for (debt, receipt) in batch.receipts() {
            let (proof, lease) = (batch.prove_receipt(*debt).unwrap(), debt.lease);
            prop_assert!(proof.holds_receipt(root, lease, *receipt));
            prop_assert!(!proof.holds_receipt(root, lease, lease));
            prop_assert!(!proof.holds_receipt(digest("root", 0), lease, *receipt));
        }
        for position in batch.positions() {
            let proof = batch.prove_position(position.account).unwrap();
            prop_assert!(proof.holds_position(root, position));
            let more = Position { amount: position.amount + 1, ..*position };
            prop_assert!(!proof.holds_position(root, &more));
        }
        prop_assert_eq!(batch.prove_receipt(other_debt()), None);
    }

    #[test]
    fn a_batch_is_settled_once_and_its_leases_are_paid(receipts in some_receipts(), split in 0..20_usize) {
        let folder = tempfile::tempdir().unwrap();
        let mut ledger = ledger(&folder, 1_000_000);
        let batch = net(&receipts).unwrap();
        let mut settlement = EmbeddedSettlement(&mut ledger);
        let settled = settlement.settle(&batch, &receipts).unwrap();
        prop_assert_eq!(settlement.settle(&batch, &receipts).unwrap(), settled);
        for receipt in &receipts {
            prop_assert!(settlement.is_paid(Debt::of(receipt)).unwrap());
        }
        prop_assert!(!settlement.is_paid(other_debt()).unwrap());
        // Any other batch with one of these leases is refused as a whole.
        let mut more = receipts[split % receipts.len()..].to_vec();
        more.push(receipt(9, 999, 1, 2, 5));
        let overlapping = net(&more).unwrap();
        let refused = settlement.settle(&overlapping, &more);
        let is_paid = matches!(refused, Err(SettleError::Refused(PostError::PaidOtherwise { .. })));
        prop_assert!(is_paid, "{:?}", refused);
        prop_assert!(!settlement.is_paid(other_debt()).unwrap());
        let gained = recompute(&receipts);
        for who in 1..6 {
            let gain = gained.get(&account(who)).copied().unwrap_or(0);
            prop_assert_eq!(ledger.holdings(account(who)) as i128, 1_000_000 + gain);
        }
        // And a receipt of it is not paid again outside of batches.
        let head = ledger.head();
        let again: Vec<_> = receipts.iter().map(Operation::Release).collect();
        ledger.post(&again).unwrap();
        prop_assert_eq!(ledger.head(), head);
        let path = folder.path().join("ledger");
        drop(ledger);
        prop_assert_eq!(Ledger::open(&path, TERMS).unwrap().head(), head);
    }
}

#[test]
fn what_is_not_that_of_the_receipts_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let mut ledger = ledger(&folder, 100);
    let receipts = [receipt(9, 1, 1, 2, 50), receipt(9, 2, 3, 2, 60)];
    let batch = net(&receipts).unwrap();
    let mut settlement = EmbeddedSettlement(&mut ledger);
    let other = settlement.settle(&batch, &receipts[..1]);
    assert!(matches!(other, Err(SettleError::OtherBatch)));
    let empty = net(&[]).unwrap();
    assert!(matches!(
        settlement.settle(&empty, &[]),
        Err(SettleError::Empty)
    ));
    // Key 2 owes 110 and has 100: nothing moves.
    let short = settlement.settle(&batch, &receipts);
    assert!(matches!(
        short,
        Err(SettleError::Refused(PostError::Short { .. }))
    ));
    assert_eq!(ledger.balance(Book::Available(account(1))), credits(100));
    let two = [receipt(9, 1, 1, 2, 50), receipt(9, 1, 1, 2, 51)];
    assert!(matches!(net(&two), Err(NetError::TwoReceipts { .. })));
}

#[test]
fn of_receipts_that_were_settled_before_only_the_new_ones_are_left() {
    let folder = tempfile::tempdir().unwrap();
    let mut ledger = ledger(&folder, 1_000);
    let all = [
        receipt(9, 1, 1, 2, 50),
        receipt(9, 2, 3, 2, 60),
        receipt(8, 3, 2, 1, 70),
    ];
    // One was paid alone, another in a batch.
    let escrow = Operation::Escrow {
        id: digest("escrow", 0),
        job: digest("job", 8),
        requester: account(1),
        amount: credits(100),
    };
    let alone = [escrow, Operation::Release(&all[2])];
    assert!(ledger.post(&alone).unwrap().iter().all(Result::is_ok));
    let mut settlement = EmbeddedSettlement(&mut ledger);
    assert_eq!(settlement.unpaid(&all).unwrap(), all[..2]);
    let batch = net(&all[..1]).unwrap();
    settlement.settle(&batch, &all[..1]).unwrap();
    assert_eq!(settlement.unpaid(&all).unwrap(), all[1..2]);
    let batch = net(&all[1..2]).unwrap();
    settlement.settle(&batch, &all[1..2]).unwrap();
    assert_eq!(settlement.unpaid(&all).unwrap(), []);
    // Another receipt for a lease that was paid is not passed over as one that was.
    for other in [receipt(9, 1, 1, 2, 51), receipt(8, 3, 2, 1, 71)] {
        let lease = other.lease;
        let found = settlement.unpaid(&[all[0].clone(), other]);
        let Err(SettleError::Refused(PostError::PaidOtherwise { lease: paid, .. })) = found else {
            panic!("{found:?}");
        };
        assert_eq!(paid, lease);
    }
}
