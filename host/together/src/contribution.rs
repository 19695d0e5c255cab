//! What a node sends, and reading it from strangers.
//!
//! A header of 15 bytes and then numbers. Whoever reads knows what has to come: which round, which
//! part of the weights, how many numbers in how many bits. So the length is known before anything
//! is read, and whatever differs is refused.
//!
//! | bytes | what |
//! |---|---|
//! | 4 | `skT1` |
//! | 1 | 1: numbers in 8 bits; 2: in 4 bits; 3: the largest frequencies; 4: nothing has moved; 5: gradients |
//! | 2 | which fragment of the weights, little-endian as all of these |
//! | 4 | which round, or step |
//! | 4 | how many numbers |
//!
//! Dense numbers are blocks of 256: a scale (bfloat16) and the codes, in 4 bits the first one in
//! the low half of a byte. Frequencies are chunks: a scale, then the places of those that are sent,
//! rising, in as many bits each as the chunk's size asks for, filled up to a whole byte with zeros;
//! and then a byte for each. Where nothing has moved, nothing
//! follows. Gradients are a bfloat16 each. A scale has no sign and is finite, and with a scale of 0 all codes are
//! 0: so what no honest node writes is told apart from what one does.

use std::collections::BTreeMap;

use half::bf16;

use crate::error::{TogetherError, check_length};
use crate::quantize::{BLOCK, Precision};

/// The first bytes.
const MAGIC: [u8; 4] = *b"skT1";

/// Why a node's contribution is left out.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum Unsound {
    /// There are more or fewer bytes than there have to be.
    #[error("it has {got} bytes and should have {want}")]
    Length {
        /// How many there are.
        got: usize,
        /// How many there should be.
        want: usize,
    },
    /// Its header is another one.
    #[error("its header says {got:?} where {want:?} was asked for")]
    Header {
        /// What it says, if it is a header at all.
        got: Option<Header>,
        /// What it should say.
        want: Header,
    },
    /// A scale is NaN or infinite, so that numbers are.
    #[error("it holds numbers that are not finite, in block {block}")]
    NotFinite {
        /// Which block or chunk, counted from 0.
        block: usize,
    },
    /// Something that no honest node writes: a code or a scale that stands for nothing, or places
    /// that do not rise.
    #[error("block {block} has {what}, which stands for nothing")]
    Malformed {
        /// Which block or chunk, counted from 0.
        block: usize,
        /// What.
        what: &'static str,
    },
    /// It is far larger than those of others.
    #[error(
        "its norm is {norm:.3e}, and at most {limit:.3e} is believed: {times:.1} times the median"
    )]
    Huge {
        /// Its norm.
        norm: f64,
        /// The largest that is believed.
        limit: f64,
        /// How many times the median that is.
        times: f64,
    },
}

/// What kind of numbers there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// One for each parameter.
    Dense(Precision),
    /// The largest frequencies of each chunk.
    Frequencies,
    /// None: the weights are what was agreed on.
    Unmoved,
    /// One for each parameter, in 16 bits.
    Gradients,
}

/// What a contribution says of itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Header {
    /// What kind of numbers there are.
    pub kind: Kind,
    /// Which fragment of the weights.
    pub fragment: u16,
    /// Which round, or step.
    pub round: u32,
    /// How many numbers.
    pub numbers: u32,
}

impl Header {
    /// Bytes of a header.
    pub const BYTES: usize = 15;

