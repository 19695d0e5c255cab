//! Shapes: their checks, their broadcasting and how they read in an error.
//!
//! Whatever a caller says about extents goes through here before anything is computed from
//! it, so that no product of extents overflows anywhere else.

use std::fmt;

use crate::dtype::DType;
use crate::error::TensorError;

/// The most axes that a tensor has.
pub const MAX_RANK: usize = 6;

/// The most elements that a tensor has: more than any device holds, and few enough that a
/// small multiple of it in bytes is far from overflowing a `u64`.
pub(crate) const MAX_ELEMENTS: u64 = 1 << 48;

/// A checked shape: at most [`MAX_RANK`] extents, and at most [`MAX_ELEMENTS`] elements.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Shape {
    /// Those beyond `rank` are 0.
    extents: [u32; MAX_RANK],
    rank: u8,
    elements: u64,
}

impl Shape {
    /// The shape of a scalar.
    pub const SCALAR: Shape = Shape {
        extents: [0; MAX_RANK],
        rank: 0,
        elements: 1,
    };

    /// Checks `extents`, which `operator` was given or would return.
    pub fn new(operator: &str, extents: &[u32]) -> Result<Shape, TensorError> {
        if extents.len() > MAX_RANK {
            return Err(too_many_axes(operator, extents.len()));
        }
        let mut shape = Shape::SCALAR;
        shape.rank = extents.len() as u8;
        for (slot, extent) in shape.extents.iter_mut().zip(extents) {
            *slot = *extent;
        }
        shape.elements = count(extents).ok_or_else(|| too_large(operator, extents))?;
        Ok(shape)
    }

    /// The extents, outermost first.
    pub fn extents(&self) -> &[u32] {
        &self.extents[..usize::from(self.rank)]
    }

    /// The number of axes.
    pub fn rank(&self) -> usize {
        usize::from(self.rank)
    }

    /// The number of elements, which is at most [`MAX_ELEMENTS`].
    pub fn elements(&self) -> u64 {
        self.elements
    }

    /// The number of elements as an index. Lossless where there are elements to index.
    pub fn len(&self) -> usize {
        self.elements as usize
    }

    /// Whether there is no element.
    pub fn is_empty(&self) -> bool {
        self.elements == 0
    }

    /// The bytes of the elements.
    pub fn bytes(&self, dtype: DType) -> u64 {
        self.elements * dtype.size() as u64
    }

    /// The extent of an axis that was checked.
    pub fn extent(&self, axis: usize) -> u32 {
        self.extents[axis]
    }

    /// Checks `axis`, which counts from the end where it is negative.
    pub fn axis(&self, operator: &str, axis: i32) -> Result<usize, TensorError> {
        let rank = i32::from(self.rank);
        let index = if axis < 0 {
            axis.saturating_add(rank)
        } else {
            axis
        };
        if (0..rank).contains(&index) {
            Ok(index as usize)
        } else {
            Err(TensorError::Invalid(format!(
                "{operator}: axis {axis} is out of range for the shape {self}"
            )))
        }
    }

    /// The elements before, along and after `axis`: a row-major tensor is that many blocks of
    /// rows of inner elements. Only for shapes that are not empty.
    pub fn split(&self, axis: usize) -> (usize, usize, usize) {
        let product = |extents: &[u32]| extents.iter().map(|e| *e as usize).product();
        let extents = self.extents();
        (
            product(&extents[..axis]),
            extents[axis] as usize,
            product(&extents[axis + 1..]),
        )
    }

    /// This shape with another extent on one axis.
    pub fn with_extent(
        &self,
        operator: &str,
        axis: usize,
        extent: u32,
    ) -> Result<Shape, TensorError> {
        let mut extents = self.extents;
        extents[axis] = extent;
        Shape::new(operator, &extents[..self.rank()])
    }

    /// This shape after reducing `axis`, which is kept with extent 1 if `keep` is set.
    pub fn reduced(&self, operator: &str, axis: usize, keep: bool) -> Result<Shape, TensorError> {
        if keep {
            return self.with_extent(operator, axis, 1);
        }
        let mut extents = self.extents;
        extents.copy_within(axis + 1.., axis);
        Shape::new(operator, &extents[..self.rank() - 1])
    }

    /// NumPy's broadcasting of two shapes.
    pub fn broadcast(&self, operator: &str, other: &Shape) -> Result<Shape, TensorError> {
        if self == other {
            return Ok(*self);
        }
        let rank = self.rank().max(other.rank());
        let mut extents = [1; MAX_RANK];
        for (distance, slot) in extents[..rank].iter_mut().rev().enumerate() {
            let (a, b) = (self.extent_at(distance), other.extent_at(distance));
            *slot = match (a, b) {
                (a, b) if a == b => a,
                (1, b) => b,
                (a, 1) => a,
                _ => {
                    return Err(TensorError::Invalid(format!(
                        "{operator}: shapes do not broadcast: {self} and {other}"
                    )));
                }
            };
        }
        Shape::new(operator, &extents[..rank])
    }

    /// The extent at a distance from the last axis, 1 where there is no such axis.
    fn extent_at(&self, distance: usize) -> u32 {
        match self.rank().checked_sub(distance + 1) {
            Some(axis) => self.extents[axis],
            None => 1,
        }
    }

