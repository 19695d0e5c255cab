//! Trainings whose every step is made together, in either of two ways: what a node says of its
//! gradients, what it keeps unsaid, and whether somebody else comes to the same.
//!
//! All have the same weights at every step. So who wants to know whether a node has computed what
//! it says needs its examples and where it was ([`Position`]), and nothing else.

use std::collections::BTreeMap;

use crate::all_reduce::AllReduce;
use crate::audit::{Digest, Unlike, agree};
use crate::contribution::{Contribution, Header, Kind, Unsound};
use crate::demo::Demo;
use crate::error::{TogetherError, check_length};
use crate::message::LAST_ROUND;
use crate::method::Method;

/// One node's part in such a training.
#[derive(Debug, Clone)]
pub enum Stepwise {
    /// By the largest frequencies of momenta.
    Demo(Demo),
    /// By the mean of all gradients.
    AllReduce(AllReduce),
}

/// Where a node is at a step, beside its weights, which are everybody's.
#[derive(Debug, Clone, PartialEq)]
pub struct Position {
    /// Batches that it has learned from.
    pub batches: u64,
    /// What its gradients came to and was not said: none where all is said.
    pub unsaid: Vec<f32>,
}

impl Position {
    /// As bytes: the batches, then each number, little-endian.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(8 + 4 * self.unsaid.len());
        out.extend_from_slice(&self.batches.to_le_bytes());
        out.extend(self.unsaid.iter().flat_map(|x| x.to_le_bytes()));
        out
    }

    /// From bytes; none if they are not whole, or a number is not finite.
    #[must_use]
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let (batches, rest) = bytes.split_first_chunk::<8>()?;
        let (words, rest) = rest.as_chunks::<4>();
        let unsaid: Vec<f32> = words.iter().map(|word| f32::from_le_bytes(*word)).collect();
        let is_sound = rest.is_empty() && unsaid.iter().all(|x| x.is_finite());
        is_sound.then(|| Self {
            batches: u64::from_le_bytes(*batches),
            unsaid,
        })
    }

    /// The digest of its bytes.
    #[must_use]
    pub fn digest(&self) -> Digest {
        *blake3::hash(&self.to_bytes()).as_bytes()
    }
}

impl Stepwise {
    /// Begins, for matrices of these rows and columns, one after the other; none where steps are
    /// nodes' own.
    ///
    /// # Errors
    /// When a setting is none that it may be, or there are no parameters.
    pub fn new(
        method: &Method,
        matrices: &[(usize, usize)],
    ) -> Result<Option<Self>, TogetherError> {
        Ok(match method {
            Method::Diloco(_) => None,
            Method::Demo(config) => Some(Self::Demo(Demo::new(*config, matrices)?)),
            Method::AllReduce => {
                let parameters = matrices.iter().map(|(rows, columns)| rows * columns);
                Some(Self::AllReduce(AllReduce::new(parameters.sum())?))
            }
        })
    }

    /// Bytes of each contribution, at most.
    #[must_use]
    pub fn bytes(&self) -> usize {
        match self {
            Self::Demo(demo) => demo.bytes(),
            Self::AllReduce(all) => all.bytes(),
        }
    }

    /// What this node's gradients came to and was not said.
    #[must_use]
    pub fn unsaid(&self) -> &[f32] {
        match self {
            Self::Demo(demo) => demo.momentum(),
            Self::AllReduce(_) => &[],
        }
    }

    /// Says what a step's gradients come to, of a node whose steps are of this size.
    ///
    /// # Errors
    /// When there are not as many, or what comes of them is not finite: then nothing has changed.
    pub fn contribute(
        &mut self,
        step: u32,
        gradients: &[f32],
        rate: f32,
    ) -> Result<Vec<u8>, TogetherError> {
        match self {
            Self::Demo(demo) => demo.contribute(step, gradients, rate),
            Self::AllReduce(all) => all.contribute(step, gradients),
        }
    }

    /// What is said at the end: that this node has come to it.
    #[must_use]
    pub fn at_the_end(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(Header::BYTES);
        self.end().write(&mut out);
        out
    }

    fn end(&self) -> Header {
        let header = match self {
            Self::Demo(demo) => demo.header(LAST_ROUND),
            Self::AllReduce(all) => all.header(LAST_ROUND),
        };
        Header {
            kind: Kind::Unmoved,
            ..header
        }
    }

    /// Reads what a node says at a step, or at the end. Nothing of it is believed before that.
    ///
    /// # Errors
    /// When it is not what was asked for, or no honest node would write it.
    pub fn read(&self, step: u32, bytes: &[u8]) -> Result<Contribution, Unsound> {
        if step == LAST_ROUND {
            self.end().body(bytes, 0)?;
            return Ok(Contribution::Unmoved);
        }
        match self {
            Self::Demo(demo) => demo.read(step, bytes),
            Self::AllReduce(all) => all.read(step, bytes),
        }
    }

    /// Holds what a node has said at a step against what comes of its gradients, computed again:
    /// `before` and `after` is what it had not said.
    ///
    /// # Errors
    /// When it comes to something else, but for rounding.
    pub fn check(
        &self,
        step: u32,
        said: &[u8],
        (before, after): (&[f32], &[f32]),
        gradients: &[f32],
        rate: f32,
    ) -> Result<(), Unlike> {
        let what = "the contribution";
        let unlike = |_| Unlike::Shown { what };
        let mut own = self.clone();
        match &mut own {
            Self::Demo(demo) => demo.set_momentum(before).map_err(unlike)?,
            Self::AllReduce(_) => check_length(what, before.len(), 0).map_err(unlike)?,
        }
        let again = own.contribute(step, gradients, rate).map_err(unlike)?;
        if again == said && own.unsaid() == after {
            return Ok(());
        }
        // Other instructions round otherwise, and of two frequencies of nearly one size take the
        // other one.
        let numbers = |bytes: &[u8]| {
            let read = self.read(step, bytes);
            read.map_err(|_| Unlike::Shown { what })
        };
        let (theirs, ours) = (numbers(said)?, numbers(&again)?);
        let (theirs, ours) = (
            spread(&theirs, gradients.len()),
            spread(&ours, gradients.len()),
        );
        agree(what, &vec![0.0; ours.len()], &theirs, &ours)?;
        agree("what was not said", before, after, own.unsaid())
    }
}

/// A number for each place.
fn spread(contribution: &Contribution, places: usize) -> Vec<f32> {
    match contribution {
        Contribution::Dense(numbers) => numbers.clone(),
        Contribution::Unmoved => vec![0.0; places],
        Contribution::Frequencies(numbers) => {
            let known: BTreeMap<u32, f32> = numbers.iter().copied().collect();
            let places = 0..places as u32;
            places
                .map(|at| known.get(&at).copied().unwrap_or(0.0))
                .collect()
        }
    }
}

#[cfg(test)]
mod tests;
