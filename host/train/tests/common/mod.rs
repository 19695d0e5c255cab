//! What the tests of trainings share.
#![allow(dead_code, reason = "each test takes a part of it")]

pub mod gguf;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use safetensors::SafeTensors;
use safetensors::tensor::{Dtype, TensorView};
use skep_decoder::{AdapterTarget, AdapterWeights, Batch, Decoder, Part, Workspace};
use skep_kernels::Team;
use skep_kernels::kv::{KvFormat, KvPages};
use skep_train::{
    Base, Divisor, Example, HyperParameters, LoraConfig, Loss, Targets, Trainer, TrainerOptions,
};
use skep_weights::WeightsFile;

pub fn here(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("tests/training")
        .join(name)
}

pub fn model_folder(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("../decoder/tests/models")
        .join(name)
}

pub fn base(name: &str) -> Arc<Base> {
    let decoder = Decoder::load(&model_folder(name)).unwrap();
    Arc::new(Base::stored(Arc::new(decoder)))
}

pub fn options() -> TrainerOptions {
    TrainerOptions {
        threads: 2,
        ..TrainerOptions::default()
    }
}

/// That of the reference's adapters.
pub fn seed_lora() -> LoraConfig {
    LoraConfig {
        rank: 4,
        alpha: 6.0,
        targets: Targets::AllLinear,
        ..LoraConfig::default()
    }
}

/// A file of the reference.
pub struct Reference(Vec<u8>);

impl Reference {
    pub fn open(name: &str) -> Self {
        Self(std::fs::read(here(name)).unwrap())
    }

    fn words(&self, name: &str) -> Vec<[u8; 4]> {
        let tensors = SafeTensors::deserialize(&self.0).unwrap();
        let tensor = tensors.tensor(name).unwrap();
        tensor.data().as_chunks::<4>().0.to_vec()
    }

    pub fn floats(&self, name: &str) -> Vec<f32> {
        self.words(name)
            .into_iter()
            .map(f32::from_le_bytes)
            .collect()
    }

    pub fn integers(&self, name: &str) -> Vec<u32> {
        self.words(name)
            .into_iter()
            .map(u32::from_le_bytes)
            .collect()
    }
}

/// The texts of a reference.
pub fn examples(reference: &Reference) -> Vec<Example> {
    let (tokens, weights) = (reference.integers("tokens"), reference.floats("weights"));
    let mut start = 0;
    let lengths = reference.integers("lengths").into_iter();
    lengths
        .map(|length| {
            let range = start..start + length as usize;
            start = range.end;
            Example {
                tokens: tokens[range.clone()].to_vec(),
                weights: weights[range].to_vec(),
                ..Example::default()
            }
        })
        .collect()
}

/// The texts of a reference with their labels.
pub fn labelled(reference: &Reference) -> Vec<Example> {
    let mut texts = examples(reference);
    for (text, label) in texts.iter_mut().zip(reference.integers("labels")) {
        text.label = Some(label);
    }
    texts
}

/// A step of the size of the reference's.
pub fn step(trainer: &mut Trainer) {
    let hyper = HyperParameters {
        learning_rate: 5e-3,
        weight_decay: 0.01,
        ..HyperParameters::default()
    };
    trainer.optim_step(&hyper).unwrap();
}

/// Learns in 50 steps, each from a pair of eight texts, and holds each loss against the named
/// reference's; returns by what part of it each is off. `look` sees the gradients of the first pair.
pub fn fifty_steps(
    trainer: &mut Trainer,
    texts: &[Example],
    loss: Loss,
    name: &str,
    look: impl Fn(&Trainer, &Reference),
) -> Vec<f64> {
    let reference = Reference::open(&format!("{name}/reference.safetensors"));
    let losses = reference.floats("losses");
    assert_eq!(losses.len(), 50);
    let mut errors = Vec::new();
    for (number, want) in losses.into_iter().enumerate() {
        let pair = [2 * number % 8, (2 * number + 1) % 8].map(|n| texts[n].clone());
        let done = trainer.forward_backward(&pair, loss, Divisor::Own);
        let got = done.unwrap().loss;
        let error = (got / f64::from(want) - 1.0).abs();
        assert!(
            error < 1e-3,
            "{name}, step {number}: {got} instead of {want}"
        );
        if number == 0 {
            look(trainer, &reference);
        }
        errors.push(error);
        step(trainer);
    }
    let worst = errors.iter().copied().fold(0.0, f64::max);
    println!("{name}: losses of 50 steps within {worst:.1e} of PEFT's");
    errors
}

