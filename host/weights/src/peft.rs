//! What `adapter_config.json` says, as the Python library PEFT writes it, of adapters of decoders and of
//! encoders alike.
//!
//! Patterns are Python's regular expressions, as [`ModulePattern`] reads them.

use std::fmt;
use std::io::Read;
use std::marker::PhantomData;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde::de::{MapAccess, Visitor};
use serde_json::Value;

use crate::pattern::{ModulePattern, PATTERN_BYTES, PatternError};

/// The largest `adapter_config.json` that is read.
const LARGEST: u64 = 1 << 20;
/// The most patterns of one kind.
const PATTERNS: usize = 1024;
/// The largest programs that all patterns of one kind together may become, in bytes: each is tried on
/// each module, in time proportional to its program. A module's whole name, whose dots are any letter
/// of Unicode, takes about ten kilobytes.
const ALL_PATTERNS_BYTES: usize = 16 << 20;

/// Settings that must not be set, because the adapter would be neither plain LoRA nor DoRA with them.
const REFUSED: [&str; 12] = [
    "use_qalora",
    "use_bdlora",
    "lora_bias",
    "fan_in_fan_out",
    "layer_replication",
    "megatron_config",
    "trainable_token_indices",
    "target_parameters",
    "alora_invocation_tokens",
    "arrow_config",
    "kasa_config",
    "monteclora_config",
];

/// Ways to begin a training that leave the base as it is.
const BEGINNINGS: [&str; 3] = ["gaussian", "eva", "orthogonal"];

/// Why an `adapter_config.json` could not be used.
#[derive(Debug, thiserror::Error)]
pub enum PeftError {
    /// The file cannot be read.
    #[error("cannot read {path}: {source}")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The file is not what an adapter's looks like.
    #[error("{path} is not an adapter's: {reason}")]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The adapter is neither LoRA nor DoRA on linear layers.
    #[error(
        "{path}: {what} is not supported; an adapter here is LoRA or DoRA on the linear layers"
    )]
    Unsupported {
        /// The file.
        path: PathBuf,
        /// What.
        what: String,
    },
}

/// What an adapter's configuration says.
#[derive(Debug)]
pub struct PeftConfig {
    /// The base that it says it was made for: `base_model_name_or_path`.
    pub named_base: Option<String>,
    /// The modules that it brings whole beside its matrices: `modules_to_save`.
    pub saved: Vec<String>,
    rank: usize,
    alpha: f64,
    rank_stabilized: bool,
    magnitudes: bool,
    targets: Modules,
    excluded: Modules,
    layers: Option<Vec<usize>>,
    ranks: Vec<(ModulePattern, usize)>,
    alphas: Vec<(ModulePattern, f64)>,
}

/// A choice of a model's modules.
#[derive(Debug)]
enum Modules {
    None,
    AllLinear,
    /// Names, or ends of names after a dot.
    Named(Vec<String>),
    Pattern(ModulePattern),
}

impl Modules {
    fn has(&self, module: &str) -> bool {
        match self {
            Modules::None => false,
            Modules::AllLinear => true,
            Modules::Named(names) => names.iter().any(|name| {
                let before = module.strip_suffix(name.as_str());
                before.is_some_and(|before| before.is_empty() || before.ends_with('.'))
            }),
            Modules::Pattern(pattern) => pattern.matches(module),
        }
    }
}

#[derive(Deserialize)]
struct Json {
    peft_type: Option<String>,
    base_model_name_or_path: Option<String>,
    r: Option<usize>,
    lora_alpha: Option<f64>,
    use_rslora: Option<bool>,
    use_dora: Option<bool>,
    bias: Option<String>,
    init_lora_weights: Option<Value>,
    target_modules: Option<Value>,
    exclude_modules: Option<Value>,
    layers_to_transform: Option<Value>,
    rank_pattern: Option<InOrder<usize>>,
    alpha_pattern: Option<InOrder<f64>>,
    modules_to_save: Option<Vec<String>>,
    #[serde(flatten)]
    others: serde_json::Map<String, Value>,
}

/// An object's entries as they are written: of several patterns that match, the first counts.
struct InOrder<T>(Vec<(String, T)>);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for InOrder<T> {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Entries<T>(PhantomData<T>);
        impl<'de, T: Deserialize<'de>> Visitor<'de> for Entries<T> {
            type Value = InOrder<T>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object of patterns")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<InOrder<T>, A::Error> {
                let mut all = Vec::new();
                while let Some(entry) = map.next_entry()? {
                    all.push(entry);
                }
                Ok(InOrder(all))
            }
        }
        deserializer.deserialize_map(Entries(PhantomData))
    }
}

