//! What a lease has kept ready: for its conversation, and for its whole time once its receipt is signed.

use std::time::Duration;

use skep_evidence::Lease;
use skep_market::{Finished, Refusal};

use super::super::now;
use super::super::residence::Reserved;
use super::begun::receipt_of;
use super::{Desk, Stop};
use crate::failure::{Failure, FailureKind};
use crate::service::Service;
use crate::service::run::Subject;

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

/// Why nothing is kept ready: where as much is as may be, that is over at some time.
fn not_ready(failure: Failure) -> Refusal {
    match failure.kind {
        FailureKind::Busy => Refusal::Busy,
        _ => Refusal::Failed(failure.message),
    }
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
mod tests {
    use super::*;

    #[test]
    fn where_as_much_is_kept_as_may_be_the_node_is_busy_and_nothing_has_failed() {
        let of = |kind| not_ready(Failure::new(kind, "why"));
        assert_eq!(of(FailureKind::Busy), Refusal::Busy);
        assert_eq!(of(FailureKind::Limit), Refusal::Failed("why".to_owned()));
    }
}
