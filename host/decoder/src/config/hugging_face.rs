//! Configurations of Hugging Face folders.

use std::path::Path;

use serde::Deserialize;
use skep_kernels::rows::{Gate, Rope, RopeLayout};

use super::scaling::Scaling;
use super::{Architecture, Config, LayerConfig};
use crate::error::LoadError;

/// The largest `config.json` that is read.
const LARGEST: u64 = 1 << 20;

/// What of `config.json` the forward pass needs.
#[derive(Deserialize)]
struct Json {
    model_type: String,
    vocab_size: usize,
    max_position_embeddings: usize,
    hidden_size: usize,
    intermediate_size: usize,
    num_hidden_layers: usize,
    num_attention_heads: usize,
    num_key_value_heads: Option<usize>,
    head_dim: Option<usize>,
    rms_norm_eps: f32,
    #[serde(alias = "hidden_activation")]
    hidden_act: Option<String>,
    tie_word_embeddings: Option<bool>,
    rope_theta: Option<f64>,
    rope_local_base_freq: Option<f64>,
    rope_scaling: Option<serde_json::Value>,
    rope_parameters: Option<serde_json::Value>,
    sliding_window: Option<usize>,
    use_sliding_window: Option<bool>,
    layer_types: Option<Vec<String>>,
    sliding_window_pattern: Option<usize>,
    query_pre_attn_scalar: Option<f64>,
    attention_bias: Option<bool>,
    mlp_bias: Option<bool>,
    final_logit_softcapping: Option<f64>,
    attn_logit_softcapping: Option<f64>,
}

/// What describes the text part of Gemma 3: a multimodal model's configuration has it one level
/// down, without what is as in `Gemma3TextConfig` of transformers.
fn gemma_text(json: serde_json::Value) -> serde_json::Value {
    let Some(serde_json::Value::Object(mut text)) = json.get("text_config").cloned() else {
        return json;
    };
    text.insert("model_type".to_owned(), "gemma3_text".into());
    let defaults: [(&str, serde_json::Value); 13] = [
        ("vocab_size", 262_208.into()),
        ("max_position_embeddings", 131_072.into()),
        ("hidden_size", 2304.into()),
        ("intermediate_size", 9216.into()),
        ("num_hidden_layers", 26.into()),
        ("num_attention_heads", 8.into()),
        ("num_key_value_heads", 4.into()),
        ("head_dim", 256.into()),
        ("rms_norm_eps", 1e-6.into()),
        ("hidden_activation", "gelu_pytorch_tanh".into()),
        ("query_pre_attn_scalar", 256.into()),
        ("sliding_window", 4096.into()),
        ("rope_theta", 1e6.into()),
    ];
    for (key, value) in defaults {
        text.entry(key).or_insert(value);
    }
    text.into()
}

/// How rotary positions are described: in one place for all layers, or for each kind of layer.
#[derive(Deserialize)]
struct RopeJson {
    #[serde(alias = "type")]
    rope_type: Option<String>,
    rope_theta: Option<f64>,
    factor: Option<f64>,
    low_freq_factor: Option<f64>,
    high_freq_factor: Option<f64>,
    original_max_position_embeddings: Option<f64>,
    partial_rotary_factor: Option<f64>,
}

/// Reads `config.json`.
pub fn read(path: &Path) -> Result<Config, LoadError> {
    let failed = |source| LoadError::Read {
        path: path.to_owned(),
        source,
    };
    let size = std::fs::metadata(path).map_err(failed)?.len();
    if size > LARGEST {
        return Err(LoadError::Malformed {
            path: path.to_owned(),
            reason: format!("it has {size} bytes, and more than {LARGEST} are not read"),
        });
    }
    let text = std::fs::read(path).map_err(failed)?;
    Reader { path }.config(&text)
}

struct Reader<'a> {
    path: &'a Path,
}

