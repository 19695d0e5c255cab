//! Frozen matrices on a device, in the bits that they are kept in.

use burn::tensor::{DType, Tensor, TensorData};
use skep_accounts::{Account, MemoryCharge};
use skep_decoder::LinearWeights;
use skep_train::TrainError;
use skep_train::device::WeightsView;
use skep_train::nf4::Nf4Matrix;
use skep_weights::{PackedFormat, PackedTensor};

use crate::place::{On, Place};

/// A matrix `[rows, columns]`.
pub(crate) struct FrozenMatrix {
    pub rows: usize,
    pub columns: usize,
    weights: Kept,
    charge: Option<MemoryCharge>,
}

enum Kept {
    /// Floats, as burn has them.
    Floats(Tensor<2>),
    /// On the processor: a copy, expanded row by row.
    Nf4(Nf4Matrix),
    Blocks(PackedTensor),
    /// On a device that runs kernels of our own.
    #[cfg(any(feature = "cuda", feature = "wgsl"))]
    Words(crate::kernels::Words),
}

impl FrozenMatrix {
    /// Copies a matrix to the device, charged to `account` before it is.
    ///
    /// # Errors
    /// When the account has no room, or the matrix is of a format that no device expands: 4-bit
    /// groups (AWQ, GPTQ).
    pub fn upload(
        on: &On,
        weights: WeightsView<'_>,
        account: &Account,
    ) -> Result<Self, TrainError> {
        match weights {
            WeightsView::Nf4(matrix) => Self::upload_nf4(on, matrix, account),
            WeightsView::Stored(LinearWeights::Packed(tensor)) => {
                Self::upload_packed(on, tensor, account)
            }
            WeightsView::Stored(LinearWeights::Grouped(_)) => Err(TrainError::Setting {
                what: "the format of a frozen matrix",
                got: "4-bit groups".to_owned(),
                want: "NF4, blocks of GGUF or floats, for a training on a device",
            }),
        }
    }

    fn upload_nf4(on: &On, matrix: &Nf4Matrix, account: &Account) -> Result<Self, TrainError> {
        let (weights, charge) = match on.place {
            // The copy has a charge of its own.
            Place::Processor => (Kept::Nf4(matrix.copy(account)?), None),
            #[cfg(any(feature = "cuda", feature = "wgsl"))]
            _ => {
                let charge = account.charge_memory(crate::kernels::Words::nf4_bytes(matrix))?;
                let words = crate::kernels::Words::nf4(on, matrix)?;
                (Kept::Words(words), Some(charge))
            }
        };
        Ok(Self {
            rows: matrix.rows(),
            columns: matrix.columns(),
            weights,
            charge,
        })
    }

    fn upload_packed(
        on: &On,
        tensor: &PackedTensor,
        account: &Account,
    ) -> Result<Self, TrainError> {
        let (rows, columns) = (tensor.rows(), tensor.columns());
        // A word of zeros comes after the last.
        let charge = account.charge_memory(tensor.bytes().len() as u64 + 8)?;
        let dtype = match tensor.format() {
            PackedFormat::F32 => Some(DType::F32),
            // Not every device has burn's floats of 16 bits; kernels take them apart as words.
            PackedFormat::F16 if on.place == Place::Processor => Some(DType::F16),
            PackedFormat::BF16 if on.place == Place::Processor => Some(DType::BF16),
            _ => None,
        };
        let weights = match (dtype, on.place) {
            (Some(dtype), _) => {
                let data =
                    TensorData::from_bytes_vec(tensor.bytes().to_vec(), [rows, columns], dtype);
                Kept::Floats(Tensor::from_data(data, (&on.device, dtype)))
            }
            (None, Place::Processor) => {
                let bytes = tensor.bytes().to_vec();
                let copy = PackedTensor::from_bytes(tensor.format(), tensor.shape(), bytes);
                Kept::Blocks(copy.map_err(|error| TrainError::Setting {
                    what: "a frozen matrix",
                    got: error.to_string(),
                    want: "whole blocks",
                })?)
            }
            #[cfg(any(feature = "cuda", feature = "wgsl"))]
            (None, _) => Kept::Words(crate::kernels::Words::blocks(on, tensor)?),
        };
        Ok(Self {
            rows,
            columns,
            weights,
            charge: Some(charge),
        })
    }

    /// Its bytes on the device, as they are charged.
    pub fn bytes(&self) -> u64 {
        match &self.weights {
            Kept::Nf4(matrix) => matrix.bytes(),
            _ => self.charge.as_ref().map_or(0, MemoryCharge::bytes),
        }
    }

