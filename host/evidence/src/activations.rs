//! Commitments to a model's largest activations: 258 bytes for 32 tokens, against which anyone
//! with the model can check that these tokens came out of it (TOPLOC, arXiv 2501.16007).
//!
//! Machines that compute the same model in another order get other last digits, so that hashes of
//! activations are of no use. What does stay is where the largest activations are and nearly how
//! large. A commitment holds the 128 largest of the last hidden states (after the final norm, in
//! bfloat16) of one chunk: the prompt is a chunk, and so are every 32 tokens that follow, the last
//! one shorter. Each is a point: its place in the chunk modulo m, and its 16 bits as a number. A
//! polynomial over the field of 65,497 elements goes through all points; m is the largest number
//! up to 65,497 that keeps the places apart.
//!
//! ```text
//! commitment = m, 2 bytes, then 128 coefficients from the lowest power on, 2 bytes each,
//!              all with the high byte first
//! ```
//!
//! A verifier computes the same states in one pass over the prover's own tokens, looks where its
//! own largest are, and compares the polynomial's values there with them ([`compare`]). Thresholds
//! decide ([`Thresholds`]); they are calibrated for each pair of devices and each quantization.
//!
//! # What it must never do
//!
//! Commit to states that are not finite, or accept a commitment without a modulus: a polynomial
//! of zeros would pass for one.
//!
//! It says nothing about how tokens were chosen from the states: see [`crate::sampling`].

mod field;
mod largest;

use field::{evaluate, interpolate};
use half::bf16;
use largest::Largest;

/// The states of one chunk, token after token, each of the model's width.
#[derive(Clone, Copy, Debug)]
pub enum States<'a> {
    /// To be rounded to the nearest bfloat16, halves to even.
    F32(&'a [f32]),
    /// As they are.
    Bf16(&'a [bf16]),
}

impl States<'_> {
    fn len(&self) -> usize {
        match self {
            Self::F32(states) => states.len(),
            Self::Bf16(states) => states.len(),
        }
    }
}

/// The tokens of one chunk after the prompt.
pub const CHUNK: usize = 32;
/// The activations in one commitment.
pub const LARGEST: usize = 128;
/// The bytes of one commitment.
pub const BYTES: usize = 2 + 2 * LARGEST;
/// Places of a chunk are counted in 32 bits.
pub const MAX_STATES: usize = u32::MAX as usize;

/// Smaller moduli are never needed, and would let many places share one value.
const MIN_MODULUS: u32 = 1 << 15;

/// Why states have no commitment, or bytes are none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ActivationError {
    /// Infinite or not a number.
    #[error(
        "activation {place} of the chunk is not finite, so nothing it led to can be trusted; \
         check the model's weights and the adapter"
    )]
    NotFinite {
        /// Which activation, counted over the chunk.
        place: usize,
    },
    /// There are none, or more than there are places for.
    #[error("a chunk has 1 to {MAX_STATES} activations, and this has {found}; split it")]
    Size {
        /// How many there are.
        found: usize,
    },
    /// A number of activations that is no multiple of the width.
    #[error("{found} activations are not whole tokens of {width}")]
    Width {
        /// How many there are.
        found: usize,
        /// How many a token has.
        width: usize,
    },
    /// Not one commitment for each chunk of the text.
    #[error("{found} commitments came with a text that has {chunks} chunks; ask for one each")]
    Count {
        /// Commitments.
        found: usize,
        /// Chunks.
        chunks: usize,
    },
    /// Every modulus makes two of the places coincide.
    #[error("no modulus keeps the places of these activations apart; commit to a shorter chunk")]
    NoModulus,
    /// Not the encoding of a commitment.
    #[error("this is no commitment to activations: {reason}")]
    Malformed {
        /// What is wrong with it.
        reason: &'static str,
    },
}

/// A commitment to the largest activations of one chunk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Commitment {
    modulus: u16,
    coefficients: [u16; LARGEST],
}

