//! Models and adapters that the tests of adapters run.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use safetensors::{Dtype, SafeTensors};
use skep_decoder::{AdapterTarget, Batch, Config, Decoder, PagedAdapter, Part, Workspace};
use skep_kernels::Team;
use skep_kernels::kv::KvPages;
use skep_weights::WeightsFile;

pub fn folder(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("tests")
        .join(name)
}

/// Random numbers of about this size, the same ones for a seed.
pub fn random(count: usize, seed: u64, size: f32) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    (0..count)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            ((state >> 40) as f32 / (1 << 23) as f32 - 1.0) * size
        })
        .collect()
}

/// Tensors by name, each its shape and elements.
pub type Tensors = BTreeMap<String, (Vec<usize>, Vec<f32>)>;

pub fn write_tensors(path: &Path, tensors: &Tensors) {
    let bytes: Vec<(&String, &Vec<usize>, Vec<u8>)> = tensors
        .iter()
        .map(|(name, (shape, values))| {
            let bytes = values.iter().flat_map(|x| x.to_le_bytes()).collect();
            (name, shape, bytes)
        })
        .collect();
    let views = bytes.iter().map(|(name, shape, bytes)| {
        let view = safetensors::tensor::TensorView::new(Dtype::F32, (*shape).clone(), bytes);
        (*name, view.unwrap())
    });
    std::fs::write(path, safetensors::serialize(views, None).unwrap()).unwrap();
}

/// What a test remembers of an adapter that it wrote.
pub struct Written {
    pub folder: PathBuf,
    pub scale: f32,
    pub tensors: Tensors,
}

/// The outputs and inputs of a matrix.
fn sides(config: &Config, target: AdapterTarget) -> [usize; 2] {
    let (width, hidden) = (config.width, config.hidden);
    let queries = config.heads * config.head_dim;
    let keys = config.kv_heads * config.head_dim;
    match target {
        AdapterTarget::Query => [queries, width],
        AdapterTarget::Key | AdapterTarget::Value => [keys, width],
        AdapterTarget::Output => [width, queries],
        AdapterTarget::Gate | AdapterTarget::Up => [hidden, width],
        AdapterTarget::Down => [width, hidden],
    }
}

/// Writes a random adapter of this rank for these targets in every layer.
pub fn write_adapter(
    folder: PathBuf,
    config: &Config,
    rank: usize,
    targets: &[AdapterTarget],
    seed: u64,
) -> Written {
    std::fs::create_dir_all(&folder).unwrap();
    let mut tensors = Tensors::new();
    for layer in 0..config.layers.len() {
        for target in targets {
            let [outputs, inputs] = sides(config, *target);
            let module = format!("base_model.model.model.layers.{layer}.{}", target.name());
            let seed = seed * 1000 + 20 * layer as u64 + 2 * *target as u64;
            // So that what is added is a tenth of the weights, of all ranks.
            let size = 0.3 / (rank as f32).sqrt().sqrt();
            let a = halves(random(rank * inputs, seed, size));
            let b = halves(random(outputs * rank, seed + 1, size));
            tensors.insert(format!("{module}.lora_A.weight"), (vec![rank, inputs], a));
            tensors.insert(format!("{module}.lora_B.weight"), (vec![outputs, rank], b));
        }
    }
    let names: Vec<&str> = targets.iter().map(|target| target.name()).collect();
    let alpha = rank as f32 * 0.75;
    let json = serde_json::json!({
        "peft_type": "LORA",
        "base_model_name_or_path": "tiny",
        "r": rank,
        "lora_alpha": alpha,
        "target_modules": names,
        "bias": "none",
    });
    std::fs::write(folder.join("adapter_config.json"), json.to_string()).unwrap();
    write_tensors(&folder.join("adapter_model.safetensors"), &tensors);
    Written {
        folder,
        scale: 0.75,
        tensors,
    }
}

