//! A search for nodes by what they can do: what is looked for, and who was found.
//!
//! Of a node there is nothing here but what it signs of itself, and nobody has checked that.

use serde::{Deserialize, Serialize};

/// What a node is to be able to do.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct FindRequest {
    /// The device, as nodes announce it; none is any.
    pub device: Option<String>,
    /// The memory for a run that there has to be, in bytes.
    pub memory: u64,
    /// Packages, models and adapters that are to be ready: references, digests or tickets.
    pub ready: Vec<String>,
    /// The most that it may ask for 10¹² operations, in micro-credits; none is any price.
    pub teraflop_micro: Option<u64>,
    /// The same for 10⁹ bytes of input and output.
    pub gigabyte_micro: Option<u64>,
    /// The same for an hour in which something is kept ready.
    pub hour_micro: Option<u64>,
    /// How long to look for at most, in milliseconds.
    pub wait_ms: u64,
}

/// Who was found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Found {
    /// The nodes, cheapest operations first.
    pub nodes: Vec<FoundNode>,
    /// How many other nodes have said what they can do, be it by others.
    pub heard_of: u64,
    /// How many of these take jobs of others.
    pub taking: u64,
    /// How many of these fit each thing that was asked for, by itself.
    pub fitting: Vec<Fitting>,
    /// Why there is nobody, and what to do about it; none if somebody was found.
    pub why: Option<String>,
}

/// How many nodes fit one thing that was asked for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fitting {
    /// The thing, as the command line has it.
    pub asked: String,
    /// How many nodes.
    pub nodes: u64,
}

/// A node that takes jobs, by its announcement.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FoundNode {
    /// Its identity.
    pub node: String,
    /// The text by which `--provider` names it.
    pub ticket: String,
    /// Where it says that it is.
    pub addresses: Vec<String>,
    /// What it computes language models on.
    pub device: String,
    /// The most memory that a run has there.
    pub memory_bytes: u64,
    /// How many shards it works on at once.
    pub at_once: u32,
    /// What it asks for 10⁶ tokens, in micro-credits.
    pub million_tokens_micro: u64,
    /// What it asks for 10¹² operations, in micro-credits.
    pub teraflop_micro: u64,
    /// What it asks for 10⁹ bytes of input and output, in micro-credits.
    pub gigabyte_micro: u64,
    /// What it asks for an hour in which something is kept ready, in micro-credits.
    pub hour_micro: u64,
    /// What it has ready, of the packages that are known here and those that were asked for. Once in a
    /// hundred times one is here by mistake; what is not known here cannot be read out of an announcement.
    pub ready: Vec<ReadyLine>,
    /// When it signed this, in milliseconds since 1970 by its own clock.
    pub issued_ms: u64,
    /// Until when that is good.
    pub expires_ms: u64,
}

/// A release that a node has ready.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReadyLine {
    /// `publisher/name@version`, if that is known here.
    pub package: Option<String>,
    /// The digest of the release.
    pub digest: String,
}
