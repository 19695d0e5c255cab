//! Probabilities of tokens.

/// Which tokens may be drawn, and how likely each is.
#[derive(Debug, Clone, PartialEq)]
pub struct Distribution {
    /// In the order of the tokens; all are above 0 and together they are 1.
    probabilities: Vec<(u32, f64)>,
}

impl Distribution {
    /// One token, certainly.
    pub fn point(token: u32) -> Self {
        Self {
            probabilities: vec![(token, 1.0)],
        }
    }

    /// From weights in the order of the tokens. Tokens without weight are left out.
    pub(crate) fn new(weights: impl Iterator<Item = (u32, f32)>) -> Self {
        let weights = weights.map(|(token, weight)| (token, f64::from(weight)));
        let mut weights: Vec<(u32, f64)> = weights.collect();
        weights.retain(|(_, weight)| *weight > 0.0);
        let total: f64 = weights.iter().map(|(_, weight)| weight).sum();
        for (_, weight) in &mut weights {
            *weight /= total;
        }
        Self {
            probabilities: weights,
        }
    }

    /// The tokens that may be drawn, in the order of their numbers, with their probabilities.
    pub fn probabilities(&self) -> &[(u32, f64)] {
        &self.probabilities
    }

    /// How likely a token is.
    pub fn probability(&self, token: u32) -> f64 {
        match self.probabilities.binary_search_by_key(&token, |(t, _)| *t) {
            Ok(place) => self.probabilities[place].1,
            Err(_) => 0.0,
        }
    }

    /// The token at this fraction, in [0, 1), of all probabilities laid end to end.
    pub fn draw(&self, fraction: f64) -> Option<u32> {
        let mut left = fraction;
        let passed = self.probabilities.iter().find(|(_, probability)| {
            left -= probability;
            left < 0.0
        });
        passed
            .or(self.probabilities.last())
            .map(|(token, _)| *token)
    }
}