/// Values that 16-bit floats hold, as most adapters are stored: what is kept in pages is what was
/// written, and a difference is one of the computation. (Rounding 32-bit adapters of this size
/// to 16 bits changes the tiny model's logits by up to 1.3e-3.)
fn halves(values: Vec<f32>) -> Vec<f32> {
    let cut = |x: f32| f32::from_bits(x.to_bits() & !0x1fff);
    values.into_iter().map(cut).collect()
}

/// Writes the base to another folder with its weights changed, and opens it from there. `change` is given each
/// weight's module, as adapters have its name, and its elements.
pub fn changed(base: &Path, to: &Path, mut change: impl FnMut(&str, &mut [f32])) -> Decoder {
    std::fs::create_dir_all(to).unwrap();
    std::fs::copy(base.join("config.json"), to.join("config.json")).unwrap();
    let weights = WeightsFile::open(base).unwrap();
    let mut tensors = Tensors::new();
    for name in weights.names() {
        let tensor = weights.tensor(name).unwrap();
        let mut values = vec![0.0; tensor.rows() * tensor.columns()];
        tensor.dequantize(&mut values).unwrap();
        let module = format!("base_model.model.{}", name.trim_end_matches(".weight"));
        change(&module, &mut values);
        let shape = tensor.shape().iter().map(|side| *side as usize).collect();
        tensors.insert(name.to_owned(), (shape, values));
    }
    write_tensors(&to.join("model.safetensors"), &tensors);
    Decoder::load(to).unwrap()
}

/// The base with an adapter merged into its weights: `W + scale · B · A`, as PEFT merges.
pub fn merged(base: &Path, adapter: &Written, to: &Path) -> Decoder {
    changed(base, to, |module, values| {
        if let Some((shape, a)) = adapter.tensors.get(&format!("{module}.lora_A.weight")) {
            let b = &adapter.tensors[&format!("{module}.lora_B.weight")].1;
            let (rank, inputs) = (shape[0], shape[1]);
            for (row, b) in values.chunks_exact_mut(inputs).zip(b.chunks_exact(rank)) {
                for (column, x) in row.iter_mut().enumerate() {
                    let products = b.iter().enumerate();
                    let sum: f64 = products
                        .map(|(r, b)| f64::from(*b) * f64::from(a[r * inputs + column]))
                        .sum();
                    *x += (f64::from(adapter.scale) * sum) as f32;
                }
            }
        }
    })
}

/// One sequence of a batch: its tokens, the position of the first, its pages, its adapter.
pub type Row<'a> = (&'a [u32], usize, &'a [u32], Option<&'a PagedAdapter>);

/// Runs a batch and returns the logits after the last token of each row.
pub fn forward(
    decoder: &Decoder,
    threads: usize,
    pages: &mut KvPages,
    rows: &[Row<'_>],
) -> Vec<Vec<f32>> {
    let mut tokens = Vec::new();
    let mut outputs = Vec::new();
    let mut parts = Vec::new();
    for (own, start, table, adapter) in rows {
        tokens.extend_from_slice(own);
        outputs.push(tokens.len() - 1);
        parts.push(Part {
            tokens: own.len(),
            start: *start,
            pages: table,
            adapter: *adapter,
        });
    }
    let batch = Batch {
        tokens: &tokens,
        parts: &parts,
        outputs: &outputs,
    };
    let team = Team::new(threads).unwrap();
    let mut workspace = Workspace::default();
    let logits = decoder.forward(&team, &mut workspace, pages, &batch);
    let logits = logits.unwrap().chunks_exact(decoder.config().vocabulary);
    logits.map(<[f32]>::to_vec).collect()
}

pub fn difference(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    a.iter()
        .zip(b)
        .fold(0.0, |most, (a, b)| (a - b).abs().max(most))
}

/// The tensor of a reference, as words of four bytes.
pub fn words(path: &Path, name: &str) -> Vec<[u8; 4]> {
    let bytes = std::fs::read(path).unwrap();
    let tensors = SafeTensors::deserialize(&bytes).unwrap();
    let tensor = tensors.tensor(name).unwrap();
    tensor.data().as_chunks::<4>().0.to_vec()
}
