//! The innermost loops of a product: a tile of `C` stays in registers for the whole depth.

use std::marker::PhantomData;
use std::ops::Range;

use super::pack::Panels;
use super::{PANEL, Simd};

/// The most rows of a tile, of any instruction set.
pub(crate) const TILE: usize = 14;

/// The left side of a product: element `(i, k)` lies at `i * row + k * column`.
#[derive(Clone, Copy)]
pub(crate) struct Lhs<'a> {
    start: *const f32,
    len: usize,
    row: usize,
    column: usize,
    values: PhantomData<&'a [f32]>,
}

// SAFETY: it stands for a shared slice.
unsafe impl Sync for Lhs<'_> {}
// SAFETY: as above.
unsafe impl Send for Lhs<'_> {}

impl<'a> Lhs<'a> {
    /// Rows `stride` apart.
    pub fn rows(values: &'a [f32], stride: usize) -> Self {
        Self::new(values, stride, 1)
    }

    /// The transpose of a matrix whose rows are `stride` apart.
    pub fn transposed(values: &'a [f32], stride: usize) -> Self {
        Self::new(values, 1, stride)
    }

    fn new(values: &'a [f32], row: usize, column: usize) -> Self {
        Self {
            start: values.as_ptr(),
            len: values.len(),
            row,
            column,
            values: PhantomData,
        }
    }

    /// Whether it has so many rows and columns.
    pub fn covers(&self, m: usize, k: usize) -> bool {
        m == 0 || k == 0 || (m - 1) * self.row + (k - 1) * self.column < self.len
    }

    /// What begins at this row and column, which it has.
    pub fn from(&self, row: usize, column: usize) -> Self {
        let offset = row * self.row + column * self.column;
        assert!(offset < self.len, "a part of a product's left side");
        Self {
            start: self.start.wrapping_add(offset),
            len: self.len - offset,
            ..*self
        }
    }
}

/// The part of a block of `B` that a product takes.
#[derive(Debug, Clone)]
pub(crate) struct Part {
    pub depth: Range<usize>,
    /// Columns; the first begins a panel.
    pub columns: Range<usize>,
}

/// `C[m, n] (+)= A[m, k] · B[k, n]`, for as many columns and as much depth as the part has.
///
/// # Safety
/// `c` is valid for `m` rows of `width` elements that are `stride` apart, and overlaps neither
/// side.
pub(crate) unsafe fn multiply(
    simd: Simd,
    a: &Lhs<'_>,
    m: usize,
    panels: &Panels,
    part: &Part,
    (c, stride): (*mut f32, usize),
    add: bool,
) {
    let (depth, width) = (part.depth.len(), part.columns.len());
    assert!(a.covers(m, depth), "the left side of a product");
    assert!(
        part.depth.end <= panels.depth()
            && part.columns.start.is_multiple_of(PANEL)
            && part.columns.end <= panels.width(),
        "the panels of a product"
    );
    let tall = match simd {
        Simd::Portable => 4,
        #[cfg(target_arch = "x86_64")]
        Simd::Avx2 => 3,
        #[cfg(target_arch = "x86_64")]
        Simd::Avx512 => TILE,
    };
    let mut row = 0;
    while row < m {
        let rows = tall.min(m - row);
        let mut at = 0;
        while at < width {
            let columns = PANEL.min(width - at);
            let first = (part.columns.start + at) / PANEL * panels.depth() + part.depth.start;
            let tile = Tile {
                a: a.start.wrapping_add(row * a.row),
                row: a.row,
                step: a.column,
                depth,
                b: panels.values()[first * PANEL..].as_ptr(),
                columns,
                // SAFETY: inside the caller's rectangle.
                c: unsafe { c.add(row * stride + at) },
                stride,
                add,
            };
            // SAFETY: the tile lies inside all three, as was checked, and the instruction set was
            // detected.
            unsafe {
                match simd {
                    Simd::Portable => portable(&tile, rows),
                    #[cfg(target_arch = "x86_64")]
                    Simd::Avx2 => x86::avx2(&tile, rows),
                    #[cfg(target_arch = "x86_64")]
                    Simd::Avx512 => x86::avx512(&tile, rows),
                }
            }
            at += columns;
        }
        row += rows;
    }
}

/// A tile of `C` and what it is computed from.
struct Tile {
    a: *const f32,
    row: usize,
    step: usize,
    depth: usize,
    b: *const f32,
    columns: usize,
    c: *mut f32,
    stride: usize,
    add: bool,
}

