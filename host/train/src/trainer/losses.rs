//! Losses of a batch whose hidden states are there, and the gradients of those.

use crate::batch::{Example, Loss, Outcome, Packed};
use crate::gemm::{Lhs, Product, Rhs, RowSource, Workers, product};
use crate::loss::{of_pairs, of_token};
use crate::operators::head::target_probabilities;
use crate::trainer::Trainer;

impl Trainer {
    /// A loss over tokens. Where there is a `dhidden`, it becomes the gradient.
    #[expect(clippy::too_many_arguments, reason = "one step of a longer function")]
    pub(super) fn tokens_loss(
        &self,
        workers: Workers<'_>,
        source: &dyn RowSource,
        examples: &[Example],
        loss: Loss,
        packed: &Packed,
        hidden: &[f32],
        divisor: f64,
        dhidden: Option<&mut [f32]>,
    ) -> Outcome {
        let targets: Vec<u32> = packed.targets.iter().map(|target| target.token).collect();
        let mut all: Vec<Vec<f32>> = examples
            .iter()
            .map(|example| vec![0.0; example.tokens.len()])
            .collect();
        let mut total = 0.0;
        let mut counted = targets.len();
        let mut pairs = None;
        if let Loss::Preference { beta } = loss {
            // What a token's slope is depends on both texts of its pair: first their sums.
            let mut sums = vec![0.0; examples.len()];
            let add = |row: usize, log: f32| {
                let target = &packed.targets[row];
                sums[target.example] += f64::from(log) * f64::from(target.weight);
                all[target.example][target.at] = log;
                0.0
            };
            target_probabilities(workers, source, hidden, &targets, add, None);
            let (sum, slopes) = of_pairs(beta, examples, &sums);
            (total, counted) = (sum, examples.len() / 2);
            pairs = Some(slopes);
        }
        if pairs.is_none() || dhidden.is_some() {
            let slope = |row: usize, log: f32| {
                let target = &packed.targets[row];
                let slope = match &pairs {
                    Some(slopes) => slopes[target.example] * target.weight,
                    None => {
                        let example = &examples[target.example];
                        let (own, slope) = of_token(loss, example, target, log);
                        total += own;
                        all[target.example][target.at] = log;
                        slope
                    }
                };
                (f64::from(slope) / divisor) as f32
            };
            target_probabilities(workers, source, hidden, &targets, slope, dhidden);
        }
        Outcome {
            loss: total / divisor,
            divisor,
            tokens: packed.tokens.len() as u64,
            counted: counted as u64,
            log_probabilities: all,
        }
    }

    /// The loss over classes. Where there are gradients, those are added to which belong to the layer
    /// over the model, and `dhidden`, beside them, becomes that of what it takes.
    pub(super) fn classes_loss(
        &self,
        workers: Workers<'_>,
        examples: &[Example],
        packed: &Packed,
        hidden: &[f32],
        divisor: f64,
        to: Option<(&mut [f32], &mut [f32])>,
    ) -> Outcome {
        let width = self.base.shape.width;
        let place = self.layout.classifier.clone().unwrap_or(0..0);
        let weights = &self.parameters[place];
        let (texts, classes) = (examples.len(), weights.len() / width);
        let mut logits = vec![0.0; texts * classes];
        let asked = Product {
            m: texts,
            n: classes,
            k: width,
            a: Lhs::rows(hidden, width),
            b: Rhs::Columns(weights),
            add: false,
        };
        product(workers, &asked, &mut logits);
        if let Some(bias) = &self.layout.classifier_bias {
            let bias = &self.parameters[bias.clone()];
            for row in logits.chunks_exact_mut(classes) {
                for (x, bias) in row.iter_mut().zip(bias) {
                    *x += bias;
                }
            }
        }
        let mut total = 0.0;
        let mut all = Vec::with_capacity(texts);
        for (row, example) in logits.chunks_exact_mut(classes.max(1)).zip(examples) {
            let most = row.iter().copied().fold(f32::MIN, f32::max);
            let sum: f64 = row.iter().map(|x| f64::from(x - most).exp()).sum();
            let sum = f64::from(most) + sum.ln();
            let logs: Vec<f32> = row.iter().map(|x| (f64::from(*x) - sum) as f32).collect();
            let label = example.label.unwrap_or(0) as usize;
            total -= f64::from(logs[label]);
            for (n, (x, log)) in row.iter_mut().zip(&logs).enumerate() {
                let gradient = f64::from(*log).exp() - f64::from(u8::from(n == label));
                *x = (gradient / divisor) as f32;
            }
            all.push(logs);
        }
        if let Some((gradients, dhidden)) = to {
            let of_weights = Product {
                m: classes,
                n: width,
                k: texts,
                a: Lhs::transposed(&logits, classes),
                b: Rhs::Rows(hidden),
                add: true,
            };
            product(workers, &of_weights, &mut gradients[..weights.len()]);
            if self.layout.classifier_bias.is_some() {
                // It follows the weights.
                let bias = &mut gradients[weights.len()..];
                for row in logits.chunks_exact(classes) {
                    for (gradient, x) in bias.iter_mut().zip(row) {
                        *gradient += x;
                    }
                }
            }
            let of_hidden = Product {
                m: texts,
                n: width,
                k: classes,
                a: Lhs::rows(&logits, classes),
                b: Rhs::Rows(weights),
                add: false,
            };
            product(workers, &of_hidden, dhidden);
        }
        Outcome {
            loss: total / divisor,
            divisor,
            tokens: packed.tokens.len() as u64,
            counted: texts as u64,
            log_probabilities: all,
        }
    }
}
