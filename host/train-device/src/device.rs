//! A place as a device that trainings are computed on.

use std::sync::Arc;

use skep_accounts::Account;
use skep_train::device::{PassDevice, TrainingDevice};
use skep_train::{Base, TrainError};

use crate::pass::DeviceDecoder;
use crate::place::{Compute, Place};

/// Where trainings are computed, and in what.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TrainingPlace {
    /// The device.
    pub place: Place,
    /// What its products take.
    pub compute: Compute,
}

impl TrainingDevice for TrainingPlace {
    fn upload(&self, base: &Base, account: &Account) -> Result<Arc<dyn PassDevice>, TrainError> {
        let decoder = DeviceDecoder::upload(base, self.place, self.compute, account)?;
        Ok(Arc::new(decoder))
    }
}
