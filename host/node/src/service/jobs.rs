//! Jobs over other nodes, and the work of others' jobs here.
//!
//! What a job is and what is next is `skep_market`'s to say; this sends it, runs it and writes it
//! down. The requester's side is `submit`, `around`, `suitable`, `attest`, `found`, `drive`, `talk`, `spool`,
//! `bound`, `coming`, `awaited`, `check` and `folder`, and `guests` for jobs that a run of the owner's begins; the
//! provider's is `provide`, `reports`, `collect`, `interrupted`, `residence`, `leisure` and `work`; `money` holds
//! the key and the books of both, `receipts` writes, adds up and settles files of them, `believed` says which panels are
//! believed by these books, `anywhere` finds nodes that have moved, and `adapters` says what the family of an adapter
//! gets.
//!
//! # What it must never do
//!
//! - Act on what is not in the journal yet, or pay what is not in the ledger.
//! - Keep anything of another node's input or output on disk, or of an input after its conversation, or of an output
//!   after its receipt has come back.
//! - Allocate what another node says.

mod adapters;
mod answer;
mod anywhere;
mod around;
mod attest;
mod awaited;
mod believed;
mod bound;
mod check;
mod collect;
mod coming;
mod drive;
mod folder;
mod found;
mod guests;
mod interrupted;
mod leisure;
mod money;
mod provide;
mod receipts;
mod reports;
mod residence;
mod shown;
mod spool;
mod submit;
mod suitable;
mod talk;
#[cfg(test)]
mod testing;
mod work;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use skep_evidence::AccountKey;
use skep_market::{Dealings, Earnings, Ledger, Refusal};
use skep_registry::Digest;
use tokio::task::JoinSet;

use super::Service;
use crate::config;
use crate::failure::{Failure, FailureKind};
use crate::requests::KeptLine;
use crate::requests::hardware::Hardware;
use crate::requests::jobs::JobTerms;

pub use answer::answer;
pub use guests::GuestJobs;
pub use interrupted::seen as interruptions;
pub use money::account;
pub use provide::provide;
pub use residence::set_aside as kept_damaged;

/// What anybody else hears of a fault of this node's own.
const OWN_FAULT: &str = "a fault of the node; its owner can see which";

/// What of jobs is open in this process.
#[derive(Default)]
pub struct Jobs {
    account: OnceLock<Arc<AccountKey>>,
    ledger: Mutex<Option<Ledger>>,
    earnings: OnceLock<Arc<Earnings>>,
    opening: Mutex<()>,
    running: Mutex<BTreeMap<Digest, Arc<drive::Running>>>,
    driving: Mutex<JoinSet<()>>,
    dealings: OnceLock<Arc<Dealings>>,
    residences: Arc<residence::Residences>,
    families: Arc<adapters::Families>,
    found: found::Found,
    reports: reports::Reports,
    awaited: Arc<awaited::Awaited>,
    bounds: Arc<bound::Bounds>,
    turns: collect::Turns,
    untaken: provide::Untaken,
    leisure: OnceLock<Arc<leisure::Leisure>>,
}

impl Jobs {
    /// The jobs that this process works on.
    fn running(&self) -> MutexGuard<'_, BTreeMap<Digest, Arc<drive::Running>>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Has a job worked on until it is over, or what is open is closed.
    fn drive(&self, work: impl Future<Output = ()> + Send + 'static) {
        let mut driving = self.driving();
        while driving.try_join_next().is_some() {}
        driving.spawn(work);
    }

    /// Works on no job any more. What is written down of them is gone on with by whoever comes next.
    pub async fn stop(&self) {
        // Nobody waits for the next word of one that has none.
        self.running().clear();
        let mut driving = std::mem::take(&mut *self.driving());
        driving.shutdown().await;
    }

    fn driving(&self) -> MutexGuard<'_, JoinSet<()>> {
        self.driving.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What is kept ready for others, and for how much longer.
    pub fn kept(&self) -> Vec<KeptLine> {
        self.residences.lines()
    }

    /// Why no shard of others begins here at this moment, if a node runs and it is for its owner's sake.
    pub fn closed(&self) -> Option<String> {
        let refusal = self.leisure.get()?.admit().err()?;
        Some(match refusal {
            Refusal::Hours(hours) => {
                format!("`hours` lets shards begin at {hours} by this machine's clock")
            }
            Refusal::InUse => {
                "other programs take more of the processors than `pause-above` says".to_owned()
            }
            refusal => refusal.to_string(),
        })
    }

    /// What this node itself shows of its hardware.
    pub async fn hardware(&self, service: &Service) -> Hardware {
        self.reports.own(service).await
    }
}

/// What is taken of others' jobs, and for how much, as it is told to the owner.
pub fn terms(rules: &config::Jobs) -> JobTerms {
    JobTerms {
        accept: rules.accept,
        at_once: rules.at_once,
        teraflop_micro: rules.price_per_teraflop.micro(),
        gigabyte_micro: rules.price_per_gigabyte.micro(),
        hour_micro: rules.price_per_hour.micro(),
    }
}

/// Goes on with every job that was interrupted.
pub fn resume(service: &Arc<Service>) {
    for folder in folder::all(&service.home) {
        if folder.is_over() {
            continue;
        }
        if let Err(failure) = drive::begin(service, &folder, None) {
            tracing::warn!(job = %folder.id, %failure, "a job cannot be gone on with");
        }
    }
}

/// Milliseconds since 1970.
fn now() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |since| {
        u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
    })
}

/// 32 random bytes.
fn random() -> Result<[u8; 32], Failure> {
    let mut bytes = [0; 32];
    getrandom::fill(&mut bytes).map_err(|error| {
        let reason = format!("the operating system has no randomness to give: {error}");
        Failure::new(FailureKind::Failed, reason)
    })?;
    Ok(bytes)
}

/// A failure of this machine or its disk.
fn failed(error: impl std::error::Error) -> Failure {
    Failure::of(FailureKind::Failed, &error)
}

#[cfg(test)]
mod tests {
    use std::future::pending;

    use tokio::sync::oneshot;

    use super::Jobs;

    #[tokio::test]
    async fn whoever_closes_what_is_open_leaves_nobody_at_work() {
        let jobs = Jobs::default();
        let (at_work, mut watched) = oneshot::channel::<()>();
        jobs.drive(async move {
            pending::<()>().await;
            drop(at_work);
        });
        assert_eq!(watched.try_recv(), Err(oneshot::error::TryRecvError::Empty));
        jobs.stop().await;
        let gone = Err(oneshot::error::TryRecvError::Closed);
        assert_eq!(watched.try_recv(), gone);
    }
}
