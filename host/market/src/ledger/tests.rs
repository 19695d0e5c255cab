//! Random histories: nothing is made or lost, nothing is paid twice, and what is on disk is what
//! was told.

mod beside;
mod bound;
mod debts;

use std::collections::BTreeMap;

use proptest::prelude::*;
use skep_evidence::{Accusation, Agreed, Evidence, Receipt, Signed, Statement as _};

use self::beside::Beside;
use super::*;
use crate::recompute;
use crate::settlement::{Batch, net};
use crate::testing::{account, credits, digest, key, receipt, two_results};

const TERMS: Terms = Terms {
    supply: Credits::from_micro(1_000_000_000),
    fine: Credits::from_micro(500),
    reward: 250_000,
};

fn open(folder: &tempfile::TempDir) -> Ledger {
    Ledger::open(&folder.path().join("ledger"), TERMS).unwrap()
}

/// One step of a history, in numbers that proptest can shrink.
#[derive(Clone, Debug)]
enum Step {
    Deposit(u64, u8, u64),
    Withdraw(u64, u8, u64),
    Stake(u64, u8, u64),
    Unstake(u64, u8, u64, u64),
    Bind(u64, u8, u64),
    Escrow(u64, u64, u8, u64),
    Refund(u64, u64),
    Release {
        job: u64,
        lease: u64,
        provider: u8,
        requester: u8,
        price: u64,
    },
    Judge {
        lease: u64,
        worker: u8,
        accuser: u8,
        right: bool,
    },
    Settle(Vec<(u64, u8, u8, u64)>),
    Reopen,
}

/// Before or after whoever was paid by a batch of these tests can take back a stake.
fn time() -> impl Strategy<Value = u64> {
    (0..40_u64, any::<bool>()).prop_map(|(at, late)| if late { DISPUTE + at } else { at })
}

/// Few of everything, so that histories meet themselves again.
fn step() -> impl Strategy<Value = Step> {
    let (id, who, amount) = (0..12_u64, 1..6_u8, 0..2_000_u64);
    let four = (id.clone(), who.clone(), amount.clone());
    prop_oneof![
        4 => four.clone().prop_map(|(id, who, amount)| Step::Deposit(id, who, 10 * amount)),
        1 => four.clone().prop_map(|(id, who, amount)| Step::Withdraw(id + 100, who, amount)),
        2 => four.clone().prop_map(|(id, who, amount)| Step::Stake(id + 200, who, amount)),
        2 => (four.clone(), time())
            .prop_map(|((id, who, amount), at)| Step::Unstake(id + 300, who, amount, at)),
        1 => (0..4_u64, who.clone(), time()).prop_map(|(job, who, until)| Step::Bind(job, who, until)),
        3 => (id.clone(), 0..4_u64, who.clone(), amount.clone())
            .prop_map(|(id, job, who, amount)| Step::Escrow(id + 400, job, who, 4 * amount)),
        1 => (id.clone(), 0..4_u64).prop_map(|(id, job)| Step::Refund(id + 500, job)),
        6 => (0..4_u64, id.clone(), who.clone(), who.clone(), amount.clone())
            .prop_filter("two parties", |(_, _, provider, requester, _)| provider != requester)
            .prop_map(|(job, lease, provider, requester, price)| Step::Release {
                job, lease, provider, requester, price,
            }),
        2 => (id.clone(), who.clone(), who.clone(), any::<bool>())
            .prop_map(|(lease, worker, accuser, right)| Step::Judge { lease, worker, accuser, right }),
        2 => proptest::collection::vec(
                (id, who.clone(), who, amount)
                    .prop_filter("two parties", |(_, provider, requester, _)| provider != requester),
                1..5,
            )
            .prop_map(Step::Settle),
        1 => Just(Step::Reopen),
    ]
}

/// What a step needs to live as long as its operation.
enum Held {
    Nothing,
    Receipt(Box<Agreed<Receipt>>),
    Accusation(Signed<Accusation>),
    Batch(Option<(Batch, Vec<Agreed<Receipt>>)>),
}

impl Step {
    fn hold(&self) -> Held {
        match *self {
            Self::Release {
                job,
                lease,
                provider,
                requester,
                price,
            } => Held::Receipt(Box::new(receipt(job, lease, provider, requester, price))),
            Self::Judge {
                lease,
                worker,
                accuser,
                right,
            } => {
                let [one, two] = two_results(lease, worker);
                let evidence = match right {
                    true => Evidence::TwoResults(one, two),
                    false => Evidence::TwoResults(one.clone(), one),
                };
                let accusation = Accusation::new(account(accuser), account(worker), &evidence);
                Held::Accusation(accusation.sign(&key(accuser)).unwrap())
            }
            Self::Settle(ref parts) => {
                let receipts: Vec<_> = parts
                    .iter()
                    .map(|(lease, provider, requester, price)| {
                        receipt(9, *lease, *provider, *requester, *price)
                    })
                    .collect();
                Held::Batch(net(&receipts).ok().map(|batch| (batch, receipts)))
            }
            _ => Held::Nothing,
        }
    }

