//! Asking around: what the nodes that are named or known would take of a job, and why not.

use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, HashMap};
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

/// What each node said. No two of them would take a job for the same account.
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
    at_one_node(asking.join_all().await)
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
    use skep_evidence::AccountKey;
    use skep_market::{NUMERICS, Refusal, Warmth};
    use skep_swarm::NodeId;

    use super::*;

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
}