    pub(crate) fn write(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&MAGIC);
        out.push(match self.kind {
            Kind::Dense(Precision::Int8) => 1,
            Kind::Dense(Precision::Int4) => 2,
            Kind::Frequencies => 3,
            Kind::Unmoved => 4,
            Kind::Gradients => 5,
        });
        out.extend_from_slice(&self.fragment.to_le_bytes());
        out.extend_from_slice(&self.round.to_le_bytes());
        out.extend_from_slice(&self.numbers.to_le_bytes());
    }

    /// What the first bytes say, or none if they are no header.
    #[must_use]
    pub fn read(bytes: &[u8]) -> Option<Self> {
        let (magic, rest) = bytes.split_first_chunk::<4>()?;
        let (kind, rest) = rest.split_first()?;
        let (fragment, rest) = rest.split_first_chunk::<2>()?;
        let (round, rest) = rest.split_first_chunk::<4>()?;
        let (numbers, _) = rest.split_first_chunk::<4>()?;
        let kind = match (magic == &MAGIC, kind) {
            (true, 1) => Kind::Dense(Precision::Int8),
            (true, 2) => Kind::Dense(Precision::Int4),
            (true, 3) => Kind::Frequencies,
            (true, 4) => Kind::Unmoved,
            (true, 5) => Kind::Gradients,
            _ => return None,
        };
        Some(Self {
            kind,
            fragment: u16::from_le_bytes(*fragment),
            round: u32::from_le_bytes(*round),
            numbers: u32::from_le_bytes(*numbers),
        })
    }

    /// What follows the header, if it is this one and as many bytes follow.
    pub(crate) fn body<'a>(&self, bytes: &'a [u8], want: usize) -> Result<&'a [u8], Unsound> {
        let got = Self::read(bytes);
        if got != Some(*self) {
            return Err(Unsound::Header { got, want: *self });
        }
        let want = want + Self::BYTES;
        match bytes.len() == want {
            true => Ok(&bytes[Self::BYTES..]),
            false => Err(Unsound::Length {
                got: bytes.len(),
                want,
            }),
        }
    }
}

/// What a contribution stands for: numbers that are all finite.
#[derive(Debug, Clone, PartialEq)]
pub enum Contribution {
    /// One number for each parameter of a fragment.
    Dense(Vec<f32>),
    /// Which frequencies, in the order of [`Demo`](crate::Demo)'s chunks, and how much of each.
    Frequencies(Vec<(u32, f32)>),
    /// Zeros for all parameters of a fragment.
    Unmoved,
}

impl Contribution {
    /// The square root of the sum of all squares.
    #[must_use]
    pub fn norm(&self) -> f64 {
        let square = |x: f32| f64::from(x) * f64::from(x);
        let squares: f64 = match self {
            Self::Dense(numbers) => numbers.iter().map(|x| square(*x)).sum(),
            Self::Frequencies(numbers) => numbers.iter().map(|(_, x)| square(*x)).sum(),
            Self::Unmoved => 0.0,
        };
        squares.sqrt()
    }
}

/// The mean of all, summed in 64 bits in the order of whom they are of; none of nobody who moved.
pub(crate) fn mean<K: Ord>(
    accepted: &BTreeMap<K, Contribution>,
    numbers: usize,
) -> Result<Option<Vec<f32>>, TogetherError> {
    if accepted.values().all(|own| *own == Contribution::Unmoved) {
        return Ok(None);
    }
    let mut sums = vec![0.0_f64; numbers];
    for contribution in accepted.values() {
        let own = match contribution {
            Contribution::Dense(own) => own,
            Contribution::Unmoved => continue,
            Contribution::Frequencies(_) => {
                return Err(TogetherError::Setting {
                    what: "a contribution to a mean",
                    got: "frequencies".to_owned(),
                    want: "a number for each weight",
                });
            }
        };
        check_length("the differences", own.len(), numbers)?;
        for (sum, x) in sums.iter_mut().zip(own) {
            *sum += f64::from(*x);
        }
    }
    let count = accepted.len() as f64;
    Ok(Some(
        sums.into_iter().map(|sum| (sum / count) as f32).collect(),
    ))
}

/// Takes a scale, and the bytes after it.
fn scale(bytes: &[u8], block: usize) -> Result<(f32, &[u8]), Unsound> {
    let malformed = |what| Unsound::Malformed { block, what };
    let (bits, rest) = bytes
        .split_first_chunk::<2>()
        .ok_or_else(|| malformed("no scale"))?;
    let scale = bf16::from_bits(u16::from_le_bytes(*bits));
    if !scale.is_finite() {
        return Err(Unsound::NotFinite { block });
    }
    match scale.is_sign_negative() {
        true => Err(malformed("a scale with a sign")),
        false => Ok((scale.to_f32(), rest)),
    }
}

/// The number that a code stands for.
fn number(code: i8, scale: f32, largest: i8, block: usize) -> Result<f32, Unsound> {
    if code < -largest {
        let what = "a code below all others";
        return Err(Unsound::Malformed { block, what });
    }
    if scale == 0.0 && code != 0 {
        let what = "a code without a scale";
        return Err(Unsound::Malformed { block, what });
    }
    let number = f32::from(code) * scale;
    match number.is_finite() {
        true => Ok(number),
        false => Err(Unsound::NotFinite { block }),
    }
}