    fn operation<'a>(&self, held: &'a Held) -> Option<Operation<'a>> {
        let id = |number| digest("operation", number);
        Some(match (self, held) {
            (Self::Deposit(n, who, amount), _) => Operation::Deposit {
                id: id(*n),
                account: account(*who),
                amount: credits(*amount),
            },
            (Self::Withdraw(n, who, amount), _) => Operation::Withdraw {
                id: id(*n),
                account: account(*who),
                amount: credits(*amount),
            },
            (Self::Stake(n, who, amount), _) => Operation::Stake {
                id: id(*n),
                account: account(*who),
                amount: credits(*amount),
            },
            (Self::Unstake(n, who, amount, at), _) => Operation::Unstake {
                id: id(*n),
                account: account(*who),
                amount: credits(*amount),
                at: *at,
            },
            (Self::Bind(job, who, until), _) => Operation::Bind {
                job: digest("job", *job),
                account: account(*who),
                until: *until,
            },
            (Self::Escrow(n, job, who, amount), _) => Operation::Escrow {
                id: id(*n),
                job: digest("job", *job),
                requester: account(*who),
                amount: credits(*amount),
            },
            (Self::Refund(n, job), _) => Operation::Refund {
                id: id(*n),
                job: digest("job", *job),
            },
            (_, Held::Receipt(receipt)) => Operation::Release(receipt),
            (_, Held::Accusation(accusation)) => Operation::Judge(accusation),
            (_, Held::Batch(Some((batch, _)))) => Operation::Settle(batch),
            _ => return None,
        })
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    #[test]
    fn whatever_happens_credits_are_conserved(
        steps in proptest::collection::vec(step(), 1..60),
        together in 1..4_usize,
    ) {
        let folder = tempfile::tempdir().unwrap();
        let mut ledger = open(&folder);
        let mut receipts: Vec<Agreed<Receipt>> = Vec::new();
        let mut beside = Beside::default();
        for group in steps.chunks(together) {
            let held: Vec<Held> = group.iter().map(Step::hold).collect();
            let (posting, operations): (Vec<&Step>, Vec<_>) = group
                .iter()
                .zip(&held)
                .filter_map(|(step, held)| Some((step, step.operation(held)?)))
                .unzip();
            if group.iter().any(|step| matches!(step, Step::Reopen)) {
                let head = ledger.head();
                drop(ledger);
                ledger = open(&folder);
                prop_assert_eq!(ledger.head(), head);
            }
            let first = ledger.post(&operations).unwrap();
            prop_assert_eq!(ledger.total(), u128::from(TERMS.supply.micro()));
            // Everything again changes nothing: what was done is done, and what was refused was
            // refused for want of credits, unless what came after it made room.
            let (head, books): (_, BTreeMap<_, _>) = (ledger.head(), ledger.books().collect());
            let done: Vec<_> = operations
                .iter()
                .zip(&first)
                .filter_map(|(operation, outcome)| outcome.is_ok().then_some(*operation))
                .collect();
            for again in ledger.post(&done).unwrap() {
                let is_already = matches!(again, Ok(Posted::Already { .. }));
                prop_assert!(is_already, "{:?}", again);
            }
            prop_assert_eq!(ledger.head(), head);
            prop_assert_eq!(ledger.books().collect::<BTreeMap<_, _>>(), books);
            for ((step, operation), outcome) in posting.iter().zip(&operations).zip(&first) {
                beside.note(step, outcome);
                if !matches!(outcome, Ok(Posted::New { .. })) {
                    continue;
                }
                match operation {
                    Operation::Release(receipt) => receipts.push((*receipt).clone()),
                    Operation::Settle(batch) => receipts.extend(of_batch(&steps, batch)),
                    _ => {}
                }
            }
            // Everyone has what its receipts come to, and what it was given and lost without any, of which the ledger
            // is not asked.
            let gained = recompute(&receipts);
            for who in everyone(&ledger).chain(gained.keys().copied()) {
                let by_receipts = gained.get(&who).copied().unwrap_or(0);
                prop_assert_eq!(ledger.holdings(who) as i128, by_receipts + beside.given(who));
                let staked = ledger.balance(Book::Staked(who)).micro();
                prop_assert_eq!(staked, beside.staked(who));
            }
            prop_assert_eq!(ledger.balance(Book::Burned).micro(), beside.burned);
            prop_assert_eq!(gained.values().sum::<i128>(), 0);
        }
        // What is held for jobs is what their requesters have in escrow.
        let mut escrows: BTreeMap<AccountId, u64> = BTreeMap::new();
        for job in 0..4 {
            if let Some(escrow) = ledger.escrow(digest("job", job)) {
                *escrows.entry(escrow.requester).or_default() += escrow.left.micro();
            }
        }
        for (book, balance) in ledger.books() {
            if let Book::Escrowed(who) = book {
                prop_assert_eq!(escrows.get(&who).copied().unwrap_or(0), balance.micro());
            }
        }
    }
}

