//! Finding nodes by what others tell: the protocol `skep/gossip/1`.
//!
//! Every node remembers announcements of others (`known`), and now and then swaps some with a few
//! nodes that it knows: its own first, then a random choice of those that it had from the nodes themselves.
//! Whoever hears of a node by another asks it sooner or later, and so hears from it. Within a few rounds
//! everybody has heard of everybody, without anyone who has to be there.
//!
//! # On the wire
//!
//! One exchange for each connection. The one who asks opens a bidirectional stream, writes its
//! announcements and finishes its side; then the other does the same. A frame is as in `wire`: its
//! length as a big-endian `u32`, and that many bytes, which are a postcard byte string with one
//! announcement in it. Nobody reads more than [`MAX_SHOWN`] of them.
//!
//! # What it must never do
//!
//! - Take what is not signed by the node that it is about, or whose time is not now.
//! - Remember more than `known` has room for, or read longer than a question may take.
//! - Pass on what a node says that has not announced itself here.
//! - Let one peer that tells of many fill a search with them, or keep others from being asked.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use iroh::Endpoint;
use iroh::endpoint::{Connection, RecvStream, SendStream};
use iroh::protocol::{AcceptError, ProtocolHandler};
use n0_future::boxed::BoxStream;
use n0_future::task::AbortOnDropHandle;
use n0_future::{FuturesUnorderedBounded, MergeUnbounded, StreamExt, stream};
use rand::seq::IteratorRandom;
use tokio::sync::mpsc;

use crate::announcement::{Announcement, MAX_BYTES, SignedAnnouncement};
use crate::config::Limits;
use crate::discovery::{Chance, Discovery, Want, collect, from_search};
use crate::fault::explain;
use crate::ids::{NodeId, ProviderAddr};
use crate::known::Known;
use crate::own::{Own, seconds};
use crate::places::Places;
use crate::turns::in_turns;
use crate::wire::{WireError, read_frame, write_frame};

/// The protocol's name in the TLS handshake.
pub(crate) const ALPN: &[u8] = b"skep/gossip/1";
/// The most announcements that one side shows in an exchange.
const MAX_SHOWN: usize = 64;
/// The longest frame: an announcement and its length.
const MAX_FRAME: usize = MAX_BYTES + 4;
/// Exchanges that are answered at one moment.
const ANSWERS: usize = 16;
/// Nodes that are asked in one round.
const FANOUT: usize = 3;
/// Nodes that are asked when somebody looks for something.
const ASKED: usize = 8;
/// Nodes that another way of finding suggested, to begin with.
const MAX_SEEDS: usize = 32;
/// Nodes that are asked in one search.
const MOST_ASKED: usize = ASKED + MAX_SEEDS;
/// Nodes that a search tells because one peer brought them, and not because they were there themselves.
const BROUGHT: usize = 8;
/// With fewer nodes than these that have announced themselves here, others are looked for by every way
/// there is.
const FEW: usize = 8;

/// The ways to find nodes that a node has, which can be added to.
pub(crate) type Services = Arc<Mutex<Vec<Arc<dyn Discovery>>>>;

/// Hears and tells who is there.
#[derive(Clone)]
pub(crate) struct Gossip {
    shared: Arc<Shared>,
}

struct Shared {
    endpoint: Endpoint,
    limits: Arc<Limits>,
    own: Arc<Own>,
    known: Mutex<Known>,
    /// Nodes that other ways have found, which may not have announced themselves yet.
    seeds: Mutex<BTreeMap<NodeId, ProviderAddr>>,
    asked: Mutex<BTreeMap<NodeId, Instant>>,
    /// Which hold this one too.
    services: Weak<Mutex<Vec<Arc<dyn Discovery>>>>,
    places: Places,
}

impl fmt::Debug for Gossip {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Gossip({})", self.shared.own.id().fmt_short())
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Whatever is locked here is whole after every statement.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Why a node told nothing.
#[derive(Debug)]
enum Unheard {
    /// It cannot be reached.
    Gone,
    /// It does not keep to the protocol, or not in time.
    Faulty,
}

impl Gossip {
    pub(crate) fn new(
        endpoint: Endpoint,
        limits: Arc<Limits>,
        own: Arc<Own>,
        services: &Services,
    ) -> Self {
        Self {
            shared: Arc::new(Shared {
                endpoint,
                limits,
                own,
                known: Mutex::default(),
                seeds: Mutex::default(),
                asked: Mutex::default(),
                services: Arc::downgrade(services),
                places: Places::new(ANSWERS),
            }),
        }
    }

