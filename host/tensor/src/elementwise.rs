//! Arithmetic element by element: of two tensors, of a tensor and a scalar, and the functions
//! of one tensor.
//!
//! Integers wrap around on overflow. Floating-point operators follow IEEE 754; f16 and bf16 are
//! computed in f32 and rounded once.

use std::cmp::Ordering;

use burn::backend::ops::{ActivationOps, FloatTensorOps, IntTensorOps};
use burn::backend::{Dispatch, DispatchTensor, Scalar};

use crate::cost;
use crate::dtype::DType;
use crate::element::{Element, with_element};
use crate::error::TensorError;
use crate::launch::Launch;
use crate::rows::Rows;
use crate::shape::Shape;
use crate::tensor::{Owner, Storage, Tensor};

/// An operator of burn that takes two tensors.
type Binary = fn(DispatchTensor, DispatchTensor) -> DispatchTensor;
/// An operator of burn that takes one tensor.
type Unary = fn(DispatchTensor) -> DispatchTensor;

/// Arithmetic of two tensors. Their shapes are broadcast, and their dtypes must be the same.
impl Tensor {
    /// self + other. Every dtype.
    ///
    /// # Errors
    /// Those of every operator.
    pub fn add(&self, other: &Tensor) -> Result<Tensor, TensorError> {
        if let Some(result) = self.combine_few("add", cost::CHEAP, other, |a, b| a + b) {
            return result;
        }
        self.binary(
            "add",
            cost::CHEAP,
            other,
            Dispatch::float_add,
            Dispatch::int_add,
        )
    }

    /// self - other. Every dtype.
    ///
    /// # Errors
    /// Those of every operator.
    pub fn sub(&self, other: &Tensor) -> Result<Tensor, TensorError> {
        if let Some(result) = self.combine_few("sub", cost::CHEAP, other, |a, b| a - b) {
            return result;
        }
        self.binary(
            "sub",
            cost::CHEAP,
            other,
            Dispatch::float_sub,
            Dispatch::int_sub,
        )
    }

    /// self × other. Every dtype.
    ///
    /// # Errors
    /// Those of every operator.
    pub fn mul(&self, other: &Tensor) -> Result<Tensor, TensorError> {
        if let Some(result) = self.combine_few("mul", cost::CHEAP, other, |a, b| a * b) {
            return result;
        }
        self.binary(
            "mul",
            cost::CHEAP,
            other,
            Dispatch::float_mul,
            Dispatch::int_mul,
        )
    }

    /// self ÷ other. Every dtype; that of integers truncates towards zero.
    ///
    /// # Errors
    /// [`TensorError::Invalid`] if an integer is divided by 0.
    pub fn div(&self, other: &Tensor) -> Result<Tensor, TensorError> {
        if let Some(result) = self.combine_few("div", cost::DIVISION, other, |a, b| a / b) {
            return result;
        }
        if self.dtype().is_float() {
            return self.binary(
                "div",
                cost::DIVISION,
                other,
                Dispatch::float_div,
                Dispatch::int_div,
            );
        }
        let shape = self.check_pair("div", other)?;
        let by_zero = || {
            TensorError::Invalid(format!(
                "div: an element of the divisor is 0, in {} of shape {}",
                other.dtype(),
                other.layout()
            ))
        };
        match self.dtype() {
            DType::U8 => self.zip::<u8>("div", shape, cost::DIVISION, other, |a, b| {
                a.checked_div(b).ok_or_else(by_zero)
            }),
            _ => self.zip::<i32>("div", shape, cost::DIVISION, other, |a, b| {
                if b == 0 {
                    return Err(by_zero());
                }
                Ok(a.wrapping_div(b))
            }),
        }
    }

    /// self raised to other. Floating-point dtypes.
    ///
    /// # Errors
    /// Those of every operator.
    pub fn pow(&self, other: &Tensor) -> Result<Tensor, TensorError> {
        self.check_float("pow")?;
        self.binary(
            "pow",
            cost::POWER,
            other,
            Dispatch::float_powf,
            Dispatch::int_powi,
        )
    }

