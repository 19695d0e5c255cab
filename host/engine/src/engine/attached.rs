//! The adapters of an engine: added, opened and taken away while texts are written.
//!
//! What this module must never do: hold the engine up while it reads an adapter, which takes long where
//! all that it changes has to be measured.

use std::path::Path;

use skep_accounts::Account;
use skep_decoder::AdapterWeights;

use super::{Command, Engine};
use crate::adapters::{self, AdapterInfo, Lease, Residency, StoreError, StoreOptions};
use crate::error::EngineError;
use crate::scheduler::store_options;

impl Engine {
    /// Adds the adapter in a PEFT folder under a name that is free, or gives a name another
    /// version: requests in flight finish on the version they began with. The folder must stay as
    /// it is while the adapter is there.
    ///
    /// # Errors
    /// When it cannot be read, or is not one for this model.
    pub fn add_adapter(&self, name: &str, version: &str, folder: &Path) -> Result<(), EngineError> {
        self.add_read_by(name, version, folder, adapters::read)
    }

    /// The same for whoever has this account: what reading it takes is charged to the account before it is done
    /// ([`Lease::measuring_flops`]), and reading ends when that is cancelled or its time is over.
    ///
    /// # Errors
    /// As for [`Engine::add_adapter`], and [`EngineError::Quota`]; then nothing was added.
    pub fn add_adapter_for(
        &self,
        account: &Account,
        name: &str,
        version: &str,
        folder: &Path,
    ) -> Result<(), EngineError> {
        let read =
            |options: &StoreOptions, folder: &Path| adapters::read_for(account, options, folder);
        self.add_read_by(name, version, folder, read)
    }

    /// The same, of an adapter that `read` reads.
    fn add_read_by(
        &self,
        name: &str,
        version: &str,
        folder: &Path,
        read: impl FnOnce(&StoreOptions, &Path) -> Result<AdapterWeights, StoreError>,
    ) -> Result<(), EngineError> {
        let shared = &self.0.shared;
        let weights = read(&store_options(&shared.model, &shared.options), folder)?;
        shared
            .adapters()
            .put(name, version, folder.to_owned(), weights);
        Ok(())
    }

    /// Takes an adapter's name away; requests in flight finish on it.
    ///
    /// # Errors
    /// When there is none of that name.
    pub fn remove_adapter(&self, name: &str) -> Result<(), EngineError> {
        Ok(self.0.shared.adapters().remove(name)?)
    }

    /// Takes hold of the version that an adapter's name stands for now, and begins to bring it
    /// to the pool. While the lease is held the version can be used, whatever becomes of its name.
    ///
    /// # Errors
    /// When there is none of that name.
    pub fn open_adapter(&self, name: &str) -> Result<Lease, EngineError> {
        let shared = &self.0.shared;
        let lease = shared.adapters().acquire(name)?;
        shared.inbox().commands.push(Command::Fetch(lease.clone()));
        shared.wake.notify_all();
        Ok(lease)
    }

    /// Where an adapter is at the moment.
    pub fn residency(&self, adapter: &Lease) -> Residency {
        self.0.shared.adapters().residency(adapter)
    }

    /// All adapters, by name.
    pub fn adapters(&self) -> Vec<AdapterInfo> {
        self.0.shared.adapters().list()
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;
    use std::sync::Arc;
    use std::sync::mpsc::channel;
    use std::time::Duration;

    use skep_accounts::{Limits, QuotaKind};
    use skep_decoder::Decoder;
    use skep_kernels::Team;

    use super::*;
    use crate::grammars::Grammars;
    use crate::model::LanguageModel;
    use crate::request::{Caller, Priority, Request};
    use crate::scheduler::Options;

    /// Far longer than a few tokens take.
    const PATIENCE: Duration = Duration::from_secs(30);

    fn fixture(path: &str) -> PathBuf {
        PathBuf::from(env!("CARGO_MANIFEST_DIR"))
            .join("../decoder/tests")
            .join(path)
    }

    fn engine() -> Engine {
        let model = LanguageModel {
            name: "tiny".to_owned(),
            decoder: Arc::new(Decoder::load(&fixture("models/llama")).unwrap()),
            tokenizer: None,
            template: None,
            weights_bytes: 0,
            grammars: Grammars::default(),
            draft: None,
        };
        let options = Options {
            pages: 256,
            ..Options::default()
        };
        Engine::start(Arc::new(model), Arc::new(Team::new(1).unwrap()), options).unwrap()
    }

    /// The tokens of a text with an adapter.
    fn written(engine: &Engine, adapter: &str) -> Vec<u32> {
        let caller = Caller {
            account: Account::new(Limits::UNLIMITED),
            owner: 1,
            priority: Priority::Normal,
        };
        let request = Request {
            adapter: Some(adapter.to_owned()),
            ..Request::greedy((3..20).collect(), 4)
        };
        let mut texts = engine.generate(&caller, vec![request]).wait();
        texts.remove(0).unwrap().remove(0).tokens
    }

    #[test]
    fn texts_are_written_while_an_adapter_is_being_read() {
        let engine = engine();
        let [there, new] = ["adapters/plain", "adapters/stable"].map(fixture);
        engine.add_adapter("there", "1", &there).unwrap();
        let expected = written(&engine, "there");
        let asked = engine.clone();
        let read = move |options: &StoreOptions, folder: &Path| {
            let (sender, answer) = channel();
            std::thread::spawn(move || {
                let _open = asked.open_adapter("there").unwrap();
                // Nobody listens any more if it took too long.
                let _ = sender.send(written(&asked, "there"));
            });
            let answer = answer.recv_timeout(PATIENCE);
            assert_eq!(answer, Ok(expected), "nothing waits for what is read");
            adapters::read(options, folder)
        };
        engine.add_read_by("new", "1", &new, read).unwrap();
        let names: Vec<String> = engine
            .adapters()
            .into_iter()
            .map(|info| info.name)
            .collect();
        assert_eq!(names, ["new", "there"]);
    }

    #[test]
    fn reading_is_charged_to_who_asks_and_one_that_is_refused_is_not_there() {
        let engine = engine();
        let [plain, dora] = ["adapters/plain", "adapters/dora"].map(fixture);
        let add = |account: &Account, name: &str| engine.add_adapter_for(account, name, "1", &dora);
        let account = Account::unlimited();
        add(&account, "dora").unwrap();
        let flops = account.usage().flops;
        assert!(flops > 0);
        let lease = engine.open_adapter("dora").unwrap();
        assert_eq!(lease.measuring_flops(), flops);
        // What has no magnitudes costs nothing.
        let added = engine.add_adapter_for(&account, "plain", "1", &plain);
        added.unwrap();
        assert_eq!(account.usage().flops, flops);
        let lease = engine.open_adapter("plain").unwrap();
        assert_eq!(lease.measuring_flops(), 0);

        let poor = Account::new(Limits {
            device_work: flops - 1,
            ..Limits::UNLIMITED
        });
        let cancelled = Account::unlimited();
        cancelled.cancel();
        for (account, quota) in [
            (&poor, QuotaKind::DeviceWork),
            (&cancelled, QuotaKind::Time),
        ] {
            let refused = add(account, "other").unwrap_err();
            assert!(
                matches!(&refused, EngineError::Quota(error) if error.quota == quota),
                "{refused}"
            );
            assert_eq!(account.usage().flops, 0);
            assert!(engine.open_adapter("other").is_err());
        }
        assert_eq!(engine.adapters().len(), 2);
        assert!(!written(&engine, "dora").is_empty());
    }
}