impl Commitment {
    /// Commits to the states of one chunk: of all of them, the 128 of largest magnitude, of equal
    /// ones the first. A chunk with fewer has points for all it has.
    ///
    /// # Errors
    ///
    /// When a state is not finite, there are none or too many, or no modulus exists.
    pub fn of(states: States<'_>) -> Result<Self, ActivationError> {
        let mut largest = Largest::default();
        largest.push(states)?;
        Self::of_largest(&largest.finish()?)
    }

    fn of_largest(largest: &[Entry]) -> Result<Self, ActivationError> {
        let modulus = modulus_of(largest).ok_or(ActivationError::NoModulus)?;
        let points: Vec<(u16, u16)> = largest
            .iter()
            .map(|entry| (residue(entry.place, modulus), entry.bits))
            .collect();
        let mut coefficients = [0; LARGEST];
        interpolate(&points, &mut coefficients);
        Ok(Self {
            modulus,
            coefficients,
        })
    }

    /// The 258 bytes.
    #[must_use]
    pub fn encode(&self) -> [u8; BYTES] {
        let mut bytes = [0; BYTES];
        let numbers = std::iter::once(&self.modulus).chain(&self.coefficients);
        for (pair, number) in bytes.chunks_exact_mut(2).zip(numbers) {
            pair.copy_from_slice(&number.to_be_bytes());
        }
        bytes
    }

    /// Reads a commitment.
    ///
    /// # Errors
    ///
    /// When the length, the modulus or a coefficient is out of range.
    pub fn decode(bytes: &[u8]) -> Result<Self, ActivationError> {
        let malformed = |reason| ActivationError::Malformed { reason };
        if bytes.len() != BYTES {
            return Err(malformed("it has another length than 258 bytes"));
        }
        let mut numbers = bytes
            .chunks_exact(2)
            .map(|pair| u16::from_be_bytes([pair[0], pair[1]]));
        let modulus = numbers.next().unwrap_or_default();
        let mut coefficients = [0; LARGEST];
        for (coefficient, number) in coefficients.iter_mut().zip(numbers) {
            *coefficient = number;
        }
        if u32::from(modulus) <= MIN_MODULUS || u32::from(modulus) > field::PRIME {
            return Err(malformed("its modulus is not in 32,769 to 65,497"));
        }
        if coefficients.iter().any(|c| u32::from(*c) >= field::PRIME) {
            return Err(malformed("a coefficient is not below 65,497"));
        }
        Ok(Self {
            modulus,
            coefficients,
        })
    }
}

/// One of the largest activations.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Entry {
    /// Where it is in the chunk.
    place: u32,
    /// Its bfloat16 bits.
    bits: u16,
}

/// The exponent of a bfloat16, as it is stored.
fn exponent(bits: u16) -> u16 {
    bits >> 7 & 0xff
}

#[expect(
    clippy::cast_possible_truncation,
    reason = "a rest is below the modulus, which has 16 bits"
)]
fn residue(place: u32, modulus: u16) -> u16 {
    (place % u32::from(modulus)) as u16
}

/// The largest modulus that keeps the places apart.
fn modulus_of(entries: &[Entry]) -> Option<u16> {
    let mut taken = vec![0_u16; field::PRIME as usize];
    // Marks of earlier attempts have other numbers, so that nothing has to be cleared.
    for (attempt, modulus) in (1_u16..).zip((MIN_MODULUS + 1..=field::PRIME).rev()) {
        let apart = entries.iter().all(|entry| {
            let mark = &mut taken[(entry.place % modulus) as usize];
            std::mem::replace(mark, attempt) != attempt
        });
        if apart {
            return u16::try_from(modulus).ok();
        }
    }
    None
}

/// The largest activations of chunk after chunk, as tokens come: only those of one chunk are kept.
#[derive(Clone, Debug)]
struct Chunks {
    width: usize,
    largest: Largest,
    tokens: usize,
}

