//! What a lease has kept ready: for its conversation, and for its whole time once its receipt is signed.

use std::time::Duration;

use skep_evidence::Lease;
use skep_market::Finished;

use super::super::now;
use super::super::residence::Reserved;
use super::super::work::Unmade;
use super::begun::receipt_of;
use super::{Desk, Stop};
use crate::service::Service;
use crate::service::run::{Subject, Unready};

impl Desk {
    /// Gets ready what a lease has kept ready, for as long as what comes back is there: whoever signs for nothing
    /// has nothing kept.
    pub(super) async fn reserve(
        &self,
        service: &Service,
        lease: &Lease,
        subject: &Subject,
    ) -> Result<Option<Reserved>, Stop> {
        if lease.allowance.residency == 0 {
            return Ok(None);
        }
        let what = (lease.work.package, lease.work.adapter);
        let residences = &service.jobs.residences;
        let reserved = residences.reserve(service, what, subject.clone()).await;
        Ok(Some(reserved.map_err(not_ready)?))
    }
}

/// Why nothing is kept ready.
fn not_ready(unready: Unready) -> Stop {
    Unmade::from(unready).into()
}

/// Keeps on for its whole time what a receipt was signed for.
pub(super) fn keep_on(
    service: &Service,
    reserved: Reserved,
    signed: &Finished,
) -> Result<(), Stop> {
    let receipt = receipt_of(signed)?;
    let receipt = receipt.claimed();
    let long = Duration::from_secs(receipt.meter.residency);
    // Of one that was signed before, what is left.
    let since = Duration::from_millis(now().saturating_sub(receipt.finished));
    if let Err(failure) = reserved.keep(&service.home, long.saturating_sub(since)) {
        tracing::warn!(%failure, "what is kept ready would not be after a start of this node");
    }
    Ok(())
}

#[cfg(test)]
#[allow(clippy::panic)]
mod tests {
    use std::path::PathBuf;

    use skep_market::Refusal;

    use super::*;
    use crate::failure::{Failure, FailureKind};

    /// What a requester is told.
    fn told(unready: Unready) -> Refusal {
        match not_ready(unready) {
            Stop::Refused(refusal) => refusal,
            Stop::Broken(fault) => fault.told(),
            Stop::Gone => panic!("nobody speaks"),
        }
    }

    #[test]
    fn where_as_much_is_kept_as_may_be_the_node_is_busy_and_nothing_has_failed() {
        let failure = |kind| Failure::new(kind, "why");
        let busy = Unready::Beside(failure(FailureKind::Busy));
        assert_eq!(told(busy), Refusal::Busy);
        let why = Refusal::Failed("why".to_owned());
        assert_eq!(told(Unready::Unfit(failure(FailureKind::Refused))), why);
    }

    #[test]
    fn who_has_something_kept_ready_hears_why_it_is_not_and_of_no_path_of_this_node() {
        let path = "/home/somebody/.skep/tool.wasm";
        let none = || Unready::Component {
            failure: Failure::new(FailureKind::Refused, "it is no component"),
            path: PathBuf::from(path),
        };
        let why = Refusal::Failed("it is no component".to_owned());
        assert_eq!(told(none()), why);
        // Its owner, who runs it, is told where it lies.
        let owners = Failure::from(none());
        assert_eq!(owners.message, format!("{path}: it is no component"));
        let disk = Failure::new(FailureKind::Failed, format!("cannot read {path}"));
        let told = told(Unready::Beside(disk)).to_string();
        assert!(told.contains("a fault of the node"), "{told}");
        assert!(!told.contains("somebody"), "{told}");
    }
}
