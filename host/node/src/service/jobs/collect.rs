//! Fetching receipts that were countersigned while this node was away: it asks those for whom it did
//! the work, at the node from which they asked for it.
//!
//! It must never keep a receipt that this node did not sign itself.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use skep_evidence::{Agreed, Keys, Receipt, Signed};
use skep_market::{Answer, Ask, Earnings, EarningsError, Refusal};
use skep_registry::Digest;
use skep_swarm::{NodeTicket, ProviderAddr, Swarm};

use super::talk::TalkError;
use super::{anywhere, failed, money, now};
use crate::failure::Failure;
use crate::service::Service;

/// How often a node asks by itself.
const OFTEN: Duration = Duration::from_secs(60 * 60);
/// What is owed for longer is not asked for any more, in milliseconds.
const OLDEST: u64 = 30 * 24 * 60 * 60 * 1000;

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

/// Asks for every receipt that is owed to this node; how many it was given.
pub async fn collect(service: &Arc<Service>) -> Result<u64, Failure> {
    let earnings = money::earnings(service)?;
    let since = now().saturating_sub(OLDEST);
    let owed = tokio::task::block_in_place(|| earnings.owed(since)).map_err(failed)?;
    let swarm = service.swarm().await?;
    let (mut gone, mut given) = (HashSet::new(), 0);
    for (lease, owed) in owed {
        let Ok(ticket) = owed.node.parse::<NodeTicket>() else {
            continue;
        };
        if gone.contains(&owed.node) {
            continue;
        }
        match claim(swarm, &ticket.node, lease).await {
            Ok(receipt) => {
                let settled = tokio::task::block_in_place(|| {
                    settle(&earnings, &[receipt], &Mutex::default())
                });
                match settled {
                    Ok(()) => given += 1,
                    Err(refusal) => tracing::info!(%refusal, "a receipt is not one of this node's"),
                }
            }
            Err(TalkError::Refused(Refusal::NoReceipt)) => {}
            Err(error) => {
                tracing::info!(requester = %owed.requester, %error, "a receipt cannot be had");
                gone.insert(owed.node);
            }
        }
    }
    Ok(given)
}

/// Keeps receipts that both have signed, if all are this node's own.
pub(super) fn settle(
    earnings: &Earnings,
    receipts: &[Vec<u8>],
    keys: &Mutex<Keys>,
) -> Result<(), Refusal> {
    let fault = |error: EarningsError| {
        tracing::warn!(%error, "a receipt cannot be kept");
        Refusal::Failed("a fault of the node; its owner can see which".to_owned())
    };
    let wrong = |reason: String| Refusal::Lease(reason);
    let mut own = Vec::with_capacity(receipts.len());
    for receipt in receipts {
        // Nobody waits for the keys while this waits for the disk.
        let keys = &mut *keys.lock().unwrap_or_else(PoisonError::into_inner);
        let agreed = Agreed::<Receipt>::decode(receipt, keys);
        let agreed = agreed.map_err(|error| wrong(error.to_string()))?;
        let signed = earnings.finished(agreed.lease).map_err(fault)?;
        let is_mine = signed.is_some_and(|signed| {
            let mine = Signed::<Receipt>::decode(&signed.receipt, keys);
            mine.is_ok_and(|mine| mine.digest() == agreed.digest())
        });
        if !is_mine {
            return Err(wrong("this node signed no such receipt".to_owned()));
        }
        own.push(agreed);
    }
    earnings.paid(&own).map_err(fault)
}

/// Asks for a receipt where the work was asked for.
async fn claim(swarm: &Swarm, node: &ProviderAddr, lease: Digest) -> Result<Vec<u8>, TalkError> {
    let claim = Ask::Claim { lease };
    match anywhere::ask(swarm, node, &claim, || anywhere::known(swarm)).await? {
        Answer::Claimed { receipt } => Ok(receipt),
        _ => Err(TalkError::OutOfTurn),
    }
}
