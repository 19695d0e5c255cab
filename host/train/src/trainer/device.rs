//! Passes that a device computes: what is embedded before them, and the losses of what comes out.

use std::sync::Arc;

use crate::base::{DecoderBase, Network};
use crate::batch::{Example, Loss, Outcome, Packed};
use crate::device::{AdapterView, DeviceBatch, Head, PassDevice};
use crate::error::TrainError;
use crate::gemm::Workers;
use crate::loss::{of_pairs, of_token};
use crate::trainer::Trainer;

impl Trainer {
    /// Computes passes on this device from the next one on, in the precision of the device.
    /// Parameters, gradients and steps stay where they are, and so do samples.
    ///
    /// # Errors
    /// When the base is a sentence encoder, or the adapter drops inputs or learns magnitudes, which no
    /// device does.
    pub fn compute_on(&mut self, device: Arc<dyn PassDevice>) -> Result<(), TrainError> {
        if self.base.is_encoder() {
            return Err(TrainError::only_decoders());
        }
        if self.lora.dropout > 0.0 {
            return Err(TrainError::Setting {
                what: "the dropout",
                got: self.lora.dropout.to_string(),
                want: "0 for a training on a device, which drops no inputs",
            });
        }
        if self.lora.dora {
            return Err(TrainError::Setting {
                what: "what is learned",
                got: "magnitudes beside both matrices (DoRA)".to_owned(),
                want: "both matrices alone for a training on a device; the processor trains DoRA",
            });
        }
        self.device = Some(device);
        Ok(())
    }

    /// The device that computes passes, with the decoder that it computes.
    pub(super) fn device(&self) -> Option<(&dyn PassDevice, &DecoderBase)> {
        match (&self.device, &self.base.network) {
            (Some(device), Network::Decoder(decoder)) => Some((&**device, decoder)),
            _ => None,
        }
    }

    /// One pass on the device, with the adapter or without.
    pub(super) fn run_on(
        &self,
        (device, decoder): (&dyn PassDevice, &DecoderBase),
        packed: &Packed,
        adapted: bool,
        head: Head<'_>,
        gradients: Option<&mut [f32]>,
    ) -> Result<(), TrainError> {
        self.account.check()?;
        let embedded = self.embedded(decoder, packed)?;
        let batch = DeviceBatch {
            team: &self.team,
            embedded: &embedded,
            positions: &packed.positions,
            sequences: &packed.sequences,
            rows: &packed.rows,
            adapter: adapted.then(|| AdapterView {
                parameters: &self.parameters,
                layers: self.layout.layers(),
                rank: self.lora.rank,
                scale: self.lora.scale(),
            }),
        };
        device.run(&batch, head, gradients)
    }

    /// The loss of a batch by the device.
    pub(super) fn through_device(
        &self,
        on: (&dyn PassDevice, &DecoderBase),
        examples: &[Example],
        loss: Loss,
        divisor: f64,
        packed: &Packed,
        gradients: Option<&mut [f32]>,
    ) -> Result<Outcome, TrainError> {
        let learning = gradients.is_some();
        let mut outcome = None;
        match loss {
            Loss::Classification => {
                let workers = Workers {
                    simd: self.simd,
                    team: &self.team,
                };
                // The layer over the model is the last of the parameters.
                let start = self.layout.classifier.as_ref().map_or(0, |own| own.start);
                let (of_adapter, mut own) = match gradients {
                    Some(gradients) => {
                        let (adapter, own) = gradients.split_at_mut(start);
                        (Some(adapter), Some(own))
                    }
                    None => (None, None),
                };
                let mut head = |hidden: &[f32]| {
                    let mut dhidden = vec![0.0; hidden.len()];
                    let to = own.as_deref_mut().map(|own| (own, dhidden.as_mut_slice()));
                    let done = self.classes_loss(workers, examples, packed, hidden, divisor, to);
                    let back = learning && done.loss.is_finite();
                    outcome = Some(done);
                    back.then_some(dhidden)
                };
                self.run_on(on, packed, true, Head::States(&mut head), of_adapter)?;
            }
            _ => {
                let targets: Vec<u32> = packed.targets.iter().map(|target| target.token).collect();
                let mut slopes = |logs: &[f32]| {
                    let (done, slopes) = of_logs(examples, loss, packed, divisor, logs);
                    let back = learning && done.loss.is_finite();
                    outcome = Some(done);
                    back.then_some(slopes)
                };
                let head = Head::Tokens {
                    targets: &targets,
                    slopes: &mut slopes,
                };
                self.run_on(on, packed, true, head, gradients)?;
            }
        }
        outcome.ok_or(TrainError::Diverged { what: "the loss" })
    }
}

/// A loss over tokens, given the logarithm of each target's probability, and its derivative by each.
fn of_logs(
    examples: &[Example],
    loss: Loss,
    packed: &Packed,
    divisor: f64,
    logs: &[f32],
) -> (Outcome, Vec<f32>) {
    let mut all: Vec<Vec<f32>> = examples
        .iter()
        .map(|example| vec![0.0; example.tokens.len()])
        .collect();
    let mut sums = vec![0.0; examples.len()];
    for (target, log) in packed.targets.iter().zip(logs) {
        all[target.example][target.at] = *log;
        sums[target.example] += f64::from(*log) * f64::from(target.weight);
    }
    let both = packed.targets.iter().zip(logs);
    let (total, counted, slopes): (f64, usize, Vec<f32>) = match loss {
        Loss::Preference { beta } => {
            let (total, of_texts) = of_pairs(beta, examples, &sums);
            let slope = both.map(|(target, _)| of_texts[target.example] * target.weight);
            (total, examples.len() / 2, slope.collect())
        }
        _ => {
            let mut total = 0.0;
            let slope = both.map(|(target, log)| {
                let (own, slope) = of_token(loss, &examples[target.example], target, *log);
                total += own;
                slope
            });
            let slopes = slope.collect();
            (total, packed.targets.len(), slopes)
        }
    };
    let outcome = Outcome {
        loss: total / divisor,
        divisor,
        tokens: packed.tokens.len() as u64,
        counted: counted as u64,
        log_probabilities: all,
    };
    let divided = slopes.iter().map(|x| (f64::from(*x) / divisor) as f32);
    (outcome, divided.collect())
}
