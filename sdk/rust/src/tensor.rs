//! Tensors on the node's device.

use crate::bindings::imports::skep::tensor::tensors as wit;
use crate::{Error, Result};
use std::ops;

/// The type of a tensor's elements.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DType {
    /// IEEE 754 binary32, 4 bytes.
    F32,
    /// IEEE 754 binary16, 2 bytes.
    F16,
    /// The upper half of a binary32, 2 bytes.
    BF16,
    /// Signed two's complement, 4 bytes.
    I32,
    /// Unsigned, 1 byte. Comparisons return it, holding 0 or 1.
    U8,
}

impl DType {
    /// Bytes per element.
    pub const fn size(self) -> usize {
        match self {
            DType::F32 | DType::I32 => 4,
            DType::F16 | DType::BF16 => 2,
            DType::U8 => 1,
        }
    }

    fn to_wit(self) -> wit::Dtype {
        match self {
            DType::F32 => wit::Dtype::F32,
            DType::F16 => wit::Dtype::F16,
            DType::BF16 => wit::Dtype::Bf16,
            DType::I32 => wit::Dtype::I32,
            DType::U8 => wit::Dtype::U8,
        }
    }

    fn from_wit(dtype: wit::Dtype) -> Self {
        match dtype {
            wit::Dtype::F32 => DType::F32,
            wit::Dtype::F16 => DType::F16,
            wit::Dtype::Bf16 => DType::BF16,
            wit::Dtype::I32 => DType::I32,
            wit::Dtype::U8 => DType::U8,
        }
    }
}

/// A dense tensor on the node's device: a handle, whose values stay there until one of the
/// `to_…` methods reads them.
///
/// Values are immutable, and every operator returns a new tensor. Dropping a tensor gives its
/// memory back at once.
///
/// - Shapes have at most 6 extents, outermost first, row-major.
/// - A negative axis counts from the end: -1 is the last.
/// - Two operands have the same dtype; nothing is promoted silently.
/// - Two operands *broadcast* as in NumPy: aligned at the last axis, an extent of 1 stretches.
/// - `keep` leaves a reduced axis in place, with extent 1.
///
/// A mistake is an [`Error::Invalid`] that names the shapes. Every operator may be an
/// [`Error::OverQuota`], before anything was allocated or computed.
///
/// `&a + &b`, `-`, `*` and `/` work on references and return a [`Result`], as the methods do;
/// so do `&a + 1.0` and `&a * 0.5`.
pub struct Tensor(pub(crate) wit::Tensor);

/// Making tensors.
impl Tensor {
    /// An `f32` matrix from its rows.
    pub fn from_rows<const WIDTH: usize>(rows: &[[f32; WIDTH]]) -> Result<Self> {
        Self::from_f32(rows.as_flattened(), &[extent(rows.len())?, extent(WIDTH)?])
    }

    /// An `f32` tensor from its elements, row-major.
    pub fn from_f32(data: &[f32], shape: &[u32]) -> Result<Self> {
        Ok(Tensor(wit::Tensor::from_f32(data, shape)?))
    }

    /// An `i32` tensor from its elements, row-major.
    pub fn from_i32(data: &[i32], shape: &[u32]) -> Result<Self> {
        Ok(Tensor(wit::Tensor::from_i32(data, shape)?))
    }

    /// A tensor from its elements' bytes, row-major and little-endian.
    pub fn from_bytes(data: &[u8], shape: &[u32], dtype: DType) -> Result<Self> {
        Ok(Tensor(wit::Tensor::from_bytes(
            data,
            shape,
            dtype.to_wit(),
        )?))
    }

    /// A tensor of zeros.
    pub fn zeros(shape: &[u32], dtype: DType) -> Result<Self> {
        Ok(Tensor(wit::Tensor::zeros(shape, dtype.to_wit())?))
    }

    /// A tensor in which every element is `value`.
    pub fn full(shape: &[u32], value: f32, dtype: DType) -> Result<Self> {
        Ok(Tensor(wit::Tensor::full(shape, value, dtype.to_wit())?))
    }

    /// An `f32` tensor drawn uniformly from [low, high); a seed gives the same elements on
    /// every node.
    pub fn random_uniform(shape: &[u32], low: f32, high: f32, seed: u64) -> Result<Self> {
        Ok(Tensor(wit::Tensor::random_uniform(shape, low, high, seed)?))
    }

    /// An `f32` tensor drawn from a normal distribution; a seed gives the same elements on
    /// every node.
    pub fn random_normal(shape: &[u32], mean: f32, deviation: f32, seed: u64) -> Result<Self> {
        Ok(Tensor(wit::Tensor::random_normal(
            shape, mean, deviation, seed,
        )?))
    }
}

