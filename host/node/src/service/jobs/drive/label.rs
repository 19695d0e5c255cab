//! Which of the nodes that work on a job are attested, for whoever looks at it.
//!
//! It is asked beside the work, of those alone who get a shard, and nothing is decided by it: a job that
//! is for attested nodes only asks before it gives anything away.

use std::sync::Arc;
use std::time::Duration;

use skep_evidence::AccountId;
use skep_swarm::Swarm;

use super::super::attest;
use super::super::found::Finding;
use super::{Driver, Happened};
use crate::requests::hardware::Hardware;

/// How long nodes that are still being asked are waited for at the end, when the result is where it goes.
const ASKED: Duration = Duration::from_secs(10);

impl Driver {
    /// Has a node show what it runs on, unless it is being asked already.
    pub(super) fn label(&mut self, swarm: &Swarm, provider: AccountId) {
        let Some((node, _)) = self.quotes.get(&provider) else {
            return;
        };
        if !self.showing.insert(provider) {
            return;
        }
        let (service, swarm, node) = (Arc::clone(&self.service), swarm.clone(), node.clone());
        self.tasks.spawn(async move {
            let finding = attest::find(&service, &swarm, &node, provider).await;
            Happened::Showed(provider, finding)
        });
    }

    /// Takes in what a node was found to run on. One that shows nothing now may have shown something when
    /// it was asked before, which is still so of the shards that it had then.
    pub(super) fn labelled(&mut self, provider: AccountId, finding: Finding) {
        self.showing.remove(&provider);
        if let Finding::Nothing(why) = &finding {
            tracing::debug!(%provider, %why, "a provider shows no hardware");
        }
        let (name, hardware) = (provider.to_string(), finding.hardware());
        if hardware == Hardware::default() || self.hardware.get(&name) == Some(&hardware) {
            return;
        }
        self.hardware.insert(name, hardware);
        let kept = tokio::task::block_in_place(|| self.folder.keep_hardware(&self.hardware));
        if let Err(failure) = kept {
            tracing::warn!(%failure, "what a job's providers run on cannot be kept");
        }
    }

    /// Whether all that were asked have answered, or were waited for long enough after the end. For a job
    /// without a result nobody waits.
    pub(super) fn have_labels(&self) -> bool {
        let waited = self.patience.is_some_and(|since| since.elapsed() >= ASKED);
        self.showing.is_empty() || waited || !self.job.is_complete()
    }
}
