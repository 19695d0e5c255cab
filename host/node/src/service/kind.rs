//! What kind of model lies at a path, by what is in it and not by what it is called.

use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use skep_model::Encoder;
use skep_registry::ModelTask;
use skep_tensor::Device;

use crate::failure::{Failure, FailureKind};
use crate::requests::ModelLine;

/// Bytes that a `config.json` may have.
const CONFIG: u64 = 1 << 20;

/// A model on the disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// What it does.
    pub task: ModelTask,
    /// What is loaded: a folder, or the first part of a GGUF file.
    pub path: PathBuf,
}

#[derive(Deserialize)]
struct Config {
    model_type: Option<String>,
}

impl Found {
    /// Looks at a folder or a file.
    ///
    /// # Errors
    /// When it is none of the forms that models come in.
    pub fn at(path: &Path) -> Result<Self, Failure> {
        if path.is_file() {
            return match is_gguf(path) {
                true => Ok(Self {
                    task: ModelTask::LanguageModel,
                    path: first_part(path),
                }),
                false => Err(Failure::new(
                    FailureKind::Usage,
                    format!(
                        "{} is no GGUF file; a model is such a file, or a folder with config.json, \
                         the tokenizer and the weights",
                        path.display()
                    ),
                )),
            };
        }
        let config = path.join("config.json");
        if config.is_file() {
            let bert = model_type(&config)?.as_deref() == Some("bert");
            return Ok(Self {
                task: match bert || path.join("modules.json").is_file() {
                    true => ModelTask::SentenceEncoder,
                    false => ModelTask::LanguageModel,
                },
                path: path.to_path_buf(),
            });
        }
        // The configuration of an encoder may lie one level down, with its modules.
        if path.join("modules.json").is_file() {
            return Ok(Self {
                task: ModelTask::SentenceEncoder,
                path: path.to_path_buf(),
            });
        }
        Ok(Self {
            task: ModelTask::LanguageModel,
            path: only_gguf(path)?,
        })
    }

    /// The files that belong to it, where it is not all that lies in a folder.
    pub fn parts(&self) -> Result<Option<Vec<PathBuf>>, Failure> {
        if self.path.is_dir() {
            return Ok(None);
        }
        let Some((front, _, total)) = split_name(&self.path) else {
            return Ok(Some(vec![self.path.clone()]));
        };
        let folder = self.path.parent().unwrap_or(Path::new("."));
        let parts: Vec<PathBuf> = (1..=total)
            .map(|number| folder.join(format!("{front}-{number:05}-of-{total:05}.gguf")))
            .collect();
        match parts.iter().find(|part| !part.is_file()) {
            Some(missing) => Err(Failure::new(
                FailureKind::NotFound,
                format!("{} is missing, a part of the model", missing.display()),
            )),
            None => Ok(Some(parts)),
        }
    }

    /// Loads it and forgets it again: whether it is a model indeed, and which.
    ///
    /// # Errors
    /// Why it cannot be used.
    pub fn try_load(&self, device: &Device) -> Result<ModelLine, Failure> {
        match self.task {
            ModelTask::SentenceEncoder => {
                let encoder = Encoder::load(&self.path, device)
                    .map_err(|error| Failure::of(FailureKind::Refused, &error))?;
                let info = encoder.info();
                Ok(ModelLine {
                    task: self.task.to_string(),
                    architecture: info.architecture.clone(),
                    context: info.max_tokens,
                    dimensions: info.dimensions,
                    weights_bytes: info.resident_bytes,
                })
            }
            ModelTask::LanguageModel => {
                let name = self.path.display().to_string();
                let model = skep_engine::LanguageModel::load(&name, &self.path)
                    .map_err(|error| Failure::of(FailureKind::Refused, &error))?;
                let config = model.decoder.config();
                Ok(ModelLine {
                    task: self.task.to_string(),
                    architecture: config.architecture.name().to_owned(),
                    context: u32::try_from(config.context).unwrap_or(u32::MAX),
                    dimensions: u32::try_from(config.width).unwrap_or(u32::MAX),
                    weights_bytes: model.weights_bytes,
                })
            }
        }
    }
}

fn is_gguf(path: &Path) -> bool {
    let mut magic = [0; 4];
    let read = File::open(path).and_then(|mut file| file.read_exact(&mut magic));
    read.is_ok() && &magic == b"GGUF"
}

fn model_type(config: &Path) -> Result<Option<String>, Failure> {
    let refused = |reason: String| {
        Failure::new(
            FailureKind::Refused,
            format!("{}: {reason}", config.display()),
        )
    };
    let mut text = Vec::new();
    let file = File::open(config).map_err(|error| refused(error.to_string()))?;
    file.take(CONFIG + 1)
        .read_to_end(&mut text)
        .map_err(|error| refused(error.to_string()))?;
    if text.len() as u64 > CONFIG {
        return Err(refused(format!("it has more than {CONFIG} bytes")));
    }
    let config: Config =
        serde_json::from_slice(&text).map_err(|error| refused(error.to_string()))?;
    Ok(config.model_type)
}