impl PeftConfig {
    /// Reads `adapter_config.json` of this folder.
    ///
    /// # Errors
    /// [`PeftError`].
    pub fn read(folder: &Path) -> Result<Self, PeftError> {
        let path = folder.join("adapter_config.json");
        let failed = |source| PeftError::Read {
            path: path.clone(),
            source,
        };
        if !std::fs::metadata(&path).map_err(failed)?.is_file() {
            return Err(failed(std::io::Error::other("it is not a regular file")));
        }
        let mut text = Vec::new();
        std::fs::File::open(&path)
            .and_then(|file| file.take(LARGEST + 1).read_to_end(&mut text))
            .map_err(failed)?;
        Parser { path }.config(&text)
    }

    /// The base that it says it was made for, as an error should repeat it.
    pub fn base_in_words(&self) -> String {
        let named = self.named_base.as_deref();
        let named = named.unwrap_or("a base without a name");
        named.chars().take(200).collect()
    }

    /// Whether the configuration says that this module of this layer is changed.
    pub fn targets(&self, module: &str, layer: usize) -> bool {
        if self.excluded.has(module) || !self.targets.has(module) {
            return false;
        }
        match (&self.targets, &self.layers) {
            // A pattern says by itself which layers it means.
            (Modules::Pattern(_), _) | (_, None) => true,
            (_, Some(layers)) => layers.contains(&layer),
        }
    }

    /// The rank that a module is said to have.
    pub fn rank(&self, module: &str) -> usize {
        first_match(&self.ranks, module).unwrap_or(self.rank)
    }

    /// The alpha that a module is said to have.
    pub fn alpha(&self, module: &str) -> f64 {
        first_match(&self.alphas, module).unwrap_or(self.alpha)
    }

    /// Whether every module has a vector of magnitudes beside its matrices: `use_dora` (DoRA, arXiv
    /// 2402.09353, section 4).
    pub fn magnitudes(&self) -> bool {
        self.magnitudes
    }

    /// What a module's product is multiplied with: `alpha / rank`, or rank-stabilized
    /// `alpha / √rank` (arXiv 2312.03732, theorem 3.2).
    pub fn scale(&self, module: &str, rank: usize) -> f64 {
        let alpha = self.alpha(module);
        match self.rank_stabilized {
            true => alpha / (rank as f64).sqrt(),
            false => alpha / rank as f64,
        }
    }
}

fn first_match<T: Copy>(patterns: &[(ModulePattern, T)], module: &str) -> Option<T> {
    let found = patterns.iter().find(|(p, _)| p.matches(module));
    found.map(|(_, value)| *value)
}

struct Parser {
    path: PathBuf,
}

impl Parser {
    fn config(&self, text: &[u8]) -> Result<PeftConfig, PeftError> {
        if text.len() as u64 > LARGEST {
            return Err(self.malformed(format!("it has more than {LARGEST} bytes")));
        }
        let json: Json = serde_json::from_slice(text).map_err(|error| self.malformed(error))?;
        match json.peft_type.as_deref() {
            Some("LORA") => {}
            Some(other) => return Err(self.unsupported(format!("the kind {:?}", short(other)))),
            None => return Err(self.malformed("it has no \"peft_type\"")),
        }
        for name in REFUSED {
            if json.others.get(name).is_some_and(is_set) {
                return Err(self.unsupported(format!("{name:?}")));
            }
        }
        match json.bias.as_deref() {
            None | Some("none") => {}
            Some(other) => return Err(self.unsupported(format!("the bias {:?}", short(other)))),
        }
        match &json.init_lora_weights {
            None | Some(Value::Null | Value::Bool(_)) => {}
            Some(Value::String(name)) if BEGINNINGS.contains(&name.as_str()) => {}
            Some(other) => {
                let other = short(&other.to_string());
                let what = format!("a base changed by \"init_lora_weights\": {other}");
                return Err(self.unsupported(what));
            }
        }
        let targets = match &json.target_modules {
            Some(Value::String(name)) if name == "all-linear" => Modules::AllLinear,
            other => self.modules("target_modules", other.as_ref())?,
        };
        if matches!(targets, Modules::None) {
            return Err(self.malformed("it has no \"target_modules\""));
        }
        let alpha = json.lora_alpha.unwrap_or(8.0);
        let alphas = json.alpha_pattern.map_or(Vec::new(), |patterns| patterns.0);
        if !alphas.iter().all(|(_, alpha)| alpha.is_finite()) || !alpha.is_finite() {
            return Err(self.malformed("an \"alpha\" is not finite"));
        }
        Ok(PeftConfig {
            named_base: json.base_model_name_or_path,
            saved: json.modules_to_save.unwrap_or_default(),
            rank: json.r.unwrap_or(8),
            alpha,
            rank_stabilized: json.use_rslora.unwrap_or(false),
            magnitudes: json.use_dora.unwrap_or(false),
            targets,
            excluded: self.modules("exclude_modules", json.exclude_modules.as_ref())?,
            layers: self.layers(json.layers_to_transform.as_ref())?,
            ranks: self.patterns(json.rank_pattern.map_or(Vec::new(), |patterns| patterns.0))?,
            alphas: self.patterns(alphas)?,
        })
    }