    /// The larger of the two. Every dtype; what is not a number is smaller than everything.
    ///
    /// # Errors
    /// Those of every operator.
    pub fn maximum(&self, other: &Tensor) -> Result<Tensor, TensorError> {
        let shape = self.check_pair("maximum", other)?;
        with_element!(self.dtype(), E => {
            self.zip::<E>("maximum", shape, cost::CHOICE, other, |a, b| {
                Ok(if b.exceeds(a) { b } else { a })
            })
        })
    }

    /// The smaller of the two. Every dtype; what is not a number is smaller than everything.
    ///
    /// # Errors
    /// Those of every operator.
    pub fn minimum(&self, other: &Tensor) -> Result<Tensor, TensorError> {
        let shape = self.check_pair("minimum", other)?;
        with_element!(self.dtype(), E => {
            self.zip::<E>("minimum", shape, cost::CHOICE, other, |a, b| {
                Ok(if a.exceeds(b) { b } else { a })
            })
        })
    }

    /// self + value, which is first rounded to the dtype. Every dtype.
    ///
    /// # Errors
    /// Those of every operator.
    pub fn add_scalar(&self, value: f32) -> Result<Tensor, TensorError> {
        let scalar = self.scalar(value);
        self.unary_with(
            "add-scalar",
            cost::CHEAP,
            move |x| Dispatch::float_add_scalar(x, scalar),
            move |x| Dispatch::int_add_scalar(x, scalar),
        )
    }

    /// self × value, which is first rounded to the dtype. Every dtype.
    ///
    /// # Errors
    /// Those of every operator.
    pub fn mul_scalar(&self, value: f32) -> Result<Tensor, TensorError> {
        let scalar = self.scalar(value);
        self.unary_with(
            "mul-scalar",
            cost::CHEAP,
            move |x| Dispatch::float_mul_scalar(x, scalar),
            move |x| Dispatch::int_mul_scalar(x, scalar),
        )
    }
}

/// Functions of one tensor.
impl Tensor {
    /// -x. Floating-point dtypes and `i32`.
    ///
    /// # Errors
    /// Those of every operator.
    pub fn neg(&self) -> Result<Tensor, TensorError> {
        self.check_signed("neg")?;
        self.unary_with("neg", cost::CHEAP, Dispatch::float_neg, Dispatch::int_neg)
    }

    /// |x|. Floating-point dtypes and `i32`.
    ///
    /// # Errors
    /// Those of every operator.
    pub fn abs(&self) -> Result<Tensor, TensorError> {
        self.check_signed("abs")?;
        self.unary_with("abs", cost::CHEAP, Dispatch::float_abs, Dispatch::int_abs)
    }

    /// eˣ. Floating-point dtypes.
    ///
    /// # Errors
    /// Those of every operator.
    pub fn exp(&self) -> Result<Tensor, TensorError> {
        self.unary("exp", cost::EXPONENTIAL, Dispatch::float_exp)
    }

    /// The natural logarithm. Floating-point dtypes.
    ///
    /// # Errors
    /// Those of every operator.
    pub fn log(&self) -> Result<Tensor, TensorError> {
        self.unary("log", cost::EXPONENTIAL, Dispatch::float_log)
    }

    /// The square root. Floating-point dtypes.
    ///
    /// # Errors
    /// Those of every operator.
    pub fn sqrt(&self) -> Result<Tensor, TensorError> {
        self.unary("sqrt", cost::DIVISION, Dispatch::float_sqrt)
    }

    /// The hyperbolic tangent. Floating-point dtypes.
    ///
    /// # Errors
    /// Those of every operator.
    pub fn tanh(&self) -> Result<Tensor, TensorError> {
        self.unary("tanh", cost::EXPONENTIAL, Dispatch::float_tanh)
    }

    /// 1 ÷ (1 + e⁻ˣ). Floating-point dtypes.
    ///
    /// # Errors
    /// Those of every operator.
    pub fn sigmoid(&self) -> Result<Tensor, TensorError> {
        self.unary("sigmoid", cost::EXPONENTIAL, Dispatch::sigmoid)
    }

