//! What a training learns from: examples, and the losses that they are measured by.

use std::ops::Range;

use serde::{Deserialize, Serialize};
use skep_decoder::ForwardError;

use crate::base::Base;
use crate::error::TrainError;

/// One text, with what the loss needs to know of it.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Example {
    /// Its tokens.
    pub tokens: Vec<u32>,
    /// For each token what predicting it counts: 0 for those of a prompt. The first token's is
    /// never used, for nothing predicts it. Empty means 1 for all.
    pub weights: Vec<f32>,
    /// Its class, for [`Loss::Classification`].
    pub label: Option<u32>,
    /// For [`Loss::PolicyGradient`]: for each token the logarithm of the probability that the
    /// model had given it when the text was sampled.
    pub sampled_log_probabilities: Vec<f32>,
    /// For [`Loss::PolicyGradient`]: for each token how much better the text was than others.
    pub advantages: Vec<f32>,
    /// For [`Loss::Preference`]: the logarithm of the probability that the base gives the text,
    /// each token's times its weight.
    pub reference_log_probability: f32,
}

/// How wrong a model is about a batch.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub enum Loss {
    /// The negative logarithm of each next token's probability, by its weight.
    CrossEntropy,
    /// The same of each text's class, which a linear layer makes of its last token's state, or of
    /// what an encoder pools of all of them.
    Classification,
    /// Direct preference optimization (arXiv 2305.18290, equation 7). Examples come in pairs: a
    /// text and then the one that it was preferred to.
    Preference {
        /// How far the model may go from the base for it.
        beta: f32,
    },
    /// The clipped policy gradient (arXiv 1707.06347, equation 7): each token's advantage times
    /// the ratio of its probability to that at sampling, or less.
    PolicyGradient {
        /// How far below 1 a ratio still has a gradient.
        below: f32,
        /// How far above 1.
        above: f32,
    },
}

/// What the sum of a batch's losses is divided by.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub enum Divisor {
    /// The sum of its weights, or the number of its texts or pairs: the mean.
    Own,
    /// A number: with gradients of several batches before a step, that of all of them together.
    Given(f32),
}

/// What a batch came to.
#[derive(Debug, Clone, PartialEq)]
pub struct Outcome {
    /// The sum of losses over the divisor.
    pub loss: f64,
    /// What the sum was divided by.
    pub divisor: f64,
    /// Tokens that went through the model.
    pub tokens: u64,
    /// Tokens, texts or pairs that had a loss.
    pub counted: u64,
    /// For each example the logarithm of each token's probability, 0 where its weight is; for
    /// [`Loss::Classification`] of each class.
    pub log_probabilities: Vec<Vec<f32>>,
}

/// Examples side by side, each knowing only itself.
#[derive(Debug)]
pub(crate) struct Packed {
    pub tokens: Vec<u32>,
    pub positions: Vec<u32>,
    pub sequences: Vec<Range<usize>>,
    /// Places whose next token counts, and for each which example's and its place there.
    pub rows: Vec<usize>,
    pub targets: Vec<Target>,
}

/// A token whose prediction counts.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Target {
    pub token: u32,
    pub example: usize,
    /// Its place in the example.
    pub at: usize,
    pub weight: f32,
}

impl Packed {
    /// Checks a batch and packs it.
    pub fn new(
        examples: &[Example],
        loss: Loss,
        classes: Option<usize>,
        base: &Base,
    ) -> Result<Self, TrainError> {
        if base.is_encoder() && loss != Loss::Classification {
            return Err(TrainError::only_decoders());
        }
        check_loss(examples, loss, classes)?;
        let mut packed = Self {
            tokens: Vec::new(),
            positions: Vec::new(),
            sequences: Vec::new(),
            rows: Vec::new(),
            targets: Vec::new(),
        };
        for (number, example) in examples.iter().enumerate() {
            check_example(number, example, loss, classes, base)?;
            let start = packed.tokens.len();
            packed.tokens.extend_from_slice(&example.tokens);
            packed.positions.extend(0..example.tokens.len() as u32);
            packed.sequences.push(start..packed.tokens.len());
            if loss == Loss::Classification {
                packed.rows.push(packed.tokens.len() - 1);
                continue;
            }
            for at in 1..example.tokens.len() {
                let weight = example.weights.get(at).copied().unwrap_or(1.0);
                if weight != 0.0 {
                    packed.rows.push(start + at - 1);
                    packed.targets.push(Target {
                        token: example.tokens[at],
                        example: number,
                        at,
                        weight,
                    });
                }
            }
        }
        if packed.rows.is_empty() {
            return Err(TrainError::NothingToLearn);
        }
        Ok(packed)
    }
}

fn check_loss(examples: &[Example], loss: Loss, classes: Option<usize>) -> Result<(), TrainError> {
    let wrong = |what, got: String, want| Err(TrainError::Setting { what, got, want });
    let positive = |x: f32| x.is_finite() && x > 0.0;
    match loss {
        Loss::Classification if classes.is_none() => wrong(
            "the number of classes",
            "none".to_owned(),
            "given when the trainer is opened, for a loss over classes",
        ),
        Loss::Preference { beta } if !positive(beta) => {
            wrong("beta", beta.to_string(), "a number above 0")
        }
        Loss::Preference { .. } if !examples.len().is_multiple_of(2) => wrong(
            "the number of examples",
            examples.len().to_string(),
            "even: each text is followed by the one that it was preferred to",
        ),
        Loss::PolicyGradient { below, .. } if !(0.0..=1.0).contains(&below) => {
            wrong("the lower clip", below.to_string(), "a number from 0 to 1")
        }
        Loss::PolicyGradient { above, .. } if above.is_nan() || above < 0.0 => wrong(
            "the upper clip",
            above.to_string(),
            "a number of at least 0",
        ),
        _ => Ok(()),
    }
}

fn check_example(
    number: usize,
    example: &Example,
    loss: Loss,
    classes: Option<usize>,
    base: &Base,
) -> Result<(), TrainError> {
    let wrong = |reason: String| Err(TrainError::Example { number, reason });
    let (count, context) = (example.tokens.len(), base.shape.context);
    if count == 0 {
        return wrong("it has no tokens".to_owned());
    }
    if count > context {
        return wrong(format!(
            "it has {count} tokens and the model's context is {context}; cut it"
        ));
    }
    if let Some(token) = example
        .tokens
        .iter()
        .find(|t| **t as usize >= base.shape.vocabulary)
    {
        return Err(TrainError::Forward(ForwardError::Token {
            token: *token,
            vocabulary: base.shape.vocabulary,
        }));
    }
    let policy = matches!(loss, Loss::PolicyGradient { .. });
    let lists = [
        ("weights", &example.weights, !example.weights.is_empty()),
        (
            "log-probabilities",
            &example.sampled_log_probabilities,
            policy,
        ),
        ("advantages", &example.advantages, policy),
    ];
    for (what, list, needed) in lists {
        if needed && list.len() != count {
            return wrong(format!("it has {} {what} for {count} tokens", list.len()));
        }
        if needed && list.iter().any(|x| !x.is_finite()) {
            return wrong(format!("one of its {what} is not finite"));
        }
    }
    if !example.reference_log_probability.is_finite() {
        return wrong("its reference log-probability is not finite".to_owned());
    }
    if loss == Loss::Classification {
        let classes = classes.unwrap_or(0);
        match example.label {
            None => return wrong("it has no label".to_owned()),
            Some(label) if label as usize >= classes => {
                return wrong(format!(
                    "its label is {label} and there are {classes} classes"
                ));
            }
            Some(_) => {}
        }
    }
    Ok(())
}
