//! Walking over several broadcast tensors at once.

use crate::shape::{MAX_RANK, Shape};

/// The rows of a shape along its last axis: for each, where it starts in `N` tensors of the
/// given strides.
pub(crate) struct Rows<const N: usize> {
    /// The extents of all axes but the last.
    extents: [usize; MAX_RANK],
    axes: usize,
    strides: [[usize; MAX_RANK]; N],
    index: [usize; MAX_RANK],
    next: Option<[usize; N]>,
    /// The extent of the last axis, 1 for a scalar.
    pub width: usize,
    /// By how many elements each tensor moves along the last axis.
    pub step: [usize; N],
}

impl<const N: usize> Rows<N> {
    /// The rows of a shape that is not empty.
    pub fn new(shape: &Shape, strides: [[usize; MAX_RANK]; N]) -> Self {
        let axes = shape.rank().saturating_sub(1);
        let mut extents = [1; MAX_RANK];
        for (slot, extent) in extents.iter_mut().zip(shape.extents()) {
            *slot = *extent as usize;
        }
        Rows {
            width: extents[axes],
            step: strides.map(|strides| strides[axes]),
            extents,
            axes,
            strides,
            index: [0; MAX_RANK],
            next: Some([0; N]),
        }
    }
}

impl<const N: usize> Iterator for Rows<N> {
    type Item = [usize; N];

    fn next(&mut self) -> Option<[usize; N]> {
        let start = self.next.take()?;
        let mut next = start;
        for axis in (0..self.axes).rev() {
            self.index[axis] += 1;
            for (at, strides) in next.iter_mut().zip(&self.strides) {
                *at += strides[axis];
            }
            if self.index[axis] < self.extents[axis] {
                self.next = Some(next);
                break;
            }
            for (at, strides) in next.iter_mut().zip(&self.strides) {
                *at -= strides[axis] * self.extents[axis];
            }
            self.index[axis] = 0;
        }
        Some(start)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn starts(shape: &[u32], strides: [usize; MAX_RANK]) -> Vec<usize> {
        let shape = Shape::new("test", shape).unwrap();
        Rows::new(&shape, [strides]).map(|[start]| start).collect()
    }

    #[test]
    fn every_row_starts_where_its_strides_say() {
        assert_eq!(starts(&[], [0; 6]), [0]);
        assert_eq!(starts(&[4], [1, 0, 0, 0, 0, 0]), [0]);
        assert_eq!(starts(&[3, 4], [4, 1, 0, 0, 0, 0]), [0, 4, 8]);
        assert_eq!(starts(&[2, 2, 5], [0, 5, 1, 0, 0, 0]), [0, 5, 0, 5]);
        assert_eq!(starts(&[2, 3, 1], [1, 2, 0, 0, 0, 0]), [0, 2, 4, 1, 3, 5]);
    }
}
