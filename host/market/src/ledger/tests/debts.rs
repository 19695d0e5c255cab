//! A lease is paid once between the two whose it is, whatever lease others name in their receipts, and what earlier
//! versions paid is not paid again.

use super::*;
use crate::settlement::{EmbeddedSettlement, SettleError, Settlement as _};

fn settle(ledger: &mut Ledger, receipts: &[Agreed<Receipt>]) -> Result<(), SettleError> {
    let batch = net(receipts).unwrap();
    let settled = EmbeddedSettlement(ledger).settle(&batch, receipts);
    settled.map(drop)
}

fn available(ledger: &Ledger, who: u8) -> u64 {
    ledger.balance(Book::Available(account(who))).micro()
}

#[test]
fn who_names_the_lease_of_others_pays_nothing_of_theirs() {
    let folder = tempfile::tempdir().unwrap();
    let mut ledger = open(&folder);
    for who in [1, 3] {
        deposit(&mut ledger, who, 1_000);
    }
    escrow(&mut ledger, 0, 1, 600).unwrap();
    // Key 1 owes key 2 for these, and two others sign receipts for the same leases that cost them nothing, or little.
    let honest = [receipt(0, 7, 2, 1, 100), receipt(0, 8, 2, 1, 200)];
    let planted = [receipt(9, 7, 4, 3, 0), receipt(9, 8, 4, 3, 20)];
    settle(&mut ledger, &planted).unwrap();
    for (honest, planted) in honest.iter().zip(&planted) {
        assert_eq!(honest.lease, planted.lease);
        assert_eq!(ledger.paid(Debt::of(honest)).unwrap(), None);
        assert!(ledger.paid(Debt::of(planted)).unwrap().is_some());
    }
    let unpaid = EmbeddedSettlement(&mut ledger).unpaid(&honest);
    assert_eq!(unpaid.unwrap(), honest);
    let released = ledger.post(&[Operation::Release(&honest[0])]).unwrap();
    assert!(
        matches!(released[..], [Ok(Posted::New { .. })]),
        "{released:?}"
    );
    settle(&mut ledger, &honest[1..]).unwrap();
    // Of each price 15 % are for others.
    assert_eq!(available(&ledger, 2), 85 + 170);
    // Between the same two there is one receipt for a lease, whichever way it was paid.
    let other = [receipt(9, 7, 2, 1, 1), receipt(9, 8, 2, 1, 1)];
    for other in &other {
        let refused = settle(&mut ledger, std::slice::from_ref(other));
        let is_paid = matches!(
            refused,
            Err(SettleError::Refused(PostError::PaidOtherwise { lease, .. })) if lease == other.lease
        );
        assert!(is_paid, "{refused:?}");
    }
    let head = ledger.head();
    drop(ledger);
    let ledger = open(&folder);
    assert_eq!(ledger.head(), head);
    assert!(ledger.paid(Debt::of(&honest[1])).unwrap().is_some());
}

#[test]
fn one_batch_settles_what_different_ones_owe_for_a_lease_of_one_name() {
    let folder = tempfile::tempdir().unwrap();
    let mut ledger = open(&folder);
    for who in [1, 3] {
        deposit(&mut ledger, who, 1_000);
    }
    let both = [receipt(0, 7, 2, 1, 100), receipt(9, 7, 4, 3, 20)];
    let batch = net(&both).unwrap();
    assert_eq!(batch.receipts().len(), 2);
    for receipt in &both {
        let proof = batch.prove_receipt(Debt::of(receipt)).unwrap();
        assert!(proof.holds_receipt(batch.root(), receipt.lease, receipt.digest()));
    }
    settle(&mut ledger, &both).unwrap();
    assert_eq!((available(&ledger, 2), available(&ledger, 4)), (85, 17));
    assert_eq!(recompute(&both)[&account(1)], -100);
}

/// Writes what an earlier version wrote for a batch of receipts that cost nothing: a payment was one of a lease.
fn settle_as_before(ledger: &mut Ledger, receipts: &[Agreed<Receipt>]) -> u64 {
    let batch = net(receipts).unwrap();
    let settled = batch.receipts().iter().map(|(debt, receipt)| PaidLease {
        lease: debt.lease,
        receipt: *receipt,
        payment: earlier_payment_of(debt.lease),
    });
    let entry = Entry {
        kind: EntryKind::Settlement,
        id: batch.root(),
        content: batch.root(),
        movements: Vec::new(),
        escrow: None,
        settled: settled.collect(),
        bound: Vec::new(),
    };
    let sequence = ledger.state.next;
    let bytes = entry.encode(&mut ledger.state.books);
    // A lease and its receipt, of 32 bytes each with two more before them, and nothing else.
    let end = bytes.len() - 2 * 34 - 1;
    assert_eq!(bytes[end], 0x82, "two parts");
    ledger.state.head = recovery::extend(ledger.state.head, &bytes);
    ledger.state.next += 1;
    let transaction = ledger.database.begin_write().unwrap();
    {
        let mut entries = transaction.open_table(ENTRIES).unwrap();
        entries.insert(sequence, bytes.as_slice()).unwrap();
        let mut posted = transaction.open_table(POSTED).unwrap();
        posted.insert(entry.id.as_bytes(), sequence).unwrap();
        for paid in &entry.settled {
            posted.insert(paid.payment.as_bytes(), sequence).unwrap();
        }
    }
    ledger.write_books(&transaction, &BTreeSet::new()).unwrap();
    transaction.commit().unwrap();
    sequence
}

#[test]
fn what_an_earlier_version_paid_is_not_paid_again() {
    let folder = tempfile::tempdir().unwrap();
    let mut ledger = open(&folder);
    deposit(&mut ledger, 1, 1_000);
    escrow(&mut ledger, 0, 1, 600).unwrap();
    let paid = receipt(0, 7, 2, 1, 0);
    let sequence = settle_as_before(&mut ledger, std::slice::from_ref(&paid));
    drop(ledger);
    let mut ledger = open(&folder);
    assert_eq!(ledger.paid(Debt::of(&paid)).unwrap(), Some(sequence));
    let again = ledger.post(&[Operation::Release(&paid)]).unwrap();
    assert_eq!(again, [Ok(Posted::Already { sequence })]);
    let unpaid = EmbeddedSettlement(&mut ledger).unpaid(std::slice::from_ref(&paid));
    assert_eq!(unpaid.unwrap(), []);
    settle(&mut ledger, std::slice::from_ref(&paid)).unwrap();
    assert_eq!(ledger.len(), sequence + 1);
    // Nor is another receipt for the same lease, in either way.
    let other = receipt(0, 7, 2, 1, 100);
    let refused = PostError::PaidOtherwise {
        lease: other.lease,
        sequence,
    };
    let released = ledger.post(&[Operation::Release(&other)]).unwrap();
    assert_eq!(released, [Err(refused.clone())]);
    let batch = net(std::slice::from_ref(&other)).unwrap();
    let settled = ledger.post(&[Operation::Settle(&batch)]).unwrap();
    assert_eq!(settled, [Err(refused)]);
}
