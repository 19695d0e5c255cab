//! Numbers that look random and are a function of a seed and a counter.
//!
//! Which elements are dropped must be the same in the backward pass as in the forward pass, and
//! the same again when a training is resumed: so no generator with a state, but a hash of where
//! the element is.

/// A hash of a counter (SplitMix64, Steele, Lea and Flood, OOPSLA 2014).
pub(crate) fn hash(seed: u64, counter: u64) -> u64 {
    let mut x = seed.wrapping_add(counter.wrapping_mul(0x9e37_79b9_7f4a_7c15));
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

/// A number from 0 up to but not including 1.
pub(crate) fn uniform(seed: u64, counter: u64) -> f32 {
    (hash(seed, counter) >> 40) as f32 / (1_u32 << 24) as f32
}

/// Elements from -1 to 1 for tests, the same ones for a seed.
#[cfg(test)]
pub(crate) fn test_values(count: usize, seed: u64) -> Vec<f32> {
    let one = |n| 2.0 * uniform(seed, n as u64) - 1.0;
    (0..count).map(one).collect()
}
