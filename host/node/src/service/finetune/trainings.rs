//! The trainings of a node that are not over: each name's at most once, and none left behind when
//! the node ends.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use skep_sandbox::Cancel;
use tokio::sync::watch;

use crate::failure::{Failure, FailureKind};

/// All trainings that are not over, by the adapter's name.
#[derive(Default)]
pub struct Trainings(Mutex<BTreeMap<String, Handle>>);

/// A training as others see it.
#[derive(Clone)]
struct Handle {
    stop: Arc<AtomicBool>,
    cancel: Cancel,
    /// Ends with the training.
    ended: watch::Receiver<()>,
}

/// A training that is not over. It is over when this is dropped.
pub struct Entered {
    name: String,
    /// Whether it is to keep a checkpoint and end.
    pub stop: Arc<AtomicBool>,
    /// Ends it at once.
    pub cancel: Cancel,
    trainings: Arc<Trainings>,
    _ended: watch::Sender<()>,
}

impl Trainings {
    /// Enters a training. One of the same name that is about to end is waited for.
    ///
    /// # Errors
    /// When one of the same name goes on.
    pub async fn enter(self: &Arc<Self>, name: &str) -> Result<Entered, Failure> {
        loop {
            let mut other = {
                let mut all = self.lock();
                match all.get(name) {
                    None => {
                        let (sender, ended) = watch::channel(());
                        let handle = Handle {
                            stop: Arc::default(),
                            cancel: Cancel::new(),
                            ended,
                        };
                        all.insert(name.to_owned(), handle.clone());
                        return Ok(Entered {
                            name: name.to_owned(),
                            stop: handle.stop,
                            cancel: handle.cancel,
                            trainings: Arc::clone(self),
                            _ended: sender,
                        });
                    }
                    Some(handle) => handle.clone(),
                }
            };
            if !other.stop.load(Ordering::Relaxed) {
                return Err(Failure::new(
                    FailureKind::Busy,
                    format!(
                        "{name} is being trained at the moment; wait for it, or give this one \
                         another name with --out"
                    ),
                ));
            }
            // It says nothing and goes away.
            let _ = other.ended.changed().await;
        }
    }

    /// Has every training keep a checkpoint, and waits until all are over. Ctrl-C ends them at
    /// once.
    pub async fn end(&self) {
        let all: Vec<Handle> = self.lock().values().cloned().collect();
        for training in &all {
            training.stop.store(true, Ordering::Relaxed);
        }
        let mut waiting = all.clone();
        let over = async {
            for training in &mut waiting {
                let _ = training.ended.changed().await;
            }
        };
        tokio::select! {
            () = over => {}
            _ = tokio::signal::ctrl_c() => {
                for training in &all {
                    training.cancel.cancel();
                }
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Handle>> {
        // The map is consistent after every statement, so a poisoned lock is still good.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Entered {
    fn drop(&mut self) {
        self.trainings.lock().remove(&self.name);
    }
}

/// Has a training keep a checkpoint and end when this is dropped: when nobody waits for it any
/// more.
pub struct StopOnDrop(pub Arc<AtomicBool>);

impl Drop for StopOnDrop {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_name_is_trained_once_and_one_that_ends_is_waited_for() {
        let trainings = Arc::new(Trainings::default());
        let first = trainings.enter("a").await.unwrap();
        let busy = trainings.enter("a").await.err().unwrap();
        assert_eq!(busy.kind, FailureKind::Busy);
        let other = trainings.enter("b").await.unwrap();
        drop(StopOnDrop(Arc::clone(&first.stop)));
        let second = tokio::spawn({
            let trainings = Arc::clone(&trainings);
            async move { trainings.enter("a").await.map(drop) }
        });
        drop(first);
        second.await.unwrap().unwrap();
        let ending = tokio::spawn({
            let trainings = Arc::clone(&trainings);
            async move { trainings.end().await }
        });
        while !other.stop.load(Ordering::Relaxed) {
            tokio::task::yield_now().await;
        }
        drop(other);
        ending.await.unwrap();
    }
}
