//! Asking around: what the nodes that are named or known would take of a job, and why not.

use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use skep_market::Quotation;
use skep_registry::Digest;
use skep_swarm::{Need, NodeTicket, ProviderAddr, Swarm, Want};
use tokio::task::JoinSet;

use super::anywhere;
use super::talk::{self, TalkError};
use crate::failure::Failure;
use crate::service::install;

/// The most nodes that are asked, beside those that are named.
const MOST: usize = 64;

/// How long others are looked for where nodes are named: long enough for those that gossip has
/// brought here already.
const BESIDE: Duration = Duration::from_millis(200);

/// What is to be done, as far as whoever is asked has to know it.
#[derive(Debug, Clone, Copy)]
pub struct Wanted {
    /// The release of the package.
    pub package: Digest,
    /// That of the adapter that it runs with.
    pub adapter: Option<Digest>,
    /// For how many seconds things are to be kept ready.
    pub residency: u64,
}

/// Who is asked.
#[derive(Debug, Clone)]
pub struct Asked {
    /// Nodes that are named, each where its ticket says; one without an address where it is known to
    /// be.
    pub named: Vec<ProviderAddr>,
    /// Whether nobody else is, whoever is known.
    pub only: bool,
}

impl Asked {
    /// Those whom tickets name, and who else is known unless it is `only` them.
    pub fn of(tickets: &[String], only: bool) -> Result<Self, Failure> {
        let named = install::nodes_of(tickets)?;
        Ok(Self { named, only })
    }

    /// For how long others are looked for.
    fn wait(&self) -> Duration {
        let is_placed = |node: &ProviderAddr| !node.addrs.is_empty();
        match !self.named.is_empty() && self.named.iter().all(is_placed) {
            true => BESIDE,
            false => Duration::MAX,
        }
    }

    /// These, with those of the `known` beside whom there is room for and who are not left out.
    fn with(self, known: impl IntoIterator<Item = ProviderAddr>) -> Vec<ProviderAddr> {
        let mut nodes = self.named;
        for node in known {
            if let Some(named) = nodes.iter_mut().find(|named| named.id == node.id) {
                if named.addrs.is_empty() {
                    named.addrs = node.addrs;
                }
            } else if !self.only && nodes.len() < MOST {
                nodes.push(node);
            }
        }
        nodes
    }
}

/// What each node said. No two of them would take a job for the same account.
pub type Quotes = Vec<(ProviderAddr, Result<Quotation, TalkError>)>;

/// Who does not take a job, and why.
pub fn listed(refusals: &BTreeMap<String, String>) -> String {
    let lines = refusals.iter().map(|(node, why)| format!("{node}: {why}"));
    lines.collect::<Vec<_>>().join("; ")
}

/// What the nodes that are named or known would take, all asked at once.
pub async fn quotes(swarm: &Swarm, asked: Asked, wanted: Wanted, bytes: u64) -> Quotes {
    let own: NodeTicket = swarm.ticket();
    let mut asking = JoinSet::new();
    for node in nodes(swarm, asked, wanted).await {
        let (swarm, sources) = (swarm.clone(), vec![own.to_string()]);
        asking.spawn(async move {
            let quote = match node.addrs.is_empty() {
                true => Err(TalkError::Nowhere),
                false => talk::quote(&swarm, &node, wanted, bytes, sources).await,
            };
            (node, quote)
        });
    }
    at_one_node(asking.join_all().await)
}

/// Who is asked: the nodes that are named, and as many of those that are found as there are places.
async fn nodes(swarm: &Swarm, asked: Asked, wanted: Wanted) -> Vec<ProviderAddr> {
    // Who has the package and the adapter ready comes first, where so many are known that not all are asked. Who takes no
    // jobs has nothing ready either, and takes no place of one that does.
    let want = Want::Jobs(Need {
        rather: [wanted.package].into_iter().chain(wanted.adapter).collect(),
        ..Need::default()
    });
    let found = swarm.find_within(&want, asked.wait()).await;
    // A search ends when it has found enough. Who is named may be one of the others that are known.
    let heard_of = match asked.only {
        true => anywhere::known(swarm),
        false => Vec::new(),
    };
    let mut nodes = asked.with(found.into_iter().chain(heard_of));
    nodes.retain(|node| node.id != swarm.id());
    nodes
}

