//! Reads a PEFT folder for an encoder: the matrices that `skep-weights` found to be an adapter's of its
//! shapes, and the layer for classes.

use std::path::{Path, PathBuf};

use skep_tensor::QuotaError;
use skep_tensor::operators::{Isa, Linear, Precision};
use skep_weights::low_rank::PREFIX;
use skep_weights::{
    Changeable, LowRankError, LowRankPair, LowRankPairs, PackedTensor, PeftConfig, RawTensor,
    SafetensorsFolder,
};

use super::{AdapterError, BaseShape, EncoderAdapter, Gains, LowRank, Part};
use crate::encoder::Encoder;

/// Where layers are: the second where the encoder is a part of a model for some task.
const PLACES: [&str; 2] = ["encoder.layer.", "bert.encoder.layer."];
/// The layer over what is pooled.
const HEAD: &str = "score";
/// The largest rank of an adapter's matrices.
const LARGEST_RANK: usize = 1024;
/// The same beside magnitudes: for each of them a row of the base is changed by so many others whenever the
/// adapter is read, for a run or not.
const LARGEST_RANK_WITH_MAGNITUDES: usize = 256;
/// Rows of a changed matrix that are measured together.
const ROWS: usize = 4;
/// The most classes of a layer for classes.
const MOST_CLASSES: usize = 1 << 16;

pub(super) struct Reader<'a> {
    folder: &'a Path,
    file: PathBuf,
    encoder: &'a Encoder,
    shape: BaseShape,
    isa: Isa,
    /// Whether to go on, with operations that are to be paid for first.
    goes_on: &'a dyn Fn(u64) -> Result<(), QuotaError>,
}

/// The layer for classes, as far as it has been found.
#[derive(Default)]
struct Head {
    weight: Option<PackedTensor>,
    bias: Option<PackedTensor>,
}

impl<'a> Reader<'a> {
    pub fn new(
        folder: &'a Path,
        encoder: &'a Encoder,
        goes_on: &'a dyn Fn(u64) -> Result<(), QuotaError>,
    ) -> Self {
        Self {
            folder,
            file: folder.join("adapter_model.safetensors"),
            encoder,
            shape: encoder.shape(),
            isa: encoder.isa(),
            goes_on,
        }
    }

    pub fn read(&self) -> Result<EncoderAdapter, AdapterError> {
        let peft = PeftConfig::read(self.folder)?;
        if let Some(other) = peft.saved.iter().find(|name| *name != HEAD) {
            return Err(self.unsupported(format!("the module {:?}, saved whole,", short(other))));
        }
        let tensors = SafetensorsFolder::open_file(&self.file)?;
        let parts = Part::ALL.map(|part| (part.name(), self.shape.matrix(part)));
        let mut found = LowRankPairs::new(
            &peft,
            Changeable {
                layers: self.shape.layers,
                places: &PLACES,
                parts: &parts,
                largest_rank: LARGEST_RANK,
            },
        );
        let mut head = Head::default();
        for (name, tensor) in tensors.tensors() {
            if !self.take_head(&mut head, name, tensor)? {
                let taken = found.take(name, tensor);
                taken.map_err(|error| self.refused(&peft, error))?;
            }
        }
        if head.weight.is_some() == peft.saved.is_empty() {
            let reason = match peft.saved.is_empty() {
                true => format!("{HEAD:?} is in it, which its configuration does not name"),
                false => format!("its configuration names {HEAD:?}, which is not in it"),
            };
            return Err(self.malformed(reason));
        }
        if head.weight.is_none() && (found.is_empty() || head.bias.is_some()) {
            return Err(self.malformed("it has no matrices".to_owned()));
        }
        let mut layers = Vec::new();
        layers.resize_with(self.shape.layers, || [const { None }; Part::ALL.len()]);
        let mut rank = 0;
        let pairs = found.finish().map_err(|error| self.refused(&peft, error))?;
        let measuring = self.measuring_flops(&pairs)?;
        if measuring > 0 {
            (self.goes_on)(measuring)?;
        }
        for pair in pairs {
            (self.goes_on)(0)?;
            rank = rank.max(pair.rank);
            layers[pair.layer][pair.part] = Some(self.pair(&pair)?);
        }
        let weight = head.weight.as_ref();
        let head = weight.map(|weight| self.head(weight, head.bias.as_ref(), &peft));
        Ok(EncoderAdapter {
            isa: self.isa,
            shape: self.shape,
            layers,
            head: head.transpose()?,
            rank,
            named_base: peft.named_base,
        })
    }

