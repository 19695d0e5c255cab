//! How a folder's linear layers are quantized, from its settings.

use std::path::Path;

use serde::Deserialize;

use super::GroupedError;
use crate::source::read_up_to;

/// Files of settings are read up to this many bytes.
const SETTINGS_LIMIT: u64 = 1 << 20;
/// Elements that the repacked layout keeps together; a group is a multiple of it.
pub(super) const BLOCK: usize = 32;

/// Whose packing it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum GroupedMethod {
    /// Activation-aware weight quantization, as AutoAWQ's `gemm` version stores it.
    Awq,
    /// GPTQ, as AutoGPTQ and GPTQModel store it.
    Gptq,
}

/// How the linear layers of a model are quantized to four bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GroupedConfig {
    /// Whose packing it is.
    pub method: GroupedMethod,
    /// Inputs of a group, a multiple of 32; none if all inputs of a layer are one group.
    pub group: Option<usize>,
    /// Whether zero-points are stored with one subtracted.
    pub zeros_minus_one: bool,
}

#[derive(Deserialize)]
struct Outer {
    quantization_config: Option<Settings>,
}

/// The settings under all names that the two projects have used.
#[derive(Deserialize)]
struct Settings {
    quant_method: Option<String>,
    #[serde(alias = "w_bit")]
    bits: Option<u64>,
    #[serde(alias = "q_group_size")]
    group_size: Option<i64>,
    zero_point: Option<bool>,
    version: Option<serde_json::Value>,
    checkpoint_format: Option<String>,
}

impl GroupedConfig {
    /// Reads the settings of the model in `folder`: `quantization_config` of its `config.json`,
    /// or else the file of its own that the projects once wrote. None if it is not quantized.
    ///
    /// # Errors
    /// When a file is unsound, or asks for a quantization that is not supported.
    pub fn read(folder: &Path) -> Result<Option<Self>, GroupedError> {
        let path = folder.join("config.json");
        if let Some(content) = read_if_there(&path)? {
            let outer: Outer = parse(&path, &content)?;
            if let Some(settings) = outer.quantization_config {
                return settings.check(&path, None).map(Some);
            }
        }
        for (name, method) in [
            ("quantize_config.json", GroupedMethod::Gptq),
            ("quant_config.json", GroupedMethod::Awq),
        ] {
            let path = folder.join(name);
            if let Some(content) = read_if_there(&path)? {
                let settings: Settings = parse(&path, &content)?;
                return settings.check(&path, Some(method)).map(Some);
            }
        }
        Ok(None)
    }
}

impl Settings {
    fn check(
        self,
        path: &Path,
        default: Option<GroupedMethod>,
    ) -> Result<GroupedConfig, GroupedError> {
        let unsupported = |feature: String| GroupedError::Unsupported {
            path: path.to_owned(),
            feature,
        };
        let method = match (self.quant_method.as_deref(), default) {
            (Some("awq"), _) | (None, Some(GroupedMethod::Awq)) => GroupedMethod::Awq,
            (Some("gptq"), _) | (None, Some(GroupedMethod::Gptq)) => GroupedMethod::Gptq,
            (Some(other), _) => {
                return Err(unsupported(format!("the quantization {:?}", short(other))));
            }
            (None, None) => {
                return Err(GroupedError::Malformed {
                    path: path.to_owned(),
                    reason: "quantization_config has no quant_method".to_owned(),
                });
            }
        };
        if self.bits != Some(4) {
            let bits = self.bits.map_or_else(|| "no".to_owned(), |b| b.to_string());
            return Err(unsupported(format!("{bits} bits a weight")));
        }
        let group = match self.group_size {
            Some(-1) => None,
            Some(size) if size > 0 && size % BLOCK as i64 == 0 => usize::try_from(size).ok(),
            Some(size) => return Err(unsupported(format!("groups of {size}"))),
            None => return Err(unsupported("groups of no stated size".to_owned())),
        };
        let mut zeros_minus_one = false;
        match method {
            GroupedMethod::Awq => {
                if self.zero_point == Some(false) {
                    return Err(unsupported("AWQ without zero-points".to_owned()));
                }
                match self.version {
                    None => {}
                    Some(serde_json::Value::String(name)) if name.eq_ignore_ascii_case("gemm") => {}
                    Some(other) => {
                        let other = other.to_string();
                        let feature = format!("the AWQ packing {}", short(&other));
                        return Err(unsupported(feature));
                    }
                }
            }
            GroupedMethod::Gptq => match self.checkpoint_format.as_deref() {
                None | Some("gptq") => zeros_minus_one = true,
                Some("gptq_v2") => {}
                Some(other) => {
                    return Err(unsupported(format!("the GPTQ packing {:?}", short(other))));
                }
            },
        }
        Ok(GroupedConfig {
            method,
            group,
            zeros_minus_one,
        })
    }
}