    /// Tells and asks now and then, and soon after something has changed here, until the handle is
    /// dropped.
    pub(crate) fn rounds(&self) -> AbortOnDropHandle<()> {
        let gossip = self.clone();
        let task = async move {
            let every = gossip.shared.limits.gossip;
            let (mut work, mut served) = gossip.shared.own.changes();
            loop {
                gossip.round().await;
                // Many changes that come together are told together.
                tokio::time::sleep(every / 8).await;
                tokio::select! {
                    () = tokio::time::sleep(every) => {}
                    Ok(()) = work.changed() => {}
                    Ok(()) = served.changed() => {}
                }
            }
        };
        AbortOnDropHandle::new(tokio::spawn(task))
    }

    /// Asks a few nodes.
    async fn round(&self) {
        let few = lock(&self.shared.known).passed_on(seconds()).count() < FEW;
        if few {
            self.look_for_seeds().await;
        }
        let peers = self.peers(FANOUT, Duration::ZERO);
        let asking = FuturesUnorderedBounded::from_iter(peers.iter().map(|peer| self.ask(peer)));
        let _: Vec<_> = asking.collect().await;
    }

    async fn look_for_seeds(&self) {
        let services = self.others();
        let (own, wait) = (self.shared.own.id(), self.shared.limits.discovery);
        let anybody = |_: NodeId| Chance::Says;
        for node in collect(&services, &Want::Anything, own, MAX_SEEDS, wait, anybody).await {
            self.seed(node);
        }
    }

    fn seed(&self, node: ProviderAddr) {
        let mut seeds = lock(&self.shared.seeds);
        if seeds.len() < MAX_SEEDS || seeds.contains_key(&node.id) {
            seeds.insert(node.id, node);
        }
    }

    /// The other ways to find nodes.
    fn others(&self) -> Vec<Arc<dyn Discovery>> {
        let Some(services) = self.shared.services.upgrade() else {
            return Vec::new();
        };
        let services = lock(&services);
        let others = services.iter().filter(|service| service.name() != NAME);
        others.cloned().collect()
    }

    /// Some of the nodes that are known, of those that were not asked for so long.
    fn peers(&self, count: usize, rest: Duration) -> Vec<ProviderAddr> {
        let rested = {
            let mut asked = lock(&self.shared.asked);
            let every = self.shared.limits.gossip;
            asked.retain(|_, at| at.elapsed() < every.max(rest));
            move |id: &NodeId| asked.get(id).is_none_or(|at| at.elapsed() >= rest)
        };
        // Each with who told of it; a seed counts as told by itself.
        let seeds = lock(&self.shared.seeds).clone();
        let seeds = seeds.into_iter().map(|(id, node)| (id, (node, id)));
        let mut all: BTreeMap<NodeId, (ProviderAddr, NodeId)> = seeds.collect();
        for (node, from) in lock(&self.shared.known).having(&Want::Anything, seconds()) {
            all.insert(node.id, (node, from));
        }
        let rested = all.into_values().filter(|(node, _)| rested(&node.id));
        let some = in_turns(rested.collect()).into_iter().take(count);
        some.map(|(node, _)| node).collect()
    }

    /// Swaps announcements with a node. One that cannot be reached is forgotten.
    async fn ask(&self, node: &ProviderAddr) -> Result<(), Unheard> {
        lock(&self.shared.asked).insert(node.id, Instant::now());
        let swapped = self.swap_with(node).await;
        if matches!(swapped, Err(Unheard::Gone)) {
            self.forget(node);
        }
        swapped
    }

    async fn swap_with(&self, node: &ProviderAddr) -> Result<(), Unheard> {
        let limits = &self.shared.limits;
        let connecting = self.shared.endpoint.connect(node.to_endpoint_addr(), ALPN);
        let connection = match tokio::time::timeout(limits.connect, connecting).await {
            Ok(Ok(connection)) => connection,
            Ok(Err(error)) => {
                tracing::debug!(%node, reason = explain(&error), "no gossip");
                return Err(Unheard::Gone);
            }
            Err(_) => return Err(Unheard::Gone),
        };
        let swap = async {
            let (mut send, mut recv) = connection.open_bi().await.map_err(|e| explain(&e))?;
            self.tell(&mut send).await.map_err(|e| e.to_string())?;
            self.hear(&mut recv, node.id)
                .await
                .map_err(|e| e.to_string())
        };
        let swapped = tokio::time::timeout(limits.request, swap).await;
        connection.close(0_u32.into(), b"done");
        match swapped {
            Ok(Ok(())) => Ok(()),
            Ok(Err(reason)) => {
                tracing::debug!(%node, reason, "no gossip");
                Err(Unheard::Faulty)
            }
            Err(_) => Err(Unheard::Faulty),
        }
    }

