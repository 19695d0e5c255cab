//! The one product that training is made of: `C = A · B` in f32, with B from anywhere.
//!
//! `B` is taken block by block into panels of [`PANEL`] columns that stay in the second cache, so
//! it may come from packed weights of any format, straight or transposed, and is never whole in
//! memory. `A` is read where it lies, with a stride for rows and one for columns, so a transposed
//! `A` costs nothing.
//!
//! Each element of `C` is summed over `k` in ascending order, in blocks of [`DEPTH`]: its bits do
//! not depend on the number of threads, nor on how many rows are computed beside it.
//!
//! What this module must never do: keep more of `B` than a block for each thread.

mod kernel;
mod pack;
mod source;

use std::ops::Range;

use skep_kernels::Team;

pub(crate) use kernel::{Lhs, Part, multiply};
pub(crate) use pack::{Panels, pack_columns, pack_rows};
pub(crate) use source::RowSource;

/// Columns of a panel.
pub(crate) const PANEL: usize = 32;

/// Rows of `B` that are taken at a time. A multiple of every format's block.
const DEPTH: usize = 512;

/// Columns of `B` that are taken at a time: with [`DEPTH`] rows, half a mebibyte.
const WIDTH: usize = 256;

/// Rows of `C` below which they are not shared out any further.
const FEW_ROWS: usize = 56;

/// An instruction set that there are kernels for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Simd {
    /// Plain Rust.
    Portable,
    /// x86-64 with AVX2 and FMA.
    #[cfg(target_arch = "x86_64")]
    Avx2,
    /// x86-64 with AVX-512 F, DQ and VL.
    #[cfg(target_arch = "x86_64")]
    Avx512,
}

impl Simd {
    /// The best that this machine has.
    pub fn best() -> Self {
        static BEST: std::sync::OnceLock<Simd> = std::sync::OnceLock::new();
        *BEST.get_or_init(|| {
            Self::available()
                .into_iter()
                .max()
                .unwrap_or(Simd::Portable)
        })
    }

    /// All that this machine has, the plainest first.
    pub fn available() -> Vec<Self> {
        #[allow(unused_mut)]
        let mut all = vec![Simd::Portable];
        #[cfg(target_arch = "x86_64")]
        {
            if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
                all.push(Simd::Avx2);
                if is_x86_feature_detected!("avx512f")
                    && is_x86_feature_detected!("avx512dq")
                    && is_x86_feature_detected!("avx512vl")
                {
                    all.push(Simd::Avx512);
                }
            }
        }
        all
    }
}

