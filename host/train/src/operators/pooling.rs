//! From the vectors of a sequence's tokens to one, and back.

use std::ops::Range;

/// How the vectors of a sequence's tokens become one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Pool {
    /// Their mean.
    Mean,
    /// The first token's.
    First,
    /// The greatest of each element.
    Most,
}

/// Pools `x[tokens, width]` into `out[sequences, width]`. No sequence is empty.
pub(crate) fn pool(
    kind: Pool,
    x: &[f32],
    sequences: &[Range<usize>],
    width: usize,
    out: &mut [f32],
) {
    for (sequence, to) in sequences.iter().zip(out.chunks_exact_mut(width)) {
        let mut rows = x[sequence.start * width..sequence.end * width].chunks_exact(width);
        let Some(first) = rows.next() else { continue };
        to.copy_from_slice(first);
        match kind {
            Pool::First => {}
            Pool::Mean => {
                for row in rows {
                    for (to, x) in to.iter_mut().zip(row) {
                        *to += x;
                    }
                }
                let share = 1.0 / sequence.len() as f32;
                for to in to {
                    *to *= share;
                }
            }
            Pool::Most => {
                for row in rows {
                    for (to, x) in to.iter_mut().zip(row) {
                        *to = to.max(*x);
                    }
                }
            }
        }
    }
}

/// Writes the gradient of `x` to `dx`, given that of what was pooled.
pub(crate) fn pool_backward(
    kind: Pool,
    x: &[f32],
    sequences: &[Range<usize>],
    width: usize,
    dy: &[f32],
    dx: &mut [f32],
) {
    for (sequence, dy) in sequences.iter().zip(dy.chunks_exact(width)) {
        let place = sequence.start * width..sequence.end * width;
        let (x, dx) = (&x[place.clone()], &mut dx[place]);
        match kind {
            Pool::First => {
                let (first, rest) = dx.split_at_mut(width);
                first.copy_from_slice(dy);
                rest.fill(0.0);
            }
            Pool::Mean => {
                let share = 1.0 / sequence.len() as f32;
                for row in dx.chunks_exact_mut(width) {
                    for (to, dy) in row.iter_mut().zip(dy) {
                        *to = dy * share;
                    }
                }
            }
            Pool::Most => {
                dx.fill(0.0);
                for (column, dy) in dy.iter().enumerate() {
                    let of = |row: usize| x[row * width + column];
                    // Of several as great the first, as the maximum takes it.
                    let greatest = (1..sequence.len())
                        .fold(0, |best, row| if of(row) > of(best) { row } else { best });
                    dx[greatest * width + column] = *dy;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::test_values;
    use crate::testing::check_gradients;

    #[test]
    fn pooling_has_the_gradients_of_differences() {
        let sequences = [0..1, 1..5, 5..7];
        for kind in [Pool::Mean, Pool::First, Pool::Most] {
            check_gradients(
                vec![test_values(7 * 5, 3)],
                |values| {
                    let mut out = vec![9.0; 3 * 5];
                    pool(kind, &values[0], &sequences, 5, &mut out);
                    out
                },
                |values, dy| {
                    let mut dx = vec![9.0; 7 * 5];
                    pool_backward(kind, &values[0], &sequences, 5, dy, &mut dx);
                    vec![dx]
                },
            );
        }
    }
}
