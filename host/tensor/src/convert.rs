//! From one dtype to another.

use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};

use crate::cost;
use crate::dtype::DType;
use crate::element::{Element, with_element};
use crate::error::TensorError;
use crate::tensor::Tensor;

impl Tensor {
    /// The same elements in another dtype, rounded to nearest. A float becomes an integer by
    /// truncation towards zero and saturates, and what is not a number becomes 0; an integer
    /// becomes another by saturating. Casting to the same dtype shares the memory.
    ///
    /// # Errors
    /// Those of every operator.
    pub fn cast(&self, dtype: DType) -> Result<Tensor, TensorError> {
        if dtype == self.dtype() {
            self.account().charge_work(1)?;
            return Ok(self.clone());
        }
        if self.layout().is_empty() {
            return self.nothing(*self.layout(), dtype);
        }
        match (self.dtype(), dtype) {
            (DType::F32, DType::F16) => self.convert(<[f16]>::convert_from_f32_slice),
            (DType::F32, DType::Bf16) => self.convert(<[bf16]>::convert_from_f32_slice),
            (DType::F16, DType::F32) => {
                self.convert(|out: &mut [f32], x: &[f16]| x.convert_to_f32_slice(out))
            }
            (DType::Bf16, DType::F32) => {
                self.convert(|out: &mut [f32], x: &[bf16]| x.convert_to_f32_slice(out))
            }
            _ => with_element!(self.dtype(), From => with_element!(dtype, To => {
                self.convert(|out: &mut [To], x: &[From]| {
                    for (out, x) in out.iter_mut().zip(x) {
                        *out = To::narrow(x.widen());
                    }
                })
            })),
        }
    }

    fn convert<From: Element, To: Element>(
        &self,
        convert: impl FnOnce(&mut [To], &[From]),
    ) -> Result<Tensor, TensorError> {
        let x = self.values::<From>("cast")?;
        let shape = *self.layout();
        let work = cost::work(
            shape.elements()
                * cost::weight(cost::MOVE, To::DTYPE).max(cost::weight(cost::MOVE, From::DTYPE)),
            self.bytes() + shape.bytes(To::DTYPE),
        );
        Tensor::build::<To>(self.device(), self.account(), shape, work, |out| {
            convert(out, &x);
            Ok(())
        })
    }
}

/// Conversion by way of f64, which holds every value of every dtype exactly: so there is one
/// rounding, at the end.
trait Exact: Element {
    fn widen(self) -> f64;
    fn narrow(value: f64) -> Self;
}

impl Exact for f32 {
    fn widen(self) -> f64 {
        f64::from(self)
    }

    fn narrow(value: f64) -> Self {
        value as f32
    }
}

impl Exact for f16 {
    fn widen(self) -> f64 {
        self.to_f64()
    }

    fn narrow(value: f64) -> Self {
        f16::from_f64(value)
    }
}

impl Exact for bf16 {
    fn widen(self) -> f64 {
        self.to_f64()
    }

    fn narrow(value: f64) -> Self {
        bf16::from_f64(value)
    }
}

// A float becomes an integer as Rust's `as` does it: truncated, saturated, NaN to 0.

impl Exact for i32 {
    fn widen(self) -> f64 {
        f64::from(self)
    }

    fn narrow(value: f64) -> Self {
        value as i32
    }
}

impl Exact for u8 {
    fn widen(self) -> f64 {
        f64::from(self)
    }

    fn narrow(value: f64) -> Self {
        value as u8
    }
}
