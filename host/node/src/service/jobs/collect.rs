//! Fetching receipts that were countersigned while this node was away: it asks those for whom it did
//! the work, at the node from which they asked for it.
//!
//! [`turns`] says whom it asks next.
//!
//! # What it must never do
//!
//! - Keep a receipt that this node did not sign itself.
//! - Have those who pay wait for those who are not there.

mod turns;

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use skep_evidence::{AccountId, Keys, Receipt, Unverified, verify_agreed};
use skep_market::{Answer, Ask, Earnings, EarningsError, Owed, Refusal};
use skep_registry::Digest;
use skep_swarm::{NodeTicket, ProviderAddr, Swarm};
use tokio::task::JoinSet;

use self::turns::Debtor;
pub use self::turns::Turns;
use super::provide::Untaken;
use super::talk::TalkError;
use super::{OWN_FAULT, anywhere, failed, money, now};
use crate::failure::Failure;
use crate::requests::jobs::MissingLine;
use crate::service::Service;

/// How often a node asks by itself.
const OFTEN: Duration = Duration::from_secs(60 * 60);
/// What was signed longer ago is forgotten, and not asked for any more, in milliseconds.
pub(super) const OLDEST: u64 = 30 * 24 * 60 * 60 * 1000;
/// How many are asked at one moment.
const AT_ONCE: usize = 8;
/// How long one may take for all that it is asked for in one round.
const PATIENCE: Duration = Duration::from_secs(20);

/// Asks now and then, as long as the service is there.
pub fn now_and_then(service: &Arc<Service>) {
    let service = Arc::downgrade(service);
    tokio::spawn(async move {
        loop {
            let Some(service) = service.upgrade() else {
                return;
            };
            if let Err(failure) = collect(&service).await {
                tracing::warn!(%failure, "receipts that are owed to this node were not asked for");
            }
            drop(service);
            tokio::time::sleep(OFTEN).await;
        }
    });
}

/// Asks for receipts that are owed to this node, as many debtors as one round has; what is missing after that. What
/// is too old to be asked for is forgotten.
pub async fn collect(service: &Arc<Service>) -> Result<Vec<MissingLine>, Failure> {
    let earnings = money::earnings(service)?;
    let asked_since = tokio::task::block_in_place(|| forget_old(&earnings, now()));
    let asked_since = asked_since.map_err(failed)?;
    let owed = || tokio::task::block_in_place(|| earnings.owed(asked_since)).map_err(failed);
    let swarm = service.swarm().await?;
    let turns = &service.jobs.turns;
    let mut waiting = turns.next(owed()?).into_iter();
    let mut asking = JoinSet::new();
    let mut reached = BTreeSet::new();
    loop {
        while asking.len() < AT_ONCE
            && let Some(debtor) = waiting.next()
        {
            let (swarm, earnings) = (swarm.clone(), Arc::clone(&earnings));
            let untaken = service.jobs.untaken.clone();
            asking.spawn(async move {
                let is_there = ask_for(&swarm, &earnings, &untaken, &debtor).await;
                (debtor.who, is_there)
            });
        }
        match asking.join_next().await {
            Some(Ok((who, is_there))) => {
                if is_there {
                    reached.insert(who.0);
                }
                turns.asked(who, is_there);
            }
            Some(Err(error)) => tracing::warn!(%error, "one who owes receipts was not asked"),
            None => return Ok(missing(&owed()?, &reached)),
        }
    }
}

/// What is owed by whom, who owes most first, and of which of them a node was `reached`.
fn missing(owed: &[(Digest, Owed)], reached: &BTreeSet<AccountId>) -> Vec<MissingLine> {
    let mut lines = BTreeMap::new();
    for (_, owed) in owed {
        let line = lines.entry(owed.requester).or_insert_with(|| MissingLine {
            account: owed.requester.to_string(),
            receipts: 0,
            micro: 0,
            since: owed.since,
            reached: reached.contains(&owed.requester),
        });
        line.receipts += 1;
        line.micro = line.micro.saturating_add(owed.price.micro());
        line.since = line.since.min(owed.since);
    }
    let mut lines: Vec<MissingLine> = lines.into_values().collect();
    lines.sort_by_key(|line| Reverse(line.micro));
    lines
}

/// Forgets what is too old to be asked for, by a time that the clock can be trusted to have reached; since when it is
/// asked for. It is called at every start, so that a node forgets however short it is up.
fn forget_old(earnings: &Earnings, now: u64) -> Result<u64, EarningsError> {
    let Some(trusted) = earnings.trusted(now)? else {
        tracing::warn!(
            "the clock is more than a day ahead of what it was last: nothing is forgotten before it stays so, or the \
             next start says the same"
        );
        return Ok(0);
    };
    let since = trusted.saturating_sub(OLDEST);
    earnings.forget_before(since)?;
    Ok(since)
}

