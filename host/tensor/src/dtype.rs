//! The types of a tensor's elements.

use std::fmt;

/// The type of a tensor's elements. Multi-byte elements are little-endian in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DType {
    /// IEEE 754 binary32, 4 bytes.
    F32,
    /// IEEE 754 binary16, 2 bytes.
    F16,
    /// The upper half of a binary32, 2 bytes.
    Bf16,
    /// Signed two's complement, 4 bytes.
    I32,
    /// Unsigned, 1 byte. Comparisons return it, holding 0 or 1.
    U8,
}

impl DType {
    /// Every dtype, in the order of the contract.
    pub const ALL: [DType; 5] = [DType::F32, DType::F16, DType::Bf16, DType::I32, DType::U8];

    /// The bytes of one element: 4, 2 or 1.
    pub const fn size(self) -> usize {
        match self {
            DType::F32 | DType::I32 => 4,
            DType::F16 | DType::Bf16 => 2,
            DType::U8 => 1,
        }
    }

    /// The name as the contract spells it: `f32`, `f16`, `bf16`, `i32`, `u8`.
    pub const fn name(self) -> &'static str {
        match self {
            DType::F32 => "f32",
            DType::F16 => "f16",
            DType::Bf16 => "bf16",
            DType::I32 => "i32",
            DType::U8 => "u8",
        }
    }

    /// Whether this is one of the floating-point dtypes.
    pub const fn is_float(self) -> bool {
        matches!(self, DType::F32 | DType::F16 | DType::Bf16)
    }
}

impl fmt::Display for DType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
