//! Finding nodes by the mainline DHT: millions of nodes that nobody runs, and that know where
//! others say they have something.
//!
//! Each topic is an info-hash, the first 20 of its bytes. A node announces there the port at which it
//! answers who it is (`who`); whoever looks gets addresses, asks each of them, and has nodes that can
//! be connected to. The DHT knows addresses of IPv4 only.
//!
//! # What it must never do
//!
//! - Join the DHT unless the owner has said so: everybody there sees this machine's address.
//! - Ask more addresses for one topic than [`MAX_ASKED`].

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use mainline::async_dht::AsyncDht;
use mainline::{Dht, Id};
use n0_future::boxed::BoxStream;
use n0_future::task::AbortOnDropHandle;
use n0_future::{FuturesUnorderedBounded, MergeUnbounded, StreamExt};
use tokio::sync::mpsc;

use crate::discovery::{Discovery, Want, from_search};
use crate::ids::ProviderAddr;
use crate::own::Own;
use crate::topic::Topic;
use crate::who::{self, Who};

/// The most topics that a node announces.
const MAX_TOPICS: usize = 512;
/// The most addresses that one search asks for one topic.
const MAX_ASKED: usize = 256;
/// Addresses that are asked at one moment.
const AT_ONCE: usize = 16;
/// Topics that are announced at one moment.
const TOGETHER: usize = 8;
/// How often a topic is announced again: those who keep it forget it after half an hour or so.
const AGAIN: Duration = Duration::from_secs(15 * 60);
/// When what could not be announced is tried again.
const RETRY: Duration = Duration::from_secs(10);

/// Nodes that announce themselves in the mainline DHT.
#[derive(Debug, Clone)]
pub(crate) struct DhtDiscovery {
    dht: AsyncDht,
    ip: IpAddr,
    _announcing: Arc<AbortOnDropHandle<()>>,
}

impl DhtDiscovery {
    /// Joins the DHT by these nodes of it, or by those that everybody knows if there are none, and
    /// announces what `own` has from now on.
    pub(crate) async fn start(own: Arc<Own>, bootstrap: &[String]) -> Result<Self, String> {
        let ip = match own.bound().ip() {
            IpAddr::V4(ip) => ip,
            IpAddr::V6(ip) if ip.is_unspecified() => Ipv4Addr::UNSPECIFIED,
            IpAddr::V6(_) => {
                return Err("the DHT knows addresses of IPv4 only; listen on one".to_owned());
            }
        };
        let mut builder = Dht::builder();
        builder.bind_address(ip).port(0);
        if !bootstrap.is_empty() {
            let nodes: Vec<&str> = bootstrap.iter().map(String::as_str).collect();
            builder.bootstrap(&nodes);
        }
        // Names of bootstrap nodes are looked up in there.
        let dht = tokio::task::spawn_blocking(move || builder.build()).await;
        let dht = dht
            .map_err(|error| error.to_string())?
            .map_err(|error| error.to_string())?
            .as_async();
        let ip = IpAddr::V4(ip);
        let who = Who::answer(ip, own.key().clone(), own.bound().port()).await;
        let who = who.map_err(|error| error.to_string())?;
        let announcing = tokio::spawn(announce(dht.clone(), own, who));
        Ok(Self {
            dht,
            ip,
            _announcing: Arc::new(AbortOnDropHandle::new(announcing)),
        })
    }
}