    /// Writes this node's own announcement and some others.
    async fn tell(&self, send: &mut SendStream) -> Result<(), WireError> {
        for bytes in self.shown() {
            write_frame(send, &bytes).await?;
        }
        // Whoever has closed meanwhile has read enough.
        let _ = send.finish();
        Ok(())
    }

    fn shown(&self) -> Vec<Vec<u8>> {
        let own = self.shared.own.announcement();
        let mut shown: Vec<Vec<u8>> = own.iter().map(|own| own.bytes.clone()).collect();
        let known = lock(&self.shared.known);
        let others = known.passed_on(seconds()).map(|signed| &signed.bytes);
        let some = others.choose_multiple(&mut rand::rng(), MAX_SHOWN - shown.len());
        shown.extend(some.into_iter().cloned());
        shown
    }

    /// Reads what a node shows, and takes in what is sound.
    async fn hear(&self, recv: &mut RecvStream, from: NodeId) -> Result<(), WireError> {
        for _ in 0..MAX_SHOWN {
            let Some((bytes, _)) = read_frame::<Vec<u8>>(recv, MAX_FRAME).await? else {
                return Ok(());
            };
            self.take_in(bytes, from);
        }
        Ok(())
    }

    fn take_in(&self, bytes: Vec<u8>, from: NodeId) {
        let now = seconds();
        // What is known already costs no signature.
        let is_known = claimed_node(&bytes)
            .is_some_and(|node| lock(&self.shared.known).hears_again(node, &bytes, from));
        if is_known {
            return;
        }
        match SignedAnnouncement::decode(bytes, now) {
            Ok(signed) if signed.announcement.node() == self.shared.own.id() => {}
            Ok(signed) => {
                let node = signed.announcement.node();
                let is_news = lock(&self.shared.known).learn(signed, from, now);
                if is_news {
                    tracing::trace!(%node, %from, "heard of a node");
                }
            }
            Err(error) => tracing::debug!(%from, %error, "an announcement was not taken"),
        }
    }

    /// Forgets a node that did not answer at any of these addresses, where these are all that it is known at.
    pub(crate) fn forget(&self, tried: &ProviderAddr) {
        let mut seeds = lock(&self.shared.seeds);
        if seeds
            .get(&tried.id)
            .is_some_and(|seed| seed.is_within(tried))
        {
            seeds.remove(&tried.id);
        }
        drop(seeds);
        lock(&self.shared.known).forget(tried);
    }

    /// Puts those first who say that they have `want`, and those last who say that they have not.
    pub(crate) fn put_in_order(&self, want: &Want, nodes: &mut [ProviderAddr]) {
        let (known, now) = (lock(&self.shared.known), seconds());
        nodes.sort_by_key(|node| known.chance(&node.id, want, now));
    }

    /// Whether a node has `want`, by what it says.
    pub(crate) fn chance(&self, want: &Want, node: NodeId) -> Chance {
        lock(&self.shared.known).chance(&node, want, seconds())
    }

    /// What is known of other nodes.
    pub(crate) fn known(&self) -> Vec<Announcement> {
        let known = lock(&self.shared.known);
        let alive = known.alive(seconds());
        alive.map(|signed| signed.announcement.clone()).collect()
    }

