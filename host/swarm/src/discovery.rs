//! Finding nodes that may have something.
//!
//! A discovery service only ever suggests: what it yields is an address to ask, and everything
//! that a node at that address says is verified. Services are interchangeable behind one trait,
//! so that another is added without touching what uses them.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use n0_future::boxed::BoxStream;
use n0_future::task::AbortOnDropHandle;
use n0_future::{StreamExt, stream};
use skep_registry::{Digest, PackageName, PublisherId};
use tokio::sync::mpsc;

use crate::announcement::Need;
use crate::ids::{NodeId, ProviderAddr};
use crate::ticket::{NodeTicket, PackageTicket, Ticket};

/// What is looked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Want {
    /// A package, any release.
    Package {
        /// Its publisher.
        publisher: PublisherId,
        /// Its name.
        name: PackageName,
    },
    /// One release, by its digest.
    Release(Digest),
    /// One blob, by its digest.
    Blob(Digest),
    /// Somebody who takes such work. Services that know nothing of work suggest whoever they know.
    Jobs(Need),
    /// Any node at all.
    Anything,
}

/// A way to find nodes.
pub trait Discovery: Send + Sync + fmt::Debug {
    /// What people call it, such as `mdns`.
    fn name(&self) -> &'static str;

    /// Nodes that may have `want`, as they are found. The stream may never end; whoever reads it
    /// decides how long to wait. The same node may come more than once.
    fn providers(&self, want: &Want) -> BoxStream<ProviderAddr>;
}

/// Nodes that somebody named: in tickets, or in a configuration.
#[derive(Clone, Debug, Default)]
pub struct TicketDiscovery {
    nodes: Arc<Mutex<Vec<ProviderAddr>>>,
}

impl TicketDiscovery {
    /// These nodes.
    #[must_use]
    pub fn new(nodes: impl IntoIterator<Item = ProviderAddr>) -> Self {
        let this = Self::default();
        for node in nodes {
            this.add(node);
        }
        this
    }

    /// One more node. Addresses of a node that is known already are added to those.
    pub fn add(&self, node: ProviderAddr) {
        let mut nodes = self.nodes.lock().unwrap_or_else(PoisonError::into_inner);
        match nodes.iter_mut().find(|known| known.id == node.id) {
            Some(known) => {
                for addr in node.addrs {
                    if !known.addrs.contains(&addr) {
                        known.addrs.push(addr);
                    }
                }
            }
            None => nodes.push(node),
        }
    }
}

impl From<Ticket> for TicketDiscovery {
    fn from(ticket: Ticket) -> Self {
        Self::new([ticket.node().clone()])
    }
}

impl From<NodeTicket> for TicketDiscovery {
    fn from(ticket: NodeTicket) -> Self {
        Self::new([ticket.node])
    }
}

impl From<PackageTicket> for TicketDiscovery {
    fn from(ticket: PackageTicket) -> Self {
        Self::new([ticket.node])
    }
}

impl Discovery for TicketDiscovery {
    fn name(&self) -> &'static str {
        "ticket"
    }

    fn providers(&self, _want: &Want) -> BoxStream<ProviderAddr> {
        let nodes = self
            .nodes
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        stream::iter(nodes).boxed()
    }
}

/// What a search of its own finds, which ends with the stream.
pub(crate) fn from_search(
    receiver: mpsc::Receiver<ProviderAddr>,
    search: impl Future<Output = ()> + Send + 'static,
) -> BoxStream<ProviderAddr> {
    let search = AbortOnDropHandle::new(tokio::spawn(search));
    stream::unfold((receiver, search), |(mut receiver, search)| async move {
        let node = receiver.recv().await?;
        Some((node, (receiver, search)))
    })
    .boxed()
}

/// Whether a node has what is looked for, as far as is known here: the likelier come first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Chance {
    /// It says so, and that it has what had better be there as well.
    SaysRather,
    /// It says so.
    Says,
    /// Nothing is known of it.
    Unknown,
    /// It says otherwise.
    Denies,
}

