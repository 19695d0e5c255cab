//! Where the matrices of an adapter lie in pages.
//!
//! An adapter is a list of pairs of small matrices. Their rows lie one after the other in the
//! adapter's pages, in the order of the pairs, so that a layer's part of it is read from front to
//! back; a row never straddles two pages. The second matrix of a pair is stored transposed, so
//! that both have `rank` rows. Where there are gains, theirs come after the matrices of their pair.

use half::f16;
use half::slice::HalfFloatSliceExt;

use super::gains::GAIN_ROWS;
use crate::pages::{PAGE_ALIGNMENT, PageMemory};
use crate::{ShapeError, expect_below, expect_len};

/// The largest rank that an adapter may have.
pub const LARGEST_RANK: usize = 256;

/// Bytes of an element of the matrices, and of one of gains.
const HALF: usize = 2;
const FLOAT: usize = 4;

/// One pair: what is added to a product with a matrix `[outputs, inputs]` is the product with
/// `B · A`, of which `A` is `[rank, inputs]` and `B` is `[outputs, rank]` (LoRA, arXiv 2106.09685,
/// section 4.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct LowRankShape {
    /// Input features of the matrix that it changes.
    pub inputs: usize,
    /// Its output features.
    pub outputs: usize,
    /// From 1 to [`LARGEST_RANK`].
    pub rank: usize,
}

/// A matrix of a pair.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Factor {
    /// `A`: a row is `[inputs]`.
    A,
    /// `B`, transposed: a row is `[outputs]`.
    B,
}

/// The places of all rows of an adapter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LowRankLayout {
    page_bytes: usize,
    pairs: Vec<Pair>,
    pages: usize,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Pair {
    shape: LowRankShape,
    a: RowPlaces,
    b: RowPlaces,
    gains: Option<RowPlaces>,
}

/// Where the rows of a pair lie.
#[derive(Debug, Clone, Copy)]
pub struct PairPlaces<'a> {
    /// Its shape.
    pub shape: LowRankShape,
    /// The rows of `A`, in 16-bit floats.
    pub a: &'a RowPlaces,
    /// The rows of `B`, transposed, in 16-bit floats.
    pub b: &'a RowPlaces,
    /// Two rows of `[outputs]` in 32-bit floats, if the adapter has gains: what the changed product is
    /// multiplied with, and what is added to it then ([`super::Magnitudes`]).
    pub gains: Option<&'a RowPlaces>,
}

/// Where rows of one length lie, one after the other. Those after the first page begin each page
/// anew.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RowPlaces {
    /// Elements of a row.
    pub columns: usize,
    /// Bytes from one row to the next, a multiple of [`PAGE_ALIGNMENT`].
    pub stride: usize,
    /// Rows in a page that holds nothing else.
    pub each: usize,
    /// Which of the adapter's pages the first row lies in.
    pub page: usize,
    /// The byte of that page at which it begins.
    pub offset: usize,
    /// How many rows lie in that page.
    pub first: usize,
}

impl RowPlaces {
    /// Which of the adapter's pages a row lies in, and at which byte.
    #[inline]
    pub fn place(&self, row: usize) -> (usize, usize) {
        match row.checked_sub(self.first) {
            None => (self.page, self.offset + row * self.stride),
            Some(row) => (
                self.page + 1 + row / self.each,
                row % self.each * self.stride,
            ),
        }
    }

    /// The bytes of a row that has been checked to be there, of elements of so many bytes.
    #[inline]
    pub(super) fn bytes<'m>(
        &self,
        memory: &'m PageMemory,
        pages: &[u32],
        row: usize,
        element: usize,
    ) -> &'m [u8] {
        let (page, offset) = self.place(row);
        let start = pages[page] as usize * memory.page_bytes() + offset;
        &memory.bytes()[start..start + element * self.columns]
    }
}

impl LowRankLayout {
    /// Lays out these pairs in pages of so many bytes.
    ///
    /// # Errors
    /// When a rank is out of bounds, a matrix has no elements, or a row does not fit a page.
    pub fn new(page_bytes: usize, pairs: &[LowRankShape]) -> Result<Self, ShapeError> {
        Self::lay_out(page_bytes, pairs, false)
    }

    /// As [`LowRankLayout::new`], with gains for each pair.
    ///
    /// # Errors
    /// As for [`LowRankLayout::new`].
    pub fn with_gains(page_bytes: usize, pairs: &[LowRankShape]) -> Result<Self, ShapeError> {
        Self::lay_out(page_bytes, pairs, true)
    }

