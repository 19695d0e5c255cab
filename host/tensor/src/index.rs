//! Elements and rows that other tensors name by index.
//!
//! Indices are checked here, on the host, before anything is read through them.

use crate::cost;
use crate::dtype::DType;
use crate::element::{Element, with_element};
use crate::error::TensorError;
use crate::rows::Rows;
use crate::shape::{MAX_RANK, Shape};
use crate::tensor::Tensor;

impl Tensor {
    /// Along `axis`, the elements that the `i32` tensor `indices` names: of the same number of
    /// axes as this tensor, and no larger than it on the others. The result has the shape of
    /// `indices`. Every dtype.
    ///
    /// # Errors
    /// [`TensorError::Invalid`] if an index is out of range.
    pub fn gather(&self, axis: i32, indices: &Tensor) -> Result<Tensor, TensorError> {
        let axis = self.layout().axis("gather", axis)?;
        self.check_indices("gather", indices)?;
        let (source, wanted) = (self.layout(), indices.layout());
        let fits = source.rank() == wanted.rank()
            && (0..source.rank())
                .all(|other| other == axis || wanted.extent(other) <= source.extent(other));
        if !fits {
            return Err(TensorError::Invalid(format!(
                "gather: indices of shape {wanted} do not fit along axis {axis} of the shape \
                 {source}"
            )));
        }
        if wanted.is_empty() {
            return self.nothing(*wanted, self.dtype());
        }
        with_element!(self.dtype(), E => self.gather_elements::<E>(axis, indices))
    }

    /// Rows of this matrix [rows, width] by the `i32` tensor `indices` of any shape […]: the
    /// result is […, width]. Every dtype.
    ///
    /// # Errors
    /// [`TensorError::Invalid`] if an index is out of range.
    pub fn embedding(&self, indices: &Tensor) -> Result<Tensor, TensorError> {
        self.check_indices("embedding", indices)?;
        let &[rows, width] = self.shape() else {
            return Err(TensorError::Invalid(format!(
                "embedding: rows are looked up in a matrix, not in the shape {}",
                self.layout()
            )));
        };
        let rank = indices.layout().rank();
        if rank == MAX_RANK {
            return Err(TensorError::Invalid(format!(
                "embedding: indices of shape {} leave no axis for the rows",
                indices.layout()
            )));
        }
        let mut extents = [0; MAX_RANK];
        extents[..rank].copy_from_slice(indices.shape());
        extents[rank] = width;
        let shape = Shape::new("embedding", &extents[..=rank])?;
        if indices.layout().is_empty() {
            return self.nothing(shape, self.dtype());
        }
        with_element!(self.dtype(), E => self.rows::<E>(rows, width as usize, indices, shape))
    }
}

impl Tensor {
    fn check_indices(&self, operator: &str, indices: &Tensor) -> Result<(), TensorError> {
        if indices.dtype() != DType::I32 {
            return Err(TensorError::Invalid(format!(
                "{operator}: indices must be i32, not {} of shape {}",
                indices.dtype(),
                indices.layout()
            )));
        }
        if indices.device() != self.device() {
            return Err(TensorError::Invalid(format!(
                "{operator}: the tensors are on different devices: {} and {}",
                self.device().name(),
                indices.device().name()
            )));
        }
        Ok(())
    }

    fn gather_elements<E: Element>(
        &self,
        axis: usize,
        indices: &Tensor,
    ) -> Result<Tensor, TensorError> {
        let x = self.values::<E>("gather")?;
        let names = indices.values::<i32>("gather")?;
        let (shape, source) = (*indices.layout(), *self.layout());
        // Where the elements lie that the index on every other axis leads to.
        let mut strides = source.strides_in(&source);
        let along = strides[axis];
        strides[axis] = 0;
        let work = cost::work(
            shape.elements() * cost::GATHER,
            indices.bytes() + shape.bytes(E::DTYPE),
        );
        Tensor::build::<E>(self.device(), self.account(), shape, work, |out| {
            let rows = Rows::new(&shape, [strides]);
            let (width, step) = (rows.width, rows.step[0]);
            let lines = out.chunks_exact_mut(width).zip(names.chunks_exact(width));
            for ((out, names), [start]) in lines.zip(rows) {
                for (at, (slot, name)) in out.iter_mut().zip(names).enumerate() {
                    let index = check_index("gather", *name, source.extent(axis))?;
                    *slot = x[start + at * step + index * along];
                }
            }
            Ok(())
        })
    }

    fn rows<E: Element>(
        &self,
        rows: u32,
        width: usize,
        indices: &Tensor,
        shape: Shape,
    ) -> Result<Tensor, TensorError> {
        let x = self.values::<E>("embedding")?;
        let names = indices.values::<i32>("embedding")?;
        let work = cost::work(
            indices.elements() * cost::GATHER + shape.elements() * cost::MOVE,
            indices.bytes() + 2 * shape.bytes(E::DTYPE),
        );
        Tensor::build::<E>(self.device(), self.account(), shape, work, |out| {
            for (place, name) in names.iter().enumerate() {
                let index = check_index("embedding", *name, rows)?;
                out[place * width..][..width].copy_from_slice(&x[index * width..][..width]);
            }
            Ok(())
        })
    }
}

fn check_index(operator: &str, index: i32, extent: u32) -> Result<usize, TensorError> {
    match u32::try_from(index) {
        Ok(index) if index < extent => Ok(index as usize),
        _ => Err(TensorError::Invalid(format!(
            "{operator}: the index {index} is out of range for an extent of {extent}"
        ))),
    }
}
