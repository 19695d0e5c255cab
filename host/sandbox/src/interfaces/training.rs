//! `skep:train/training`: adapters, trained by the host at a guest's word.
//!
//! A pass runs on the threads for models, and the guest waits suspended, so that a run whose time
//! is over ends even in the middle of one; the pass then ends at its next layer. What a pass needs
//! is charged to the run's account, what is kept to its storage. Nothing here trusts a number that
//! a guest sends, and no error tells it where on the machine something lies.

mod bases;
mod convert;
mod opening;
mod saving;
mod together;

use std::sync::Arc;

use skep_tensor::Account;
use skep_train::{Divisor, Trainer};
use wasmtime::component::Resource;

use self::bases::{about, encode};
use self::convert::{
    at_most_tokens, evaluation_to_contract, examples, hyper_parameters, loss, outcome_to_contract,
};
use self::saving::{cannot_save, check_metadata, digest_of, error_beside};
use super::text::requests::{REQUESTS, at_most, check_text, text_in};
use super::types::HostError;
use crate::bindings::fine_tune::skep::train::training::{
    BaseKind, Evaluation, Example, Host, HostTrainer, HyperParameters, LoraConfig, Loss, Metadata,
    Options, Outcome, Precision, Progress, Sampling, Signal, Step, TrainerInfo,
};
use crate::bindings::task::skep::model::text::Prompt;
use crate::error::{Quota, QuotaExcess};
use crate::models::{BaseModel, ModelError};
use crate::state::State;
use crate::training::{
    Meeting, OpenTrainer, Rehearsal, SavedAdapter, TrainingProgress, TrainingRoom, lock,
};

/// Prompts that one call may have gone on with.
const SAMPLES: usize = 64;
/// The longest name of a class, in bytes.
const CLASS: usize = 256;
/// What a guest may keep beside a checkpoint, in bytes.
const NOTE: usize = skep_train::LARGEST_NOTE as usize;
/// The folder that an adapter is saved in, within its room.
const ADAPTER: &str = "adapter";

impl Host for State {
    fn report(&mut self, progress: Progress) -> wasmtime::Result<Signal> {
        self.host_calls += 1;
        let Some(room) = &self.spec.training else {
            return Ok(Signal::GoOn);
        };
        room.progress(&TrainingProgress {
            step: progress.step,
            steps: progress.steps,
            loss: progress.loss,
            held_out_loss: progress.held_out_loss,
            learning_rate: progress.learning_rate,
            tokens: progress.tokens,
        });
        Ok(match room.is_to_stop() {
            true => Signal::Stop,
            false => Signal::GoOn,
        })
    }
}

impl State {
    fn room(&self) -> Result<Arc<dyn TrainingRoom>, HostError> {
        self.spec.training.clone().ok_or_else(|| {
            HostError::denied("to train: only a run that `skep finetune` starts may")
        })
    }

    /// Runs a trainer's work on the threads for models.
    fn with_trainer<T, W>(
        &self,
        this: &Resource<OpenTrainer>,
        work: W,
    ) -> Result<impl Future<Output = Result<T, HostError>> + Send + use<T, W>, HostError>
    where
        T: Send + 'static,
        W: FnOnce(&mut Trainer, &Account) -> Result<T, HostError> + Send + 'static,
    {
        let trainer = Arc::clone(&self.table.get(this)?.trainer);
        let account = self.account.clone();
        let done = self.threads.model(move || {
            account.check()?;
            work(&mut *lock(&trainer)?, &account)
        });
        Ok(async { done.await? })
    }

    /// Who wants to know what steps the recipe would make.
    fn rehearsal(&self) -> Option<Arc<dyn Rehearsal>> {
        let room = self.spec.training.as_ref();
        room.and_then(|room| room.rehearsal())
    }

    /// Makes up what a batch came to.
    fn make_up(
        &mut self,
        this: &Resource<OpenTrainer>,
        batch: &[Example],
        divisor: Option<f32>,
    ) -> Result<Outcome, HostError> {
        let loss = self.table.get_mut(this)?.made_up.loss();
        let tokens = batch.iter().map(|example| example.tokens.len() as u64);
        Ok(Outcome {
            loss,
            divisor: f64::from(divisor.unwrap_or(1.0)),
            tokens: tokens.sum(),
            counted: batch.len() as u64,
        })
    }

    /// Refuses to keep more than the run may: what it has put into the blob store, what else it
    /// keeps of its trainings, and this.
    fn check_storage(&self, others: u64, bytes: u64) -> Result<(), HostError> {
        let asked = self.stored.saturating_add(others).saturating_add(bytes);
        let limit = self.limits.storage;
        if asked > limit {
            return Err(HostError::Quota(QuotaExcess {
                quota: Quota::Storage,
                limit,
                asked,
            }));
        }
        Ok(())
    }
}

