//! Blocks of a product's right side, in the order in which the kernel reads them.

use super::{PANEL, Simd};

/// A line of the first cache, so that vectors never cross one.
#[derive(Debug, Clone, Copy)]
#[repr(C, align(64))]
struct Line([f32; 16]);

/// A block of `depth` rows and `width` columns: panels of [`PANEL`] columns, each a row of the
/// panel after the other, the last one filled up with zeros.
#[derive(Debug, Default)]
pub(crate) struct Panels {
    lines: Vec<Line>,
    depth: usize,
    width: usize,
}

impl Panels {
    /// Room for a block of this size.
    pub fn new(depth: usize, width: usize) -> Self {
        let mut panels = Self::default();
        panels.reset(depth, width);
        panels
    }

    /// Makes it a block of another size. What it holds is undefined where columns are, and zero
    /// beyond them.
    pub fn reset(&mut self, depth: usize, width: usize) {
        (self.depth, self.width) = (depth, width);
        let lines = depth * width.div_ceil(PANEL) * (PANEL / 16);
        self.lines.resize(lines, Line([0.0; 16]));
        if !width.is_multiple_of(PANEL) {
            let last = lines - depth * (PANEL / 16);
            self.lines[last..].fill(Line([0.0; 16]));
        }
    }

    pub fn depth(&self) -> usize {
        self.depth
    }

    pub fn width(&self) -> usize {
        self.width
    }

    /// Elements, whole panels of them.
    pub fn values(&self) -> &[f32] {
        // SAFETY: a line is 16 floats without padding.
        unsafe { std::slice::from_raw_parts(self.lines.as_ptr().cast(), self.lines.len() * 16) }
    }

    fn values_mut(&mut self) -> &mut [f32] {
        // SAFETY: as above, and the borrow is exclusive.
        unsafe {
            std::slice::from_raw_parts_mut(self.lines.as_mut_ptr().cast(), self.lines.len() * 16)
        }
    }

    /// Writes a row of the block.
    pub fn set_row(&mut self, row: usize, values: &[f32]) {
        let depth = self.depth;
        // Whole rows of panels, of a length that the compiler knows.
        let (all, _) = self.values_mut().as_chunks_mut::<PANEL>();
        let (parts, rest) = values.as_chunks::<PANEL>();
        let mut rows = all[row..].iter_mut().step_by(depth);
        // Parts first: a zip takes from its left side before it knows that the right has ended.
        for (part, to) in parts.iter().zip(rows.by_ref()) {
            *to = *part;
        }
        if let Some(to) = rows.next().filter(|_| !rest.is_empty()) {
            to[..rest.len()].copy_from_slice(rest);
        }
    }

    /// Writes the columns of one panel, `first` being its first: `columns` has them one after the
    /// other, `stride` apart.
    pub fn set_columns(&mut self, simd: Simd, first: usize, columns: &[f32], stride: usize) {
        let depth = self.depth;
        let at = first / PANEL * depth * PANEL;
        let panel = &mut self.values_mut()[at..at + depth * PANEL];
        let count = columns.len().div_ceil(stride.max(1)).min(PANEL);
        transpose(simd, columns, stride, count, depth, panel);
    }
}

/// Takes `B[depth, width]`, whose rows are `stride` apart.
pub(crate) fn pack_rows(
    panels: &mut Panels,
    from: &[f32],
    stride: usize,
    depth: usize,
    width: usize,
) {
    panels.reset(depth, width);
    for row in 0..depth {
        panels.set_row(row, &from[row * stride..row * stride + width]);
    }
}

/// Takes `B[depth, width]` from its transpose, whose rows are `stride` apart.
pub(crate) fn pack_columns(
    simd: Simd,
    panels: &mut Panels,
    from: &[f32],
    stride: usize,
    depth: usize,
    width: usize,
) {
    panels.reset(depth, width);
    for first in (0..width).step_by(PANEL) {
        let some = PANEL.min(width - first);
        let start = first * stride;
        let end = start + (some - 1) * stride + depth;
        panels.set_columns(simd, first, &from[start..end], stride);
    }
}

