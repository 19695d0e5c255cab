//! Linear layers whose weights never change, as they are stored.

use std::ops::Range;
use std::sync::Arc;

use skep_decoder::{AdapterTarget, Decoder, LinearWeights};
use skep_weights::PackedFormat;
use skep_weights::format::dequantize;

use crate::gemm::{Lhs, Product, Rhs, RowSource, Workers, product};
use crate::nf4::Nf4Matrix;

/// Where a matrix lies in a decoder.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Place {
    Embedding,
    Head,
    Layer(usize, AdapterTarget),
}

/// A matrix `[outputs, inputs]`.
#[derive(Debug)]
pub(crate) enum Matrix {
    /// As the decoder has it.
    Stored(Arc<Decoder>, Place),
    /// Weights of their own.
    Own(LinearWeights),
    /// Rounded to NF4.
    Nf4(Nf4Matrix),
}

/// A linear layer.
#[derive(Debug)]
pub(crate) struct Frozen {
    pub matrix: Matrix,
    pub bias: Option<Vec<f32>>,
}

impl Matrix {
    pub fn source(&self) -> &dyn RowSource {
        match self {
            Matrix::Stored(decoder, place) => stored(decoder, *place),
            Matrix::Own(weights) => weights,
            Matrix::Nf4(matrix) => matrix,
        }
    }

    /// Bytes of weights.
    pub fn bytes(&self) -> u64 {
        let of = |weights: &LinearWeights| match weights {
            LinearWeights::Packed(weights) => weights.bytes().len() as u64,
            LinearWeights::Grouped(weights) => weights.bytes() as u64,
        };
        match self {
            Matrix::Stored(decoder, place) => of(stored(decoder, *place)),
            Matrix::Own(weights) => of(weights),
            Matrix::Nf4(matrix) => matrix.bytes(),
        }
    }

    /// Writes a row, scaled.
    pub fn row(&self, row: usize, scale: f32, out: &mut [f32]) {
        let source = self.source();
        source.read(row, 0..source.columns(), out);
        for x in out {
            *x *= scale;
        }
    }
}

pub(crate) fn stored(decoder: &Decoder, place: Place) -> &LinearWeights {
    let linear = match place {
        Place::Embedding => decoder.embedding(),
        Place::Head => decoder.head().unwrap_or(decoder.embedding()),
        Place::Layer(layer, target) => decoder.layers()[layer].linear(target),
    };
    &linear.weights
}

impl RowSource for LinearWeights {
    fn rows(&self) -> usize {
        match self {
            LinearWeights::Packed(weights) => weights.rows(),
            LinearWeights::Grouped(weights) => weights.rows(),
        }
    }

    fn columns(&self) -> usize {
        match self {
            LinearWeights::Packed(weights) => weights.columns(),
            LinearWeights::Grouped(weights) => weights.columns(),
        }
    }

    fn floats(&self) -> Option<&[f32]> {
        match self {
            LinearWeights::Packed(weights)
                if weights.format() == PackedFormat::F32 && cfg!(target_endian = "little") =>
            {
                bytemuck::try_cast_slice(weights.bytes()).ok()
            }
            _ => None,
        }
    }

    fn read(&self, row: usize, columns: Range<usize>, out: &mut [f32]) {
        match self {
            LinearWeights::Packed(weights) => {
                let format = weights.format();
                let at = |column: usize| column / format.block_len() * format.block_bytes();
                let row = weights.row(row).unwrap_or_default();
                let bytes = row
                    .get(at(columns.start)..at(columns.end))
                    .unwrap_or_default();
                // Ranges begin and end at blocks, so lengths fit; were they not to, the product
                // would be wrong for the reason that a test would show.
                let done = dequantize(format, bytes, out);
                debug_assert!(done.is_ok(), "{done:?}");
            }
            LinearWeights::Grouped(weights) => {
                // A row's columns lie in an order of their own, so it is unpacked as a whole.
                let mut whole = vec![0.0; weights.columns()];
                weights.dequantize_row(row, &mut whole);
                out.copy_from_slice(&whole[columns]);
            }
        }
    }
}

impl Frozen {
    pub fn outputs(&self) -> usize {
        self.matrix.source().rows()
    }

    pub fn inputs(&self) -> usize {
        self.matrix.source().columns()
    }

