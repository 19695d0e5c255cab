//! Panels: whether those who did the same work were rightly drawn, what most of them say, and who says otherwise.
//!
//! It must never count anybody twice, or anybody who was not drawn.

use skep_registry::Digest;

use super::NoFraud::NoContradiction;
use super::{Audit, Finding, FollowedAudit, NoFraud};
use crate::account::AccountId;
use crate::audit::{AuditSecret, Candidates};
use crate::following::{Transcript, doubt};
use crate::lease::Lease;
use crate::result::ResultCommitment;
use crate::statement::{Agreed, Signed};

/// What one of a panel says.
pub(super) struct Vote<'a> {
    lease: &'a Agreed<Lease>,
    result: &'a Signed<ResultCommitment>,
    /// The same for all who say the same.
    claim: Digest,
}

/// What those say who did the same work, which gives the same bytes.
pub(super) fn repeated<'a>(lease: &Lease, audits: &'a [Audit]) -> Result<Vec<Vote<'a>>, NoFraud> {
    if lease.audit.followed {
        return Err(NoContradiction("the texts of this work are followed"));
    }
    let votes = audits.iter().map(|audit| Vote {
        lease: &audit.lease,
        result: &audit.result,
        claim: audit.result.claim(),
    });
    Ok(votes.collect())
}

/// What those say who followed, if all of them followed this transcript, and it is the provider's.
pub(super) fn followed<'a>(
    lease: &Lease,
    result: &ResultCommitment,
    transcript: &Transcript,
    audits: &'a [FollowedAudit],
) -> Result<Vec<Vote<'a>>, NoFraud> {
    if !lease.audit.followed || lease.audit.follows.is_some() {
        return Err(NoContradiction("the texts of this work are not followed"));
    }
    if result.activations != Some(transcript.digest()) {
        return Err(NoContradiction("the transcript is not the provider's"));
    }
    let script = transcript.script().digest();
    let votes = audits.iter().map(|audit| {
        if audit.lease.audit.follows != Some(script) {
            return Err(NoContradiction(
                "an auditor was given something else to follow",
            ));
        }
        if audit.result.activations != Some(audit.seen.digest()) {
            return Err(NoContradiction("an observation is not the auditor's"));
        }
        Ok(Vote {
            lease: &audit.lease,
            result: &audit.result,
            claim: transcript.vote(result, &audit.result, &audit.seen),
        })
    });
    votes.collect()
}

/// Whether an auditor's lease is of the same work as the one that it audits, and its result under
/// its own.
fn is_same_work(audit: &Vote<'_>, lease: &Lease) -> bool {
    let of = |lease: &Lease| {
        let terms = (lease.audit.exact, lease.audit.followed);
        (lease.job, lease.shard, lease.requester, lease.work, terms)
    };
    let own = audit.lease;
    of(own) == of(lease) && own.provider == audit.result.worker && audit.result.is_under(own)
}

/// Those whose output, or what they say that it took, is another than that of the majority, and those who are the
/// majority, if all were rightly drawn.
pub(super) fn found(
    lease: &Agreed<Lease>,
    secret: &AuditSecret,
    candidates: &Candidates,
    result: &Signed<ResultCommitment>,
    audits: &[Vote<'_>],
) -> Result<Finding, NoFraud> {
    let terms = &lease.audit;
    if !terms.exact {
        return Err(NoContradiction("the work may give other bytes elsewhere"));
    }
    if !result.is_under(lease) || !audits.iter().all(|audit| is_same_work(audit, lease)) {
        return Err(NoContradiction("a result is of other work"));
    }
    if (secret.commitment(), candidates.digest()) != (terms.secret, terms.candidates) {
        return Err(NoContradiction(
            "the secret or the candidates are not those of the lease",
        ));
    }
    if result.worker != lease.provider {
        return Err(NoContradiction("the first result is not the provider's"));
    }
    let draw = secret.draw(result.digest());
    if !draw.is_audited(terms.rate) {
        return Err(NoContradiction("this result was not drawn to be audited"));
    }
    // Who cannot tell has no say, and another has its seat.
    let has_say = |audit: &&Vote<'_>| audit.claim != doubt();
    if audits.iter().filter(has_say).count() > terms.auditors() {
        return Err(NoContradiction("more audit it than have a say"));
    }
    // In the order of the draw, so that nobody has two votes.
    let mut drawn = draw
        .auditors(
            candidates,
            terms.drawn(),
            &[lease.provider, lease.requester],
        )
        .into_iter();
    if !audits
        .iter()
        .all(|audit| drawn.any(|auditor| auditor == audit.result.worker))
    {
        return Err(NoContradiction(
            "the auditors are not those that were drawn, in their order",
        ));
    }
    let said = || {
        let auditors = audits
            .iter()
            .map(|audit| (audit.result.worker, audit.claim));
        std::iter::once((result.worker, result.claim())).chain(auditors)
    };
    let votes = |claim| said().filter(|(_, said)| *said == claim).count();
    // Of the whole panel: who is missing agrees with nobody.
    let majority = said()
        .map(|(_, said)| said)
        .find(|claim| *claim != doubt() && 2 * votes(*claim) > terms.panel as usize)
        .ok_or(NoContradiction("no output has the majority of the panel"))?;
    let who = |says: &dyn Fn(Digest) -> bool| {
        let all = said().filter(|(_, said)| says(*said));
        all.map(|(worker, _)| worker).collect::<Vec<AccountId>>()
    };
    let odd = who(&|said| said != majority && said != doubt());
    match odd.is_empty() {
        true => Err(NoContradiction("all outputs are the same")),
        false => Ok(Finding {
            offenders: odd,
            lease: lease.digest(),
            majority: who(&|said| said == majority),
        }),
    }
}
