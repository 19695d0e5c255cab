//! Training one model on many nodes that hardly talk to each other.
//!
//! Each node trains on its own share of the data. What it sends is a [`contribution`]: some bytes
//! that stand for how far its weights have moved, hundreds of times fewer than its gradients would
//! be. Every node comes to the same weights from the same contributions, bit for bit, so that
//! nobody has to send weights.
//!
//! | module | what it is |
//! |---|---|
//! | [`diloco`] | steps of one's own, and an outer step along what all have moved (arXiv 2311.08105), fragment by fragment (arXiv 2501.18512) |
//! | [`demo`] | a step together each time, along the largest of each node's momentum's frequencies (arXiv 2411.19870) |
//! | [`all_reduce`] | a step together each time, along the mean of all gradients: what both are compared with |
//! | [`method`] | which of these it is |
//! | [`stepwise`] | what the last two have in common |
//! | [`quantize`] | numbers in 8 or 4 bits, what is lost of them kept for the next time |
//! | [`dct`] | the discrete cosine transform of chunks |
//! | [`contribution`] | what goes over the wire, and reading it from strangers |
//! | [`message`] | what a leader and the members of a training say to each other |
//! | [`guard`] | whose contribution is left out, and why |
//! | [`audit`] | what a node commits to with a contribution, and shows of it when it is asked |
//!
//! # What it must never do
//!
//! - Touch a network, a file or a clock, or draw randomness: a node that comes to other weights
//!   than the rest is one that trains alone, so everything is a function of its arguments, and sums
//!   have one order.
//! - Panic, hang or allocate what a stranger's bytes say. How long a contribution is, whoever
//!   reads it knows beforehand.
//! - Let a number that is not finite into anybody's weights.
//! - Know what the numbers are parameters of.

#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic))]

pub mod all_reduce;
pub mod audit;
pub mod contribution;
pub mod dct;
pub mod demo;
pub mod diloco;
mod error;
pub mod guard;
pub mod message;
pub mod method;
pub mod quantize;
pub mod stepwise;
#[cfg(test)]
mod testing;

pub use all_reduce::AllReduce;
pub use contribution::{Contribution, Header, Unsound};
pub use demo::{Demo, DemoConfig};
pub use diloco::{Diloco, DilocoConfig, Turn};
pub use error::TogetherError;
pub use guard::{Guard, Judgement};
pub use method::Method;
pub use quantize::Precision;
pub use stepwise::{Position, Stepwise};
