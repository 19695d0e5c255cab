//! What is missing of a blob, cut into pieces that workers take one after the other.
//!
//! Every piece is of one blob, none overlaps another, and together they are what is missing.

use bao_tree::{ChunkNum, ChunkRanges};
use skep_registry::Digest;

use crate::transfer::Piece;

/// The largest piece, in bytes: a multiple of the group, large enough that the hash pairs above
/// it and the round trip do not matter.
pub(crate) const LARGEST_PIECE: u64 = 32 << 20;
/// The smallest, which is still large enough for that where providers are near.
pub(crate) const SMALLEST_PIECE: u64 = 512 << 10;

/// Cuts the missing chunks of a blob into pieces of so many bytes.
pub(crate) fn pieces(digest: Digest, size: u64, missing: &ChunkRanges, piece: u64) -> Vec<Piece> {
    let mut out = Vec::new();
    let total = ChunkNum::chunks(size);
    let step = piece / 1024;
    let mut start = ChunkNum(0);
    while start < total {
        let end = ChunkNum(start.0 + step).min(total);
        let ranges = missing & &ChunkRanges::from(start..end);
        if !ranges.is_empty() {
            out.push(Piece {
                digest,
                size,
                ranges,
            });
        }
        start = end;
    }
    out
}

/// How many bytes of a blob of `size` bytes lie in `ranges`.
pub(crate) fn bytes_of(ranges: &ChunkRanges, size: u64) -> u64 {
    let byte = |chunk: &ChunkNum| chunk.to_bytes().min(size);
    let bounds = ranges.boundaries().chunks(2);
    bounds
        .map(|bound| match bound {
            [start, end] => byte(end) - byte(start),
            [start] => size - byte(start),
            _ => 0,
        })
        .sum()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::transfer::GROUP;

    proptest! {
        #[test]
        fn pieces_cover_exactly_what_is_missing(
            size in 1_u64..200_000_000,
            groups in SMALLEST_PIECE / GROUP..=LARGEST_PIECE / GROUP,
            mut cuts in prop::collection::btree_set(0_u64..200_000, 0..8),
        ) {
            let total = ChunkNum::chunks(size);
            if cuts.len() % 2 == 1 {
                cuts.pop_last();
            }
            let mut here = ChunkRanges::empty();
            let cuts: Vec<_> = cuts.into_iter().collect();
            for pair in cuts.chunks(2) {
                here |= ChunkRanges::from(ChunkNum(pair[0])..ChunkNum(pair[1]));
            }
            let missing = &ChunkRanges::from(..total) - &here;
            let all = ChunkRanges::from(..total);
            prop_assert_eq!(
                bytes_of(&missing, size) + bytes_of(&(&all - &missing), size),
                size
            );
            let mut union = ChunkRanges::empty();
            for piece in pieces(Digest::of(b"x"), size, &missing, groups * GROUP) {
                prop_assert!(!piece.ranges.is_empty());
                prop_assert!(!union.intersects(&piece.ranges));
                union |= piece.ranges;
            }
            prop_assert_eq!(union, missing);
        }
    }

    #[test]
    fn the_last_chunk_counts_as_long_as_it_is() {
        let chunks = |start, end| ChunkRanges::from(ChunkNum(start)..ChunkNum(end));
        assert_eq!(bytes_of(&chunks(0, 2), 1_500), 1_500);
        assert_eq!(bytes_of(&chunks(1, 2), 1_500), 476);
        assert_eq!(bytes_of(&(&chunks(0, 1) | &chunks(2, 4)), 10_000), 3_072);
        assert_eq!(bytes_of(&ChunkRanges::from(ChunkNum(1)..), 1_500), 476);
        assert_eq!(bytes_of(&ChunkRanges::empty(), 1_500), 0);
    }
}
