//! Samples of what a training has learned.
//!
//! For a look in between: every token runs the whole text again, without pages of keys and values
//! and on weights that are still changing. Serving is the engine's.

use crate::base::Network;
use crate::batch::{Example, Loss, Packed};
use crate::error::TrainError;
use crate::gemm::{Lhs, Product, Rhs, product};
use crate::pass::Keep;
use crate::random::uniform;
use crate::trainer::Trainer;

/// How the next token is chosen.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Sampling {
    /// How even the choice is; 0 takes the most probable token.
    pub temperature: f32,
    /// What the choice is made from.
    pub seed: u64,
    /// The most tokens that are added.
    pub tokens: usize,
    /// A token that ends the text.
    pub end: Option<u32>,
}

impl Trainer {
    /// Goes on with a text as the weights are: the tokens that come after `prompt`, the one that
    /// ends it left out.
    ///
    /// # Errors
    /// When the prompt is unsound, or no room or work is left. The model's context ends a text.
    pub fn sample(&mut self, prompt: &[u32], how: &Sampling) -> Result<Vec<u32>, TrainError> {
        if !(how.temperature.is_finite() && how.temperature >= 0.0) {
            return Err(TrainError::Setting {
                what: "the temperature",
                got: how.temperature.to_string(),
                want: "a number of at least 0",
            });
        }
        let mut text = Example {
            tokens: prompt.to_vec(),
            ..Example::default()
        };
        for step in 0..how.tokens {
            if text.tokens.len() == self.base.shape.context {
                break;
            }
            let next = self.next(&text, how, step as u64)?;
            if how.end == Some(next) {
                break;
            }
            text.tokens.push(next);
        }
        Ok(text.tokens.split_off(prompt.len()))
    }

    fn next(&self, text: &Example, how: &Sampling, step: u64) -> Result<u32, TrainError> {
        // A label for every text, for nothing is learned: it makes the last token's state count.
        let labelled = Example {
            label: Some(0),
            ..text.clone()
        };
        let Network::Decoder(decoder) = &self.base.network else {
            return Err(TrainError::only_decoders());
        };
        let packed = Packed::new(&[labelled], Loss::Classification, Some(2), &self.base)?;
        self.charge_work(&packed, 1, true)?;
        let pass = self.pass(&packed, false, true)?;
        let _scratch = self
            .account
            .charge_memory(self.scratch_bytes(&packed, false))?;
        let pass = self.decoder_pass(pass, decoder, &packed);
        let states = self.decode(&pass, &packed, Keep::Nothing)?;
        let (vocabulary, width) = (self.base.shape.vocabulary, self.base.shape.width);
        let mut logits = self.pool.take(vocabulary)?;
        let asked = Product {
            m: 1,
            n: vocabulary,
            k: width,
            a: Lhs::rows(&states.hidden, width),
            b: Rhs::unpacked_columns(decoder.head().source()),
            add: false,
        };
        product(pass.workers, &asked, &mut logits);
        Ok(choose(&logits, how, step) as u32)
    }
}

fn choose(logits: &[f32], how: &Sampling, step: u64) -> usize {
    let best = logits.iter().enumerate().max_by(|a, b| a.1.total_cmp(b.1));
    let (best, most) = best.map_or((0, 0.0), |(place, most)| (place, *most));
    if how.temperature == 0.0 {
        return best;
    }
    let weight = |x: &f32| f64::from((x - most) / how.temperature).exp();
    let total: f64 = logits.iter().map(weight).sum();
    let mut left = f64::from(uniform(how.seed, step)) * total;
    for (place, logit) in logits.iter().enumerate() {
        left -= weight(logit);
        if left < 0.0 {
            return place;
        }
    }
    best
}
