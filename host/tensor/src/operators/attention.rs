//! Self-attention over a ragged batch.

use super::{Isa, ShapeError, expect_len, expect_offsets};
use crate::kernels::attention::{Attention, attend, scratch_len};

/// A buffer that [`self_attention`] reuses from call to call. One per thread.
#[derive(Debug, Default)]
pub struct AttentionScratch(Vec<f32>);

impl AttentionScratch {
    /// Bytes that a batch takes whose longest sequence has `longest` tokens.
    pub fn bytes(longest: usize, head_width: usize) -> u64 {
        4 * scratch_len(longest, head_width) as u64
    }
}

/// Softmax attention of every sequence over itself, scores divided by the square root of the
/// head's width: `out[tokens, width]` from `qkv[tokens, 3 * width]`, which holds queries, keys
/// and values of each token side by side. Sequence `s` is tokens `offsets[s]..offsets[s + 1]`.
///
/// # Errors
/// When lengths do not fit together, offsets do not ascend from 0 to `tokens`, or `width` is no
/// multiple of `heads`.
pub fn self_attention(
    isa: Isa,
    qkv: &[f32],
    offsets: &[usize],
    heads: usize,
    scratch: &mut AttentionScratch,
    out: &mut [f32],
) -> Result<(), ShapeError> {
    let tokens = offsets.last().copied().unwrap_or(0);
    expect_offsets("attention", offsets, tokens)?;
    let width = out.len().checked_div(tokens).unwrap_or(0);
    expect_len(
        "attention",
        "the output",
        out.len(),
        tokens.checked_mul(width),
    )?;
    expect_len(
        "attention",
        "the input",
        qkv.len(),
        out.len().checked_mul(3),
    )?;
    let dim = width.checked_div(heads).unwrap_or(0);
    expect_len("attention", "a token", width, dim.checked_mul(heads))?;
    let longest = offsets.windows(2).map(|w| w[1] - w[0]).max().unwrap_or(0);
    let needed = scratch_len(longest, dim);
    if scratch.0.len() < needed {
        scratch.0.resize(needed, 0.0);
    }
    // SAFETY: lengths and offsets were checked above, the scratch has the length that the
    // kernel states.
    unsafe {
        attend(
            isa,
            &Attention {
                qkv: qkv.as_ptr(),
                out: out.as_mut_ptr(),
                offsets: offsets.as_ptr(),
                sequences: offsets.len() - 1,
                heads,
                dim,
                scale: 1.0 / (dim as f32).sqrt(),
                scratch: scratch.0.as_mut_ptr(),
            },
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn reference(qkv: &[f32], len: usize, heads: usize, dim: usize) -> Vec<f64> {
        let width = heads * dim;
        let at = |token: usize, part: usize, head: usize, d: usize| {
            f64::from(qkv[token * 3 * width + part * width + head * dim + d])
        };
        let mut out = vec![0.0; len * width];
        for head in 0..heads {
            for i in 0..len {
                let scores: Vec<f64> = (0..len)
                    .map(|j| {
                        let dot: f64 = (0..dim)
                            .map(|d| at(i, 0, head, d) * at(j, 1, head, d))
                            .sum();
                        (dot / (dim as f64).sqrt()).exp()
                    })
                    .collect();
                let sum: f64 = scores.iter().sum();
                for d in 0..dim {
                    out[i * width + head * dim + d] =
                        (0..len).map(|j| scores[j] * at(j, 2, head, d)).sum::<f64>() / sum;
                }
            }
        }
        out
    }

    fn numbers(n: usize) -> Vec<f32> {
        (0..n)
            .map(|i| ((i * 7919) % 1013) as f32 / 250.0 - 2.0)
            .collect()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]
        #[test]
        fn agrees_with_double_precision(
            lengths in prop::collection::vec(0_usize..40, 1..5),
            heads in 1_usize..4,
            dim in 1_usize..40,
        ) {
            let width = heads * dim;
            let mut offsets = vec![0];
            for len in &lengths {
                offsets.push(offsets[offsets.len() - 1] + len);
            }
            let tokens = offsets[lengths.len()];
            let qkv = numbers(tokens * 3 * width);
            for isa in Isa::available() {
                let mut out = vec![f32::NAN; tokens * width];
                let scratch = &mut AttentionScratch::default();
                self_attention(isa, &qkv, &offsets, heads, scratch, &mut out).unwrap();
                for (s, &len) in lengths.iter().enumerate() {
                    let own = &qkv[offsets[s] * 3 * width..][..len * 3 * width];
                    let want = reference(own, len, heads, dim);
                    let got = &out[offsets[s] * width..][..len * width];
                    for (got, want) in got.iter().zip(&want) {
                        prop_assert!((f64::from(*got) - want).abs() < 1e-5, "{}", isa.name());
                    }
                }
            }
        }
    }

    #[test]
    fn a_sequence_does_not_depend_on_its_neighbours() {
        let (heads, dim, lengths) = (2, 8, [5_usize, 1, 33, 7]);
        let offsets = [0, 5, 6, 39, 46];
        let qkv = numbers(46 * 48);
        for isa in Isa::available() {
            let scratch = &mut AttentionScratch::default();
            let mut all = vec![0.0; 46 * 16];
            self_attention(isa, &qkv, &offsets, heads, scratch, &mut all).unwrap();
            for (s, len) in lengths.into_iter().enumerate() {
                let mut alone = vec![0.0; len * heads * dim];
                let own = &qkv[offsets[s] * 48..offsets[s + 1] * 48];
                self_attention(isa, own, &[0, len], heads, scratch, &mut alone).unwrap();
                assert_eq!(alone, all[offsets[s] * 16..offsets[s + 1] * 16]);
            }
        }
    }

    #[test]
    fn wrong_lengths_and_offsets_are_refused() {
        let isa = Isa::best();
        let scratch = &mut AttentionScratch::default();
        for (offsets, heads) in [
            (&[0, 3, 2, 4][..], 1),
            (&[1, 4], 1),
            (&[0, 5], 1),
            (&[0, 4], 3),
            (&[0, 4], 0),
            (&[], 1),
        ] {
            let refused = self_attention(isa, &[0.0; 24], offsets, heads, scratch, &mut [0.0; 8]);
            assert!(refused.is_err(), "{offsets:?} {heads}");
        }
    }
}