/// Asks one debtor for its receipts: whether it was there for as long as that took.
async fn ask_for(swarm: &Swarm, earnings: &Earnings, untaken: &Untaken, debtor: &Debtor) -> bool {
    let (requester, node) = &debtor.who;
    let Ok(ticket) = node.parse::<NodeTicket>() else {
        return false;
    };
    let asking = async {
        for lease in &debtor.leases {
            match claim(swarm, &ticket.node, *lease).await {
                Ok(receipt) => {
                    let settle = || settle(earnings, untaken, &[receipt]);
                    if let Err(refusal) = tokio::task::block_in_place(settle) {
                        tracing::info!(%refusal, "a receipt is not one of this node's");
                    }
                }
                Err(TalkError::Refused(Refusal::NoReceipt)) => {}
                Err(error) => {
                    tracing::info!(%requester, %error, "a receipt cannot be had");
                    return false;
                }
            }
        }
        true
    };
    let is_there = tokio::time::timeout(PATIENCE, asking).await;
    is_there.unwrap_or(false)
}

/// Keeps receipts that both have signed, if all are this node's own, and lets go of what was made for them.
///
/// Anybody may send some. Signatures are checked of nothing but what was signed here, and with keys of this call's
/// own: who sends many keeps nobody waiting for those that the node shares, and a batch is of few accounts.
pub(super) fn settle(
    earnings: &Earnings,
    untaken: &Untaken,
    receipts: &[Vec<u8>],
) -> Result<(), Refusal> {
    let fault = |error: EarningsError| {
        tracing::warn!(%error, "a receipt cannot be kept");
        Refusal::Failed(OWN_FAULT.to_owned())
    };
    let wrong = |reason: String| Refusal::Lease(reason);
    let read = receipts.iter();
    let read = read.map(|receipt| Unverified::<Receipt>::decode_agreed(receipt));
    let read: Result<Vec<_>, _> = read.collect();
    let read = read.map_err(|error| wrong(error.to_string()))?;
    for receipt in &read {
        let signed = earnings.finished(receipt.claimed().lease).map_err(fault)?;
        let is_mine = signed.is_some_and(|signed| {
            // What is kept here was signed here.
            let mine = Unverified::<Receipt>::decode(&signed.receipt);
            mine.is_ok_and(|mine| mine.digest() == receipt.digest())
        });
        if !is_mine {
            return Err(wrong("this node signed no such receipt".to_owned()));
        }
    }
    // Many signatures are checked faster together.
    let agreed = verify_agreed(read, &mut Keys::default());
    let agreed = agreed.map_err(|(_, error)| wrong(error.to_string()))?;
    earnings.paid(&agreed).map_err(fault)?;
    let leases: Vec<Digest> = agreed.iter().map(|receipt| receipt.lease).collect();
    untaken.forget(&leases);
    Ok(())
}

