//! Reads a PEFT folder for a base: the matrices that `skep-weights` found to be an adapter's of its shapes,
//! laid out in pages.

use std::cell::Cell;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use skep_accounts::QuotaError;
use skep_kernels::PageMemory;
use skep_kernels::lora::{Factor, LARGEST_RANK, LowRankLayout, LowRankShape, Magnitudes};
use skep_kernels::rows::RopeLayout;
use skep_weights::{
    Changeable, LowRankError, LowRankPair, LowRankPairs, PackedTensor, PeftConfig,
    SafetensorsFolder,
};

use super::{Adapter, AdapterError, AdapterTarget, AdapterWeights, BaseShape};
use crate::model::Decoder;

/// Where layers are: the last two in multimodal models.
const PLACES: [&str; 3] = [
    "model.layers.",
    "model.language_model.layers.",
    "language_model.model.layers.",
];
/// The largest magnitude of a stored element lies below two to this power.
const TOP: i32 = 15;

pub(super) struct Reader<'a> {
    folder: &'a Path,
    file: PathBuf,
    decoder: &'a Decoder,
    base: BaseShape,
    base_name: &'a str,
    page_bytes: usize,
    /// Whether to go on, with operations that are to be paid for first.
    goes_on: &'a dyn Fn(u64) -> Result<(), QuotaError>,
}

impl<'a> Reader<'a> {
    pub fn new(
        folder: &'a Path,
        (decoder, base_name): (&'a Decoder, &'a str),
        page_bytes: usize,
        goes_on: &'a dyn Fn(u64) -> Result<(), QuotaError>,
    ) -> Self {
        Self {
            folder,
            file: folder.join("adapter_model.safetensors"),
            decoder,
            base: BaseShape::of(decoder.config()),
            base_name,
            page_bytes,
            goes_on,
        }
    }

    pub fn read(&self) -> Result<AdapterWeights, AdapterError> {
        let peft = PeftConfig::read(self.folder)?;
        if !peft.saved.is_empty() {
            let path = self.folder.join("adapter_config.json");
            let what = "\"modules_to_save\"".to_owned();
            return Err(AdapterError::Unsupported { path, what });
        }
        let tensors = SafetensorsFolder::open_file(&self.file)?;
        let pairs = self.pairs(&tensors, &peft)?;
        let shapes: Vec<_> = pairs.iter().map(|pair| self.shape(pair)).collect();
        let layout = match peft.magnitudes() {
            true => LowRankLayout::with_gains(self.page_bytes, &shapes)?,
            false => LowRankLayout::new(self.page_bytes, &shapes)?,
        };
        let measuring_flops = self.measuring_flops(&pairs);
        if measuring_flops > 0 {
            (self.goes_on)(measuring_flops)?;
        }
        let mut memory = PageMemory::new(self.page_bytes, layout.pages());
        let mut places = vec![[None; AdapterTarget::ALL.len()]; self.base.layers];
        for (number, pair) in pairs.iter().enumerate() {
            (self.goes_on)(0)?;
            let scale = self.write(&layout, &mut memory, number, pair)?;
            places[pair.layer][pair.part] = Some((number, scale));
        }
        Ok(AdapterWeights {
            adapter: Arc::new(Adapter {
                base: self.base,
                named_base: peft.named_base,
                rank: shapes.iter().map(|shape| shape.rank).max().unwrap_or(0),
                layout,
                pairs: places,
                measuring_flops,
            }),
            memory,
        })
    }

    /// The matrices by layer and target, in the order in which layers use them.
    fn pairs(
        &self,
        tensors: &SafetensorsFolder,
        peft: &PeftConfig,
    ) -> Result<Vec<LowRankPair>, AdapterError> {
        let parts = AdapterTarget::ALL.map(|target| (target.name(), self.base.matrix(target)));
        let mut found = LowRankPairs::new(
            peft,
            Changeable {
                layers: self.base.layers,
                places: &PLACES,
                parts: &parts,
                largest_rank: LARGEST_RANK,
            },
        );
        for (name, tensor) in tensors.tensors() {
            found
                .take(name, tensor)
                .map_err(|error| self.refused(peft, error))?;
        }
        if found.is_empty() {
            let reason = "it has no tensors".to_owned();
            return Err(self.refused(peft, LowRankError::Malformed(reason)));
        }
        found.finish().map_err(|error| self.refused(peft, error))
    }

    fn shape(&self, pair: &LowRankPair) -> LowRankShape {
        let [outputs, inputs] = self.base.matrix(AdapterTarget::ALL[pair.part]);
        LowRankShape {
            inputs,
            outputs,
            rank: pair.rank,
        }
    }

    /// Operations of measuring the rows of what these pairs change: each element of a row of the base is added to
    /// `rank` times, and squared.
    fn measuring_flops(&self, pairs: &[LowRankPair]) -> u64 {
        let measured = pairs.iter().filter(|pair| pair.magnitude.is_some());
        let products = measured.map(|pair| {
            let LowRankShape {
                inputs,
                outputs,
                rank,
            } = self.shape(pair);
            inputs as u64 * outputs as u64 * (rank as u64 + 1)
        });
        2 * products.sum::<u64>()
    }