    fn lay_out(page_bytes: usize, pairs: &[LowRankShape], gains: bool) -> Result<Self, ShapeError> {
        let mut end = Cursor {
            page_bytes,
            page: 0,
            offset: 0,
        };
        let mut placed = Vec::with_capacity(pairs.len());
        for shape in pairs {
            expect_below("adapter", "a rank", shape.rank, LARGEST_RANK + 1)?;
            expect_below("adapter", "no rank", 0, shape.rank)?;
            placed.push(Pair {
                shape: *shape,
                a: end.take(shape.rank, shape.inputs, HALF)?,
                b: end.take(shape.rank, shape.outputs, HALF)?,
                gains: match gains {
                    true => Some(end.take(GAIN_ROWS, shape.outputs, FLOAT)?),
                    false => None,
                },
            });
        }
        Ok(Self {
            page_bytes,
            pairs: placed,
            pages: end.page + usize::from(end.offset > 0),
        })
    }

    /// Pages that the adapter takes.
    pub fn pages(&self) -> usize {
        self.pages
    }

    /// Bytes of a page.
    pub fn page_bytes(&self) -> usize {
        self.page_bytes
    }

    /// Pairs.
    pub fn len(&self) -> usize {
        self.pairs.len()
    }

    /// Whether there is no pair.
    pub fn is_empty(&self) -> bool {
        self.pairs.is_empty()
    }

    /// The shape of a pair, if it is there.
    pub fn shape(&self, pair: usize) -> Option<LowRankShape> {
        self.pairs.get(pair).map(|pair| pair.shape)
    }

    /// Writes a row of a pair to its place in `pages` of `memory`, in 16-bit floats.
    ///
    /// # Errors
    /// When there is no such row, it has another length, or pages are missing.
    pub fn write(
        &self,
        memory: &mut PageMemory,
        pages: &[u32],
        pair: usize,
        factor: Factor,
        row: usize,
        values: &[f32],
    ) -> Result<(), ShapeError> {
        expect_below("adapter", "the pairs", pair, self.pairs.len())?;
        let pair = &self.pairs[pair];
        expect_below("adapter", "the rank", row, pair.shape.rank)?;
        let rows = match factor {
            Factor::A => &pair.a,
            Factor::B => &pair.b,
        };
        expect_len("adapter", "a row", values.len(), Some(rows.columns))?;
        expect_len(
            "adapter",
            "a page",
            memory.page_bytes(),
            Some(self.page_bytes),
        )?;
        let (page, offset) = rows.place(row);
        expect_below("adapter", "the pages", page, pages.len())?;
        let bytes = memory.page_mut(pages[page] as usize)?;
        let to = &mut bytes[offset..offset + 2 * rows.columns];
        bytemuck::cast_slice_mut::<u8, f16>(to).convert_from_f32_slice(values);
        Ok(())
    }

    /// The rows of a pair, if every page that they lie in is there.
    pub(crate) fn rows(
        &self,
        pair: usize,
        memory: &PageMemory,
        pages: &[u32],
    ) -> Result<PairPlaces<'_>, ShapeError> {
        self.places(pair, memory.page_bytes(), memory.pages(), pages)
    }

    /// The rows of a pair, if every page that they lie in is there, in a pool of `pool_pages` pages
    /// of `page_bytes` bytes.
    ///
    /// # Errors
    /// When there is no such pair, pages have another length, or one is not there.
    pub fn places(
        &self,
        pair: usize,
        page_bytes: usize,
        pool_pages: usize,
        pages: &[u32],
    ) -> Result<PairPlaces<'_>, ShapeError> {
        expect_below("adapter", "the pairs", pair, self.pairs.len())?;
        let Pair { shape, a, b, gains } = &self.pairs[pair];
        expect_len("adapter", "a page", page_bytes, Some(self.page_bytes))?;
        let last = match gains {
            Some(gains) => gains.place(GAIN_ROWS - 1).0,
            None => b.place(shape.rank - 1).0,
        };
        expect_below("adapter", "the pages", last, pages.len())?;
        for page in &pages[a.page..=last] {
            expect_below("adapter", "the pool", *page as usize, pool_pages)?;
        }
        Ok(PairPlaces {
            shape: *shape,
            a,
            b,
            gains: gains.as_ref(),
        })
    }
}

/// Where the next rows go.
struct Cursor {
    page_bytes: usize,
    page: usize,
    offset: usize,
}