/// Announces each topic when it is new, and again before it is forgotten: a few at once, those first
/// that come first, so that new work is not announced only after everything else.
async fn announce(dht: AsyncDht, own: Arc<Own>, who: Who) {
    // Answers for as long as this goes on.
    let port = who.port();
    let mut due: BTreeMap<Topic, Instant> = BTreeMap::new();
    let (mut work, mut served) = own.changes();
    while !dht.bootstrapped().await {
        tokio::time::sleep(RETRY).await;
    }
    loop {
        let mut topics = own.topics();
        topics.truncate(MAX_TOPICS);
        due.retain(|topic, _| topics.contains(topic));
        let now = Instant::now();
        let is_due = |topic: &Topic| due.get(topic).is_none_or(|at| *at <= now);
        let next: Vec<Topic> = topics.into_iter().filter(is_due).take(TOGETHER).collect();
        if next.is_empty() {
            let first = due.values().min();
            let rest = first.map_or(AGAIN, |at| at.saturating_duration_since(now));
            tokio::select! {
                () = tokio::time::sleep(rest) => {}
                Ok(()) = work.changed() => {}
                Ok(()) = served.changed() => {}
            }
            continue;
        }
        let announcing = next
            .into_iter()
            .map(|topic| announce_one(&dht, topic, port));
        let announcing = FuturesUnorderedBounded::from_iter(announcing);
        let announced: Vec<(Topic, Duration)> = announcing.collect().await;
        let now = Instant::now();
        due.extend(
            announced
                .into_iter()
                .map(|(topic, rest)| (topic, now + rest)),
        );
    }
}

/// Announces a topic. Returns it, and for how long it then rests.
async fn announce_one(dht: &AsyncDht, topic: Topic, port: u16) -> (Topic, Duration) {
    let Some(id) = info_hash(&topic) else {
        return (topic, AGAIN);
    };
    // `announce_peer` begins with a question to which no address is the answer, unless somebody has
    // looked for the topic just before. Whoever looks for it here while such a question is on its
    // way is given what comes of that one, which is nothing.
    let mut others = dht.get_peers(id);
    while others.next().await.is_some() {}
    match dht.announce_peer(id, Some(port)).await {
        Ok(_) => (topic, AGAIN),
        Err(error) => {
            tracing::debug!(%error, "the DHT did not take an announcement");
            (topic, RETRY)
        }
    }
}

fn info_hash(topic: &Topic) -> Option<Id> {
    Id::from_bytes(topic.as_bytes().first_chunk::<20>()?).ok()
}

impl DhtDiscovery {
    /// Asks the DHT once for a topic, and every address that it names who is there. It ends when the DHT has answered
    /// and each of those has too, or has not in time: whoever announces itself afterwards is found by the next search.
    async fn search(self, topic: Topic, found: mpsc::Sender<ProviderAddr>) {
        let Some(id) = info_hash(&topic) else { return };
        let mut addresses = self.dht.get_peers(id);
        let mut seen = BTreeSet::new();
        let mut waiting: Vec<SocketAddr> = Vec::new();
        let mut asking = FuturesUnorderedBounded::new(AT_ONCE);
        let mut searching = true;
        loop {
            while asking.len() < AT_ONCE
                && let Some(at) = waiting.pop()
            {
                asking.push(who::ask(self.ip, at));
            }
            // Then no address waits either.
            if !searching && asking.is_empty() {
                return;
            }
            tokio::select! {
                some = addresses.next(), if searching => match some {
                    None => searching = false,
                    Some(some) => for at in some {
                        if seen.len() < MAX_ASKED && seen.insert(at) {
                            waiting.push(SocketAddr::V4(at));
                        }
                    },
                },
                Some(node) = asking.next(), if !asking.is_empty() => {
                    if let Some(node) = node && found.send(node).await.is_err() {
                        return;
                    }
                }
                () = found.closed() => return,
            }
        }
    }
}

impl Discovery for DhtDiscovery {
    fn name(&self) -> &'static str {
        "dht"
    }

    fn providers(&self, want: &Want) -> BoxStream<ProviderAddr> {
        let search = |topic| {
            let (sender, receiver) = mpsc::channel(16);
            from_search(receiver, self.clone().search(topic, sender))
        };
        let rarest = search(Topic::rarest(want));
        match Topic::rather(want) {
            None => rarest,
            Some(topic) => {
                let mut both = MergeUnbounded::new();
                both.push(search(topic));
                both.push(rarest);
                both.boxed()
            }
        }
    }
}