/// Where the right side of a product comes from.
#[derive(Clone, Copy)]
pub(crate) enum Rhs<'a> {
    /// `B[k, n]` itself, row after row.
    Rows(&'a [f32]),
    /// `B` transposed, `[n, k]`, row after row.
    Columns(&'a [f32]),
    /// Rows that are unpacked as they are needed: `B[k, n]` itself.
    Unpacked(&'a dyn RowSource),
    /// The same of `B` transposed, `[n, k]`.
    UnpackedColumns(&'a dyn RowSource),
}

/// What a product needs beside its numbers.
#[derive(Clone, Copy)]
pub(crate) struct Workers<'a> {
    pub simd: Simd,
    pub team: &'a Team,
}

/// A product `C[m, n] (+)= A[m, k] · B[k, n]`.
pub(crate) struct Product<'a> {
    pub m: usize,
    pub n: usize,
    pub k: usize,
    pub a: Lhs<'a>,
    pub b: Rhs<'a>,
    /// Whether the product is added to what is there.
    pub add: bool,
}

/// Where results go. Members of a team write different elements.
struct Out(*mut f32);

// SAFETY: members write different rectangles, and nobody reads before all have finished.
unsafe impl Sync for Out {}

/// Computes a product into `c`, `[m, n]` row after row.
///
/// Lengths are the caller's, who made the buffers: they are checked here once and a product that
/// does not fit is a defect of this crate, which ends in a panic rather than in other memory.
pub(crate) fn product(workers: Workers<'_>, product: &Product<'_>, c: &mut [f32]) {
    let Product { m, n, k, a, b, .. } = *product;
    assert_eq!(c.len(), m * n, "the output of a product");
    assert!(a.covers(m, k), "the left side of a product");
    assert!(b.covers(k, n), "the right side of a product");
    if m == 0 || n == 0 {
        return;
    }
    if k == 0 {
        if !product.add {
            c.fill(0.0);
        }
        return;
    }
    let out = Out(c.as_mut_ptr());
    let wide = n.div_ceil(WIDTH);
    // Enough pieces that nobody waits long for another, but rows only where columns are few:
    // each piece takes its block of `B` apart by itself.
    let wanted = match workers.team.threads() {
        1 => 1,
        threads => (4 * threads).div_ceil(wide),
    };
    let tall = wanted.min(m.div_ceil(FEW_ROWS)).max(1);
    let rows = m.div_ceil(tall).next_multiple_of(kernel::TILE);
    let tall = m.div_ceil(rows);
    let out = &out;
    workers.team.share(wide * tall, 1, |pieces| {
        let mut panels = Panels::new(DEPTH.min(k), WIDTH.min(n));
        let mut row = Vec::new();
        for piece in pieces {
            let columns = piece / tall * WIDTH..n.min((piece / tall + 1) * WIDTH);
            let rows = piece % tall * rows..m.min((piece % tall + 1) * rows);
            let mut start = 0;
            while start < k {
                let depth = start..k.min(start + DEPTH);
                b.take(
                    workers.simd,
                    depth.clone(),
                    columns.clone(),
                    (k, n),
                    &mut panels,
                    &mut row,
                );
                let add = product.add || start > 0;
                // SAFETY: the rectangle lies in `c`, whose length was checked, and no other piece
                // has it.
                unsafe {
                    let to = out.0.add(rows.start * n + columns.start);
                    multiply(
                        workers.simd,
                        &a.from(rows.start, start),
                        rows.len(),
                        &panels,
                        &Part {
                            depth: 0..depth.len(),
                            columns: 0..columns.len(),
                        },
                        (to, n),
                        add,
                    );
                }
                start = depth.end;
            }
        }
    });
}

impl<'a> Rhs<'a> {
    /// `B[k, n]` itself.
    pub fn unpacked(rows: &'a dyn RowSource) -> Self {
        rows.floats().map_or(Rhs::Unpacked(rows), Rhs::Rows)
    }

    /// `B` transposed, `[n, k]`.
    pub fn unpacked_columns(rows: &'a dyn RowSource) -> Self {
        rows.floats()
            .map_or(Rhs::UnpackedColumns(rows), Rhs::Columns)
    }

    fn covers(&self, k: usize, n: usize) -> bool {
        match self {
            Rhs::Rows(values) | Rhs::Columns(values) => values.len() == k * n,
            Rhs::Unpacked(rows) => (rows.rows(), rows.columns()) == (k, n),
            Rhs::UnpackedColumns(rows) => (rows.rows(), rows.columns()) == (n, k),
        }
    }

    /// Takes the block of these rows and columns into panels.
    fn take(
        &self,
        simd: Simd,
        depth: Range<usize>,
        columns: Range<usize>,
        (k, n): (usize, usize),
        panels: &mut Panels,
        scratch: &mut Vec<f32>,
    ) {
        match self {
            Rhs::Rows(values) => {
                let from = &values[depth.start * n + columns.start..];
                pack_rows(panels, from, n, depth.len(), columns.len());
            }
            Rhs::Columns(values) => {
                let from = &values[columns.start * k + depth.start..];
                pack_columns(simd, panels, from, k, depth.len(), columns.len());
            }
            Rhs::Unpacked(rows) => {
                panels.reset(depth.len(), columns.len());
                scratch.resize(columns.len(), 0.0);
                for (number, row) in depth.enumerate() {
                    rows.read(row, columns.clone(), scratch);
                    panels.set_row(number, scratch);
                }
            }
            Rhs::UnpackedColumns(rows) => {
                // A panel's worth of rows at a time, which stays in the first two caches.
                let (length, count) = (depth.len(), columns.len());
                panels.reset(length, count);
                scratch.resize(PANEL * length, 0.0);
                for first in (0..count).step_by(PANEL) {
                    let some = PANEL.min(count - first);
                    for (number, row) in scratch.chunks_exact_mut(length).take(some).enumerate() {
                        rows.read(columns.start + first + number, depth.clone(), row);
                    }
                    panels.set_columns(simd, first, &scratch[..some * length], length);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests;
