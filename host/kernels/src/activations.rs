//! Activations in the form that products with packed weights take.
//!
//! Weights of a few bits are multiplied as integers, so activations are rounded to 8 bits with
//! one scale for as many elements as the weights' blocks have; float weights take them as they
//! are. One buffer is filled once and used by every product with the same input.

#[cfg(target_arch = "x86_64")]
mod avx512;
#[cfg(target_arch = "x86_64")]
mod groups;
#[cfg(target_arch = "x86_64")]
mod tiles;

use skep_weights::PackedFormat;

use crate::isa::Isa;
#[cfg(target_arch = "x86_64")]
use crate::linear::avx512::{floats, many};
use crate::team::Team;
use crate::{ShapeError, expect_below, expect_len};
#[cfg(target_arch = "x86_64")]
pub(crate) use groups::{FloatGroups, Lanes};
#[cfg(target_arch = "x86_64")]
pub(crate) use tiles::{Line, Tiles, TilesOfGroup};

/// Elements that are not worth sharing among the team.
const TAKEN: usize = 4096;

/// Elements that a sum of quantized activations covers: no format has smaller sub-blocks.
pub(crate) const SUM: usize = 16;

/// How activations are rounded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Precision {
    /// Not at all.
    F32,
    /// To 8 bits, with one scale for 32 elements.
    Int8By32,
    /// To 8 bits, with one scale for 256 elements.
    Int8By256,
}

impl Precision {
    /// What weights of this format take.
    pub fn of(format: PackedFormat) -> Self {
        match format.block_len() {
            32 => Precision::Int8By32,
            256 => Precision::Int8By256,
            _ => Precision::F32,
        }
    }

    /// Elements with one scale; 1 without any.
    pub fn block_len(self) -> usize {
        match self {
            Precision::F32 => 1,
            Precision::Int8By32 => 32,
            Precision::Int8By256 => 256,
        }
    }
}

/// Rows of activations, one a token, in one precision. Reused from call to call.
#[derive(Debug, Default)]
pub struct Activations {
    pub(crate) tokens: usize,
    pub(crate) columns: usize,
    pub(crate) precision: Option<Precision>,
    /// `[tokens, columns]`, in [`Precision::F32`].
    pub(crate) values: Vec<f32>,
    /// `[tokens, columns]`, from -127 to 127.
    pub(crate) quants: Vec<i8>,
    /// `[tokens, columns / block]`: an element is its scale times its integer.
    pub(crate) scales: Vec<f32>,
    /// `[tokens, columns / 16]`: sums of 16 integers.
    pub(crate) sums: Vec<i16>,
    /// The same once more, sixteen tokens side by side; empty where no product takes it so.
    #[cfg(target_arch = "x86_64")]
    pub(crate) tiles: Tiles,
    /// The same floats a few tokens side by side, perhaps rounded; empty where no product takes
    /// them so.
    #[cfg(target_arch = "x86_64")]
    pub(crate) groups: FloatGroups,
    /// Rows in another order, before they are rounded.
    ordered: Vec<f32>,
}

impl Activations {
    /// Takes `values`, `[tokens, columns]`, in this precision. NaN becomes 0 in the 8-bit
    /// precisions and infinities the largest finite value of their block. The team shares out many
    /// rows.
    ///
    /// # Errors
    /// When `values` is no whole number of rows, or a row is no whole number of blocks.
    pub fn fill(
        &mut self,
        isa: Isa,
        team: &Team,
        precision: Precision,
        values: &[f32],
        columns: usize,
    ) -> Result<(), ShapeError> {
        let block = precision.block_len();
        let tokens = values.len().checked_div(columns).unwrap_or(0);
        expect_len(
            "activations",
            "the input",
            values.len(),
            tokens.checked_mul(columns),
        )?;
        expect_len(
            "activations",
            "a row",
            columns,
            Some(columns / block * block),
        )?;
        (self.tokens, self.columns) = (tokens, columns);
        self.precision = Some(precision);
        if precision == Precision::F32 {
            self.values.clear();
            self.values.extend_from_slice(values);
            #[cfg(target_arch = "x86_64")]
            {
                let is_wide = matches!(isa.or_portable(), Isa::Avx512 | Isa::Amx);
                let are_many = tokens >= floats::many::FEWEST;
                let tokens = if is_wide && are_many { tokens } else { 0 };
                self.groups.fill(team, tokens, columns, values);
            }
            return Ok(());
        }
        self.quants.resize(values.len(), 0);
        self.scales.resize(values.len() / block, 0.0);
        self.sums.resize(values.len() / SUM, 0);
        let isa = isa.or_portable();
        // Each member as much as the others, but not so little that the sharing takes longer.
        let share = tokens.div_ceil(team.threads());
        let taken = share.max(TAKEN.div_ceil(columns.max(1)));
        let mut parts: Vec<Part<'_>> = values
            .chunks(taken * columns.max(1))
            .zip(self.quants.chunks_mut(taken * columns.max(1)))
            .zip(self.scales.chunks_mut((taken * columns / block).max(1)))
            .zip(self.sums.chunks_mut((taken * columns / SUM).max(1)))
            .map(|(((values, quants), scales), sums)| Part {
                values,
                quants,
                scales,
                sums,
            })
            .collect();
        team.share_mut(&mut parts, |part| match isa {
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => {
                // SAFETY: the machine has these instructions.
                unsafe { part.quantize_avx2(block) }
            }
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 | Isa::Amx => {
                // SAFETY: as above.
                unsafe { part.quantize_avx512(block) }
            }
            _ => part.quantize(block),
        });
        #[cfg(target_arch = "x86_64")]
        {
            let (fewest, offset) = match isa {
                Isa::Amx => (crate::linear::FEWEST_FOR_TILES, 0),
                Isa::Avx512 => (many::FEWEST, many::OFFSET as u8),
                _ => (usize::MAX, 0),
            };
            let tokens = if tokens < fewest { 0 } else { tokens };
            self.tiles.resize(tokens, columns, precision, offset);
            let (quants, scales, sums) = (&self.quants, &self.scales, &self.sums);
            let mut groups: Vec<_> = self.tiles.groups().collect();
            team.share_mut(&mut groups, |group| {
                // SAFETY: as above; there are tiles only where the machine has AVX-512.
                unsafe { group.take(columns, block, quants, scales, sums) };
            });
        }
        Ok(())
    }

