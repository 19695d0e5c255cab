//! What a run is given.

use std::sync::{Arc, OnceLock};

use skep_registry::{Grants, Limits};
use skep_tensor::{Account, Device};

use crate::blobs::Blobs;
use crate::following::Texts;
use crate::jobs::Jobs;
use crate::models::Models;
use crate::training::TrainingRoom;

/// What a run is given: what it may touch, what it may use up, and what is behind the
/// interfaces that it may touch.
#[derive(Clone)]
pub struct RunSpec {
    /// What its manifest grants it.
    pub grants: Grants,
    /// What its manifest asks for; the owner's policy caps it.
    pub limits: Limits,
    /// The device that its tensors live on.
    pub device: Device,
    /// The node's models.
    pub models: Option<Arc<dyn Models>>,
    /// The node's blobs.
    pub blobs: Option<Arc<dyn Blobs>>,
    /// The jobs of its package. Only a run of the owner's own is given any: whatever runs for others
    /// spends nothing.
    pub jobs: Option<Arc<dyn Jobs>>,
    /// What a run that trains has besides; without it a run trains nothing.
    pub training: Option<Arc<dyn TrainingRoom>>,
    /// What all randomness of the run grows from, if others are to be able to repeat it. Its
    /// clocks then count and do not tell the time.
    pub seed: Option<u64>,
    /// How such a run's texts are shown to machines of other kinds.
    pub texts: Texts,
    /// Whether its texts wait for those of other runs, because it is somebody else's.
    pub waits_for_others: bool,
    /// Where what it uses can be seen before its end.
    pub used: Used,
}

/// What a run has used so far, for whoever has to know it of one that was called off and never reports.
/// Clones show the same run: the first that is given it.
#[derive(Clone, Debug, Default)]
pub struct Used(Arc<OnceLock<Account>>);

impl Used {
    /// Floating-point operations on the device; none before the run begins.
    pub fn flops(&self) -> u64 {
        self.0.get().map_or(0, |account| account.usage().flops)
    }

    /// Tokens that language models computed for it, read and written ones.
    pub fn tokens(&self) -> u64 {
        self.0.get().map_or(0, |account| account.usage().tokens)
    }

    pub(crate) fn show(&self, account: &Account) {
        // Another run shows nothing here.
        let _ = self.0.set(account.clone());
    }
}

impl Default for RunSpec {
    /// Nothing granted, the owner's limits, the processor.
    fn default() -> Self {
        RunSpec {
            grants: Grants::default(),
            limits: Limits::default(),
            device: Device::cpu(),
            models: None,
            blobs: None,
            jobs: None,
            training: None,
            seed: None,
            texts: Texts::default(),
            waits_for_others: false,
            used: Used::default(),
        }
    }
}
