//! How the work of attention is shared out among cubes: decided once for all layers of a batch.
//!
//! What it must never do: name a page, a token or a part that is not there. The kernels read what
//! it names without looking.

use skep_kernels::attention::{AttentionLayer, Sequence};
use skep_kernels::kv::PAGE_TOKENS;

use super::Pages;
use crate::device::{Buffer, Gpu};
use crate::error::GpuError;

/// Queries that a cube has at most, unless a group is larger.
const TILE: usize = 16;

/// Pages that are worth a cube of their own.
const FEWEST_PAGES: usize = 4;

/// Cubes that fill a device whose size nobody knows.
const CUBES: usize = 256;

/// The sequences of a batch as the device sees them. Made once for all layers of a batch.
#[derive(Debug)]
pub struct Plan {
    pub(super) tokens: usize,
    /// Token for token: the texts that bring one.
    pub(super) ones: Option<Pieces>,
    /// Several tokens at a time: the texts that bring more.
    pub(super) several: Option<Pieces>,
    /// Pages of all sequences, one after the other.
    pub(super) tables: Buffer,
    pub(super) heads: usize,
}

/// The work of one launch.
#[derive(Debug)]
pub(super) struct Pieces {
    /// Eight words each.
    pub table: Buffer,
    pub count: usize,
    /// Tokens of a piece, at most.
    pub together: usize,
    /// For each token its first part and how many there are, where pages are split.
    pub splits: Option<(Buffer, usize)>,
}

impl Plan {
    /// Checks the sequences of a batch of so many tokens, and shares out their work.
    ///
    /// # Errors
    /// As `skep_kernels::attention::attention`, when a head is too long for the device's shared
    /// memory, or when the device fails.
    pub fn new(
        gpu: &Gpu,
        pages: &Pages,
        heads: usize,
        sequences: &[Sequence<'_>],
        tokens: usize,
    ) -> Result<Self, GpuError> {
        let shape = pages.shape();
        let layer = AttentionLayer {
            layer: 0,
            heads,
            scale: 1.0,
            window: None,
        };
        let group = layer.check(shape, pages.pages(), sequences, tokens)?;
        let needed =
            4 * (PAGE_TOKENS * (shape.head_dim + 1) + (group.max(TILE)) * (PAGE_TOKENS + 3));
        if needed > gpu.shared_bytes() {
            let dim = shape.head_dim;
            return Err(GpuError::Unsupported(format!("a head of {dim} elements")));
        }
        let mut tables = Vec::new();
        let mut ones = Vec::new();
        let mut several = Vec::new();
        let together = (TILE / group.max(1)).max(1);
        for sequence in sequences {
            // Batches, pools and contexts have far fewer than 2³² of anything.
            let table = tables.len() as u32;
            tables.extend_from_slice(sequence.pages);
            let alone = sequence.tokens.len() == 1;
            let width = if alone { 1 } else { together };
            for token in sequence.tokens.clone().step_by(width) {
                let count = width.min(sequence.tokens.end - token);
                let position = sequence.start + token - sequence.tokens.start;
                let end = position + count;
                let piece = [
                    token,
                    count,
                    position,
                    table as usize,
                    0,
                    end.div_ceil(PAGE_TOKENS),
                    0,
                    end,
                ];
                let piece = piece.map(|n| n as u32);
                match alone {
                    true => ones.push(piece),
                    false => several.push(piece),
                }
            }
        }
        // Later tokens see more: they come first, so that the last piece is a short one.
        several.sort_by_key(|piece| std::cmp::Reverse(piece[7]));
        let (ones, splits) = split(gpu, ones, shape.kv_heads);
        Ok(Self {
            tokens,
            ones: Pieces::upload(gpu, &ones, 1, splits.as_deref())?,
            several: Pieces::upload(gpu, &several, together, None)?,
            tables: gpu.upload_words(&tables)?,
            heads,
        })
    }
}

/// Splits the pages of pieces until there are enough for the device. With it, for each piece that
/// there was: its token, its first part and its parts; none if nothing was split.
fn split(gpu: &Gpu, pieces: Vec<[u32; 8]>, kv_heads: usize) -> (Vec<[u32; 8]>, Option<Vec<u32>>) {
    let wanted = match gpu
        .client()
        .properties()
        .hardware
        .num_streaming_multiprocessors
    {
        Some(processors) => 4 * processors as usize,
        None => CUBES,
    };
    let parts = wanted.div_ceil((pieces.len() * kv_heads).max(1));
    let longest = pieces
        .iter()
        .map(|piece| piece[5] as usize)
        .max()
        .unwrap_or(0);
    if parts < 2 || longest < 2 * FEWEST_PAGES {
        return (pieces, None);
    }
    let mut all = Vec::with_capacity(pieces.len() * parts);
    let mut splits = Vec::with_capacity(3 * pieces.len());
    for piece in pieces {
        let pages = piece[5] as usize;
        let each = pages.div_ceil(parts).max(FEWEST_PAGES);
        let first = all.len();
        for start in (0..pages).step_by(each) {
            let mut part = piece;
            part[4] = start as u32;
            part[5] = pages.min(start + each) as u32;
            part[6] = all.len() as u32;
            all.push(part);
        }
        splits.extend([piece[0], first as u32, (all.len() - first) as u32]);
    }
    (all, Some(splits))
}

impl Pieces {
    fn upload(
        gpu: &Gpu,
        pieces: &[[u32; 8]],
        together: usize,
        splits: Option<&[u32]>,
    ) -> Result<Option<Self>, GpuError> {
        if pieces.is_empty() {
            return Ok(None);
        }
        let splits = match splits {
            Some(splits) => Some((gpu.upload_words(splits)?, splits.len() / 3)),
            None => None,
        };
        Ok(Some(Self {
            table: gpu.upload_words(pieces.as_flattened())?,
            count: pieces.len(),
            together,
            splits,
        }))
    }
}