/// As much of what a file says as an error should repeat.
fn short(text: &str) -> String {
    text.chars().take(64).collect()
}

fn read_if_there(path: &Path) -> Result<Option<Vec<u8>>, GroupedError> {
    match read_up_to(path, SETTINGS_LIMIT) {
        Ok(content) if content.len() as u64 > SETTINGS_LIMIT => Err(GroupedError::Malformed {
            path: path.to_owned(),
            reason: format!("it has more than {SETTINGS_LIMIT} bytes"),
        }),
        Ok(content) => Ok(Some(content)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(GroupedError::Io {
            path: path.to_owned(),
            source,
        }),
    }
}

fn parse<'a, T: Deserialize<'a>>(path: &Path, content: &'a [u8]) -> Result<T, GroupedError> {
    serde_json::from_slice(content).map_err(|error| GroupedError::Malformed {
        path: path.to_owned(),
        reason: error.to_string(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(file: &str, content: &str) -> Result<Option<GroupedConfig>, GroupedError> {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join(file), content).unwrap();
        GroupedConfig::read(folder.path())
    }

    fn within_config(settings: &str) -> Result<Option<GroupedConfig>, GroupedError> {
        read(
            "config.json",
            &format!(r#"{{"model_type": "llama", "quantization_config": {settings}}}"#),
        )
    }

    #[test]
    fn what_the_projects_write_is_read() {
        let awq = GroupedConfig {
            method: GroupedMethod::Awq,
            group: Some(128),
            zeros_minus_one: false,
        };
        let gptq = GroupedConfig {
            method: GroupedMethod::Gptq,
            group: None,
            zeros_minus_one: true,
        };
        let written = r#"{"quant_method": "awq", "bits": 4, "group_size": 128,
            "zero_point": true, "version": "gemm", "modules_to_not_convert": null}"#;
        assert_eq!(within_config(written).unwrap(), Some(awq));
        let old = r#"{"zero_point": true, "q_group_size": 128, "w_bit": 4, "version": "GEMM"}"#;
        assert_eq!(read("quant_config.json", old).unwrap(), Some(awq));
        let written = r#"{"quant_method": "gptq", "bits": 4, "group_size": -1,
            "desc_act": true, "sym": false}"#;
        assert_eq!(within_config(written).unwrap(), Some(gptq));
        assert_eq!(
            read("quantize_config.json", r#"{"bits": 4, "group_size": -1}"#).unwrap(),
            Some(gptq)
        );
        let second = r#"{"quant_method": "gptq", "bits": 4, "group_size": 64,
            "checkpoint_format": "gptq_v2"}"#;
        let read_second = within_config(second).unwrap().unwrap();
        assert!(!read_second.zeros_minus_one);
        assert_eq!(read("config.json", "{}").unwrap(), None);
    }

    #[test]
    fn other_quantizations_are_refused_by_name() {
        for (settings, named) in [
            (
                r#"{"quant_method": "bitsandbytes", "load_in_4bit": true}"#,
                "bitsandbytes",
            ),
            (
                r#"{"quant_method": "gptq", "bits": 3, "group_size": 128}"#,
                "3 bits",
            ),
            (
                r#"{"quant_method": "gptq", "bits": 4, "group_size": 0}"#,
                "groups of 0",
            ),
            (
                r#"{"quant_method": "gptq", "bits": 4, "group_size": -9}"#,
                "groups of -9",
            ),
            (r#"{"quant_method": "gptq", "bits": 4}"#, "no stated size"),
            (
                r#"{"quant_method": "gptq", "bits": 4, "group_size": 128,
                    "checkpoint_format": "marlin"}"#,
                "marlin",
            ),
            (
                r#"{"quant_method": "awq", "bits": 4, "group_size": 128, "version": "gemv"}"#,
                "gemv",
            ),
            (
                r#"{"quant_method": "awq", "bits": 4, "group_size": 128, "zero_point": false}"#,
                "without zero-points",
            ),
        ] {
            let error = within_config(settings).unwrap_err();
            assert!(matches!(error, GroupedError::Unsupported { .. }), "{error}");
            assert!(error.to_string().contains(named), "{error}");
        }
        for settings in ["3", "{}", r#"{"bits": "four"}"#, "{"] {
            let error = within_config(settings).unwrap_err();
            assert!(matches!(error, GroupedError::Malformed { .. }), "{error}");
        }
    }
}
