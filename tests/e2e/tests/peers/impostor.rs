//! A node that would be taken for another: it passes on to that one what it is asked, and says what that says.

use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use skep_market::{Answer, Ask, MAX_MESSAGE, Refusal};
use skep_swarm::{Answerer, Channel, NodeTicket, ProviderAddr, Swarm, SwarmConfig};
use tokio::runtime::Runtime;

use super::PATIENCE;

/// Somebody who answers in another's name.
pub struct Impostor {
    pub ticket: String,
    /// How many prices of the other it has passed on.
    pub quoted: Arc<AtomicUsize>,
    /// How many leases it was offered, which are the other's.
    pub offered: Arc<AtomicUsize>,
    _swarms: [Swarm; 2],
    _runtime: Runtime,
}

impl Impostor {
    /// One that would be taken for the node with this ticket.
    pub fn of(folder: &Path, ticket: &str) -> Self {
        let runtime = Runtime::new().unwrap();
        // It asks as a node of its own, which the other has nothing to do with.
        let [swarm, asks] = ["answers", "asks"].map(|name| {
            let config = SwarmConfig::loopback(folder.join(name));
            runtime.block_on(Swarm::open(config)).unwrap()
        });
        let node: NodeTicket = ticket.parse().unwrap();
        let [quoted, offered] = [(); 2].map(|()| Arc::new(AtomicUsize::new(0)));
        swarm.answer_with(Arc::new(PassesOn {
            asks: asks.clone(),
            node: node.node,
            quoted: quoted.clone(),
            offered: offered.clone(),
        }));
        Self {
            ticket: swarm.ticket().to_string(),
            quoted,
            offered,
            _swarms: [swarm, asks],
            _runtime: runtime,
        }
    }
}

#[derive(Clone, Debug)]
struct PassesOn {
    asks: Swarm,
    node: ProviderAddr,
    quoted: Arc<AtomicUsize>,
    offered: Arc<AtomicUsize>,
}

impl Answerer for PassesOn {
    fn answer(&self, mut channel: Channel) -> Pin<Box<dyn Future<Output = ()> + Send>> {
        let this = self.clone();
        Box::pin(async move {
            let frame = channel.hear(MAX_MESSAGE, PATIENCE).await.unwrap();
            let answer = match Ask::decode(&frame).unwrap() {
                Ask::Offer(_) => {
                    this.offered.fetch_add(1, Ordering::SeqCst);
                    Answer::Refused(Refusal::Busy).encode().unwrap()
                }
                _ => {
                    let mut other = this.asks.converse(&this.node).await.unwrap();
                    other.say(&frame).await.unwrap();
                    other.hear(MAX_MESSAGE, PATIENCE).await.unwrap()
                }
            };
            if let Ok(Answer::Quote { .. }) = Answer::decode(&answer) {
                this.quoted.fetch_add(1, Ordering::SeqCst);
            }
            // Whoever asked may have gone since.
            let _ = channel.say(&answer).await;
            let _ = channel.finish(PATIENCE).await;
        })
    }
}
