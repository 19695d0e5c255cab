//! A node that is not skep's: it speaks the protocols and says what it is told to.

use std::sync::Arc;

use iroh::endpoint::{Builder, Connection, presets};
use iroh::protocol::{AcceptError, ProtocolHandler, Router};
use iroh::{Endpoint, EndpointAddr, EndpointId, RelayMode, TransportAddr};
use iroh_blobs::protocol::Request;
use iroh_blobs::store::mem::MemStore;
use serde::Serialize;
use skep_registry::SignedRelease;
use skep_swarm::{NodeId, ProviderAddr, Swarm};
use tokio::sync::Notify;

use super::content;

/// What a hostile node answers to any question about releases. The same bytes on the wire as the
/// protocol's own type, written down a second time.
#[derive(Clone, Debug, Serialize)]
#[allow(dead_code, reason = "the order of the variants is the protocol")]
pub enum Reply {
    Release {
        signed: Vec<u8>,
        complete: bool,
    },
    Offer {
        publisher: [u8; 32],
        name: String,
        newest: [u8; 32],
        version: String,
    },
    End {
        cut: bool,
    },
}

pub fn frame(reply: &Reply) -> Vec<u8> {
    let body = postcard::to_stdvec(reply).unwrap();
    [&u32::try_from(body.len()).unwrap().to_be_bytes()[..], &body].concat()
}

pub fn showing(releases: &[SignedRelease]) -> Vec<u8> {
    let shown = releases.iter().map(|release| Reply::Release {
        signed: release.encode().to_vec(),
        complete: true,
    });
    shown
        .chain([Reply::End { cut: false }])
        .flat_map(|r| frame(&r))
        .collect()
}

/// How a hostile node sends blobs.
#[derive(Clone, Copy, Debug)]
pub enum Sends {
    /// The right size, and then something else.
    Garbage,
    /// What was asked for, up to so many bytes; then it ends the stream.
    Half(usize),
    /// What was asked for, up to so many bytes; then nothing, for ever.
    Stall(usize),
    /// A size of 2^62 and endless data.
    Endless,
    /// What was asked for, under another size.
    Size(u64),
    /// What was asked for, up to so many bytes; then something else.
    Turns(usize),
    /// What was asked for, a little at a time, so that it never stalls and never ends.
    Trickle,
}

#[derive(Clone, Debug)]
pub struct Teller(Arc<Vec<u8>>);

impl ProtocolHandler for Teller {
    async fn accept(&self, connection: Connection) -> Result<(), AcceptError> {
        while let Ok((mut send, _recv)) = connection.accept_bi().await {
            // The other side may turn away before it has read everything.
            let _ = send.write_all(&self.0).await;
            let _ = send.finish();
        }
        Ok(())
    }
}

#[derive(Clone, Debug)]
pub struct Sender(MemStore, Sends, Arc<Notify>);

impl ProtocolHandler for Sender {
    async fn accept(&self, connection: Connection) -> Result<(), AcceptError> {
        while let Ok((mut send, mut recv)) = connection.accept_bi().await {
            let Self(store, sends, asked) = self.clone();
            asked.notify_one();
            tokio::spawn(async move {
                let (request, _) = Request::read_async(&mut recv).await.unwrap();
                let Request::Get(request) = request else {
                    panic!("{request:?}")
                };
                let (_, ranges) = request.ranges.as_single().unwrap();
                let right = store
                    .export_bao(request.hash, ranges.clone())
                    .bao_to_vec()
                    .await
                    .unwrap();
                let bytes = match sends {
                    Sends::Garbage => [&right[..8], &content(99, 100_000)].concat(),
                    Sends::Half(n) | Sends::Stall(n) => right[..n.min(right.len())].to_vec(),
                    Sends::Turns(n) => {
                        [&right[..n.min(right.len())], &content(98, 100_000)].concat()
                    }
                    Sends::Trickle => {
                        for little in right.chunks(1 << 10) {
                            if send.write_all(little).await.is_err() {
                                return;
                            }
                            tokio::time::sleep(std::time::Duration::from_millis(100)).await;
                        }
                        Vec::new()
                    }
                    Sends::Endless => (1_u64 << 62).to_le_bytes().to_vec(),
                    Sends::Size(size) => [&size.to_le_bytes(), &right[8..]].concat(),
                };
                let _ = send.write_all(&bytes).await;
                match sends {
                    Sends::Garbage
                    | Sends::Half(_)
                    | Sends::Size(_)
                    | Sends::Turns(_)
                    | Sends::Trickle => {}
                    Sends::Stall(_) => std::future::pending().await,
                    Sends::Endless => while send.write_all(&[7; 65536]).await.is_ok() {},
                }
                let _ = send.finish();
                let _ = send.stopped().await;
            });
        }
        Ok(())
    }
}

/// An endpoint on loopback, and not skep's.
pub fn endpoint() -> Builder {
    Endpoint::builder(presets::Minimal)
        .relay_mode(RelayMode::Disabled)
        .clear_ip_transports()
        .bind_addr("127.0.0.1:0")
        .unwrap()
}

pub fn addr_of(endpoint: &Endpoint) -> ProviderAddr {
    ProviderAddr {
        id: NodeId::from_bytes(endpoint.id().as_bytes()).unwrap(),
        addrs: endpoint.bound_sockets(),
    }
}

/// A connection to a node, from an endpoint that is not skep's.
pub async fn connect(from: &Endpoint, node: &Swarm, alpn: &[u8]) -> Connection {
    let id = EndpointId::from_bytes(node.id().as_bytes()).unwrap();
    let at = node.addr().addrs.into_iter().map(TransportAddr::Ip);
    let to = EndpointAddr::from_parts(id, at);
    from.connect(to, alpn).await.unwrap()
}

/// A node that is not skep's: it says and sends whatever it is told to.
pub struct Hostile {
    router: Router,
    asked: Arc<Notify>,
    pub addr: ProviderAddr,
}

impl Hostile {
    pub async fn start(says: Vec<u8>, sends: Sends, blobs: &[&[u8]]) -> Self {
        let store = MemStore::new();
        for blob in blobs {
            store.add_slice(blob).await.unwrap();
        }
        let endpoint = endpoint().bind().await.unwrap();
        let addr = addr_of(&endpoint);
        let asked = Arc::new(Notify::new());
        let router = Router::builder(endpoint)
            .accept(b"skep/releases/1", Teller(Arc::new(says)))
            .accept(iroh_blobs::ALPN, Sender(store, sends, asked.clone()))
            .spawn();
        Self {
            router,
            asked,
            addr,
        }
    }

    pub async fn telling(says: Vec<u8>) -> Self {
        Self::start(says, Sends::Garbage, &[]).await
    }

    pub async fn sending(sends: Sends, blob: &[u8]) -> Self {
        Self::start(Vec::new(), sends, &[blob]).await
    }

    /// Says when it has been asked for a blob.
    pub fn asked(&self) -> Arc<Notify> {
        self.asked.clone()
    }

    pub async fn stop(self) {
        self.router.shutdown().await.unwrap();
    }
}