/// # Safety
/// All of the tile's pointers are valid for what it says.
unsafe fn portable(tile: &Tile, rows: usize) {
    let mut sums = [[0.0_f32; PANEL]; 4];
    // SAFETY: as promised by the caller; the panel has `PANEL` columns.
    unsafe {
        for k in 0..tile.depth {
            let b = &*tile.b.add(k * PANEL).cast::<[f32; PANEL]>();
            for (r, sums) in sums[..rows].iter_mut().enumerate() {
                let x = *tile.a.add(r * tile.row + k * tile.step);
                for (sum, b) in sums.iter_mut().zip(b) {
                    *sum += x * b;
                }
            }
        }
        for (r, sums) in sums[..rows].iter().enumerate() {
            let c = std::slice::from_raw_parts_mut(tile.c.add(r * tile.stride), tile.columns);
            for (c, sum) in c.iter_mut().zip(sums) {
                *c = if tile.add { *c + sum } else { *sum };
            }
        }
    }
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    //! The same in wide registers.

    use std::arch::x86_64::*;

    use super::{PANEL, Tile};

    /// # Safety
    /// As [`super::portable`]; the machine has AVX-512 F.
    #[target_feature(enable = "avx512f,fma")]
    pub unsafe fn avx512(tile: &Tile, rows: usize) {
        macro_rules! of_rows {
            ($($rows:literal)*) => {
                match (rows, tile.columns > 16) {
                    $(
                        // SAFETY: as promised by the caller.
                        ($rows, true) => unsafe { avx512_tile::<$rows, 2>(tile) },
                        // SAFETY: as promised by the caller.
                        ($rows, false) => unsafe { avx512_tile::<$rows, 1>(tile) },
                    )*
                    _ => {}
                }
            };
        }
        of_rows!(1 2 3 4 5 6 7 8 9 10 11 12 13 14);
    }

    #[target_feature(enable = "avx512f,fma")]
    unsafe fn avx512_tile<const ROWS: usize, const WIDE: usize>(tile: &Tile) {
        // SAFETY: as promised by the caller; lanes beyond the columns are masked.
        unsafe {
            let mut sums = [[_mm512_setzero_ps(); WIDE]; ROWS];
            let mut b = tile.b;
            let mut a = tile.a;
            for _ in 0..tile.depth {
                let row: [__m512; WIDE] = std::array::from_fn(|v| _mm512_load_ps(b.add(16 * v)));
                for (r, sums) in sums.iter_mut().enumerate() {
                    let x = _mm512_set1_ps(*a.add(r * tile.row));
                    for (sum, b) in sums.iter_mut().zip(&row) {
                        *sum = _mm512_fmadd_ps(x, *b, *sum);
                    }
                }
                b = b.wrapping_add(PANEL);
                a = a.wrapping_add(tile.step);
            }
            for (r, sums) in sums.iter().enumerate() {
                for (v, sum) in sums.iter().enumerate() {
                    let left = tile.columns - 16 * v;
                    let mask = if left >= 16 {
                        0xffff
                    } else {
                        (1_u16 << left) - 1
                    };
                    let to = tile.c.add(r * tile.stride + 16 * v);
                    let sum = match tile.add {
                        true => _mm512_add_ps(_mm512_maskz_loadu_ps(mask, to), *sum),
                        false => *sum,
                    };
                    _mm512_mask_storeu_ps(to, mask, sum);
                }
            }
        }
    }

    /// # Safety
    /// As [`super::portable`]; the machine has AVX2 and FMA.
    #[target_feature(enable = "avx2,fma")]
    pub unsafe fn avx2(tile: &Tile, rows: usize) {
        // SAFETY: as promised by the caller.
        unsafe {
            match (rows, tile.columns > 16) {
                (3, true) => avx2_tile::<3, 4>(tile),
                (2, true) => avx2_tile::<2, 4>(tile),
                (_, true) => avx2_tile::<1, 4>(tile),
                (3, false) => avx2_tile::<3, 2>(tile),
                (2, false) => avx2_tile::<2, 2>(tile),
                (_, false) => avx2_tile::<1, 2>(tile),
            }
        }
    }

    #[target_feature(enable = "avx2,fma")]
    unsafe fn avx2_tile<const ROWS: usize, const WIDE: usize>(tile: &Tile) {
        // SAFETY: as promised by the caller; what is beyond the columns goes to a buffer.
        unsafe {
            let mut sums = [[_mm256_setzero_ps(); WIDE]; ROWS];
            let mut b = tile.b;
            let mut a = tile.a;
            for _ in 0..tile.depth {
                let row: [__m256; WIDE] = std::array::from_fn(|v| _mm256_load_ps(b.add(8 * v)));
                for (r, sums) in sums.iter_mut().enumerate() {
                    let x = _mm256_set1_ps(*a.add(r * tile.row));
                    for (sum, b) in sums.iter_mut().zip(&row) {
                        *sum = _mm256_fmadd_ps(x, *b, *sum);
                    }
                }
                b = b.wrapping_add(PANEL);
                a = a.wrapping_add(tile.step);
            }
            for (r, sums) in sums.iter().enumerate() {
                let mut whole = [0.0_f32; PANEL];
                for (v, sum) in sums.iter().enumerate() {
                    _mm256_storeu_ps(whole.as_mut_ptr().add(8 * v), *sum);
                }
                let to = std::slice::from_raw_parts_mut(tile.c.add(r * tile.stride), tile.columns);
                for (to, sum) in to.iter_mut().zip(&whole) {
                    *to = if tile.add { *to + sum } else { *sum };
                }
            }
        }
    }
}
