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

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::path::{Path, PathBuf};
    use std::sync::Arc;

    use skep_decoder::Decoder;
    use skep_kernels::Team;
    use skep_model::{Encoder, EncoderOptions, Precision};
    use skep_tensor::Device;

    use super::*;
    use crate::base::Base;
    use crate::gemm::Simd;
    use crate::lora::{LoraConfig, Targets};
    use crate::random::test_values;
    use crate::testing::check_gradients;
    use crate::trainer::TrainerOptions;

    const CLASSES: usize = 5;

    fn file(name: &str) -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join(name)
    }

    /// A training of the layer alone.
    fn open(base: Base) -> Trainer {
        let lora = LoraConfig {
            targets: Targets::Named(Vec::new()),
            ..LoraConfig::default()
        };
        let options = TrainerOptions {
            threads: 1,
            classes: Some(CLASSES),
            ..TrainerOptions::default()
        };
        Trainer::open(Arc::new(base), lora, &options).unwrap()
    }

    /// Over a decoder, where it has no bias, and over an encoder, where it has one.
    #[test]
    fn gradients_of_classes_are_those_of_differences() {
        let decoder = Decoder::load(&file("../decoder/tests/models/llama")).unwrap();
        let mut options = EncoderOptions::default();
        options.precision = Some(Precision::F32);
        let model = file("tests/training/bert/model");
        let encoder = Encoder::load_with(&model, &Device::cpu(), options).unwrap();
        let team = Team::new(2).unwrap();
        for (base, biases) in [
            (Base::stored(Arc::new(decoder)), 0),
            (Base::encoder(&encoder).unwrap(), CLASSES),
        ] {
            let width = base.shape.width;
            let trainer = open(base);
            assert_eq!(trainer.parameters.len(), CLASSES * width + biases);
            let texts: Vec<Example> = [3, 0, 4]
                .into_iter()
                .map(|label| Example {
                    tokens: vec![5, 6],
                    label: Some(label),
                    ..Example::default()
                })
                .collect();
            let classes = Some(CLASSES);
            let packed = Packed::new(&texts, Loss::Classification, classes, &trainer.base);
            let packed = packed.unwrap();
            // Not the number of texts, so that it is seen to count.
            let divisor = 2.0;
            let inputs = vec![
                test_values(trainer.parameters.len(), 1),
                test_values(texts.len() * width, 2),
            ];
            let trainer = RefCell::new(trainer);
            for simd in Simd::available() {
                let workers = Workers { simd, team: &team };
                let run = |values: &[Vec<f32>], to: Option<(&mut [f32], &mut [f32])>| -> Outcome {
                    let mut trainer = trainer.borrow_mut();
                    trainer.parameters.copy_from_slice(&values[0]);
                    trainer.classes_loss(workers, &texts, &packed, &values[1], divisor, to)
                };
                check_gradients(
                    inputs.clone(),
                    |values| vec![run(values, None).loss as f32],
                    |values, dy| {
                        // Those of batches before stay.
                        let mut own = vec![1.0; values[0].len()];
                        let mut dhidden = vec![0.0; values[1].len()];
                        run(values, Some((own.as_mut_slice(), dhidden.as_mut_slice())));
                        let own = own.iter().map(|x| (x - 1.0) * dy[0]).collect();
                        let of_hidden = dhidden.iter().map(|x| x * dy[0]).collect();
                        vec![own, of_hidden]
                    },
                );
            }
        }
    }
}
