//! `skep:model/encoders`: models that the node shares among runs.
//!
//! Models run on the device's threads, and the guest waits suspended, so that a run whose time
//! is over ends even in the middle of a long call; the model's work then ends at its next look
//! at the run's account.

use std::sync::Arc;

use skep_tensor::Tensor;
use wasmtime::component::Resource;

use super::types::HostError;
use crate::bindings::task::skep::model::encoders::{EncoderInfo, Host, HostEncoder};
use crate::models::{ModelError, OpenEncoder};
use crate::state::State;

impl Host for State {}

impl HostEncoder for State {
    async fn open(&mut self, name: String) -> Result<Resource<OpenEncoder>, HostError> {
        self.host_calls += 1;
        if !self.spec.grants.allows_model(&name) {
            let name: String = name.chars().take(100).collect();
            return Err(HostError::denied(format!("grants.models: \"{name}\"")));
        }
        let Some(models) = self.spec.models.clone() else {
            return Err(HostError::from(ModelError::NotFound(name)));
        };
        // Loading is work of the node's, shared by all who use the model: nobody pays for it,
        // and the run's wall time goes on. The account is for an adapter that comes with the model.
        let account = self.account.clone();
        let encoder = self
            .threads
            .model(move || models.open(&name, &account))
            .await??;
        let info = encoder.info();
        self.lent.models.insert(info.digest, info.weights_bytes);
        Ok(self.table.push(OpenEncoder(encoder))?)
    }

    fn info(&mut self, this: Resource<OpenEncoder>) -> wasmtime::Result<EncoderInfo> {
        self.host_calls += 1;
        let info = self.table.get(&this)?.0.info();
        Ok(EncoderInfo {
            name: info.name,
            digest: info.digest,
            dimensions: info.dimensions,
            max_tokens: info.max_tokens,
        })
    }

    async fn count_tokens(
        &mut self,
        this: Resource<OpenEncoder>,
        texts: Vec<String>,
    ) -> Result<Vec<u32>, HostError> {
        self.host_calls += 1;
        let encoder = Arc::clone(&self.table.get(&this)?.0);
        let account = self.account.clone();
        let counts = self
            .threads
            .model(move || encoder.count_tokens(&texts, &account))
            .await??;
        Ok(counts)
    }

    async fn embed(
        &mut self,
        this: Resource<OpenEncoder>,
        texts: Vec<String>,
    ) -> Result<Resource<Tensor>, HostError> {
        self.host_calls += 1;
        let encoder = Arc::clone(&self.table.get(&this)?.0);
        let account = self.account.clone();
        let rows = self
            .threads
            .model(move || encoder.embed(&texts, &account))
            .await??;
        Ok(self.table.push(rows)?)
    }

    async fn with_adapter(
        &mut self,
        this: Resource<OpenEncoder>,
        name: String,
    ) -> Result<Resource<OpenEncoder>, HostError> {
        self.host_calls += 1;
        if !self.spec.grants.allows_adapter(&name) {
            return Err(super::adapters::denied(&name));
        }
        let encoder = Arc::clone(&self.table.get(&this)?.0);
        // One that is open stays in the version that was opened.
        let open = self.adapters.get(&name).map(|(open, _)| Arc::clone(open));
        let (models, account) = (self.spec.models.clone(), self.account.clone());
        let adapted = self.threads.model(move || {
            let adapter = match (open, models) {
                (Some(adapter), _) => adapter,
                (None, Some(models)) => models.open_adapter(&name, &account)?,
                (None, None) => return Err(ModelError::NotFound(name)),
            };
            Ok((encoder.adapted(&*adapter)?, adapter.info()))
        });
        let (adapted, info) = adapted.await??;
        self.lent.adapters.insert(info.digest, info.bytes);
        Ok(self.table.push(OpenEncoder(adapted))?)
    }

    fn classes(&mut self, this: Resource<OpenEncoder>) -> wasmtime::Result<Vec<String>> {
        self.host_calls += 1;
        Ok(self.table.get(&this)?.0.classes())
    }

    async fn classify(
        &mut self,
        this: Resource<OpenEncoder>,
        texts: Vec<String>,
    ) -> Result<Resource<Tensor>, HostError> {
        self.host_calls += 1;
        let encoder = Arc::clone(&self.table.get(&this)?.0);
        let account = self.account.clone();
        let rows = self
            .threads
            .model(move || encoder.classify(&texts, &account))
            .await??;
        Ok(self.table.push(rows)?)
    }

    fn drop(&mut self, this: Resource<OpenEncoder>) -> wasmtime::Result<()> {
        self.host_calls += 1;
        self.table.delete(this)?;
        Ok(())
    }
}
