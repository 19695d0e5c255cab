//! A tiny model of the BERT family, written as a folder and computed plainly, to test against.

#![allow(dead_code, reason = "each test file uses its own part")]

use std::collections::BTreeMap;
use std::path::Path;

use safetensors::Dtype;
use safetensors::tensor::TensorView;
use serde_json::{Value, json};

/// Sizes and kinds of a tiny model.
#[derive(Clone)]
pub struct Tiny {
    pub hidden: usize,
    pub layers: usize,
    pub heads: usize,
    pub intermediate: usize,
    pub positions: usize,
    pub act: &'static str,
    pub pooling: &'static str,
    pub prefix: &'static str,
    pub dtype: Dtype,
    pub tensors: BTreeMap<String, (Vec<usize>, Vec<f32>)>,
}

pub const WORDS: [&str; 12] = [
    "[PAD]", "[UNK]", "[CLS]", "[SEP]", "a", "bee", "hive", "##s", "honey", "comb", "##comb", "!",
];

impl Tiny {
    pub fn new() -> Self {
        let mut tiny = Self {
            hidden: 24,
            layers: 2,
            heads: 3,
            intermediate: 40,
            positions: 16,
            act: "gelu",
            pooling: "mean",
            prefix: "",
            dtype: Dtype::F32,
            tensors: BTreeMap::new(),
        };
        tiny.fill();
        tiny
    }

    fn fill(&mut self) {
        let (h, i) = (self.hidden, self.intermediate);
        let mut shapes = vec![
            (
                "embeddings.word_embeddings.weight".to_owned(),
                vec![WORDS.len(), h],
            ),
            (
                "embeddings.position_embeddings.weight".to_owned(),
                vec![self.positions, h],
            ),
            (
                "embeddings.token_type_embeddings.weight".to_owned(),
                vec![2, h],
            ),
            ("embeddings.LayerNorm.weight".to_owned(), vec![h]),
            ("embeddings.LayerNorm.bias".to_owned(), vec![h]),
        ];
        for l in 0..self.layers {
            for (name, shape) in [
                ("attention.self.query", vec![h, h]),
                ("attention.self.key", vec![h, h]),
                ("attention.self.value", vec![h, h]),
                ("attention.output.dense", vec![h, h]),
                ("attention.output.LayerNorm", vec![h]),
                ("intermediate.dense", vec![i, h]),
                ("output.dense", vec![h, i]),
                ("output.LayerNorm", vec![h]),
            ] {
                shapes.push((format!("encoder.layer.{l}.{name}.bias"), vec![shape[0]]));
                shapes.push((format!("encoder.layer.{l}.{name}.weight"), shape));
            }
        }
        let mut state = 0x9e37_79b9_7f4a_7c15_u64;
        for (name, shape) in shapes {
            let values = (0..shape.iter().product())
                .map(|_| {
                    state ^= state << 13;
                    state ^= state >> 7;
                    state ^= state << 17;
                    // Multiples of 1/64 below 1: exact in all three types.
                    let x = (state >> 58) as f32 / 64.0 - 0.5;
                    if name.ends_with("LayerNorm.weight") {
                        x + 1.0
                    } else {
                        x
                    }
                })
                .collect();
            self.tensors.insert(name, (shape, values));
        }
    }

    pub fn config(&self) -> Value {
        json!({
            "architectures": ["BertModel"],
            "model_type": "bert",
            "vocab_size": WORDS.len(),
            "hidden_size": self.hidden,
            "num_hidden_layers": self.layers,
            "num_attention_heads": self.heads,
            "intermediate_size": self.intermediate,
            "max_position_embeddings": self.positions,
            "type_vocab_size": 2,
            "layer_norm_eps": 1e-12,
            "hidden_act": self.act,
        })
    }

