//! What comes of a lease whose input is here: the work is done in a slot, and what was made of it is signed for.
//!
//! # What it must never do
//!
//! - Sign for one lease twice: whoever asks again gets what was signed, if the work gives the same.
//! - Have a requester owe what came to nothing by a fault of this node.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use skep_evidence::{Agreed, Lease, Meter, ResultCommitment, Signed, Unverified};
use skep_market::{Done, Finished, Owed, Refusal, affordable, conclude, hand_over};
use skep_registry::Digest;
use skep_sandbox::{Shown, Texts, Used};
use skep_swarm::Channel;
use zeroize::Zeroizing;

use super::super::work::{self, Allowed, FaultOf, Unmade};
use super::super::{now, random};
use super::begun::{AtWork, receipt_of};
use super::fault::Fault;
use super::untaken::Product;
use super::{Desk, Stop, meanwhile};
use crate::failure::FailureKind;
use crate::service::Service;
use crate::service::run::Subject;

/// A shard that is here whole.
pub(super) struct Shard {
    pub(super) subject: Subject,
    pub(super) input: Zeroizing<Vec<u8>>,
    /// How its texts are shown.
    pub(super) texts: Texts,
    /// How long its lease has.
    pub(super) time: Duration,
    /// The ticket of the node that can be asked for its receipt.
    pub(super) asks: String,
}

/// What came of the work of a lease, and of its texts what is shown.
struct Outcome {
    output: Digest,
    shown: Option<Digest>,
    meter: Meter,
    started: u64,
}

impl From<Unmade> for Stop {
    fn from(Unmade { failure, fault }: Unmade) -> Self {
        match fault {
            FaultOf::Work | FaultOf::Sandbox => Refusal::Failed(failure.message).into(),
            FaultOf::Nobody => Refusal::Busy.into(),
            // As much as may be is compiled or kept ready, which is over at some time: nothing is broken.
            FaultOf::Node if failure.kind == FailureKind::Busy => Refusal::Busy.into(),
            FaultOf::Node => Fault::from(failure).into(),
        }
    }
}

impl Desk {
    /// Has the work of a lease done once there is a slot for it, and signs for what was made.
    pub(super) async fn make(
        &self,
        service: &Arc<Service>,
        channel: &mut Channel,
        lease: &Agreed<Lease>,
        shard: Shard,
        records: &Arc<AtomicU64>,
    ) -> Result<Product, Stop> {
        let Shard {
            subject,
            input,
            texts,
            time,
            asks,
        } = shard;
        // Everything is here by now: the next one begins as soon as the one before it has ended.
        let slot = meanwhile(channel, records, self.slots.acquire())
            .await?
            .map_err(|_| Stop::Gone)?;
        let listed = service
            .running
            .enter(&format!("a shard of {}", lease.work.package));
        let started = now();
        let used = Used::default();
        let is_again = tokio::task::block_in_place(|| self.earnings.finished(lease.digest()));
        let is_again = is_again.map_err(Fault::from)?.is_some();
        let input_bytes = input.len() as u64;
        let at_work = self.begun.begin(lease, input_bytes, used.clone(), is_again);
        let room = lease.allowance.bytes.saturating_sub(input_bytes);
        let allowed = Allowed {
            flops: affordable(lease),
            output: room.min(self.policy.largest_output),
            time,
            seed: lease.audit.exact.then_some(lease.work.seed),
            texts,
            used,
        };
        let work = work::perform(service, subject, input, allowed, Arc::clone(records));
        let made = meanwhile(channel, records, work).await?;
        // What was made is signed and sent while another is worked on.
        drop((slot, listed));
        let made = match made {
            Ok(made) => made,
            Err(unmade) => {
                if unmade.fault != FaultOf::Work {
                    at_work.failed_here();
                }
                return Err(unmade.into());
            }
        };
        let meter = Meter {
            tokens: made.report.tokens,
            flops: made.report.flops,
            bytes: input_bytes + made.output.len() as u64,
            // What was reserved is kept, whether anybody comes for it or not.
            residency: lease.allowance.residency,
        };
        let shown = made.report.shown.as_ref().map(Shown::encode);
        let outcome = Outcome {
            output: Digest::of(&made.output),
            shown: shown.as_deref().map(Digest::of),
            meter,
            started,
        };
        let signed = tokio::task::block_in_place(|| self.sign_for(at_work, lease, outcome, asks))?;
        let bytes = [&made.output[..], &shown.unwrap_or_default()].concat();
        Ok(Product::new(
            signed,
            made.output.len(),
            Zeroizing::new(bytes),
        ))
    }