/// Reads so many numbers from exactly as many bytes as they have.
///
/// # Errors
/// When there are more or fewer bytes, or they are none that are written for finite numbers.
pub(crate) fn read_dense(
    precision: Precision,
    numbers: usize,
    bytes: &[u8],
) -> Result<Vec<f32>, Unsound> {
    let (got, want) = (bytes.len(), precision.bytes(numbers));
    if got != want {
        return Err(Unsound::Length { got, want });
    }
    let largest = precision.largest();
    let mut out = Vec::with_capacity(numbers);
    let mut rest = bytes;
    for block in 0..numbers.div_ceil(BLOCK) {
        let count = BLOCK.min(numbers - block * BLOCK);
        let (scale, after) = scale(rest, block)?;
        let (codes, after) = after.split_at(precision.code_bytes(count));
        for at in 0..count {
            let code = match precision {
                Precision::Int8 => codes[at] as i8,
                // The sign of four bits is the upper one's.
                Precision::Int4 => (codes[at / 2] << (4 * (1 - at % 2))) as i8 >> 4,
            };
            out.push(number(code, scale, largest, block)?);
        }
        let unused = precision == Precision::Int4 && count % 2 == 1;
        if unused && codes[count / 2] >> 4 != 0 {
            let what = "half a byte too many";
            return Err(Unsound::Malformed { block, what });
        }
        rest = after;
    }
    Ok(out)
}

/// A chunk of frequencies on the wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ChunkCode {
    /// Frequencies that there are.
    pub size: usize,
    /// Those of them that are sent.
    pub kept: usize,
}

impl ChunkCode {
    /// Bits of a place.
    fn bits(self) -> u32 {
        usize::BITS - (self.size - 1).leading_zeros()
    }

    fn place_bytes(self) -> usize {
        (self.kept * self.bits() as usize).div_ceil(8)
    }

    pub fn bytes(self) -> usize {
        2 + self.place_bytes() + self.kept
    }

    /// Writes rising places and the codes there.
    pub fn write(self, scale: bf16, kept: &[(usize, i8)], out: &mut Vec<u8>) {
        out.extend_from_slice(&scale.to_bits().to_le_bytes());
        let (mut held, mut have) = (0_u64, 0_u32);
        for (place, _) in kept {
            held |= (*place as u64) << have;
            have += self.bits();
            while have >= 8 {
                out.push(held as u8);
                held >>= 8;
                have -= 8;
            }
        }
        if have > 0 {
            out.push(held as u8);
        }
        out.extend(kept.iter().map(|(_, code)| *code as u8));
    }