/// Whoever ever had a book.
fn everyone(ledger: &Ledger) -> impl Iterator<Item = AccountId> {
    ledger.books().filter_map(|(book, _)| match book {
        Book::Available(who) | Book::Staked(who) | Book::Escrowed(who) => Some(who),
        Book::Treasury | Book::Burned => None,
    })
}

/// The receipts of a batch that one of the steps made.
fn of_batch(steps: &[Step], batch: &Batch) -> Vec<Agreed<Receipt>> {
    let batches = steps.iter().map(Step::hold);
    let mut found = batches.filter_map(|held| match held {
        Held::Batch(Some((other, receipts))) if other == *batch => Some(receipts),
        _ => None,
    });
    found.next().unwrap()
}

fn deposit(ledger: &mut Ledger, who: u8, amount: u64) {
    let operation = Operation::Deposit {
        id: digest("deposit", u64::from(who)),
        account: account(who),
        amount: credits(amount),
    };
    assert!(ledger.post(&[operation]).unwrap()[0].is_ok());
}

fn escrow(ledger: &mut Ledger, job: u64, who: u8, amount: u64) -> Result<Posted, PostError> {
    let operation = Operation::Escrow {
        id: digest("escrow", job),
        job: digest("job", job),
        requester: account(who),
        amount: credits(amount),
    };
    ledger.post(&[operation]).unwrap().remove(0)
}

#[test]
fn a_receipt_is_paid_once_to_everyone_who_has_a_share() {
    let folder = tempfile::tempdir().unwrap();
    let mut ledger = open(&folder);
    deposit(&mut ledger, 1, 1_000);
    escrow(&mut ledger, 0, 1, 600).unwrap();
    let bill = receipt(0, 7, 2, 1, 333);
    let outcome = ledger
        .post(&[Operation::Release(&bill), Operation::Release(&bill)])
        .unwrap();
    assert_eq!(outcome[0], Ok(Posted::New { sequence: 2 }));
    assert_eq!(outcome[1], Ok(Posted::Already { sequence: 2 }));
    let has = |ledger: &Ledger, who| ledger.balance(Book::Available(account(who))).micro();
    // 10 % and 5 % of 333, rounded down; the provider has the rest.
    assert_eq!(
        (has(&ledger, 90), has(&ledger, 91), has(&ledger, 2)),
        (33, 16, 284)
    );
    // Another receipt for the same lease, though both signed it.
    let other = receipt(0, 7, 2, 1, 334);
    let refused = ledger
        .post(&[Operation::Release(&other)])
        .unwrap()
        .remove(0);
    assert!(matches!(
        refused,
        Err(PostError::PaidOtherwise { sequence: 2, .. })
    ));
    // More than what is left for the job, and a job that is someone else's.
    let dear = receipt(0, 8, 2, 1, 268);
    let refused = ledger.post(&[Operation::Release(&dear)]).unwrap().remove(0);
    assert!(matches!(refused, Err(PostError::Short { .. })));
    let foreign = receipt(0, 9, 2, 3, 1);
    let refused = ledger
        .post(&[Operation::Release(&foreign)])
        .unwrap()
        .remove(0);
    assert!(matches!(refused, Err(PostError::OtherPayer { .. })));
    let refund = Operation::Refund {
        id: digest("refund", 0),
        job: digest("job", 0),
    };
    ledger.post(&[refund]).unwrap().remove(0).unwrap();
    assert_eq!(has(&ledger, 1), 1_000 - 333);
    assert_eq!(ledger.escrow(digest("job", 0)), None);
    let late = receipt(0, 10, 2, 1, 1);
    let refused = ledger.post(&[Operation::Release(&late)]).unwrap().remove(0);
    assert!(matches!(refused, Err(PostError::NoEscrow { .. })));
}

#[test]
fn an_identifier_stands_for_one_thing() {
    let folder = tempfile::tempdir().unwrap();
    let mut ledger = open(&folder);
    deposit(&mut ledger, 1, 1_000);
    let other = Operation::Deposit {
        id: digest("deposit", 1),
        account: account(1),
        amount: credits(2_000),
    };
    let refused = ledger.post(&[other]).unwrap().remove(0);
    assert!(matches!(
        refused,
        Err(PostError::Conflict { sequence: 0, .. })
    ));
    assert_eq!(ledger.holdings(account(1)), 1_000);
}

