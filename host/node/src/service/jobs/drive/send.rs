//! Sending a lease to its provider, and waiting for what comes of it: a result, a refusal, a silence, or the
//! word of a provider that was ended in the middle.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use skep_evidence::{AccountId, Lease, Signed};
use skep_market::AttemptId;
use skep_swarm::Swarm;
use tokio::task::AbortHandle;

use super::super::{failed, talk};
use super::{Driver, Happened};
use crate::failure::Failure;

/// A lease that its provider has, or is being given.
pub(super) struct Send {
    pub(super) handle: AbortHandle,
    /// How many records it says are done.
    pub(super) records: Arc<AtomicU64>,
}

impl Driver {
    /// Sends a lease to the node that is known to be its provider's, if there is one at present.
    pub(super) fn send(
        &mut self,
        swarm: &Swarm,
        id: AttemptId,
        provider: AccountId,
        lease: &[u8],
    ) -> Result<(), Failure> {
        let Some((node, _)) = self.quotes.get(&provider) else {
            return Ok(());
        };
        let lease = Signed::<Lease>::decode(lease, &mut self.keys).map_err(failed)?;
        let keys = self.keys.clone();
        let input = self.folder.input(&self.spec, id.shard)?;
        let (outputs, bounds) = (self.folder.outputs(), Arc::clone(&self.service.jobs.bounds));
        let script = match lease.audit.follows {
            None => Vec::new(),
            Some(_) => self.script_for(id)?.encode(),
        };
        let (swarm, node, account) = (swarm.clone(), node.clone(), Arc::clone(&self.account));
        let mut waiting = self.service.jobs.awaited.wait_for(node.id, lease.digest());
        let records = Arc::new(AtomicU64::new(0));
        let done = Arc::clone(&records);
        let handle = self.tasks.spawn(async move {
            let sources = vec![swarm.ticket().to_string()];
            let begun = talk::Begun {
                lease: &lease,
                input: &input,
                script: &script,
                keys,
                outputs: &outputs,
                bounds: &bounds,
            };
            let failed = waiting.failed();
            let came = talk::perform(&swarm, &node, &account, begun, sources, &done, failed).await;
            Happened::Sent(id, came.map(Box::new))
        });
        self.sends.insert(id, Send { handle, records });
        Ok(())
    }
}
