//! How an operator of burn is run: charged first, and never able to take the host down.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};

use burn::backend::ops::{FloatTensorOps, IntTensorOps};
use burn::backend::{BackendTensor, Dispatch, DispatchTensor, DispatchTensorKind};

use crate::device::Device;
use crate::dtype::DType;
use crate::error::TensorError;
use crate::shape::Shape;
use crate::tensor::{Owner, Storage, Tensor};
use skep_accounts::Account;

/// What is known of an operator before it runs.
pub(crate) struct Launch {
    /// Its name in the contract, for errors.
    pub operator: &'static str,
    /// The shape of its result, which has elements.
    pub shape: Shape,
    /// The dtype of its result.
    pub dtype: DType,
    /// What `cost` says of it.
    pub work: u64,
    /// The bytes that it needs besides those of its result, while it runs.
    pub scratch: u64,
}

impl Launch {
    /// Charges the account of `tensor`, runs the operator on its device and wraps what it
    /// returns, whose elements must be as many as the shape says.
    #[inline]
    pub fn run(
        self,
        tensor: &Tensor,
        operator: impl FnOnce() -> DispatchTensor,
    ) -> Result<Tensor, TensorError> {
        self.run_for(tensor.account(), *tensor.device(), operator)
    }

    /// As [`Self::run`], for an account and a device.
    #[inline]
    pub fn run_for(
        self,
        account: &Account,
        device: Device,
        operator: impl FnOnce() -> DispatchTensor,
    ) -> Result<Tensor, TensorError> {
        let bytes = self.shape.bytes(self.dtype);
        let mut charge = account.charge(self.work, bytes.saturating_add(self.scratch))?;
        let result = guard(self.operator, || tidy(operator(), &self.shape, self.dtype))?;
        if self.scratch > 0 {
            charge.resize(bytes)?;
        }
        Ok(Tensor::new(
            self.shape,
            self.dtype,
            device,
            Storage::Burn(result),
            Owner::Charge(charge),
        ))
    }
}

/// Brings what burn returned into the form that [`Storage::Burn`] promises.
fn tidy(tensor: DispatchTensor, shape: &Shape, dtype: DType) -> DispatchTensor {
    let tensor = if has_shape(&tensor, shape) {
        tensor
    } else {
        reshape(tensor, shape, dtype)
    };
    match tensor.kind {
        DispatchTensorKind::Flex(BackendTensor::Float(flex)) => DispatchTensor {
            kind: DispatchTensorKind::Flex(BackendTensor::Float(dense(flex))),
            autodiff: tensor.autodiff,
        },
        DispatchTensorKind::Flex(BackendTensor::Int(flex)) => DispatchTensor {
            kind: DispatchTensorKind::Flex(BackendTensor::Int(dense(flex))),
            autodiff: tensor.autodiff,
        },
        _ => tensor,
    }
}

/// Views of other buffers are copied, so that a tensor's charge is the memory it keeps alive.
#[inline]
fn dense(flex: burn::backend::flex::FlexTensor) -> burn::backend::flex::FlexTensor {
    let layout = flex.layout();
    let bytes = layout.num_elements() * flex.dtype().size();
    if layout.start_offset() == 0 && flex.bytes().len() == bytes && layout.is_contiguous() {
        flex
    } else {
        flex.to_contiguous()
    }
}

/// Whether burn's shape is the one that [`Storage::Burn`] promises.
#[inline]
fn has_shape(tensor: &DispatchTensor, shape: &Shape) -> bool {
    let dims = |dims: &[usize]| match shape.extents() {
        [] => dims == [1],
        extents => {
            dims.len() == extents.len() && dims.iter().zip(extents).all(|(a, b)| *a == *b as usize)
        }
    };
    match &tensor.kind {
        DispatchTensorKind::Flex(BackendTensor::Float(flex) | BackendTensor::Int(flex)) => {
            dims(flex.layout().shape())
        }
        kind => dims(&burn::backend::TensorMetadata::shape(kind)),
    }
}

/// Burn's reshape, by dtype.
pub(crate) fn reshape(tensor: DispatchTensor, shape: &Shape, dtype: DType) -> DispatchTensor {
    if dtype.is_float() {
        Dispatch::float_reshape(tensor, shape.to_burn(0))
    } else {
        Dispatch::int_reshape(tensor, shape.to_burn(0))
    }
}

/// Runs `operator` and turns a panic inside it into an error. Arguments are checked before burn
/// sees them, so that a panic is a fault of this crate or of burn, and never the caller's.
#[inline]
pub(crate) fn guard<R>(operator: &'static str, run: impl FnOnce() -> R) -> Result<R, TensorError> {
    // Nothing that `run` borrows is used again after it has panicked: tensors are immutable,
    // and a half-made result is dropped by the unwinding.
    catch_unwind(AssertUnwindSafe(run)).map_err(|panic| failed(operator, &*panic))
}

#[cold]
fn failed(operator: &str, panic: &(dyn Any + Send)) -> TensorError {
    let reason = panic
        .downcast_ref::<String>()
        .map(String::as_str)
        .or_else(|| panic.downcast_ref::<&str>().copied())
        .unwrap_or("it gave no reason");
    TensorError::Failed(format!("{operator}: {reason}"))
}

/// An empty vector with room for exactly `len` elements.
pub(crate) fn reserve<E>(operator: &'static str, len: usize) -> Result<Vec<E>, TensorError> {
    let mut values = Vec::new();
    values
        .try_reserve_exact(len)
        .map_err(|_| TensorError::Failed(format!("{operator}: the machine is out of memory")))?;
    Ok(values)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_becomes_an_error_that_names_the_operator() {
        let result: Result<(), _> = guard("matmul", || panic!("boom {}", 1));
        assert_eq!(
            result,
            Err(TensorError::Failed("matmul: boom 1".to_owned()))
        );
    }

    #[test]
    fn absurd_reservations_fail_instead_of_aborting() {
        assert!(reserve::<f32>("test", usize::MAX / 8).is_err());
    }
}
