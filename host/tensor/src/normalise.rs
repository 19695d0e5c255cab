//! Softmax and the normalisations. f16 and bf16 are computed in f32 and rounded once.

use burn::backend::FloatDType;
use burn::backend::ops::{ActivationOps, FloatTensorOps, ModuleOps};
use burn::backend::{Dispatch, DispatchTensor};

use crate::cost;
use crate::dtype::DType;
use crate::error::TensorError;
use crate::launch::Launch;
use crate::product::{narrow, widen};
use crate::tensor::Tensor;

impl Tensor {
    /// eˣ ÷ Σeˣ along an axis. Floating-point dtypes.
    ///
    /// # Errors
    /// Those of every operator.
    pub fn softmax(&self, axis: i32) -> Result<Tensor, TensorError> {
        self.check_float("softmax")?;
        let axis = self.layout().axis("softmax", axis)?;
        self.in_f32("softmax", cost::SOFTMAX, 2, |x| Dispatch::softmax(x, axis))
    }

    /// The natural logarithm of [`softmax`](Self::softmax), computed without overflow.
    /// Floating-point dtypes.
    ///
    /// # Errors
    /// Those of every operator.
    pub fn log_softmax(&self, axis: i32) -> Result<Tensor, TensorError> {
        self.check_float("log-softmax")?;
        let axis = self.layout().axis("log-softmax", axis)?;
        self.in_f32("log-softmax", cost::SOFTMAX, 4, |x| {
            Dispatch::log_softmax(x, axis)
        })
    }

    /// (x - mean) ÷ √(variance + epsilon) × weight + bias over the last axis, whose extent is
    /// that of the one-dimensional `weight` and `bias` (Ba et al., 2016). Floating-point dtypes.
    ///
    /// # Errors
    /// Those of every operator.
    pub fn layer_norm(
        &self,
        weight: &Tensor,
        bias: &Tensor,
        epsilon: f32,
    ) -> Result<Tensor, TensorError> {
        self.check_row("layer-norm", "weight", weight)?;
        self.check_row("layer-norm", "bias", bias)?;
        if self.layout().is_empty() {
            return self.nothing(*self.layout(), self.dtype());
        }
        let half = self.dtype() != DType::F32;
        let (weight, bias) = (weight.burn("layer-norm")?, bias.burn("layer-norm")?);
        self.in_f32("layer-norm", cost::NORMALISATION, 4, |x| {
            let (weight, bias) = if half {
                (widen(weight), widen(bias))
            } else {
                (weight, bias)
            };
            Dispatch::layer_norm(x, weight, Some(bias), f64::from(epsilon))
        })
    }

    /// x ÷ √(mean of x² + epsilon) × weight over the last axis, whose extent is that of the
    /// one-dimensional `weight` (Zhang and Sennrich, 2019). Floating-point dtypes.
    ///
    /// # Errors
    /// Those of every operator.
    pub fn rms_norm(&self, weight: &Tensor, epsilon: f32) -> Result<Tensor, TensorError> {
        self.check_row("rms-norm", "weight", weight)?;
        if self.layout().is_empty() {
            return self.nothing(*self.layout(), self.dtype());
        }
        let half = self.dtype() != DType::F32;
        let rank = self.layout().rank();
        let row = weight.layout().to_burn(rank);
        let weight = weight.burn("rms-norm")?;
        self.in_f32("rms-norm", cost::NORMALISATION, 4, |x| {
            let weight = if half { widen(weight) } else { weight };
            let square = Dispatch::float_mul(x.clone(), x.clone());
            let mean = Dispatch::float_mean_dim(square, rank - 1);
            let root =
                Dispatch::float_sqrt(Dispatch::float_add_scalar(mean, f64::from(epsilon).into()));
            Dispatch::float_mul(
                Dispatch::float_div(x, root),
                Dispatch::float_reshape(weight, row),
            )
        })
    }
}

impl Tensor {
    /// Checks that `row` is as long as the last axis.
    fn check_row(&self, operator: &str, name: &str, row: &Tensor) -> Result<(), TensorError> {
        self.check_float(operator)?;
        self.check_same(operator, row)?;
        match (self.shape().last(), row.shape()) {
            (Some(width), [extent]) if width == extent => Ok(()),
            _ => Err(TensorError::Invalid(format!(
                "{operator}: the {name} must have one axis, as long as the last of x: x is {} and \
                 the {name} {}",
                self.layout(),
                row.layout()
            ))),
        }
    }

    /// Runs an operator that keeps the shape, and that is made of `copies` temporary tensors or
    /// fewer, in f32.
    pub(crate) fn in_f32(
        &self,
        operator: &'static str,
        weight: u64,
        copies: u64,
        run: impl FnOnce(DispatchTensor) -> DispatchTensor,
    ) -> Result<Tensor, TensorError> {
        self.check_float(operator)?;
        let (shape, dtype) = (*self.layout(), self.dtype());
        if shape.is_empty() {
            return self.nothing(shape, dtype);
        }
        let half = match dtype {
            DType::F16 => Some(FloatDType::F16),
            DType::Bf16 => Some(FloatDType::BF16),
            _ => None,
        };
        let x = self.burn(operator)?;
        let (weight, copies) = match half {
            Some(_) => (weight + 2 * cost::HALF, copies + 2),
            None => (weight, copies),
        };
        Launch {
            operator,
            shape,
            dtype,
            work: cost::work(shape.elements() * weight, 2 * self.bytes()),
            scratch: copies * shape.bytes(DType::F32),
        }
        .run(self, || match half {
            Some(dtype) => narrow(run(widen(x)), dtype),
            None => run(x),
        })
    }
}