impl Chunks {
    fn new(width: usize) -> Self {
        Self {
            width,
            largest: Largest::default(),
            tokens: 0,
        }
    }

    fn push_prompt(&mut self, states: States<'_>) -> Result<(), ActivationError> {
        self.check_width(states)?;
        self.largest.push(states)
    }

    /// The chunk that this token ends, if it ends one.
    fn push_token(&mut self, state: States<'_>) -> Result<Option<Vec<Entry>>, ActivationError> {
        self.check_width(state)?;
        if state.len() != self.width {
            return Err(ActivationError::Width {
                found: state.len(),
                width: self.width,
            });
        }
        self.largest.push(state)?;
        self.tokens += 1;
        match self.tokens.is_multiple_of(CHUNK) {
            true => self.end().map(Some),
            false => Ok(None),
        }
    }

    /// The last chunk, if it is a shorter one.
    fn finish(&mut self) -> Result<Option<Vec<Entry>>, ActivationError> {
        match self.tokens.is_multiple_of(CHUNK) {
            true => Ok(None),
            false => self.end().map(Some),
        }
    }

    fn end(&mut self) -> Result<Vec<Entry>, ActivationError> {
        std::mem::take(&mut self.largest).finish()
    }

    fn check_width(&self, states: States<'_>) -> Result<(), ActivationError> {
        match self.width > 0 && states.len().is_multiple_of(self.width) {
            true => Ok(()),
            false => Err(ActivationError::Width {
                found: states.len(),
                width: self.width,
            }),
        }
    }
}

/// Makes the commitments of a text as it is being written, token by token: the work is spread
/// over the tokens, and only the largest activations so far are kept.
#[derive(Clone, Debug)]
pub struct Committer {
    chunks: Chunks,
    commitments: Vec<Commitment>,
}

impl Committer {
    /// For a model whose states have this width.
    #[must_use]
    pub fn new(width: usize) -> Self {
        Self {
            chunks: Chunks::new(width),
            commitments: Vec::new(),
        }
    }

    /// Takes the states of a part of the prompt, whose chunk ends with [`Self::end_prompt`].
    ///
    /// # Errors
    ///
    /// As [`Commitment::of`], or when these are no whole tokens.
    pub fn push_prompt(&mut self, states: States<'_>) -> Result<(), ActivationError> {
        self.chunks.push_prompt(states)
    }

    /// Commits to the prompt.
    ///
    /// # Errors
    ///
    /// As [`Commitment::of`].
    pub fn end_prompt(&mut self) -> Result<(), ActivationError> {
        let largest = self.chunks.end()?;
        self.commit(&largest)
    }

    /// Takes the state of one more token.
    ///
    /// # Errors
    ///
    /// As [`Commitment::of`], or when this is not one token.
    pub fn push_token(&mut self, state: States<'_>) -> Result<(), ActivationError> {
        match self.chunks.push_token(state)? {
            Some(largest) => self.commit(&largest),
            None => Ok(()),
        }
    }

    /// The commitments of all chunks, the last of which may be shorter.
    ///
    /// # Errors
    ///
    /// As [`Commitment::of`].
    pub fn finish(mut self) -> Result<Vec<Commitment>, ActivationError> {
        if let Some(largest) = self.chunks.finish()? {
            self.commit(&largest)?;
        }
        Ok(self.commitments)
    }

    fn commit(&mut self, largest: &[Entry]) -> Result<(), ActivationError> {
        self.commitments.push(Commitment::of_largest(largest)?);
        Ok(())
    }
}

/// The largest activations of one chunk as a verifier found them: what a commitment is compared with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peaks(Vec<Entry>);

/// The bytes of one activation among [`Peaks::encode`]d ones.
const PEAK: usize = 6;

impl Peaks {
    /// The most bytes that the peaks of one chunk have.
    pub const MAX_BYTES: usize = PEAK * LARGEST;

