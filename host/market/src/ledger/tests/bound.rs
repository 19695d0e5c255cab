//! A stake stays where it is while the leases can be disputed that its account worked under.

use super::*;

const DEADLINE: u64 = 1_000;

fn stake(ledger: &mut Ledger, who: u8, amount: u64) {
    deposit(ledger, who, amount);
    let stake = Operation::Stake {
        id: digest("stake", u64::from(who)),
        account: account(who),
        amount: credits(amount),
    };
    ledger.post(&[stake]).unwrap().remove(0).unwrap();
}

fn unstake(
    ledger: &mut Ledger,
    number: u64,
    who: u8,
    amount: u64,
    at: u64,
) -> Result<Posted, PostError> {
    let unstake = Operation::Unstake {
        id: digest("unstake", number),
        account: account(who),
        amount: credits(amount),
        at,
    };
    ledger.post(&[unstake]).unwrap().remove(0)
}

fn bind(ledger: &mut Ledger, job: u64, who: u8, until: u64) -> Result<Posted, PostError> {
    let bind = Operation::Bind {
        job: digest("job", job),
        account: account(who),
        until,
    };
    ledger.post(&[bind]).unwrap().remove(0)
}

#[test]
fn who_works_for_a_job_takes_nothing_back_until_nobody_can_dispute_it() {
    let folder = tempfile::tempdir().unwrap();
    let mut ledger = open(&folder);
    stake(&mut ledger, 2, 900);
    stake(&mut ledger, 3, 900);
    assert_eq!(ledger.bound(account(2)), None);
    unstake(&mut ledger, 0, 2, 100, 0).unwrap();
    let until = DEADLINE + DISPUTE;
    assert!(matches!(
        bind(&mut ledger, 0, 2, until),
        Ok(Posted::New { .. })
    ));
    // For the same job it is the same, and a job that ends earlier shortens nothing.
    let head = ledger.head();
    assert!(matches!(
        bind(&mut ledger, 0, 2, until),
        Ok(Posted::Already { .. })
    ));
    assert!(matches!(
        bind(&mut ledger, 0, 2, until + 1),
        Err(PostError::Conflict { .. })
    ));
    assert_eq!(ledger.head(), head);
    bind(&mut ledger, 1, 2, DEADLINE).unwrap();

    let kept = PostError::Bound {
        account: account(2),
        until,
    };
    for (number, at) in [(1, 0), (2, DEADLINE + 1), (3, until - 1)] {
        assert_eq!(unstake(&mut ledger, number, 2, 1, at), Err(kept.clone()));
    }
    // Nobody else's stays for that.
    unstake(&mut ledger, 4, 3, 900, 0).unwrap();
    // It can be lost all the while.
    let [one, two] = two_results(1, 2);
    let evidence = Evidence::TwoResults(one, two);
    let accusation = Accusation::new(account(4), account(2), &evidence);
    let accusation = accusation.sign(&key(4)).unwrap();
    let judged = ledger.post(&[Operation::Judge(&accusation)]).unwrap();
    assert!(judged[0].is_ok(), "{judged:?}");
    assert_eq!(ledger.balance(Book::Staked(account(2))), credits(300));

    // The file says so too, and when it is over all of it comes back.
    drop(ledger);
    let mut ledger = open(&folder);
    assert_eq!(ledger.bound(account(2)), Some(until));
    assert_eq!(unstake(&mut ledger, 5, 2, 1, until - 1), Err(kept));
    unstake(&mut ledger, 5, 2, 300, until).unwrap();
    assert_eq!(ledger.balance(Book::Staked(account(2))), Credits::ZERO);
}

#[test]
fn who_is_paid_by_a_batch_takes_nothing_back_for_as_long() {
    let folder = tempfile::tempdir().unwrap();
    let mut ledger = open(&folder);
    for who in [1, 2, 3] {
        stake(&mut ledger, who, 900);
    }
    // Both receipts are of work that ended at 2.
    deposit(&mut ledger, 4, 1_000);
    let receipts = [receipt(9, 1, 2, 4, 50), receipt(9, 2, 3, 4, 60)];
    let batch = net(&receipts).unwrap();
    assert_eq!(batch.workers().len(), 2);
    ledger.post(&[Operation::Settle(&batch)]).unwrap()[0]
        .clone()
        .unwrap();
    drop(ledger);
    let mut ledger = open(&folder);
    for who in [2, 3] {
        assert_eq!(ledger.bound(account(who)), Some(2 + DISPUTE));
        let early = unstake(&mut ledger, u64::from(who), who, 900, 1 + DISPUTE);
        assert!(matches!(early, Err(PostError::Bound { .. })), "{early:?}");
        unstake(&mut ledger, u64::from(who), who, 900, 2 + DISPUTE).unwrap();
    }
    // Who paid, and who was not in it, works under none of these leases.
    assert_eq!(ledger.bound(account(4)), None);
    unstake(&mut ledger, 1, 1, 900, 0).unwrap();
}

#[test]
fn the_ledger_knows_since_which_entry_somebody_always_had_something_at_stake() {
    let folder = tempfile::tempdir().unwrap();
    let mut ledger = open(&folder);
    assert_eq!(ledger.staked_since(account(2)), None);
    deposit(&mut ledger, 1, 100);
    let first = ledger.len() + 1;
    stake(&mut ledger, 2, 900);
    assert_eq!(ledger.staked_since(account(2)), Some(first));
    // As long as something is left of it, and whatever comes on top, it is since then.
    unstake(&mut ledger, 0, 2, 899, 0).unwrap();
    let more = Operation::Stake {
        id: digest("stake", 100),
        account: account(2),
        amount: credits(499),
    };
    ledger.post(&[more]).unwrap().remove(0).unwrap();
    assert_eq!(ledger.staked_since(account(2)), Some(first));
    drop(ledger);
    let mut ledger = open(&folder);
    assert_eq!(ledger.staked_since(account(2)), Some(first));
    // A fine takes all of it. What is put there later is since later.
    let [one, two] = two_results(1, 2);
    let accusation = Accusation::new(account(4), account(2), &Evidence::TwoResults(one, two));
    let accusation = accusation.sign(&key(4)).unwrap();
    ledger.post(&[Operation::Judge(&accusation)]).unwrap()[0]
        .clone()
        .unwrap();
    assert_eq!(ledger.staked_since(account(2)), None);
    let last = ledger.len();
    let again = Operation::Stake {
        id: digest("stake", 101),
        account: account(2),
        amount: credits(1),
    };
    ledger.post(&[again]).unwrap().remove(0).unwrap();
    assert_eq!(ledger.staked_since(account(2)), Some(last));
    assert_eq!(ledger.staked_since(account(1)), None, "it has only credits");
    drop(ledger);
    assert_eq!(open(&folder).staked_since(account(2)), Some(last));
}
