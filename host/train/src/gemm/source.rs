//! Rows that are unpacked as a product needs them.

use std::ops::Range;

/// A matrix of which any part of a row can be unpacked.
pub(crate) trait RowSource: Sync {
    /// Rows.
    fn rows(&self) -> usize;

    /// Elements of a row.
    fn columns(&self) -> usize;

    /// Writes these columns of a row to `out`, which has as many elements. Ranges begin at
    /// multiples of 256 and end at one or at the end of the row.
    fn read(&self, row: usize, columns: Range<usize>, out: &mut [f32]);
}
