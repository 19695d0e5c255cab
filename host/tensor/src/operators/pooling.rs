//! From token vectors to sentence vectors.

use super::{ShapeError, expect_len, expect_offsets};

/// How the vectors of a sequence's tokens become one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Pooling {
    /// Their mean.
    Mean,
    /// The first token's.
    First,
    /// The greatest of each element.
    Max,
}

/// Pools `x[tokens, width]` into `out[sequences, width]`. A sequence without tokens gives zeros.
///
/// # Errors
/// When lengths do not fit together, or offsets do not ascend from 0 to `tokens`.
pub fn pool(
    kind: Pooling,
    x: &[f32],
    offsets: &[usize],
    width: usize,
    out: &mut [f32],
) -> Result<(), ShapeError> {
    let tokens = x.len().checked_div(width).unwrap_or(0);
    expect_len("pooling", "the input", x.len(), tokens.checked_mul(width))?;
    expect_offsets("pooling", offsets, tokens)?;
    let sequences = offsets.len() - 1;
    expect_len(
        "pooling",
        "the output",
        out.len(),
        sequences.checked_mul(width),
    )?;
    for (s, to) in out.chunks_exact_mut(width.max(1)).enumerate() {
        let mut rows = x[offsets[s] * width..offsets[s + 1] * width].chunks_exact(width);
        match rows.next() {
            Some(first) => to.copy_from_slice(first),
            None => to.fill(0.0),
        }
        match kind {
            Pooling::First => {}
            Pooling::Mean => {
                for row in rows {
                    for (to, &x) in to.iter_mut().zip(row) {
                        *to += x;
                    }
                }
                let by = 1.0 / (offsets[s + 1] - offsets[s]).max(1) as f32;
                for x in to {
                    *x *= by;
                }
            }
            Pooling::Max => {
                for row in rows {
                    for (to, &x) in to.iter_mut().zip(row) {
                        if x > *to || x.is_nan() {
                            *to = x;
                        }
                    }
                }
            }
        }
    }
    Ok(())
}

/// Brings each row of `x[rows, width]` to Euclidean length 1. A row of zeros stays as it is.
///
/// # Errors
/// When `x` is not whole rows.
pub fn normalize_rows(x: &mut [f32], width: usize) -> Result<(), ShapeError> {
    let rows = x.len().checked_div(width).unwrap_or(0);
    expect_len(
        "normalisation",
        "the input",
        x.len(),
        rows.checked_mul(width),
    )?;
    for row in x.chunks_exact_mut(width.max(1)) {
        // In double precision: no square of an f32 overflows or vanishes, and the order of the
        // sum hardly matters.
        let square: f64 = row.iter().map(|&x| f64::from(x) * f64::from(x)).sum();
        let by = 1.0 / square.sqrt().max(1e-12);
        for x in row {
            *x = (f64::from(*x) * by) as f32;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pools_each_sequence_by_itself() {
        let x = [1.0, 2.0, 3.0, -4.0, 7.0, 8.0];
        let offsets = [0, 2, 2, 3];
        let mut out = [9.0; 6];
        pool(Pooling::Mean, &x, &offsets, 2, &mut out).unwrap();
        assert_eq!(out, [2.0, -1.0, 0.0, 0.0, 7.0, 8.0]);
        pool(Pooling::Max, &x, &offsets, 2, &mut out).unwrap();
        assert_eq!(out, [3.0, 2.0, 0.0, 0.0, 7.0, 8.0]);
        pool(Pooling::First, &x, &offsets, 2, &mut out).unwrap();
        assert_eq!(out, [1.0, 2.0, 0.0, 0.0, 7.0, 8.0]);
    }

    #[test]
    fn wrong_lengths_are_refused() {
        let mut out = [0.0; 2];
        assert!(pool(Pooling::Mean, &[0.0; 3], &[0, 1], 2, &mut out).is_err());
        assert!(pool(Pooling::Mean, &[0.0; 4], &[0, 1], 2, &mut out).is_err());
        assert!(pool(Pooling::Mean, &[0.0; 4], &[0, 1, 2], 2, &mut out).is_err());
        assert!(pool(Pooling::Mean, &[], &[], 2, &mut out).is_err());
        assert!(normalize_rows(&mut [0.0; 3], 2).is_err());
    }

    #[test]
    fn rows_get_length_one() {
        let mut x = [3.0, 4.0, 0.0, 0.0, 1e30, 0.0];
        normalize_rows(&mut x, 2).unwrap();
        assert_eq!(x, [0.6, 0.8, 0.0, 0.0, 1.0, 0.0]);
    }
}
