//! Who is given no further shard for the time being: others look at a result of its own, since enough got another.
//!
//! What it has goes on, and it audits what it was drawn for: auditors are compared with others in any case, and
//! to pass one over is what a liar would have. A shard that nobody else could make waits for it, rather than to be
//! given again to who failed it. That has an end: each look has one ([`super::audit`]), no result is looked at for this
//! twice, and nobody is given anything meanwhile that could be odd.
//!
//! It must never be cheap to have somebody honest wait. Of two replicas that differ one lies, and if both had to wait,
//! one liar beside each honest node would stop a job and pay for a single lie. So it is not who differs, but whose
//! result is being looked at, which takes as many others that agree as the job has replicas. Those who agree go on.
//! Of them those are looked at, and wait, against whom a panel has found. To have an honest node wait takes
//! as many who lie alike as there are replicas, in each shard anew: it waits no longer than one look, is a suspect no
//! more when that is over, and where most of the panel are honest each of them loses its stake by it.

use std::collections::BTreeSet;

use skep_evidence::AccountId;

use super::{Attempt, Job, Look, State};

impl Job {
    /// Those who wait now.
    pub(super) fn suspects(&self) -> BTreeSet<AccountId> {
        let is_open = |attempt: &&Attempt| {
            matches!(attempt.state, State::Audited(_)) && attempt.look == Some(Look::Odd)
        };
        let shards = self.under_audit.iter();
        let attempts = shards.flat_map(|number| &self.shards[*number as usize].attempts);
        let looked_at = attempts.filter(is_open);
        looked_at.map(|attempt| attempt.provider).collect()
    }
}
