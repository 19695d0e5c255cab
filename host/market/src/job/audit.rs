//! Audits: whose result is looked at by whom, and what comes of it.
//!
//! A result that was drawn to be audited does not count until somebody else's has been compared with
//! it. Auditors get a lease of the same shard like any other. The first that was drawn decides if it
//! agrees. If it does not, all that have a say are asked, and whoever is not with the majority of
//! the panel is wrong. One more was drawn than has a say: it is asked in place of one that is late or of whom
//! nothing comes. What is compared is the output and what was metered. Where the texts of
//! results are followed, an auditor's claim is that of the result that it followed, if it agrees with
//! that, and stands for nothing else: each audit has leases of its own then.
//!
//! It must never take a result for right that most of its panel did not get, or for wrong one that
//! they did.

use std::collections::BTreeMap;

use skep_evidence::AccountId;
use skep_evidence::following::doubt;
use skep_registry::Digest;

use super::decide::{Choice, Decision, Room};
use super::{AttemptId, Event, Finding, GaveUp, Job, State};

/// So often an auditor is asked of whom nothing comes.
const TRIES: usize = 2;

/// What came of an audit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// The result that was audited.
    pub id: AttemptId,
    /// What was found of it.
    pub finding: Finding,
    /// The leases whose results it was compared with, in the order of the draw, each with what was
    /// found of it.
    pub audits: Vec<(AttemptId, Finding)>,
}

impl Outcome {
    /// The leases whose results are wrong.
    pub fn wrong(&self) -> impl Iterator<Item = AttemptId> {
        let wrong = |(id, finding)| (finding == Finding::Wrong).then_some(id);
        self.findings().filter_map(wrong)
    }

    /// What is to be written down: the audited result last, since it counts from then on.
    #[must_use]
    pub fn events(&self, at: u64) -> Vec<Event> {
        let said = self.findings();
        said.map(|(id, finding)| Event::Audited { id, at, finding })
            .collect()
    }

    fn findings(&self) -> impl Iterator<Item = (AttemptId, Finding)> {
        let audits = self.audits.iter().copied();
        audits.chain([(self.id, self.finding)])
    }
}

/// What one that was drawn has to say.
enum Say {
    /// This came out, and took so much.
    Said(u32, Digest),
    /// It is at work; longer than usual, or not.
    Working { is_late: bool },
    /// It has not been asked, or may be asked again.
    Silent,
    /// Nothing comes of it.
    Spent,
}

impl Job {
    /// What the audits of one shard need; or why the job cannot go on.
    pub(super) fn decide_audits(
        &self,
        number: u32,
        now: u64,
        choice: &mut Choice<'_>,
        decisions: &mut Vec<Decision>,
    ) -> Option<GaveUp> {
        let attempts = &self.shards[number as usize].attempts;
        for (attempt, audited) in (0..).zip(attempts) {
            let State::Audited(output) = audited.state else {
                continue;
            };
            let id = AttemptId {
                shard: number,
                attempt,
            };
            // Who does not come for so long does not come.
            let is_over = now.saturating_sub(audited.since) >= self.plan.patience;
            let says: Vec<(AccountId, Say)> = audited
                .auditors
                .iter()
                .map(|auditor| {
                    let say = match self.say(id, *auditor, now) {
                        Say::Silent => match choice.room(*auditor, self.load(*auditor)) {
                            Some(Room::Never) => Say::Spent,
                            Some(Room::Now | Room::Later) => Say::Silent,
                            None if is_over => Say::Spent,
                            None => Say::Silent,
                        },
                        say => say,
                    };
                    (*auditor, say)
                })
                .collect();
            let seats = seats(audited.auditors.len());
            let is_late = now.saturating_sub(audited.since) > self.late();
            let is_away = |auditor| choice.room(auditor, self.load(auditor)).is_none();
            let lacks_one = |(auditor, say): &(AccountId, Say)| match say {
                Say::Spent | Say::Working { is_late: true } => true,
                Say::Silent => is_late && is_away(*auditor),
                _ => false,
            };
            let is_spare_needed = says.iter().take(seats).any(lacks_one);
            let asked = if is_spare_needed { says.len() } else { seats };
            let said = said(&says, seats);
            let is_disputed = said.iter().any(|(_, other)| *other != output.claim);
            if !is_disputed && !said.is_empty() {
                let passed = said.iter().map(|(attempt, _)| {
                    let (shard, attempt) = (number, *attempt);
                    (AttemptId { shard, attempt }, Finding::Passed)
                });
                decisions.push(Decision::Audited(Outcome {
                    id,
                    finding: Finding::Passed,
                    audits: passed.collect(),
                }));
                // It changes what the other audits of the shard look at.
                return None;
            }
            let is_awaited = says.iter().any(|(_, say)| match say {
                Say::Working { is_late } => is_disputed || !is_late,
                _ => false,
            });
            let mut may_say = says.iter().take(asked);
            let may_come = said.len() < seats
                && may_say.any(|(_, say)| matches!(say, Say::Working { .. } | Say::Silent));
            if !may_come {
                decisions.push(Decision::Audited(tally(id, output.claim, &said, seats)));
                return None;
            }
            if is_awaited && !is_disputed {
                continue;
            }
            for (auditor, say) in says.iter().take(asked) {
                let has_room = choice.room(*auditor, self.load(*auditor)) == Some(Room::Now);
                if !matches!(say, Say::Silent) || !has_room {
                    continue;
                }
                if choice.left < self.plan.lease_limit {
                    return self.is_idle(decisions).then_some(GaveUp::Budget);
                }
                decisions.extend(self.lease_to(*auditor, number, Some(attempt), choice));
                if !is_disputed {
                    break;
                }
            }
        }
        None
    }

