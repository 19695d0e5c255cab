//! DiLoCo (arXiv 2311.08105): every node makes steps of its own, and now and then all of them
//! make a step together, along the mean of how far each has moved, with Nesterov's momentum. And
//! Streaming DiLoCo (arXiv 2501.18512): not all weights at once but a fragment in turn, in 4 bits,
//! while the next steps are already computed.
//!
//! What all have agreed on is the same on every node, bit for bit, because each makes it from the
//! same contributions in the same order. A node's own weights are something else, and nobody else
//! sees them.

use std::collections::BTreeMap;
use std::ops::Range;

use serde::{Deserialize, Serialize};

use crate::audit::{Digest, digest_of};
use crate::contribution::{Contribution, Header, Kind, Unsound, mean, read_dense};
use crate::error::{TogetherError, check_length};
use crate::quantize::{BLOCK, Feedback, Precision};

/// How nodes train together.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct DilocoConfig {
    /// Steps of each node between two outer steps of a fragment: H.
    pub every: u32,
    /// How many fragments the weights are sent in, one after the other within `every` steps.
    pub fragments: u16,
    /// Steps that are computed while a fragment is on its way: τ.
    pub overlap: u32,
    /// How much of a node's own weights stays when a fragment arrives after such steps: α. The
    /// steps would be lost with 0; with 1 nodes would never come to the same weights.
    pub keep: f32,
    /// The size of outer steps.
    pub rate: f32,
    /// How much of the outer momentum is kept from step to step.
    pub momentum: f32,
    /// How many bits a difference is sent in.
    pub precision: Precision,
}

impl Default for DilocoConfig {
    /// In 4 bits every 50 steps, with an outer step that suits trainings of few rounds: a mean and
    /// little momentum. The papers' own (0.7 and 0.9) is for hundreds of rounds: it moves by up to
    /// seven times what a round has found, and goes on with that when the inner rate has fallen
    /// to nothing (`docs/benchmarks.md`, four nodes that train together).
    fn default() -> Self {
        Self {
            every: 50,
            fragments: 1,
            overlap: 0,
            keep: 0.5,
            rate: 0.85,
            momentum: 0.2,
            precision: Precision::Int4,
        }
    }
}

impl DilocoConfig {
    /// The fragment that is sent after so many steps, the first one being 1. Turns are spread
    /// evenly over the steps between two of the same fragment's, the last fragment's at their end.
    #[must_use]
    pub fn sends(&self, step: u64) -> Option<Turn> {
        // Settings that were not checked yet may be anything.
        let every = u64::from(self.every.max(1));
        let fragments = u64::from(self.fragments);
        let into = step.checked_sub(1)? % every + 1;
        let round = u32::try_from((step - 1) / every).ok()?;
        // The first fragment whose turn is not before; turns differ, for there are not more
        // fragments than steps.
        let fragment = (into * fragments).div_ceil(every).checked_sub(1)?;
        let turn = (fragment + 1) * every / fragments;
        let fragment = u16::try_from(fragment).ok()?;
        (turn == into).then_some(Turn { round, fragment })
    }

    /// After how many steps a fragment is sent in its turn.
    #[must_use]
    pub fn steps_at(&self, turn: Turn) -> u64 {
        let (every, fragments) = (u64::from(self.every), u64::from(self.fragments.max(1)));
        u64::from(turn.round) * every + (u64::from(turn.fragment) + 1) * every / fragments
    }

    /// Whoever has sent something after so many steps sends something again after this many, at the
    /// latest.
    #[must_use]
    pub fn sends_next(&self, step: u64) -> u64 {
        let within = u64::from(self.every.max(1));
        let next = (1..=within).find(|more| self.sends(step.saturating_add(*more)).is_some());
        step.saturating_add(next.unwrap_or(within))
    }

    /// The fragment that has to be here after so many steps.
    #[must_use]
    pub fn arrives(&self, step: u64) -> Option<Turn> {
        self.sends(step.checked_sub(u64::from(self.overlap))?)
    }

