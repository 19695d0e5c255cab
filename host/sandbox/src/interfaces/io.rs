//! `skep:workload/io`: the input that a task was given and the output that it owes.

use super::types::HostError;
use crate::bindings::task::skep::workload::io::Host;
use crate::error::{Quota, QuotaExcess};
use crate::state::State;
use crate::task_io::Gone;

impl Host for State {
    async fn read(&mut self, length: u32) -> Result<Vec<u8>, HostError> {
        self.host_calls += 1;
        let carried = usize::try_from(self.limits.call_bytes).unwrap_or(usize::MAX);
        Ok(self.io.read((length as usize).min(carried)).await?)
    }

    async fn write(&mut self, data: Vec<u8>) -> Result<(), HostError> {
        self.host_calls += 1;
        let limit = self.limits.output;
        let asked = self.io.written.saturating_add(data.len() as u64);
        if asked > limit {
            self.io.refused = true;
            return Err(HostError::Quota(QuotaExcess {
                quota: Quota::Output,
                limit,
                asked,
            }));
        }
        Ok(self.io.write(&data).await?)
    }
}

impl From<Gone> for HostError {
    fn from(_: Gone) -> Self {
        // The run is being ended by the other side, which also knows the reason.
        HostError::failed("the streams of this run are closed")
    }
}