    fn modules(&self, name: &str, value: Option<&Value>) -> Result<Modules, PeftError> {
        match value {
            None | Some(Value::Null) => Ok(Modules::None),
            Some(Value::String(pattern)) => {
                let whole = ModulePattern::whole(pattern, PATTERN_BYTES);
                self.known(pattern, whole).map(Modules::Pattern)
            }
            Some(Value::Array(names)) if names.len() <= PATTERNS => names
                .iter()
                .map(|name| name.as_str().map(str::to_owned))
                .collect::<Option<_>>()
                .map(Modules::Named)
                .ok_or_else(|| self.malformed(format!("{name:?} has what is no name"))),
            Some(_) => Err(self.malformed(format!("{name:?} is no list of names"))),
        }
    }

    fn layers(&self, value: Option<&Value>) -> Result<Option<Vec<usize>>, PeftError> {
        let number = |value: &Value| {
            let number = value.as_u64().and_then(|n| usize::try_from(n).ok());
            number.ok_or_else(|| self.malformed("\"layers_to_transform\" are no layers"))
        };
        match value {
            None | Some(Value::Null) => Ok(None),
            Some(Value::Array(all)) if all.is_empty() => Ok(None),
            Some(Value::Array(all)) => all.iter().map(number).collect::<Result<_, _>>().map(Some),
            Some(one) => Ok(Some(vec![number(one)?])),
        }
    }

    /// Patterns that match a module's name or what of it comes after a dot.
    fn patterns<T>(&self, all: Vec<(String, T)>) -> Result<Vec<(ModulePattern, T)>, PeftError> {
        if all.len() > PATTERNS {
            return Err(self.malformed(format!("it has more than {PATTERNS} patterns")));
        }
        let most = PATTERN_BYTES.min(ALL_PATTERNS_BYTES / all.len().max(1));
        all.into_iter()
            .map(|(pattern, value)| {
                let read = ModulePattern::after_a_dot(&pattern, most);
                Ok((self.known(&pattern, read)?, value))
            })
            .collect()
    }

    fn known(
        &self,
        pattern: &str,
        read: Result<ModulePattern, PatternError>,
    ) -> Result<ModulePattern, PeftError> {
        read.map_err(|_| self.unsupported(format!("the pattern {:?}", short(pattern))))
    }

    fn malformed(&self, reason: impl ToString) -> PeftError {
        PeftError::Malformed {
            path: self.path.clone(),
            reason: reason.to_string(),
        }
    }

    fn unsupported(&self, what: String) -> PeftError {
        PeftError::Unsupported {
            path: self.path.clone(),
            what,
        }
    }
}

/// Whether a setting is anything but off.
fn is_set(value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(false) => false,
        Value::Array(all) => !all.is_empty(),
        Value::Object(all) => !all.is_empty(),
        _ => true,
    }
}

