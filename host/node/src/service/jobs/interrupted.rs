//! Leases in the middle of which this node was ended: it finds them when it is there again, and tells those
//! who wait. Their inputs, and what was made of them, are gone with the process.
//!
//! # What it must never do
//!
//! - Say of a lease that it failed while it is at work again.
//! - Go on telling for longer than anybody waits.

use std::collections::BTreeMap;
use std::sync::{Arc, Weak};
use std::time::Duration;

use skep_market::{Answer, Ask, Earnings, EarningsError, Unfinished};
use skep_swarm::{NodeTicket, ProviderAddr, Swarm};

use super::talk::TalkError;
use super::{anywhere, failed, money, now};
use crate::failure::Failure;
use crate::requests::Interrupted;
use crate::service::Service;

/// How long after a first attempt to tell a node the next one is made. The pause doubles each time.
const PAUSE: Duration = Duration::from_secs(1);
/// How long it becomes.
const LONGEST: Duration = Duration::from_secs(60);

/// Finds what was interrupted when this node was ended. It is called before anything is begun; `most` is
/// how many leases there may be here at once.
pub fn find(earnings: &Earnings, most: usize) -> Result<(), Failure> {
    let found = tokio::task::block_in_place(|| earnings.interrupt(most, now())).map_err(failed)?;
    for work in found {
        tracing::warn!(
            lease = %work.lease,
            requester = %work.requester,
            "this node was ended in the middle of a shard; its requester is told"
        );
    }
    Ok(())
}

/// Tells all who do not know it yet, as long as the service is there.
pub fn tell(service: &Arc<Service>) -> Result<(), Failure> {
    let earnings = money::earnings(service)?;
    let untold = tokio::task::block_in_place(|| earnings.untold()).map_err(failed)?;
    let mut nodes = BTreeMap::<String, Vec<Unfinished>>::new();
    for work in untold {
        nodes.entry(work.node.clone()).or_default().push(work);
    }
    for (node, leases) in nodes {
        let service = Arc::downgrade(service);
        let earnings = Arc::clone(&earnings);
        tokio::spawn(async move {
            if let Err(error) = tell_until_known(&service, &earnings, &node, leases).await {
                tracing::warn!(%error, "a requester was not told that its shard was interrupted");
            }
        });
    }
    Ok(())
}

/// How many leases were interrupted here, and of how many the requester does not know it.
pub fn seen(service: &Service) -> Result<Interrupted, Failure> {
    let earnings = money::earnings(service)?;
    tokio::task::block_in_place(|| {
        Ok(Interrupted {
            shards: earnings.interruptions().map_err(failed)?,
            untold: earnings.untold().map_err(failed)?.len() as u64,
        })
    })
}

async fn tell_until_known(
    service: &Weak<Service>,
    earnings: &Earnings,
    node: &str,
    mut leases: Vec<Unfinished>,
) -> Result<(), EarningsError> {
    let Ok(ticket) = node.parse::<NodeTicket>() else {
        // It did not say where it is.
        return tokio::task::block_in_place(|| {
            leases.iter().try_for_each(|work| earnings.told(work.lease))
        });
    };
    let mut pause = PAUSE;
    loop {
        let Some(service) = service.upgrade() else {
            return Ok(());
        };
        let Ok(swarm) = service.swarm().await else {
            return Ok(());
        };
        leases = tell_once(swarm, earnings, &ticket.node, leases).await?;
        drop(service);
        if leases.is_empty() {
            return Ok(());
        }
        tokio::time::sleep(pause).await;
        pause = (2 * pause).min(LONGEST);
    }
}

/// Tells a node that these leases failed; those of which it is still to be told.
async fn tell_once(
    swarm: &Swarm,
    earnings: &Earnings,
    node: &ProviderAddr,
    leases: Vec<Unfinished>,
) -> Result<Vec<Unfinished>, EarningsError> {
    let mut left = Vec::new();
    for work in leases {
        if !tokio::task::block_in_place(|| earnings.is_untold(work.lease))? {
            continue;
        }
        // Who was not there a moment ago is not called again at once.
        let is_waited_for = work.until > now();
        if is_waited_for && (!left.is_empty() || !say_failed(swarm, node, &work).await) {
            left.push(work);
            continue;
        }
        tokio::task::block_in_place(|| earnings.told(work.lease))?;
    }
    Ok(left)
}

