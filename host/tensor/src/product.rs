//! The matrix product.

use burn::backend::FloatDType;
use burn::backend::ops::FloatTensorOps;
use burn::backend::{Dispatch, DispatchTensor};

use crate::cost;
use crate::dtype::DType;
use crate::element::with_element;
use crate::error::TensorError;
use crate::launch::Launch;
use crate::shape::{MAX_RANK, Shape};
use crate::tensor::Tensor;

impl Tensor {
    /// The matrix product over the last two axes: […, m, k] × […, k, n] → […, m, n]. The axes
    /// before them are broadcast. Floating-point dtypes; f16 and bf16 are accumulated in f32
    /// and rounded once.
    ///
    /// # Errors
    /// Those of every operator.
    pub fn matmul(&self, other: &Tensor) -> Result<Tensor, TensorError> {
        const OPERATOR: &str = "matmul";
        self.check_float(OPERATOR)?;
        self.check_same(OPERATOR, other)?;
        let product = Product::new(self.layout(), other.layout())?;
        let (shape, dtype) = (product.shape, self.dtype());
        if shape.is_empty() {
            return self.nothing(shape, dtype);
        }
        if product.k == 0 {
            // A sum over nothing.
            return with_element!(dtype, E => {
                let work = cost::write(shape.bytes(dtype));
                Tensor::build::<E>(self.device(), self.account(), shape, work, |_| Ok(()))
            });
        }
        let elements = self.elements() + other.elements() + shape.elements();
        let half = dtype != DType::F32;
        let (a, b) = (self.as_burn(OPERATOR)?, other.as_burn(OPERATOR)?);
        Launch {
            operator: OPERATOR,
            shape,
            dtype,
            work: cost::work(
                product
                    .work()
                    .saturating_add(if half { elements * cost::HALF } else { 0 }),
                elements * dtype.size() as u64,
            ),
            scratch: if half { elements * 4 } else { 0 },
        }
        .run(self, || {
            let (a, b) = self.aligned(a, other, b);
            match dtype {
                DType::F16 => narrow(Dispatch::float_matmul(widen(a), widen(b)), FloatDType::F16),
                DType::Bf16 => narrow(Dispatch::float_matmul(widen(a), widen(b)), FloatDType::BF16),
                _ => Dispatch::float_matmul(a, b),
            }
        })
    }
}

/// What the shapes of the two factors come to.
struct Product {
    shape: Shape,
    m: u32,
    k: u32,
    n: u32,
}

impl Product {
    fn new(left: &Shape, right: &Shape) -> Result<Product, TensorError> {
        let ([left_batch @ .., m, left_k], [right_batch @ .., right_k, n]) =
            (left.extents(), right.extents())
        else {
            return Err(TensorError::Invalid(format!(
                "matmul: both need two axes or more: {left} × {right}"
            )));
        };
        if left_k != right_k {
            return Err(TensorError::Invalid(format!(
                "matmul: inner extents differ: {left} × {right}"
            )));
        }
        let batch = Shape::new("matmul", left_batch)?
            .broadcast("matmul", &Shape::new("matmul", right_batch)?)
            .map_err(|_| {
                TensorError::Invalid(format!(
                    "matmul: the axes before the last two do not broadcast: {left} × {right}"
                ))
            })?;
        let mut extents = [0; MAX_RANK];
        let rank = batch.rank();
        extents[..rank].copy_from_slice(batch.extents());
        extents[rank] = *m;
        extents[rank + 1] = *n;
        Ok(Product {
            shape: Shape::new("matmul", &extents[..rank + 2])?,
            m: *m,
            k: *left_k,
            n: *n,
        })
    }

    /// The arithmetic, for a result that is not empty.
    fn work(&self) -> u64 {
        let matrix = u64::from(self.m) * u64::from(self.n);
        let batch = self.shape.elements() / matrix.max(1);
        cost::product(
            batch,
            u64::from(self.m),
            u64::from(self.k),
            u64::from(self.n),
        )
    }
}

/// A copy in f32.
pub(crate) fn widen(x: DispatchTensor) -> DispatchTensor {
    Dispatch::float_cast(x, FloatDType::F32)
}

/// A copy in another floating-point dtype, rounded to nearest.
pub(crate) fn narrow(x: DispatchTensor, dtype: FloatDType) -> DispatchTensor {
    Dispatch::float_cast(x, dtype)
}
