//! Cutting an input into shards: runs of whole records, in order.

use std::ops::Range;

/// How large shards may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ShardLimits {
    /// Records in one shard, at least 1.
    pub records: u64,
    /// Bytes in one shard. A record that is larger by itself has a shard of its own.
    pub bytes: u64,
}

/// Why an input cannot be cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SplitError {
    /// A record beyond what any node takes.
    #[error(
        "record {} of the input has {size} bytes, and one may have {limit}; make it shorter",
        .record + 1
    )]
    RecordTooLarge {
        /// Which, from 0.
        record: u64,
        /// Its size.
        size: u64,
        /// The most it may be.
        limit: u64,
    },
    /// More shards than are counted.
    #[error(
        "the input makes more than {} shards; allow more records in each",
        u32::MAX
    )]
    TooManyShards,
}

/// The largest record that any node takes: 64 MiB.
pub const MAX_RECORD: u64 = 64 << 20;

/// The runs of records that make the shards, given each record's size in bytes. Each record is in
/// exactly one shard, and their order is that of the input. An empty input has no shards.
///
/// # Errors
///
/// When a record is too large, or there are too many shards.
pub fn split(
    sizes: impl IntoIterator<Item = u64>,
    limits: ShardLimits,
) -> Result<Vec<Range<u64>>, SplitError> {
    let mut shards = Vec::new();
    let (mut start, mut bytes, mut next) = (0, 0_u64, 0);
    for size in sizes {
        if size > MAX_RECORD {
            return Err(SplitError::RecordTooLarge {
                record: next,
                size,
                limit: MAX_RECORD,
            });
        }
        let is_full =
            next - start >= limits.records.max(1) || bytes.saturating_add(size) > limits.bytes;
        if next > start && is_full {
            shards.push(start..next);
            (start, bytes) = (next, 0);
        }
        bytes = bytes.saturating_add(size);
        next += 1;
    }
    if next > start {
        shards.push(start..next);
    }
    match u32::try_from(shards.len()) {
        Ok(_) => Ok(shards),
        Err(_) => Err(SplitError::TooManyShards),
    }
}

/// Limits by which an input of so many records makes about `wanted` shards of the same length.
#[must_use]
pub fn limits_for(records: u64, wanted: u32, bytes: u64) -> ShardLimits {
    ShardLimits {
        records: records.div_ceil(u64::from(wanted.max(1))).max(1),
        bytes,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn every_record_is_in_one_shard_and_in_order(
            sizes in proptest::collection::vec(0..2_000_u64, 0..200),
            records in 0..20_u64,
            bytes in 0..5_000_u64,
        ) {
            let limits = ShardLimits { records, bytes };
            let shards = split(sizes.iter().copied(), limits).unwrap();
            let mut next = 0;
            for shard in &shards {
                prop_assert_eq!(shard.start, next);
                prop_assert!(shard.end > shard.start);
                prop_assert!(shard.end - shard.start <= records.max(1));
                let range = shard.start as usize..shard.end as usize;
                let sum: u64 = sizes[range].iter().sum();
                prop_assert!(sum <= bytes || shard.end - shard.start == 1);
                next = shard.end;
            }
            prop_assert_eq!(next, sizes.len() as u64);
        }

        #[test]
        fn about_as_many_shards_as_wanted(records in 1..5_000_u64, wanted in 1..100_u32) {
            let limits = limits_for(records, wanted, u64::MAX);
            let shards = split(std::iter::repeat_n(1, records as usize), limits).unwrap();
            prop_assert!(shards.len() <= wanted as usize);
            prop_assert!(shards.len() as u64 * 2 >= records.min(u64::from(wanted)));
        }
    }

    #[test]
    fn one_large_record_is_a_shard_and_a_giant_is_refused() {
        let limits = ShardLimits {
            records: 100,
            bytes: 1_000,
        };
        let shards = split([10, 10, 10 << 20, 10], limits).unwrap();
        assert_eq!(shards, [0..2, 2..3, 3..4]);
        assert!(matches!(
            split([1, MAX_RECORD + 1], limits),
            Err(SplitError::RecordTooLarge { record: 1, .. })
        ));
    }
}