    /// The larger of x and 0. Floating-point dtypes; what is not a number stays so.
    ///
    /// # Errors
    /// Those of every operator.
    pub fn relu(&self) -> Result<Tensor, TensorError> {
        self.unary("relu", cost::CHEAP, Dispatch::relu)
    }

    /// x·Φ(x) with the exact normal distribution function (Hendrycks and Gimpel, 2016).
    /// Floating-point dtypes.
    ///
    /// # Errors
    /// Those of every operator.
    pub fn gelu(&self) -> Result<Tensor, TensorError> {
        self.unary("gelu", cost::ERROR_FUNCTION, Dispatch::gelu)
    }

    /// x·sigmoid(x). Floating-point dtypes.
    ///
    /// # Errors
    /// Those of every operator.
    pub fn silu(&self) -> Result<Tensor, TensorError> {
        self.in_f32("silu", cost::EXPONENTIAL + cost::CHEAP, 1, |x| {
            Dispatch::float_mul(Dispatch::sigmoid(x.clone()), x)
        })
    }
}

/// How the operators above are checked and run.
impl Tensor {
    pub(crate) fn check_float(&self, operator: &str) -> Result<(), TensorError> {
        if self.dtype().is_float() {
            return Ok(());
        }
        Err(TensorError::Invalid(format!(
            "{operator}: needs a floating-point tensor, not {} of shape {}",
            self.dtype(),
            self.layout()
        )))
    }

    fn check_signed(&self, operator: &str) -> Result<(), TensorError> {
        if self.dtype() != DType::U8 {
            return Ok(());
        }
        Err(TensorError::Invalid(format!(
            "{operator}: needs a floating-point or i32 tensor, not u8 of shape {}",
            self.layout()
        )))
    }

    /// Checks that the two are of one dtype and on one device.
    #[inline]
    pub(crate) fn check_same(&self, operator: &str, other: &Tensor) -> Result<(), TensorError> {
        if self.dtype() == other.dtype() && self.device() == other.device() {
            return Ok(());
        }
        Err(self.differ(operator, other))
    }

    #[cold]
    fn differ(&self, operator: &str, other: &Tensor) -> TensorError {
        if self.device() != other.device() {
            return TensorError::Invalid(format!(
                "{operator}: the tensors are on different devices: {} and {}",
                self.device().name(),
                other.device().name()
            ));
        }
        TensorError::Invalid(format!(
            "{operator}: dtypes differ: {} {} and {} {}; cast one of them first",
            self.dtype(),
            self.layout(),
            other.dtype(),
            other.layout()
        ))
    }

    /// As [`Self::check_same`]; returns the shape that the two broadcast to.
    #[inline]
    pub(crate) fn check_pair(&self, operator: &str, other: &Tensor) -> Result<Shape, TensorError> {
        self.check_same(operator, other)?;
        self.layout().broadcast(operator, other.layout())
    }

    /// A tensor without elements, charged to this one's account.
    pub(crate) fn nothing(&self, shape: Shape, dtype: DType) -> Result<Tensor, TensorError> {
        let charge = self.account().charge(1, 0)?;
        Ok(Tensor::new(
            shape,
            dtype,
            *self.device(),
            Storage::Empty,
            Owner::Charge(charge),
        ))
    }

    #[inline]
    fn binary(
        &self,
        operator: &'static str,
        weight: u64,
        other: &Tensor,
        float: Binary,
        int: Binary,
    ) -> Result<Tensor, TensorError> {
        let shape = self.check_pair(operator, other)?;
        let dtype = self.dtype();
        if shape.is_empty() {
            return self.nothing(shape, dtype);
        }
        let (a, b) = (self.as_burn(operator)?, other.as_burn(operator)?);
        Launch {
            operator,
            shape,
            dtype,
            work: cost::work(
                shape.elements() * cost::weight(weight, dtype),
                self.bytes() + other.bytes() + shape.bytes(dtype),
            ),
            scratch: 0,
        }
        .run(self, || {
            let (a, b) = self.aligned(a, other, b);
            if dtype.is_float() {
                float(a, b)
            } else {
                int(a, b)
            }
        })
    }

