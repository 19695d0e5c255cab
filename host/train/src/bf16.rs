//! Numbers of 16 bits with the range of 32: what activations are rounded to, and kept in.
//!
//! What is kept was rounded before, so that keeping it loses nothing: a layer that is computed
//! again has the same gradients as one that was kept.

use std::sync::Arc;

use skep_accounts::QuotaError;

use crate::gemm::Workers;
use crate::operators::share_rows;
use crate::pool::{Buffer, Pool};

/// What a pass computes with. Parameters, their gradients and the optimizer's state are always in
/// 32 bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Precision {
    /// 32 bits.
    #[default]
    F32,
    /// The adapter's weights and the activations are rounded to 16 bits with 8 of exponent
    /// (bfloat16), and what is kept of them takes half the memory. Sums, the residual stream of a
    /// decoder, losses and gradients stay in 32.
    Bf16,
}

/// The nearest number of 16 bits, the even one of two.
fn nearest(x: f32) -> f32 {
    let bits = x.to_bits();
    let rounded = bits.wrapping_add(0x7fff + (bits >> 16 & 1)) & 0xffff_0000;
    match x.is_nan() {
        true => f32::NAN,
        false => f32::from_bits(rounded),
    }
}

/// Rounds every number where it lies.
pub(crate) fn round(values: &mut [f32]) {
    for x in values {
        *x = nearest(*x);
    }
}

impl Precision {
    /// Rounds every number where it lies, if it has to be.
    pub(crate) fn apply(self, workers: Workers<'_>, values: &mut [f32]) {
        if self == Precision::Bf16 {
            share_rows(workers.team, values, 1, |_, values| round(values));
        }
    }
}

/// A buffer that waits for the way back.
#[derive(Debug)]
pub(crate) enum Stored {
    Full(Buffer),
    Half { packed: Buffer, len: usize },
}

impl Stored {
    /// Keeps a buffer, of numbers that were rounded where `precision` rounds them.
    pub fn keep(
        pool: &Arc<Pool>,
        precision: Precision,
        buffer: Buffer,
    ) -> Result<Self, QuotaError> {
        if precision == Precision::F32 {
            return Ok(Stored::Full(buffer));
        }
        let len = buffer.len();
        let mut packed = pool.take(len.div_ceil(2))?;
        let halves: &mut [u16] = bytemuck::cast_slice_mut(&mut packed);
        for (half, x) in halves.iter_mut().zip(&*buffer) {
            *half = (x.to_bits() >> 16) as u16;
        }
        Ok(Stored::Half { packed, len })
    }

    /// The numbers that were kept.
    pub fn open(self, pool: &Arc<Pool>) -> Result<Buffer, QuotaError> {
        match self {
            Stored::Full(buffer) => Ok(buffer),
            Stored::Half { packed, len } => {
                let mut buffer = pool.take(len)?;
                let halves: &[u16] = bytemuck::cast_slice(&packed);
                for (x, half) in buffer.iter_mut().zip(halves) {
                    *x = f32::from_bits(u32::from(*half) << 16);
                }
                Ok(buffer)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use half::bf16;
    use proptest::prelude::*;
    use skep_accounts::Account;

    proptest! {
        /// Any bits: infinities, subnormal numbers, and those in the middle between two.
        #[test]
        fn numbers_are_rounded_as_half_rounds_them(bits in any::<u32>(), middle in any::<u16>()) {
            for bits in [bits, u32::from(middle) << 16 | 0x8000] {
                let x = f32::from_bits(bits);
                let (got, want) = (nearest(x), bf16::from_f32(x).to_f32());
                prop_assert!(got.to_bits() == want.to_bits() || got.is_nan() && want.is_nan());
            }
        }
    }

    #[test]
    fn what_was_rounded_is_kept_as_it_is_in_half_the_memory() {
        let account = Account::unlimited();
        let pool = Pool::new(&account);
        let mut buffer = pool.take(1001).unwrap();
        for (n, x) in buffer.iter_mut().enumerate() {
            *x = nearest((n as f32 - 500.0) * 0.37);
        }
        let before = buffer.to_vec();
        let kept = Stored::keep(&pool, Precision::Bf16, buffer).unwrap();
        pool.trim();
        assert_eq!(account.usage().device_bytes, 4 * 501);
        assert_eq!(kept.open(&pool).unwrap().to_vec(), before);
    }
}
