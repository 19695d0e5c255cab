//! A trainer, from what a guest asks for to its handle.

use std::sync::{Arc, Mutex};

use skep_train::{Trainer, TrainerOptions};
use wasmtime::component::Resource;

use super::bases::{about, base_of};
use super::convert::{lora_config, trainer_options};
use crate::bindings::fine_tune::skep::train::training::{LoraConfig, Options};
use crate::error::{Quota, QuotaExcess};
use crate::interfaces::HostError;
use crate::state::State;
use crate::training::{MadeUp, Noted, OpenTrainer, TRAINERS};

impl State {
    /// Opens a training of a new adapter, with magnitudes (DoRA) or without.
    pub(super) async fn open_trainer(
        &mut self,
        base: String,
        lora: LoraConfig,
        options: Options,
        dora: bool,
    ) -> Result<Resource<OpenTrainer>, HostError> {
        self.host_calls += 1;
        let model = self.opens_base(base)?;
        if self.trainings.open >= TRAINERS {
            return Err(HostError::Quota(QuotaExcess {
                quota: Quota::Handles,
                limit: u64::from(TRAINERS),
                asked: u64::from(TRAINERS) + 1,
            }));
        }
        let lora = lora_config(lora, dora)?;
        let (account, own_memory) = (self.account.clone(), self.memory.account().clone());
        let classes = options.classes;
        let device = self.room()?.device();
        let opened = self.threads.model(move || {
            account.check()?;
            let model = model()?;
            let weights = Arc::new(base_of(&model, options.base, &account)?);
            let device = device.filter(|_| !weights.is_encoder());
            let options = TrainerOptions {
                account: account.clone(),
                host: match &device {
                    Some(_) => own_memory,
                    // The processor's memory is the host's: there is no other place to go to.
                    None => account.clone(),
                },
                ..trainer_options(&options)
            };
            // Before the optimizer's state, which can go elsewhere.
            let there = device.map(|device| device.upload(&weights, &account));
            let there = there.transpose()?;
            let mut trainer = Trainer::open(Arc::clone(&weights), lora, &options)?;
            if let Some(there) = there {
                trainer.compute_on(there)?;
            }
            Ok::<_, HostError>((model, trainer))
        });
        let (model, trainer) = opened.await??;
        let info = about(&model);
        let handle = self.table.push(OpenTrainer {
            trainer: Arc::new(Mutex::new(trainer)),
            model,
            parent: None,
            classes,
            class_names: Vec::new(),
            together: None,
            noted: Noted::default(),
            made_up: MadeUp::default(),
        })?;
        self.trainings.open += 1;
        self.lent.models.insert(info.digest, info.weights_bytes);
        Ok(handle)
    }
}
