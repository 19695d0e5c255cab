//! Rows that are unpacked as a product needs them.

use std::ops::Range;

/// A matrix of which any part of a row can be unpacked.
pub(crate) trait RowSource: Sync {
    /// Rows.
    fn rows(&self) -> usize;

    /// Elements of a row.
    fn columns(&self) -> usize;

    /// All of it, where it lies as floats: then nothing has to be unpacked.
    fn floats(&self) -> Option<&[f32]> {
        None
    }

    /// Writes these columns of a row to `out`, which has as many elements. Ranges begin at
    /// multiples of 256 and end at one or at the end of the row.
    fn read(&self, row: usize, columns: Range<usize>, out: &mut [f32]);
}
