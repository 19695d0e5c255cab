//! What every pass over a batch needs to know, and the linear layers with their adapters.

use std::ops::{Deref, Range};
use std::sync::Arc;

use skep_decoder::AdapterTarget;

use crate::base::Base;
use crate::bf16::{Precision, Stored};
use crate::error::TrainError;
use crate::gemm::Workers;
use crate::lora::{Layout, LoraConfig};
use crate::operators::frozen::Frozen;
use crate::operators::lora::{Dropout, LowRank, LowRankGradients};
use crate::pool::{Buffer, Pool};
use crate::random::hash;

/// What lies between both matrices of each target's adapter.
pub(crate) type Between<B = Buffer> = [Option<B>; AdapterTarget::ALL.len()];

/// The same in another form.
pub(crate) fn between_in<B, C>(
    between: Between<B>,
    mut change: impl FnMut(B) -> Result<C, TrainError>,
) -> Result<Between<C>, TrainError> {
    let mut all = Between::default();
    for (to, from) in all.iter_mut().zip(between) {
        *to = from.map(&mut change).transpose()?;
    }
    Ok(all)
}

/// The parameters that a pass computes with.
pub(crate) enum Weights<'a> {
    /// Those that are trained.
    Own(&'a [f32]),
    /// Rounded ones.
    Rounded(Buffer),
}

impl Deref for Weights<'_> {
    type Target = [f32];

    fn deref(&self) -> &[f32] {
        match self {
            Weights::Own(weights) => weights,
            Weights::Rounded(weights) => weights,
        }
    }
}

/// One pass over a batch, whatever the network.
pub(crate) struct Pass<'a> {
    pub workers: Workers<'a>,
    pub pool: &'a Arc<Pool>,
    pub base: &'a Base,
    pub lora: &'a LoraConfig,
    pub layout: &'a Layout,
    pub parameters: Weights<'a>,
    pub precision: Precision,
    pub sequences: &'a [Range<usize>],
    /// What elements are dropped by; none where none are.
    pub dropped: Option<u64>,
    /// Whether the adapter is there.
    pub adapted: bool,
}

/// How much of a forward pass is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Keep {
    Nothing,
    Inputs,
    All,
}

impl Pass<'_> {
    fn tokens(&self) -> usize {
        self.sequences.last().map_or(0, |last| last.end)
    }

    /// A buffer with a row of this width for each token.
    pub fn take(&self, width: usize) -> Result<Buffer, TrainError> {
        Ok(self.pool.take(self.tokens() * width)?)
    }

    /// Numbers as they are computed with from here on.
    pub fn rounded(&self, mut values: Buffer) -> Buffer {
        self.precision.apply(self.workers, &mut values);
        values
    }

    /// Keeps what was rounded for the way back.
    pub fn store(&self, values: Buffer) -> Result<Stored, TrainError> {
        Ok(Stored::keep(self.pool, self.precision, values)?)
    }

    /// What was kept.
    pub fn open(&self, stored: Stored) -> Result<Buffer, TrainError> {
        Ok(stored.open(self.pool)?)
    }

    pub fn copy(&self, values: &[f32]) -> Result<Buffer, TrainError> {
        let mut copy = self.pool.take(values.len())?;
        copy.copy_from_slice(values);
        Ok(copy)
    }

    fn low_rank(&self, layer: usize, target: AdapterTarget) -> Option<LowRank<'_>> {
        let pair = self.layout.pair(layer, target).filter(|_| self.adapted)?;
        let place = (layer * AdapterTarget::ALL.len() + target as usize) as u64;
        Some(LowRank {
            a: &self.parameters[pair.a.clone()],
            b: &self.parameters[pair.b.clone()],
            rank: self.lora.rank,
            scale: self.lora.scale(),
            precision: self.precision,
            dropout: self.dropped.map(|seed| Dropout {
                share: self.lora.dropout,
                seed: hash(seed, place),
            }),
        })
    }

    /// A linear layer and its adapter.
    pub fn linear(
        &self,
        frozen: &Frozen,
        (layer, target): (usize, AdapterTarget),
        x: &[f32],
        between: &mut Between,
    ) -> Result<Buffer, TrainError> {
        let mut y = self.take(frozen.outputs())?;
        frozen.forward(self.workers, x, &mut y);
        if let Some(low) = self.low_rank(layer, target) {
            let mut own = self.take(low.rank)?;
            low.forward(self.workers, x, &mut y, &mut own);
            between[target as usize] = Some(own);
        }
        Ok(self.rounded(y))
    }

    /// `dx (+)=` the gradient of a linear layer's input `x`, given that of its output `dy`; those of
    /// its adapter are added to `gradients`. Where nobody wants `dx`, only the latter.
    pub fn linear_backward(
        &self,
        frozen: &Frozen,
        (layer, target): (usize, AdapterTarget),
        (x, dy): (&[f32], &[f32]),
        between: &Between,
        gradients: &mut [f32],
        dx: Option<(&mut [f32], bool)>,
    ) {
        let dx = dx.map(|(dx, add)| {
            frozen.backward(self.workers, dy, dx, add);
            dx
        });
        let (Some(low), Some(between), Some(pair)) = (
            self.low_rank(layer, target),
            &between[target as usize],
            self.layout.pair(layer, target),
        ) else {
            return;
        };
        // B follows A.
        let own = &mut gradients[pair.a.start..pair.b.end];
        let (a, b) = own.split_at_mut(pair.a.len());
        let to = LowRankGradients { a, b, x: dx };
        low.backward(self.workers, x, between, dy, to);
    }
}