    /// How a commitment to the same chunk compares with them.
    #[must_use]
    pub fn compare(&self, commitment: &Commitment) -> Comparison {
        compare_largest(commitment, &self.0)
    }

    /// Each activation's place in 4 bytes and its 16 bits, with the high byte first, in the order of
    /// their places.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let entries = self.0.iter();
        let bytes = entries.flat_map(|entry| {
            let (place, bits) = (entry.place.to_be_bytes(), entry.bits.to_be_bytes());
            place.into_iter().chain(bits)
        });
        bytes.collect()
    }

    /// Reads peaks.
    ///
    /// # Errors
    ///
    /// When they are none or too many, not in the order of their places, or not finite.
    pub fn decode(bytes: &[u8]) -> Result<Self, ActivationError> {
        let malformed = |reason| Err(ActivationError::Malformed { reason });
        if bytes.is_empty() || bytes.len() > Self::MAX_BYTES || !bytes.len().is_multiple_of(PEAK) {
            return malformed("the peaks of a chunk are 1 to 128 activations of 6 bytes");
        }
        let entries = bytes.chunks_exact(PEAK).map(|entry| Entry {
            place: u32::from_be_bytes([entry[0], entry[1], entry[2], entry[3]]),
            bits: u16::from_be_bytes([entry[4], entry[5]]),
        });
        let entries: Vec<Entry> = entries.collect();
        if !entries.is_sorted_by(|a, b| a.place < b.place) {
            return malformed("the peaks are not in the order of their places");
        }
        if entries.iter().any(|entry| exponent(entry.bits) == 0xff) {
            return malformed("a peak is not finite");
        }
        Ok(Self(entries))
    }
}

/// How each chunk of a text compares: the prompt, then every 32 tokens, the last ones perhaps fewer.
///
/// # Errors
///
/// When there is not one commitment for each chunk.
pub fn compare_all(
    commitments: &[Commitment],
    chunks: &[Peaks],
) -> Result<Vec<Comparison>, ActivationError> {
    if commitments.len() != chunks.len() {
        return Err(ActivationError::Count {
            found: commitments.len(),
            chunks: chunks.len(),
        });
    }
    let pairs = commitments.iter().zip(chunks);
    Ok(pairs
        .map(|(commitment, peaks)| peaks.compare(commitment))
        .collect())
}

/// Finds the largest activations of a text's chunks as a verifier computes them, token by token: what a
/// [`Committer`] commits to, for whoever compares.
#[derive(Clone, Debug)]
pub struct Observer {
    chunks: Chunks,
    peaks: Vec<Peaks>,
}

impl Observer {
    /// For a model whose states have this width.
    #[must_use]
    pub fn new(width: usize) -> Self {
        Self {
            chunks: Chunks::new(width),
            peaks: Vec::new(),
        }
    }

    /// Takes the states of a part of the prompt, whose chunk ends with [`Self::end_prompt`].
    ///
    /// # Errors
    ///
    /// When a state is not finite, there are too many, or these are no whole tokens.
    pub fn push_prompt(&mut self, states: States<'_>) -> Result<(), ActivationError> {
        self.chunks.push_prompt(states)
    }

    /// Ends the prompt's chunk.
    ///
    /// # Errors
    ///
    /// When it has no states.
    pub fn end_prompt(&mut self) -> Result<(), ActivationError> {
        let largest = self.chunks.end()?;
        self.peaks.push(Peaks(largest));
        Ok(())
    }

    /// Takes the state of one more token.
    ///
    /// # Errors
    ///
    /// When it is not finite, or this is not one token.
    pub fn push_token(&mut self, state: States<'_>) -> Result<(), ActivationError> {
        self.peaks.extend(self.chunks.push_token(state)?.map(Peaks));
        Ok(())
    }