/// Asks for a receipt where the work was asked for.
async fn claim(swarm: &Swarm, node: &ProviderAddr, lease: Digest) -> Result<Vec<u8>, TalkError> {
    let claim = Ask::Claim { lease };
    match anywhere::ask(swarm, node, &claim, || anywhere::known(swarm)).await? {
        Answer::Claimed { receipt } => Ok(receipt),
        _ => Err(TalkError::OutOfTurn),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use skep_evidence::{Credits, Signed};
    use skep_market::Finished;

    use super::super::testing::{self, key};
    use super::*;

    /// What the provider (key 1) signed for a lease of the requester (key 2).
    fn bill(lease: u8, price: u64) -> Signed<Receipt> {
        testing::bill(lease, 1, 2, price)
    }

    fn agreed(bill: Signed<Receipt>) -> Vec<u8> {
        bill.accept(&key(2)).unwrap().encode()
    }

    /// Keeps a bill that has been owed since then.
    fn keep(earnings: &Earnings, bill: &Signed<Receipt>, since: u64) {
        let finished = Finished {
            commitment: Vec::new(),
            receipt: bill.encode(),
        };
        let owed = Owed {
            requester: bill.requester,
            price: bill.price,
            since,
            node: String::new(),
        };
        earnings.keep(bill.lease, finished, &owed).unwrap();
    }

    #[test]
    fn what_is_missing_is_told_by_who_owes_it_the_most_first() {
        let owed = |requester: u8, price, since| {
            let owed = Owed {
                requester: key(requester).id(),
                price: Credits::from_micro(price),
                since,
                node: String::new(),
            };
            (Digest::of(&[requester]), owed)
        };
        let all = [owed(2, 4, 7), owed(3, 9, 8), owed(2, 1, 5)];
        let line = |requester: u8, receipts, micro, since, reached| MissingLine {
            account: key(requester).id().to_string(),
            receipts,
            micro,
            since,
            reached,
        };
        let reached = BTreeSet::from([key(2).id()]);
        let expected = [line(3, 1, 9, 8, false), line(2, 2, 5, 5, true)];
        assert_eq!(missing(&all, &reached), expected);
        assert_eq!(missing(&[], &reached), []);
    }

    #[test]
    fn a_clock_that_is_a_month_ahead_for_once_has_nothing_forgotten() {
        const DAY: u64 = 24 * 60 * 60 * 1000;
        const THEN: u64 = 100 * DAY;
        let folder = tempfile::tempdir().unwrap();
        let earnings = Earnings::open(&folder.path().join("earnings")).unwrap();
        let bill = bill(1, 10);
        keep(&earnings, &bill, THEN);
        // How much is still asked for, and whether it is known that it was signed.
        let left = |now| {
            let since = forget_old(&earnings, now).unwrap();
            let owed = earnings.owed(since).unwrap().len();
            (owed, earnings.finished(bill.lease).unwrap().is_some())
        };
        assert_eq!(left(THEN), (1, true));
        assert_eq!(left(THEN + 31 * DAY), (1, true));
        assert_eq!(left(THEN + 1), (1, true));
        assert_eq!(left(THEN + 31 * DAY), (1, true));
        assert_eq!(left(THEN + 31 * DAY + DAY / 24), (0, false));
    }

    #[test]
    fn a_node_that_is_up_for_minutes_every_few_days_forgets_what_is_old() {
        const MINUTE: u64 = 60 * 1000;
        const DAY: u64 = 24 * 60 * MINUTE;
        const THEN: u64 = 100 * DAY;
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("earnings");
        let (old, new) = (bill(1, 10), bill(2, 20));
        let keep = |bill, since| keep(&Earnings::open(&path).unwrap(), bill, since);
        keep(&old, THEN);
        // What it knows to have been signed after a start, and some minutes of being up.
        let started = |now| {
            let earnings = Earnings::open(&path).unwrap();
            for now in [now, now + 10 * MINUTE] {
                forget_old(&earnings, now).unwrap();
            }
            [&old, &new].map(|bill| earnings.finished(bill.lease).unwrap().is_some())
        };
        for day in [4, 8, 12] {
            assert_eq!(started(THEN + day * DAY), [true, false]);
        }
        keep(&new, THEN + 12 * DAY);
        // For one start the clock is far ahead, then behind, and then as it should be.
        for day in [90, 1, 16, 20, 24, 28, 32] {
            assert_eq!(started(THEN + day * DAY), [true, true], "{day}");
        }
        assert_eq!(started(THEN + 36 * DAY), [false, true]);
    }

    #[test]
    fn receipts_that_come_together_count_if_both_signed_each_and_it_is_what_was_signed_here() {
        let folder = tempfile::tempdir().unwrap();
        let earnings = Earnings::open(&folder.path().join("earnings")).unwrap();
        for lease in [1, 2, 3] {
            keep(&earnings, &bill(lease, 10), 1);
        }
        let untaken = Untaken::default();
        let settle = |receipts: &[Vec<u8>]| settle(&earnings, &untaken, receipts);
        let owed = || earnings.unpaid(key(2).id(), 0).unwrap().micro();
        let good = [1, 2, 3].map(|lease| agreed(bill(lease, 10)));

        let mut forged = good.clone();
        *forged[1].last_mut().unwrap() ^= 1;
        let refused = settle(&forged).unwrap_err().to_string();
        assert!(refused.contains("signature"), "{refused}");
        assert!(settle(&[good[0].clone(), bill(2, 10).encode()]).is_err());
        // Both signed these, and yet they are not what is kept here. Whether signatures hold is not looked at in what
        // was not signed here, nor in what comes with it.
        let not_mine = Refusal::Lease("this node signed no such receipt".to_owned());
        for other in [bill(2, 11), bill(4, 10)] {
            let mut unsigned = agreed(other.clone());
            *unsigned.last_mut().unwrap() ^= 1;
            for other in [agreed(other), unsigned] {
                for first in [&good[0], &forged[1]] {
                    let refused = settle(&[first.clone(), other.clone()]).unwrap_err();
                    assert_eq!(refused, not_mine);
                }
            }
        }
        assert_eq!(owed(), 30);
        assert_eq!(earnings.receipts().unwrap(), []);

        settle(&good).unwrap();
        assert_eq!(owed(), 0);
        assert_eq!(earnings.receipts().unwrap().len(), 3);
        // Once is as good as twice.
        settle(&good[..1]).unwrap();
        assert_eq!(earnings.receipts().unwrap().len(), 3);
    }
}
