//! What this node says of itself: kept up to date with what it serves, and signed when it is asked
//! for.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use iroh::{Endpoint, SecretKey};
use tokio::sync::watch;

use crate::announcement::{Capability, LIFE, SignedAnnouncement};
use crate::gate::Gate;
use crate::ids::{NodeId, ProviderAddr};
use crate::releases::Releases;
use crate::topic::Topic;

/// This node, as it announces itself.
#[derive(Debug)]
pub(crate) struct Own {
    key: SecretKey,
    endpoint: Endpoint,
    bound: SocketAddr,
    gate: Gate,
    releases: Arc<Releases>,
    said: Mutex<Said>,
    changed: watch::Sender<u64>,
}

#[derive(Debug, Default)]
struct Said {
    /// The work that it takes.
    work: Option<Capability>,
    signed: Option<Signed>,
}

#[derive(Debug)]
struct Signed {
    announcement: Arc<SignedAnnouncement>,
    of: (Vec<SocketAddr>, Option<Capability>, Vec<Topic>),
}

impl Own {
    pub(crate) fn new(
        key: SecretKey,
        endpoint: Endpoint,
        bound: SocketAddr,
        gate: Gate,
        releases: Arc<Releases>,
    ) -> Self {
        Self {
            key,
            endpoint,
            bound,
            gate,
            releases,
            said: Mutex::default(),
            changed: watch::Sender::new(0),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Said> {
        self.said.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn id(&self) -> NodeId {
        self.endpoint.id().into()
    }

    pub(crate) fn key(&self) -> &SecretKey {
        &self.key
    }

    /// The address that it listens on.
    pub(crate) fn bound(&self) -> SocketAddr {
        self.bound
    }

    /// How other nodes reach it.
    pub(crate) fn addr(&self) -> ProviderAddr {
        if self.bound.ip().is_unspecified() {
            return ProviderAddr::from_endpoint_addr(&self.endpoint.addr());
        }
        ProviderAddr {
            id: self.id(),
            addrs: vec![self.bound],
        }
    }

    /// Says from now on which work it takes.
    pub(crate) fn take_work(&self, work: Option<Capability>) {
        let mut said = self.lock();
        let is_news = said.work != work;
        said.work = work;
        drop(said);
        if is_news {
            self.changed.send_modify(|version| *version += 1);
        }
    }

    /// Which says when there is something new to announce: what it serves, and which work it takes.
    pub(crate) fn changes(&self) -> (watch::Receiver<u64>, watch::Receiver<u64>) {
        (self.changed.subscribe(), self.gate.changes())
    }

    /// What it can be found by, what there is least of first.
    pub(crate) fn topics(&self) -> Vec<Topic> {
        let mut topics = vec![Topic::node()];
        let device = self.lock().work.as_ref().map(|work| work.device.clone());
        if let Some(device) = &device {
            topics.extend([Topic::jobs(), Topic::device(device)]);
        }
        let (offers, _) = self.releases.offers(None, usize::MAX);
        for offer in offers {
            topics.push(Topic::package(&offer.publisher, &offer.name));
            topics.push(Topic::release(&offer.newest));
            if device.is_some() {
                topics.push(Topic::ready(&offer.newest));
            }
        }
        topics.extend(self.gate.offered().iter().map(Topic::blob));
        topics
    }

    /// What it announces, signed anew when something has changed or half of its time is over.
    /// `None` while nobody can reach it.
    pub(crate) fn announcement(&self) -> Option<Arc<SignedAnnouncement>> {
        let now = seconds();
        let (addrs, topics) = (self.addr().addrs, self.topics());
        let mut said = self.lock();
        let of = (addrs, said.work.clone(), topics);
        let mut issued = now;
        if let Some(signed) = &said.signed {
            let before = signed.announcement.announcement.issued();
            if signed.of == of && before <= now && now - before < LIFE / 2 {
                return Some(Arc::clone(&signed.announcement));
            }
            // Others take only what is newer, and two may be signed within a second.
            issued = now.max(before + 1);
        }
        let (addrs, capability, topics) = of.clone();
        let signed = SignedAnnouncement::sign(&self.key, addrs, capability, &topics, issued);
        match signed {
            Ok(signed) => {
                let announcement = Arc::new(signed);
                said.signed = Some(Signed {
                    announcement: Arc::clone(&announcement),
                    of,
                });
                Some(announcement)
            }
            Err(error) => {
                tracing::debug!(%error, "this node has nothing to announce");
                None
            }
        }
    }
}

/// Seconds since 1970.
pub(crate) fn seconds() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |since| since.as_secs())
}
