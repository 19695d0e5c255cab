//! How a node is set up, and the limits that protect it.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use iroh::endpoint::{QuicTransportConfig, QuicTransportConfigBuilder, VarInt};

/// How to open a [`Swarm`](crate::Swarm).
#[derive(Clone, Debug)]
pub struct SwarmConfig {
    /// The folder that holds the node's key, its blobs and its packages. Made if it is missing.
    pub dir: PathBuf,
    /// The UDP address to listen on; port 0 takes a free one, which is the one that the node had before
    /// if nobody else has it now. On a loopback address the node announces that address and nothing else.
    pub bind: SocketAddr,
    /// Whether to find other nodes on the local network, and to be found.
    pub mdns: bool,
    /// Whether to tell other nodes what is here, and to remember what they tell.
    pub gossip: bool,
    /// Whether to join the mainline DHT, and by which of its nodes.
    pub dht: Option<Dht>,
    /// Limits and patience.
    pub limits: Limits,
}

impl SwarmConfig {
    /// A node in `dir` that listens on a free port of the loopback interface, without mDNS, gossip or DHT.
    #[must_use]
    pub fn loopback(dir: impl Into<PathBuf>) -> Self {
        Self {
            dir: dir.into(),
            bind: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
            mdns: false,
            gossip: false,
            dht: None,
            limits: Limits::default(),
        }
    }
}

/// How to join the mainline DHT.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Dht {
    /// Nodes of it to begin with, each as `host:port`. None means those that everybody knows.
    pub bootstrap: Vec<String>,
}

/// What a node does for others at most, and how long it waits for them.
#[derive(Clone, Debug)]
pub struct Limits {
    /// How long to wait for a connection. What begins one is sent again after about one,
    /// three and seven seconds; for whoever is not there everything longer is lost.
    pub connect: Duration,
    /// How long one question about releases may take, answer included. A connection on which none is
    /// asked for so long ends.
    pub request: Duration,
    /// A provider from which no verified group of 16 KiB arrives for this long is dropped.
    pub stall: Duration,
    /// What is fetched for the work of others is given up when less than 1 MiB of it has arrived in this long. Where no
    /// more is missing by then than has arrived, it has as long again, once.
    pub crawl: Duration,
    /// A piece that one provider has had for so long is fetched from another too, when that has
    /// nothing else to do, and after as long from one more; from four at most.
    pub hedge: Duration,
    /// How long to wait for providers that a discovery service may still find.
    pub discovery: Duration,
    /// How often a few nodes are told and asked who is there.
    pub gossip: Duration,
    /// Questions about releases that are answered at one moment, a quarter of them of one peer.
    pub answers: usize,
    /// Connections to which blobs are served at one moment, and as many on which releases may be
    /// asked for; a quarter of them to one peer. Of those for blobs, once all are taken, one of the peer that has most
    /// ends for a peer that has none.
    pub connections: usize,
    /// A connection over which nothing of a blob is sent for so long ends. For a tenth of that it has to rest to give
    /// way to a peer that has none, where nobody has several.
    pub idle: Duration,
    /// The most bytes that one release may make this node store.
    pub release_bytes: u64,
    /// Blobs that belong to nothing any more are removed this often.
    pub sweep: Duration,
    /// Requests in flight to each provider.
    pub streams: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(8),
            request: Duration::from_secs(15),
            stall: Duration::from_secs(20),
            crawl: Duration::from_secs(60),
            hedge: Duration::from_secs(5),
            discovery: Duration::from_secs(3),
            gossip: Duration::from_secs(60),
            answers: 64,
            connections: 256,
            idle: Duration::from_secs(300),
            release_bytes: 1 << 40,
            sweep: Duration::from_secs(3600),
            streams: 4,
        }
    }
}

/// What may be on its way in one stream, in bytes.
///
/// A receiver keeps at most 1,024 separate spans of a stream and ends the connection when losses
/// leave more. With packets of at least 1,200 bytes a window of 1 MiB has at most 437, so no
/// pattern of losses gets there; with 32 MiB a socket buffer that overflowed did. Larger windows
/// were no faster over loopback, and on a long way several streams add up.
const STREAM_WINDOW: u32 = 1 << 20;

/// How long nothing may come over a connection on which nodes talk, in milliseconds, until the other side is
/// taken to be gone: its system answers five beats in that time, however busy it is.
///
/// By default QUIC waits for half a minute, and everybody who trains, or works for who was killed, waits with it.
const SILENCE: u32 = 10_000;
/// How often the other side of such a connection is given something to answer, if nothing else is said.
const BEAT: Duration = Duration::from_secs(2);

/// The QUIC settings, for bulk transfer.
pub(crate) fn transport() -> QuicTransportConfig {
    bulk().build()
}

/// The same for conversations. Of both sides' patience the shorter one counts, so that it is enough when the
/// side that connects has these.
pub(crate) fn conversation_transport() -> QuicTransportConfig {
    bulk()
        .max_idle_timeout(Some(VarInt::from_u32(SILENCE).into()))
        .keep_alive_interval(BEAT)
        .build()
}

fn bulk() -> QuicTransportConfigBuilder {
    QuicTransportConfig::builder()
        .stream_receive_window(VarInt::from_u32(STREAM_WINDOW))
        .receive_window(VarInt::from_u32(8 * STREAM_WINDOW))
        .send_window(u64::from(8 * STREAM_WINDOW))
        // Nobody here reads any: what came on them would be kept as long as the connection.
        .max_concurrent_uni_streams(VarInt::from_u32(0))
}
