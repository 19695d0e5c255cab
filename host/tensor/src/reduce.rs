//! What makes one element of many: sums, means, extrema and their indices.
//!
//! Sums in f16 and bf16 are accumulated in f32 and rounded once; those of integers wrap around.
//! Where elements are compared, what is not a number is smaller than everything, so that a
//! maximum is a number if there is one, and a minimum is not if there is one that is not.

use burn::backend::Dispatch;
use burn::backend::ops::{FloatTensorOps, IntTensorOps};

use crate::cost;
use crate::dtype::DType;
use crate::element::{Element, with_element};
use crate::error::TensorError;
use crate::launch::{Launch, reserve};
use crate::shape::Shape;
use crate::tensor::Tensor;

/// Reductions along an axis. The axis is kept with extent 1 if `keep` is set.
impl Tensor {
    /// The sum along an axis, 0 where the axis has extent 0. Every dtype.
    ///
    /// # Errors
    /// Those of every operator.
    pub fn sum(&self, axis: i32, keep: bool) -> Result<Tensor, TensorError> {
        let axis = self.layout().axis("sum", axis)?;
        let shape = self.layout().reduced("sum", axis, keep)?;
        let dtype = self.dtype();
        if shape.is_empty() {
            return self.nothing(shape, dtype);
        }
        if self.layout().is_empty() {
            return with_element!(dtype, E => {
                let work = cost::write(shape.bytes(dtype));
                Tensor::build::<E>(self.device(), self.account(), shape, work, |_| Ok(()))
            });
        }
        let x = self.burn("sum")?;
        self.reduction("sum", shape).run(self, || {
            if dtype.is_float() {
                Dispatch::float_sum_dim(x, axis)
            } else {
                Dispatch::int_sum_dim(x, axis)
            }
        })
    }

    /// The mean along an axis of extent 1 or more. Floating-point dtypes.
    ///
    /// # Errors
    /// Those of every operator.
    pub fn mean(&self, axis: i32, keep: bool) -> Result<Tensor, TensorError> {
        self.check_float("mean")?;
        let (axis, shape) = self.check_reduction("mean", axis, keep)?;
        if shape.is_empty() {
            return self.nothing(shape, self.dtype());
        }
        let x = self.burn("mean")?;
        self.reduction("mean", shape)
            .run(self, || Dispatch::float_mean_dim(x, axis))
    }

    /// The largest element along an axis of extent 1 or more. Every dtype.
    ///
    /// # Errors
    /// Those of every operator.
    pub fn max(&self, axis: i32, keep: bool) -> Result<Tensor, TensorError> {
        let (axis, shape) = self.check_reduction("max", axis, keep)?;
        with_element!(self.dtype(), E => {
            self.fold::<E>("max", axis, shape, |best, x| if x.exceeds(best) { x } else { best })
        })
    }

    /// The smallest element along an axis of extent 1 or more. Every dtype.
    ///
    /// # Errors
    /// Those of every operator.
    pub fn min(&self, axis: i32, keep: bool) -> Result<Tensor, TensorError> {
        let (axis, shape) = self.check_reduction("min", axis, keep)?;
        with_element!(self.dtype(), E => {
            self.fold::<E>("min", axis, shape, |best, x| if best.exceeds(x) { x } else { best })
        })
    }

    /// The index of the largest element along an axis of extent 1 or more, as `i32`; of equal
    /// ones, the first. Every dtype.
    ///
    /// # Errors
    /// Those of every operator.
    pub fn argmax(&self, axis: i32, keep: bool) -> Result<Tensor, TensorError> {
        let (axis, shape) = self.check_reduction("argmax", axis, keep)?;
        self.check_indexable("argmax", axis)?;
        with_element!(self.dtype(), E => self.search::<E>(axis, shape))
    }

    /// The `count` largest elements along an axis in descending order, and their indices as
    /// `i32`; of equal ones, the first comes first. Every dtype.
    ///
    /// # Errors
    /// [`TensorError::Invalid`] if there are fewer than `count`.
    pub fn top_k(&self, count: u32, axis: i32) -> Result<(Tensor, Tensor), TensorError> {
        let axis = self.layout().axis("top-k", axis)?;
        self.check_indexable("top-k", axis)?;
        if count > self.layout().extent(axis) {
            return Err(TensorError::Invalid(format!(
                "top-k: {count} are asked for, but axis {axis} of the shape {} has fewer",
                self.layout()
            )));
        }
        let shape = self.layout().with_extent("top-k", axis, count)?;
        if shape.is_empty() {
            let values = self.nothing(shape, self.dtype())?;
            return Ok((values, self.nothing(shape, DType::I32)?));
        }
        with_element!(self.dtype(), E => self.largest::<E>(axis, shape))
    }
}

impl Tensor {
    fn check_reduction(
        &self,
        operator: &str,
        axis: i32,
        keep: bool,
    ) -> Result<(usize, Shape), TensorError> {
        let axis = self.layout().axis(operator, axis)?;
        if self.layout().extent(axis) == 0 {
            return Err(TensorError::Invalid(format!(
                "{operator}: axis {axis} of the shape {} has extent 0",
                self.layout()
            )));
        }
        Ok((axis, self.layout().reduced(operator, axis, keep)?))
    }