    /// The two, which burn holds as `a` and `b`, with leading extents of 1 where one has fewer
    /// axes.
    #[inline]
    pub(crate) fn aligned(
        &self,
        a: &DispatchTensor,
        other: &Tensor,
        b: &DispatchTensor,
    ) -> (DispatchTensor, DispatchTensor) {
        let (a, b) = (a.clone(), b.clone());
        let (left, right) = (self.layout().rank(), other.layout().rank());
        match left.cmp(&right) {
            Ordering::Equal => (a, b),
            Ordering::Less => (self.with_rank(a, right), b),
            Ordering::Greater => (a, other.with_rank(b, left)),
        }
    }

    /// `tensor`, which is this one as burn holds it, with leading extents of 1 up to `rank`.
    fn with_rank(&self, tensor: DispatchTensor, rank: usize) -> DispatchTensor {
        let shape = self.layout().to_burn(rank);
        if self.dtype().is_float() {
            Dispatch::float_reshape(tensor, shape)
        } else {
            Dispatch::int_reshape(tensor, shape)
        }
    }

    fn unary(
        &self,
        operator: &'static str,
        weight: u64,
        float: Unary,
    ) -> Result<Tensor, TensorError> {
        self.check_float(operator)?;
        self.unary_with(operator, weight, float, |x| x)
    }

    fn unary_with(
        &self,
        operator: &'static str,
        weight: u64,
        float: impl FnOnce(DispatchTensor) -> DispatchTensor,
        int: impl FnOnce(DispatchTensor) -> DispatchTensor,
    ) -> Result<Tensor, TensorError> {
        let (shape, dtype) = (*self.layout(), self.dtype());
        if shape.is_empty() {
            return self.nothing(shape, dtype);
        }
        let x = self.burn(operator)?;
        Launch {
            operator,
            shape,
            dtype,
            work: cost::work(
                shape.elements() * cost::weight(weight, dtype),
                2 * self.bytes(),
            ),
            scratch: 0,
        }
        .run(self, || if dtype.is_float() { float(x) } else { int(x) })
    }

    /// `value` rounded to this tensor's dtype.
    fn scalar(&self, value: f32) -> Scalar {
        match self.dtype() {
            DType::F32 => Scalar::Float(f64::from(value)),
            DType::F16 => Scalar::Float(half::f16::from_f32(value).to_f64()),
            DType::Bf16 => Scalar::Float(half::bf16::from_f32(value).to_f64()),
            DType::I32 => Scalar::Int(i64::from(i32::from_f32(value))),
            DType::U8 => Scalar::Int(i64::from(u8::from_f32(value))),
        }
    }

    /// Computes element by element on the host, over the broadcast of two tensors.
    fn zip<E: Element>(
        &self,
        operator: &'static str,
        shape: Shape,
        weight: u64,
        other: &Tensor,
        combine: impl Fn(E, E) -> Result<E, TensorError>,
    ) -> Result<Tensor, TensorError> {
        if shape.is_empty() {
            return self.nothing(shape, E::DTYPE);
        }
        let (a, b) = (self.values::<E>(operator)?, other.values::<E>(operator)?);
        let work = cost::work(
            shape.elements() * cost::weight(weight, E::DTYPE),
            self.bytes() + other.bytes() + shape.bytes(E::DTYPE),
        );
        Tensor::build::<E>(self.device(), self.account(), shape, work, |out| {
            let (left, right) = (
                self.layout().strides_in(&shape),
                other.layout().strides_in(&shape),
            );
            let rows = Rows::new(&shape, [left, right]);
            let (width, step) = (rows.width, rows.step);
            for (row, [i, j]) in out.chunks_exact_mut(width).zip(rows) {
                for (at, slot) in row.iter_mut().enumerate() {
                    *slot = combine(a[i + at * step[0]], b[j + at * step[1]])?;
                }
            }
            Ok(())
        })
    }
}