impl State {
    /// What opens a base, if the guest may have it.
    fn opens_base(
        &self,
        base: String,
    ) -> Result<impl FnOnce() -> Result<BaseModel, HostError> + Send + use<>, HostError> {
        if !self.spec.grants.allows_model(&base) {
            let name: String = base.chars().take(100).collect();
            return Err(HostError::denied(format!("grants.models: \"{name}\"")));
        }
        self.room()?;
        let Some(models) = self.spec.models.clone() else {
            return Err(HostError::from(ModelError::NotFound(base)));
        };
        let account = self.account.clone();
        Ok(move || Ok(models.open_base(&base, &account)?))
    }
}

impl HostTrainer for State {
    async fn kind_of(&mut self, base: String) -> Result<BaseKind, HostError> {
        self.host_calls += 1;
        let model = self.opens_base(base)?;
        // Loading is work of the node's, as wherever a model is opened.
        Ok(match self.threads.model(model).await?? {
            BaseModel::Language(_) => BaseKind::LanguageModel,
            BaseModel::Encoder(_) => BaseKind::SentenceEncoder,
        })
    }

    async fn open(
        &mut self,
        base: String,
        lora: LoraConfig,
        options: Options,
    ) -> Result<Resource<OpenTrainer>, HostError> {
        self.open_trainer(base, lora, options, false).await
    }

    async fn open_with_magnitudes(
        &mut self,
        base: String,
        lora: LoraConfig,
        options: Options,
    ) -> Result<Resource<OpenTrainer>, HostError> {
        self.open_trainer(base, lora, options, true).await
    }

    fn info(&mut self, this: Resource<OpenTrainer>) -> wasmtime::Result<TrainerInfo> {
        self.host_calls += 1;
        let open = self.table.get(&this)?;
        let info = about(&open.model);
        let (parameters, steps) = match open.trainer.lock() {
            Ok(trainer) => (
                trainer.parameters() as u64,
                trainer.steps() + open.made_up.steps,
            ),
            Err(_) => (0, 0),
        };
        Ok(TrainerInfo {
            base_name: info.name,
            base: info.digest,
            context: info.context,
            vocabulary: info.vocabulary,
            has_chat_template: info.has_chat_template,
            ends: info.ends,
            parameters,
            steps,
        })
    }

    async fn compute_in(
        &mut self,
        this: Resource<OpenTrainer>,
        precision: Precision,
    ) -> Result<(), HostError> {
        self.host_calls += 1;
        let precision = match precision {
            Precision::Single => skep_train::Precision::F32,
            Precision::Bfloat16 => skep_train::Precision::Bf16,
        };
        let work = move |trainer: &mut Trainer, _: &Account| {
            trainer.compute_in(precision);
            Ok(())
        };
        self.with_trainer(&this, work)?.await
    }

    async fn encode(
        &mut self,
        this: Resource<OpenTrainer>,
        prompts: Vec<Prompt>,
    ) -> Result<Vec<Vec<u32>>, HostError> {
        self.host_calls += 1;
        at_most("prompts in one call", prompts.len(), REQUESTS)?;
        check_text(prompts.iter().map(text_in).sum())?;
        let model = self.table.get(&this)?.model.clone();
        let account = self.account.clone();
        let encoded = self
            .threads
            .model(move || encode(&model, prompts, &account));
        encoded.await?
    }

    async fn forward_backward(
        &mut self,
        this: Resource<OpenTrainer>,
        batch: Vec<Example>,
        asked: Loss,
        divisor: Option<f32>,
    ) -> Result<Outcome, HostError> {
        self.host_calls += 1;
        at_most_tokens(&batch)?;
        if self.table.get(&this)?.together.is_none() {
            self.meet(&this, Meeting::Begin).await?;
            self.table.get_mut(&this)?.together = Some(0);
        }
        let asked = loss(asked);
        let by = divisor.map_or(Divisor::Own, Divisor::Given);
        if self.rehearsal().is_some() {
            let outcome = self.make_up(&this, &batch, divisor)?;
            let (batch, charge) = examples(batch, &self.account)?;
            let noted = &mut self.table.get_mut(&this)?.noted;
            noted.add((batch, asked, by), charge, u64::MAX);
            return Ok(outcome);
        }
        let work = move |trainer: &mut Trainer, account: &Account| {
            let (batch, charge) = examples(batch, account)?;
            let done = trainer.forward_backward(&batch, asked, by);
            Ok((outcome_to_contract(done), trainer.pending(), batch, charge))
        };
        let (outcome, pending, batch, charge) = self.with_trainer(&this, work)?.await?;
        if self.others().is_some() {
            let noted = &mut self.table.get_mut(&this)?.noted;
            noted.add((batch, asked, by), charge, pending);
        }
        outcome
    }