    /// As [`Activations::fill`], for products with weights that are not quantized, of somebody who
    /// can bear both being rounded to bfloat16: in half the time, where [`Isa::rounds_floats`].
    /// A token's products are the same then whatever others there are. What is filled so is for
    /// products by these instructions alone.
    ///
    /// # Errors
    /// As [`Activations::fill`].
    pub fn fill_rounded(
        &mut self,
        isa: Isa,
        team: &Team,
        values: &[f32],
        columns: usize,
    ) -> Result<(), ShapeError> {
        if !isa.rounds_floats() {
            return self.fill(isa, team, Precision::F32, values, columns);
        }
        #[cfg(target_arch = "x86_64")]
        {
            let tokens = values.len().checked_div(columns).unwrap_or(0);
            let whole = tokens.checked_mul(columns);
            expect_len("activations", "the input", values.len(), whole)?;
            (self.tokens, self.columns) = (tokens, columns);
            self.precision = Some(Precision::F32);
            self.values.clear();
            // SAFETY: the machine has these instructions.
            unsafe { self.groups.fill_rounded(team, tokens, columns, values) };
        }
        Ok(())
    }

    /// As [`Activations::fill`], with the elements of each row in another order: element `n` is
    /// that in place `order[n]`. For weights whose columns are in that order.
    ///
    /// # Errors
    /// As [`Activations::fill`], and when `order` has not one place in a row for each element.
    pub fn fill_in_order(
        &mut self,
        isa: Isa,
        team: &Team,
        precision: Precision,
        values: &[f32],
        order: &[u32],
    ) -> Result<(), ShapeError> {
        let columns = order.len();
        let whole = values.len().checked_div(columns).unwrap_or(0) * columns;
        expect_len("activations", "the input", values.len(), Some(whole))?;
        if let Some(last) = order.iter().max() {
            expect_below("activations", "a row", *last as usize, columns)?;
        }
        let mut ordered = std::mem::take(&mut self.ordered);
        ordered.clear();
        for row in values.chunks_exact(columns.max(1)) {
            ordered.extend(order.iter().map(|place| row[*place as usize]));
        }
        let filled = self.fill(isa, team, precision, &ordered, columns);
        self.ordered = ordered;
        filled
    }

    /// Whether these are floats of which only what is rounded to bfloat16 was kept.
    pub(crate) fn are_rounded(&self) -> bool {
        #[cfg(target_arch = "x86_64")]
        {
            self.groups.are_filled() && self.groups.are_rounded()
        }
        #[cfg(not(target_arch = "x86_64"))]
        {
            false
        }
    }

    /// Rows.
    pub fn tokens(&self) -> usize {
        self.tokens
    }

    /// Elements of a row.
    pub fn columns(&self) -> usize {
        self.columns
    }

    /// How the rows are rounded; none while nothing was taken.
    pub fn precision(&self) -> Option<Precision> {
        self.precision
    }
}

/// Some rows, and where they go.
struct Part<'a> {
    values: &'a [f32],
    quants: &'a mut [i8],
    scales: &'a mut [f32],
    sums: &'a mut [i16],
}

