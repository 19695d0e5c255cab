//! Linear layers over packed weights: what takes an input to several outputs.

use skep_kernels::linear::{Product, Weights, linear_many};
use skep_kernels::{Activations, PackedMatrix, Precision, ShapeError};
use skep_weights::{GroupInt4, PackedTensor};

use crate::host::Host;

/// A linear layer.
#[derive(Debug)]
pub struct Linear {
    /// `[outputs, inputs]`.
    pub weights: LinearWeights,
    /// `[outputs]`.
    pub bias: Option<Vec<f32>>,
}

/// The weights of a linear layer as they are stored.
#[derive(Debug)]
pub enum LinearWeights {
    /// Rows of blocks.
    Packed(PackedTensor),
    /// 4-bit groups, of AWQ or GPTQ.
    Grouped(GroupInt4),
}

impl Linear {
    /// The weights as kernels take them.
    pub fn matrix(&self) -> Result<Weights<'_>, ShapeError> {
        match &self.weights {
            LinearWeights::Packed(weights) => Ok(Weights::Packed(PackedMatrix::new(
                weights.format(),
                weights.rows(),
                weights.columns(),
                weights.bytes(),
            )?)),
            LinearWeights::Grouped(weights) => Ok(Weights::Grouped(weights)),
        }
    }

    /// Whether its weights are not quantized.
    pub fn is_of_floats(&self) -> bool {
        match &self.weights {
            LinearWeights::Packed(weights) => Precision::of(weights.format()) == Precision::F32,
            LinearWeights::Grouped(_) => false,
        }
    }

    /// Outputs.
    pub fn rows(&self) -> usize {
        match &self.weights {
            LinearWeights::Packed(weights) => weights.rows(),
            LinearWeights::Grouped(weights) => weights.rows(),
        }
    }

    /// Inputs.
    pub fn columns(&self) -> usize {
        match &self.weights {
            LinearWeights::Packed(weights) => weights.columns(),
            LinearWeights::Grouped(weights) => weights.columns(),
        }
    }

    /// Writes a row of the weights to `out`: false if there is no such row, or it is of another
    /// length.
    pub fn row(&self, index: usize, out: &mut [f32]) -> bool {
        match &self.weights {
            LinearWeights::Packed(weights) => weights.dequantize_row(index, out).is_ok(),
            LinearWeights::Grouped(weights) => {
                weights.dequantize_row(index, out);
                index < weights.rows() && out.len() == weights.columns()
            }
        }
    }
}

/// Applies each layer to `input`, `[tokens, inputs]`. Layers that take the input in the same
/// precision and order are computed together. `next` is what will be applied after them.
pub fn project(
    &Host { isa, team, rounds }: &Host<'_>,
    input: &[f32],
    activations: &mut Activations,
    layers: &mut [(&Linear, &mut Vec<f32>)],
    next: &[&Linear],
) -> Result<(), ShapeError> {
    let mut done = vec![false; layers.len()];
    let next_weights = next.iter().map(|layer| layer.matrix());
    let next_weights: Vec<_> = next_weights.collect::<Result<_, _>>()?;
    while let Some(next) = done.iter().position(|done| !done) {
        let first = layers[next].0.matrix()?;
        let precision = first.precision();
        match first.order() {
            None if rounds && precision == Precision::F32 => {
                activations.fill_rounded(isa, team, input, first.columns())?;
            }
            None => activations.fill(isa, team, precision, input, first.columns())?,
            Some(order) => activations.fill_in_order(isa, team, precision, input, order)?,
        }
        let tokens = activations.tokens();
        let mut products = Vec::with_capacity(layers.len());
        for ((layer, out), done) in layers.iter_mut().zip(&mut done) {
            let weights = layer.matrix()?;
            let same = weights.precision() == precision && weights.order() == first.order();
            if !*done && same {
                *done = true;
                out.resize(tokens * weights.rows(), 0.0);
                products.push(Product { weights, out });
            }
        }
        linear_many(isa, team, &mut products, activations, &next_weights)?;
    }
    for (layer, out) in layers {
        if let Some(bias) = &layer.bias {
            for row in out.chunks_exact_mut(bias.len().max(1)) {
                for (x, bias) in row.iter_mut().zip(bias) {
                    *x += bias;
                }
            }
        }
    }
    Ok(())
}