    /// Whether a tensor is of the layer for classes.
    fn take_head(
        &self,
        head: &mut Head,
        name: &str,
        tensor: &RawTensor,
    ) -> Result<bool, AdapterError> {
        let place = match name.strip_prefix(PREFIX) {
            Some("score.weight") => &mut head.weight,
            Some("score.bias") => &mut head.bias,
            Some("classifier.weight" | "classifier.bias") => {
                return Err(self.unsupported(
                    "a layer \"classifier\", which stands over BERT's pooler and not over what is \
                     pooled here,"
                        .to_owned(),
                ));
            }
            _ => return Ok(false),
        };
        let packed = tensor.packed();
        *place = Some(packed.ok_or_else(|| self.malformed(format!("{name:?} is not of floats")))?);
        Ok(true)
    }

    /// Operations of measuring the rows of what these pairs change: each element of a row of the base is added to
    /// `rank` times, and squared.
    fn measuring_flops(&self, pairs: &[LowRankPair]) -> Result<u64, AdapterError> {
        let mut products = 0;
        for pair in pairs.iter().filter(|pair| pair.magnitude.is_some()) {
            if pair.rank > LARGEST_RANK_WITH_MAGNITUDES {
                return Err(self.unsupported(format!(
                    "magnitudes (DoRA) beside matrices of rank {}, where {LARGEST_RANK_WITH_MAGNITUDES} is the most,",
                    pair.rank
                )));
            }
            let [outputs, inputs] = self.shape.matrix(Part::ALL[pair.part]);
            products += inputs as u64 * outputs as u64 * (pair.rank as u64 + 1);
        }
        Ok(2 * products)
    }

    fn pair(&self, pair: &LowRankPair) -> Result<LowRank, AdapterError> {
        let [outputs, _] = self.shape.matrix(Part::ALL[pair.part]);
        let a = self.values(&pair.a, &pair.tensor("lora_A"), 1.0)?;
        let b = self.values(&pair.b, &pair.tensor("lora_B"), pair.scale)?;
        let magnitude = pair.magnitude.as_ref();
        let gains = magnitude.map(|magnitude| self.gains(pair, magnitude, (&a[..], &b[..])));
        Ok(LowRank {
            inside: self.packed(&a, &vec![0.0; pair.rank])?,
            outside: self.packed(&b, &vec![0.0; outputs])?,
            gains: gains.transpose()?,
        })
    }

    /// Gains of a pair, whose matrices are `a`, `[rank, inputs]`, and `b`, `[outputs, rank]` with the scale
    /// in it. A row of the changed matrix that has no length has no direction either; its gain is 0,
    /// because its products are.
    fn gains(
        &self,
        pair: &LowRankPair,
        magnitude: &PackedTensor,
        (a, b): (&[f32], &[f32]),
    ) -> Result<Gains, AdapterError> {
        let part = Part::ALL[pair.part];
        let [outputs, inputs] = self.shape.matrix(part);
        let name = pair.magnitude_tensor();
        let lengths = self.values(magnitude, &name, 1.0)?;
        let (weights, bias) = self.encoder.stored((pair.layer, part))?;
        let mut gains = Gains {
            factors: Vec::with_capacity(outputs),
            added: Vec::with_capacity(outputs),
        };
        let mut rows = vec![0.0_f32; ROWS * inputs];
        let wanted: Vec<(f32, f32)> = lengths.into_iter().zip(bias).collect();
        // Some rows at once, so that `a` is read once for all of them.
        for (first, wanted) in (0..).step_by(ROWS).zip(wanted.chunks(ROWS)) {
            (self.goes_on)(0)?;
            let rows = &mut rows[..wanted.len() * inputs];
            for (number, row) in (first..).zip(rows.chunks_exact_mut(inputs)) {
                weights.row(number, row);
            }
            for (place, a) in a.chunks_exact(inputs).enumerate() {
                for (number, row) in (first..).zip(rows.chunks_exact_mut(inputs)) {
                    let factor = b[number * pair.rank + place];
                    for (to, a) in row.iter_mut().zip(a) {
                        *to += factor * a;
                    }
                }
            }
            for ((wanted, bias), row) in wanted.iter().zip(rows.chunks_exact(inputs)) {
                let squares: f64 = row.iter().map(|x| f64::from(*x) * f64::from(*x)).sum();
                let gain = match squares.sqrt() {
                    length if !length.is_finite() => f64::NAN,
                    0.0 => 0.0,
                    length => f64::from(*wanted) / length,
                };
                gains.factors.push(gain as f32);
                gains.added.push((f64::from(*bias) * (1.0 - gain)) as f32);
            }
        }
        if gains
            .factors
            .iter()
            .chain(&gains.added)
            .all(|x| x.is_finite())
        {
            return Ok(gains);
        }
        Err(AdapterError::NotFinite {
            path: self.file.clone(),
            tensor: name,
        })
    }