    async fn optim_step(
        &mut self,
        this: Resource<OpenTrainer>,
        hyper: HyperParameters,
    ) -> Result<Step, HostError> {
        self.host_calls += 1;
        let hyper = hyper_parameters(&hyper);
        let made = self.table.get_mut(&this)?.noted.take(hyper);
        if let Some(rehearsal) = self.rehearsal() {
            rehearsal.step(&made);
            let made_up = &mut self.table.get_mut(&this)?.made_up;
            made_up.steps += 1;
            return Ok(Step {
                number: made_up.steps,
                gradient_norm: 1.0,
            });
        }
        let others = self.others();
        if let Some(others) = others.as_ref().filter(|others| others.makes_steps()) {
            return self.step_with(&this, Arc::clone(others), made).await;
        }
        let work = move |trainer: &mut Trainer, _: &Account| match trainer.optim_step(&hyper) {
            Ok(step) => {
                if let Some(others) = others {
                    others.stepped(&made, trainer);
                }
                Ok(Step {
                    number: step.step,
                    gradient_norm: step.gradient_norm,
                })
            }
            Err(skep_train::TrainError::Diverged { .. }) => Ok(Step {
                number: trainer.steps(),
                gradient_norm: f32::NAN,
            }),
            Err(error) => Err(error.into()),
        };
        let step = self.with_trainer(&this, work)?.await?;
        // A step that was not made is none to meet after.
        if !step.gradient_norm.is_nan()
            && let Some(made) = self.table.get(&this)?.together
        {
            self.table.get_mut(&this)?.together = Some(made + 1);
            self.meet(&this, Meeting::After(made + 1)).await?;
        }
        Ok(step)
    }

    async fn evaluate(
        &mut self,
        this: Resource<OpenTrainer>,
        batch: Vec<Example>,
        asked: Loss,
    ) -> Result<Evaluation, HostError> {
        self.host_calls += 1;
        at_most_tokens(&batch)?;
        let asked = loss(asked);
        if self.rehearsal().is_some() {
            return Ok(Evaluation {
                outcome: self.make_up(&this, &batch, None)?,
                log_probabilities: batch.iter().map(|e| vec![0.0; e.tokens.len()]).collect(),
            });
        }
        let work = move |trainer: &mut Trainer, account: &Account| {
            let (batch, _charge) = examples(batch, account)?;
            let done = trainer.evaluate(&batch, asked, Divisor::Own)?;
            Ok(evaluation_to_contract(done))
        };
        self.with_trainer(&this, work)?.await
    }

    async fn reference_log_probabilities(
        &mut self,
        this: Resource<OpenTrainer>,
        batch: Vec<Example>,
    ) -> Result<Vec<f32>, HostError> {
        self.host_calls += 1;
        at_most_tokens(&batch)?;
        if self.rehearsal().is_some() {
            return Ok(vec![0.0; batch.len()]);
        }
        let work = move |trainer: &mut Trainer, account: &Account| {
            let (batch, _charge) = examples(batch, account)?;
            Ok(trainer.reference_log_probabilities(&batch)?)
        };
        self.with_trainer(&this, work)?.await
    }

    async fn sample(
        &mut self,
        this: Resource<OpenTrainer>,
        prompts: Vec<Vec<u32>>,
        sampling: Sampling,
    ) -> Result<Vec<Vec<u32>>, HostError> {
        self.host_calls += 1;
        at_most("prompts in one call", prompts.len(), SAMPLES)?;
        if self.rehearsal().is_some() {
            return Ok(vec![Vec::new(); prompts.len()]);
        }
        let open = self.table.get(&this)?;
        let about = about(&open.model);
        let how = skep_train::Sampling {
            temperature: sampling.temperature,
            seed: sampling.seed,
            tokens: sampling.max_tokens.min(about.context) as usize,
            end: about.ends.first().copied(),
        };
        let work = move |trainer: &mut Trainer, account: &Account| {
            let texts = prompts.iter().enumerate().map(|(number, prompt)| {
                account.check()?;
                let seed = how.seed.wrapping_add(number as u64);
                Ok(trainer.sample(prompt, &skep_train::Sampling { seed, ..how })?)
            });
            texts.collect()
        };
        self.with_trainer(&this, work)?.await
    }

