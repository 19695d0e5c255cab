//! Configurations in the metadata of GGUF files.

use skep_kernels::rows::{Gate, Rope, RopeLayout};
use skep_weights::Gguf;

use super::scaling::Scaling;
use super::{Architecture, Config, LayerConfig};
use crate::error::LoadError;

/// Of so many of Gemma 3's layers the last attends to all positions and the others slide.
const GEMMA_PATTERN: usize = 6;

/// The layers of Gemma 3's largest model, whose attention has a scale of its own.
const LARGEST_GEMMA: usize = 62;

/// Reads the metadata.
pub fn read(file: &Gguf) -> Result<Config, LoadError> {
    let metadata = file.metadata();
    let malformed = |reason: String| LoadError::Malformed {
        path: metadata.path().to_owned(),
        reason,
    };
    let named: &str = metadata.need("general.architecture")?;
    let Some(architecture) = Architecture::from_name(named) else {
        return Err(LoadError::Architecture {
            path: metadata.path().to_owned(),
            architecture: named.to_owned(),
        });
    };
    let gemma = architecture == Architecture::Gemma3;
    let key = |name: &str| format!("{named}.{name}");
    let figure = |name: &str| -> Result<usize, LoadError> {
        let value: u32 = metadata.need(&key(name))?;
        Ok(value as usize)
    };
    let optional = |name: &str| -> Result<Option<usize>, LoadError> {
        let value: Option<u32> = metadata.get(&key(name))?;
        Ok(value.map(|value| value as usize))
    };
    let number = |name: &str| -> Result<Option<f64>, LoadError> {
        let value: Option<f32> = metadata.get(&key(name))?;
        Ok(value.map(f64::from))
    };
    let layers = figure("block_count")?;
    if layers > 1 << 12 {
        return Err(malformed(format!("it has {layers} layers")));
    }
    let width = figure("embedding_length")?;
    let heads = figure("attention.head_count")?;
    let head_dim = match optional("attention.key_length")? {
        Some(dim) => dim,
        None => width.checked_div(heads).unwrap_or(0),
    };
    if head_dim > 1 << 12 {
        return Err(malformed(format!("a head of {head_dim} elements")));
    }
    for cap in ["final_logit_softcapping", "attn_logit_softcapping"] {
        if number(cap)?.is_some_and(|cap| cap != 0.0) {
            return Err(LoadError::Unsupported {
                path: metadata.path().to_owned(),
                what: "a soft cap on logits".to_owned(),
            });
        }
    }
    let scaling = match metadata.get::<&str>(&key("rope.scaling.type"))? {
        None | Some("none") => Scaling::None,
        Some("linear") => match number("rope.scaling.factor")?.unwrap_or(1.0) {
            factor if factor.is_finite() && factor > 0.0 => Scaling::Linear(factor),
            factor => {
                return Err(malformed(format!("rotary positions stretched by {factor}")));
            }
        },
        Some(other) => {
            return Err(LoadError::Unsupported {
                path: metadata.path().to_owned(),
                what: format!("the rotary positions {other:?}"),
            });
        }
    };
    let base = number("rope.freq_base")?.unwrap_or(10_000.0);
    let local = number("rope.freq_base_swa")?.unwrap_or(10_000.0);
    for base in [base, local] {
        if !(base.is_finite() && base > 1.0) {
            return Err(malformed(format!("rotary positions to the base {base}")));
        }
    }
    let mut full = Rope::frequencies(base, head_dim);
    scaling.apply(&mut full);
    // Llama 3.1's scaling is written as a tensor of what to divide the frequencies by.
    if let Some(factors) = file.tensor("rope_freqs.weight") {
        let mut values = vec![0.0; full.len()];
        if factors.rows() != 1 || factors.dequantize(&mut values).is_err() {
            return Err(malformed(format!(
                "the tensor \"rope_freqs.weight\" does not have {} elements",
                full.len()
            )));
        }
        for (frequency, factor) in full.iter_mut().zip(values) {
            *frequency /= f64::from(factor);
        }
    }
    let sliding = Rope::frequencies(local, head_dim);
    let window = optional("attention.sliding_window")?;
    let pattern = match gemma {
        true => optional("attention.sliding_window_pattern")?.unwrap_or(GEMMA_PATTERN),
        false => 0,
    };
    // What queries and keys were scaled by in training is in no key: llama.cpp, which the files
    // are made for, knows the one model by its layers that does not take the size of a head.
    let scaled = match gemma && layers == LARGEST_GEMMA {
        true => width.checked_div(heads).unwrap_or(0),
        false => head_dim,
    };
    let layers = (1..=layers)
        .map(|layer| {
            // All layers slide if any, but for Gemma 3's last of each pattern.
            let slides = window.is_some() && !(pattern > 0 && layer.is_multiple_of(pattern));
            LayerConfig {
                window: window.filter(|_| slides),
                frequencies: if slides && gemma { &sliding } else { &full }.clone(),
            }
        })
        .collect();
    let Some(embedding) = file.tensor("token_embd.weight") else {
        return Err(malformed(
            "it has no tensor \"token_embd.weight\"".to_owned(),
        ));
    };
    Ok(Config {
        architecture,
        vocabulary: embedding.rows(),
        context: figure("context_length")?,
        width,
        hidden: figure("feed_forward_length")?,
        heads,
        kv_heads: optional("attention.head_count_kv")?.unwrap_or(heads),
        head_dim,
        epsilon: metadata.need(&key("attention.layer_norm_rms_epsilon"))?,
        // What Gemma adds to its norms' weights is in the file's already.
        norm_offset: 0.0,
        embedding_scale: if gemma { (width as f32).sqrt() } else { 1.0 },
        attention_scale: (1.0 / (scaled as f64).sqrt()) as f32,
        gate: if gemma { Gate::GeluTanh } else { Gate::Silu },
        tied: file.tensor("output.weight").is_none(),
        rope_layout: match architecture {
            Architecture::Llama | Architecture::Mistral => RopeLayout::Pairs,
            _ => RopeLayout::Halves,
        },
        layers,
    })
}