impl Reader<'_> {
    fn malformed(&self, reason: impl ToString) -> LoadError {
        LoadError::Malformed {
            path: self.path.to_owned(),
            reason: reason.to_string(),
        }
    }

    fn unsupported(&self, what: impl Into<String>) -> LoadError {
        LoadError::Unsupported {
            path: self.path.to_owned(),
            what: what.into(),
        }
    }

    fn config(&self, text: &[u8]) -> Result<Config, LoadError> {
        let json: serde_json::Value =
            serde_json::from_slice(text).map_err(|error| self.malformed(error))?;
        let named = json.get("model_type").and_then(|name| name.as_str());
        let named = named.ok_or_else(|| self.malformed("it has no \"model_type\""))?;
        let Some(architecture) = Architecture::from_name(named) else {
            return Err(LoadError::Architecture {
                path: self.path.to_owned(),
                architecture: named.to_owned(),
            });
        };
        let json = match architecture {
            Architecture::Gemma3 => gemma_text(json),
            _ => json,
        };
        let json: Json = serde_json::from_value(json).map_err(|error| self.malformed(error))?;
        self.refuse_what_is_missing_here(&json)?;
        let gemma = architecture == Architecture::Gemma3;
        let heads = json.num_attention_heads;
        let head_dim = match json.head_dim {
            Some(dim) => dim,
            None => json.hidden_size.checked_div(heads).unwrap_or(0),
        };
        let scalar = match json.query_pre_attn_scalar {
            Some(scalar) if gemma => scalar,
            _ => head_dim as f64,
        };
        Ok(Config {
            architecture,
            vocabulary: json.vocab_size,
            context: json.max_position_embeddings,
            width: json.hidden_size,
            hidden: json.intermediate_size,
            heads,
            kv_heads: json.num_key_value_heads.unwrap_or(heads),
            head_dim,
            epsilon: json.rms_norm_eps,
            norm_offset: if gemma { 1.0 } else { 0.0 },
            embedding_scale: if gemma {
                (json.hidden_size as f32).sqrt()
            } else {
                1.0
            },
            attention_scale: (1.0 / scalar.sqrt()) as f32,
            gate: self.gate(json.hidden_act.as_deref())?,
            // Where nothing is said, Gemma's head is its embedding and others' are not.
            tied: json.tie_word_embeddings.unwrap_or(gemma),
            rope_layout: RopeLayout::Halves,
            layers: self.layers(&json, architecture, head_dim)?,
        })
    }

    fn refuse_what_is_missing_here(&self, json: &Json) -> Result<(), LoadError> {
        if json.mlp_bias == Some(true) {
            return Err(self.unsupported("a bias in feed-forward layers (\"mlp_bias\")"));
        }
        if json.attention_bias == Some(true) && json.model_type != "qwen2" {
            return Err(self.unsupported("a bias in attention (\"attention_bias\")"));
        }
        if json.final_logit_softcapping.is_some() || json.attn_logit_softcapping.is_some() {
            return Err(self.unsupported("a soft cap on logits"));
        }
        Ok(())
    }

    fn gate(&self, name: Option<&str>) -> Result<Gate, LoadError> {
        match name {
            None | Some("silu") => Ok(Gate::Silu),
            Some("gelu_pytorch_tanh") => Ok(Gate::GeluTanh),
            Some(other) => Err(self.unsupported(format!("the activation {other:?}"))),
        }
    }

    fn layers(
        &self,
        json: &Json,
        architecture: Architecture,
        head_dim: usize,
    ) -> Result<Vec<LayerConfig>, LoadError> {
        if json.num_hidden_layers > 1 << 12 {
            return Err(self.malformed(format!("it has {} layers", json.num_hidden_layers)));
        }
        let slides: Vec<bool> = match (&json.layer_types, architecture) {
            (Some(kinds), _) if kinds.len() == json.num_hidden_layers => kinds
                .iter()
                .map(|kind| kind == "sliding_attention")
                .collect(),
            (Some(kinds), _) => {
                return Err(self.malformed(format!(
                    "{} kinds of layers for {} layers",
                    kinds.len(),
                    json.num_hidden_layers
                )));
            }
            (None, Architecture::Gemma3) => {
                let pattern = json.sliding_window_pattern.unwrap_or(6).max(1);
                (1..=json.num_hidden_layers)
                    .map(|layer| !layer.is_multiple_of(pattern))
                    .collect()
            }
            (None, Architecture::Mistral) => vec![true; json.num_hidden_layers],
            (None, _) => {
                let slides = json.use_sliding_window == Some(true);
                if slides {
                    return Err(self.unsupported("a sliding window without \"layer_types\""));
                }
                vec![false; json.num_hidden_layers]
            }
        };
        let full = self.frequencies(json, "full_attention", head_dim)?;
        let sliding = self.frequencies(json, "sliding_attention", head_dim)?;
        Ok(slides
            .into_iter()
            .map(|slides| LayerConfig {
                window: json.sliding_window.filter(|_| slides),
                frequencies: if slides { &sliding } else { &full }.clone(),
            })
            .collect())
    }

    /// The frequencies of one kind of layer.
    fn frequencies(&self, json: &Json, kind: &str, head_dim: usize) -> Result<Vec<f64>, LoadError> {
        let gemma_slides = kind == "sliding_attention" && json.model_type.starts_with("gemma3");
        let place = json.rope_parameters.as_ref().or(json.rope_scaling.as_ref());
        let place = place.map(|all| all.get(kind).unwrap_or(all));
        let rope: Option<RopeJson> = match place {
            Some(value) if !value.is_null() => {
                let rope = serde_json::from_value(value.clone());
                Some(rope.map_err(|error| self.malformed(error))?)
            }
            _ => None,
        };
        // Older configurations of Gemma 3 describe the rotary positions of full attention alone.
        let by_kind = json
            .rope_parameters
            .as_ref()
            .is_some_and(|all| all.get(kind).is_some());
        let rope = rope.filter(|_| !gemma_slides || by_kind);
        let base = match rope.as_ref().and_then(|rope| rope.rope_theta) {
            Some(base) => base,
            None if gemma_slides => json.rope_local_base_freq.unwrap_or(10_000.0),
            None => json.rope_theta.unwrap_or(10_000.0),
        };
        if !(base.is_finite() && base > 1.0) {
            return Err(self.malformed(format!("rotary positions to the base {base}")));
        }
        if head_dim > 1 << 12 {
            return Err(self.malformed(format!("a head of {head_dim} elements")));
        }
        let scaling = match &rope {
            Some(rope) => self.scaling(rope)?,
            None => Scaling::None,
        };
        let mut frequencies = Rope::frequencies(base, head_dim);
        scaling.apply(&mut frequencies);
        Ok(frequencies)
    }

    fn scaling(&self, rope: &RopeJson) -> Result<Scaling, LoadError> {
        if rope
            .partial_rotary_factor
            .is_some_and(|factor| factor != 1.0)
        {
            return Err(self.unsupported("rotary positions in a part of a head"));
        }
        let need = |value: Option<f64>, name: &str| match value {
            Some(value) if value.is_finite() && value > 0.0 => Ok(value),
            _ => Err(self.malformed(format!("\"{name}\" of its rotary positions is missing"))),
        };
        match rope.rope_type.as_deref() {
            None | Some("default") => Ok(Scaling::None),
            Some("linear") => Ok(Scaling::Linear(need(rope.factor, "factor")?)),
            Some("llama3") => Ok(Scaling::Llama3 {
                factor: need(rope.factor, "factor")?,
                low: need(rope.low_freq_factor, "low_freq_factor")?,
                high: need(rope.high_freq_factor, "high_freq_factor")?,
                original: need(
                    rope.original_max_position_embeddings,
                    "original_max_position_embeddings",
                )?,
            }),
            Some(other) => Err(self.unsupported(format!("the rotary positions {other:?}"))),
        }
    }
}