/// The logarithms of the probabilities of a text's tokens by the decoder with an adapter, the
/// first token's 0.
pub fn decoder_log_probabilities(adapter: &Path, tokens: &[u32]) -> Vec<f32> {
    let decoder = Decoder::load(&model_folder("llama")).unwrap();
    let mut pages = KvPages::new(decoder.kv_shape(KvFormat::F32), 200);
    let page_bytes = pages.memory().page_bytes();
    let weights = AdapterWeights::load(adapter, &decoder, "tiny", page_bytes).unwrap();
    let own = (100..100 + weights.adapter().pages() as u32).collect();
    let paged = weights.place(pages.memory_mut(), own).unwrap();
    let table: Vec<u32> = (0..20).collect();
    let part = Part {
        tokens: tokens.len(),
        start: 0,
        pages: &table,
        adapter: Some(&paged),
    };
    let outputs: Vec<usize> = (0..tokens.len() - 1).collect();
    let batch = Batch {
        tokens,
        parts: &[part],
        outputs: &outputs,
    };
    let team = Team::new(1).unwrap();
    let mut workspace = Workspace::default();
    let logits = decoder
        .forward(&team, &mut workspace, &mut pages, &batch)
        .unwrap();
    let rows = logits.chunks_exact(decoder.config().vocabulary);
    let logs = rows.zip(&tokens[1..]).map(|(row, token)| {
        let sum: f64 = row.iter().map(|x| f64::from(*x).exp()).sum();
        (f64::from(row[*token as usize]) - sum.ln()) as f32
    });
    std::iter::once(0.0).chain(logs).collect()
}

fn linears(layers: usize) -> impl Iterator<Item = (usize, AdapterTarget)> {
    let all = move |layer| AdapterTarget::ALL.map(|target| (layer, target));
    (0..layers).flat_map(all)
}

/// Writes the model with the base's linear layers as what they are dequantized to.
pub fn write_dequantized(base: &Base, model: &str, to: &Path) {
    let from = model_folder(model);
    std::fs::copy(from.join("config.json"), to.join("config.json")).unwrap();
    let file = WeightsFile::open(&from).unwrap();
    let mut tensors = Vec::new();
    for name in file.names() {
        let tensor = file.tensor(name).unwrap();
        let mut values = vec![0.0; tensor.rows() * tensor.columns()];
        tensor.dequantize(&mut values).unwrap();
        for (layer, target) in linears(base.layers()) {
            if name == format!("model.layers.{layer}.{}.weight", target.name()) {
                let columns = tensor.columns();
                for (row, out) in values.chunks_exact_mut(columns).enumerate() {
                    base.read_row(layer, target, row, out).unwrap();
                }
            }
        }
        let shape: Vec<usize> = tensor.shape().iter().map(|side| *side as usize).collect();
        let bytes: Vec<u8> = values.iter().flat_map(|x| x.to_le_bytes()).collect();
        tensors.push((name.to_owned(), shape, bytes));
    }
    let views = tensors.iter().map(|(name, shape, bytes)| {
        let view = TensorView::new(Dtype::F32, shape.clone(), bytes);
        (name, view.unwrap())
    });
    std::fs::write(
        to.join("model.safetensors"),
        safetensors::serialize(views, None).unwrap(),
    )
    .unwrap();
}

/// The largest difference, over the largest magnitude of what is wanted.
pub fn relative(got: &[f32], want: &[f32]) -> f32 {
    assert_eq!(got.len(), want.len());
    let size = want.iter().fold(0.0_f32, |most, x| most.max(x.abs()));
    let pairs = got.iter().zip(want);
    pairs.fold(0.0_f32, |most, (a, b)| most.max((a - b).abs())) / size
}

/// Holds every gradient against the reference's, matrix by matrix.
pub fn gradients_agree(trainer: &Trainer, reference: &Reference, name: &str) {
    let mut worst = 0.0_f32;
    for (tensor, _, place) in trainer.tensors() {
        let got = &trainer.gradients()[place];
        let want = reference.floats(&format!("gradient.{tensor}"));
        let error = relative(got, &want);
        assert!(error < 1e-4, "{name}: {tensor}: {error}");
        worst = worst.max(error);
    }
    println!("{name}: gradients within {worst:.1e}");
}