    /// The peaks of all chunks, the last of which may be shorter.
    ///
    /// # Errors
    ///
    /// As the last call that took states.
    pub fn finish(mut self) -> Result<Vec<Peaks>, ActivationError> {
        self.peaks.extend(self.chunks.finish()?.map(Peaks));
        Ok(self.peaks)
    }
}

/// How a commitment compares with a verifier's own states.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Comparison {
    /// How many activations were compared: 128, or all if the chunk has fewer; and no fewer than were
    /// committed to.
    pub compared: u32,
    /// How many have the same sign and exponent; of places that are the same modulo that of the
    /// commitment one at most. (The publication leaves signs out; honest activations of that size
    /// never change theirs.)
    pub matches: u32,
    /// The sum of the differences between mantissas, of 7 bits each, over the matches.
    pub mantissa_sum: u32,
    /// Twice the median of these differences; of an even number, the sum of the middle two.
    pub mantissa_median_doubled: u32,
}

/// From where on a chunk is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Thresholds {
    /// There have to be more matches than this, in 128 compared.
    pub matches: u32,
    /// The mean difference between mantissas has to be below this.
    pub mantissa_mean: u32,
    /// The median difference has to be below this.
    pub mantissa_median: u32,
}

impl Default for Thresholds {
    /// What the publication found to divide honest from dishonest across its devices, for models
    /// in bfloat16.
    fn default() -> Self {
        Self {
            matches: 90,
            mantissa_mean: 10,
            mantissa_median: 8,
        }
    }
}

impl Comparison {
    /// Whether the chunk is within the thresholds.
    #[must_use]
    pub fn is_within(&self, thresholds: &Thresholds) -> bool {
        let wide = |a: u32, b: u32| u64::from(a) * u64::from(b);
        wide(self.matches, LARGEST as u32) > wide(thresholds.matches, self.compared)
            && self.matches > 0
            && u64::from(self.mantissa_sum) < wide(thresholds.mantissa_mean, self.matches)
            && u64::from(self.mantissa_median_doubled) < wide(thresholds.mantissa_median, 2)
    }
}

/// Compares a commitment with the verifier's own states of the same chunk, at the places where
/// these are largest.
///
/// # Errors
///
/// When the verifier's states are not finite, none or too many.
pub fn compare(commitment: &Commitment, states: States<'_>) -> Result<Comparison, ActivationError> {
    let mut largest = Largest::default();
    largest.push(states)?;
    Ok(compare_largest(commitment, &largest.finish()?))
}

fn compare_largest(commitment: &Commitment, largest: &[Entry]) -> Comparison {
    let mut differences = Vec::with_capacity(LARGEST);
    // Each point of the polynomial counts once. Otherwise whoever knows a single one could name it
    // 128 times, at places that are apart by the modulus.
    let mut matched = Vec::with_capacity(LARGEST);
    for entry in largest {
        let place = residue(entry.place, commitment.modulus);
        if matched.contains(&place) {
            continue;
        }
        let claimed = evaluate(&commitment.coefficients, place);
        // Sign and exponent are the upper 9 bits.
        if claimed >> 7 == entry.bits >> 7 && exponent(claimed) != 0xff {
            differences.push(u32::from((claimed & 0x7f).abs_diff(entry.bits & 0x7f)));
            matched.push(place);
        }
    }
    differences.sort_unstable();
    let middle = differences.len() / 2;
    let median_doubled = match differences.len() {
        0 => 0,
        odd if odd % 2 == 1 => 2 * differences[middle],
        _ => differences[middle - 1] + differences[middle],
    };
    // Who names fewer than were committed to has not found the rest.
    let committed = commitment.coefficients.iter().rposition(|c| *c != 0);
    let committed = committed.map_or(0, |last| last + 1);
    Comparison {
        compared: largest.len().max(committed) as u32,
        matches: differences.len() as u32,
        mantissa_sum: differences.iter().sum(),
        mantissa_median_doubled: median_doubled,
    }
}

#[cfg(test)]
mod tests;
