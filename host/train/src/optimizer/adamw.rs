//! AdamW (arXiv 1412.6980 and 1711.05101), its moments in 32 or in 8 bits.

use skep_kernels::Team;

use super::{HyperParameters, OptimizerKind, PIECE, shared};
use crate::dynamic8::{BLOCK, SIGNED, UNSIGNED};

/// Both moments of every parameter.
#[derive(Debug)]
pub(super) enum State {
    Full {
        first: Vec<f32>,
        second: Vec<f32>,
    },
    Bits8 {
        first: Vec<u8>,
        second: Vec<u8>,
        /// A scale a block of each.
        first_scales: Vec<f32>,
        second_scales: Vec<f32>,
    },
}

/// What of a step is the same for all parameters.
struct Step {
    keep: f32,
    betas: (f32, f32),
    /// The learning rate over what the first moment lacks in the first steps.
    size: f32,
    /// The root of what the second moment lacks.
    root: f32,
    epsilon: f32,
}

/// A power by squares: the system's `pow` may differ in its last bit from one system to another, and
/// nodes that make a step together have to come to the same bits.
fn power(base: f64, exponent: u64) -> f64 {
    let (mut square, mut rest, mut product) = (base, exponent, 1.0);
    while rest > 0 {
        if rest & 1 == 1 {
            product *= square;
        }
        square *= square;
        rest >>= 1;
    }
    product
}

impl Step {
    fn new(hyper: &HyperParameters, step: u64) -> Self {
        let lacks = |beta: f32| 1.0 - power(f64::from(beta), step);
        let rate = f64::from(hyper.learning_rate);
        Self {
            keep: (1.0 - rate * f64::from(hyper.weight_decay)) as f32,
            betas: hyper.betas,
            size: (rate / lacks(hyper.betas.0)) as f32,
            root: lacks(hyper.betas.1).sqrt() as f32,
            epsilon: hyper.epsilon,
        }
    }

    fn apply(&self, parameter: &mut f32, gradient: f32, first: &mut f32, second: &mut f32) {
        *first += (1.0 - self.betas.0) * (gradient - *first);
        *second = self.betas.1 * *second + (1.0 - self.betas.1) * gradient * gradient;
        let root = second.sqrt() / self.root + self.epsilon;
        *parameter = *parameter * self.keep - self.size * (*first / root);
    }

    /// The same to a block, each of whose moments are bytes and a scale.
    fn apply_block(
        &self,
        parameters: &mut [f32],
        gradients: &[f32],
        first: (&mut [u8], &mut f32),
        second: (&mut [u8], &mut f32),
    ) {
        let mut m = [0.0; BLOCK];
        let mut v = [0.0; BLOCK];
        let (m, v) = (&mut m[..gradients.len()], &mut v[..gradients.len()]);
        SIGNED.dequantize(first.0, *first.1, m);
        UNSIGNED.dequantize(second.0, *second.1, v);
        let moments = m.iter_mut().zip(v.iter_mut());
        let all = parameters.iter_mut().zip(gradients).zip(moments);
        for ((parameter, gradient), (first, second)) in all {
            self.apply(parameter, *gradient, first, second);
        }
        *first.1 = SIGNED.quantize(m, first.0);
        *second.1 = UNSIGNED.quantize(v, second.0);
    }
}

impl State {
    pub fn new(kind: OptimizerKind, parameters: usize) -> Self {
        let blocks = parameters.div_ceil(BLOCK);
        match kind {
            OptimizerKind::AdamW => State::Full {
                first: vec![0.0; parameters],
                second: vec![0.0; parameters],
            },
            OptimizerKind::AdamW8Bit => State::Bits8 {
                first: vec![0; parameters],
                second: vec![0; parameters],
                first_scales: vec![0.0; blocks],
                second_scales: vec![0.0; blocks],
            },
        }
    }

    pub fn bytes_of(kind: OptimizerKind, parameters: usize) -> u64 {
        let parameters = parameters as u64;
        match kind {
            OptimizerKind::AdamW => 8 * parameters,
            OptimizerKind::AdamW8Bit => 2 * parameters + 8 * parameters.div_ceil(BLOCK as u64),
        }
    }

