//! What others are told of a job: those who are asked to work on it, and those who watch it.

use std::sync::atomic::Ordering;

use skep_market::{AttemptId, Offer};

use super::super::answer;
use super::super::around::{Wanted, listed};
use super::{Driver, SMALLEST_PANEL};
use crate::requests::jobs::{JobState, JobView};

impl Driver {
    /// What those who are asked have to know.
    pub(super) fn wanted(&self) -> Wanted {
        Wanted {
            package: self.spec.release,
            adapter: self.spec.adapter.as_ref().map(|adapter| adapter.release),
            residency: self.spec.warm,
        }
    }

    pub(super) fn view(&self) -> JobView {
        let records = |id: AttemptId| {
            let send = self.sends.get(&id);
            send.map_or(0, |send| send.records.load(Ordering::Relaxed))
        };
        answer::view(
            &self.folder,
            &self.spec,
            &self.job,
            JobState::Running,
            self.reason(),
            records,
        )
    }

    /// Why it ended without its result, or what keeps it.
    pub(super) fn reason(&self) -> Option<String> {
        if let Some(why) = self.job.gave_up() {
            let trouble = self
                .trouble
                .iter()
                .map(|trouble| format!("; last, {trouble}"));
            return Some(format!("{why}{}", trouble.collect::<String>()));
        }
        if self.quotes.is_empty() && !self.refusals.is_empty() {
            return Some(format!("no node takes it: {}", listed(&self.refusals)));
        }
        let gets_nothing = |offers: Vec<Offer>| offers.iter().all(|offer| offer.slots == 0);
        if !self.quotes.is_empty() && self.offers().is_ok_and(gets_nothing) {
            return Some(format!(
                "of the nodes that answer, none has enough at stake, or fewer than \
                 {SMALLEST_PANEL} are of one kind, which an audit takes"
            ));
        }
        self.trouble.clone()
    }
}
