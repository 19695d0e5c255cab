//! The configuration files of a model's folder, checked.
//!
//! Nothing here allocates by what a file says: files are read up to a limit, and numbers are
//! held against a range before anything is made of them.

use std::fs::File;
use std::io::Read;
use std::path::{Component, Path, PathBuf};

use serde::Deserialize;
use serde::de::DeserializeOwned;
use skep_tensor::operators::{Activation, Pooling};

use crate::error::LoadError;

/// Files of settings are read up to this many bytes.
const SETTINGS_LIMIT: u64 = 1 << 20;

/// What the settings of a folder say, all of it in range.
#[derive(Debug, Clone)]
pub(crate) struct Settings {
    /// The folder with `config.json`, `tokenizer.json` and the weights.
    pub transformer: PathBuf,
    pub architecture: String,
    pub vocabulary: usize,
    pub hidden: usize,
    pub layers: usize,
    pub heads: usize,
    pub intermediate: usize,
    pub positions: usize,
    pub token_types: usize,
    pub epsilon: f32,
    pub activation: Activation,
    /// Tokens to which a text is cut, special ones included.
    pub max_tokens: usize,
    pub lower_case: bool,
    pub pooling: Pooling,
}

#[derive(Deserialize)]
struct Config {
    #[serde(default)]
    architectures: Vec<String>,
    #[serde(default = "bert")]
    model_type: String,
    vocab_size: u64,
    hidden_size: u64,
    num_hidden_layers: u64,
    num_attention_heads: u64,
    intermediate_size: u64,
    max_position_embeddings: u64,
    #[serde(default = "two")]
    type_vocab_size: u64,
    #[serde(default = "small")]
    layer_norm_eps: f64,
    #[serde(default = "gelu")]
    hidden_act: String,
    #[serde(default = "absolute")]
    position_embedding_type: String,
}

fn bert() -> String {
    "bert".to_owned()
}
fn two() -> u64 {
    2
}
fn small() -> f64 {
    1e-12
}
fn gelu() -> String {
    "gelu".to_owned()
}
fn absolute() -> String {
    "absolute".to_owned()
}

#[derive(Deserialize)]
struct Module {
    path: String,
    r#type: String,
}

#[derive(Deserialize, Default)]
struct SentenceConfig {
    max_seq_length: Option<u64>,
    #[serde(default)]
    do_lower_case: bool,
}

#[derive(Deserialize)]
struct PoolingConfig {
    word_embedding_dimension: Option<u64>,
    embedding_dimension: Option<u64>,
    /// The form of newer versions.
    pooling_mode: Option<String>,
    #[serde(default)]
    pooling_mode_cls_token: bool,
    #[serde(default)]
    pooling_mode_mean_tokens: bool,
    #[serde(default)]
    pooling_mode_max_tokens: bool,
    #[serde(default)]
    pooling_mode_mean_sqrt_len_tokens: bool,
    #[serde(default)]
    pooling_mode_weightedmean_tokens: bool,
    #[serde(default)]
    pooling_mode_lasttoken: bool,
}

impl Settings {
    /// Reads and checks the settings of `folder`.
    pub fn read(folder: &Path) -> Result<Self, LoadError> {
        let modules = modules(folder)?;
        let path = modules.transformer.join("config.json");
        let config: Config = read_json(&path)?;
        if config.model_type != "bert" {
            return unsupported(&path, format!("a model of type {:?}", config.model_type));
        }
        if config.position_embedding_type != "absolute" {
            let kind = &config.position_embedding_type;
            return unsupported(&path, format!("position embeddings of type {kind:?}"));
        }
        let activation = match config.hidden_act.as_str() {
            "gelu" => Activation::Gelu,
            "gelu_new" | "gelu_pytorch_tanh" | "gelu_fast" => Activation::GeluTanh,
            "relu" => Activation::Relu,
            other => return unsupported(&path, format!("the activation {other:?}")),
        };
        let within = |field, value, max| within(&path, field, value, max);
        let hidden = within("hidden_size", config.hidden_size, 8192)?;
        let heads = within("num_attention_heads", config.num_attention_heads, 1024)?;
        if !hidden.is_multiple_of(heads) {
            return Err(LoadError::OutOfRange {
                path,
                field: "num_attention_heads",
                value: heads.to_string(),
                range: format!("a divisor of hidden_size, {hidden}"),
            });
        }
        if !(config.layer_norm_eps >= 0.0 && config.layer_norm_eps < 1.0) {
            return Err(LoadError::OutOfRange {
                path,
                field: "layer_norm_eps",
                value: config.layer_norm_eps.to_string(),
                range: "at least 0 and below 1".to_owned(),
            });
        }
        let positions = within(
            "max_position_embeddings",
            config.max_position_embeddings,
            1 << 16,
        )?;
        let sentence_path = modules.transformer.join("sentence_bert_config.json");
        let sentence: SentenceConfig = read_json_if_there(&sentence_path)?.unwrap_or_default();
        let max_tokens = match sentence.max_seq_length {
            // Fewer than three leave no room for a token between the special ones.
            Some(n) if n < 3 => {
                return Err(LoadError::OutOfRange {
                    path: sentence_path,
                    field: "max_seq_length",
                    value: n.to_string(),
                    range: "at least 3".to_owned(),
                });
            }
            Some(n) => usize::try_from(n).unwrap_or(usize::MAX).min(positions),
            None => positions,
        };
        Ok(Settings {
            architecture: config
                .architectures
                .first()
                .filter(|name| name.len() <= 64 && name.chars().all(|c| c.is_ascii_alphanumeric()))
                .cloned()
                .unwrap_or_else(|| "BertModel".to_owned()),
            vocabulary: within("vocab_size", config.vocab_size, 1 << 22)?,
            hidden,
            layers: within("num_hidden_layers", config.num_hidden_layers, 256)?,
            heads,
            intermediate: within("intermediate_size", config.intermediate_size, 1 << 16)?,
            positions,
            token_types: within("type_vocab_size", config.type_vocab_size, 1 << 10)?,
            epsilon: config.layer_norm_eps as f32,
            activation,
            max_tokens,
            lower_case: sentence.do_lower_case,
            pooling: match &modules.pooling {
                Some(folder) => pooling(&folder.join("config.json"), hidden)?,
                None => Pooling::Mean,
            },
            transformer: modules.transformer,
        })
    }
}