/// One account works at one node: what it signs is numbered there and kept there. Where several answer for it, each
/// of which it signed for, that with the smallest name counts, whoever was quicker. Whoever was named twice is once
/// among them.
fn at_one_node(mut quotes: Quotes) -> Quotes {
    quotes.sort_unstable_by_key(|(node, quote)| (node.id, quote.is_err()));
    quotes.dedup_by_key(|(node, _)| node.id);
    let mut works_at = HashMap::new();
    for (node, quote) in &mut quotes {
        let Some(account) = quote.as_ref().ok().map(|quotation| quotation.account) else {
            continue;
        };
        match works_at.entry(account) {
            Entry::Vacant(entry) => {
                entry.insert(node.id);
            }
            Entry::Occupied(entry) => *quote = Err(TalkError::Elsewhere(*entry.get())),
        }
    }
    quotes
}

/// Who does not take a job, and why, in one text.
pub fn why_nobody(quotes: &[(ProviderAddr, Result<Quotation, TalkError>)]) -> String {
    let refusals = quotes.iter().filter_map(|(node, quote)| {
        let error = quote.as_ref().err()?;
        Some((node.id.fmt_short(), error.to_string()))
    });
    listed(&refusals.collect())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::net::UdpSocket;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use n0_future::boxed::BoxStream;
    use n0_future::{StreamExt, stream};
    use skep_evidence::AccountKey;
    use skep_market::{NUMERICS, Refusal, Warmth};
    use skep_swarm::{Capability, Discovery, NodeId, SwarmConfig, TicketDiscovery};

    use super::*;

    /// Suggests nobody, and counts how often it is asked for nodes that take work.
    #[derive(Debug, Default)]
    struct Counting(AtomicUsize);

    impl Discovery for Counting {
        fn name(&self) -> &'static str {
            "counting"
        }

        fn providers(&self, want: &Want) -> BoxStream<ProviderAddr> {
            if matches!(want, Want::Jobs(_)) {
                self.0.fetch_add(1, Ordering::SeqCst);
            }
            stream::empty().boxed()
        }
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn nodes_are_looked_for_once_whatever_is_to_be_ready() {
        let folder = tempfile::tempdir().unwrap();
        let swarm = Swarm::open(SwarmConfig::loopback(folder.path())).await;
        let swarm = swarm.unwrap();
        let counting = Arc::new(Counting::default());
        swarm.add_discovery(Arc::clone(&counting) as Arc<dyn Discovery>);
        let wanted = Wanted {
            package: Digest::of(b"a package"),
            adapter: Some(Digest::of(b"an adapter")),
            residency: 0,
        };
        let asked = Asked {
            named: Vec::new(),
            only: false,
        };
        assert_eq!(nodes(&swarm, asked, wanted).await, []);
        assert_eq!(counting.0.load(Ordering::SeqCst), 1);
        swarm.shutdown().await;
    }

    /// On a local network there may be any number of nodes that take no jobs, and mDNS names all.
    #[tokio::test(flavor = "multi_thread")]
    async fn a_crowd_that_says_nothing_of_jobs_keeps_nobody_out_that_takes_them() {
        let folder = tempfile::tempdir().unwrap();
        let open = |name: &str| {
            let mut config = SwarmConfig::loopback(folder.path().join(name));
            config.gossip = true;
            // A search goes on to its end where not everybody found says that it takes jobs.
            config.limits.discovery = Duration::from_secs(2);
            Swarm::open(config)
        };
        let provider = open("provider").await.unwrap();
        let requester = open("requester").await.unwrap();
        provider.announce(Some(Capability {
            device: "cpu".to_owned(),
            memory: 1 << 30,
            slots: 1,
            tariff: [0; 4],
        }));
        // The provider tells the requester of itself when it looks around.
        provider.add_discovery(Arc::new(TicketDiscovery::from(requester.ticket())));
        provider.find(&Want::Anything).await;
        let heard = requester.acquaintances();
        assert_eq!(heard.len(), 1, "{heard:?}");

        // It receives what they are asked, and answers nothing.
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        let crowd = (0..100_u8).map(|seed| ProviderAddr {
            id: NodeId::from_bytes(AccountKey::from_seed(&[seed; 32]).id().as_bytes()).unwrap(),
            addrs: vec![socket.local_addr().unwrap()],
        });
        requester.add_discovery(Arc::new(TicketDiscovery::new(crowd)));
        let wanted = Wanted {
            package: Digest::of(b"a package that nobody has"),
            adapter: None,
            residency: 0,
        };
        let asked = Asked {
            named: Vec::new(),
            only: false,
        };
        let asked = nodes(&requester, asked, wanted).await;
        assert_eq!(asked.len(), MOST);
        assert_eq!(asked[0].id, provider.id(), "it is asked before those");
        provider.shutdown().await;
        requester.shutdown().await;
    }

    fn node(id: NodeId, port: u16) -> ProviderAddr {
        ProviderAddr {
            id,
            addrs: vec![([127, 0, 0, 1], port).into()],
        }
    }

    /// What a node says that takes so many shards at once, for this account.
    fn takes(account: u8, slots: u32) -> Result<Quotation, TalkError> {
        Ok(Quotation {
            account: [account; 32],
            tariff: [0; 4],
            operator: None,
            slots,
            warm: Warmth::default(),
            largest_output: 1,
            kind: [0; 32],
            numerics: NUMERICS,
        })
    }

    #[test]
    fn an_account_is_taken_at_one_node_whichever_was_quicker() {
        let ids = [1, 2, 3, 4].map(|seed| {
            let key = AccountKey::from_seed(&[seed; 32]);
            NodeId::from_bytes(key.id().as_bytes()).unwrap()
        });
        let mut ids = ids.to_vec();
        ids.sort_unstable();
        let said = || {
            vec![
                (node(ids[0], 1), takes(7, 10)),
                (node(ids[1], 2), takes(7, 20)),
                (node(ids[2], 3), takes(8, 30)),
                (node(ids[3], 4), Err(Refusal::Busy.into())),
                // Named a second time, by an address at which it is no more.
                (node(ids[2], 5), Err(TalkError::OutOfTurn)),
            ]
        };
        for turn in 0..5 {
            let (mut forth, mut back) = (said(), said());
            forth.rotate_left(turn);
            back.rotate_left(turn);
            back.reverse();
            for quotes in [forth, back] {
                let kept = at_one_node(quotes);
                let taking = kept.iter().filter_map(|(node, quote)| {
                    let quotation = quote.as_ref().ok()?;
                    Some((node.id, quotation.slots))
                });
                let taking: Vec<(NodeId, u32)> = taking.collect();
                assert_eq!(taking, [(ids[0], 10), (ids[2], 30)]);
                assert_eq!(kept.len(), 4);
                let elsewhere = kept.iter().find(|(node, _)| node.id == ids[1]);
                let (_, elsewhere) = elsewhere.unwrap();
                assert!(matches!(elsewhere, Err(TalkError::Elsewhere(at)) if *at == ids[0]));
            }
        }
    }

    fn placed(seed: u8, ports: &[u16]) -> ProviderAddr {
        let key = AccountKey::from_seed(&[seed; 32]).id();
        ProviderAddr {
            id: NodeId::from_bytes(key.as_bytes()).unwrap(),
            addrs: ports
                .iter()
                .map(|&port| ([127, 0, 0, 1], port).into())
                .collect(),
        }
    }

    #[test]
    fn nobody_else_is_asked_where_only_those_are_who_are_named() {
        let known = [placed(1, &[11]), placed(2, &[12]), placed(3, &[13])];
        let asked = |only| Asked {
            named: vec![placed(2, &[22]), placed(4, &[24])],
            only,
        };
        let named = asked(true).with(known.clone());
        assert_eq!(named, [placed(2, &[22]), placed(4, &[24])]);
        let all = asked(false).with(known);
        let beside = [
            placed(2, &[22]),
            placed(4, &[24]),
            placed(1, &[11]),
            placed(3, &[13]),
        ];
        assert_eq!(all, beside);
        let many = (5..).map(|seed| placed(seed, &[1])).take(100);
        assert_eq!(asked(false).with(many).len(), MOST);
    }

    #[test]
    fn who_is_named_without_an_address_is_where_others_say_and_is_waited_for() {
        let asked = Asked {
            named: vec![placed(1, &[]), placed(2, &[])],
            only: true,
        };
        assert_eq!(asked.wait(), Duration::MAX);
        let nodes = asked.with([placed(3, &[13]), placed(1, &[11]), placed(1, &[21])]);
        assert_eq!(nodes, [placed(1, &[11]), placed(2, &[])]);
        let wait = |named: &[ProviderAddr]| {
            let named = named.to_vec();
            Asked { named, only: false }.wait()
        };
        assert_eq!(wait(&[]), Duration::MAX);
        assert_eq!(wait(&[placed(1, &[11])]), BESIDE);
        assert_eq!(wait(&[placed(1, &[11]), placed(2, &[])]), Duration::MAX);
    }
}
