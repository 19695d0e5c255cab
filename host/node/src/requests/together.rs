//! What is asked of a training by several nodes, and what came of it.

use serde::{Deserialize, Serialize};

/// How an adapter is trained by several nodes.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct TogetherRequest {
    /// How many, this one included.
    pub nodes: u16,
    /// How many of those have to take part for the training to begin; all if it is not said.
    #[serde(default)]
    pub at_least: Option<u16>,
    /// Tickets of nodes to ask before those of the configuration.
    pub providers: Vec<String>,
    /// In which way.
    pub method: TogetherMethod,
    /// With DiLoCo, steps of each between two of its contributions to the same weights.
    pub every: u32,
    /// With DiLoCo, in how many parts the weights are sent.
    pub fragments: Option<u16>,
    /// With DiLoCo, steps that are made while a part is on its way: fewer than there are between two
    /// parts.
    #[serde(default)]
    pub overlap: Option<u32>,
    /// With DiLoCo, the size of outer steps, above 0.
    pub outer_rate: Option<f32>,
    /// With DiLoCo, how much of the outer momentum is kept, from 0 to below 1.
    pub outer_momentum: Option<f32>,
    /// How many seconds each turn may wait for a node.
    pub patience: u64,
    /// In how many of a million turns a node has to show a step that it made.
    pub audit: u32,
}

/// In how many parts weights are sent with DiLoCo, where a node makes so many steps between two of its
/// contributions to the same, if it is not said.
#[must_use]
pub fn usual_fragments(every: u32) -> u16 {
    if every < 8 { 1 } else { 4 }
}

/// In which way nodes train together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum TogetherMethod {
    /// Steps of their own, and now and then what they have moved by.
    Diloco,
    /// Every step together, by the largest frequencies of each one's momentum.
    Demo,
    /// Every step together, by all gradients.
    AllReduce,
}

/// What came of a training by several nodes.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct TogetherReport {
    /// In which way.
    pub method: String,
    /// Turns in which all made a step together.
    pub turns: u64,
    /// From the first batch to the last turn.
    pub seconds: f64,
    /// How much of that this node computed no step, but what belongs to turns and audits, and waited.
    pub waited_seconds: f64,
    /// Bytes of this node's own contributions, each counted once.
    pub contributed_bytes: u64,
    /// Bytes of all that this node has sent, with examples and what it passed on.
    pub sent_bytes: u64,
    /// The other nodes.
    pub nodes: Vec<TogetherNode>,
}

/// A node that took part in a training.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct TogetherNode {
    /// Its id.
    pub node: String,
    /// Turns in which its contribution counted.
    pub accepted: u64,
    /// Turns in which something that it did was done again here, and came to the same.
    pub audited: u64,
    /// In which round it joined, or at which step where all make every step together; 0 if it was
    /// there at the beginning.
    #[serde(default)]
    pub joined: u32,
    /// How often it came back after it was let go.
    pub returned: u64,
    /// Turns in which it did not, and why.
    pub left_out: Vec<LeftOut>,
    /// Why it took no more part, if it did not until the end.
    pub gone: Option<String>,
}

/// A contribution that did not count.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct LeftOut {
    /// In which round; none at the end.
    pub round: Option<u32>,
    /// To which fragment of the weights.
    pub fragment: u16,
    /// Why.
    pub why: String,
}