/// `panel[k, j] = from[j, k]` for `count` rows of `from`, which are `stride` apart.
fn transpose(
    simd: Simd,
    from: &[f32],
    stride: usize,
    count: usize,
    depth: usize,
    panel: &mut [f32],
) {
    #[cfg(target_arch = "x86_64")]
    if simd == Simd::Avx512 {
        let whole = depth / 16 * 16;
        for first in (0..count / 16 * 16).step_by(16) {
            for k in (0..whole).step_by(16) {
                assert!((first + 15) * stride + k + 16 <= from.len());
                assert!((k + 15) * PANEL + first + 16 <= panel.len());
                // SAFETY: the machine has these instructions, and both squares were checked.
                unsafe {
                    let from = from.as_ptr().add(first * stride + k);
                    let to = panel.as_mut_ptr().add(k * PANEL + first);
                    transpose_16(from, stride, to, PANEL);
                }
            }
        }
        plain(from, stride, 0..count / 16 * 16, whole..depth, panel);
        plain(from, stride, count / 16 * 16..count, 0..depth, panel);
        return;
    }
    let _ = simd;
    plain(from, stride, 0..count, 0..depth, panel);
}

/// The same for some rows and some elements of each.
fn plain(
    from: &[f32],
    stride: usize,
    rows: std::ops::Range<usize>,
    depth: std::ops::Range<usize>,
    panel: &mut [f32],
) {
    // Squares of 16, so that both sides stay in the first cache.
    for k in depth.clone().step_by(16) {
        let until = depth.end.min(k + 16);
        for row in rows.clone() {
            let values = &from[row * stride + k..row * stride + until];
            for (to, value) in panel[k * PANEL + row..]
                .iter_mut()
                .step_by(PANEL)
                .zip(values)
            {
                *to = *value;
            }
        }
    }
}

/// Transposes a square of 16.
///
/// # Safety
/// Both squares lie in memory that is the caller's, and the machine has AVX-512.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f")]
unsafe fn transpose_16(from: *const f32, stride: usize, to: *mut f32, to_stride: usize) {
    use std::arch::x86_64::*;
    // SAFETY: as promised by the caller.
    unsafe {
        let rows: [__m512; 16] = std::array::from_fn(|r| _mm512_loadu_ps(from.add(r * stride)));
        // Pairs of rows, then fours, then quarters of a vector, twice.
        let mut pairs = rows;
        for r in 0..8 {
            pairs[2 * r] = _mm512_unpacklo_ps(rows[2 * r], rows[2 * r + 1]);
            pairs[2 * r + 1] = _mm512_unpackhi_ps(rows[2 * r], rows[2 * r + 1]);
        }
        let mut fours = pairs;
        for r in 0..4 {
            let [a, b, c, d] = std::array::from_fn(|n| _mm512_castps_pd(pairs[4 * r + n]));
            fours[4 * r] = _mm512_castpd_ps(_mm512_unpacklo_pd(a, c));
            fours[4 * r + 1] = _mm512_castpd_ps(_mm512_unpackhi_pd(a, c));
            fours[4 * r + 2] = _mm512_castpd_ps(_mm512_unpacklo_pd(b, d));
            fours[4 * r + 3] = _mm512_castpd_ps(_mm512_unpackhi_pd(b, d));
        }
        for n in 0..4 {
            let [a, b, c, d] = std::array::from_fn(|r| fours[4 * r + n]);
            let low = _mm512_shuffle_f32x4::<0x88>(a, b);
            let high = _mm512_shuffle_f32x4::<0xdd>(a, b);
            let low_2 = _mm512_shuffle_f32x4::<0x88>(c, d);
            let high_2 = _mm512_shuffle_f32x4::<0xdd>(c, d);
            let store = |k: usize, x| _mm512_storeu_ps(to.add(k * to_stride), x);
            store(n, _mm512_shuffle_f32x4::<0x88>(low, low_2));
            store(n + 4, _mm512_shuffle_f32x4::<0x88>(high, high_2));
            store(n + 8, _mm512_shuffle_f32x4::<0xdd>(low, low_2));
            store(n + 12, _mm512_shuffle_f32x4::<0xdd>(high, high_2));
        }
    }
}
