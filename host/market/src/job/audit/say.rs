//! Where those stand who were drawn to audit a result: who has said something, who is waited for, and who is passed
//! over.
//!
//! Who lies would have those passed over who do not, so that it is a friend's turn. It must never pass anybody
//! over sooner than [`Job::late_for_audits`] says, but for who takes no such work at all, whatever others do:
//! who is busy with leases of this job is waited for as long as any lease is, and whoever fails is asked again
//! when that time is over.

use skep_evidence::AccountId;
use skep_evidence::following::doubt;
use skep_registry::Digest;

use super::super::decide::{Choice, Room};
use super::super::{AttemptId, Job, State};

/// So often an auditor is asked of whom nothing comes, and once more if it failed sooner than it would have
/// been late.
const TRIES: usize = 2;

/// What one that was drawn has to say.
#[derive(Clone, Copy)]
pub(super) enum Say {
    /// Something came of a lease of the shard.
    Said(Said),
    /// It is at work, since then.
    Working(u64),
    /// Nothing has come, however often it was asked for this audit.
    Silent(Tries),
    /// It was found wrong.
    Wrong,
}

impl Say {
    /// What it says, if it says something.
    pub(super) fn said(&self) -> Option<Said> {
        match self {
            Self::Said(said) => Some(*said),
            _ => None,
        }
    }

    /// The same, unless it is that it cannot tell, which is no vote.
    pub(super) fn vote(&self) -> Option<Said> {
        self.said().filter(|said| !said.is_doubt())
    }
}

/// What came of a lease.
#[derive(Clone, Copy)]
pub(super) struct Said {
    pub(super) attempt: u32,
    /// What came out, and how much it took.
    pub(super) claim: Digest,
    /// When it came.
    pub(super) at: u64,
}

impl Said {
    /// Whether it followed a result and cannot tell.
    fn is_doubt(&self) -> bool {
        self.claim == doubt()
    }
}

/// The leases for one audit of which nothing came.
#[derive(Clone, Copy, Default)]
pub(super) struct Tries {
    count: usize,
    /// When the first was made out.
    begun: u64,
    /// When the last was over.
    over: u64,
}

/// What is to be made of one that was drawn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Standing {
    /// It has said something.
    Said,
    /// It is waited for: it works, has no room, is asked again later, or is not away for long.
    Awaited,
    /// It may be asked, and has room.
    Free,
    /// It was to have answered by then, and may still come.
    Late(u64),
    /// Nothing comes of it, since then, or it cannot tell.
    Spent(u64),
}

impl Job {
    /// What an account has to say of a result: of the shard, whatever it was asked for; or, where results
    /// are followed, of this one alone.
    pub(super) fn say(&self, id: AttemptId, auditor: AccountId) -> Say {
        let attempts = (0..).zip(&self.shards[id.shard as usize].attempts);
        let mut tries = Tries::default();
        for (attempt, its) in attempts.filter(|(_, its)| its.provider == auditor) {
            let is_for_this = its.audits == Some(id.attempt);
            match its.state {
                State::Wrong(_) => return Say::Wrong,
                _ if self.plan.followed && !is_for_this => {}
                State::Delivered(output)
                | State::Audited(output)
                | State::Follows(output)
                | State::Followed(output) => {
                    return Say::Said(Said {
                        attempt,
                        claim: output.claim,
                        at: its.since,
                    });
                }
                State::Open => return Say::Working(its.since),
                State::Ended if is_for_this => {
                    if tries.count == 0 {
                        tries.begun = its.begun;
                    }
                    tries.count += 1;
                    tries.over = its.since;
                }
                State::Ended => {}
            }
        }
        Say::Silent(tries)
    }

    /// Where an account stands that has this to say, and is waited for since then.
    pub(super) fn standing(
        &self,
        (auditor, say): (AccountId, Say),
        since: u64,
        now: u64,
        choice: &Choice<'_>,
    ) -> Standing {
        let late = self.late_for_audits();
        let tries = match say {
            // It costs nothing to say so: a friend that did, and kept its seat, would save a liar its stake.
            Say::Said(said) if said.is_doubt() => return Standing::Spent(since.max(said.at)),
            Say::Said(_) => return Standing::Said,
            Say::Wrong => return Standing::Spent(since),
            Say::Working(begun) => return late_after(since.max(begun), late, now),
            Say::Silent(tries) => tries,
        };
        let has_failed = tries.count >= TRIES;
        let enough = tries.begun.saturating_add(late);
        if has_failed && tries.over >= enough {
            return Standing::Spent(since.max(tries.over));
        }
        match choice.room(auditor, self.load(auditor)) {
            Some(Room::Never) => Standing::Spent(since),
            Some(Room::Now) if has_failed && now < enough => Standing::Awaited,
            Some(Room::Now) => Standing::Free,
            Some(Room::Later) => late_after(since, self.plan.patience, now),
            // It still has a lease to answer: whether it has gone is known when that is over.
            None if self.load(auditor) > 0 => late_after(since, self.plan.patience, now),
            None => {
                let freed = self.freed.get(&auditor).copied().unwrap_or(0);
                let gone = since.max(freed);
                match late_after(gone, self.plan.patience, now) {
                    // Who does not come for so long does not come.
                    Standing::Late(_) => Standing::Spent(gone.saturating_add(late)),
                    _ => late_after(gone, late, now),
                }
            }
        }
    }
}

/// Who is waited for since then, and is late after so many milliseconds.
fn late_after(since: u64, patience: u64, now: u64) -> Standing {
    let until = since.saturating_add(patience);
    match now >= until {
        true => Standing::Late(until),
        false => Standing::Awaited,
    }
}
