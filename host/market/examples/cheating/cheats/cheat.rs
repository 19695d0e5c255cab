//! The ways to cheat.

use super::texts::{FEWER_LAYERS, FIVE_LIKELIEST, FOUR_BITS, HONEST, Manner, SHORT_PROMPT};

/// A way to cheat.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cheat {
    /// Nobody cheats.
    None,
    /// Nobody does, and the texts are followed.
    NoneFollowed,
    /// Makes up another output each time.
    Garbage,
    /// Returns the right output of another shard.
    Neighbour,
    /// Leaves the adapter out: other bytes than asked for.
    NoAdapter,
    /// Writes texts with a smaller model.
    Smaller,
    /// Writes them with the same model in 4 bits, where it was to be in 8.
    FourBits,
    /// Leaves out the first quarter of the prompt.
    ShortPrompt,
    /// Draws from the five likeliest tokens, where it was to draw from all.
    Sampling,
    /// Makes up one result in five.
    OneInFive,
    /// Two that make up the same outputs, and say of each other that they are right.
    Pair,
    /// Two that write texts with a smaller model, and say of each other's that they are right.
    PairSmaller,
    /// Two that do so with the same model in 4 bits, where it was to be in 8.
    PairFourBits,
    /// Sends what its friend made, where that was given the same shard too. The friend is honest.
    Copied,
    /// Two that make up the same output where both were given the same shard, and say of each other that
    /// they are right.
    CopiedLie,
    /// Makes up results where it cannot be an auditor, as far as it can tell: of a shard's first
    /// lease.
    Careful,
    /// Sends the receipt of its first lease for every other one too.
    Replay,
    /// Sends all that it sent for its first lease once more.
    ReplayAll,
    /// Bills more than the lease's tariff makes of what it metered.
    Overprice,
    /// Does the work, and meters twice the operations, within what the lease allows.
    Inflate,
}

/// How a cheat has to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// There is none, and nothing is found.
    Nothing,
    /// It loses more than it gains.
    Loss,
    /// What it sends is what was asked for, though it has not made it: it is paid for work that it has not done, nothing
    /// wrong is accepted, and nobody is charged.
    NoHarm,
    /// What it sends is no delivery, and no fraud either, since everybody could send it: it is not paid,
    /// others do its shards, and it is asked after everybody else from then on.
    NoWork,
}

impl Cheat {
    /// Every way.
    pub const ALL: [Self; 20] = [
        Self::None,
        Self::NoneFollowed,
        Self::Garbage,
        Self::Neighbour,
        Self::NoAdapter,
        Self::Smaller,
        Self::FourBits,
        Self::ShortPrompt,
        Self::Sampling,
        Self::OneInFive,
        Self::Pair,
        Self::PairSmaller,
        Self::PairFourBits,
        Self::Copied,
        Self::CopiedLie,
        Self::Careful,
        Self::Replay,
        Self::ReplayAll,
        Self::Overprice,
        Self::Inflate,
    ];

    /// What it is called in the table.
    pub fn name(self) -> &'static str {
        match self {
            Self::None => "nobody cheats",
            Self::NoneFollowed => "nobody cheats, texts are followed",
            Self::Garbage => "garbage",
            Self::Neighbour => "the right answer of another shard",
            Self::NoAdapter => "no adapter: other bytes",
            Self::Smaller => "a smaller model, texts are followed",
            Self::FourBits => "4 bits for 8, texts are followed",
            Self::ShortPrompt => "a prompt cut short, texts are followed",
            Self::Sampling => "other sampling, texts are followed",
            Self::OneInFive => "garbage one time in five",
            Self::Pair => "two that make up the same and back each other",
            Self::PairSmaller => {
                "two that back each other with a smaller model, texts are followed"
            }
            Self::PairFourBits => "two that back each other with 4 bits for 8, texts are followed",
            Self::Copied => "a friend's right answer to the same shard, two replicas",
            Self::CopiedLie => "the same made up where both have the shard, two replicas",
            Self::Careful => "garbage where it cannot be an auditor",
            Self::Replay => "an old receipt for a new lease",
            Self::ReplayAll => "all of an old delivery again",
            Self::Overprice => "a price above the tariff",
            Self::Inflate => "twice the operations, within the lease",
        }
    }

    /// How many nodes do it.
    pub fn nodes(self) -> usize {
        match self {
            Self::None | Self::NoneFollowed => 0,
            Self::Pair | Self::PairSmaller | Self::PairFourBits | Self::CopiedLie => 2,
            _ => 1,
        }
    }

    /// How many nodes make each shard of its job.
    pub fn replicas(self) -> u32 {
        match self {
            Self::Copied | Self::CopiedLie => 2,
            _ => 1,
        }
    }

    /// How it goes about the texts that it is asked for, if those of its job are followed. In other jobs
    /// results are compared byte by byte.
    pub fn texts(self) -> Option<Manner> {
        match self {
            Self::NoneFollowed => Some(HONEST),
            Self::Smaller | Self::PairSmaller => Some(FEWER_LAYERS),
            Self::FourBits | Self::PairFourBits => Some(FOUR_BITS),
            Self::ShortPrompt => Some(SHORT_PROMPT),
            Self::Sampling => Some(FIVE_LIKELIEST),
            _ => None,
        }
    }

    /// What nodes do that do not cheat in the same job.
    pub fn others(self) -> Self {
        match self.texts() {
            Some(_) => Self::NoneFollowed,
            None => Self::None,
        }
    }

    /// How it has to end.
    pub fn end(self) -> End {
        match self {
            Self::None | Self::NoneFollowed => End::Nothing,
            Self::Copied => End::NoHarm,
            Self::ReplayAll => End::NoWork,
            _ => End::Loss,
        }
    }
}
