//! The models of a run that is done for somebody else: what does not open says why, and not where on this node's disk
//! it lies.
//!
//! # What it must never do
//!
//! - Show a guest a path of this node: it tells whom it likes, in its output or by how it fails.

use std::path::{Path, is_separator};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use skep_sandbox::{BaseModel, LanguageModel, ModelError, Models, TextAdapter, TextEncoder};
use skep_tensor::Account;

use super::RunModels;

/// The models that a run for somebody else may open.
pub struct ForOthers {
    models: RunModels,
    /// Whether the owner's log has what did not open: once is enough, however often a guest tries.
    is_logged: AtomicBool,
}

impl ForOthers {
    /// These, of which a guest hears less.
    pub fn new(models: RunModels) -> Self {
        let is_logged = AtomicBool::new(false);
        Self { models, is_logged }
    }

    /// What a guest hears of an error.
    fn told(&self, error: ModelError) -> ModelError {
        match error {
            ModelError::Invalid(text) => ModelError::Invalid(self.cut(text)),
            ModelError::Failed(text) => ModelError::Failed(self.cut(text)),
            // The one is what the guest itself asked for, and the other a number.
            error @ (ModelError::NotFound(_) | ModelError::Quota(_)) => error,
        }
    }

    fn cut(&self, text: String) -> String {
        let cut = without_folders(&text, self.models.home.path());
        if cut != text && !self.is_logged.swap(true, Ordering::Relaxed) {
            tracing::warn!(why = %text, "a model or an adapter does not open for somebody's job");
        }
        cut
    }
}

impl Models for ForOthers {
    fn open(&self, name: &str, account: &Account) -> Result<Arc<dyn TextEncoder>, ModelError> {
        let opened = self.models.open(name, account);
        opened.map_err(|error| self.told(error))
    }

    fn open_text(
        &self,
        name: &str,
        account: &Account,
    ) -> Result<Arc<dyn LanguageModel>, ModelError> {
        let opened = self.models.open_text(name, account);
        opened.map_err(|error| self.told(error))
    }

    fn open_base(&self, name: &str, account: &Account) -> Result<BaseModel, ModelError> {
        let opened = self.models.open_base(name, account);
        opened.map_err(|error| self.told(error))
    }

    fn open_adapter(
        &self,
        name: &str,
        account: &Account,
    ) -> Result<Arc<dyn TextAdapter>, ModelError> {
        let opened = self.models.open_adapter(name, account);
        opened.map_err(|error| self.told(error))
    }
}

/// A text in which of each path below this folder no more stays than what comes last in it.
fn without_folders(text: &str, folder: &Path) -> String {
    let folder = folder.display().to_string();
    let mut pieces = text.split(folder.as_str());
    let mut cut = pieces.next().unwrap_or_default().to_owned();
    for piece in pieces {
        let end = piece.find(char::is_whitespace).unwrap_or(piece.len());
        let last = piece[..end].rfind(is_separator);
        cut.push_str(&piece[last.map_or(0, |separator| separator + 1)..]);
    }
    cut
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::fs;

    use super::super::DefaultLanguage;
    use super::*;
    use crate::config::Config;
    use crate::embedded;
    use crate::home::Home;
    use crate::service::Service;

    #[test]
    fn of_a_path_below_a_folder_its_last_part_stays() {
        let folder = Path::new("/home/the owner/.skep");
        for (text, cut) in [
            (
                "the adapter a: /home/the owner/.skep/swarm/packages/5c/files/a.safetensors: no F32",
                "the adapter a: a.safetensors: no F32",
            ),
            (
                "/home/the owner/.skep/embedded/1 and (/home/the owner/.skep/embedded/2)",
                "1 and (2)",
            ),
            ("cannot read /home/the owner/.skep", "cannot read "),
            ("/usr/lib/skep is elsewhere", "/usr/lib/skep is elsewhere"),
            ("", ""),
        ] {
            assert_eq!(without_folders(text, folder), cut);
        }
    }

    #[test]
    fn a_guest_of_somebody_else_s_hears_why_a_model_does_not_open_and_not_where_it_lies() {
        let folder = tempfile::tempdir().unwrap();
        let home = folder.path().join("home");
        skep_tests::set_up(&home).unwrap();
        let home = Home::open(Some(home)).unwrap();
        let service = Service::new(home.clone(), Config::load(&home).unwrap()).unwrap();
        let models = || RunModels {
            node: Arc::clone(&service.models),
            encoder: embedded::ENCODER.digest().to_string(),
            language: DefaultLanguage::Embedded,
            trained_encoder: None,
            adapters: None,
            voices: Vec::new(),
            applied: None,
            home: home.clone(),
        };
        // The folder of the model is there, and the model is not in it.
        let digest = embedded::LANGUAGE.digest().to_string();
        fs::create_dir_all(home.embedded().join(&digest)).unwrap();
        let open = |models: &dyn Models| {
            let opened = models.open_text("default", &Account::unlimited());
            opened.err().unwrap().to_string()
        };
        let path = home.path().display().to_string();
        let owners = open(&models());
        assert!(owners.contains(&path), "{owners}");
        let told = open(&ForOthers::new(models()));
        assert!(!told.contains(&path), "{told}");
        assert_eq!(
            told,
            format!("{digest}: there is no model in it: neither config.json nor a GGUF file")
        );
    }
}