    /// The shape that burn is told, with leading extents of 1 up to `rank`. A scalar is [1],
    /// because not every backend knows shapes without an axis.
    pub fn to_burn(self, rank: usize) -> burn::backend::Shape {
        let mut dims = [1_usize; MAX_RANK];
        let rank = rank.max(self.rank()).max(1);
        for (dim, extent) in dims[rank - self.rank()..rank]
            .iter_mut()
            .zip(self.extents())
        {
            *dim = *extent as usize;
        }
        dims[..rank].iter().copied().collect()
    }

    /// For each axis of `target`, by how many elements the flat index into a tensor of this
    /// shape moves when the index on that axis moves by one: 0 where this shape is stretched.
    pub fn strides_in(&self, target: &Shape) -> [usize; MAX_RANK] {
        let mut strides = [0; MAX_RANK];
        let mut step = 1;
        for distance in 0..self.rank().min(target.rank()) {
            let extent = self.extent_at(distance) as usize;
            if extent != 1 {
                strides[target.rank() - 1 - distance] = step;
            }
            step *= extent;
        }
        strides
    }
}

impl fmt::Display for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.extents())
    }
}

impl fmt::Debug for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The number of elements, if it is at most [`MAX_ELEMENTS`].
fn count(extents: &[u32]) -> Option<u64> {
    if extents.contains(&0) {
        return Some(0);
    }
    extents
        .iter()
        .try_fold(1_u64, |product, extent| {
            product.checked_mul(u64::from(*extent))
        })
        .filter(|elements| *elements <= MAX_ELEMENTS)
}

#[cold]
fn too_many_axes(operator: &str, rank: usize) -> TensorError {
    TensorError::Invalid(format!(
        "{operator}: a shape has at most {MAX_RANK} axes, not {rank}"
    ))
}

#[cold]
fn too_large(operator: &str, extents: &[u32]) -> TensorError {
    TensorError::Invalid(format!(
        "{operator}: the shape {extents:?} has more elements than any device holds"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shape(extents: &[u32]) -> Shape {
        Shape::new("test", extents).unwrap()
    }

    #[test]
    fn products_are_checked_and_zero_wins() {
        assert_eq!(shape(&[]).elements(), 1);
        assert_eq!(shape(&[2, 3]).elements(), 6);
        assert_eq!(shape(&[u32::MAX, u32::MAX, u32::MAX, 0]).elements(), 0);
        assert!(Shape::new("zeros", &[u32::MAX; 6]).is_err());
        assert!(Shape::new("zeros", &[1; 7]).is_err());
    }

    #[test]
    fn broadcasting_follows_numpy() {
        type Case<'a> = (&'a [u32], &'a [u32], Option<&'a [u32]>);
        let cases: [Case<'_>; 7] = [
            (&[2, 3], &[3], Some(&[2, 3])),
            (&[2, 1, 4], &[3, 1], Some(&[2, 3, 4])),
            (&[], &[5], Some(&[5])),
            (&[0], &[1], Some(&[0])),
            (&[0, 3], &[3], Some(&[0, 3])),
            (&[0], &[2], None),
            (&[2, 3], &[2], None),
        ];
        for (a, b, expected) in cases {
            let ab = shape(a).broadcast("add", &shape(b));
            let ba = shape(b).broadcast("add", &shape(a));
            assert_eq!(ab, ba.map_err(|_| ab.clone().unwrap_err()));
            assert_eq!(ab.ok().map(|s| s.extents().to_vec()).as_deref(), expected);
        }
    }

    #[test]
    fn axes_count_from_either_end() {
        let shape = shape(&[4, 5, 6]);
        assert_eq!(shape.axis("sum", 0), Ok(0));
        assert_eq!(shape.axis("sum", -1), Ok(2));
        assert_eq!(shape.axis("sum", -3), Ok(0));
        for axis in [3, -4, i32::MIN, i32::MAX] {
            assert!(shape.axis("sum", axis).is_err());
        }
        assert!(Shape::SCALAR.axis("sum", 0).is_err());
        assert!(Shape::SCALAR.axis("sum", -1).is_err());
    }

    #[test]
    fn reducing_removes_or_keeps_the_axis() {
        let shape = shape(&[4, 5, 6]);
        assert_eq!(shape.reduced("sum", 1, true).unwrap().extents(), [4, 1, 6]);
        assert_eq!(shape.reduced("sum", 1, false).unwrap().extents(), [4, 6]);
        assert_eq!(shape.reduced("sum", 2, false).unwrap().extents(), [4, 5]);
        assert_eq!(shape.split(1), (4, 5, 6));
    }

    #[test]
    fn strides_stretch_extents_of_one() {
        let target = shape(&[2, 3, 4]);
        assert_eq!(shape(&[3, 1]).strides_in(&target)[..3], [0, 1, 0]);
        assert_eq!(shape(&[2, 3, 4]).strides_in(&target)[..3], [12, 4, 1]);
        assert_eq!(shape(&[]).strides_in(&target)[..3], [0, 0, 0]);
    }
}
