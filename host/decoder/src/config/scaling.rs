//! How rotary positions are stretched for texts longer than those a model was first trained on.

use std::f64::consts::TAU;

/// A change of the frequencies of rotary positions.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Scaling {
    /// None.
    None,
    /// All frequencies are divided by a factor (arXiv 2306.15595).
    Linear(f64),
    /// Llama 3.1's: low frequencies are divided by a factor, high ones stay, and those between
    /// are blended.
    Llama3 {
        /// The factor.
        factor: f64,
        /// Wavelengths longer than the original context divided by this are low.
        low: f64,
        /// Wavelengths shorter than the original context divided by this are high.
        high: f64,
        /// Positions of the model before it was stretched.
        original: f64,
    },
}

impl Scaling {
    /// Changes the frequencies.
    pub fn apply(self, frequencies: &mut [f64]) {
        match self {
            Scaling::None => {}
            Scaling::Linear(factor) => {
                for frequency in frequencies {
                    *frequency /= factor;
                }
            }
            Scaling::Llama3 {
                factor,
                low,
                high,
                original,
            } => {
                for frequency in frequencies {
                    let turns = original * *frequency / TAU;
                    if turns < low {
                        *frequency /= factor;
                    } else if turns <= high {
                        let share = (turns - low) / (high - low);
                        *frequency = (1.0 - share) * *frequency / factor + share * *frequency;
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn low_frequencies_are_stretched_and_high_ones_stay() {
        let scaling = Scaling::Llama3 {
            factor: 8.0,
            low: 1.0,
            high: 4.0,
            original: 8192.0,
        };
        let mut frequencies = [1.0, TAU * 2.5 / 8192.0, 1e-6];
        scaling.apply(&mut frequencies);
        assert_eq!(frequencies[0], 1.0);
        let between = TAU * 2.5 / 8192.0;
        assert!((frequencies[1] - (between / 16.0 + between / 2.0)).abs() < 1e-12);
        assert_eq!(frequencies[2], 1e-6 / 8.0);
        Scaling::Linear(4.0).apply(&mut frequencies);
        assert_eq!(frequencies[0], 0.25);
    }
}
