//! `skep:verify/contents`: bytes that a verifier looks at, which stay with the host.

use std::sync::Arc;

use skep_registry::Digest;
use wasmtime::component::Resource;

use super::types::HostError;
use crate::bindings::verifier::skep::verify::contents::{Host, HostContent};
use crate::state::State;

/// The most bytes that one read hands over.
const CHUNK: u32 = 4 << 20;

/// An input or an output that a guest holds a handle to.
pub struct OpenContent {
    /// The digest of the bytes.
    pub digest: Digest,
    /// All of them.
    pub bytes: Arc<[u8]>,
}

impl Host for State {}

impl HostContent for State {
    fn digest(&mut self, this: Resource<OpenContent>) -> wasmtime::Result<String> {
        self.host_calls += 1;
        Ok(self.table.get(&this)?.digest.to_string())
    }

    fn size(&mut self, this: Resource<OpenContent>) -> wasmtime::Result<u64> {
        self.host_calls += 1;
        Ok(self.table.get(&this)?.bytes.len() as u64)
    }

    fn read(
        &mut self,
        this: Resource<OpenContent>,
        offset: u64,
        length: u32,
    ) -> Result<Vec<u8>, HostError> {
        self.host_calls += 1;
        let carried = u32::try_from(self.limits.call_bytes).unwrap_or(u32::MAX);
        let length = length.min(CHUNK).min(carried) as usize;
        let bytes = &self.table.get(&this)?.bytes;
        let rest = usize::try_from(offset)
            .ok()
            .and_then(|offset| bytes.get(offset..));
        let rest = rest.unwrap_or_default();
        Ok(rest[..length.min(rest.len())].to_vec())
    }

    fn drop(&mut self, this: Resource<OpenContent>) -> wasmtime::Result<()> {
        self.host_calls += 1;
        self.table.delete(this)?;
        Ok(())
    }
}