    /// Signs for work that is done. Where this node is at fault that nothing is signed, nobody owes the work.
    fn sign_for(
        &self,
        at_work: AtWork,
        lease: &Signed<Lease>,
        outcome: Outcome,
        node: String,
    ) -> Result<Finished, Stop> {
        let signed = self.sign(lease, outcome, node);
        match &signed {
            Ok(_) => at_work.signed(),
            Err(Stop::Broken(_)) => at_work.failed_here(),
            // It used more than its lease pays for, or gave something else than before.
            Err(Stop::Gone | Stop::Refused(_)) => drop(at_work),
        }
        signed
    }

    /// What is signed for a lease is signed once: whoever asks again gets the same.
    fn sign(
        &self,
        lease: &Signed<Lease>,
        outcome: Outcome,
        node: String,
    ) -> Result<Finished, Stop> {
        let Outcome {
            output,
            shown,
            meter,
            started,
        } = outcome;
        let earlier = self.earnings.finished(lease.digest());
        if let Some(earlier) = earlier.map_err(Fault::from)? {
            let keys = &mut *self.keys();
            let said = Signed::<ResultCommitment>::decode(&earlier.commitment, keys);
            let said = said.map_err(Fault::from)?;
            return match (said.output, said.activations) == (output, shown) {
                true => Ok(earlier),
                false => {
                    let reason = "the work did not give the same bytes when it was asked for again";
                    Err(Refusal::Failed(reason.to_owned()).into())
                }
            };
        }
        let done = Done {
            output,
            meter,
            shown,
            sequence: self.earnings.number().map_err(Fault::from)?,
            nonce: random().map_err(Fault::from)?,
            started,
            finished: now(),
        };
        let (commitment, receipt) = conclude(lease, &done, &self.account)?;
        let signed = Finished {
            commitment: commitment.encode(),
            receipt: receipt.encode(),
        };
        let owed = Owed {
            requester: lease.requester,
            price: receipt.price,
            since: done.finished,
            node,
        };
        let kept = self.earnings.keep(lease.digest(), signed, &owed);
        Ok(kept.map_err(Fault::from)?)
    }

    /// Says that these statements are for this lease.
    pub(super) fn hand_over(
        &self,
        lease: &Signed<Lease>,
        signed: &Finished,
    ) -> Result<Vec<u8>, Stop> {
        // They are this node's own: whether their signatures hold is not the question.
        let commitment = Unverified::<ResultCommitment>::decode(&signed.commitment);
        let commitment = commitment.map_err(Fault::from)?.digest();
        let receipt = receipt_of(signed)?.digest();
        let handover = hand_over(lease, commitment, receipt, &self.account);
        Ok(handover.map_err(Fault::from)?.encode())
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic)]
mod tests {
    use std::path::Path;

    use skep_evidence::Credits;
    use skep_market::EarningsError;

    use super::super::testing::{broken_earnings, desk, lease};
    use super::*;
    use crate::config::Jobs;
    use crate::failure::Failure;

    /// What came of work that moved so many bytes.
    fn outcome(made: &[u8], bytes: u64) -> Outcome {
        Outcome {
            output: Digest::of(made),
            shown: None,
            meter: Meter {
                bytes,
                ..Meter::default()
            },
            started: now(),
        }
    }

    /// A desk at which nobody may owe anything.
    fn strict(folder: &Path) -> Desk {
        let jobs = Jobs {
            unpaid: Credits::ZERO,
            ..Jobs::default()
        };
        desk(&jobs, &folder.join("earnings"))
    }