    /// The whole matrix as what products take, for as long as the product needs it.
    pub fn expand(&self, on: &On) -> Result<Tensor<2>, TrainError> {
        let columns = self.columns;
        match &self.weights {
            Kept::Floats(weights) => Ok(on.round(weights.clone())),
            Kept::Nf4(matrix) => {
                self.expand_rows(on, |row, out| matrix.dequantize(row, 0..columns, out))
            }
            Kept::Blocks(tensor) => self.expand_rows(on, |row, out| {
                let done = tensor.dequantize_row(row, out);
                done.map_err(|error| TrainError::Device {
                    reason: error.to_string(),
                })
            }),
            #[cfg(any(feature = "cuda", feature = "wgsl"))]
            Kept::Words(words) => Ok(words.expand(on, self.rows, columns)),
        }
    }

    /// The same, each row as `read` writes it.
    fn expand_rows(
        &self,
        on: &On,
        mut read: impl FnMut(usize, &mut [f32]) -> Result<(), TrainError>,
    ) -> Result<Tensor<2>, TrainError> {
        let mut values = vec![0.0; self.rows * self.columns];
        for (row, out) in values.chunks_exact_mut(self.columns).enumerate() {
            read(row, out)?;
        }
        Ok(on.round(on.floats(values, [self.rows, self.columns])))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::place::{Compute, widened};

    #[cfg(feature = "cuda")]
    const PLACE: Place = Place::Cuda(0);
    #[cfg(all(feature = "wgsl", not(feature = "cuda")))]
    const PLACE: Place = Place::Vulkan(None);
    #[cfg(not(any(feature = "cuda", feature = "wgsl")))]
    const PLACE: Place = Place::Processor;

    /// Each weight as it is expanded, against what the host makes of the same bytes.
    fn expands(view: WeightsView<'_>, rows: usize, columns: usize, want: &[f32], name: &str) {
        let account = Account::unlimited();
        let size = want.iter().fold(0.0_f32, |most, x| most.max(x.abs()));
        for (compute, bound) in [(Compute::F32, 1e-6), (Compute::Bf16, 1.0 / 256.0)] {
            if compute == Compute::Bf16 && cfg!(feature = "wgsl") {
                continue;
            }
            let on = On::open(PLACE, compute).unwrap();
            let matrix = FrozenMatrix::upload(&on, view, &account).unwrap();
            assert_eq!((matrix.rows, matrix.columns), (rows, columns));
            assert!(account.usage().device_bytes > 0);
            let got = widened(matrix.expand(&on).unwrap()).into_data();
            let got = got.try_into_vec::<f32>().unwrap();
            for (at, (got, want)) in got.iter().zip(want).enumerate() {
                let error = (got - want).abs();
                let most = bound * want.abs() + 1e-7 * size;
                assert!(error <= most, "{name} {compute:?}, {at}: {got} {want}");
            }
        }
        assert_eq!(account.usage().device_bytes, 0);
    }

    fn noise(count: usize) -> impl Iterator<Item = u8> {
        let mut state = 1_u64;
        std::iter::repeat_with(move || {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            (state >> 56) as u8
        })
        .take(count)
    }

    #[test]
    fn nf4_is_expanded_to_what_it_says() {
        // Rows that are whole blocks and others, blocks that are a whole piece of scales and not.
        for (rows, columns) in [(64, 512), (7, 38), (96, 192)] {
            let values: Vec<f32> = noise(rows * columns)
                .map(|x| f32::from(x) - 128.0)
                .collect();
            let account = Account::unlimited();
            let matrix = Nf4Matrix::quantize(rows, columns, &account, |row, out| {
                out.copy_from_slice(&values[row * columns..(row + 1) * columns]);
            });
            let matrix = matrix.unwrap();
            let mut want = vec![0.0; rows * columns];
            for (row, out) in want.chunks_exact_mut(columns).enumerate() {
                matrix.dequantize(row, 0..columns, out).unwrap();
            }
            expands(WeightsView::Nf4(&matrix), rows, columns, &want, "nf4");
        }
    }

    #[test]
    fn every_format_is_expanded_to_what_it_says() {
        let (rows, columns) = (6, 512);
        let shape = [rows as u64, columns as u64];
        for format in PackedFormat::ALL {
            let count = format.tensor_bytes(&shape).unwrap();
            // Bytes below 0x38 are small floats, wherever a format has its scales.
            let bytes = noise(count).map(|x| x % 0x38).collect();
            let tensor = PackedTensor::from_bytes(format, &shape, bytes).unwrap();
            let mut want = vec![0.0; rows * columns];
            tensor.dequantize(&mut want).unwrap();
            let weights = LinearWeights::Packed(tensor);
            let view = WeightsView::Stored(&weights);
            expands(view, rows, columns, &want, &format.to_string());
        }
    }
}