    fn check(&self, numbers: usize) -> Result<(), TogetherError> {
        let wrong = |what, got: String, want| Err(TogetherError::Setting { what, got, want });
        let blocks = numbers.div_ceil(BLOCK);
        let share = |x: f32| (0.0..1.0).contains(&x);
        if self.every == 0 {
            return wrong(
                "the number of steps between outer steps",
                "0".into(),
                "at least 1",
            );
        }
        let most = blocks.min(self.every as usize);
        if self.fragments == 0 || usize::from(self.fragments) > most {
            let want = "from 1 to the number of steps between outer steps, and of blocks of 256";
            return wrong("the number of fragments", self.fragments.to_string(), want);
        }
        if self.overlap >= self.every {
            let want = "below the number of steps between outer steps";
            return wrong(
                "the number of overlapping steps",
                self.overlap.to_string(),
                want,
            );
        }
        if !share(self.keep) {
            let want = "a number of at least 0 and below 1";
            return wrong(
                "the share of own weights that is kept",
                self.keep.to_string(),
                want,
            );
        }
        if !(self.rate.is_finite() && self.rate > 0.0) {
            return wrong("the outer rate", self.rate.to_string(), "a number above 0");
        }
        if !share(self.momentum) {
            let want = "a number of at least 0 and below 1";
            return wrong("the outer momentum", self.momentum.to_string(), want);
        }
        match u32::try_from(numbers) {
            Ok(1..) => Ok(()),
            _ => wrong(
                "the number of weights",
                numbers.to_string(),
                "from 1 to 2^32 - 1",
            ),
        }
    }
}

/// A fragment's turn.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Turn {
    /// The fragment's how-manieth turn it is, counted from 0.
    pub round: u32,
    /// Which fragment.
    pub fragment: u16,
}

/// One node's part in a training.
#[derive(Debug, Clone, PartialEq)]
pub struct Diloco {
    config: DilocoConfig,
    /// What all have agreed on.
    agreed: Vec<f32>,
    /// The outer momentum, which is also the same everywhere.
    velocity: Vec<f32>,
    feedback: Feedback,
    /// The digests of this node's own weights of fragments when it last said how far they had moved.
    said: BTreeMap<u16, Digest>,
}

impl Diloco {
    /// Begins with these weights, which are the same on every node.
    ///
    /// # Errors
    /// When a setting is none that it may be, or a weight is not finite.
    pub fn new(config: DilocoConfig, weights: &[f32]) -> Result<Self, TogetherError> {
        Self::join(config, weights, &[])
    }

    /// Joins others, with the weights that they have agreed on and their outer momentum, which may be
    /// left out where there is none.
    ///
    /// # Errors
    /// As [`Diloco::new`].
    pub fn join(
        config: DilocoConfig,
        agreed: &[f32],
        velocity: &[f32],
    ) -> Result<Self, TogetherError> {
        config.check(agreed.len())?;
        let zeros = vec![0.0; agreed.len()];
        let velocity = if velocity.is_empty() {
            &zeros
        } else {
            velocity
        };
        check_length("the outer momentum", velocity.len(), agreed.len())?;
        for (what, numbers) in [("weights", agreed), ("the outer momentum", velocity)] {
            if numbers.iter().any(|x| !x.is_finite()) {
                return Err(TogetherError::NotFinite { what });
            }
        }
        Ok(Self {
            config,
            agreed: agreed.to_vec(),
            velocity: velocity.to_vec(),
            feedback: Feedback::new(agreed.len()),
            said: BTreeMap::new(),
        })
    }

    /// What all have agreed on.
    #[must_use]
    pub fn agreed(&self) -> &[f32] {
        &self.agreed
    }

    /// The outer momentum, as [`Diloco::join`] takes it: nothing where there is none.
    #[must_use]
    pub fn velocity(&self) -> &[f32] {
        match self.velocity.iter().all(|x| *x == 0.0) {
            true => &[],
            false => &self.velocity,
        }
    }

    /// What this node has moved by and could not say yet.
    #[must_use]
    pub fn lost(&self) -> &[f32] {
        self.feedback.lost()
    }

    /// The settings that all have.
    #[must_use]
    pub fn config(&self) -> &DilocoConfig {
        &self.config
    }

