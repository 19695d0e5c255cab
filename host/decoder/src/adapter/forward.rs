//! The adapters of a batch on their way through the layers.

use skep_kernels::lora::{LowRank, Segments};

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
    /// Those of a batch whose parts have been checked; none if no part has one. `pool` has the
    /// bytes of a page and the pages that there are.
    pub fn of(
        batch: &Batch<'a>,
        base: BaseShape,
        pool: (usize, usize),
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

    /// Which tokens have which adapter.
    pub fn segments(&self) -> &Segments {
        &self.segments
    }

    /// What each segment adds to a product.
    pub fn changes(&self, layer: usize, target: AdapterTarget) -> Vec<Option<LowRank<'_>>> {
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
