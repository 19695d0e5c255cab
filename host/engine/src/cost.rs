//! What it takes to compute a token.

use skep_decoder::Config;

/// The work that tokens of a model are, as accounts meter it.
#[derive(Debug, Clone, Copy)]
pub struct Cost {
    /// Of the products with weights, the output layer's included.
    token: u64,
    /// Of attention, for each position that a token sees.
    position: u64,
}

impl Cost {
    /// The cost of a model's tokens: two operations for each weight that a token is multiplied
    /// with, and for each element of the keys and values that it sees (Kaplan et al.,
    /// arXiv 2001.08361, table 1).
    pub fn of(config: &Config) -> Self {
        let (width, hidden) = (config.width as u64, config.hidden as u64);
        let queries = (config.heads * config.head_dim) as u64;
        let keys = (config.kv_heads * config.head_dim) as u64;
        let layers = config.layers.len() as u64;
        let layer = width * (2 * queries + 2 * keys + 3 * hidden);
        Self {
            token: 2 * (layers * layer + width * config.vocabulary as u64),
            position: 4 * layers * queries,
        }
    }

    /// A token's products, as a part of another model's.
    pub fn share_of(&self, other: &Self) -> f64 {
        self.token as f64 / other.token.max(1) as f64
    }

    /// Of `count` tokens of one text from position `start` on.
    pub fn flops(&self, start: usize, count: usize) -> u64 {
        let (start, count) = (start as u64, count as u64);
        let seen = count * start + count * (count + 1) / 2;
        count
            .saturating_mul(self.token)
            .saturating_add(seen.saturating_mul(self.position))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_costs_its_weights_and_what_it_sees() {
        let cost = Cost {
            token: 100,
            position: 3,
        };
        assert_eq!(cost.flops(0, 1), 103);
        assert_eq!(cost.flops(10, 2), 200 + 3 * (11 + 12));
        assert_eq!(cost.flops(0, 12), cost.flops(0, 10) + cost.flops(10, 2));
    }
}