/// Looking at tensors.
impl Tensor {
    /// The shape, outermost extent first.
    pub fn shape(&self) -> Vec<u32> {
        self.0.shape()
    }

    /// The type of the elements.
    pub fn dtype(&self) -> DType {
        DType::from_wit(self.0.dtype())
    }

    /// All elements of an `f32` tensor, row-major.
    pub fn to_vec(&self) -> Result<Vec<f32>> {
        Ok(self.0.to_f32()?)
    }

    /// All elements of an `i32` tensor, row-major.
    pub fn to_vec_i32(&self) -> Result<Vec<i32>> {
        Ok(self.0.to_i32()?)
    }

    /// All elements as bytes, row-major and little-endian.
    pub fn to_bytes(&self) -> Result<Vec<u8>> {
        Ok(self.0.to_bytes()?)
    }

    /// The only element of an `f32` tensor that has one.
    pub fn item(&self) -> Result<f32> {
        match self.to_vec()?.as_slice() {
            [value] => Ok(*value),
            values => Err(Error::invalid(format_args!(
                "item of a tensor of shape {:?}, which has {} elements",
                self.shape(),
                values.len()
            ))),
        }
    }
}

/// Methods of the contract that take other tensors and return one.
macro_rules! with_other {
    ($($(#[$doc:meta])* $name:ident;)*) => { $(
        $(#[$doc])*
        pub fn $name(&self, other: &Tensor) -> Result<Tensor> {
            Ok(Tensor(self.0.$name(&other.0)?))
        }
    )* };
}

/// Methods of the contract on each element.
macro_rules! of_elements {
    ($($(#[$doc:meta])* $name:ident;)*) => { $(
        $(#[$doc])*
        pub fn $name(&self) -> Result<Tensor> {
            Ok(Tensor(self.0.$name()?))
        }
    )* };
}

/// Methods of the contract that reduce an axis.
macro_rules! along_axis {
    ($($(#[$doc:meta])* $name:ident;)*) => { $(
        $(#[$doc])*
        pub fn $name(&self, axis: i32, keep: bool) -> Result<Tensor> {
            Ok(Tensor(self.0.$name(axis, keep)?))
        }
    )* };
}

/// Two tensors, element by element, broadcasting.
impl Tensor {
    with_other! {
        /// self + other.
        add;
        /// self - other.
        sub;
        /// self × other.
        mul;
        /// self ÷ other; integers truncate towards zero.
        div;
        /// self raised to other.
        pow;
        /// The larger of the two.
        maximum;
        /// The smaller of the two.
        minimum;
        /// 1 where the two are equal, as `u8`.
        equal;
        /// 1 where self is greater, as `u8`.
        greater;
        /// 1 where self is less, as `u8`.
        less;
    }

    /// `on_true` where this `u8` tensor is not 0, `on_false` elsewhere.
    pub fn select(&self, on_true: &Tensor, on_false: &Tensor) -> Result<Tensor> {
        Ok(Tensor(self.0.select(&on_true.0, &on_false.0)?))
    }
}

/// One tensor, element by element.
impl Tensor {
    of_elements! {
        /// -x.
        neg;
        /// |x|.
        abs;
        /// eˣ.
        exp;
        /// The natural logarithm.
        log;
        /// The square root.
        sqrt;
        /// The hyperbolic tangent.
        tanh;
        /// 1 ÷ (1 + e⁻ˣ).
        sigmoid;
        /// The larger of x and 0.
        relu;
        /// x·Φ(x), with the exact normal distribution function.
        gelu;
        /// x·sigmoid(x).
        silu;
    }

    /// self + value.
    pub fn add_scalar(&self, value: f32) -> Result<Tensor> {
        Ok(Tensor(self.0.add_scalar(value)?))
    }

    /// self × value.
    pub fn mul_scalar(&self, value: f32) -> Result<Tensor> {
        Ok(Tensor(self.0.mul_scalar(value)?))
    }

    /// The same elements in another dtype, rounded to nearest.
    pub fn cast(&self, dtype: DType) -> Result<Tensor> {
        Ok(Tensor(self.0.cast(dtype.to_wit())?))
    }
}

/// Products, reductions and normalisations.
impl Tensor {
    with_other! {
        /// The matrix product over the last two axes: […, m, k] × […, k, n] → […, m, n].
        matmul;
    }

    along_axis! {
        /// The sum along an axis.
        sum;
        /// The mean along an axis.
        mean;
        /// The largest element along an axis.
        max;
        /// The smallest element along an axis.
        min;
        /// The index of the largest element along an axis, as `i32`.
        argmax;
    }

    /// The `count` largest elements along an axis in descending order, and their indices as
    /// `i32`.
    pub fn top_k(&self, count: u32, axis: i32) -> Result<(Tensor, Tensor)> {
        let (values, indices) = self.0.top_k(count, axis)?;
        Ok((Tensor(values), Tensor(indices)))
    }

    /// eˣ ÷ Σeˣ along an axis.
    pub fn softmax(&self, axis: i32) -> Result<Tensor> {
        Ok(Tensor(self.0.softmax(axis)?))
    }

    /// The natural logarithm of [`Tensor::softmax`], computed without overflow.
    pub fn log_softmax(&self, axis: i32) -> Result<Tensor> {
        Ok(Tensor(self.0.log_softmax(axis)?))
    }

    /// (x - mean) ÷ √(variance + epsilon) × weight + bias over the last axis.
    pub fn layer_norm(&self, weight: &Tensor, bias: &Tensor, epsilon: f32) -> Result<Tensor> {
        Ok(Tensor(self.0.layer_norm(&weight.0, &bias.0, epsilon)?))
    }

    /// x ÷ √(mean of x² + epsilon) × weight over the last axis.
    pub fn rms_norm(&self, weight: &Tensor, epsilon: f32) -> Result<Tensor> {
        Ok(Tensor(self.0.rms_norm(&weight.0, epsilon)?))
    }
}

/// Arranging elements.
impl Tensor {
    /// Along `axis`, the elements that the `i32` tensor `indices` names.
    pub fn gather(&self, axis: i32, indices: &Tensor) -> Result<Tensor> {
        Ok(Tensor(self.0.gather(axis, &indices.0)?))
    }

    /// Rows of this matrix by the `i32` tensor `indices` of any shape.
    pub fn embedding(&self, indices: &Tensor) -> Result<Tensor> {
        Ok(Tensor(self.0.embedding(&indices.0)?))
    }

    /// The block that one range for each axis cuts out.
    pub fn slice(&self, ranges: &[ops::Range<u32>]) -> Result<Tensor> {
        let spans: Vec<wit::Span> = ranges
            .iter()
            .map(|range| wit::Span {
                start: range.start,
                end: range.end,
            })
            .collect();
        Ok(Tensor(self.0.slice(&spans)?))
    }

    /// The tensors one behind the other along `axis`.
    pub fn concat(tensors: &[&Tensor], axis: i32) -> Result<Tensor> {
        let tensors: Vec<&wit::Tensor> = tensors.iter().map(|tensor| &tensor.0).collect();
        Ok(Tensor(wit::Tensor::concat(&tensors, axis)?))
    }

    /// The same elements in another shape with as many elements.
    pub fn reshape(&self, shape: &[u32]) -> Result<Tensor> {
        Ok(Tensor(self.0.reshape(shape)?))
    }

    /// This tensor with two of its axes exchanged.
    pub fn transpose(&self, axis_a: i32, axis_b: i32) -> Result<Tensor> {
        Ok(Tensor(self.0.transpose(axis_a, axis_b)?))
    }
}

/// An operator between two tensors.
macro_rules! operator {
    ($($trait:ident $method:ident;)*) => { $(
        impl ops::$trait<&Tensor> for &Tensor {
            type Output = Result<Tensor>;
            fn $method(self, other: &Tensor) -> Result<Tensor> {
                Tensor::$method(self, other)
            }
        }
    )* };
}

operator! { Add add; Sub sub; Mul mul; Div div; }

impl ops::Add<f32> for &Tensor {
    type Output = Result<Tensor>;
    fn add(self, value: f32) -> Result<Tensor> {
        self.add_scalar(value)
    }
}

impl ops::Mul<f32> for &Tensor {
    type Output = Result<Tensor>;
    fn mul(self, value: f32) -> Result<Tensor> {
        self.mul_scalar(value)
    }
}

impl ops::Neg for &Tensor {
    type Output = Result<Tensor>;
    fn neg(self) -> Result<Tensor> {
        Tensor::neg(self)
    }
}

impl std::fmt::Debug for Tensor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Tensor({:?}, {:?})", self.dtype(), self.shape())
    }
}

/// A length as an extent.
fn extent(length: usize) -> Result<u32> {
    u32::try_from(length)
        .map_err(|_| Error::invalid(format_args!("an extent of {length} is more than 2³² - 1")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dtypes_survive_the_way_to_the_host_and_back() {
        for dtype in [DType::F32, DType::F16, DType::BF16, DType::I32, DType::U8] {
            assert_eq!(DType::from_wit(dtype.to_wit()), dtype);
        }
    }

    #[test]
    #[cfg(target_pointer_width = "64")]
    fn an_extent_that_does_not_fit_is_refused() {
        assert_eq!(extent(12), Ok(12));
        assert!(matches!(extent(1 << 32), Err(Error::Invalid(_))));
    }
}
