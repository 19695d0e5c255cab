//! Trainings by several nodes: one leads, whose training it is, and others take part.
//!
//! What is exchanged and what it does to the weights is `skep_together`'s to say; this sends it,
//! waits for it, and hands the weights to the trainer (`docs/decisions/0025`). [`lead`] is the side
//! of who trains, [`member`] that of who takes part, [`guest`] says how one is asked to
//! (`docs/decisions/0040`), [`split`] who learns what, [`stepwise`] how a step is made that is made
//! together (`docs/decisions/0036`). What a member did is noted in its [`journal`], and [`audit`] does a
//! part of it once more (`docs/decisions/0029`).
//!
//! # What it must never do
//!
//! - Let one node hold up a training for longer than its patience, or spoil it.
//! - Take weights from anybody that were not read and checked here.
//! - Keep another node's examples longer than its training, or open a file that it names.

mod audit;
mod guest;
mod hook;
mod journal;
pub mod lead;
pub mod member;
mod seat;
pub mod split;
mod stepwise;

use std::time::Duration;

use self::journal::JournalError;
use self::stepwise::NotMade;
use skep_swarm::{Channel, ChannelError};
use skep_together::audit::Unlike;
use skep_together::message::{ENVELOPE, MessageError, ToLeader, ToMember};
use skep_together::{TogetherError, Unsound};

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
    #[error("it could not begin: {0}")]
    Refused(String),
    #[error("it was not at its end when the training was")]
    Behind,
    #[error(
        "its weights are not those that all have agreed on: it has come to its end before the others, \
         or computes otherwise"
    )]
    Elsewhere,
    #[error("it has sent what cannot be used {0} times in a row, the last time because {1}")]
    Again(u32, Unsound),
    #[error("it did not do what it said that it did: {0}")]
    Unlike(#[from] Unlike),
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
    #[error(transparent)]
    Journal(#[from] JournalError),
    #[error(transparent)]
    NotMade(#[from] NotMade),
    #[error("the trainer cannot be used: {0}")]
    Trainer(String),
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