impl Cursor {
    /// Room for rows of so many elements of `element` bytes.
    fn take(
        &mut self,
        rows: usize,
        columns: usize,
        element: usize,
    ) -> Result<RowPlaces, ShapeError> {
        expect_below("adapter", "an empty row", 0, columns)?;
        let stride = columns
            .checked_mul(element)
            .and_then(|bytes| bytes.checked_next_multiple_of(PAGE_ALIGNMENT))
            .unwrap_or(usize::MAX);
        let room = self.page_bytes.saturating_add(1);
        expect_below("adapter", "the bytes of a page, for a row", stride, room)?;
        if self.page_bytes - self.offset < stride {
            (self.page, self.offset) = (self.page + 1, 0);
        }
        let each = self.page_bytes / stride;
        let first = ((self.page_bytes - self.offset) / stride).min(rows);
        let taken = RowPlaces {
            columns,
            stride,
            each,
            page: self.page,
            offset: self.offset,
            first,
        };
        // The place after the last row; a page that is full is left at the next one.
        (self.page, self.offset) = taken.place(rows - 1);
        self.offset += stride;
        Ok(taken)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn rows_lie_apart_and_within_their_pages(
            page in 7_usize..40,
            gains in any::<bool>(),
            shapes in prop::collection::vec((1_usize..100, 1_usize..100, 1_usize..20), 0..12),
        ) {
            let page_bytes = page * 64;
            let shapes: Vec<_> = shapes
                .into_iter()
                .map(|(inputs, outputs, rank)| LowRankShape { inputs, outputs, rank })
                .collect();
            let layout = match gains {
                true => LowRankLayout::with_gains(page_bytes, &shapes).unwrap(),
                false => LowRankLayout::new(page_bytes, &shapes).unwrap(),
            };
            prop_assert_eq!(layout.len(), shapes.len());
            let mut next = (0, 0);
            for pair in &layout.pairs {
                prop_assert_eq!(pair.gains.is_some(), gains);
                let rank = pair.shape.rank;
                let mut all = vec![(&pair.a, rank, 2), (&pair.b, rank, 2)];
                all.extend(pair.gains.as_ref().map(|gains| (gains, 2, 4)));
                for (rows, count, element) in all {
                    for row in 0..count {
                        let (page, offset) = rows.place(row);
                        prop_assert!((page, offset) >= next, "{:?} {next:?}", (page, offset));
                        next = (page, offset + element * rows.columns);
                        prop_assert!(next.1 <= page_bytes && page < layout.pages());
                        prop_assert_eq!(offset % PAGE_ALIGNMENT, 0);
                    }
                }
            }
            prop_assert_eq!(layout.pages(), if shapes.is_empty() { 0 } else { next.0 + 1 });
        }
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        let shape = LowRankShape {
            inputs: 32,
            outputs: 64,
            rank: 4,
        };
        for wrong in [
            LowRankShape { rank: 0, ..shape },
            LowRankShape {
                rank: LARGEST_RANK + 1,
                ..shape
            },
            LowRankShape { inputs: 0, ..shape },
            LowRankShape {
                outputs: 65,
                ..shape
            },
            LowRankShape {
                outputs: usize::MAX,
                ..shape
            },
        ] {
            assert!(LowRankLayout::new(128, &[wrong]).is_err(), "{wrong:?}");
        }
        let layout = LowRankLayout::new(128, &[shape]).unwrap();
        assert_eq!(layout.pages(), 2 + 4);
        let mut memory = PageMemory::new(128, 8);
        let pages = [7, 1, 2, 3, 4, 5];
        let mut write = |pages: &[u32], pair, factor, row, length: usize| {
            layout.write(&mut memory, pages, pair, factor, row, &vec![1.0; length])
        };
        assert!(write(&pages, 0, Factor::A, 0, 32).is_ok());
        assert!(write(&pages, 0, Factor::B, 3, 64).is_ok());
        assert!(write(&pages, 1, Factor::A, 0, 32).is_err());
        assert!(write(&pages, 0, Factor::A, 4, 32).is_err());
        assert!(write(&pages, 0, Factor::A, 0, 64).is_err());
        assert!(write(&pages[..5], 0, Factor::B, 3, 64).is_err());
        assert!(write(&[8; 6], 0, Factor::B, 3, 64).is_err());
        assert!(layout.rows(0, &memory, &pages).is_ok());
        assert!(layout.rows(0, &memory, &pages[..5]).is_err());
        assert!(layout.rows(0, &memory, &[8; 6]).is_err());
        assert!(layout.rows(0, &PageMemory::new(64, 8), &pages).is_err());
        assert!(layout.rows(1, &memory, &pages).is_err());
        // A row of gains has twice the bytes, and lies in pages of its own.
        assert!(LowRankLayout::with_gains(128, &[shape]).is_err());
        let layout = LowRankLayout::with_gains(256, &[shape]).unwrap();
        assert_eq!(layout.pages(), 1 + 2 + 2);
        let memory = PageMemory::new(256, 8);
        assert!(layout.rows(0, &memory, &pages[..5]).is_ok());
        assert!(layout.rows(0, &memory, &pages[..4]).is_err());
        assert!(layout.rows(0, &memory, &[1, 1, 1, 1, 8]).is_err());
    }
}