    /// `out[tokens, outputs] = x[tokens, inputs] · Wᵀ`.
    pub fn without_bias(&self, workers: Workers<'_>, x: &[f32], out: &mut [f32]) {
        let source = self.matrix.source();
        let (n, k) = (source.rows(), source.columns());
        let asked = Product {
            m: x.len() / k,
            n,
            k,
            a: Lhs::rows(x, k),
            b: Rhs::unpacked_columns(source),
            add: false,
        };
        product(workers, &asked, out);
    }

    /// `out[tokens, outputs] = x[tokens, inputs] · Wᵀ + b`.
    pub fn forward(&self, workers: Workers<'_>, x: &[f32], out: &mut [f32]) {
        self.without_bias(workers, x, out);
        if let Some(bias) = &self.bias {
            let n = bias.len();
            super::share_rows(workers.team, out, n, |_, rows| {
                for row in rows.chunks_exact_mut(n) {
                    for (x, bias) in row.iter_mut().zip(bias) {
                        *x += bias;
                    }
                }
            });
        }
    }

    /// `dx[tokens, inputs] (+)= dy[tokens, outputs] · W`.
    pub fn backward(&self, workers: Workers<'_>, dy: &[f32], dx: &mut [f32], add: bool) {
        let source = self.matrix.source();
        let (n, k) = (source.columns(), source.rows());
        let asked = Product {
            m: dy.len() / k,
            n,
            k,
            a: Lhs::rows(dy, k),
            b: Rhs::unpacked(source),
            add,
        };
        product(workers, &asked, dx);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gemm::Simd;
    use crate::random::test_values;
    use skep_accounts::Account;
    use skep_kernels::Team;
    use skep_weights::PackedTensor;

    /// Both products of every format against its dequantized weights in double precision.
    #[test]
    fn products_with_packed_weights_agree_in_both_directions() {
        let (outputs, inputs, tokens) = (70, 768, 5);
        let account = Account::unlimited();
        let values = test_values(outputs * inputs, 1);
        let nf4 = Nf4Matrix::quantize(outputs, inputs, &account, |row, out| {
            out.copy_from_slice(&values[row * inputs..(row + 1) * inputs]);
        });
        let mut all = vec![Matrix::Nf4(nf4.unwrap())];
        for format in PackedFormat::ALL {
            // Any bytes are weights, if their scales are no NaN: bytes below 0x38 are small floats.
            let count = format
                .tensor_bytes(&[outputs as u64, inputs as u64])
                .unwrap();
            let noise = test_values(count, 2);
            let bytes = noise.iter().map(|x| (x.abs() * 56.0) as u8).collect();
            let shape = [outputs as u64, inputs as u64];
            let tensor = PackedTensor::from_bytes(format, &shape, bytes).unwrap();
            all.push(Matrix::Own(LinearWeights::Packed(tensor)));
        }
        let (x, dy) = (
            test_values(tokens * inputs, 3),
            test_values(tokens * outputs, 4),
        );
        for matrix in all {
            let mut dense = vec![0.0; outputs * inputs];
            for (row, out) in dense.chunks_exact_mut(inputs).enumerate() {
                matrix.row(row, 1.0, out);
            }
            let size = dense.iter().fold(0.0_f32, |most, w| most.max(w.abs()));
            let frozen = Frozen {
                matrix,
                bias: Some(vec![0.25; outputs]),
            };
            for simd in Simd::available() {
                let team = Team::new(2).unwrap();
                let workers = Workers { simd, team: &team };
                let mut y = vec![0.0; tokens * outputs];
                frozen.forward(workers, &x, &mut y);
                let mut dx = vec![1.0; tokens * inputs];
                frozen.backward(workers, &dy, &mut dx, true);
                let bound = f64::from(size) * 1e-4 + 1e-6;
                for token in 0..tokens {
                    for row in 0..outputs {
                        let one = |k: usize| {
                            f64::from(x[token * inputs + k]) * f64::from(dense[row * inputs + k])
                        };
                        let want = (0..inputs).map(one).sum::<f64>() + 0.25;
                        let got = f64::from(y[token * outputs + row]);
                        assert!((got - want).abs() < bound, "{:?}", frozen.matrix);
                    }
                    for k in 0..inputs {
                        let one = |row: usize| {
                            f64::from(dy[token * outputs + row])
                                * f64::from(dense[row * inputs + k])
                        };
                        let want = (0..outputs).map(one).sum::<f64>() + 1.0;
                        let got = f64::from(dx[token * inputs + k]);
                        assert!((got - want).abs() < bound, "{:?}", frozen.matrix);
                    }
                }
            }
        }
    }
}