/// Where the parts of a sentence-transformers folder are.
struct Modules {
    transformer: PathBuf,
    pooling: Option<PathBuf>,
}

fn modules(folder: &Path) -> Result<Modules, LoadError> {
    let path = folder.join("modules.json");
    let Some(list) = read_json_if_there::<Vec<Module>>(&path)? else {
        // A bare transformer: its tokens' mean, as sentence-transformers does.
        return Ok(Modules {
            transformer: folder.to_owned(),
            pooling: None,
        });
    };
    let mut found = Modules {
        transformer: PathBuf::new(),
        pooling: None,
    };
    let mut names = Vec::new();
    for module in &list {
        let inside = Path::new(&module.path)
            .components()
            .all(|part| matches!(part, Component::Normal(_)));
        if !inside {
            return Err(LoadError::Malformed {
                path,
                reason: format!("module path {:?} leads out of the folder", module.path),
            });
        }
        let name = module.r#type.rsplit('.').next().unwrap_or_default();
        match name {
            "Transformer" => found.transformer = folder.join(&module.path),
            "Pooling" => found.pooling = Some(folder.join(&module.path)),
            // Embeddings are brought to length 1 in any case.
            "Normalize" => {}
            other => return unsupported(&path, format!("a module of type {other:?}")),
        }
        names.push(name);
    }
    if !matches!(
        names.as_slice(),
        ["Transformer"] | ["Transformer", "Pooling"] | ["Transformer", "Pooling", "Normalize"]
    ) {
        return unsupported(&path, format!("the sequence of modules {names:?}"));
    }
    Ok(found)
}

fn pooling(path: &Path, hidden: usize) -> Result<Pooling, LoadError> {
    let config: PoolingConfig = read_json(path)?;
    if let Some(width) = config
        .word_embedding_dimension
        .or(config.embedding_dimension)
        && width != hidden as u64
    {
        return Err(LoadError::OutOfRange {
            path: path.to_owned(),
            field: "word_embedding_dimension",
            value: width.to_string(),
            range: format!("hidden_size, {hidden}"),
        });
    }
    let mut modes = Vec::new();
    // Dividing by the square root of the length is the mean once the length is 1.
    for (on, name) in [
        (config.pooling_mode_cls_token, "cls"),
        (config.pooling_mode_mean_tokens, "mean"),
        (config.pooling_mode_mean_sqrt_len_tokens, "mean"),
        (config.pooling_mode_max_tokens, "max"),
        (config.pooling_mode_weightedmean_tokens, "weightedmean"),
        (config.pooling_mode_lasttoken, "lasttoken"),
    ] {
        if on {
            modes.push(name);
        }
    }
    if let (true, Some(mode)) = (modes.is_empty(), &config.pooling_mode) {
        modes.push(mode);
    }
    match modes.as_slice() {
        ["cls"] => Ok(Pooling::First),
        ["mean" | "mean_sqrt_len_tokens"] => Ok(Pooling::Mean),
        ["max"] => Ok(Pooling::Max),
        other => unsupported(path, format!("pooling by {other:?}")),
    }
}

fn unsupported<T>(path: &Path, feature: String) -> Result<T, LoadError> {
    Err(LoadError::Unsupported {
        path: path.to_owned(),
        feature,
    })
}

fn within(path: &Path, field: &'static str, value: u64, max: u64) -> Result<usize, LoadError> {
    match usize::try_from(value) {
        Ok(size) if value >= 1 && value <= max => Ok(size),
        _ => Err(LoadError::OutOfRange {
            path: path.to_owned(),
            field,
            value: value.to_string(),
            range: format!("1 to {max}"),
        }),
    }
}

/// Reads a whole file, unless it has more than `limit` bytes.
pub(crate) fn read_limited(path: &Path, limit: u64) -> Result<Vec<u8>, LoadError> {
    let io = |source| LoadError::Io {
        path: path.to_owned(),
        source,
    };
    let file = File::open(path).map_err(io)?;
    let bytes = file.metadata().map_err(io)?.len();
    let mut content = Vec::new();
    // The file may be growing, or be none that has a size: the limit holds for what is read.
    file.take(limit + 1).read_to_end(&mut content).map_err(io)?;
    if content.len() as u64 > limit {
        return Err(LoadError::TooLarge {
            path: path.to_owned(),
            bytes: bytes.max(limit + 1),
            limit,
        });
    }
    Ok(content)
}

fn read_json<T: DeserializeOwned>(path: &Path) -> Result<T, LoadError> {
    let content = read_limited(path, SETTINGS_LIMIT)?;
    serde_json::from_slice(&content).map_err(|error| LoadError::Malformed {
        path: path.to_owned(),
        reason: error.to_string(),
    })
}

fn read_json_if_there<T: DeserializeOwned>(path: &Path) -> Result<Option<T>, LoadError> {
    match read_json(path) {
        Err(LoadError::Io { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => {
            Ok(None)
        }
        other => other.map(Some),
    }
}