    /// Indices along an axis are returned as `i32`.
    fn check_indexable(&self, operator: &str, axis: usize) -> Result<(), TensorError> {
        if i32::try_from(self.layout().extent(axis)).is_ok() {
            return Ok(());
        }
        Err(TensorError::Invalid(format!(
            "{operator}: axis {axis} of the shape {} is too long for indices in i32",
            self.layout()
        )))
    }

    /// A reduction by burn, which may make an f32 copy of what is in half precision.
    fn reduction(&self, operator: &'static str, shape: Shape) -> Launch {
        let dtype = self.dtype();
        let scratch = match dtype {
            DType::F32 => 0,
            DType::F16 | DType::Bf16 => 4 * (self.elements() + shape.elements()),
            // Sums of integers are kept in 8 bytes until they are rounded.
            DType::I32 | DType::U8 => 8 * shape.elements(),
        };
        Launch {
            operator,
            shape,
            dtype,
            work: cost::work(
                self.elements() * cost::weight(cost::REDUCE, dtype),
                self.bytes() + shape.bytes(dtype),
            ),
            scratch,
        }
    }

    fn fold<E: Element>(
        &self,
        operator: &'static str,
        axis: usize,
        shape: Shape,
        choose: impl Fn(E, E) -> E,
    ) -> Result<Tensor, TensorError> {
        if shape.is_empty() {
            return self.nothing(shape, E::DTYPE);
        }
        let x = self.values::<E>(operator)?;
        let (_, extent, inner) = self.layout().split(axis);
        let work = cost::work(
            self.elements() * cost::weight(cost::SEARCH, E::DTYPE),
            self.bytes() + shape.bytes(E::DTYPE),
        );
        Tensor::build::<E>(self.device(), self.account(), shape, work, |out| {
            for (out, block) in out
                .chunks_exact_mut(inner)
                .zip(x.chunks_exact(extent * inner))
            {
                let (first, rest) = block.split_at(inner);
                out.copy_from_slice(first);
                for row in rest.chunks_exact(inner) {
                    for (best, x) in out.iter_mut().zip(row) {
                        *best = choose(*best, *x);
                    }
                }
            }
            Ok(())
        })
    }

    fn search<E: Element>(&self, axis: usize, shape: Shape) -> Result<Tensor, TensorError> {
        if shape.is_empty() {
            return self.nothing(shape, DType::I32);
        }
        let x = self.values::<E>("argmax")?;
        let (_, extent, inner) = self.layout().split(axis);
        let work = cost::work(
            self.elements() * cost::weight(cost::SEARCH, E::DTYPE),
            self.bytes() + shape.bytes(DType::I32),
        );
        let scratch = inner as u64 * E::DTYPE.size() as u64;
        Tensor::build_with_scratch::<i32>(
            self.device(),
            self.account(),
            shape,
            work,
            scratch,
            |out| {
                let mut best = reserve::<E>("argmax", inner)?;
                for (out, block) in out
                    .chunks_exact_mut(inner)
                    .zip(x.chunks_exact(extent * inner))
                {
                    best.clear();
                    best.extend_from_slice(&block[..inner]);
                    for (index, row) in block.chunks_exact(inner).enumerate().skip(1) {
                        for ((best, at), x) in best.iter_mut().zip(out.iter_mut()).zip(row) {
                            if x.exceeds(*best) {
                                *best = *x;
                                *at = index as i32;
                            }
                        }
                    }
                }
                Ok(())
            },
        )
    }

    fn largest<E: Element>(
        &self,
        axis: usize,
        shape: Shape,
    ) -> Result<(Tensor, Tensor), TensorError> {
        let x = self.values::<E>("top-k")?;
        let (outer, extent, inner) = self.layout().split(axis);
        let count = shape.extent(axis) as usize;
        let work = cost::work(
            cost::selection((outer * inner) as u64, extent as u64, count as u64),
            self.bytes() + shape.bytes(E::DTYPE) + shape.bytes(DType::I32),
        );
        let (value_bytes, index_bytes) = (shape.bytes(E::DTYPE), shape.bytes(DType::I32));
        let lane_bytes = (extent * size_of::<(E, u32)>()) as u64;
        let mut charge = self
            .account()
            .charge(work, value_bytes + index_bytes + lane_bytes)?;
        let mut values = reserve::<E>("top-k", shape.len())?;
        values.resize(shape.len(), E::zeroed());
        let mut indices = reserve::<i32>("top-k", shape.len())?;
        indices.resize(shape.len(), 0);
        let mut lane = reserve::<(E, u32)>("top-k", extent)?;
        let order = |a: &(E, u32), b: &(E, u32)| a.0.descending(b.0).then(a.1.cmp(&b.1));
        for block in 0..outer {
            for offset in 0..inner {
                let source = block * extent * inner + offset;
                lane.clear();
                lane.extend((0..extent).map(|i| (x[source + i * inner], i as u32)));
                if count < extent {
                    lane.select_nth_unstable_by(count, order);
                }
                lane[..count].sort_unstable_by(order);
                let target = block * count * inner + offset;
                for (rank, (value, index)) in lane[..count].iter().enumerate() {
                    values[target + rank * inner] = *value;
                    indices[target + rank * inner] = *index as i32;
                }
            }
        }
        drop(lane);
        charge.resize(value_bytes + index_bytes)?;
        let index_charge = charge.split(index_bytes);
        let values = Tensor::adopt(self.device(), charge, shape, values)?;
        let indices = Tensor::adopt(self.device(), index_charge, shape, indices)?;
        Ok((values, indices))
    }
}