    pub fn tokenizer() -> Value {
        let vocab: serde_json::Map<String, Value> = WORDS
            .iter()
            .enumerate()
            .map(|(id, word)| ((*word).to_owned(), json!(id)))
            .collect();
        let special = |id: usize| {
            json!({"id": id, "content": WORDS[id], "single_word": false, "lstrip": false,
                   "rstrip": false, "normalized": false, "special": true})
        };
        json!({
            "version": "1.0",
            "truncation": {"max_length": 5, "strategy": "LongestFirst", "stride": 0},
            "padding": {"strategy": {"Fixed": 9}, "direction": "Right", "pad_to_multiple_of": null,
                        "pad_id": 0, "pad_type_id": 0, "pad_token": "[PAD]"},
            "added_tokens": [special(0), special(1), special(2), special(3)],
            "normalizer": {"type": "BertNormalizer", "clean_text": true,
                "handle_chinese_chars": true, "strip_accents": null, "lowercase": true},
            "pre_tokenizer": {"type": "BertPreTokenizer"},
            "post_processor": {"type": "TemplateProcessing",
                "single": [{"SpecialToken": {"id": "[CLS]", "type_id": 0}},
                           {"Sequence": {"id": "A", "type_id": 0}},
                           {"SpecialToken": {"id": "[SEP]", "type_id": 0}}],
                "pair": [{"Sequence": {"id": "A", "type_id": 0}},
                         {"Sequence": {"id": "B", "type_id": 1}}],
                "special_tokens": {
                    "[CLS]": {"id": "[CLS]", "ids": [2], "tokens": ["[CLS]"]},
                    "[SEP]": {"id": "[SEP]", "ids": [3], "tokens": ["[SEP]"]}}},
            "decoder": null,
            "model": {"type": "WordPiece", "unk_token": "[UNK]",
                "continuing_subword_prefix": "##", "max_input_chars_per_word": 100,
                "vocab": vocab},
        })
    }

    /// The weights file.
    pub fn safetensors(&self) -> Vec<u8> {
        let data: Vec<(String, Vec<usize>, Vec<u8>)> = self
            .tensors
            .iter()
            .map(|(name, (shape, values))| {
                let bytes = values.iter().flat_map(|&x| match self.dtype {
                    Dtype::F16 => half::f16::from_f32(x).to_le_bytes().to_vec(),
                    Dtype::BF16 => half::bf16::from_f32(x).to_le_bytes().to_vec(),
                    _ => x.to_le_bytes().to_vec(),
                });
                (
                    format!("{}{name}", self.prefix),
                    shape.clone(),
                    bytes.collect(),
                )
            })
            .collect();
        let views = data.iter().map(|(name, shape, bytes)| {
            let view = TensorView::new(self.dtype, shape.clone(), bytes).unwrap();
            (name.clone(), view)
        });
        safetensors::serialize(views, None).unwrap()
    }

    /// Writes the whole folder.
    pub fn write(&self, folder: &Path) {
        let write = |name: &str, value: Value| {
            std::fs::write(folder.join(name), value.to_string()).unwrap();
        };
        write("config.json", self.config());
        write("tokenizer.json", Self::tokenizer());
        write(
            "modules.json",
            json!([
                {"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"},
                {"idx": 1, "name": "1", "path": "1_Pooling", "type": "sentence_transformers.models.Pooling"},
                {"idx": 2, "name": "2", "path": "2_Normalize", "type": "sentence_transformers.models.Normalize"},
            ]),
        );
        std::fs::create_dir_all(folder.join("1_Pooling")).unwrap();
        write(
            "1_Pooling/config.json",
            json!({
                "word_embedding_dimension": self.hidden,
                "pooling_mode_cls_token": self.pooling == "cls",
                "pooling_mode_mean_tokens": self.pooling == "mean",
                "pooling_mode_max_tokens": self.pooling == "max",
            }),
        );
        std::fs::write(folder.join("model.safetensors"), self.safetensors()).unwrap();
    }

