//! Which topics a node has, in at most 2 KiB: a Bloom filter.
//!
//! It may say yes to what is not in it, about once in a hundred times. Discovery only suggests, so
//! that costs one question too many; and what a node has cannot be read out of it.

use serde::{Deserialize, Serialize};

use crate::topic::Topic;

/// The most bytes of a filter.
const MAX_BYTES: usize = 2048;
/// The fewest.
const MIN_BYTES: usize = 32;
/// Bits for each topic.
const BITS_EACH: usize = 10;
/// Bits that a topic sets.
const HASHES: usize = 6;

/// A set of topics.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Filter {
    bits: Vec<u8>,
}

impl Filter {
    /// The most topics that are in one.
    pub(crate) const CAPACITY: usize = MAX_BYTES * 8 / BITS_EACH;

    /// The filter of these topics, or of the first [`CAPACITY`](Self::CAPACITY) of them.
    pub(crate) fn of(topics: &[Topic]) -> Self {
        let topics = &topics[..topics.len().min(Self::CAPACITY)];
        let bytes = (topics.len() * BITS_EACH).div_ceil(8);
        let bytes = bytes.next_power_of_two().clamp(MIN_BYTES, MAX_BYTES);
        let mut bits = vec![0; bytes];
        for topic in topics {
            for (byte, mask) in places(topic, bytes) {
                bits[byte] |= mask;
            }
        }
        Self { bits }
    }

    /// Whether a topic is in it, or seems to be.
    pub(crate) fn has(&self, topic: &Topic) -> bool {
        let mut places = places(topic, self.bits.len());
        !self.bits.is_empty() && places.all(|(byte, mask)| self.bits[byte] & mask != 0)
    }

    /// Whether it is one that [`of`](Self::of) can make. One with more bits set says yes to too
    /// much: its owner would be asked for everything.
    pub(crate) fn is_sound(&self) -> bool {
        let bytes = self.bits.len();
        let ones: u32 = self.bits.iter().map(|byte| byte.count_ones()).sum();
        bytes.is_power_of_two()
            && (MIN_BYTES..=MAX_BYTES).contains(&bytes)
            && ones as usize <= bytes * 8 / BITS_EACH * HASHES
    }
}

/// The bits of a topic, each by its byte and its place in that. A topic is a hash already.
fn places(topic: &Topic, bytes: usize) -> impl Iterator<Item = (usize, u8)> + use<> {
    let bits = (bytes * 8).max(1);
    let hash = *topic.as_bytes();
    (0..HASHES).map(move |number| {
        let part: [u8; 4] = std::array::from_fn(|at| hash[number * 4 + at]);
        let bit = u32::from_be_bytes(part) as usize % bits;
        (bit / 8, 1 << (bit % 8))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn topics(from: u64, count: usize) -> Vec<Topic> {
        let digest = |number: u64| *blake3::hash(&number.to_be_bytes()).as_bytes();
        (from..)
            .take(count)
            .map(|n| Topic::blob(&digest(n)))
            .collect()
    }

    #[test]
    fn all_that_is_in_is_found_and_little_else() {
        for count in [0, 1, 25, 26, 400, Filter::CAPACITY] {
            let inside = topics(0, count);
            let filter = Filter::of(&inside);
            assert!(filter.is_sound(), "{count}");
            assert!(inside.iter().all(|topic| filter.has(topic)), "{count}");
            let outside = topics(1 << 32, 10_000);
            let wrong = outside.iter().filter(|topic| filter.has(topic)).count();
            assert!(wrong < 300, "{count}: {wrong} of 10,000");
        }
    }

    #[test]
    fn more_than_fits_is_cut_and_stays_sound() {
        let many = topics(0, 5 * Filter::CAPACITY);
        let filter = Filter::of(&many);
        assert!(filter.is_sound());
        assert!(many[..Filter::CAPACITY].iter().all(|t| filter.has(t)));
    }

    #[test]
    fn a_filter_that_says_yes_to_everything_is_not_sound() {
        for bits in [
            vec![0xff; 32],
            vec![0xff; 2048],
            vec![0; 33],
            vec![0; 4096],
            vec![],
        ] {
            assert!(!Filter { bits }.is_sound());
        }
    }
}