impl Chance {
    /// By what it says, if it says anything.
    pub(crate) fn by(says: Option<bool>) -> Self {
        match says {
            Some(true) => Self::Says,
            None => Self::Unknown,
            Some(false) => Self::Denies,
        }
    }
}

/// How many of so many places one of these services may fill, or take up: not all where there are others, so that who can
/// have one suggest whatever it wants keeps nobody from being found by another.
pub(crate) fn share_of_one(places: usize, services: usize) -> usize {
    match services {
        0 | 1 => places,
        _ => places - places / 4,
    }
}

/// A node that was found, and which service suggested it, if only one did.
struct Found {
    node: ProviderAddr,
    by: Option<usize>,
}

/// Reads every service until all have ended, `limit` nodes are found that say they have `want`, or
/// `wait` has passed. Of more nodes than `limit` those stay that are likelier to have it: a service
/// that suggests whoever it knows must not take the places of others. Nor may one whose nodes all say
/// that they have it: each has its share of the places, and more of them only where others have left some.
/// Addresses of one node are joined; `own` is left out.
pub(crate) async fn collect(
    services: &[Arc<dyn Discovery>],
    want: &Want,
    own: NodeId,
    limit: usize,
    wait: Duration,
    chance: impl Fn(NodeId) -> Chance,
) -> Vec<ProviderAddr> {
    let mut found: Vec<Found> = Vec::new();
    let mut spare: Vec<ProviderAddr> = Vec::new();
    let mut streams = n0_future::MergeUnbounded::new();
    for (by, service) in services.iter().enumerate() {
        streams.push(service.providers(want).map(move |node| (by, node)).boxed());
    }
    let share = share_of_one(limit, services.len());
    let deadline = tokio::time::sleep(wait);
    tokio::pin!(deadline);
    while !services.is_empty()
        && (found.len() < limit
            || found
                .iter()
                .any(|known| chance(known.node.id) > Chance::Says))
    {
        let next = tokio::select! {
            next = streams.next() => next,
            () = &mut deadline => None,
        };
        let Some((by, node)) = next else { break };
        if node.id == own {
            continue;
        }
        if let Some(known) = found.iter_mut().find(|known| known.node.id == node.id) {
            let addrs: BTreeSet<_> = known.node.addrs.drain(..).chain(node.addrs).collect();
            known.node.addrs.extend(addrs);
            known.by = known.by.filter(|first| *first == by);
            continue;
        }
        let has_share = found.iter().filter(|known| known.by == Some(by)).count() >= share;
        let (new, by) = (chance(node.id), Some(by));
        if found.len() < limit && !has_share {
            found.push(Found { node, by });
            continue;
        }
        // Who has its share gives up one of its own.
        let worst = found
            .iter_mut()
            .filter(|known| !has_share || known.by == by)
            .max_by_key(|known| chance(known.node.id));
        let new = match worst {
            Some(worst) if chance(worst.node.id) > new => {
                std::mem::replace(worst, Found { node, by }).node
            }
            _ => node,
        };
        if spare.len() < limit && spare.iter().all(|node| node.id != new.id) {
            spare.push(new);
        }
    }
    // Places that no other service has filled.
    let mut found: Vec<ProviderAddr> = found.into_iter().map(|found| found.node).collect();
    spare.retain(|spare| found.iter().all(|node| node.id != spare.id));
    spare.sort_by_key(|node| chance(node.id));
    let left = limit.saturating_sub(found.len());
    found.extend(spare.into_iter().take(left));
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(seed: u8, port: u16) -> ProviderAddr {
        ProviderAddr {
            id: iroh::SecretKey::from_bytes(&[seed; 32]).public().into(),
            addrs: vec![([127, 0, 0, 1], port).into()],
        }
    }

    #[derive(Debug)]
    struct Endless(ProviderAddr);

    impl Discovery for Endless {
        fn name(&self) -> &'static str {
            "endless"
        }

        fn providers(&self, _want: &Want) -> BoxStream<ProviderAddr> {
            stream::once(self.0.clone())
                .chain(stream::pending())
                .boxed()
        }
    }

    #[tokio::test]
    async fn services_are_joined_and_an_endless_one_is_left_in_time() {
        let services: [Arc<dyn Discovery>; 2] = [
            Arc::new(TicketDiscovery::new([
                node(1, 10),
                node(2, 20),
                node(1, 11),
            ])),
            Arc::new(Endless(node(1, 12))),
        ];
        let found = collect(
            &services,
            &Want::Anything,
            node(2, 20).id,
            10,
            Duration::from_millis(50),
            |_| Chance::Says,
        )
        .await;
        assert_eq!(found.len(), 1, "its own address is left out");
        assert_eq!(found[0].id, node(1, 10).id);
        let ports: BTreeSet<_> = found[0].addrs.iter().map(|a| a.port()).collect();
        assert_eq!(ports, BTreeSet::from([10, 11, 12]));
    }

    #[tokio::test]
    async fn enough_is_enough() {
        let services: [Arc<dyn Discovery>; 1] = [Arc::new(Endless(node(1, 1)))];
        // Without the limit this would wait for an hour.
        let wait = Duration::from_secs(3600);
        let says = |_: NodeId| Chance::Says;
        let found = collect(&services, &Want::Anything, node(2, 2).id, 1, wait, says).await;
        assert_eq!(found, [node(1, 1)]);
    }

    #[tokio::test]
    async fn a_service_whose_nodes_all_say_they_have_it_leaves_places_to_others() {
        let suggested = |seeds: std::ops::Range<u8>| -> Arc<dyn Discovery> {
            Arc::new(TicketDiscovery::new(seeds.map(|seed| node(seed, 3))))
        };
        let loud: Vec<NodeId> = (100..120).map(|seed| node(seed, 3).id).collect();
        let says = |id: NodeId| Chance::by(loud.contains(&id).then_some(true));
        let (loudly, quietly) = (suggested(100..120), suggested(1..20));
        let (want, own) = (Want::Jobs(Need::default()), node(21, 3).id);
        for services in [[loudly.clone(), quietly.clone()], [quietly, loudly.clone()]] {
            // It ends when the services do.
            let wait = Duration::from_secs(3600);
            let found = collect(&services, &want, own, 8, wait, says).await;
            assert_eq!(found.len(), 8);
            let loud = found.iter().filter(|node| loud.contains(&node.id));
            assert_eq!(loud.count(), 6);
        }
        // Where there is no other, or no other finds as many, it has all of them.
        let one_more = suggested(1..2);
        for services in [vec![loudly.clone()], vec![loudly, one_more]] {
            let wait = Duration::from_secs(3600);
            let found = collect(&services, &want, own, 8, wait, says).await;
            let distinct: BTreeSet<NodeId> = found.iter().map(|node| node.id).collect();
            assert_eq!((found.len(), distinct.len()), (8, 8));
            let one_more = found.iter().filter(|found| found.id == node(1, 3).id);
            assert_eq!(one_more.count(), services.len() - 1);
        }
    }

    #[tokio::test]
    async fn those_that_say_they_have_it_get_the_places_whenever_they_are_found() {
        let (has, unknown) = (node(1, 1), node(2, 2));
        let chance = |id: NodeId| {
            let says = (id != unknown.id).then_some(id == has.id);
            Chance::by(says)
        };
        let idle = (3..=20).map(|seed| node(seed, 3));
        let mut suggested: Vec<_> = idle.chain([unknown.clone(), has.clone()]).collect();
        let want = Want::Jobs(Need::default());
        for _ in 0..2 {
            let services: [Arc<dyn Discovery>; 1] =
                [Arc::new(TicketDiscovery::new(suggested.clone()))];
            let wait = Duration::from_secs(3600);
            let mut found = collect(&services, &want, node(21, 3).id, 3, wait, chance).await;
            assert_eq!(found.len(), 3);
            found.sort_by_key(|node| chance(node.id));
            assert_eq!(found[..2], [has.clone(), unknown.clone()]);
            suggested.reverse();
        }
    }
}
