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

use super::talk::{self, TalkError};
use super::{failed, money, now};
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
        let known = || {
            let known = swarm.acquaintances().into_iter();
            known.map(|known| known.addr()).collect()
        };
        match claim_anywhere(swarm, &ticket.node, lease, known).await {
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

/// Asks where the work was asked for, and if nobody is there, where the same node is of those that are `known`
/// by then.
async fn claim_anywhere(
    swarm: &Swarm,
    node: &ProviderAddr,
    lease: Digest,
    known: impl FnOnce() -> Vec<ProviderAddr>,
) -> Result<Vec<u8>, TalkError> {
    let gone = match claim(swarm, node, lease).await {
        Err(TalkError::Channel(gone)) => gone,
        answered => return answered,
    };
    match elsewhere(node, known().into_iter()) {
        Some(moved) => claim(swarm, &moved, lease).await,
        None => Err(gone.into()),
    }
}

/// Where a node has moved to from there, if one of these is the same node somewhere else.
fn elsewhere(
    node: &ProviderAddr,
    mut known: impl Iterator<Item = ProviderAddr>,
) -> Option<ProviderAddr> {
    known.find(|known| known.id == node.id && known != node)
}

async fn claim(swarm: &Swarm, node: &ProviderAddr, lease: Digest) -> Result<Vec<u8>, TalkError> {
    let mut channel = swarm.converse(node).await?;
    channel.say(&Ask::Claim { lease }.encode()?).await?;
    match talk::hear(&mut channel).await? {
        Answer::Claimed { receipt } => Ok(receipt),
        _ => Err(TalkError::OutOfTurn),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::net::UdpSocket;
    use std::pin::Pin;

    use skep_evidence::AccountKey;
    use skep_market::MAX_MESSAGE;
    use skep_swarm::{Answerer, Channel, NodeId, SwarmConfig};

    use super::*;

    /// Gives this for a receipt to whoever claims one.
    #[derive(Debug)]
    struct Gives(&'static [u8]);

    impl Answerer for Gives {
        fn answer(&self, mut channel: Channel) -> Pin<Box<dyn Future<Output = ()> + Send>> {
            let receipt = self.0.to_vec();
            Box::pin(async move {
                let frame = channel.hear(MAX_MESSAGE, Duration::from_secs(10)).await;
                let asked = Ask::decode(&frame.unwrap()).unwrap();
                assert!(matches!(asked, Ask::Claim { .. }), "{asked:?}");
                let answer = Answer::Claimed { receipt };
                channel.say(&answer.encode().unwrap()).await.unwrap();
                let _ = channel.finish(Duration::from_secs(10)).await;
            })
        }
    }

    /// Nodes that are neighbours find each other by their connection; of others there is only what they
    /// announce.
    #[tokio::test(flavor = "multi_thread")]
    async fn a_claim_goes_to_where_the_node_has_moved_if_nobody_is_where_it_was() {
        let folders = [(); 2].map(|()| tempfile::tempdir().unwrap());
        let [provider, requester] = [0, 1].map(|n: usize| folders[n].path());
        let provider = Swarm::open(SwarmConfig::loopback(provider)).await.unwrap();
        let requester = Swarm::open(SwarmConfig::loopback(requester)).await.unwrap();
        requester.answer_with(Arc::new(Gives(b"a receipt")));
        let now = requester.addr();
        // Taken and let go of, so that nobody is there.
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        let before = ProviderAddr {
            id: now.id,
            addrs: vec![socket.local_addr().unwrap()],
        };
        drop(socket);
        let lease = Digest::of(b"lease");
        let nowhere = claim_anywhere(&provider, &before, lease, Vec::new).await;
        assert!(matches!(nowhere, Err(TalkError::Channel(_))), "{nowhere:?}");
        let found = claim_anywhere(&provider, &before, lease, || {
            vec![before.clone(), now.clone()]
        });
        assert_eq!(found.await.unwrap(), b"a receipt");
    }

    #[test]
    fn only_the_same_node_somewhere_else_is_asked() {
        let at = |node: u8, port: u16| ProviderAddr {
            id: NodeId::from_bytes(AccountKey::from_seed(&[node; 32]).id().as_bytes()).unwrap(),
            addrs: vec![([127, 0, 0, 1], port).into()],
        };
        let asked = at(1, 10);
        let find = |known: &[ProviderAddr]| elsewhere(&asked, known.iter().cloned());
        assert_eq!(find(&[]), None);
        // Nobody is there, and asking again changes nothing.
        assert_eq!(find(&[at(1, 10)]), None);
        assert_eq!(
            find(&[at(2, 11), at(3, 10)]),
            None,
            "others have no such receipt"
        );
        assert_eq!(find(&[at(2, 11), at(1, 10), at(1, 12)]), Some(at(1, 12)));
    }
}
