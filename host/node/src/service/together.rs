//! Trainings by several nodes: one leads, whose training it is, and others take part.
//!
//! What is exchanged and what it does to the weights is `skep_together`'s to say; this sends it,
//! waits for it, and hands the weights to the trainer (`docs/decisions/0025`). [`lead`] is the side
//! of who trains, [`member`] that of who takes part, [`split`] says who learns what.
//!
//! # What it must never do
//!
//! - Let one node hold up a training for longer than its patience, or spoil it.
//! - Take weights from anybody that were not read and checked here.
//! - Keep another node's examples longer than its training, or open a file that it names.

pub mod lead;
pub mod member;
pub mod split;

use std::time::Duration;

use skep_swarm::{Channel, ChannelError};
use skep_together::message::{ENVELOPE, MessageError, ToLeader, ToMember};
use skep_together::{TogetherError, Unsound};
use tokio::task::JoinHandle;

/// How long the other side may take for what is not a step of training.
const SILENCE: Duration = Duration::from_secs(20);
/// How long it may take to load a model and a recipe.
const LOADING: Duration = Duration::from_secs(180);

/// Why nothing more is said with a node.
#[derive(Debug, thiserror::Error)]
enum Broken {
    #[error(transparent)]
    Channel(#[from] ChannelError),
    #[error(transparent)]
    Message(#[from] MessageError),
    #[error("it says something else than would follow")]
    OutOfTurn,
    #[error("it has {got} weights to train and this node {want}: its examples or its model differ")]
    Weights { got: u64, want: u64 },
    #[error("it was not at its end when the training was")]
    Behind,
    #[error("it has sent what cannot be used {0} times in a row, the last time because {1}")]
    Again(u32, Unsound),
}

/// Why a member cannot go on.
#[derive(Debug, thiserror::Error)]
enum Left {
    #[error("the node that leads the training cannot be heard any more: {0}")]
    Broken(#[from] Broken),
    #[error(transparent)]
    Together(#[from] TogetherError),
    #[error("the leader passed on what member {0} cannot have sent: {1}")]
    Passed(u16, Unsound),
    #[error("the training is over")]
    Over,
}

impl From<ChannelError> for Left {
    fn from(error: ChannelError) -> Self {
        Self::Broken(error.into())
    }
}

impl From<MessageError> for Left {
    fn from(error: MessageError) -> Self {
        Self::Broken(error.into())
    }
}

async fn tell_member(channel: &mut Channel, message: &ToMember) -> Result<usize, Broken> {
    let bytes = message.encode()?;
    channel.say_whole(&bytes).await?;
    Ok(bytes.len())
}

async fn tell_leader(channel: &mut Channel, message: &ToLeader) -> Result<(), Broken> {
    Ok(channel.say_whole(&message.encode()?).await?)
}

async fn hear_member(
    channel: &mut Channel,
    carried: usize,
    patience: Duration,
) -> Result<ToLeader, Broken> {
    let bytes = channel.hear_whole(carried + ENVELOPE, patience).await?;
    Ok(ToLeader::decode(&bytes)?)
}

async fn hear_leader(
    channel: &mut Channel,
    carried: usize,
    patience: Duration,
) -> Result<ToMember, Broken> {
    let bytes = channel.hear_whole(carried + ENVELOPE, patience).await?;
    Ok(ToMember::decode(&bytes)?)
}

/// Work that ends when nobody waits for it any more: a run that was ended waits for no node.
struct Waited<T>(JoinHandle<T>);

impl<T> Waited<T> {
    async fn get(mut self) -> Result<T, String> {
        (&mut self.0).await.map_err(|error| error.to_string())
    }
}

impl<T> Drop for Waited<T> {
    fn drop(&mut self) {
        self.0.abort();
    }
}
