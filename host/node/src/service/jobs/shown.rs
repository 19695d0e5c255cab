//! Where a job stands, for whoever watches it.

use std::time::{Duration, Instant};

use tokio::sync::watch;

use crate::requests::jobs::JobView;

/// For each of its shards a job is not looked at for so long: a view of ten thousand costs more than
/// what happens to one of them.
const EACH: Duration = Duration::from_micros(50);

/// What others see of a job.
pub struct Shown {
    publish: watch::Sender<JobView>,
    rest: Duration,
    last: Option<Instant>,
}

impl Shown {
    /// A job as it begins.
    pub fn new(publish: watch::Sender<JobView>, shards: usize) -> Self {
        let shards = u32::try_from(shards).unwrap_or(u32::MAX);
        Self {
            publish,
            rest: EACH.saturating_mul(shards),
            last: None,
        }
    }

    /// Whether it is time to look again.
    pub fn is_due(&self) -> bool {
        self.last.is_none_or(|last| last.elapsed() >= self.rest)
    }

    /// Shows it.
    pub fn show(&mut self, view: JobView) {
        self.last = Some(Instant::now());
        self.publish.send_if_modified(|seen| {
            let changed = *seen != view;
            *seen = view;
            changed
        });
    }
}
