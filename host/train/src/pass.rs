//! What every pass over a batch needs to know, and the linear layers with their adapters.

use std::ops::{Deref, Range};
use std::sync::Arc;

use skep_accounts::Account;
use skep_decoder::AdapterTarget;

use crate::base::Base;
use crate::bf16::{Precision, Stored};
use crate::error::TrainError;
use crate::gemm::Workers;
use crate::lora::{Layout, LoraConfig};
use crate::operators::dora::{Dora, DoraGradients, DoraKept, Scales, row_lengths};
use crate::operators::frozen::Frozen;
use crate::operators::lora::{Dropout, LowRank, LowRankGradients};
use crate::pool::{Buffer, Pool};
use crate::random::hash;

/// What the way back through a linear layer needs of its adapter's way there.
pub(crate) struct Inner<B = Buffer> {
    /// What lies between both matrices.
    low: B,
    /// What magnitudes scale, where there are any.
    direction: Option<B>,
}

/// The same of each target.
pub(crate) type Between<B = Buffer> = [Option<Inner<B>>; AdapterTarget::ALL.len()];

/// The same in another form.
pub(crate) fn between_in<B, C>(
    between: Between<B>,
    mut change: impl FnMut(B) -> Result<C, TrainError>,
) -> Result<Between<C>, TrainError> {
    let mut all = Between::default();
    for (to, from) in all.iter_mut().zip(between) {
        if let Some(Inner { low, direction }) = from {
            let low = change(low)?;
            let direction = direction.map(&mut change).transpose()?;
            *to = Some(Inner { low, direction });
        }
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
    /// What rows of each layer's targets are scaled by, `[2, outputs]` each, one after the other as
    /// [`Scales::write`] has them. Empty where no magnitudes are learned.
    pub scales: Vec<[Option<Buffer>; AdapterTarget::ALL.len()]>,
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

    /// The same pass with what these magnitudes, which lie among all `weights`, scale rows by: over the
    /// lengths that rows have with the parameters that the pass computes with. Ends at the next layer
    /// when the account's time is over.
    pub fn scaled(mut self, weights: &[f32], account: &Account) -> Result<Self, TrainError> {
        for layer in 0..self.base.shape.layers {
            account.check()?;
            let mut scales = [const { None }; AdapterTarget::ALL.len()];
            for (target, frozen) in self.base.linears(layer) {
                let pair = self.layout.pair(layer, target);
                let magnitudes = pair.and_then(|pair| pair.magnitude.clone());
                let (Some(magnitudes), Some(low)) = (magnitudes, self.low_rank(layer, target))
                else {
                    continue;
                };
                let outputs = magnitudes.len();
                let mut own = self.pool.take(2 * outputs)?;
                let (source, lengths) = (frozen.matrix.source(), &mut own[..outputs]);
                row_lengths(self.workers, self.pool, source, &low, lengths)?;
                Scales::write(&weights[magnitudes], &mut own);
                scales[target as usize] = Some(own);
            }
            self.scales.push(scales);
        }
        Ok(self)
    }

    fn scales_of(&self, layer: usize, target: AdapterTarget) -> Option<Scales<'_>> {
        let own = self.scales.get(layer)?[target as usize].as_deref()?;
        let (scale, inverse) = own.split_at(own.len() / 2);
        Some(Scales { scale, inverse })
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
        let Some(low) = self.low_rank(layer, target) else {
            frozen.forward(self.workers, x, &mut y);
            return Ok(self.rounded(y));
        };
        let mut own = self.take(low.rank)?;
        let direction = match self.scales_of(layer, target) {
            None => {
                frozen.forward(self.workers, x, &mut y);
                low.forward(self.workers, x, &mut y, &mut own);
                None
            }
            Some(scales) => {
                let mut direction = self.take(frozen.outputs())?;
                let dora = Dora {
                    frozen,
                    low,
                    scales,
                };
                dora.forward(self.workers, x, &mut y, &mut own, &mut direction);
                Some(direction)
            }
        };
        between[target as usize] = Some(Inner {
            low: own,
            direction,
        });
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
    ) -> Result<(), TrainError> {
        let (Some(low), Some(inner), Some(pair)) = (
            self.low_rank(layer, target),
            &between[target as usize],
            self.layout.pair(layer, target),
        ) else {
            if let Some((dx, add)) = dx {
                frozen.backward(self.workers, dy, dx, add);
            }
            return Ok(());
        };
        let (a, b, magnitude) = pair.parts(gradients);
        let between = &*inner.low;
        if let (Some(scales), Some(direction)) = (self.scales_of(layer, target), &inner.direction) {
            let mut room = self.take(frozen.outputs())?;
            let dora = Dora {
                frozen,
                low,
                scales,
            };
            let kept = DoraKept { between, direction };
            let to = DoraGradients {
                a,
                b,
                magnitude,
                x: dx,
            };
            dora.backward(self.workers, x, kept, dy, &mut room, to);
            return Ok(());
        }
        let dx = dx.map(|(dx, add)| {
            frozen.backward(self.workers, dy, dx, add);
            dx
        });
        let to = LowRankGradients { a, b, x: dx };
        low.backward(self.workers, x, between, dy, to);
        Ok(())
    }
}
