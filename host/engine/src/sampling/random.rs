//! Random numbers by their place.
//!
//! Philox4x32-10 (Salmon, Moraes, Dror, Shaw: "Parallel Random Numbers: As Easy as 1, 2, 3",
//! SC 2011, section 3.3): a block cipher with few rounds that turns a counter into 128 random
//! bits under a key. There is no state to keep, to share or to rewind.

/// The number in [0, 1) of a text's token, a multiple of 2⁻⁵³.
pub(crate) fn uniform(seed: u64, sample: u64, token: u32) -> f64 {
    let key = [seed as u32, (seed >> 32) as u32];
    let counter = [token, 0, sample as u32, (sample >> 32) as u32];
    let [low, high, ..] = philox(counter, key);
    let bits = u64::from(high) << 32 | u64::from(low);
    (bits >> 11) as f64 * (1.0 / (1_u64 << 53) as f64)
}

fn philox(mut counter: [u32; 4], mut key: [u32; 2]) -> [u32; 4] {
    for _ in 0..10 {
        let [a, b, c, d] = counter;
        let first = u64::from(a) * 0xd251_1f53;
        let second = u64::from(c) * 0xcd9e_8d57;
        counter = [
            (second >> 32) as u32 ^ b ^ key[0],
            second as u32,
            (first >> 32) as u32 ^ d ^ key[1],
            first as u32,
        ];
        // The golden ratio and the square root of 3, less 1.
        key[0] = key[0].wrapping_add(0x9e37_79b9);
        key[1] = key[1].wrapping_add(0xbb67_ae85);
    }
    counter
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_authors_known_answers() {
        for (counter, key, want) in [
            (
                [0; 4],
                [0; 2],
                [0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8],
            ),
            (
                [u32::MAX; 4],
                [u32::MAX; 2],
                [0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd],
            ),
            (
                [0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344],
                [0xa4093822, 0x299f31d0],
                [0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1],
            ),
        ] {
            assert_eq!(philox(counter, key), want);
        }
    }

    #[test]
    fn numbers_are_below_one_and_differ_by_every_part_of_their_place() {
        let all = [
            uniform(1, 0, 0),
            uniform(1 << 32, 0, 0),
            uniform(0, 1, 0),
            uniform(0, 1 << 32, 0),
            uniform(0, 0, 1),
            uniform(0, 0, 0),
        ];
        for (n, x) in all.iter().enumerate() {
            assert!((0.0..1.0).contains(x));
            assert!(!all[..n].contains(x));
        }
    }
}
