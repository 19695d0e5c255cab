//! Linear layers over packed weights: what takes an input to several outputs.

use skep_kernels::linear::{Product, linear_many};
use skep_kernels::{Activations, Isa, PackedMatrix, ShapeError, Team};
use skep_weights::PackedTensor;

/// A linear layer.
#[derive(Debug)]
pub struct Linear {
    /// `[outputs, inputs]`.
    pub weights: PackedTensor,
    /// `[outputs]`.
    pub bias: Option<Vec<f32>>,
}

impl Linear {
    fn matrix(&self) -> Result<PackedMatrix<'_>, ShapeError> {
        PackedMatrix::new(
            self.weights.format(),
            self.weights.rows(),
            self.weights.columns(),
            self.weights.bytes(),
        )
    }
}

/// Applies each layer to `input`, `[tokens, inputs]`. Layers that take the input in the same
/// precision are computed together.
pub fn project(
    isa: Isa,
    team: &Team,
    input: &[f32],
    activations: &mut Activations,
    layers: &mut [(&Linear, &mut Vec<f32>)],
) -> Result<(), ShapeError> {
    let mut done = vec![false; layers.len()];
    while let Some(next) = done.iter().position(|done| !done) {
        let first = layers[next].0.matrix()?;
        let precision = first.precision();
        activations.fill(isa, precision, input, first.columns())?;
        let tokens = activations.tokens();
        let mut products = Vec::with_capacity(layers.len());
        for ((layer, out), done) in layers.iter_mut().zip(&mut done) {
            let weights = layer.matrix()?;
            if !*done && weights.precision() == precision {
                *done = true;
                out.resize(tokens * weights.rows(), 0.0);
                products.push(Product { weights, out });
            }
        }
        linear_many(isa, team, &mut products, activations)?;
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
