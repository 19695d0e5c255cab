//! The same elements, arranged otherwise. Every dtype.
//!
//! Only `reshape` shares memory with its source: whatever it is called on stays charged until
//! the last of them is dropped. The others copy, so that a small piece never keeps a large
//! tensor alive.

use burn::backend::ops::{FloatTensorOps, IntTensorOps};
use burn::backend::{Dispatch, DispatchTensor, Slice};

use crate::cost;
use crate::device::Device;
use crate::dtype::DType;
use crate::error::TensorError;
use crate::launch::{Launch, guard, reserve, reshape};
use crate::shape::{MAX_RANK, Shape};
use crate::tensor::{Storage, Tensor};

/// One axis of a slice: the elements from `start` up to and without `end`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    /// The first element.
    pub start: u32,
    /// The one after the last.
    pub end: u32,
}

impl Tensor {
    /// The block that `spans`, one for each axis, cuts out.
    ///
    /// # Errors
    /// [`TensorError::Invalid`] if a span ends before it starts or beyond its axis.
    pub fn slice(&self, spans: &[Span]) -> Result<Tensor, TensorError> {
        let source = self.layout();
        if spans.len() != source.rank() {
            return Err(TensorError::Invalid(format!(
                "slice: {} spans given for the shape {source}",
                spans.len()
            )));
        }
        let mut extents = [0; MAX_RANK];
        for (axis, span) in spans.iter().enumerate() {
            if span.start > span.end || span.end > source.extent(axis) {
                return Err(TensorError::Invalid(format!(
                    "slice: {}..{} does not lie within axis {axis} of the shape {source}",
                    span.start, span.end
                )));
            }
            extents[axis] = span.end - span.start;
        }
        let shape = Shape::new("slice", &extents[..spans.len()])?;
        if shape.is_empty() {
            return self.nothing(shape, self.dtype());
        }
        if shape == *source {
            self.account().charge_work(1)?;
            return Ok(self.clone());
        }
        let dtype = self.dtype();
        let device = *self.device();
        let x = self.burn("slice")?;
        let slices: Vec<Slice> = spans
            .iter()
            .map(|span| Slice::new(span.start as isize, Some(span.end as isize), 1))
            .collect();
        self.moving("slice", shape, cost::MOVE).run(self, || {
            if dtype.is_float() {
                own(Dispatch::float_slice(x, &slices), dtype, device)
            } else {
                own(Dispatch::int_slice(x, &slices), dtype, device)
            }
        })
    }

    /// The tensors one behind the other along `axis`; their other extents must be equal. The
    /// first one's account is charged.
    ///
    /// # Errors
    /// [`TensorError::Invalid`] if there is no tensor.
    pub fn concat(tensors: &[&Tensor], axis: i32) -> Result<Tensor, TensorError> {
        let Some((first, rest)) = tensors.split_first() else {
            return Err(TensorError::Invalid("concat: no tensor given".to_owned()));
        };
        let axis = first.layout().axis("concat", axis)?;
        let mut length = first.layout().extent(axis);
        for other in rest {
            first.check_same("concat", other)?;
            let (a, b) = (first.layout(), other.layout());
            let fits = a.rank() == b.rank()
                && (0..a.rank()).all(|i| i == axis || a.extent(i) == b.extent(i));
            length = match length.checked_add(if fits { b.extent(axis) } else { 0 }) {
                Some(length) if fits => length,
                _ => {
                    return Err(TensorError::Invalid(format!(
                        "concat: shapes do not fit along axis {axis}: {a} and {b}"
                    )));
                }
            };
        }
        let shape = first.layout().with_extent("concat", axis, length)?;
        let dtype = first.dtype();
        if shape.is_empty() {
            return first.nothing(shape, dtype);
        }
        let mut parts = reserve("concat", tensors.len())?;
        for tensor in tensors.iter().filter(|tensor| !tensor.layout().is_empty()) {
            parts.push(tensor.burn("concat")?);
        }
        first.moving("concat", shape, cost::MOVE).run(first, || {
            if dtype.is_float() {
                Dispatch::float_cat(parts, axis)
            } else {
                Dispatch::int_cat(parts, axis)
            }
        })
    }

    /// The same elements in another shape with as many elements. Both share the memory.
    ///
    /// # Errors
    /// [`TensorError::Invalid`] if the other shape has more elements or fewer.
    pub fn reshape(&self, shape: &[u32]) -> Result<Tensor, TensorError> {
        let shape = Shape::new("reshape", shape)?;
        if shape.elements() != self.elements() {
            return Err(TensorError::Invalid(format!(
                "reshape: {} has {} elements, but {shape} has {}",
                self.layout(),
                self.elements(),
                shape.elements()
            )));
        }
        self.account().charge_work(1)?;
        let storage = if shape.is_empty() {
            Storage::Empty
        } else {
            let x = self.burn("reshape")?;
            Storage::Burn(guard("reshape", || reshape(x, &shape, self.dtype()))?)
        };
        Ok(self.share(shape, storage))
    }

    /// This tensor with two of its axes exchanged.
    ///
    /// # Errors
    /// Those of every operator.
    pub fn transpose(&self, axis_a: i32, axis_b: i32) -> Result<Tensor, TensorError> {
        let a = self.layout().axis("transpose", axis_a)?;
        let b = self.layout().axis("transpose", axis_b)?;
        let mut extents = [0; MAX_RANK];
        let rank = self.layout().rank();
        extents[..rank].copy_from_slice(self.shape());
        extents.swap(a, b);
        let shape = Shape::new("transpose", &extents[..rank])?;
        let dtype = self.dtype();
        if shape.is_empty() {
            return self.nothing(shape, dtype);
        }
        if a == b {
            self.account().charge_work(1)?;
            return Ok(self.clone());
        }
        let device = *self.device();
        let x = self.burn("transpose")?;
        self.moving("transpose", shape, cost::MOVE).run(self, || {
            if dtype.is_float() {
                own(Dispatch::float_swap_dims(x, a, b), dtype, device)
            } else {
                own(Dispatch::int_swap_dims(x, a, b), dtype, device)
            }
        })
    }

    /// A launch that moves each element of its result once.
    fn moving(&self, operator: &'static str, shape: Shape, weight: u64) -> Launch {
        Launch {
            operator,
            shape,
            dtype: self.dtype(),
            work: cost::work(shape.elements() * weight, 2 * shape.bytes(self.dtype())),
            scratch: 0,
        }
    }
}

/// Copies a view, so that it no longer shares the buffer that it was cut from. On the processor
/// every launch does so anyway.
fn own(view: DispatchTensor, dtype: DType, device: Device) -> DispatchTensor {
    if device.is_cpu() {
        view
    } else if dtype.is_float() {
        Dispatch::float_mul_scalar(view, 1.0.into())
    } else {
        Dispatch::int_mul_scalar(view, 1.into())
    }
}