    /// The embedding of these tokens in double precision, by the plain definition.
    pub fn embed(&self, ids: &[usize]) -> Vec<f64> {
        let h = self.hidden;
        let of = |name: &str| -> Vec<f64> {
            self.tensors[name].1.iter().map(|&x| f64::from(x)).collect()
        };
        let norm = |x: &[f64], name: &str| -> Vec<f64> {
            let (gamma, beta) = (of(&format!("{name}.weight")), of(&format!("{name}.bias")));
            let mean = x.iter().sum::<f64>() / x.len() as f64;
            let var = x.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / x.len() as f64;
            let each = x.iter().zip(gamma.iter().zip(&beta));
            each.map(|(x, (g, b))| (x - mean) / var.sqrt() * g + b)
                .collect()
        };
        let linear = |x: &[f64], name: &str| -> Vec<f64> {
            let (w, b) = (of(&format!("{name}.weight")), of(&format!("{name}.bias")));
            b.iter()
                .zip(w.chunks(x.len()))
                .map(|(b, w)| b + w.iter().zip(x).map(|(w, x)| w * x).sum::<f64>())
                .collect()
        };
        let plus =
            |a: &[f64], b: &[f64]| -> Vec<f64> { a.iter().zip(b).map(|(a, b)| a + b).collect() };
        let row = |name: &str, r: usize| of(name)[r * h..(r + 1) * h].to_vec();
        let mut x: Vec<Vec<f64>> = ids
            .iter()
            .enumerate()
            .map(|(p, &id)| {
                let word = row("embeddings.word_embeddings.weight", id);
                let position = row("embeddings.position_embeddings.weight", p);
                let kind = row("embeddings.token_type_embeddings.weight", 0);
                norm(
                    &plus(&plus(&word, &position), &kind),
                    "embeddings.LayerNorm",
                )
            })
            .collect();
        for l in 0..self.layers {
            let at = |part: &str| format!("encoder.layer.{l}.{part}");
            let project = |part: &str| -> Vec<Vec<f64>> {
                x.iter()
                    .map(|x| linear(x, &at(&format!("attention.self.{part}"))))
                    .collect()
            };
            let (q, k, v) = (project("query"), project("key"), project("value"));
            let dim = h / self.heads;
            let mut next = Vec::new();
            for i in 0..x.len() {
                let mut out = vec![0.0; h];
                for head in 0..self.heads {
                    let part = head * dim..(head + 1) * dim;
                    let scores: Vec<f64> = k
                        .iter()
                        .map(|k| {
                            let pairs = q[i][part.clone()].iter().zip(&k[part.clone()]);
                            (pairs.map(|(q, k)| q * k).sum::<f64>() / (dim as f64).sqrt()).exp()
                        })
                        .collect();
                    let sum: f64 = scores.iter().sum();
                    for (score, v) in scores.iter().zip(&v) {
                        for d in part.clone() {
                            out[d] += score / sum * v[d];
                        }
                    }
                }
                let y = plus(&x[i], &linear(&out, &at("attention.output.dense")));
                let y = norm(&y, &at("attention.output.LayerNorm"));
                let mut inner = linear(&y, &at("intermediate.dense"));
                for x in &mut inner {
                    *x = match self.act {
                        "relu" => x.max(0.0),
                        "gelu" => 0.5 * *x * (1.0 + erf(*x / 2_f64.sqrt())),
                        _ => {
                            let u = (2.0 / std::f64::consts::PI).sqrt();
                            0.5 * *x * (1.0 + (u * (*x + 0.044715 * x.powi(3))).tanh())
                        }
                    };
                }
                let z = plus(&y, &linear(&inner, &at("output.dense")));
                next.push(norm(&z, &at("output.LayerNorm")));
            }
            x = next;
        }
        let mut out: Vec<f64> = (0..h)
            .map(|d| {
                let column = x.iter().map(|x| x[d]);
                match self.pooling {
                    "cls" => x[0][d],
                    "max" => column.fold(f64::NEG_INFINITY, f64::max),
                    _ => column.sum(),
                }
            })
            .collect();
        let length = out.iter().map(|x| x * x).sum::<f64>().sqrt();
        out.iter_mut().for_each(|x| *x /= length);
        out
    }
}

/// The error function by its power series, exact enough for what a tiny model meets.
fn erf(x: f64) -> f64 {
    if x.abs() > 5.9 {
        return x.signum();
    }
    let (mut term, mut sum) = (x, x);
    for n in 1..200 {
        let n = f64::from(n);
        term *= -x * x / n;
        sum += term / (2.0 * n + 1.0);
    }
    sum * 2.0 / std::f64::consts::PI.sqrt()
}

pub fn texts(texts: &[&str]) -> Vec<String> {
    texts.iter().map(|&text| text.to_owned()).collect()
}

pub fn cosine(a: &[f32], b: &[f64]) -> f64 {
    let dot: f64 = a.iter().zip(b).map(|(&a, &b)| f64::from(a) * b).sum();
    let a: f64 = a.iter().map(|&a| f64::from(a).powi(2)).sum();
    let b: f64 = b.iter().map(|b| b * b).sum();
    dot / (a * b).sqrt()
}
