//! DeMo (arXiv 2411.19870): nodes take every step together and yet send hardly anything. Each keeps
//! a momentum of its own, cuts it into chunks, and sends only the largest frequencies of each
//! chunk; what it has sent it takes out of its momentum, so that the rest is sent in later steps. The
//! step is the sign of what all have sent.
//!
//! As in the authors' code, a frequency is the mean over those who have sent it, and sides of chunks
//! are the largest divisors of a matrix's sides up to 64. Unlike there, amounts are sent in 8 bits
//! with a scale for each chunk; what that loses stays in the momentum.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::contribution::{ChunkCode, Contribution, Header, Kind, Unsound};
use crate::dct::{Dct, forward, inverse};
use crate::error::{TogetherError, check_length};
use crate::quantize::{Precision, code, scale_of};

/// How nodes take steps together.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct DemoConfig {
    /// The largest side of a chunk.
    pub side: usize,
    /// Of so many frequencies one is sent.
    pub one_of: usize,
    /// How much of the momentum is kept from step to step.
    pub decay: f32,
}

impl Default for DemoConfig {
    /// The paper's own: of a chunk of 64 times 64 the largest 32.
    fn default() -> Self {
        Self {
            side: 64,
            one_of: 128,
            decay: 0.999,
        }
    }
}

/// Where a chunk lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Chunk {
    /// Its first element among all parameters.
    start: usize,
    /// From one row to the next.
    stride: usize,
    rows: usize,
    columns: usize,
    /// Its first frequency among all.
    first: usize,
    code: ChunkCode,
}

/// One node's part in a training.
#[derive(Debug, Clone)]
pub struct Demo {
    config: DemoConfig,
    chunks: Vec<Chunk>,
    transforms: BTreeMap<usize, Dct>,
    momentum: Vec<f32>,
}

impl Demo {
    /// Begins, for matrices of these rows and columns, one after the other.
    ///
    /// # Errors
    /// When a setting is none that it may be, or there are no parameters.
    pub fn new(config: DemoConfig, matrices: &[(usize, usize)]) -> Result<Self, TogetherError> {
        let wrong = |what, got: String, want| Err(TogetherError::Setting { what, got, want });
        if !(1..=64).contains(&config.side) {
            let got = config.side.to_string();
            return wrong("the side of a chunk", got, "from 1 to 64");
        }
        if config.one_of == 0 {
            let want = "1 of 1 or more";
            return wrong("the share of frequencies", "1 of 0".to_owned(), want);
        }
        if !(0.0..1.0).contains(&config.decay) {
            let want = "a number of at least 0 and below 1";
            return wrong("the decay of the momentum", config.decay.to_string(), want);
        }
        let mut chunks = Vec::new();
        let mut transforms = BTreeMap::new();
        let mut parameters = 0_usize;
        for &(height, width) in matrices {
            let (rows, columns) = (divisor(height, config.side), divisor(width, config.side));
            for side in [rows, columns] {
                transforms.entry(side).or_insert_with(|| Dct::new(side));
            }
            let size = rows * columns;
            let kept = (size / config.one_of).max(1);
            let along = width / columns;
            for number in 0..height / rows * along {
                let corner = number / along * rows * width + number % along * columns;
                chunks.push(Chunk {
                    start: parameters + corner,
                    stride: width,
                    rows,
                    columns,
                    first: parameters + number * size,
                    code: ChunkCode { size, kept },
                });
            }
            parameters += height * width;
        }
        match u32::try_from(parameters) {
            Ok(1..) => Ok(Self {
                config,
                chunks,
                transforms,
                momentum: vec![0.0; parameters],
            }),
            _ => {
                let want = "from 1 to 2^32 - 1";
                wrong("the number of weights", parameters.to_string(), want)
            }
        }
    }

    /// What this node's gradients came to and was not sent yet.
    #[must_use]
    pub fn momentum(&self) -> &[f32] {
        &self.momentum
    }

    /// Goes on from what another node's gradients came to.
    pub(crate) fn set_momentum(&mut self, momentum: &[f32]) -> Result<(), TogetherError> {
        check_length("the momentum", momentum.len(), self.momentum.len())?;
        self.momentum.copy_from_slice(momentum);
        Ok(())
    }

    /// What each contribution to a step says of itself.
    #[must_use]
    pub fn header(&self, step: u32) -> Header {
        let kept = self.chunks.iter().map(|chunk| chunk.code.kept);
        Header {
            kind: Kind::Frequencies,
            fragment: 0,
            round: step,
            // Not more than all weights, which were counted in as many bits.
            numbers: kept.sum::<usize>() as u32,
        }
    }

    fn body_bytes(&self) -> usize {
        self.chunks.iter().map(|chunk| chunk.code.bytes()).sum()
    }

    /// Bytes of each contribution.
    #[must_use]
    pub fn bytes(&self) -> usize {
        Header::BYTES + self.body_bytes()
    }

    /// Adds a step's gradients to the momentum, and takes out of it what is sent: to all others,
    /// and to this node itself.
    ///
    /// # Errors
    /// When there are not as many gradients, or what comes of them is not finite: then nothing has
    /// changed.
    pub fn contribute(
        &mut self,
        step: u32,
        gradients: &[f32],
        rate: f32,
    ) -> Result<Vec<u8>, TogetherError> {
        check_length("the gradients", gradients.len(), self.momentum.len())?;
        let decay = self.config.decay;
        let mut momentum: Vec<f32> = self
            .momentum
            .iter()
            .zip(gradients)
            .map(|(held, gradient)| decay * held + rate * gradient)
            .collect();
        let mut out = Vec::with_capacity(self.bytes());
        self.header(step).write(&mut out);
        for chunk in &self.chunks {
            self.send(chunk, &mut momentum, &mut out)?;
        }
        self.momentum = momentum;
        Ok(out)
    }

