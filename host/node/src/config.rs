//! What a node's owner sets, in `config.toml` in the home folder. Every field has a default, and
//! an unknown one is refused, so that a misspelt cap is never silently no cap.

mod attestation;
mod engine;
mod grants;
mod hours;
mod jobs;
mod trainings;

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::net::SocketAddr;

use serde::Deserialize;
use skep_registry::Limits;
use skep_swarm::{Dht, SwarmConfig};

use crate::failure::{Failure, FailureKind};
use crate::home::Home;
pub use attestation::Attestation;
pub use engine::{Engine, Instructions};
pub use grants::GrantCaps;
pub use hours::Hours;
pub use jobs::Jobs;
pub use trainings::Trainings;

/// The owner's configuration.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct Config {
    /// Caps on every run, in the form of the `[limits]` of a skep.toml.
    pub limits: Limits,
    /// Caps on what the owner's own runs are granted, in the form of the `[grants]` of a skep.toml.
    pub grants: GrantCaps,
    /// How many guests may run at once; by default two for each processor.
    pub guests: Option<usize>,
    /// For a language model, by name, a small one with the same tokens whose guesses it checks
    /// several at a time. Texts are the same with it and without it, and are written sooner where
    /// it guesses well.
    pub drafts: BTreeMap<String, String>,
    /// Where language models are computed.
    pub engine: Engine,
    /// How the node meets others.
    pub network: Network,
    /// What of others' work is done here.
    pub jobs: Jobs,
    /// Where adapters are trained, and whether others' are.
    pub trainings: Trainings,
    /// How this node shows what it runs on, and what it believes of others.
    pub attestation: Attestation,
}

/// How the node meets others.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct Network {
    /// The address to listen on; port 0 takes the one that the node had before, or any free one.
    pub listen: SocketAddr,
    /// Whether to announce the node on the local network, and to look for others there.
    pub mdns: bool,
    /// Whether to tell the nodes that are known what is here, and to remember what they tell of
    /// others.
    pub gossip: bool,
    /// Whether to join the mainline DHT, in which everybody can find this node and see its address.
    pub dht: bool,
    /// Nodes of the DHT to begin with, as `host:port`; none named is those that everybody knows.
    pub dht_bootstrap: Vec<String>,
    /// Tickets of nodes to ask for whatever is looked for, wherever they are.
    pub peers: Vec<String>,
}

impl Default for Network {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from(([0, 0, 0, 0], 0)),
            mdns: true,
            gossip: true,
            dht: false,
            dht_bootstrap: Vec::new(),
            peers: Vec::new(),
        }
    }
}

impl Config {
    /// How the swarm side of the node in this home is opened.
    pub fn swarm(&self, home: &Home) -> SwarmConfig {
        SwarmConfig {
            bind: self.network.listen,
            mdns: self.network.mdns,
            gossip: self.network.gossip,
            dht: self.network.dht.then(|| Dht {
                bootstrap: self.network.dht_bootstrap.clone(),
            }),
            ..SwarmConfig::loopback(home.swarm())
        }
    }

    /// Reads the home's configuration; a home without one has the defaults.
    pub fn load(home: &Home) -> Result<Self, Failure> {
        let path = home.configuration();
        let text = match fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Self::default()),
            Err(error) => {
                return Err(Failure::new(
                    FailureKind::Failed,
                    format!("cannot read {}: {error}", path.display()),
                ));
            }
        };
        toml::from_str(&text).map_err(|error| {
            Failure::new(FailureKind::Usage, format!("{}: {error}", path.display()))
        })
    }
}
