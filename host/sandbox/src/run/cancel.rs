//! Calling a run off.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};

use tokio::sync::Notify;

/// Calls a run off, from any thread. Clones are the same.
#[derive(Clone, Debug, Default)]
pub struct Cancel(Arc<Flag>);

#[derive(Debug, Default)]
struct Flag {
    set: AtomicBool,
    changed: Notify,
}

impl Cancel {
    /// One that nobody has used yet.
    pub fn new() -> Self {
        Cancel::default()
    }

    /// Calls off every run that this was given to, now and later.
    pub fn cancel(&self) {
        self.0.set.store(true, SeqCst);
        self.0.changed.notify_waiters();
    }

    /// Whether [`Self::cancel`] was called.
    pub fn is_cancelled(&self) -> bool {
        self.0.set.load(SeqCst)
    }

    /// Returns once [`Self::cancel`] is called.
    pub(crate) async fn cancelled(&self) {
        loop {
            // Registered before the flag is read, so that no call falls in between.
            let changed = self.0.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            if self.is_cancelled() {
                return;
            }
            changed.await;
        }
    }
}
