//! Asking around: what the nodes that are named or known would take of a job, and why not.

use std::collections::BTreeMap;
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

/// What each node said.
pub type Quotes = Vec<(ProviderAddr, Result<Quotation, TalkError>)>;

/// Who does not take a job, and why.
pub fn listed(refusals: &BTreeMap<String, String>) -> String {
    let lines = refusals.iter().map(|(node, why)| format!("{node}: {why}"));
    lines.collect::<Vec<_>>().join("; ")
}

/// What the nodes that are named or known would take, all asked at once.
pub async fn quotes(swarm: &Swarm, asked: Asked, wanted: Wanted, bytes: u64) -> Quotes {
    // Those that have the package and the adapter ready come first, where so many are known that not all are asked.
    let ready = Want::Jobs(Need {
        ready: [wanted.package].into_iter().chain(wanted.adapter).collect(),
        ..Need::default()
    });
    let any = Want::Jobs(Need::default());
    let wait = asked.wait();
    let (ready, any) = tokio::join!(
        swarm.find_within(&ready, wait),
        swarm.find_within(&any, wait)
    );
    // A search ends when it has found enough. Who is named may be one of the others that are known.
    let heard_of = match asked.only {
        true => anywhere::known(swarm),
        false => Vec::new(),
    };
    let mut nodes = asked.with(ready.into_iter().chain(any).chain(heard_of));
    let own: NodeTicket = swarm.ticket();
    nodes.retain(|node| node.id != own.node.id);
    let mut asking = JoinSet::new();
    for node in nodes {
        let (swarm, sources) = (swarm.clone(), vec![own.to_string()]);
        asking.spawn(async move {
            let quote = match node.addrs.is_empty() {
                true => Err(TalkError::Nowhere),
                false => talk::quote(&swarm, &node, wanted, bytes, sources).await,
            };
            (node, quote)
        });
    }
    asking.join_all().await
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
    use skep_evidence::AccountKey;
    use skep_swarm::NodeId;

    use super::*;

    fn node(seed: u8, ports: &[u16]) -> ProviderAddr {
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
        let known = [node(1, &[11]), node(2, &[12]), node(3, &[13])];
        let asked = |only| Asked {
            named: vec![node(2, &[22]), node(4, &[24])],
            only,
        };
        let named = asked(true).with(known.clone());
        assert_eq!(named, [node(2, &[22]), node(4, &[24])]);
        let all = asked(false).with(known);
        let beside = [
            node(2, &[22]),
            node(4, &[24]),
            node(1, &[11]),
            node(3, &[13]),
        ];
        assert_eq!(all, beside);
        let many = (5..).map(|seed| node(seed, &[1])).take(100);
        assert_eq!(asked(false).with(many).len(), MOST);
    }

    #[test]
    fn who_is_named_without_an_address_is_where_others_say_and_is_waited_for() {
        let asked = Asked {
            named: vec![node(1, &[]), node(2, &[])],
            only: true,
        };
        assert_eq!(asked.wait(), Duration::MAX);
        let nodes = asked.with([node(3, &[13]), node(1, &[11]), node(1, &[21])]);
        assert_eq!(nodes, [node(1, &[11]), node(2, &[])]);
        let wait = |named: &[ProviderAddr]| {
            let named = named.to_vec();
            Asked { named, only: false }.wait()
        };
        assert_eq!(wait(&[]), Duration::MAX);
        assert_eq!(wait(&[node(1, &[11])]), BESIDE);
        assert_eq!(wait(&[node(1, &[11]), node(2, &[])]), Duration::MAX);
    }
}