/// The one model in GGUF files of a folder.
fn only_gguf(folder: &Path) -> Result<PathBuf, Failure> {
    let failed =
        |kind, reason: String| Failure::new(kind, format!("{}: {reason}", folder.display()));
    let entries =
        fs::read_dir(folder).map_err(|error| failed(FailureKind::NotFound, error.to_string()))?;
    let mut found: Vec<PathBuf> = entries
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| path.extension().is_some_and(|ending| ending == "gguf") && is_gguf(path))
        // Of a model in parts, the first stands for all.
        .filter(|path| split_name(path).is_none_or(|(_, number, _)| number == 1))
        .collect();
    found.sort();
    match found.len() {
        0 => Err(failed(
            FailureKind::NotFound,
            "there is no model in it: neither config.json nor a GGUF file".to_owned(),
        )),
        1 => Ok(found.remove(0)),
        several => Err(failed(
            FailureKind::Usage,
            format!("it has {several} models; name the file of one of them"),
        )),
    }
}

/// The part that stands for all, of a model in parts, whichever is given.
fn first_part(path: &Path) -> PathBuf {
    match split_name(path) {
        Some((front, _, total)) => path.with_file_name(format!("{front}-00001-of-{total:05}.gguf")),
        None => path.to_path_buf(),
    }
}

/// Of `name-00001-of-00003.gguf`: the name, the part and the number of parts.
pub fn split_name(path: &Path) -> Option<(&str, u32, u32)> {
    /// Parts of one model at most.
    const PARTS: u32 = 1000;
    let stem = path.file_name()?.to_str()?.strip_suffix(".gguf")?;
    let (front, total) = stem.rsplit_once("-of-")?;
    let (front, number) = front.rsplit_once('-')?;
    let parse = |digits: &str| -> Option<u32> {
        (digits.len() == 5).then(|| digits.parse().ok()).flatten()
    };
    let (number, total) = (parse(number)?, parse(total)?);
    (1..=total.min(PARTS))
        .contains(&number)
        .then_some((front, number, total))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
mod tests {
    use super::*;

    fn folder(files: &[(&str, &str)]) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        for (name, content) in files {
            fs::write(folder.path().join(name), content).unwrap();
        }
        folder
    }

    fn found(files: &[(&str, &str)]) -> Result<(ModelTask, String), String> {
        let folder = folder(files);
        match Found::at(folder.path()) {
            Ok(found) => Ok((
                found.task,
                found
                    .path
                    .strip_prefix(folder.path())
                    .unwrap()
                    .display()
                    .to_string(),
            )),
            Err(failure) => Err(failure.to_string()),
        }
    }

    #[test]
    fn the_content_says_what_a_model_is() {
        use ModelTask::{LanguageModel, SentenceEncoder};
        let bert = ("config.json", r#"{"model_type": "bert"}"#);
        let llama = ("config.json", r#"{"model_type": "llama"}"#);
        assert_eq!(found(&[bert]).unwrap(), (SentenceEncoder, String::new()));
        assert_eq!(found(&[llama]).unwrap(), (LanguageModel, String::new()));
        let modules = ("modules.json", "[]");
        assert_eq!(found(&[llama, modules]).unwrap().0, SentenceEncoder);
        assert_eq!(found(&[modules]).unwrap().0, SentenceEncoder);
        let gguf = ("a.gguf", "GGUF…");
        let expected = (LanguageModel, "a.gguf".to_owned());
        assert_eq!(found(&[gguf, ("notes.txt", "GGUF")]).unwrap(), expected);
        let parts = [
            ("b-00002-of-00002.gguf", "GGUF"),
            ("b-00001-of-00002.gguf", "GGUF"),
        ];
        let expected = (LanguageModel, "b-00001-of-00002.gguf".to_owned());
        assert_eq!(found(&parts).unwrap(), expected);
    }

    #[test]
    fn what_is_no_model_is_said_to_be_none() {
        assert!(found(&[]).unwrap_err().contains("no model in it"));
        assert!(
            found(&[("a.gguf", "GGML")])
                .unwrap_err()
                .contains("no model in it")
        );
        let two = [("a.gguf", "GGUF"), ("b.gguf", "GGUF")];
        assert!(found(&two).unwrap_err().contains("2 models"));
        assert!(
            found(&[("config.json", "{")])
                .unwrap_err()
                .contains("config.json")
        );
        let folder = folder(&[("a.bin", "zip")]);
        let refused = Found::at(&folder.path().join("a.bin")).unwrap_err();
        assert!(refused.to_string().contains("no GGUF file"));
    }

    #[test]
    fn all_parts_of_a_model_belong_to_it() {
        let folder = folder(&[
            ("b-00001-of-00002.gguf", "GGUF"),
            ("c-00001-of-99999.gguf", "GGUF"),
        ]);
        let first = Found::at(&folder.path().join("b-00001-of-00002.gguf")).unwrap();
        assert!(
            first
                .parts()
                .unwrap_err()
                .to_string()
                .contains("b-00002-of-00002.gguf")
        );
        let second = folder.path().join("b-00002-of-00002.gguf");
        fs::write(&second, "GGUF").unwrap();
        assert_eq!(first.parts().unwrap().unwrap().len(), 2);
        assert_eq!(Found::at(&second).unwrap(), first);
        let many = Found::at(&folder.path().join("c-00001-of-99999.gguf")).unwrap();
        assert!(many.parts().is_err());
    }
}
