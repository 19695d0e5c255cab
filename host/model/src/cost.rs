//! What a batch costs: the arithmetic that is metered and the memory that is charged before it
//! runs.

use skep_tensor::operators::{AttentionScratch, LinearScratch, Precision};

/// The sizes of a network, from which costs follow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cost {
    /// Layers.
    pub layers: u64,
    /// Elements of a token's vector.
    pub hidden: u64,
    /// Elements of a token's vector inside the feed-forward part.
    pub intermediate: u64,
    /// Attention heads.
    pub heads: u64,
    /// The numbers in which linear layers multiply.
    pub precision: Precision,
}

impl Cost {
    /// Floating-point operations of sequences with these numbers of tokens, a multiplication and
    /// an addition counting as two:
    ///
    /// `layers · (2 · T · (4 · hidden² + 2 · hidden · intermediate) + 4 · hidden · Σ t²)`
    ///
    /// with `t` the tokens of a sequence and `T` their sum: the four projections of attention,
    /// the two of the feed-forward part, and scores and weighted values. What is done once per
    /// element (normalisation, softmax, activation, quantization) is not counted. Products in
    /// 16-bit integers count like those in floats.
    pub fn flops(&self, tokens: impl IntoIterator<Item = u64>) -> u64 {
        let (mut total, mut squares) = (0_u64, 0_u64);
        for t in tokens {
            total = total.saturating_add(t);
            squares = squares.saturating_add(t.saturating_mul(t));
        }
        let (h, i) = (self.hidden, self.intermediate);
        let per_token = 2 * (4 * h * h + 2 * h * i);
        let linear = total.saturating_mul(per_token);
        let attention = squares.saturating_mul(4 * h);
        self.layers.saturating_mul(linear.saturating_add(attention))
    }

    /// Bytes of activations while a batch of `tokens` in `sequences` runs, the longest of which
    /// has `longest`: per token the residual, the attention's result and one more vector of
    /// `hidden` floats, queries, keys and values, the feed-forward part's `intermediate` floats,
    /// and the 16-bit copy of the widest of them; transposed keys and a block of scores of the
    /// longest sequence; the pooled vectors.
    pub fn activation_bytes(&self, tokens: u64, sequences: u64, longest: u64) -> u64 {
        let (h, i) = (self.hidden, self.intermediate);
        let floats = tokens.saturating_mul(6 * h + i).saturating_mul(4);
        let quantized = LinearScratch::bytes(self.precision, tokens, h.max(i));
        let head = (h / self.heads.max(1)) as usize;
        let attention = AttentionScratch::bytes(longest as usize, head);
        let pooled = sequences.saturating_mul(4 * h);
        floats
            .saturating_add(quantized)
            .saturating_add(attention)
            .saturating_add(pooled)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flops_are_those_of_the_formula() {
        let cost = Cost {
            layers: 6,
            hidden: 384,
            intermediate: 1536,
            heads: 12,
            precision: Precision::F32,
        };
        let linear = 2 * (3 + 5) * (4 * 384 * 384 + 2 * 384 * 1536);
        assert_eq!(cost.flops([3, 5]), 6 * (linear + 4 * 384 * (9 + 25)));
        assert_eq!(cost.flops([]), 0);
        assert_eq!(cost.flops([u64::MAX, 2]), u64::MAX);
    }

    #[test]
    fn merged_batches_cost_what_their_parts_cost() {
        let cost = Cost {
            layers: 2,
            hidden: 32,
            intermediate: 64,
            heads: 4,
            precision: Precision::I16,
        };
        assert_eq!(cost.flops([7, 9, 1]), cost.flops([7]) + cost.flops([9, 1]));
        assert!(cost.activation_bytes(16, 2, 9) >= cost.activation_bytes(7, 1, 7));
    }
}