    async fn continue_from(
        &mut self,
        this: Resource<OpenTrainer>,
        adapter: String,
    ) -> Result<(), HostError> {
        self.host_calls += 1;
        if !self.spec.grants.allows_adapter(&adapter) {
            return Err(super::adapters::denied(&adapter));
        }
        let Some(models) = self.spec.models.clone() else {
            return Err(HostError::from(ModelError::NotFound(adapter)));
        };
        let own = about(&self.table.get(&this)?.model);
        let load = move |trainer: &mut Trainer, account: &Account| {
            let parent = models.open_adapter(&adapter, account)?;
            let info = parent.info();
            if info.base != own.digest {
                return Err(HostError::invalid(format!(
                    "the adapter {} changes the model {} ({}), and this training's base is {} ({})",
                    info.name, info.base_name, info.base, own.name, own.digest
                )));
            }
            let folder = parent.folder().ok_or_else(|| {
                HostError::failed(format!("the files of {} are not here", info.name))
            })?;
            let loaded = trainer.load_adapter(&folder);
            loaded.map_err(|error| error_beside(error, &folder))?;
            Ok(info.digest)
        };
        let digest = self.with_trainer(&this, load)?.await?;
        self.table.get_mut(&this)?.parent = Some(digest);
        Ok(())
    }

    fn name_classes(
        &mut self,
        this: Resource<OpenTrainer>,
        names: Vec<String>,
    ) -> Result<(), HostError> {
        self.host_calls += 1;
        let open = self.table.get_mut(&this)?;
        let classes = open.classes.unwrap_or(0) as usize;
        if names.len() != classes {
            return Err(HostError::invalid(format!(
                "{} names for {classes} classes",
                names.len()
            )));
        }
        for name in &names {
            at_most("bytes of a class's name", name.len(), CLASS)?;
        }
        open.class_names = names;
        Ok(())
    }

    async fn checkpoint(
        &mut self,
        this: Resource<OpenTrainer>,
        name: String,
        state: Vec<u8>,
    ) -> Result<(), HostError> {
        self.host_calls += 1;
        at_most("bytes beside a checkpoint", state.len(), NOTE)?;
        let room = self.room()?;
        if self.rehearsal().is_some() {
            return Ok(());
        }
        let (path, others) = self.trainings.checkpoint(room.folder(), &name)?;
        let bytes = lock(&self.table.get(&this)?.trainer)?.checkpoint_bytes(state.len());
        self.check_storage(others, bytes)?;
        let work = move |trainer: &mut Trainer, _: &Account| {
            let kept = trainer.checkpoint(&path, &state);
            kept.map_err(|error| error_beside(error, room.folder()))
        };
        self.with_trainer(&this, work)?.await?;
        self.trainings.wrote(name, bytes);
        Ok(())
    }

    async fn resume(
        &mut self,
        this: Resource<OpenTrainer>,
        name: String,
    ) -> Result<Option<Vec<u8>>, HostError> {
        self.host_calls += 1;
        let room = self.room()?;
        let (path, _) = self.trainings.checkpoint(room.folder(), &name)?;
        let has_met = self.table.get(&this)?.together.is_some();
        let others = self.others().filter(|_| has_met);
        let work = move |trainer: &mut Trainer, _: &Account| {
            if !path.exists() {
                return Ok(None);
            }
            let state = trainer.resume(&path);
            let state = state.map_err(|error| error_beside(error, room.folder()))?;
            if let Some(others) = others {
                others.went_back(trainer);
            }
            Ok(Some(state))
        };
        self.with_trainer(&this, work)?.await
    }

    async fn save(
        &mut self,
        this: Resource<OpenTrainer>,
        metadata: Metadata,
    ) -> Result<String, HostError> {
        self.host_calls += 1;
        check_metadata(&metadata)?;
        let room = self.room()?;
        if self.rehearsal().is_some() {
            return Ok(String::new());
        }
        if self.table.get(&this)?.together.is_some() {
            self.meet(&this, Meeting::End).await?;
        }
        let open = self.table.get(&this)?;
        let (info, parent) = (about(&open.model), open.parent.clone());
        let classes = open.class_names.clone();
        let bytes = 4 * lock(&open.trainer)?.parameters() as u64;
        let others = self.trainings.kept() - self.trainings.adapter;
        self.check_storage(others, bytes)?;
        let work = move |trainer: &mut Trainer, _: &Account| {
            let folder = room.folder().join(ADAPTER);
            let saved = trainer.save(&folder, &info.name);
            saved.map_err(|error| error_beside(error, room.folder()))?;
            let digest = digest_of(&folder).map_err(cannot_save)?;
            let saved = SavedAdapter {
                folder,
                digest: digest.clone(),
                base: info.digest,
                base_name: info.name,
                parent,
                classes,
                steps: trainer.steps(),
                card: metadata.card,
                hyper_parameters: metadata.hyper_parameters,
                metrics: metadata.metrics,
            };
            room.saved(&saved).map_err(cannot_save)?;
            Ok(digest)
        };
        let digest = self.with_trainer(&this, work)?.await?;
        self.trainings.adapter = bytes;
        Ok(digest)
    }

    fn drop(&mut self, this: Resource<OpenTrainer>) -> wasmtime::Result<()> {
        self.host_calls += 1;
        self.table.delete(this)?;
        self.trainings.open -= 1;
        Ok(())
    }
}