    fn head(
        &self,
        weight: &PackedTensor,
        bias: Option<&PackedTensor>,
        peft: &PeftConfig,
    ) -> Result<Linear, AdapterError> {
        let name = format!("{PREFIX}{HEAD}.weight");
        let &[classes, width] = weight.shape() else {
            return Err(self.malformed(format!("{name:?} is no matrix")));
        };
        if width != self.shape.width as u64 {
            let reason = format!(
                "{name:?} is [{classes}, {width}], and the encoder's texts have {}",
                self.shape.width
            );
            return Err(self.wrong_base(peft, reason));
        }
        let classes = usize::try_from(classes).unwrap_or(usize::MAX);
        if !(1..=MOST_CLASSES).contains(&classes) {
            return Err(self.unsupported(format!("a layer of {classes} classes")));
        }
        let mut added = vec![0.0; classes];
        if let Some(bias) = bias {
            let name = format!("{PREFIX}{HEAD}.bias");
            if bias.shape() != [classes as u64] {
                let got = bias.shape();
                return Err(self.malformed(format!("{name:?} is {got:?}, not [{classes}]")));
            }
            added = self.values(bias, &name, 1.0)?;
        }
        self.packed(&self.values(weight, &name, 1.0)?, &added)
    }

    /// A matrix of as many rows as the bias has elements, ready to be multiplied with.
    fn packed(&self, values: &[f32], bias: &[f32]) -> Result<Linear, AdapterError> {
        let rows = bias.len();
        let columns = values.len() / rows.max(1);
        let row = |j: usize, to: &mut [f32]| {
            to.copy_from_slice(&values[j * columns..(j + 1) * columns]);
        };
        Ok(Linear::pack(
            self.isa,
            Precision::F32,
            columns,
            rows,
            bias,
            row,
        )?)
    }

    /// The elements of a tensor times the scale.
    fn values(
        &self,
        tensor: &PackedTensor,
        name: &str,
        scale: f64,
    ) -> Result<Vec<f32>, AdapterError> {
        let mut values = vec![0.0; tensor.rows() * tensor.columns()];
        let read = tensor.dequantize(&mut values);
        for value in &mut values {
            *value = (f64::from(*value) * scale) as f32;
        }
        if read.is_err() || values.iter().any(|x| !x.is_finite()) {
            return Err(AdapterError::NotFinite {
                path: self.file.clone(),
                tensor: name.to_owned(),
            });
        }
        Ok(values)
    }

    fn malformed(&self, reason: String) -> AdapterError {
        AdapterError::Malformed {
            path: self.file.clone(),
            reason,
        }
    }

    fn unsupported(&self, what: String) -> AdapterError {
        AdapterError::Unsupported {
            path: self.file.clone(),
            what,
        }
    }

    fn wrong_base(&self, peft: &PeftConfig, reason: String) -> AdapterError {
        AdapterError::WrongBase {
            path: self.folder.to_owned(),
            named: peft.base_in_words(),
            reason,
        }
    }

    fn refused(&self, peft: &PeftConfig, error: LowRankError) -> AdapterError {
        match error {
            LowRankError::Malformed(reason) => self.malformed(reason),
            LowRankError::Unsupported(what) => self.unsupported(what),
            LowRankError::WrongBase(reason) => self.wrong_base(peft, reason),
        }
    }
}

/// As much of what a file says as an error should repeat.
fn short(text: &str) -> String {
    text.chars().take(200).collect()
}
