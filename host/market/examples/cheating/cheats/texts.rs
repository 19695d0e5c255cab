//! The texts of shards, where these are followed: what a provider shows, and what others see who go over it.
//!
//! What is shown, seen, compared and judged are real transcripts and observations; only there is no model. States
//! are numbers that are the same for every shard, and an odd token is one that the model does not draw. How many of
//! a cheat's tokens are such is what was measured of it in texts of 40 tokens (`docs/benchmarks.md`, "Texts that
//! commit to their states"): each may be one, as likely as any other. What the table there does not say of each
//! text is taken for the best that it can be for the cheat: no token falls short by more than the near limits bear,
//! and states of another model are only far enough that nobody can tell.

use skep_evidence::activations::{ActivationError, Commitment, Committer, Observer, Peaks, States};
use skep_evidence::following::{
    Observation, Script, SeenAnswer, SeenText, Shortfall, Transcript, WrittenAnswer, WrittenText,
};
use skep_registry::Digest;

use super::random::Random;

/// How a provider goes about texts.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Manner {
    /// By how much of itself each state is another than the model's, at the most.
    off: f32,
    /// Tokens of the prompt that are left out.
    left_out: usize,
    /// Of so many tokens (second) so many (first) are others.
    others: (u64, u64),
    /// Of so many texts (second) so many (first) have none of these.
    spared: (u64, u64),
}

/// What was asked for.
pub const HONEST: Manner = Manner {
    off: 0.0,
    left_out: 0,
    others: (0, 1),
    spared: (0, 1),
};
/// One layer fewer.
pub const FEWER_LAYERS: Manner = Manner {
    off: BETWEEN,
    others: (6_086, 20_000),
    ..HONEST
};
/// The same weights at 4 bits. By these tokens alone 55 % of texts are refused; 272 of 500 were.
pub const FOUR_BITS: Manner = Manner {
    off: BETWEEN,
    others: (1_436, 20_000),
    ..HONEST
};
/// Without the first quarter of the prompt, so that all that is left of it is elsewhere.
pub const SHORT_PROMPT: Manner = Manner {
    left_out: PROMPT / 4,
    others: (1_115, 20_000),
    ..HONEST
};
/// From the five likeliest tokens alone. 26 of 500 texts passed: the others of all are in the 474 that did not.
pub const FIVE_LIKELIEST: Manner = Manner {
    others: (5_886, 474 * 40),
    spared: (26, 500),
    ..HONEST
};

/// How far states are off that are too far to agree with, and too near to charge anybody.
const BETWEEN: f32 = 0.04;
/// How far those of an honest machine are off that is of another kind.
const LAST_DIGITS: f32 = 0.004;
const WIDTH: usize = 64;
const PROMPT: usize = 16;
const TOKENS: u32 = 40;
/// By how much a token falls short that the model does not draw.
const GAP: f32 = 0.3;

/// Texts as one node writes and sees them.
pub struct Texts {
    manner: Manner,
    commitments: Vec<Commitment>,
    /// What it sees who follows as it should.
    peaks: Vec<Peaks>,
    /// What is seen of these texts by who has the states that they are committed to.
    own: Vec<Peaks>,
}

impl Texts {
    pub fn new(manner: Manner) -> Result<Self, ActivationError> {
        let own = states(manner.off);
        let (prompt, text) = own.split_at(PROMPT * WIDTH);
        let prompt = &prompt[manner.left_out * WIDTH..];
        let mut committer = Committer::new(WIDTH);
        committer.push_prompt(States::F32(prompt))?;
        committer.end_prompt()?;
        for state in text.chunks(WIDTH) {
            committer.push_token(States::F32(state))?;
        }
        let own = peaks(prompt, text)?;
        // As a machine of another kind sees them that has the model. Who cheats follows as it should, unless the text is
        // a friend's.
        let seen = states(LAST_DIGITS);
        let (prompt, text) = seen.split_at(PROMPT * WIDTH);
        Ok(Self {
            manner,
            commitments: committer.finish()?,
            peaks: peaks(prompt, text)?,
            own,
        })
    }

    /// Writes the text of a shard. `chance` is a number of this text's own.
    pub fn write(&self, shard: u32, chance: u64) -> Transcript {
        let mut random = Random(chance);
        let mut is_one = |(some, of): (u64, u64)| random.below(of) < some;
        let is_spared = is_one(self.manner.spared);
        let tokens = (0..TOKENS).map(|place| {
            let is_other = !is_spared && is_one(self.manner.others);
            2 * (shard * TOKENS + place) + u32::from(is_other)
        });
        Transcript(vec![WrittenAnswer {
            request: request(shard),
            texts: vec![WrittenText {
                tokens: tokens.collect(),
                commitments: self.commitments.clone(),
            }],
        }])
    }

    /// Whether a text that this node wrote is another than was asked for, or was written otherwise.
    pub fn is_wrong(&self, script: &Script) -> bool {
        let is_own = self.manner.off > 0.0 || self.manner.left_out > 0;
        is_own || script.0.iter().flatten().flatten().any(is_other)
    }

    /// What is seen of another's text of a shard.
    pub fn follow(&self, shard: u32, script: &Script) -> Observation {
        let texts = script.0.iter().flatten().map(|tokens| {
            let others = (0..).zip(tokens).filter(|(_, token)| is_other(token));
            SeenText {
                peaks: self.peaks.clone(),
                shortfalls: others
                    .map(|(place, _)| Shortfall { place, gap: GAP })
                    .collect(),
            }
        });
        seen(shard, texts.collect())
    }

    /// What is said of a friend's text of a shard, that was written in the same manner: all is as it should be.
    pub fn back(&self, shard: u32, script: &Script) -> Observation {
        let texts = script.0.iter().flatten().map(|_| SeenText {
            peaks: self.own.clone(),
            shortfalls: Vec::new(),
        });
        seen(shard, texts.collect())
    }
}

/// What is shown by who followed the texts of a shard, and saw this.
fn seen(shard: u32, texts: Vec<SeenText>) -> Observation {
    Observation(vec![SeenAnswer {
        request: request(shard),
        fits: true,
        texts,
    }])
}

/// Where the states of a prompt and a text are largest.
fn peaks(prompt: &[f32], text: &[f32]) -> Result<Vec<Peaks>, ActivationError> {
    let mut observer = Observer::new(WIDTH);
    observer.push_prompt(States::F32(prompt))?;
    observer.end_prompt()?;
    for state in text.chunks(WIDTH) {
        observer.push_token(States::F32(state))?;
    }
    observer.finish()
}

/// What comes out of a run with these texts.
pub fn output(script: &Script) -> Digest {
    Digest::of(&script.encode())
}

fn is_other(token: &u32) -> bool {
    !token.is_multiple_of(2)
}

fn request(shard: u32) -> Digest {
    Digest::of(&shard.to_le_bytes())
}

/// The states of prompt and text, each off by at most so much of itself.
fn states(off: f32) -> Vec<f32> {
    let (mut numbers, mut noise) = (Random(1), Random(2));
    // From -1 to 1, in steps that a float has.
    let number = |random: &mut Random| (random.next() >> 40) as f32 / (1 << 23) as f32 - 1.0;
    let count = (PROMPT + TOKENS as usize - 1) * WIDTH;
    let states = (0..count).map(|_| {
        // A few are much larger than the rest, as in a model.
        let state = number(&mut numbers).powi(7) * 20.0;
        state * (1.0 + off * number(&mut noise))
    });
    states.collect()
}
