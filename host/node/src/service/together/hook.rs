//! Where a training meets those on other nodes: the same on both sides.

use std::sync::{Arc, Mutex as Lock, PoisonError};

use skep_sandbox::{Meeting, Met, Others, SharedTrainer, StepTogether, Stepped};
use skep_together::{Method, TogetherError};
use skep_train::{Made, Trainer};
use tokio::runtime::Handle;
use tokio::sync::Mutex;
use tokio::task::JoinHandle;

use super::journal::Journal;

/// One side of a training.
pub trait Side: Send + 'static {
    /// Why a training cannot go on.
    type Error: std::fmt::Display + From<TogetherError> + Send;

    /// Begins, or goes on, at a meeting, with the weights and the trainer as they are here, and
    /// gives the weights to go on with.
    fn meet(
        &mut self,
        when: Meeting,
        weights: Vec<f32>,
        trainer: &SharedTrainer,
    ) -> impl Future<Output = Result<Vec<f32>, Self::Error>> + Send;

    /// Makes a step with the others, where all are made together, and says how many the trainer has
    /// made now.
    fn step(
        &mut self,
        step: StepTogether,
        trainer: &SharedTrainer,
    ) -> impl Future<Output = Result<u64, Self::Error>> + Send;
}

/// What a run is given of a side.
pub struct Hook<S> {
    pub method: Method,
    pub side: Arc<Mutex<S>>,
    /// What is noted of steps, if anybody may want to see them.
    pub journal: Option<Arc<Lock<Journal>>>,
    pub runtime: Handle,
}

impl<S: Side> Others for Hook<S> {
    fn meets(&self, when: Meeting) -> bool {
        match (when, self.method) {
            (Meeting::Begin | Meeting::End, _) => true,
            (Meeting::After(step), Method::Diloco(how)) => {
                how.sends(step).is_some() || how.arrives(step).is_some()
            }
            (Meeting::After(_), Method::Demo(_) | Method::AllReduce) => false,
        }
    }

    fn meet(&self, when: Meeting, weights: Vec<f32>, trainer: SharedTrainer) -> Met {
        let side = Arc::clone(&self.side);
        let work = self.runtime.spawn(async move {
            let met = side.lock().await.meet(when, weights, &trainer).await;
            met.map_err(|error| error.to_string())
        });
        Box::pin(async move { Waited::on(work).get().await? })
    }

    fn stepped(&self, made: &Made, trainer: &Trainer) {
        if let Some(journal) = &self.journal {
            let mut journal = journal.lock().unwrap_or_else(PoisonError::into_inner);
            journal.stepped(made, trainer);
        }
    }

    fn went_back(&self, trainer: &Trainer) {
        if let Some(journal) = &self.journal {
            let mut journal = journal.lock().unwrap_or_else(PoisonError::into_inner);
            journal.went_back(trainer);
        }
    }

    fn makes_steps(&self) -> bool {
        match self.method {
            Method::Diloco(_) => false,
            Method::Demo(_) | Method::AllReduce => true,
        }
    }

    fn step(&self, step: StepTogether, trainer: SharedTrainer) -> Stepped {
        let side = Arc::clone(&self.side);
        let work = self.runtime.spawn(async move {
            let stepped = side.lock().await.step(step, &trainer).await;
            stepped.map_err(|error| error.to_string())
        });
        Box::pin(async move { Waited::on(work).get().await? })
    }
}

/// Does something with a trainer that others compute with too, on a thread that may wait.
pub async fn with_trainer<T: Send + 'static>(
    trainer: &SharedTrainer,
    work: impl FnOnce(&mut Trainer) -> T + Send + 'static,
) -> Result<T, String> {
    let trainer = Arc::clone(trainer);
    let work = tokio::task::spawn_blocking(move || {
        let mut trainer = trainer.lock().map_err(|error| error.to_string())?;
        Ok(work(&mut trainer))
    });
    work.await.map_err(|error| error.to_string())?
}

/// Work that ends when nobody waits for it any more: a run that was ended waits for no node.
pub struct Waited<T>(JoinHandle<T>);

impl<T> Waited<T> {
    pub fn on(work: JoinHandle<T>) -> Self {
        Self(work)
    }

    pub async fn get(mut self) -> Result<T, String> {
        (&mut self.0).await.map_err(|error| error.to_string())
    }
}

impl<T> Drop for Waited<T> {
    fn drop(&mut self) {
        self.0.abort();
    }
}