    /// Writes the largest frequencies of a chunk, and takes them out of it.
    fn send(
        &self,
        chunk: &Chunk,
        momentum: &mut [f32],
        out: &mut Vec<u8>,
    ) -> Result<(), TogetherError> {
        let (rows, columns) = (
            &self.transforms[&chunk.rows],
            &self.transforms[&chunk.columns],
        );
        let mut waves: Vec<f32> = chunk.places().map(|at| momentum[at]).collect();
        let mut scratch = vec![0.0; waves.len()];
        forward(rows, columns, &mut waves, &mut scratch);
        let mut largest: Vec<usize> = (0..waves.len()).collect();
        let kept = chunk.code.kept;
        if kept < largest.len() {
            let size = |at: usize| waves[at].abs();
            // Of equal ones the first, so that it is the same everywhere.
            largest.select_nth_unstable_by(kept - 1, |x, y| {
                size(*y).total_cmp(&size(*x)).then(x.cmp(y))
            });
            largest.truncate(kept);
        }
        largest.sort_unstable();
        let amounts: Vec<f32> = largest.iter().map(|at| waves[*at]).collect();
        // A NaN would be the largest of all in the order of all floats.
        let most = Precision::Int8.largest();
        let scale = scale_of(&amounts, most).ok_or(TogetherError::NotFinite {
            what: "the momentum",
        })?;
        let codes = amounts.iter().map(|x| code(*x, scale.to_f32(), most));
        let kept: Vec<(usize, i8)> = largest.iter().copied().zip(codes).collect();
        chunk.code.write(scale, &kept, out);
        waves.fill(0.0);
        for (at, code) in kept {
            waves[at] = f32::from(code) * scale.to_f32();
        }
        inverse(rows, columns, &mut waves, &mut scratch);
        for (at, sent) in chunk.places().zip(waves) {
            momentum[at] -= sent;
        }
        Ok(())
    }

    /// Reads what a node sends of its momentum. Nothing of it is believed before that.
    ///
    /// # Errors
    /// When it is not what was asked for, or no honest node would write it.
    pub fn read(&self, step: u32, bytes: &[u8]) -> Result<Contribution, Unsound> {
        let header = self.header(step);
        let mut rest = header.body(bytes, self.body_bytes())?;
        let mut out = Vec::with_capacity(header.numbers as usize);
        for (number, chunk) in self.chunks.iter().enumerate() {
            rest = chunk.code.read(number, chunk.first, rest, &mut out)?;
        }
        Ok(Contribution::Frequencies(out))
    }

    /// Makes the step: every weight moves by `rate` one way or the other, or not at all, and
    /// shrinks by `rate * decay` of itself. Without a contribution nothing changes.
    ///
    /// # Errors
    /// When there are not as many weights, or a contribution is one to something else: then nothing
    /// has changed.
    pub fn step<K: Ord>(
        &self,
        accepted: &BTreeMap<K, Contribution>,
        rate: f32,
        decay: f32,
        weights: &mut [f32],
    ) -> Result<(), TogetherError> {
        check_length("the weights", weights.len(), self.momentum.len())?;
        if accepted.is_empty() {
            return Ok(());
        }
        let mut sums = vec![(0.0_f64, 0_u32); weights.len()];
        for contribution in accepted.values() {
            let Contribution::Frequencies(own) = contribution else {
                return Err(TogetherError::Setting {
                    what: "a contribution to a step",
                    got: "a number for each weight".to_owned(),
                    want: "frequencies",
                });
            };
            for (at, amount) in own {
                let Some((sum, count)) = sums.get_mut(*at as usize) else {
                    let (got, want) = (*at as usize + 1, weights.len());
                    let what = "the frequencies";
                    return Err(TogetherError::Length { what, got, want });
                };
                *sum += f64::from(*amount);
                *count += 1;
            }
        }
        for chunk in &self.chunks {
            let own = &sums[chunk.first..chunk.first + chunk.code.size];
            let mut waves: Vec<f32> = own
                .iter()
                .map(|(sum, count)| (sum / f64::from((*count).max(1))) as f32)
                .collect();
            let mut scratch = vec![0.0; waves.len()];
            let (rows, columns) = (
                &self.transforms[&chunk.rows],
                &self.transforms[&chunk.columns],
            );
            inverse(rows, columns, &mut waves, &mut scratch);
            for (at, x) in chunk.places().zip(waves) {
                // `signum` of 0 is 1; what nobody has an opinion of stays.
                let sign = if x == 0.0 { 0.0 } else { x.signum() };
                weights[at] -= rate * (decay * weights[at] + sign);
            }
        }
        Ok(())
    }
}

impl Chunk {
    /// Its elements among all parameters, row by row.
    fn places(&self) -> impl Iterator<Item = usize> + use<> {
        let (start, stride, columns) = (self.start, self.stride, self.columns);
        (0..self.rows).flat_map(move |row| {
            let begin = start + row * stride;
            begin..begin + columns
        })
    }
}

/// The largest number up to `most` by which `number` can be divided.
fn divisor(number: usize, most: usize) -> usize {
    let fits = (1..=most.min(number))
        .rev()
        .find(|side| number.is_multiple_of(*side));
    fits.unwrap_or(1)
}

#[cfg(test)]
mod tests;