    /// Tells those who have `want`, as they become known, while it asks others who that is. It ends when all of
    /// them have answered and no more are to be asked: the other ways of finding have ended, or as many were
    /// asked as one search asks. A way that never ends, such as mDNS, keeps it going. Who announces itself here
    /// without having been asked is told together with what an answer brings, or else in the next search.
    async fn search(self, want: Want, found: mpsc::Sender<ProviderAddr>) {
        let mut told = Told::default();
        let Ok(mut waiting) = self.report(&want, &mut told, &found).await else {
            return;
        };
        let mut suggested: MergeUnbounded<BoxStream<ProviderAddr>> = MergeUnbounded::new();
        let peers = self.peers(ASKED, self.shared.limits.gossip);
        suggested.push(stream::iter(peers).boxed());
        for service in self.others() {
            // Who takes such work says in its announcement what of it.
            if matches!(want, Want::Jobs(_)) {
                suggested.push(service.providers(&want));
            }
            suggested.push(service.providers(&Want::Anything));
        }
        let gossip = &self;
        let ask = |node: ProviderAddr| async move { gossip.ask(&node).await };
        let mut asking = FuturesUnorderedBounded::new(ASKED);
        let mut searching = true;
        let mut asked = BTreeSet::new();
        loop {
            // Those who wait leave room for those whom somebody else suggests.
            while asking.len() < ASKED / 2
                && asked.len() < MOST_ASKED
                && let Some(node) = waiting.pop_front()
            {
                if asked.insert(node.id) {
                    asking.push(ask(node));
                }
            }
            // By now nobody waits either, if there is room for one.
            let may_ask = searching && asked.len() < MOST_ASKED;
            if asking.is_empty() && !may_ask {
                return;
            }
            tokio::select! {
                node = suggested.next(), if may_ask && asking.len() < ASKED => match node {
                    Some(node) if node.id == self.shared.own.id() => {}
                    Some(node) => if asked.insert(node.id) {
                        self.seed(node.clone());
                        asking.push(ask(node));
                    },
                    None => searching = false,
                },
                Some(heard) = asking.next(), if !asking.is_empty() => {
                    if heard.is_ok() {
                        match self.report(&want, &mut told, &found).await {
                            Ok(more) => waiting = more,
                            Err(_) => return,
                        }
                    }
                }
                () = found.closed() => return,
            }
        }
    }

    /// Tells who has `want` and was not told before. Returns those whose turn has not come: who brought them
    /// has brought enough, and they are told once they have answered themselves. Fails when nobody listens.
    async fn report(
        &self,
        want: &Want,
        told: &mut Told,
        found: &mpsc::Sender<ProviderAddr>,
    ) -> Result<VecDeque<ProviderAddr>, mpsc::error::SendError<ProviderAddr>> {
        // Not always the same first, so that not all who look ask the same node.
        let having = {
            let (known, now) = (lock(&self.shared.known), seconds());
            let mut having = in_turns(known.having(want, now));
            having.sort_by_key(|(node, _)| known.chance(&node.id, want, now));
            having
        };
        let mut waiting = VecDeque::new();
        for (node, from) in having {
            if told.nodes.contains(&node.id) {
                continue;
            }
            let brought = told.brought.entry(from).or_default();
            if *brought == BROUGHT {
                waiting.push_back(node);
                continue;
            }
            *brought += 1;
            told.nodes.insert(node.id);
            found.send(node).await?;
        }
        Ok(waiting)
    }
}

/// Who was told in a search.
#[derive(Default)]
struct Told {
    nodes: BTreeSet<NodeId>,
    /// How many of them each peer has brought.
    brought: BTreeMap<NodeId, usize>,
}

/// Whose an announcement says it is: the first that is signed. Nothing is checked.
fn claimed_node(bytes: &[u8]) -> Option<NodeId> {
    let (_, body) = bytes.split_at_checked(iroh::Signature::LENGTH)?;
    NodeId::from_bytes(body.first_chunk()?)
}

const NAME: &str = "gossip";

impl Discovery for Gossip {
    fn name(&self) -> &'static str {
        NAME
    }

    fn providers(&self, want: &Want) -> BoxStream<ProviderAddr> {
        let (sender, receiver) = mpsc::channel(16);
        from_search(receiver, self.clone().search(want.clone(), sender))
    }
}

impl ProtocolHandler for Gossip {
    async fn accept(&self, connection: Connection) -> Result<(), AcceptError> {
        let from = connection.remote_id().into();
        let Some(_place) = self.shared.places.take(from) else {
            connection.close(1_u32.into(), b"busy");
            return Ok(());
        };
        let swap = async {
            let Ok((mut send, mut recv)) = connection.accept_bi().await else {
                return;
            };
            let heard = self.hear(&mut recv, from).await;
            // Whoever shows more than it may has its answer all the same.
            let _ = recv.stop(0_u32.into());
            if let Err(error) = heard.and(self.tell(&mut send).await) {
                tracing::debug!(%from, %error, "no gossip");
                return;
            }
            // Until the other side has it, and closes.
            connection.closed().await;
        };
        let _ = tokio::time::timeout(self.shared.limits.request, swap).await;
        Ok(())
    }
}

#[cfg(test)]
mod tests;
