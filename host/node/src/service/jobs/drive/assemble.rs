//! Putting outputs together: those that are ready go behind the result, in the input's order.

use skep_market::Event;
use skep_registry::Digest;

use super::super::{failed, now};
use super::Driver;
use crate::failure::{Failure, FailureKind};

/// The most bytes of outputs that are put behind the result at once.
const TOGETHER: u64 = 16 << 20;

impl Driver {
    /// Puts what is ready behind the result, in the input's order.
    pub(super) fn assemble(&self) -> Result<Vec<Event>, Failure> {
        let (mut events, mut outputs, mut bytes) = (Vec::new(), Vec::new(), 0);
        let mut shard = self.job.assembled();
        while let Some(digest) = self.job.accepted(shard).filter(|_| bytes < TOGETHER) {
            let output = self.output(digest)?;
            bytes += output.len() as u64;
            outputs.push(output);
            events.push(Event::Assembled { shard, at: now() });
            shard += 1;
        }
        if !outputs.is_empty() {
            let length = self.job.assembled_bytes();
            tokio::task::block_in_place(|| self.folder.append(length, &outputs))?;
        }
        Ok(events)
    }

    /// An output that was kept, as it was delivered.
    fn output(&self, digest: Digest) -> Result<Vec<u8>, Failure> {
        let inline = self.journal.output(digest).map_err(failed)?;
        let output = match inline {
            Some(output) => Some(output),
            None => self.folder.kept(digest)?,
        };
        let output = output.filter(|output| Digest::of(output) == digest);
        output.ok_or_else(|| {
            let reason = "the output of a shard was lost or damaged on disk";
            Failure::new(FailureKind::Failed, reason)
        })
    }
}
