//! What others are told of a job: those who are asked to work on it, and those who watch it.

use std::sync::atomic::Ordering;

use skep_evidence::Credits;
use skep_market::{AttemptId, GaveUp, Offer};

use super::super::answer;
use super::super::around::{Wanted, listed};
use super::{Driver, SMALLEST_PANEL, Spec};
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
        match self.job.gave_up() {
            None => self.keeps_back().or_else(|| self.trouble.clone()),
            Some(why) => {
                let waited = || match why {
                    GaveUp::Deadline => self.keeps_back(),
                    _ => None,
                };
                let last = self.trouble.clone().or_else(waited);
                let last = last.map_or_else(String::new, |last| format!("; last, {last}"));
                Some(format!("{why}{last}"))
            }
        }
    }

    /// Why nobody takes a shard now, as far as that can be told.
    fn keeps_back(&self) -> Option<String> {
        if self.quotes.is_empty() && !self.refusals.is_empty() {
            return Some(format!("no node takes it: {}", listed(&self.refusals)));
        }
        let offers = match self.quotes.is_empty() {
            true => None,
            false => self.offers().ok(),
        };
        if let Some(offers) = offers {
            if offers.iter().all(|offer| offer.slots == 0) {
                return Some(format!(
                    "of the nodes that answer, none has enough at stake, or fewer than \
                     {SMALLEST_PANEL} are of one kind, which an audit takes"
                ));
            }
            let is_open = |offer: &&Offer| offer.slots > 0 && offer.reputation.is_trusted();
            let open = offers.iter().filter(is_open);
            let prices = open.map(|offer| offer.price).collect();
            return too_dear(&self.spec, prices);
        }
        None
    }
}

/// Why not as many leases can be made out as a shard needs, of nodes that ask for these prices, if it is for that.
pub fn too_dear(spec: &Spec, mut prices: Vec<Credits>) -> Option<String> {
    prices.sort_unstable();
    let last = (spec.replicas as usize).saturating_sub(1);
    let asked = *prices.get(last)?;
    let (limit, leases) = (spec.plan().lease_limit, spec.leases());
    let needed = Credits::from_micro(asked.micro().saturating_mul(leases));
    let warm = match spec.warm {
        0 => String::new(),
        seconds => format!(" and {seconds} s of being kept ready"),
    };
    let each = match leases {
        1 => "for its one lease".to_owned(),
        leases => format!("for each of {leases} leases"),
    };
    let fewer = match spec.shards.len() {
        0 | 1 => "",
        _ => ", or cut the input into fewer parts with --shards",
    };
    (leases > 0 && asked > limit).then(|| {
        format!(
            "--max-price of {} credits leaves {limit} {each}, and nodes ask for \
             {asked}, counted for 10^12 operations{warm}, since nobody knows beforehand what a \
             shard takes; allow {needed}{fewer}",
            Credits::from_micro(spec.budget)
        )
    })
}
