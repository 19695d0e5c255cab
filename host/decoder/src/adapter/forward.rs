//! The adapters of a batch on their way through the layers.

use skep_kernels::lora::{LowRank, Segments, Target, add_low_rank};
use skep_kernels::{Isa, PageMemory, ShapeError, Team};

use super::{AdapterTarget, BaseShape, PagedAdapter};
use crate::error::ForwardError;
use crate::model::Batch;

/// Which tokens of a batch have which adapter.
pub(crate) struct Attached<'a> {
    /// One segment an adapter.
    segments: Segments,
    adapters: Vec<&'a PagedAdapter>,
}

impl<'a> Attached<'a> {
    /// Those of a batch whose parts have been checked; none if no part has one.
    pub fn of(
        batch: &Batch<'a>,
        base: BaseShape,
        pool: &PageMemory,
    ) -> Result<Option<Self>, ForwardError> {
        let mut adapters: Vec<&PagedAdapter> = Vec::new();
        let mut tokens: Vec<Vec<usize>> = Vec::new();
        let mut next = 0;
        for part in batch.parts {
            let range = next..next + part.tokens;
            next = range.end;
            let Some(paged) = part.adapter else {
                continue;
            };
            let known = adapters
                .iter()
                .position(|known| std::ptr::eq(*known, paged));
            let segment = match known {
                Some(segment) => segment,
                None => {
                    if paged.adapter().base != base {
                        return Err(ForwardError::OtherBase);
                    }
                    paged
                        .check(pool)
                        .map_err(|error| ForwardError::AdapterPages(error.to_string()))?;
                    adapters.push(paged);
                    tokens.push(Vec::new());
                    adapters.len() - 1
                }
            };
            tokens[segment].extend(range);
        }
        if adapters.is_empty() {
            return Ok(None);
        }
        Ok(Some(Self {
            segments: Segments::new(batch.tokens.len(), tokens)?,
            adapters,
        }))
    }

    /// Adds to each product of `input` in layer `layer` what its tokens' adapters say.
    pub fn add(
        &self,
        (isa, team): (Isa, &Team),
        pool: &PageMemory,
        layer: usize,
        input: &[f32],
        products: &mut [(AdapterTarget, &mut Vec<f32>)],
        between: &mut Vec<f32>,
    ) -> Result<(), ShapeError> {
        let changes: Vec<Vec<_>> = products
            .iter()
            .map(|(target, _)| self.changes(layer, *target))
            .collect();
        let mut targets: Vec<_> = products
            .iter_mut()
            .zip(&changes)
            .map(|((_, out), changes)| Target { out, changes })
            .collect();
        add_low_rank(
            isa,
            team,
            pool,
            &self.segments,
            input,
            &mut targets,
            between,
        )
    }

    fn changes(&self, layer: usize, target: AdapterTarget) -> Vec<Option<LowRank<'_>>> {
        let of = |paged: &&'a PagedAdapter| {
            let (pair, scale) = paged.adapter.pair(layer, target)?;
            Some(LowRank {
                layout: &paged.adapter.layout,
                pages: &paged.pages,
                pair,
                scale,
            })
        };
        self.adapters.iter().map(of).collect()
    }
}
