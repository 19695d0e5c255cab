//! Asking a node where it was, and where it has moved to since.

use skep_market::{Answer, Ask};
use skep_swarm::{ProviderAddr, Swarm};

use super::talk::{self, TalkError};

/// Asks a node where it was, and if nobody is there, where the same node is of those that are `known` by
/// then.
pub async fn ask(
    swarm: &Swarm,
    node: &ProviderAddr,
    ask: &Ask,
    known: impl FnOnce() -> Vec<ProviderAddr>,
) -> Result<Answer, TalkError> {
    let gone = match ask_there(swarm, node, ask).await {
        Err(TalkError::Channel(gone)) => gone,
        answered => return answered,
    };
    match elsewhere(node, known().into_iter()) {
        Some(moved) => ask_there(swarm, &moved, ask).await,
        None => Err(gone.into()),
    }
}

/// Where the nodes are of which gossip tells.
pub fn known(swarm: &Swarm) -> Vec<ProviderAddr> {
    let known = swarm.acquaintances().into_iter();
    known.map(|known| known.addr()).collect()
}

/// Where a node has moved to from there, if one of these is the same node somewhere else.
fn elsewhere(
    node: &ProviderAddr,
    mut known: impl Iterator<Item = ProviderAddr>,
) -> Option<ProviderAddr> {
    known.find(|known| known.id == node.id && known != node)
}

async fn ask_there(swarm: &Swarm, node: &ProviderAddr, ask: &Ask) -> Result<Answer, TalkError> {
    let mut channel = swarm.converse(node).await?;
    channel.say(&ask.encode()?).await?;
    talk::hear(&mut channel).await
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::net::UdpSocket;
    use std::pin::Pin;
    use std::sync::Arc;
    use std::time::Duration;

    use skep_evidence::AccountKey;
    use skep_market::MAX_MESSAGE;
    use skep_registry::Digest;
    use skep_swarm::{Answerer, Channel, NodeId, SwarmConfig};

    use super::*;

    /// Gives this for a receipt to whoever claims one.
    #[derive(Debug)]
    struct Gives(&'static [u8]);

    impl Answerer for Gives {
        fn answer(&self, mut channel: Channel) -> Pin<Box<dyn Future<Output = ()> + Send>> {
            let receipt = self.0.to_vec();
            Box::pin(async move {
                let frame = channel.hear(MAX_MESSAGE, Duration::from_secs(10)).await;
                let asked = Ask::decode(&frame.unwrap()).unwrap();
                assert!(matches!(asked, Ask::Claim { .. }), "{asked:?}");
                let answer = Answer::Claimed { receipt };
                channel.say(&answer.encode().unwrap()).await.unwrap();
                let _ = channel.finish(Duration::from_secs(10)).await;
            })
        }
    }

    /// Nodes that are neighbours find each other by their connection; of others there is only what they
    /// announce.
    #[tokio::test(flavor = "multi_thread")]
    async fn a_node_is_asked_where_it_has_moved_if_nobody_is_where_it_was() {
        let folders = [(); 2].map(|()| tempfile::tempdir().unwrap());
        let [provider, requester] = [0, 1].map(|n: usize| folders[n].path());
        // It is asked twice where nobody is.
        let mut impatient = SwarmConfig::loopback(provider);
        impatient.limits.connect = Duration::from_secs(2);
        let provider = Swarm::open(impatient).await.unwrap();
        let requester = Swarm::open(SwarmConfig::loopback(requester)).await.unwrap();
        requester.answer_with(Arc::new(Gives(b"a receipt")));
        let now = requester.addr();
        // Taken and let go of, so that nobody is there.
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        let before = ProviderAddr {
            id: now.id,
            addrs: vec![socket.local_addr().unwrap()],
        };
        drop(socket);
        let claim = Ask::Claim {
            lease: Digest::of(b"lease"),
        };
        let nowhere = ask(&provider, &before, &claim, Vec::new).await;
        assert!(matches!(nowhere, Err(TalkError::Channel(_))), "{nowhere:?}");
        let found = ask(&provider, &before, &claim, || {
            vec![before.clone(), now.clone()]
        });
        let receipt = b"a receipt".to_vec();
        assert_eq!(found.await.unwrap(), Answer::Claimed { receipt });
    }

    #[test]
    fn only_the_same_node_somewhere_else_is_asked() {
        let at = |node: u8, port: u16| ProviderAddr {
            id: NodeId::from_bytes(AccountKey::from_seed(&[node; 32]).id().as_bytes()).unwrap(),
            addrs: vec![([127, 0, 0, 1], port).into()],
        };
        let asked = at(1, 10);
        let find = |known: &[ProviderAddr]| elsewhere(&asked, known.iter().cloned());
        assert_eq!(find(&[]), None);
        // Nobody is there, and asking again changes nothing.
        assert_eq!(find(&[at(1, 10)]), None);
        assert_eq!(find(&[at(2, 11), at(3, 10)]), None, "others know nothing");
        assert_eq!(find(&[at(2, 11), at(1, 10), at(1, 12)]), Some(at(1, 12)));
    }
}