    pub fn kind(&self) -> OptimizerKind {
        match self {
            State::Full { .. } => OptimizerKind::AdamW,
            State::Bits8 { .. } => OptimizerKind::AdamW8Bit,
        }
    }

    pub fn parameters(&self) -> usize {
        match self {
            State::Full { first, .. } => first.len(),
            State::Bits8 { first, .. } => first.len(),
        }
    }

    pub fn step(
        &mut self,
        team: Option<&Team>,
        hyper: &HyperParameters,
        number: u64,
        parameters: &mut [f32],
        gradients: &[f32],
    ) {
        let step = Step::new(hyper, number);
        let both = parameters.chunks_mut(PIECE).zip(gradients.chunks(PIECE));
        match self {
            State::Full { first, second } => {
                let moments = first.chunks_mut(PIECE).zip(second.chunks_mut(PIECE));
                let mut pieces: Vec<_> = both.zip(moments).collect();
                shared(
                    team,
                    &mut pieces,
                    |((parameters, gradients), (first, second))| {
                        let moments = first.iter_mut().zip(second.iter_mut());
                        let all = parameters.iter_mut().zip(gradients.iter()).zip(moments);
                        for ((parameter, gradient), (first, second)) in all {
                            step.apply(parameter, *gradient, first, second);
                        }
                    },
                );
            }
            State::Bits8 {
                first,
                second,
                first_scales,
                second_scales,
            } => {
                let scales = PIECE / BLOCK;
                let firsts = first.chunks_mut(PIECE).zip(first_scales.chunks_mut(scales));
                let seconds = second
                    .chunks_mut(PIECE)
                    .zip(second_scales.chunks_mut(scales));
                let mut pieces: Vec<_> = both.zip(firsts.zip(seconds)).collect();
                shared(
                    team,
                    &mut pieces,
                    |((parameters, gradients), (first, second))| {
                        let firsts = first.0.chunks_mut(BLOCK).zip(first.1.iter_mut());
                        let seconds = second.0.chunks_mut(BLOCK).zip(second.1.iter_mut());
                        let blocks = parameters.chunks_mut(BLOCK).zip(gradients.chunks(BLOCK));
                        for ((parameters, gradients), (first, second)) in
                            blocks.zip(firsts.zip(seconds))
                        {
                            step.apply_block(parameters, gradients, first, second);
                        }
                    },
                );
            }
        }
    }

    pub fn save(&self, to: &mut Vec<(&'static str, Vec<u8>)>) {
        let bytes = |values: &[f32]| values.iter().flat_map(|x| x.to_le_bytes()).collect();
        match self {
            State::Full { first, second } => {
                to.push(("first", bytes(first)));
                to.push(("second", bytes(second)));
            }
            State::Bits8 {
                first,
                second,
                first_scales,
                second_scales,
            } => {
                to.push(("first", first.clone()));
                to.push(("second", second.clone()));
                to.push(("first_scales", bytes(first_scales)));
                to.push(("second_scales", bytes(second_scales)));
            }
        }
    }

    pub fn restore<'a>(&mut self, read: impl Fn(&str) -> Option<&'a [u8]>) -> bool {
        let floats = |name: &str, to: &[f32]| -> Option<Vec<f32>> {
            let bytes = read(name).filter(|bytes| bytes.len() == 4 * to.len())?;
            let words = bytes.as_chunks::<4>().0.iter();
            Some(words.map(|word| f32::from_le_bytes(*word)).collect())
        };
        let codes = |name: &str, to: &[u8]| -> Option<Vec<u8>> {
            let bytes = read(name).filter(|bytes| bytes.len() == to.len())?;
            Some(bytes.to_vec())
        };
        let mut take = || -> Option<()> {
            *self = match self {
                State::Full { first, second } => State::Full {
                    first: floats("first", first)?,
                    second: floats("second", second)?,
                },
                State::Bits8 {
                    first,
                    second,
                    first_scales,
                    second_scales,
                } => State::Bits8 {
                    first: codes("first", first)?,
                    second: codes("second", second)?,
                    first_scales: floats("first_scales", first_scales)?,
                    second_scales: floats("second_scales", second_scales)?,
                },
            };
            Some(())
        };
        take().is_some()
    }
}
