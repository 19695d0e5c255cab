//! The workloads that `skep new` starts from.
//!
//! A new workload is a folder that builds anywhere, from nothing but the language's own package
//! registry: it brings the contract with it, and in Rust the SDK. The sources are those that the
//! repository tests, taken in when this crate is compiled, so that a template cannot fall behind.
//!
//! This crate must never need the repository at run time.

#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic))]

mod sources;

use std::fs;
use std::io;
use std::path::Path;

/// A workload to start from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Template {
    /// A task in Rust: bytes in, bytes out.
    TaskRust,
    /// A task in Rust that writes with a language model.
    TextRust,
    /// A batch classifier in Rust.
    BatchClassifierRust,
    /// A batch classifier in Python.
    BatchClassifierPython,
    /// A batch classifier in JavaScript.
    BatchClassifierJs,
}

impl Template {
    /// All of them.
    pub const ALL: [Template; 5] = [
        Template::TaskRust,
        Template::TextRust,
        Template::BatchClassifierRust,
        Template::BatchClassifierPython,
        Template::BatchClassifierJs,
    ];

    /// Its name on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Template::TaskRust => "task-rust",
            Template::TextRust => "text-rust",
            Template::BatchClassifierRust => "batch-classifier-rust",
            Template::BatchClassifierPython => "batch-classifier-python",
            Template::BatchClassifierJs => "batch-classifier-js",
        }
    }

    /// The files of a workload called `name`, each with its path in the folder, whose parts are
    /// joined by `/`. The name has to be one that a package may have.
    pub fn files(self, name: &str) -> Vec<(String, String)> {
        let own: &[(&str, &str)] = match self {
            Template::TaskRust => sources::TASK_RUST,
            Template::TextRust => sources::TEXT_RUST,
            Template::BatchClassifierRust => sources::BATCH_CLASSIFIER_RUST,
            Template::BatchClassifierPython => sources::BATCH_CLASSIFIER_PYTHON,
            Template::BatchClassifierJs => sources::BATCH_CLASSIFIER_JS,
        };
        let mut files: Vec<(String, String)> = own
            .iter()
            .map(|(path, text)| ((*path).to_owned(), text.replace("{{name}}", name)))
            .collect();
        match self {
            Template::TaskRust | Template::TextRust | Template::BatchClassifierRust => {
                const VENDOR: &str = "vendor/skep-sdk";
                files.extend(
                    sources::SDK
                        .iter()
                        .map(|(path, text)| (format!("{VENDOR}/{path}"), vendored(text))),
                );
                files.extend(contract(VENDOR));
            }
            Template::BatchClassifierPython | Template::BatchClassifierJs => {
                files.extend(contract("."));
            }
        }
        files
    }

    /// Writes the files of a workload called `name` into `folder`, which must not exist yet.
    ///
    /// # Errors
    /// [`io::ErrorKind::AlreadyExists`] where the folder exists, and whatever else the file system
    /// says.
    pub fn write(self, name: &str, folder: &Path) -> io::Result<()> {
        if let Some(parent) = folder.parent() {
            fs::create_dir_all(parent)?;
        }
        fs::create_dir(folder)?;
        for (path, text) in self.files(name) {
            let path = folder.join(path);
            if let Some(parent) = path.parent() {
                fs::create_dir_all(parent)?;
            }
            fs::write(path, text)?;
        }
        Ok(())
    }
}

/// The contract, as the folder `wit` in `folder`.
fn contract(folder: &str) -> impl Iterator<Item = (String, String)> {
    let prefix = if folder == "." {
        String::new()
    } else {
        format!("{folder}/")
    };
    sources::WIT
        .iter()
        .map(move |(path, text)| (format!("{prefix}wit/{path}"), (*text).to_owned()))
}

/// A file of the SDK as it stands outside the repository: the contract lies within its own folder,
/// its workspace is that of the workload, and its examples stay behind.
fn vendored(text: &str) -> String {
    let text = text
        .split_once("\n# In the repository alone")
        .map_or(text, |(kept, _)| kept);
    text.replace("\"../../wit\"", "\"wit\"")
        .replace("workspace = \"../../guests\"\n", "")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;
    use std::path::PathBuf;

    fn repository() -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
    }

    /// All files below a folder, relative to it.
    fn below(folder: &Path) -> BTreeSet<String> {
        let mut found = BTreeSet::new();
        let mut open = vec![folder.to_owned()];
        while let Some(next) = open.pop() {
            for entry in fs::read_dir(next).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() {
                    open.push(path);
                } else {
                    let path = path.strip_prefix(folder).unwrap();
                    found.insert(path.to_str().unwrap().replace('\\', "/"));
                }
            }
        }
        found
    }

    #[test]
    fn nothing_of_the_contract_or_the_sdk_is_left_out() {
        let names = |files: &[(&str, &str)]| -> BTreeSet<String> {
            files.iter().map(|(path, _)| (*path).to_owned()).collect()
        };
        assert_eq!(names(sources::WIT), below(&repository().join("wit")));
        let mut sdk = below(&repository().join("sdk/rust/src"));
        sdk = sdk.into_iter().map(|path| format!("src/{path}")).collect();
        sdk.insert("Cargo.toml".to_owned());
        assert_eq!(names(sources::SDK), sdk);
    }

    #[test]
    fn no_file_leads_back_into_the_repository() {
        for template in Template::ALL {
            for (path, text) in template.files("my-workload") {
                assert!(!text.contains("../../"), "{}: {path}", template.name());
                assert!(!text.contains("{{name}}"), "{}: {path}", template.name());
            }
        }
    }

    #[test]
    fn the_manifest_bears_the_name_and_the_build_writes_where_it_says() {
        for template in Template::ALL {
            let files = template.files("my-workload");
            let file = |name: &str| {
                files
                    .iter()
                    .find(|(path, _)| path == name)
                    .map(|(_, text)| text)
            };
            let manifest: toml::Table = file("skep.toml").unwrap().parse().unwrap();
            assert_eq!(manifest["package"]["name"].as_str(), Some("my-workload"));
            let output = manifest["component"]["path"].as_str().unwrap();
            if let Some(package) = file("package.json") {
                assert!(package.contains(&format!("--out {output}")));
            }
            if let Some(ignored) = file(".gitignore") {
                assert!(ignored.contains("*.wasm"));
            }
        }
    }

    #[test]
    fn writes_a_folder_and_never_over_one() {
        let temporary = tempfile::tempdir().unwrap();
        let folder = temporary.path().join("new/my-workload");
        Template::TaskRust.write("my-workload", &folder).unwrap();
        let written = below(&folder);
        assert!(
            written.contains("vendor/skep-sdk/wit/deps/tensor/tensor.wit"),
            "{written:?}"
        );
        let again = Template::TaskRust
            .write("my-workload", &folder)
            .unwrap_err();
        assert_eq!(again.kind(), io::ErrorKind::AlreadyExists);
    }
}