/// As much of what a file says as an error should repeat.
fn short(text: &str) -> String {
    text.chars().take(100).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<PeftConfig, PeftError> {
        let path = PathBuf::from("adapter_config.json");
        Parser { path }.config(text.as_bytes())
    }

    fn with(settings: &str) -> Result<PeftConfig, PeftError> {
        parse(&format!(
            r#"{{"peft_type": "LORA", "target_modules": ["q_proj"], "r": 4, "lora_alpha": 8,
                "lora_dropout": 0.1, "megatron_core": "megatron.core", "modules_to_save": null,
                "use_dora": false, "layer_replication": [] {settings}}}"#
        ))
    }

    const QUERY: &str = "model.layers.3.self_attn.q_proj";

    #[test]
    fn modules_are_chosen_as_peft_does() {
        let by_name = with("").unwrap();
        assert!(by_name.targets(QUERY, 3));
        assert!(!by_name.targets("model.layers.3.self_attn.xq_proj", 3));
        assert!(!by_name.targets("model.layers.3.self_attn.k_proj", 3));
        let some = with(r#", "layers_to_transform": [1, 2]"#).unwrap();
        assert!(some.targets(QUERY, 2) && !some.targets(QUERY, 3));
        let one = with(r#", "layers_to_transform": 3"#).unwrap();
        assert!(one.targets(QUERY, 3) && !one.targets(QUERY, 2));
        let without = with(r#", "exclude_modules": ["q_proj"]"#).unwrap();
        assert!(!without.targets(QUERY, 3));
        let all = parse(r#"{"peft_type": "LORA", "target_modules": "all-linear"}"#).unwrap();
        assert!(all.targets("model.layers.0.mlp.up_proj", 0));
        let pattern = r#"{"peft_type": "LORA", "target_modules": ".*\\.[0-3]\\.self_attn\\..*"}"#;
        let pattern = parse(pattern).unwrap();
        assert!(pattern.targets(QUERY, 3));
        assert!(!pattern.targets("model.layers.13.self_attn.q_proj", 13));
        assert!(!pattern.targets("model.layers.3.mlp.up_proj", 3));
    }

    #[test]
    fn the_first_pattern_that_matches_counts() {
        let config = with(
            r#", "rank_pattern": {"layers.3.self_attn.q_proj": 16, "q_proj": 2},
                "alpha_pattern": {"z": 1, "[qk]_proj": 32, "q_proj": 64}"#,
        )
        .unwrap();
        assert_eq!((config.rank(QUERY), config.scale(QUERY, 16)), (16, 2.0));
        let other = "model.layers.4.self_attn.q_proj";
        assert_eq!((config.rank(other), config.scale(other, 2)), (2, 16.0));
        assert_eq!((config.alpha(QUERY), config.alpha(other)), (32.0, 32.0));
        let up = "model.layers.4.mlp.up_proj";
        assert_eq!((config.rank(up), config.alpha(up)), (4, 8.0));
        let saved = with("").unwrap().saved;
        assert!(saved.is_empty(), "{saved:?}");
        let stable = with(r#", "use_rslora": true"#).unwrap();
        assert_eq!(stable.scale(QUERY, 4), 4.0);
    }

    #[test]
    fn each_module_of_a_large_model_can_have_a_rank_by_its_whole_name() {
        let name = |layer: usize| format!("base_model.model.model.layers.{layer}.self_attn.q_proj");
        let ranks = (0..PATTERNS).map(|layer| format!("{:?}: {}", name(layer), layer + 1));
        let ranks: Vec<String> = ranks.collect();
        let config = with(&format!(", \"rank_pattern\": {{{}}}", ranks.join(",")));
        let config = config.unwrap();
        assert_eq!(config.rank(&name(0)), 1);
        assert_eq!(config.rank(&name(PATTERNS - 1)), PATTERNS);
    }

    #[test]
    fn magnitudes_are_there_when_the_configuration_says_so() {
        let of = |settings: &str| {
            let text =
                format!(r#"{{"peft_type": "LORA", "target_modules": ["q_proj"] {settings}}}"#);
            parse(&text).map(|config| config.magnitudes())
        };
        assert!(of(r#", "use_dora": true"#).unwrap());
        assert!(!of(r#", "use_dora": false"#).unwrap());
        assert!(!of(r#", "use_dora": null"#).unwrap());
        assert!(!of("").unwrap());
        let error = of(r#", "use_dora": "yes""#).err().unwrap();
        assert!(matches!(error, PeftError::Malformed { .. }), "{error}");
    }

    #[test]
    fn what_is_neither_lora_nor_dora_is_refused_by_name() {
        for (settings, named) in [
            (r#", "use_qalora": true"#, "use_qalora"),
            (r#", "bias": "all""#, "all"),
            (r#", "lora_bias": true"#, "lora_bias"),
            (r#", "init_lora_weights": "pissa""#, "pissa"),
            (r#", "alpha_pattern": {"(?=q)q_proj": 1}"#, "(?=q)"),
            (r#", "rank_pattern": {"(x{999}){999}": 1}"#, "x{999}"),
        ] {
            let error = with(settings).err().unwrap();
            assert!(matches!(error, PeftError::Unsupported { .. }), "{error}");
            assert!(error.to_string().contains(named), "{error}");
        }
        let error = parse(r#"{"peft_type": "IA3"}"#).err().unwrap();
        assert!(error.to_string().contains("IA3"), "{error}");
        for text in [
            "",
            "{}",
            "[]",
            r#"{"peft_type": "LORA"}"#,
            r#"{"peft_type": "LORA", "target_modules": 3}"#,
            r#"{"peft_type": "LORA", "target_modules": [3]}"#,
            r#"{"peft_type": "LORA", "target_modules": [], "r": -1}"#,
            r#"{"peft_type": "LORA", "target_modules": [], "layers_to_transform": "a"}"#,
            r#"{"peft_type": "LORA", "target_modules": [], "rank_pattern": {"a": "b"}}"#,
        ] {
            let error = parse(text).err().unwrap();
            assert!(
                matches!(error, PeftError::Malformed { .. }),
                "{text}: {error}"
            );
        }
    }
}