    /// Writes a pair to its place and returns what its product is multiplied with.
    fn write(
        &self,
        layout: &LowRankLayout,
        memory: &mut PageMemory,
        number: usize,
        pair: &LowRankPair,
    ) -> Result<f32, AdapterError> {
        let LowRankShape {
            inputs,
            outputs,
            rank,
        } = self.shape(pair);
        let target = AdapterTarget::ALL[pair.part];
        let pages: Vec<u32> = (0..layout.pages() as u32).collect();
        let (a, grown_a) = self.values(&pair.a, pair.tensor("lora_A"))?;
        let (b, grown_b) = self.values(&pair.b, pair.tensor("lora_B"))?;
        for (row, values) in a.chunks_exact(inputs).enumerate() {
            layout.write(memory, &pages, number, Factor::A, row, values)?;
        }
        let mut column = vec![0.0; outputs];
        for row in 0..rank {
            for (output, to) in column.iter_mut().enumerate() {
                *to = b[self.output(target, output) * rank + row];
            }
            layout.write(memory, &pages, number, Factor::B, row, &column)?;
        }
        let scale = (pair.scale * 2.0_f64.powi(-grown_a - grown_b)) as f32;
        if !scale.is_finite() {
            return Err(AdapterError::NotFinite {
                path: self.file.clone(),
                tensor: pair.tensor("lora_B"),
            });
        }
        if let Some(magnitude) = &pair.magnitude {
            self.write_gains(layout, memory, (number, scale), (pair, magnitude))?;
        }
        Ok(scale)
    }

    /// Writes the gains of a pair whose matrices have been written.
    fn write_gains(
        &self,
        layout: &LowRankLayout,
        memory: &mut PageMemory,
        written: (usize, f32),
        (pair, magnitude): (&LowRankPair, &PackedTensor),
    ) -> Result<(), AdapterError> {
        let target = AdapterTarget::ALL[pair.part];
        let linear = self.decoder.layers()[pair.layer].linear(target);
        let not_finite = || AdapterError::NotFinite {
            path: self.file.clone(),
            tensor: pair.magnitude_tensor(),
        };
        let mut values = vec![0.0; magnitude.columns()];
        let read = magnitude.dequantize(&mut values);
        read.map_err(|_| not_finite())?;
        let outputs = 0..values.len();
        let lengths: Vec<f32> = outputs
            .map(|output| values[self.output(target, output)])
            .collect();
        let pages: Vec<u32> = (0..layout.pages() as u32).collect();
        let stopped = Cell::new(None);
        let magnitudes = Magnitudes {
            lengths: &lengths,
            bias: linear.bias.as_deref(),
            row: &|row, to| match (self.goes_on)(0) {
                Ok(()) => linear.row(row, to),
                Err(error) => {
                    stopped.set(Some(error));
                    false
                }
            },
        };
        let isa = self.decoder.isa();
        let finite = layout.write_gains(isa, memory, &pages, written, &magnitudes);
        if let Some(error) = stopped.get() {
            return Err(error.into());
        }
        match finite? {
            true => Ok(()),
            false => Err(not_finite()),
        }
    }

    /// A matrix's elements, times two to the power that is returned with them.
    fn values(&self, tensor: &PackedTensor, name: String) -> Result<(Vec<f32>, i32), AdapterError> {
        let mut values = vec![0.0; tensor.rows() * tensor.columns()];
        if tensor.check_finite().is_err() || tensor.dequantize(&mut values).is_err() {
            return Err(AdapterError::NotFinite {
                path: self.file.clone(),
                tensor: name,
            });
        }
        let most = values.iter().fold(0.0_f32, |most, x| most.max(x.abs()));
        if most == 0.0 {
            return Ok((values, 0));
        }
        // Both powers are ones that a 32-bit float has.
        let power = (TOP - 1 - libm::ilogbf(most)).clamp(-126, 126);
        let factor = 2.0_f32.powi(power);
        for value in &mut values {
            *value *= factor;
        }
        Ok((values, power))
    }

    /// Which of the adapter's outputs an output of the base's matrix is: where the base has the
    /// two parts of a rotary pair side by side, its queries and keys are in another order.
    fn output(&self, target: AdapterTarget, output: usize) -> usize {
        let turns = matches!(target, AdapterTarget::Query | AdapterTarget::Key);
        let config = self.decoder.config();
        if !turns || config.rope_layout == RopeLayout::Halves {
            return output;
        }
        let dim = config.head_dim;
        let (head, place) = (output / dim, output % dim);
        head * dim + place / 2 + place % 2 * (dim / 2)
    }

    fn refused(&self, peft: &PeftConfig, error: LowRankError) -> AdapterError {
        let path = self.file.clone();
        match error {
            LowRankError::Malformed(reason) => AdapterError::Malformed { path, reason },
            LowRankError::Unsupported(what) => AdapterError::Unsupported { path, what },
            LowRankError::WrongBase(reason) => AdapterError::WrongBase {
                path: self.folder.to_owned(),
                base: self.base_name.to_owned(),
                named: peft.base_in_words(),
                reason,
            },
        }
    }
}