    /// Reads a chunk, of which the first frequency has the number `first`, and gives the rest.
    pub fn read<'a>(
        self,
        block: usize,
        first: usize,
        bytes: &'a [u8],
        out: &mut Vec<(u32, f32)>,
    ) -> Result<&'a [u8], Unsound> {
        let malformed = |what| Unsound::Malformed { block, what };
        if bytes.len() < self.bytes() {
            let (got, want) = (bytes.len(), self.bytes());
            return Err(Unsound::Length { got, want });
        }
        let (scale, rest) = scale(bytes, block)?;
        let (places, rest) = rest.split_at(self.place_bytes());
        let (codes, rest) = rest.split_at(self.kept);
        let (mut held, mut have) = (0_u64, 0_u32);
        let mut places = places.iter();
        let mut lowest = 0;
        for code in codes {
            while have < self.bits() {
                held |= u64::from(*places.next().unwrap_or(&0)) << have;
                have += 8;
            }
            let place = (held & ((1 << self.bits()) - 1)) as usize;
            held >>= self.bits();
            have -= self.bits();
            if place < lowest {
                return Err(malformed("places that do not rise"));
            }
            if place >= self.size {
                return Err(malformed("a place outside it"));
            }
            lowest = place + 1;
            let amount = number(*code as i8, scale, Precision::Int8.largest(), block)?;
            out.push(((first + place) as u32, amount));
        }
        match held == 0 {
            true => Ok(rest),
            false => Err(malformed("bits after its places")),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::quantize::write;

    #[test]
    fn what_no_honest_node_writes_is_refused() {
        let mut bytes = Vec::new();
        write(Precision::Int4, &mut [0.5, -0.25, 0.125], &mut bytes).unwrap();
        assert_eq!(bytes.len(), 4);
        let read = |bytes: &[u8]| read_dense(Precision::Int4, 3, bytes);
        assert!(read(&bytes).is_ok());
        let with = |at: usize, byte: u8| {
            let mut changed = bytes.clone();
            changed[at] = byte;
            read(&changed)
        };
        let malformed = |found: Result<Vec<f32>, Unsound>| {
            assert!(
                matches!(found, Err(Unsound::Malformed { block: 0, .. })),
                "{found:?}"
            );
        };
        assert_eq!(with(1, 0x7f), Err(Unsound::NotFinite { block: 0 }));
        malformed(with(1, 0xbd));
        malformed(with(2, 0x08));
        malformed(with(3, 0x11));
        assert!(matches!(read(&bytes[1..]), Err(Unsound::Length { .. })));
        // A code where the scale is nothing.
        malformed(read(&[0, 0, 1, 0]));
        assert_eq!(read(&[0, 0, 0, 0]), Ok(vec![0.0; 3]));
    }

    #[test]
    fn a_scale_that_leads_beyond_all_numbers_is_refused() {
        // The largest scale there is, times 127.
        let bytes = [0x7f, 0x7f, 127];
        assert_eq!(
            read_dense(Precision::Int8, 1, &bytes),
            Err(Unsound::NotFinite { block: 0 })
        );
    }

    #[test]
    fn a_header_is_the_one_that_was_asked_for() {
        let header = Header {
            kind: Kind::Dense(Precision::Int8),
            fragment: 3,
            round: 70_000,
            numbers: 1,
        };
        let mut bytes = Vec::new();
        header.write(&mut bytes);
        assert_eq!(bytes.len(), Header::BYTES);
        bytes.extend([0, 0, 0]);
        assert_eq!(header.body(&bytes, 3), Ok(&[0_u8, 0, 0][..]));
        assert!(matches!(
            header.body(&bytes, 4),
            Err(Unsound::Length { got: 18, want: 19 })
        ));
        let later = Header {
            round: 70_001,
            ..header
        };
        assert!(matches!(
            later.body(&bytes, 3),
            Err(Unsound::Header { got: Some(_), .. })
        ));
        for cut in 0..Header::BYTES {
            assert_eq!(Header::read(&bytes[..cut]), None);
        }
    }

    proptest! {
        #[test]
        fn frequencies_are_read_as_they_were_written(
            size in 1_usize..5000,
            places in prop::collection::btree_set(0_usize..5000, 1..40),
            codes in prop::collection::vec(-127_i8..=127, 40),
        ) {
            let places: Vec<usize> = places.into_iter().filter(|place| *place < size).collect();
            prop_assume!(!places.is_empty());
            let chunk = ChunkCode { size, kept: places.len() };
            let kept: Vec<(usize, i8)> = places.into_iter().zip(codes).collect();
            let mut bytes = Vec::new();
            chunk.write(bf16::from_f32(0.5), &kept, &mut bytes);
            prop_assert_eq!(bytes.len(), chunk.bytes());
            bytes.push(9);
            let mut read = Vec::new();
            let rest = chunk.read(0, 10, &bytes, &mut read).unwrap();
            prop_assert_eq!(rest, &[9_u8][..]);
            let want: Vec<(u32, f32)> = kept
                .iter()
                .map(|(place, code)| (10 + *place as u32, f32::from(*code) * 0.5))
                .collect();
            prop_assert_eq!(read, want);
        }

        #[test]
        fn strangers_bytes_are_refused_or_finite(
            bytes in prop::collection::vec(any::<u8>(), 0..80),
            size in 1_usize..2000,
            kept in 1_usize..8,
        ) {
            let kept = kept.min(size);
            for precision in [Precision::Int8, Precision::Int4] {
                if let Ok(numbers) = read_dense(precision, 70, &bytes) {
                    prop_assert!(numbers.iter().all(|x| x.is_finite()));
                }
            }
            let mut out = Vec::new();
            let chunk = ChunkCode { size, kept };
            if chunk.read(0, 0, &bytes, &mut out).is_ok() {
                prop_assert_eq!(out.len(), kept);
                prop_assert!(out.iter().all(|(at, x)| (*at as usize) < size && x.is_finite()));
                prop_assert!(out.is_sorted_by_key(|(at, _)| *at));
            }
        }
    }
}