    /// What the work of a lease comes to at this desk.
    fn ended(
        desk: &Desk,
        lease: &Agreed<Lease>,
        made: &[u8],
        bytes: u64,
    ) -> Result<Finished, Stop> {
        let at_work = desk.begun.begin(lease, bytes, Used::default(), false);
        desk.sign_for(at_work, lease, outcome(made, bytes), String::new())
    }

    /// What its requester owes, by what another lease of it is told.
    fn owed(desk: &Desk) -> u64 {
        match desk.trust(&lease(2, 9, 1_000), Duration::from_secs(60)) {
            Ok(()) => 0,
            Err(Stop::Refused(Refusal::Unpaid { owed, limit: 0 })) => owed,
            Err(Stop::Refused(other)) => panic!("{other}"),
            Err(Stop::Broken(fault)) => panic!("{fault}"),
            Err(Stop::Gone) => panic!("nobody speaks"),
        }
    }

    #[test]
    fn where_others_have_taken_what_the_work_needs_the_node_is_busy_and_nothing_has_failed() {
        let told = |fault| {
            let failure = Failure::new(FailureKind::Failed, "why");
            match Stop::from(Unmade { failure, fault }) {
                Stop::Refused(refusal) => refusal,
                Stop::Broken(fault) => panic!("{fault}"),
                Stop::Gone => panic!("nobody speaks"),
            }
        };
        assert_eq!(told(FaultOf::Nobody), Refusal::Busy);
        let failed = Refusal::Failed("why".to_owned());
        assert_eq!(
            [FaultOf::Work, FaultOf::Sandbox].map(told),
            [failed.clone(), failed]
        );
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn what_a_broken_disk_keeps_from_being_signed_is_owed_by_nobody() {
        let folder = tempfile::tempdir().unwrap();
        let whole = strict(folder.path());
        let broken = Desk {
            earnings: broken_earnings(&folder.path().join("broken")),
            ..whole.clone()
        };
        let stopped = ended(&broken, &lease(2, 0, 1_000), b"made", 30);
        assert!(matches!(
            stopped,
            Err(Stop::Broken(Fault::Earnings(EarningsError::Storage { .. })))
        ));
        assert_eq!(owed(&whole), 0);
        // The same lease is done and signed for once the disk is there again.
        let signed = ended(&whole, &lease(2, 0, 1_000), b"made", 30);
        assert!(signed.is_ok());
        assert_eq!(owed(&whole), 30);
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn what_used_more_than_its_lease_pays_for_is_owed_up_to_that() {
        let folder = tempfile::tempdir().unwrap();
        let desk = strict(folder.path());
        let stopped = ended(&desk, &lease(2, 0, 7), b"made", 30);
        assert!(matches!(
            stopped,
            Err(Stop::Refused(Refusal::Failed(reason))) if reason.contains("above the lease's limit")
        ));
        assert_eq!(owed(&desk), 7);
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_statement_of_its_own_that_is_damaged_is_the_node_s_own_fault() {
        let folder = tempfile::tempdir().unwrap();
        let desk = strict(folder.path());
        let (first, second) = (lease(2, 0, 1_000), lease(2, 1, 1_000));
        let signed = ended(&desk, &first, b"made", 30);
        let Ok(signed) = signed else {
            panic!("it fits its lease");
        };
        // Other bytes are the work's fault, and the same are signed for as before.
        let again = ended(&desk, &first, b"other", 30);
        assert!(matches!(again, Err(Stop::Refused(Refusal::Failed(_)))));
        let again = ended(&desk, &first, b"made", 30);
        assert!(again.is_ok_and(|again| again == signed));
        let damaged = Finished {
            commitment: signed.commitment[1..].to_vec(),
            ..signed
        };
        let owed = Owed {
            requester: second.requester,
            price: Credits::ZERO,
            since: now(),
            node: String::new(),
        };
        desk.earnings.keep(second.digest(), damaged, &owed).unwrap();
        let stopped = ended(&desk, &second, b"made", 30);
        assert!(matches!(stopped, Err(Stop::Broken(Fault::Statement(_)))));
    }
}
