//! `skep:adapter/adapters`: adapters of language models and of encoders, as handles.
//!
//! An adapter that is open stays at hand in the version that was opened, and requests and encoders
//! that name it get that version.

use std::sync::Arc;

use wasmtime::component::Resource;

use super::types::HostError;
use crate::bindings::task::skep::adapter::adapters::{
    AdapterInfo, Host, HostAdapter, Residency as Told,
};
use crate::language::{OpenAdapter, Residency};
use crate::models::ModelError;
use crate::state::State;

/// The refusal of an adapter that was not granted.
pub(super) fn denied(name: &str) -> HostError {
    let name: String = name.chars().take(100).collect();
    HostError::denied(format!("grants.adapters: \"{name}\""))
}

impl Host for State {}

impl HostAdapter for State {
    async fn open(&mut self, name: String) -> Result<Resource<OpenAdapter>, HostError> {
        self.host_calls += 1;
        if !self.spec.grants.allows_adapter(&name) {
            return Err(denied(&name));
        }
        let Some(models) = self.spec.models.clone() else {
            return Err(HostError::from(ModelError::NotFound(name)));
        };
        let (asked, account) = (name.clone(), self.account.clone());
        let adapter = self
            .threads
            .model(move || models.open_adapter(&name, &account))
            .await??;
        let info = adapter.info();
        let opened = OpenAdapter {
            asked: asked.clone(),
            adapter: Arc::clone(&adapter),
        };
        let handle = self.table.push(opened)?;
        self.lent.adapters.insert(info.digest, info.bytes);
        let open = self.adapters.entry(asked);
        let open = open.or_insert_with(|| (Arc::clone(&adapter), 0));
        *open = (adapter, open.1 + 1);
        Ok(handle)
    }

    fn info(&mut self, this: Resource<OpenAdapter>) -> wasmtime::Result<AdapterInfo> {
        self.host_calls += 1;
        let info = self.table.get(&this)?.adapter.info();
        Ok(AdapterInfo {
            name: info.name,
            digest: info.digest,
            base: info.base,
            rank: info.rank,
            size: info.bytes,
        })
    }

    fn residency(&mut self, this: Resource<OpenAdapter>) -> wasmtime::Result<Told> {
        self.host_calls += 1;
        Ok(match self.table.get(&this)?.adapter.residency() {
            Residency::Device => Told::Device,
            Residency::Memory => Told::Memory,
            Residency::Disk => Told::Disk,
        })
    }

    fn drop(&mut self, this: Resource<OpenAdapter>) -> wasmtime::Result<()> {
        self.host_calls += 1;
        let dropped = self.table.delete(this)?;
        if let Some((_, times)) = self.adapters.get_mut(&dropped.asked) {
            *times -= 1;
            if *times == 0 {
                self.adapters.remove(&dropped.asked);
            }
        }
        Ok(())
    }
}
