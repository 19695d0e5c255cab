//! The swarm: how packages travel between nodes without a server.
//!
//! A node keeps blobs under their BLAKE3 digests, finds other nodes, learns from them which
//! releases a package has, fetches what is missing from several of them at once, and serves what
//! it has installed. Whatever arrives is verified before anything acts on it: each group of 16 KiB
//! against the digest that was asked for, each release against its publisher's signature, each
//! history against what was seen before.
//!
//! # What it must never do
//!
//! - Let anything partial be seen: a blob is there or is not, a package is installed or is not.
//! - Store more than a publisher signed, or wait for a provider for ever.
//! - Serve what its owner did not offer.
//! - Keep, for the work of others, more than its owner gives room to.
//! - Believe another node.
//!
//! *Architecture invariant:* this is the only crate that knows iroh, and no type of iroh's is in
//! its interface.
//!
//! # Code map
//!
//! | module | what is in it |
//! |---|---|
//! | `node`, `listen` | [`Swarm`]: opening, closing, blobs; where it listens |
//! | `resolve`, `packages` | the rest of [`Swarm`]: from a name to a release; publishing and installing |
//! | `describe`, `brought` | for the work of others: a release that is not remembered; packages that are here within bounds |
//! | `blobs`, `repair` | the store; mending what the disk damaged |
//! | `fetch`, `busy`, `transfer`, `report` | many providers; who fetches what; one request; what came of it |
//! | `find`, `size` | a blob of which only the digest is known; the proof of its size |
//! | `wire`, `serve`, `ask` | the protocol `skep/releases/1` |
//! | `channel` | [`Channel`]: conversations of others' making, over `skep/jobs/7` |
//! | `releases`, `disk` | what is remembered; how it is written |
//! | `error`, `fault` | what goes wrong here; what other nodes do wrong |
//! | `gate`, `idle`, `admission` | which blobs others may have; connections over which none is sent; whose place goes to whom |
//! | `places` | how much one peer may have of what others may ask |
//! | `discovery`, `mdns`, `ticket` | finding nodes |
//! | `topic`, `filter`, `announcement`, `own` | what a node says of itself |
//! | `gossip`, `known`, `turns` | the protocol `skep/gossip/1`: passing that on; remembering it; whose word comes first |
//! | `dht`, `who` | the mainline DHT; who is at an address |

#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic))]

mod admission;
mod announcement;
mod ask;
mod blobs;
mod brought;
mod busy;
mod channel;
mod config;
mod describe;
mod dht;
mod discovery;
mod disk;
mod error;
mod fault;
mod fetch;
mod filter;
mod find;
mod gate;
mod gossip;
mod idle;
mod ids;
mod known;
mod listen;
mod mdns;
mod node;
mod own;
mod packages;
mod pieces;
mod places;
mod releases;
mod repair;
mod report;
mod resolve;
mod serve;
mod size;
#[cfg(test)]
mod testing;
mod ticket;
mod topic;
mod transfer;
mod turns;
mod who;
mod wire;

pub use announcement::{Announcement, AnnouncementError, Capability, Need};
pub use blobs::Presence;
pub use brought::{InUse, taken_by};
pub use channel::{Answerer, CONVERSATIONS, Channel, ChannelError, FOR_ONE, MAX_FRAME};
pub use config::{Dht, Limits, SwarmConfig};
pub use discovery::{Discovery, TicketDiscovery, Want};
pub use error::{
    BlobError, BringError, ExportError, FetchError, FindError, ImportError, InstallError,
    OpenError, PackageError, PublishError, ResolveError,
};
pub use fault::{FaultOf, ProviderFault};
pub use find::FoundBlob;
pub use ids::{NodeId, NodeIdError, ProviderAddr};
pub use mdns::MdnsDiscovery;
pub use node::{Blob, Swarm};
pub use packages::Installed;
pub use releases::Offer;
pub use report::{FetchReport, FileRef, Progress, ProgressFn};
pub use resolve::Resolved;
pub use ticket::{NodeTicket, PackageTicket, Ticket, TicketError};
