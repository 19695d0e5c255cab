//! The largest logits of each row, found on the device: a few numbers travel instead of a
//! vocabulary.

use cubecl::prelude::*;
use skep_kernels::{expect_below, expect_len};

use crate::device::{Buffer, Gpu, cubes, guard};
use crate::error::GpuError;

/// The most that are asked of a row: each costs a pass over it.
pub const MOST: usize = 256;

/// The `count` largest elements of each row of `[rows, width]` with their places, largest first;
/// of equal ones the first in the row comes first. NaN is never among them: rows that have too
/// little else are filled up with negative infinity at place `u32::MAX`.
///
/// # Errors
/// When `logits` is no whole number of rows, a row has not so many elements, more than [`MOST`]
/// are asked for, or the device fails.
pub fn largest(
    gpu: &Gpu,
    logits: &Buffer,
    width: usize,
    count: usize,
) -> Result<Vec<Vec<(u32, f32)>>, GpuError> {
    let rows = logits.len().checked_div(width).unwrap_or(0);
    expect_len(
        "largest",
        "the logits",
        logits.len(),
        rows.checked_mul(width),
    )?;
    expect_below("largest", "the most", count, MOST + 1)?;
    expect_below("largest", "a row", count, width.saturating_add(1))?;
    if rows == 0 || count == 0 {
        return Ok(vec![Vec::new(); rows]);
    }
    let found = gpu.empty(2 * rows * count)?;
    // A cube has one row.
    let units = gpu.most_units();
    guard("largest", || {
        // SAFETY: there is a cube a row, and the output has a pair for each element asked for.
        unsafe {
            largest_of_rows::launch_unchecked(
                gpu.client(),
                cubes(rows),
                CubeDim::new_1d(units as u32),
                logits.arg(),
                found.arg(),
                rows,
                width,
                count,
                f32::NEG_INFINITY,
                units,
            );
        }
    })?;
    let words = gpu.read_words(&found)?;
    let pairs = words.as_chunks::<2>().0;
    Ok(pairs
        .chunks(count)
        .map(|row| {
            row.iter()
                .map(|[at, bits]| (*at, f32::from_bits(*bits)))
                .collect()
        })
        .collect())
}

/// Each pass finds the largest of what comes after the last one found. `lowest` is negative
/// infinity, which not every shading language has as a constant.
#[cube(launch_unchecked)]
fn largest_of_rows(
    logits: &[f32],
    found: &mut [u32],
    rows: usize,
    width: usize,
    count: usize,
    lowest: f32,
    #[comptime] units: usize,
) {
    let mut values = Shared::<[f32]>::new_slice(units);
    let mut places = Shared::<[u32]>::new_slice(units);
    let unit = UNIT_POS as usize;
    let row = min(CUBE_POS, rows - 1usize);
    let mut last = lowest;
    let mut last_place = 0u32;
    for pass in 0..count {
        let mut best = lowest;
        let mut place = 0xffff_ffffu32;
        let mut column = unit;
        while column < width {
            let x = logits[row * width + column];
            let number = column as u32;
            let after = pass == 0usize || x < last || (x == last && number > last_place);
            // False of NaN; the first of equal ones stays.
            if after && (x > best || (x == best && number < place)) {
                best = x;
                place = number;
            }
            column += units;
        }
        values[unit] = best;
        places[unit] = place;
        sync_cube();
        let mut step = (units / 2usize).runtime();
        while step > 0usize {
            if unit < step {
                let other = values[unit + step];
                let other_place = places[unit + step];
                let own = values[unit];
                if other > own || (other == own && other_place < places[unit]) {
                    values[unit] = other;
                    places[unit] = other_place;
                }
            }
            sync_cube();
            step /= 2usize;
        }
        last = values[0usize];
        last_place = places[0usize];
        sync_cube();
        if unit == 0usize && CUBE_POS < rows {
            let at = 2usize * (row * count + pass);
            found[at] = last_place;
            found[at + 1usize] = u32::reinterpret(last);
        }
    }
}