    /// As [`DilocoConfig::sends`].
    #[must_use]
    pub fn sends(&self, step: u64) -> Option<Turn> {
        self.config.sends(step)
    }

    /// As [`DilocoConfig::arrives`].
    #[must_use]
    pub fn arrives(&self, step: u64) -> Option<Turn> {
        self.config.arrives(step)
    }

    /// Which weights are a fragment. Whole blocks, as even as may be.
    #[must_use]
    pub fn range(&self, fragment: u16) -> Range<usize> {
        let blocks = self.agreed.len().div_ceil(BLOCK);
        let fragments = usize::from(self.config.fragments);
        let begin = |n: usize| (blocks * n / fragments * BLOCK).min(self.agreed.len());
        begin(usize::from(fragment))..begin(usize::from(fragment) + 1)
    }

    /// What each contribution to a turn says of itself.
    #[must_use]
    pub fn header(&self, turn: Turn) -> Header {
        Header {
            kind: Kind::Dense(self.config.precision),
            fragment: turn.fragment,
            round: turn.round,
            // Not more than all weights, which were counted in as many bits.
            numbers: self.range(turn.fragment).len() as u32,
        }
    }

    /// What a contribution of nothing says of itself.
    fn unmoved(&self, turn: Turn) -> Header {
        Header {
            kind: Kind::Unmoved,
            ..self.header(turn)
        }
    }

    /// Bytes of a contribution to a turn, at most: one of a node that has not moved is a header.
    #[must_use]
    pub fn bytes(&self, turn: Turn) -> usize {
        Header::BYTES + self.config.precision.bytes(self.range(turn.fragment).len())
    }

    /// How far this node's weights are from what was agreed on: what it sends to all others, and
    /// takes part with itself. A node whose weights are what was agreed on says that alone, and
    /// what it could not say before stays unsaid.
    ///
    /// # Errors
    /// When there are not as many weights, or one is not finite: then nothing has changed.
    pub fn contribute(&mut self, turn: Turn, weights: &[f32]) -> Result<Vec<u8>, TogetherError> {
        check_length("the weights", weights.len(), self.agreed.len())?;
        let range = self.range(turn.fragment);
        let agreed = &self.agreed[range.clone()];
        let own = &weights[range.clone()];
        let said = digest_of(own);
        if own == agreed {
            self.said.insert(turn.fragment, said);
            let mut out = Vec::with_capacity(Header::BYTES);
            self.unmoved(turn).write(&mut out);
            return Ok(out);
        }
        let moved: Vec<f32> = agreed.iter().zip(own).map(|(x, y)| x - y).collect();
        let mut out = Vec::with_capacity(self.bytes(turn));
        self.header(turn).write(&mut out);
        self.feedback
            .write(self.config.precision, range.start, &moved, &mut out)?;
        self.said.insert(turn.fragment, said);
        Ok(out)
    }

    /// What a node with these weights, which could not say `unsaid` of the fragment before, has to
    /// say of it, and what it then cannot say.
    ///
    /// # Errors
    /// As [`Diloco::contribute`], and when there is not as much unsaid.
    pub fn would_say(
        &self,
        turn: Turn,
        weights: &[f32],
        unsaid: &[f32],
    ) -> Result<(Vec<u8>, Vec<f32>), TogetherError> {
        let range = self.range(turn.fragment);
        check_length("what was not said", unsaid.len(), range.len())?;
        let mut same = self.clone();
        same.feedback.set(range.clone(), unsaid);
        let said = same.contribute(turn, weights)?;
        Ok((said, same.feedback.lost()[range].to_vec()))
    }

    /// What a node's own weights are after a turn, if they were these before and all have agreed on
    /// what this node has.
    #[must_use]
    pub fn taken_over(&self, fragment: u16, agreed: &[f32], weights: &[f32]) -> Vec<f32> {
        let mut all = weights.to_vec();
        let keep = self.keep();
        for (own, agreed) in all[self.range(fragment)].iter_mut().zip(agreed) {
            *own = keep * *own + (1.0 - keep) * agreed;
        }
        all
    }