#[test]
fn fraud_is_fined_once_and_so_is_a_false_accusation() {
    let folder = tempfile::tempdir().unwrap();
    let mut ledger = open(&folder);
    for who in [2, 4] {
        deposit(&mut ledger, who, 10_000);
        let stake = Operation::Stake {
            id: digest("stake", u64::from(who)),
            account: account(who),
            amount: credits(900),
        };
        ledger.post(&[stake]).unwrap().remove(0).unwrap();
    }
    let accuse = |right: bool, accuser: u8| {
        let [one, two] = two_results(1, 2);
        let evidence = match right {
            true => Evidence::TwoResults(one, two),
            false => Evidence::TwoResults(one.clone(), one),
        };
        Accusation::new(account(accuser), account(2), &evidence)
            .sign(&key(accuser))
            .unwrap()
    };
    let staked = |ledger: &Ledger, who| ledger.balance(Book::Staked(account(who))).micro();
    let first = accuse(true, 4);
    ledger
        .post(&[Operation::Judge(&first)])
        .unwrap()
        .remove(0)
        .unwrap();
    assert_eq!((staked(&ledger, 2), staked(&ledger, 4)), (400, 900));
    assert_eq!(ledger.balance(Book::Burned).micro(), 375);
    assert_eq!(
        ledger.balance(Book::Available(account(4))).micro(),
        9_100 + 125
    );
    // Whoever else proves the same fraud comes too late.
    let second = accuse(true, 3);
    let outcome = ledger.post(&[Operation::Judge(&second)]).unwrap().remove(0);
    assert!(matches!(outcome, Ok(Posted::Already { .. })));
    assert_eq!(staked(&ledger, 2), 400);
    let wrong = accuse(false, 4);
    ledger
        .post(&[Operation::Judge(&wrong)])
        .unwrap()
        .remove(0)
        .unwrap();
    assert_eq!((staked(&ledger, 2), staked(&ledger, 4)), (400, 400));
    // One who has nothing at stake has nothing to lose, and is told so.
    let broke = accuse(false, 3);
    let outcome = ledger.post(&[Operation::Judge(&broke)]).unwrap().remove(0);
    assert!(matches!(outcome, Err(PostError::NothingAtStake { .. })));
}

#[test]
fn a_ledger_keeps_its_terms_and_is_open_once() {
    let folder = tempfile::tempdir().unwrap();
    let ledger = open(&folder);
    let path = folder.path().join("ledger");
    assert!(matches!(
        Ledger::open(&path, TERMS),
        Err(LedgerError::Storage { .. })
    ));
    drop(ledger);
    let other = Terms { reward: 1, ..TERMS };
    assert!(matches!(
        Ledger::open(&path, other),
        Err(LedgerError::OtherTerms { .. })
    ));
    assert!(Ledger::open(&path, TERMS).is_ok());
}

#[test]
fn a_changed_file_is_found_out() {
    type Damage = fn(&redb::WriteTransaction);
    let damages: [(&str, Damage); 5] = [
        ("come to", |t| {
            t.open_table(BALANCES).unwrap().insert(1, 999_999).unwrap();
        }),
        ("is missing", |t| {
            t.open_table(ENTRIES).unwrap().remove(0).unwrap();
        }),
        ("hash over its entries", |t| {
            let mut entries = t.open_table(ENTRIES).unwrap();
            let last = entries.get(1).unwrap().unwrap().value().to_vec();
            entries.remove(1).unwrap();
            let first = entries.get(0).unwrap().unwrap().value().to_vec();
            entries.insert(1, last.as_slice()).unwrap();
            let mut changed = first;
            // The content's digest, of which no balance depends.
            changed[40] ^= 1;
            entries.insert(0, changed.as_slice()).unwrap();
        }),
        ("index of identifiers", |t| {
            t.open_table(POSTED).unwrap().insert(&[7; 32], 0).unwrap();
        }),
        ("is not what it was", |t| {
            t.open_table(BOOKS)
                .unwrap()
                .insert(1, &Book::Burned.to_bytes())
                .unwrap();
            t.open_table(BOOKS)
                .unwrap()
                .insert(2, &Book::Burned.to_bytes())
                .unwrap();
        }),
    ];
    for (expected, damage) in damages {
        let folder = tempfile::tempdir().unwrap();
        let mut ledger = open(&folder);
        deposit(&mut ledger, 1, 1_000);
        escrow(&mut ledger, 0, 1, 600).unwrap();
        drop(ledger);
        let path = folder.path().join("ledger");
        let database = Database::create(&path).unwrap();
        let transaction = database.begin_write().unwrap();
        damage(&transaction);
        transaction.commit().unwrap();
        drop(database);
        let error = Ledger::open(&path, TERMS).unwrap_err();
        assert!(
            matches!(&error, LedgerError::Damaged { what, .. } if what.contains(expected)),
            "{expected}: {error}"
        );
    }
}
