//! `skep:swarm/blobs`: content by digest, as far as the run's grants go.

use std::sync::Arc;

use bytes::Bytes;
use skep_registry::{Digest, SwarmRead};
use wasmtime::component::Resource;

use super::types::HostError;
use crate::bindings::task::skep::swarm::blobs::{Host, HostBlob, HostBlobWriter};
use crate::blobs::{Allowance, BlobError, OpenBlob, OpenWriter};
use crate::error::{Quota, QuotaExcess};
use crate::state::State;

/// The most bytes that one read hands over.
const CHUNK: u32 = 4 << 20;

impl Host for State {}

impl HostBlob for State {
    async fn open(&mut self, digest: String) -> Result<Resource<OpenBlob>, HostError> {
        self.host_calls += 1;
        let Ok(digest) = digest.parse::<Digest>() else {
            return Err(HostError::invalid(
                "a digest is 64 lower-case hexadecimal digits",
            ));
        };
        if !self.spec.grants.allows_read(&digest) {
            let grant = match &self.spec.grants.swarm_read {
                SwarmRead::Only(digests) if digests.is_empty() => "grants.swarm-read".to_owned(),
                _ => format!("grants.swarm-read: \"{digest}\""),
            };
            return Err(HostError::denied(grant));
        }
        let Some(blobs) = self.spec.blobs.clone() else {
            return Err(BlobError::NotFound(digest).into());
        };
        let room = self.limits.storage.saturating_sub(self.stored);
        let allowance = Arc::new(Allowance::new(room));
        let opened = blobs.open(digest, Arc::clone(&allowance)).await;
        let before = self.stored;
        // What was fetched counts, whatever became of it.
        self.stored = before.saturating_add(allowance.taken());
        match opened {
            Ok(content) => Ok(self.table.push(OpenBlob { digest, content })?),
            Err(BlobError::TooLarge { size, .. }) => Err(HostError::Quota(QuotaExcess {
                quota: Quota::Storage,
                limit: self.limits.storage,
                asked: before.saturating_add(size),
            })),
            Err(error) => Err(error.into()),
        }
    }

    fn digest(&mut self, this: Resource<OpenBlob>) -> wasmtime::Result<String> {
        self.host_calls += 1;
        Ok(self.table.get(&this)?.digest.to_string())
    }

    fn size(&mut self, this: Resource<OpenBlob>) -> wasmtime::Result<u64> {
        self.host_calls += 1;
        Ok(self.table.get(&this)?.content.size())
    }

    async fn read(
        &mut self,
        this: Resource<OpenBlob>,
        offset: u64,
        length: u32,
    ) -> Result<Vec<u8>, HostError> {
        self.host_calls += 1;
        let carried = u32::try_from(self.limits.call_bytes).unwrap_or(u32::MAX);
        let blob = self.table.get(&this)?;
        let left = blob.content.size().saturating_sub(offset);
        let length = length
            .min(CHUNK)
            .min(carried)
            .min(u32::try_from(left).unwrap_or(u32::MAX));
        if length == 0 {
            return Ok(Vec::new());
        }
        let read = blob.content.read(offset, length);
        let mut bytes = Vec::from(read.await?);
        bytes.truncate(length as usize);
        Ok(bytes)
    }

    fn drop(&mut self, this: Resource<OpenBlob>) -> wasmtime::Result<()> {
        self.host_calls += 1;
        self.table.delete(this)?;
        Ok(())
    }
}

impl HostBlobWriter for State {
    async fn create(&mut self) -> Result<Resource<OpenWriter>, HostError> {
        self.host_calls += 1;
        if !self.spec.grants.swarm_write {
            return Err(HostError::denied("grants.swarm-write"));
        }
        let Some(blobs) = self.spec.blobs.clone() else {
            return Err(HostError::failed("this node has no blob store"));
        };
        let content = Some(blobs.create().await?);
        Ok(self.table.push(OpenWriter { content })?)
    }

    async fn append(&mut self, this: Resource<OpenWriter>, data: Vec<u8>) -> Result<(), HostError> {
        self.host_calls += 1;
        let asked = self.stored.saturating_add(data.len() as u64);
        let limit = self.limits.storage;
        if asked > limit {
            return Err(HostError::Quota(QuotaExcess {
                quota: Quota::Storage,
                limit,
                asked,
            }));
        }
        let writer = self.table.get_mut(&this)?;
        let Some(content) = &mut writer.content else {
            return Err(HostError::failed("an earlier append to this blob failed"));
        };
        let appended = content.append(Bytes::from(data));
        // Bytes that were handed over count, whatever becomes of them.
        self.stored = asked;
        if let Err(error) = appended.await {
            self.table.get_mut(&this)?.content = None;
            return Err(error.into());
        }
        Ok(())
    }

    async fn finish(&mut self, this: Resource<OpenWriter>) -> Result<String, HostError> {
        self.host_calls += 1;
        match self.table.delete(this)?.content {
            Some(content) => Ok(content.finish().await?.to_string()),
            None => Err(HostError::failed("an earlier append to this blob failed")),
        }
    }

    fn drop(&mut self, this: Resource<OpenWriter>) -> wasmtime::Result<()> {
        self.host_calls += 1;
        self.table.delete(this)?;
        Ok(())
    }
}