    /// The same of a node of whose own nothing stays.
    #[must_use]
    pub fn taken_whole(&self, fragment: u16, agreed: &[f32], weights: &[f32]) -> Vec<f32> {
        let mut all = weights.to_vec();
        for (own, agreed) in all[self.range(fragment)].iter_mut().zip(agreed) {
            *own = *agreed;
        }
        all
    }

    /// How much of a node's own weights stays.
    fn keep(&self) -> f32 {
        match self.config.overlap {
            0 => 0.0,
            _ => self.config.keep,
        }
    }

    /// Reads what a node says of its weights. Nothing of it is believed before that.
    ///
    /// # Errors
    /// When it is not what was asked for, or no honest node would write it.
    pub fn read(&self, turn: Turn, bytes: &[u8]) -> Result<Contribution, Unsound> {
        let numbers = self.range(turn.fragment).len();
        let precision = self.config.precision;
        let unmoved = self.unmoved(turn);
        if Header::read(bytes) == Some(unmoved) {
            unmoved.body(bytes, 0)?;
            return Ok(Contribution::Unmoved);
        }
        let body = self.header(turn).body(bytes, precision.bytes(numbers))?;
        read_dense(precision, numbers, body).map(Contribution::Dense)
    }

    /// Makes the outer step of a fragment, and takes it over into this node's own weights. Without
    /// a contribution nothing changes, and neither if nobody has moved: momentum alone leads
    /// nowhere that anybody has looked at.
    ///
    /// # Errors
    /// When there are not as many weights, a contribution is one to something else, or what came
    /// of all together is not finite: then nothing has changed.
    pub fn step<K: Ord>(
        &mut self,
        turn: Turn,
        accepted: &BTreeMap<K, Contribution>,
        weights: &mut [f32],
    ) -> Result<(), TogetherError> {
        check_length("the weights", weights.len(), self.agreed.len())?;
        let range = self.range(turn.fragment);
        let Some(mean) = mean(accepted, range.len())? else {
            if !accepted.is_empty() {
                self.take_over(range, weights);
            }
            return Ok(());
        };
        let (rate, momentum) = (self.config.rate, self.config.momentum);
        let mut next = Vec::with_capacity(range.len());
        for (at, gradient) in range.clone().zip(&mean) {
            // As `torch.optim.SGD(nesterov=True)`.
            let velocity = momentum * self.velocity[at] + gradient;
            let agreed = self.agreed[at] - rate * (gradient + momentum * velocity);
            if !(velocity.is_finite() && agreed.is_finite()) {
                let what = "weights after the outer step";
                return Err(TogetherError::NotFinite { what });
            }
            next.push((velocity, agreed));
        }
        for (at, (velocity, agreed)) in range.clone().zip(next) {
            self.velocity[at] = velocity;
            self.agreed[at] = agreed;
        }
        self.take_over(range, weights);
        Ok(())
    }

    /// Whether nothing was computed since this node has said how far it has moved: its weights are
    /// those of that moment.
    #[must_use]
    pub fn is_as_said(&self, fragment: u16, weights: &[f32]) -> bool {
        let own = weights.get(self.range(fragment));
        own.is_some_and(|own| self.said.get(&fragment) == Some(&digest_of(own)))
    }

    /// Takes what all have agreed on in place of this node's own weights: for one that has computed
    /// nothing while it was under way, and so has nothing of its own to keep.
    ///
    /// # Errors
    /// When there are not as many weights.
    pub fn take_whole(&self, fragment: u16, weights: &mut [f32]) -> Result<(), TogetherError> {
        check_length("the weights", weights.len(), self.agreed.len())?;
        let range = self.range(fragment);
        weights[range.clone()].copy_from_slice(&self.agreed[range]);
        Ok(())
    }

    /// Takes what all have agreed on over into this node's own weights.
    fn take_over(&self, range: Range<usize>, weights: &mut [f32]) {
        let keep = self.keep();
        for at in range {
            weights[at] = keep * weights[at] + (1.0 - keep) * self.agreed[at];
        }
    }

    /// Forgets what this node could not say yet of a fragment: for one that was left out, whose
    /// own weights go on from what the others agreed on.
    pub fn forget(&mut self, fragment: u16) {
        self.feedback.forget(self.range(fragment));
    }
}

#[cfg(test)]
mod tests;
