//! What the leader of a training and its members say to each other, as data.
//!
//! The leader is the node whose training it is. It begins a conversation with each of the others:
//!
//! ```text
//! leader                member
//! Invitation        →
//!                   ←   Accepted | Refused
//! Examples          →
//!                   ←   Ready          once its trainer is open, and which weights it has
//! State             →                  what all go on from, if it has others
//!                   ←   Contribution   when a fragment's turn has come, or at every step
//! Open              →                  now and then: what has the node done?
//!                   ←   Opened
//! Draw              →                  and how, in this one place?
//!                   ←   Shown
//! Round             →                  what all make their step with
//!                       ... and so on, and at the end once more for each fragment
//! ```
//!
//! Contributions go through the leader as they were sent, so that every node reads each of them
//! for itself and comes to the same weights. Messages are
//! [postcard](https://postcard.jamesmunns.com/wire-format). Whoever reads knows how long each may
//! be, and a length inside a message is believed only as far as the message goes.

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::audit::{Commitment, Digest, Window, digest_of};
use crate::diloco::Turn;
use crate::method::Method;

/// The longest invitation, and the longest answer to it, in bytes.
pub const MAX_INVITATION: usize = 64 << 10;
/// The most nodes that train together.
pub const MAX_NODES: u16 = 64;
/// What a message has besides what it carries, at most, in bytes.
pub const ENVELOPE: usize = 256;
/// The most characters that are shown of what another node says.
const SHOWN: usize = 300;

/// The round of the turns at the end, when all say what they have moved by since their last.
pub const LAST_ROUND: u32 = u32::MAX;

/// A message that cannot be read or written.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the other node says something else than the protocol has: {reason}")]
pub struct MessageError {
    reason: String,
}

/// A training that a node is asked to take part in.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Invitation {
    /// Which of the nodes it will be; the leader is 0.
    pub member: u16,
    /// The digest of the base, as text, and what it is called.
    pub base: String,
    /// What it is called.
    pub base_name: String,
    /// The recipe's digest as an installed package, if it is not the one that comes with skep.
    pub recipe: Option<String>,
    /// The digest of the recipe's component.
    pub component: String,
    /// The recipe's settings.
    pub settings: Vec<(String, String)>,
    /// Bytes of the examples that follow.
    pub examples: u64,
    /// How they train together.
    pub how: Method,
    /// Whether it may be asked to show what it did. If not, it commits to nothing, which takes time.
    pub audited: bool,
}

/// What the leader's recipe makes a step with, where all make it together: recipes whose examples
/// are fewer, or that have come back, may have come to another rate.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct StepWith {
    /// The size of the step.
    pub rate: f32,
    /// How much of both moments is kept.
    pub betas: (f32, f32),
    /// What is added to the root of the second moment.
    pub epsilon: f32,
    /// What share of a weight is taken away in a step of size 1.
    pub weight_decay: f32,
}

/// What the leader says.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum ToMember {
    /// Asks it to take part.
    Invitation(Box<Invitation>),
    /// What it learns from, as a file.
    Examples(Vec<u8>),
    /// Where all are.
    State {
        /// The round that comes next.
        round: u32,
        /// What all have agreed on; nothing for a node that is ready with just that.
        agreed: Vec<f32>,
        /// The outer momentum, with DiLoCo; nothing where there is none yet.
        velocity: Vec<f32>,
        /// The optimizer's state, with all-reduce.
        optimizer: Vec<u8>,
    },
    /// What was decided of a turn.
    Round {
        /// Which.
        turn: Turn,
        /// By whom, and what: bytes as they came, and none of what the node has said that is told.
        accepted: Vec<(u16, Vec<u8>)>,
        /// With what, where the step is one of the recipe's.
        with: Option<StepWith>,
    },
    /// Asks what it has done before its contribution to a turn.
    Open(Turn),
    /// Asks to be shown one of the events of that.
    Draw {
        /// To which turn.
        turn: Turn,
        /// Which, counted from 0.
        event: u32,
    },
}

/// What a member says.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum ToLeader {
    /// It takes part.
    Accepted,
    /// It does not, and why.
    Refused(String),
    /// Its trainer is open, and has so many weights.
    Ready {
        /// How many.
        weights: u64,
        /// The digest of them.
        at: Digest,
    },
    /// What it has moved by.
    Contribution {
        /// In which turn.
        turn: Turn,
        /// A contribution, which is not believed before it was read.
        bytes: Vec<u8>,
        /// What it commits to; nothing at the end, where every step was made together, and nothing with
        /// DiLoCo where nobody is audited.
        commitment: Option<Commitment>,
        /// The digest of its weights, where they have to be everybody's.
        at: Option<Digest>,
    },
    /// What it has done.
    Opened(Window),
    /// How, in the place that was drawn.
    Shown(Box<Shown>),
}

