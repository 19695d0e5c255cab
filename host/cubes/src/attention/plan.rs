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

/// A plan whose tables lie nowhere yet.
#[derive(Debug)]
pub(crate) struct Unplaced {
    tokens: usize,
    heads: usize,
    tables: Vec<u32>,
    ones: Option<UnplacedPieces>,
    several: Option<UnplacedPieces>,
}

#[derive(Debug)]
struct UnplacedPieces {
    table: Vec<u32>,
    together: usize,
    splits: Option<Vec<u32>>,
}

impl UnplacedPieces {
    fn of(pieces: &[[u32; 8]], together: usize, splits: Option<Vec<u32>>) -> Option<Self> {
        (!pieces.is_empty()).then(|| Self {
            table: pieces.as_flattened().to_vec(),
            together,
            splits,
        })
    }

    fn place(
        &self,
        place: &mut impl FnMut(&[u32]) -> Result<Buffer, GpuError>,
    ) -> Result<Pieces, GpuError> {
        let splits = self
            .splits
            .as_ref()
            .map(|splits| -> Result<_, GpuError> { Ok((place(splits)?, splits.len() / 3)) });
        Ok(Pieces {
            splits: splits.transpose()?,
            table: place(&self.table)?,
            count: self.table.len() / 8,
            together: self.together,
        })
    }
}

impl Unplaced {
    /// The plan with its tables where `place` puts them, which is asked for each in the same order
    /// whenever plans have the same form.
    pub fn place(
        &self,
        mut place: impl FnMut(&[u32]) -> Result<Buffer, GpuError>,
    ) -> Result<Plan, GpuError> {
        let mut pieces = |pieces: &Option<UnplacedPieces>| {
            let placed = pieces.as_ref().map(|pieces| pieces.place(&mut place));
            placed.transpose()
        };
        let ones = pieces(&self.ones)?;
        let several = pieces(&self.several)?;
        Ok(Plan {
            tokens: self.tokens,
            heads: self.heads,
            ones,
            several,
            tables: place(&self.tables)?,
        })
    }

    /// Every table, in the order in which [`Unplaced::place`] asks for places.
    pub fn tables(&self, mut each: impl FnMut(&[u32])) {
        for pieces in [&self.ones, &self.several].into_iter().flatten() {
            if let Some(splits) = &pieces.splits {
                each(splits);
            }
            each(&pieces.table);
        }
        each(&self.tables);
    }

    /// What launches depend on beside what is in the tables: equal for plans with equal launches.
    pub fn form(&self) -> [usize; 6] {
        let of = |pieces: &Option<UnplacedPieces>| match pieces {
            None => [0, 0],
            Some(pieces) => [pieces.together, usize::from(pieces.splits.is_some())],
        };
        let [ones, split] = of(&self.ones);
        let [several, _] = of(&self.several);
        [
            self.tokens,
            self.heads,
            ones,
            split,
            several,
            self.tables.len(),
        ]
    }
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
        Self::unplaced(gpu, pages, heads, sequences, tokens)?.place(|words| gpu.upload_words(words))
    }

    /// As [`Plan::new`], before any table is on the device.
    pub(crate) fn unplaced(
        gpu: &Gpu,
        pages: &Pages,
        heads: usize,
        sequences: &[Sequence<'_>],
        tokens: usize,
    ) -> Result<Unplaced, GpuError> {
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
        // So that a text that has grown by a page still has the form that it had.
        tables.resize(tables.len().next_power_of_two(), 0);
        Ok(Unplaced {
            tokens,
            heads,
            ones: UnplacedPieces::of(&ones, 1, splits),
            several: UnplacedPieces::of(&several, together, None),
            tables,
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
    // As many as a text has that is a little longer, with nothing to do.
    while !all.len().is_power_of_two() {
        let mut nothing = [0; 8];
        nothing[6] = all.len() as u32;
        all.push(nothing);
    }
    (all, Some(splits))
}
