//! The largest activations of a chunk, found while it comes in.

use half::bf16;

use super::{ActivationError, Entry, LARGEST, MAX_STATES, States, exponent};

/// How many candidates are kept before the smaller ones are thrown out.
const ROOM: usize = 8 * LARGEST;
/// Activations that are looked at together: those too small to matter are passed over as one.
const BLOCK: usize = 64;

/// What could still be among the largest.
#[derive(Clone, Debug, Default)]
pub(super) struct Largest {
    seen: usize,
    /// Only magnitudes above this can be among the largest: 128 at least this large are known.
    floor: Option<u16>,
    candidates: Vec<Entry>,
}

fn magnitude(bits: u16) -> u16 {
    bits & 0x7fff
}

impl Largest {
    /// Takes more activations. After an error nothing more should be asked of it.
    pub(super) fn push(&mut self, states: States<'_>) -> Result<(), ActivationError> {
        let seen = self.seen.saturating_add(states.len());
        if seen > MAX_STATES {
            return Err(ActivationError::Size { found: seen });
        }
        let mut block = [0; BLOCK];
        match states {
            States::F32(states) => {
                for part in states.chunks(BLOCK) {
                    for (bits, state) in block.iter_mut().zip(part) {
                        *bits = rounded(*state);
                    }
                    self.take(&block[..part.len()])?;
                }
            }
            States::Bf16(states) => {
                for part in states.chunks(BLOCK) {
                    for (bits, state) in block.iter_mut().zip(part) {
                        *bits = state.to_bits();
                    }
                    self.take(&block[..part.len()])?;
                }
            }
        }
        Ok(())
    }

    fn take(&mut self, block: &[u16]) -> Result<(), ActivationError> {
        let most = block
            .iter()
            .fold(0, |most, bits| most.max(magnitude(*bits)));
        if exponent(most) == 0xff {
            let place = block.iter().position(|bits| exponent(*bits) == 0xff);
            return Err(ActivationError::NotFinite {
                place: self.seen + place.unwrap_or_default(),
            });
        }
        if self.floor.is_none_or(|floor| most > floor) {
            for (offset, bits) in block.iter().enumerate() {
                if self.floor.is_none_or(|floor| magnitude(*bits) > floor) {
                    self.candidates.push(Entry {
                        place: u32::try_from(self.seen + offset).unwrap_or(u32::MAX),
                        bits: *bits,
                    });
                }
            }
            if self.candidates.len() >= ROOM {
                self.throw_out();
            }
        }
        self.seen += block.len();
        Ok(())
    }

    /// Keeps the largest only; of equal ones the first, which is why nothing that equals the
    /// floor and comes later is looked at again.
    fn throw_out(&mut self) {
        if self.candidates.len() <= LARGEST {
            return;
        }
        self.candidates
            .select_nth_unstable_by_key(LARGEST - 1, |entry| {
                (u16::MAX - magnitude(entry.bits), entry.place)
            });
        self.candidates.truncate(LARGEST);
        self.floor = self.candidates.last().map(|entry| magnitude(entry.bits));
    }

    /// The largest, in the order of their places.
    pub(super) fn finish(mut self) -> Result<Vec<Entry>, ActivationError> {
        if self.seen == 0 {
            return Err(ActivationError::Size { found: 0 });
        }
        self.throw_out();
        self.candidates.sort_unstable_by_key(|entry| entry.place);
        Ok(self.candidates)
    }
}

/// To the nearest bfloat16, halves to even. What is not a number stays none.
fn rounded(state: f32) -> u16 {
    let bits = state.to_bits();
    if bits & 0x7fff_ffff > 0x7f80_0000 {
        return bf16::NAN.to_bits();
    }
    let odd = bits >> 16 & 1;
    ((bits + 0x7fff + odd) >> 16) as u16
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn they_are_the_first_of_a_stable_sort(
            bits in proptest::collection::vec(0..0x7f80_u16, 1..3_000),
            narrow: bool,
            cut in 1..500_usize,
        ) {
            // Few different magnitudes make many equal ones.
            let states: Vec<bf16> = bits
                .into_iter()
                .map(|bits| bf16::from_bits(if narrow { bits % 16 } else { bits }))
                .collect();
            let mut largest = Largest::default();
            for part in states.chunks(cut) {
                largest.push(States::Bf16(part)).unwrap();
            }
            let mut expected: Vec<usize> = (0..states.len()).collect();
            expected.sort_by_key(|place| u16::MAX - magnitude(states[*place].to_bits()));
            expected.truncate(LARGEST);
            expected.sort_unstable();
            let found: Vec<usize> = largest.finish().unwrap().iter().map(|e| e.place as usize).collect();
            prop_assert_eq!(found, expected);
        }

        #[test]
        fn rounding_is_that_of_the_library(bits: u32) {
            let state = f32::from_bits(bits);
            let expected = bf16::from_f32(state);
            match expected.is_nan() {
                true => prop_assert!(bf16::from_bits(rounded(state)).is_nan()),
                false => prop_assert_eq!(rounded(state), expected.to_bits()),
            }
        }
    }
}