impl Part<'_> {
    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx2,fma,f16c")]
    fn quantize_avx2(&mut self, block: usize) {
        self.quantize(block);
    }

    /// Symmetric rounding to nearest: the largest magnitude of a block becomes 127.
    #[inline(always)]
    fn quantize(&mut self, block: usize) {
        let blocks = self
            .values
            .chunks_exact(block)
            .zip(self.quants.chunks_exact_mut(block))
            .zip(self.sums.chunks_exact_mut(block / SUM))
            .zip(&mut *self.scales);
        for (((values, quants), sums), scale) in blocks {
            let mut largest = [0.0_f32; 16];
            for some in values.as_chunks::<16>().0 {
                for (largest, value) in largest.iter_mut().zip(some) {
                    let size = value.abs();
                    *largest = largest.max(if size <= f32::MAX { size } else { 0.0 });
                }
            }
            let largest = largest.into_iter().fold(0.0, f32::max);
            *scale = largest / 127.0;
            let inverse = if *scale >= f32::MIN_POSITIVE {
                127.0 / largest
            } else {
                *scale = 0.0;
                0.0
            };
            let parts = values
                .as_chunks::<SUM>()
                .0
                .iter()
                .zip(quants.as_chunks_mut::<SUM>().0)
                .zip(sums);
            for ((values, quants), sum) in parts {
                let mut total = 0_i32;
                for (value, quant) in values.iter().zip(quants) {
                    // Saturating, so an infinity becomes 127 and a NaN 0.
                    let rounded = (value * inverse).round_ties_even() as i32;
                    let rounded = rounded.clamp(-127, 127);
                    total += rounded;
                    *quant = rounded as i8;
                }
                *sum = total as i16;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn rounding_is_within_half_a_step(
            values in prop::collection::vec(-1e3_f32..1e3, 512),
            by_256 in any::<bool>(),
        ) {
            let precision = if by_256 { Precision::Int8By256 } else { Precision::Int8By32 };
            let block = precision.block_len();
            let team = Team::new(2).unwrap();
            let mut plain = Activations::default();
            plain.fill(Isa::Portable, &team, precision, &values, 256).unwrap();
            for isa in Isa::available() {
                let mut taken = Activations::default();
                taken.fill(isa, &team, precision, &values, 256).unwrap();
                prop_assert_eq!(&taken.quants, &plain.quants);
                prop_assert_eq!(&taken.scales, &plain.scales);
                prop_assert_eq!((taken.tokens(), taken.columns()), (2, 256));
                for (n, value) in values.iter().enumerate() {
                    let step = taken.scales[n / block];
                    let got = f32::from(taken.quants[n]) * step;
                    prop_assert!((got - value).abs() <= step * 0.501, "{value} {got}");
                }
                for (sum, sixteen) in taken.sums.iter().zip(taken.quants.chunks_exact(SUM)) {
                    let total: i32 = sixteen.iter().map(|q| i32::from(*q)).sum();
                    prop_assert_eq!(i32::from(*sum), total);
                }
            }
        }
    }

    #[test]
    fn what_is_not_finite_stays_in_range() {
        let team = Team::new(1).unwrap();
        let mut values = vec![1.0_f32; 64];
        values[3] = f32::NAN;
        values[40] = f32::INFINITY;
        values[41] = f32::NEG_INFINITY;
        for isa in Isa::available() {
            let mut taken = Activations::default();
            taken
                .fill(isa, &team, Precision::Int8By32, &values, 64)
                .unwrap();
            assert_eq!((taken.quants[3], taken.quants[0]), (0, 127));
            assert_eq!((taken.quants[40], taken.quants[41]), (127, -127));
            assert!(taken.scales.iter().all(|scale| scale.is_finite()));
        }
        let mut taken = Activations::default();
        taken
            .fill(Isa::best(), &team, Precision::Int8By32, &[0.0; 32], 32)
            .unwrap();
        assert_eq!((taken.scales[0], taken.quants[0]), (0.0, 0));
    }

    #[test]
    fn rows_that_are_not_whole_are_refused() {
        let team = Team::new(1).unwrap();
        let mut taken = Activations::default();
        let isa = Isa::best();
        assert!(
            taken
                .fill(isa, &team, Precision::Int8By256, &[0.0; 128], 128)
                .is_err()
        );
        assert!(
            taken
                .fill(isa, &team, Precision::Int8By32, &[0.0; 33], 32)
                .is_err()
        );
        assert!(taken.fill(isa, &team, Precision::F32, &[0.0; 3], 3).is_ok());
        let mut in_order = |values: &[f32], order: &[u32]| {
            taken.fill_in_order(isa, &team, Precision::F32, values, order)
        };
        assert!(in_order(&[0.0; 4], &[1, 0]).is_ok());
        assert!(in_order(&[0.0; 5], &[1, 0]).is_err());
        assert!(in_order(&[0.0; 4], &[1, 2]).is_err());
        assert!(in_order(&[0.0; 4], &[]).is_err());
    }
}