    /// What an account has to say of a result: of the shard, whatever it was asked for; or, where results
    /// are followed, of this one alone.
    fn say(&self, id: AttemptId, auditor: AccountId, now: u64) -> Say {
        let attempts = (0..).zip(&self.shards[id.shard as usize].attempts);
        let mut failed = 0;
        for (attempt, its) in attempts.filter(|(_, its)| its.provider == auditor) {
            let is_of_another = self.plan.followed && its.audits != Some(id.attempt);
            match its.state {
                State::Wrong(_) => return Say::Spent,
                _ if is_of_another => {}
                State::Delivered(output)
                | State::Audited(output)
                | State::Follows(output)
                | State::Followed(output) => {
                    return Say::Said(attempt, output.claim);
                }
                State::Open => {
                    let is_late = now.saturating_sub(its.since) > self.late();
                    return Say::Working { is_late };
                }
                State::Ended => failed += 1,
            }
        }
        match failed >= TRIES {
            true => Say::Spent,
            false => Say::Silent,
        }
    }
}

/// How many of those that were drawn have a say: an even number, so that they and the provider are an odd one.
/// One more was drawn if there was one.
fn seats(drawn: usize) -> usize {
    (drawn / 2 * 2).max(2)
}

/// What those said, in the order of the draw, who have a say.
fn said(says: &[(AccountId, Say)], seats: usize) -> Vec<(u32, Digest)> {
    let said = says.iter().filter_map(|(_, say)| match say {
        Say::Said(attempt, output) => Some((*attempt, *output)),
        _ => None,
    });
    said.take(seats).collect()
}

/// Everybody has said what there is to say: who is with the majority of the panel?
fn tally(id: AttemptId, claim: Digest, said: &[(u32, Digest)], seats: usize) -> Outcome {
    let mut votes: BTreeMap<Digest, usize> = BTreeMap::from([(claim, 1)]);
    for (_, claim) in said {
        *votes.entry(*claim).or_default() += 1;
    }
    let panel = seats + 1;
    let majority = votes
        .into_iter()
        .find(|(claim, votes)| *claim != doubt() && 2 * votes > panel);
    let finding = |claim| match majority {
        None => Finding::Undecided,
        // Who cannot tell contradicts nobody.
        Some((right, _)) if right == claim || claim == doubt() => Finding::Passed,
        Some(_) => Finding::Wrong,
    };
    let audits = said.iter().map(|(attempt, claim)| {
        let (shard, attempt) = (id.shard, *attempt);
        (AttemptId { shard, attempt }, finding(*claim))
    });
    Outcome {
        id,
        finding: finding(claim),
        audits: audits.collect(),
    }
}
