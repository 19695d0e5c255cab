//! The elements as Rust types, for what is computed on the host.

use std::cmp::Ordering;

use half::{bf16, f16};

use crate::dtype::DType;

/// A Rust type whose values are a tensor's elements.
pub(crate) trait Element: bytemuck::Pod + Default + PartialOrd + Send + Sync {
    /// The dtype of such a tensor.
    const DTYPE: DType;

    /// Whether this is not a number.
    fn is_nan(self) -> bool {
        false
    }

    /// Rounds to nearest. An integer saturates, and is 0 where `value` is not a number.
    fn from_f32(value: f32) -> Self;

    /// Whether this orders after `other`. What is not a number orders before everything else,
    /// so that every comparison of elements in this crate is a total one.
    fn exceeds(self, other: Self) -> bool {
        self > other || (other.is_nan() && !self.is_nan())
    }

    /// The order that [`Self::exceeds`] gives, largest first.
    fn descending(self, other: Self) -> Ordering {
        if self.exceeds(other) {
            Ordering::Less
        } else if other.exceeds(self) {
            Ordering::Greater
        } else {
            Ordering::Equal
        }
    }
}

impl Element for f32 {
    const DTYPE: DType = DType::F32;

    fn is_nan(self) -> bool {
        f32::is_nan(self)
    }

    fn from_f32(value: f32) -> Self {
        value
    }
}

impl Element for f16 {
    const DTYPE: DType = DType::F16;

    fn is_nan(self) -> bool {
        f16::is_nan(self)
    }

    fn from_f32(value: f32) -> Self {
        f16::from_f32(value)
    }
}

impl Element for bf16 {
    const DTYPE: DType = DType::Bf16;

    fn is_nan(self) -> bool {
        bf16::is_nan(self)
    }

    fn from_f32(value: f32) -> Self {
        bf16::from_f32(value)
    }
}

impl Element for i32 {
    const DTYPE: DType = DType::I32;

    fn from_f32(value: f32) -> Self {
        value.round_ties_even() as i32
    }
}

impl Element for u8 {
    const DTYPE: DType = DType::U8;

    fn from_f32(value: f32) -> Self {
        value.round_ties_even() as u8
    }
}

/// Runs an expression with a type parameter bound to the Rust type of a dtype.
macro_rules! with_element {
    ($dtype:expr, $element:ident => $body:expr) => {
        match $dtype {
            $crate::dtype::DType::F32 => {
                type $element = f32;
                $body
            }
            $crate::dtype::DType::F16 => {
                type $element = half::f16;
                $body
            }
            $crate::dtype::DType::Bf16 => {
                type $element = half::bf16;
                $body
            }
            $crate::dtype::DType::I32 => {
                type $element = i32;
                $body
            }
            $crate::dtype::DType::U8 => {
                type $element = u8;
                $body
            }
        }
    };
}
pub(crate) use with_element;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn not_a_number_orders_before_everything() {
        assert!(f32::NEG_INFINITY.exceeds(f32::NAN));
        assert!(!f32::NAN.exceeds(f32::NEG_INFINITY));
        assert!(!f32::NAN.exceeds(f32::NAN));
        let mut values = [f32::NAN, 1.0, f32::INFINITY, -0.0, 0.0, f32::NEG_INFINITY];
        values.sort_by(|a, b| a.descending(*b));
        assert_eq!(values[0], f32::INFINITY);
        assert_eq!(values[4], f32::NEG_INFINITY);
        assert!(values[5].is_nan());
    }

    #[test]
    fn scalars_round_to_even_and_saturate() {
        assert_eq!(i32::from_f32(2.5), 2);
        assert_eq!(i32::from_f32(-1e20), i32::MIN);
        assert_eq!(u8::from_f32(-3.0), 0);
        assert_eq!(u8::from_f32(f32::NAN), 0);
        assert_eq!(u8::from_f32(255.4), 255);
    }
}