/// What a node shows of an event, and of the contribution after it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Shown {
    /// Where its training was before the event.
    pub before: Vec<u8>,
    /// What a step was made of. Of going back, the turn and the [`Window`] before it in which the
    /// node was there, if that is not the one that is shown. Nothing of another event.
    pub made: Vec<u8>,
    /// Where its training was after the event.
    pub after: Vec<u8>,
    /// Where it was at the contribution.
    pub at_contribution: Vec<u8>,
    /// What it could not say of the fragment before that.
    pub unsaid: Vec<f32>,
}

impl ToMember {
    /// For a node that has weights of this digest: without those, if they are what all have agreed on.
    #[must_use]
    pub fn for_one_at(self, at: &Digest) -> Self {
        match self {
            Self::State {
                round,
                agreed,
                velocity,
                optimizer,
            } if digest_of(&agreed) == *at => Self::State {
                round,
                agreed: Vec::new(),
                velocity,
                optimizer,
            },
            other => other,
        }
    }

    /// As bytes.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn encode(&self) -> Result<Vec<u8>, MessageError> {
        encode(self)
    }

    /// From bytes.
    ///
    /// # Errors
    /// When it is none, or something follows it.
    pub fn decode(bytes: &[u8]) -> Result<Self, MessageError> {
        decode(bytes)
    }
}

impl ToLeader {
    /// As bytes.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn encode(&self) -> Result<Vec<u8>, MessageError> {
        encode(self)
    }

    /// From bytes. What it says in words is cut to what can be shown, without control characters.
    ///
    /// # Errors
    /// When it is none, or something follows it.
    pub fn decode(bytes: &[u8]) -> Result<Self, MessageError> {
        let mut message = decode(bytes)?;
        if let Self::Refused(reason) = &mut message {
            let shown = reason.chars().filter(|letter| !letter.is_control());
            *reason = shown.take(SHOWN).collect();
        }
        Ok(message)
    }
}

fn encode(message: &impl Serialize) -> Result<Vec<u8>, MessageError> {
    postcard::to_allocvec(message).map_err(|error| MessageError {
        reason: error.to_string(),
    })
}

fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, MessageError> {
    let wrong = |reason: String| MessageError { reason };
    match postcard::take_from_bytes(bytes) {
        Ok((message, [])) => Ok(message),
        Ok((_, rest)) => Err(wrong(format!("{} bytes too many", rest.len()))),
        Err(error) => Err(wrong(error.to_string())),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn messages_come_back_and_nothing_follows_them() {
        let turn = Turn {
            round: LAST_ROUND,
            fragment: 3,
        };
        let round = ToMember::Round {
            turn,
            accepted: vec![(0, vec![1, 2]), (7, Vec::new())],
            with: Some(StepWith {
                rate: 0.1,
                betas: (0.9, 0.99),
                epsilon: 1e-8,
                weight_decay: 0.0,
            }),
        };
        let mut bytes = round.encode().unwrap();
        assert_eq!(ToMember::decode(&bytes), Ok(round));
        bytes.push(0);
        assert!(ToMember::decode(&bytes).is_err());
        let refused = ToLeader::Refused("no\n\u{1b}[2J".to_owned() + &"x".repeat(1000));
        let read = ToLeader::decode(&refused.encode().unwrap()).unwrap();
        let ToLeader::Refused(reason) = read else {
            panic!("it was another message");
        };
        assert!(
            reason.starts_with("no[2J") && reason.len() == 300,
            "{reason}"
        );
    }

    #[test]
    fn nobody_is_sent_the_weights_that_it_has() {
        let state = |agreed: &[f32]| ToMember::State {
            round: 3,
            agreed: agreed.to_vec(),
            velocity: vec![0.5, 0.5],
            optimizer: vec![1],
        };
        let all = state(&[1.0, 2.0]);
        assert_eq!(all.clone().for_one_at(&digest_of(&[1.0, 2.0])), state(&[]));
        assert_eq!(all.clone().for_one_at(&digest_of(&[2.0, 1.0])), all);
        let open = ToMember::Open(Turn {
            round: 1,
            fragment: 0,
        });
        assert_eq!(open.clone().for_one_at(&digest_of(&[])), open);
    }

    proptest! {
        #[test]
        fn strangers_bytes_are_refused_or_mean_something(
            bytes in prop::collection::vec(any::<u8>(), 0..200),
        ) {
            // A length beyond the message is an error, and no allocation.
            if let Ok(message) = ToLeader::decode(&bytes) {
                prop_assert!(message.encode().unwrap().len() <= bytes.len() + 10);
            }
            if let Ok(ToMember::State { agreed, .. }) = ToMember::decode(&bytes) {
                prop_assert!(4 * agreed.len() <= bytes.len());
            }
        }
    }
}
