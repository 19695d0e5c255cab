//! Names and addresses of nodes.
//!
//! These types hide iroh's own, so that no other crate needs iroh to pass an address around.

use std::fmt;
use std::net::SocketAddr;
use std::str::FromStr;

use iroh::{EndpointAddr, EndpointId, TransportAddr};
use iroh_blobs::Hash;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use skep_registry::Digest;

/// The name of a node: its ed25519 public key. Whoever answers a connection to it has proved
/// that it holds the key.
///
/// As text it is 64 lower-case hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeId(EndpointId);

impl NodeId {
    /// The node with this public key, or `None` if the bytes are no ed25519 key.
    #[must_use]
    pub fn from_bytes(bytes: &[u8; 32]) -> Option<Self> {
        EndpointId::from_bytes(bytes).ok().map(Self)
    }

    /// The 32 bytes of the public key.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8; 32] {
        self.0.as_bytes()
    }

    /// The first ten digits, for people.
    #[must_use]
    pub fn fmt_short(&self) -> String {
        let mut text = self.to_string();
        text.truncate(10);
        text
    }

    pub(crate) fn endpoint(self) -> EndpointId {
        self.0
    }
}

impl From<EndpointId> for NodeId {
    fn from(id: EndpointId) -> Self {
        Self(id)
    }
}

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&data_encoding::HEXLOWER.encode(self.0.as_bytes()))
    }
}

impl fmt::Debug for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "NodeId({})", self.fmt_short())
    }
}

/// The text is not the name of a node.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "a node is named by the 64 hexadecimal digits of its public key, and {found:?} is not that"
)]
pub struct NodeIdError {
    /// The text, cut after 80 characters.
    pub found: String,
}

impl FromStr for NodeId {
    type Err = NodeIdError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut bytes = [0; 32];
        let decoded = text.len() == 64
            && data_encoding::HEXLOWER
                .decode_mut(text.as_bytes(), &mut bytes)
                .is_ok();
        decoded
            .then(|| Self::from_bytes(&bytes))
            .flatten()
            .ok_or_else(|| NodeIdError {
                found: text.chars().take(80).collect(),
            })
    }
}

impl Serialize for NodeId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if serializer.is_human_readable() {
            serializer.collect_str(self)
        } else {
            self.as_bytes().serialize(serializer)
        }
    }
}

impl<'de> Deserialize<'de> for NodeId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        use serde::de::Error;
        if deserializer.is_human_readable() {
            let text = String::deserialize(deserializer)?;
            text.parse().map_err(D::Error::custom)
        } else {
            let bytes = <[u8; 32]>::deserialize(deserializer)?;
            Self::from_bytes(&bytes).ok_or_else(|| D::Error::custom("not an ed25519 public key"))
        }
    }
}

/// How to reach a node: its name, and the UDP addresses it may answer at.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ProviderAddr {
    /// The name of the node.
    pub id: NodeId,
    /// Where it may be reached. Empty means: ask the discovery services for it.
    pub addrs: Vec<SocketAddr>,
}

impl fmt::Display for ProviderAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.id.fmt_short())?;
        for (i, addr) in self.addrs.iter().enumerate() {
            f.write_str(if i == 0 { " at " } else { ", " })?;
            addr.fmt(f)?;
        }
        Ok(())
    }
}

impl ProviderAddr {
    pub(crate) fn to_endpoint_addr(&self) -> EndpointAddr {
        EndpointAddr::from_parts(
            self.id.endpoint(),
            self.addrs.iter().copied().map(TransportAddr::Ip),
        )
    }

    /// Whether all of these addresses are among those of the other, which is the same node.
    pub(crate) fn is_within(&self, other: &Self) -> bool {
        self.id == other.id && self.addrs.iter().all(|addr| other.addrs.contains(addr))
    }

    pub(crate) fn from_endpoint_addr(addr: &EndpointAddr) -> Self {
        Self {
            id: addr.id.into(),
            addrs: addr.ip_addrs().copied().collect(),
        }
    }
}

pub(crate) fn to_hash(digest: &Digest) -> Hash {
    Hash::from_bytes(*digest.as_bytes())
}

pub(crate) fn to_digest(hash: &Hash) -> Digest {
    Digest::from_bytes(*hash.as_bytes())
}
