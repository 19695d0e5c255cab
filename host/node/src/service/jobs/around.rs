//! Asking around: what the nodes that are named or known would take of a job, and why not.

use std::collections::BTreeMap;
use std::time::Duration;

use skep_market::Quotation;
use skep_registry::Digest;
use skep_swarm::{Need, NodeTicket, ProviderAddr, Swarm, Want};
use tokio::task::JoinSet;

use super::talk::{self, TalkError};

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

/// What each node said.
pub type Quotes = Vec<(ProviderAddr, Result<Quotation, TalkError>)>;

/// Who does not take a job, and why.
pub fn listed(refusals: &BTreeMap<String, String>) -> String {
    let lines = refusals.iter().map(|(node, why)| format!("{node}: {why}"));
    lines.collect::<Vec<_>>().join("; ")
}

/// What the nodes that are named or known would take, all asked at once.
pub async fn quotes(swarm: &Swarm, named: Vec<ProviderAddr>, wanted: Wanted, bytes: u64) -> Quotes {
    // Those that have the package and the adapter ready come first, where so many are known that not all are asked.
    let ready = Want::Jobs(Need {
        ready: [wanted.package].into_iter().chain(wanted.adapter).collect(),
        ..Need::default()
    });
    let any = Want::Jobs(Need::default());
    let wait = match named.is_empty() {
        true => Duration::MAX,
        false => BESIDE,
    };
    let (ready, any) = tokio::join!(
        swarm.find_within(&ready, wait),
        swarm.find_within(&any, wait)
    );
    let mut nodes = named;
    for node in ready.into_iter().chain(any) {
        if nodes.len() < MOST && !nodes.iter().any(|known| known.id == node.id) {
            nodes.push(node);
        }
    }
    let own: NodeTicket = swarm.ticket();
    nodes.retain(|node| node.id != own.node.id);
    let mut asking = JoinSet::new();
    for node in nodes {
        let (swarm, sources) = (swarm.clone(), vec![own.to_string()]);
        asking.spawn(async move {
            let quote = talk::quote(&swarm, &node, wanted, bytes, sources).await;
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
