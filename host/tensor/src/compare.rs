//! Comparisons, and choosing by their results.
//!
//! What is not a number is neither equal to, nor greater, nor less than anything (IEEE 754).

use crate::cost;
use crate::dtype::DType;
use crate::element::{Element, with_element};
use crate::error::TensorError;
use crate::rows::Rows;
use crate::tensor::Tensor;

/// Comparisons of two tensors. Their shapes are broadcast, and their dtypes must be the same.
/// Every dtype; the result is `u8`, 1 where it holds and 0 elsewhere.
impl Tensor {
    /// self = other.
    ///
    /// # Errors
    /// Those of every operator.
    pub fn equal(&self, other: &Tensor) -> Result<Tensor, TensorError> {
        with_element!(self.dtype(), E => self.compare::<E>("equal", other, |a, b| a == b))
    }

    /// self > other.
    ///
    /// # Errors
    /// Those of every operator.
    pub fn greater(&self, other: &Tensor) -> Result<Tensor, TensorError> {
        with_element!(self.dtype(), E => self.compare::<E>("greater", other, |a, b| a > b))
    }

    /// self < other.
    ///
    /// # Errors
    /// Those of every operator.
    pub fn less(&self, other: &Tensor) -> Result<Tensor, TensorError> {
        with_element!(self.dtype(), E => self.compare::<E>("less", other, |a, b| a < b))
    }

    /// `on_true` where this `u8` tensor is not 0, and `on_false` elsewhere; the three are
    /// broadcast together. The two may have any dtype, but the same.
    ///
    /// # Errors
    /// Those of every operator.
    pub fn select(&self, on_true: &Tensor, on_false: &Tensor) -> Result<Tensor, TensorError> {
        if self.dtype() != DType::U8 {
            return Err(TensorError::Invalid(format!(
                "select: the condition must be u8, not {} of shape {}",
                self.dtype(),
                self.layout()
            )));
        }
        on_true.check_same("select", on_false)?;
        if self.device() != on_true.device() {
            return Err(TensorError::Invalid(format!(
                "select: the tensors are on different devices: {} and {}",
                self.device().name(),
                on_true.device().name()
            )));
        }
        with_element!(on_true.dtype(), E => self.choose::<E>(on_true, on_false))
    }
}

impl Tensor {
    fn compare<E: Element>(
        &self,
        operator: &'static str,
        other: &Tensor,
        holds: impl Fn(E, E) -> bool,
    ) -> Result<Tensor, TensorError> {
        let shape = self.check_pair(operator, other)?;
        if shape.is_empty() {
            return self.nothing(shape, DType::U8);
        }
        let (a, b) = (self.values::<E>(operator)?, other.values::<E>(operator)?);
        let work = cost::work(
            shape.elements() * cost::weight(cost::COMPARISON, E::DTYPE),
            self.bytes() + other.bytes() + shape.bytes(DType::U8),
        );
        Tensor::build::<u8>(self.device(), self.account(), shape, work, |out| {
            let rows = Rows::new(
                &shape,
                [
                    self.layout().strides_in(&shape),
                    other.layout().strides_in(&shape),
                ],
            );
            let (width, step) = (rows.width, rows.step);
            for (row, [i, j]) in out.chunks_exact_mut(width).zip(rows) {
                for (at, slot) in row.iter_mut().enumerate() {
                    *slot = u8::from(holds(a[i + at * step[0]], b[j + at * step[1]]));
                }
            }
            Ok(())
        })
    }

    fn choose<E: Element>(
        &self,
        on_true: &Tensor,
        on_false: &Tensor,
    ) -> Result<Tensor, TensorError> {
        let shape = on_true
            .layout()
            .broadcast("select", on_false.layout())?
            .broadcast("select", self.layout())?;
        if shape.is_empty() {
            return self.nothing(shape, E::DTYPE);
        }
        let condition = self.values::<u8>("select")?;
        let (yes, no) = (
            on_true.values::<E>("select")?,
            on_false.values::<E>("select")?,
        );
        let work = cost::work(
            shape.elements() * cost::CHOICE,
            self.bytes() + on_true.bytes() + on_false.bytes() + shape.bytes(E::DTYPE),
        );
        Tensor::build::<E>(self.device(), self.account(), shape, work, |out| {
            let rows = Rows::new(
                &shape,
                [self, on_true, on_false].map(|tensor| tensor.layout().strides_in(&shape)),
            );
            let (width, step) = (rows.width, rows.step);
            for (row, [c, i, j]) in out.chunks_exact_mut(width).zip(rows) {
                for (at, slot) in row.iter_mut().enumerate() {
                    *slot = if condition[c + at * step[0]] != 0 {
                        yes[i + at * step[1]]
                    } else {
                        no[j + at * step[2]]
                    };
                }
            }
            Ok(())
        })
    }
}