/// Says that a lease failed. `false` if nobody was there.
async fn say_failed(swarm: &Swarm, node: &ProviderAddr, work: &Unfinished) -> bool {
    let (lease, requester) = (work.lease, work.requester);
    let failed = Ask::Failed { lease };
    match anywhere::ask(swarm, node, &failed, || anywhere::known(swarm)).await {
        Ok(Answer::Noted) => {
            tracing::info!(%lease, %requester, "a requester knows that its shard was interrupted");
            true
        }
        Err(TalkError::Channel(error)) => {
            tracing::info!(%lease, %requester, %error, "a requester cannot be told yet");
            false
        }
        // It would say the same again.
        Ok(_) => {
            tracing::info!(%lease, %requester, "a requester was told, and answers something else");
            true
        }
        Err(error) => {
            tracing::info!(%lease, %requester, %error, "a requester was told in vain");
            true
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic)]
mod tests {
    use std::net::UdpSocket;
    use std::path::Path;
    use std::pin::Pin;

    use skep_evidence::AccountKey;
    use skep_market::MAX_MESSAGE;
    use skep_registry::Digest;
    use skep_swarm::{Answerer, Channel, SwarmConfig};

    use super::super::awaited::{Awaited, Waiting};
    use super::*;

    const PATIENCE: Duration = Duration::from_secs(10);

    /// Answers those who say that leases failed, as a requester does.
    #[derive(Debug)]
    struct Hears(Arc<Awaited>);

    impl Answerer for Hears {
        fn answer(&self, mut channel: Channel) -> Pin<Box<dyn Future<Output = ()> + Send>> {
            let awaited = Arc::clone(&self.0);
            Box::pin(async move {
                let frame = channel.hear(MAX_MESSAGE, PATIENCE).await.unwrap();
                let Ok(Ask::Failed { lease }) = Ask::decode(&frame) else {
                    panic!("something else is said");
                };
                awaited.failed(channel.peer(), lease);
                let answer = Answer::Noted.encode().unwrap();
                channel.say(&answer).await.unwrap();
                let _ = channel.finish(PATIENCE).await;
            })
        }
    }

    /// A provider that was ended in the middle of these leases, each awaited until then.
    async fn provider(folder: &Path, leases: &[(&[u8], u64)]) -> (Swarm, Earnings) {
        let mut impatient = SwarmConfig::loopback(folder);
        impatient.limits.connect = Duration::from_secs(2);
        let swarm = Swarm::open(impatient).await.unwrap();
        let earnings = Earnings::open(&folder.join("earnings")).unwrap();
        for (lease, until) in leases {
            let work = Unfinished {
                lease: Digest::of(lease),
                requester: AccountKey::from_seed(&[1; 32]).id(),
                until: *until,
                node: String::new(),
            };
            earnings.begin(&work, 4).unwrap();
        }
        earnings.interrupt(4, 0).unwrap();
        (swarm, earnings)
    }

    /// Whether somebody has said that it failed.
    async fn has_failed(waiting: &mut Waiting) -> bool {
        tokio::select! {
            biased;
            () = waiting.failed() => true,
            () = std::future::ready(()) => false,
        }
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn who_had_a_lease_is_believed_that_it_failed_and_nobody_else() {
        let folders = [(); 3].map(|()| tempfile::tempdir().unwrap());
        let [requester, honest, liar] = folders.each_ref().map(tempfile::TempDir::path);
        let requester = Swarm::open(SwarmConfig::loopback(requester)).await.unwrap();
        let awaited = Arc::new(Awaited::default());
        requester.answer_with(Arc::new(Hears(Arc::clone(&awaited))));
        let there = requester.addr();
        // Taken and let go of, so that nobody is there.
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        let nowhere = ProviderAddr {
            id: there.id,
            addrs: vec![socket.local_addr().unwrap()],
        };
        drop(socket);

        let leases: [(&[u8], u64); 3] = [(b"lost", u64::MAX), (b"late", 1), (b"again", u64::MAX)];
        let (honest, earnings) = provider(honest, &leases).await;
        let mut waiting = leases.map(|(lease, _)| awaited.wait_for(honest.id(), Digest::of(lease)));
        let (liar, made_up) = provider(liar, &leases[..1]).await;
        let said = made_up.untold().unwrap();
        let left = tell_once(&liar, &made_up, &there, said).await.unwrap();
        assert_eq!(left, [], "it is heard");
        assert!(!has_failed(&mut waiting[0]).await, "and not believed");

        // This one is asked for again, and at work.
        let untold = earnings.untold().unwrap();
        assert_eq!(untold.len(), 3);
        let is_again = |work: &&Unfinished| work.lease == Digest::of(b"again");
        let again = untold.iter().find(is_again).unwrap();
        earnings.begin(again, 4).unwrap();
        // While nobody is there, what somebody still waits for is kept.
        let left = tell_once(&honest, &earnings, &nowhere, untold)
            .await
            .unwrap();
        let lost: Vec<Digest> = left.iter().map(|work| work.lease).collect();
        assert_eq!(lost, [Digest::of(b"lost")]);
        assert_eq!(earnings.untold().unwrap(), left);

        let left = tell_once(&honest, &earnings, &there, left).await.unwrap();
        assert_eq!((left, earnings.untold().unwrap()), (Vec::new(), Vec::new()));
        let [lost, late, again] = &mut waiting;
        assert!(has_failed(lost).await);
        assert!(!has_failed(late).await);
        assert!(!has_failed(again).await);
        for swarm in [requester, honest, liar] {
            swarm.shutdown().await;
        }
    }
}
