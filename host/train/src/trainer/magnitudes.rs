//! Magnitudes, where they are learned: what they begin as, and the work that they take.

use crate::bf16::Precision;
use crate::error::TrainError;
use crate::gemm::Workers;
use crate::operators::dora::row_lengths;
use crate::operators::lora::LowRank;
use crate::trainer::Trainer;

impl Trainer {
    /// Sets magnitudes to the lengths of the rows of the base, as they are computed with, so that an
    /// adapter whose B is zero changes nothing.
    pub(super) fn begin_magnitudes(&mut self) -> Result<(), TrainError> {
        if !self.lora.dora {
            return Ok(());
        }
        self.account
            .charge_work_in_pieces(self.work_of_magnitudes(0, 1))?;
        let workers = Workers {
            simd: self.simd,
            team: &self.team,
        };
        for layer in 0..self.base.shape.layers {
            self.account.check()?;
            for (target, frozen) in self.base.linears(layer) {
                let Some(pair) = self.layout.pair(layer, target) else {
                    continue;
                };
                let (a, b, magnitudes) = pair.parts(&mut self.parameters);
                let low = LowRank {
                    a,
                    b,
                    rank: self.lora.rank,
                    scale: self.lora.scale(),
                    precision: Precision::F32,
                    dropout: None,
                };
                let source = frozen.matrix.source();
                row_lengths(workers, &self.pool, source, &low, magnitudes)?;
            }
        }
        Ok(())
    }

    /// Operations that magnitudes take beside those of an adapter without: in every pass the lengths
    /// of all rows, and where inputs are dropped another product with the base, each way.
    pub(super) fn work_of_magnitudes(&self, tokens: u64, times: u64) -> u64 {
        if !self.lora.dora {
            return 0;
        }
        let pairs = self.layout.pairs();
        let weights: u64 = pairs
            .map(|(_, _, pair)| pair.inputs as u64 * pair.outputs as u64)
            .sum();
        let lengths = 2 * weights * (self.lora.rank as u64 + 1);
        // What only looks goes there once, and drops nothing.
        let rest = match times > 1 && self.lora.dropout > 0.0 {
            true => 2 * tokens * weights * times,
            false => 0,
        };
        lengths + rest
    }
}
