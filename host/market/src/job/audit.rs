//! Audits: whose result is looked at by whom, and what comes of it.
//!
//! A result that was drawn to be audited does not count until somebody else's has been compared with
//! it. Auditors get a lease of the same shard like any other. As long as nobody got anything else, they are
//! asked one after the other in the order of the draw, and the result passes by what the first of them got of whom
//! anything comes ([`say`]). Another that made the shard does not stand for it, if it agrees: two who lie alike
//! would pass each other's lies, and who is first to deliver is for them to say. Who is drawn first is not.
//!
//! If anybody that was drawn got something else, all that have a say are asked, and whoever is not with the majority of
//! the panel is wrong. One more was drawn than has a say: it is asked, and heard, in place of one that is late or of
//! whom nothing comes. What is compared is the output and what was metered. Where the texts of
//! results are followed, an auditor's claim is that of the result that it followed, if it agrees with
//! that, and stands for nothing else: each audit has leases of its own then. Who follows and cannot tell has called
//! the panel and has no say in it: it is neither charged nor paid, and one more is heard in its place.
//!
//! Of replicas a result that is odd is audited as well ([`super::accept`]). Others have got something else by then,
//! so that the panel decides, and no more of it are asked than it takes for a majority. Most often what the shard's
//! output is does not depend on it, but only who pays: who is late is not waited for.
//!
//! It must never take a result for right that most of its panel did not get, or for wrong one that
//! they did; or for right one that the first of the draw has not got.

mod say;

use std::collections::BTreeMap;

use skep_evidence::AccountId;
use skep_registry::Digest;

use self::say::{Said, Say, Standing};
use super::decide::{Choice, Decision};
use super::{AttemptId, Event, Finding, GaveUp, Job, Look, State};

/// How many times as long as one auditor at the beginning of a job all that look at what is odd are waited for: a
/// shard on which enough agree must not wait for those who are silent on purpose.
const LONGEST_LOOK: u64 = 3;

/// What came of an audit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// The result that was audited.
    pub id: AttemptId,
    /// What was found of it.
    pub finding: Finding,
    /// The leases whose results it was compared with, in the order of the draw, each with what was
    /// found of it. If nobody got anything else, those are left out whose own results are being audited.
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

/// A result that is being audited.
struct Audit {
    id: AttemptId,
    claim: Digest,
    /// Whether it is audited for being another than what enough replicas are.
    is_odd: bool,
    /// Since when it waits for its auditors.
    since: u64,
    /// What each that was drawn has to say of it, in the order of the draw.
    says: Vec<(AccountId, Say)>,
}

/// What an audit needs.
enum Next {
    /// Time.
    Wait,
    /// Leases to these.
    Ask(Vec<AccountId>),
    /// Nothing more.
    Over(Outcome),
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
            let auditors = audited.auditors.iter();
            let audit = Audit {
                id,
                claim: output.claim,
                is_odd: audited.look == Some(Look::Odd),
                since: audited.since.max(self.watched),
                says: auditors
                    .map(|auditor| (*auditor, self.say(id, *auditor)))
                    .collect(),
            };
            let next = match (audit.is_odd, audit.disputed()) {
                (true, _) => self.ask_panel(&audit, audit.since, now, choice),
                (false, Some(since)) => self.ask_panel(&audit, since, now, choice),
                (false, None) => self.ask_in_turn(&audit, now, choice),
            };
            match next {
                Next::Wait => {}
                Next::Over(outcome) => {
                    decisions.push(Decision::Audited(outcome));
                    // It changes what the other audits of the shard look at.
                    return None;
                }
                Next::Ask(auditors) => {
                    for auditor in auditors {
                        // What it makes of the shard stands for all audits of it, unless it follows one result.
                        if !self.plan.followed && choice.gets(auditor, number) {
                            continue;
                        }
                        // What the job cannot do without comes first.
                        let rest = match audit.is_odd {
                            true => self.waiting() as u64,
                            false => 0,
                        };
                        let leases = rest.saturating_mul(self.plan.replicas.into()) + 1;
                        let least = self.plan.lease_limit.micro().saturating_mul(leases);
                        if choice.left.micro() < least {
                            // Those that wait are given out first, and this one looked at with what they leave.
                            if rest > 0 {
                                return None;
                            }
                            if !self.is_idle(decisions) {
                                return None;
                            }
                            if !audit.is_odd {
                                return Some(GaveUp::Budget);
                            }
                            // The job can do without it.
                            let outcome = self.conclude(&audit, &audit.heard());
                            decisions.push(Decision::Audited(outcome));
                            return None;
                        }
                        decisions.extend(self.lease_to(auditor, number, Some(attempt), choice));
                    }
                }
            }
        }
        None
    }

    /// What an audit needs in which nobody got anything else: the first of the draw, and the next only in place
    /// of one that is late or of whom nothing comes.
    fn ask_in_turn(&self, audit: &Audit, now: u64, choice: &Choice<'_>) -> Next {
        let mut turn = audit.since;
        let mut may_come = false;
        for (auditor, say) in &audit.says {
            match self.standing((*auditor, *say), turn, now, choice) {
                Standing::Said => return Next::Over(self.passed(audit)),
                Standing::Awaited => return Next::Wait,
                Standing::Free => return Next::Ask(vec![*auditor]),
                Standing::Late(at) => {
                    may_come = true;
                    turn = turn.max(at);
                }
                Standing::Spent(at) => turn = turn.max(at),
            }
        }
        match may_come {
            true => Next::Wait,
            false => Next::Over(tally(audit, &[])),
        }
    }

    /// What an audit needs in which somebody got something else, at that time: what all that have a say get.
    fn ask_panel(&self, audit: &Audit, since: u64, now: u64, choice: &Choice<'_>) -> Next {
        let says = audit.says.iter();
        let standings: Vec<Standing> = says
            .map(|say| self.standing(*say, since, now, choice))
            .collect();
        let seats = seats(audit.says.len());
        let lacks =
            |standing: &Standing| matches!(standing, Standing::Late(_) | Standing::Spent(_));
        // Who was drawn beside those that have a say has none as long as they are in time, even if it has made the
        // shard.
        let asked = match standings.iter().take(seats).any(lacks) {
            true => standings.len(),
            false => seats,
        };
        let heard = audit.says.iter().take(asked);
        let said: Vec<Said> = heard
            .filter_map(|(_, say)| say.vote())
            .take(seats)
            .collect();
        let standings = || standings.iter().take(asked);
        let may_come = |standing: &Standing| match standing {
            Standing::Said | Standing::Spent(_) => false,
            // The shard's output does not depend on it.
            Standing::Late(_) => !audit.is_odd,
            Standing::Awaited | Standing::Free => true,
        };
        let outcome = self.conclude(audit, &said);
        let is_found = audit.is_odd && outcome.finding != Finding::Undecided;
        let patience = LONGEST_LOOK * self.late_for_audits().min(self.plan.first_patience);
        let is_late = audit.is_odd && now >= audit.since.saturating_add(patience);
        if is_found || is_late || said.len() == seats || !standings().any(may_come) {
            return Next::Over(outcome);
        }
        let asked = || audit.says.iter().zip(standings());
        let at_work = asked().filter(|((_, say), standing)| {
            matches!(say, Say::Working(_)) && **standing == Standing::Awaited
        });
        let more = match audit.is_odd {
            true => missing(audit, &said).saturating_sub(at_work.count()),
            false => usize::MAX,
        };
        let free = asked().filter(|(_, standing)| **standing == Standing::Free);
        let free = free.map(|((auditor, _), _)| *auditor);
        Next::Ask(free.take(more).collect())
    }

    /// How many shards nobody has, and nobody looks at.
    fn waiting(&self) -> usize {
        let nobody_has = self.unfinished.difference(&self.open);
        let looked_at = |number: &&u32| self.under_audit.contains(number);
        nobody_has.filter(|number| !looked_at(number)).count()
    }

    /// What comes of an audit of which this is all that was said. Where nothing is found of a result that is odd,
    /// what others made of the shard stands, and only what was said for this audit does not.
    fn conclude(&self, audit: &Audit, said: &[Said]) -> Outcome {
        let mut outcome = tally(audit, said);
        if audit.is_odd && outcome.finding == Finding::Undecided {
            let attempts = &self.shards[audit.id.shard as usize].attempts;
            let audits = |id: &AttemptId| !attempts[id.attempt as usize].has_vote;
            outcome.audits.retain(|(id, _)| audits(id));
        }
        outcome
    }

    /// The first of the draw agrees, and nobody got anything else.
    fn passed(&self, audit: &Audit) -> Outcome {
        let attempts = &self.shards[audit.id.shard as usize].attempts;
        let said = audit.says.iter().filter_map(|(_, say)| say.said());
        // For those whose own results are audited it is another's turn.
        let is_audited = |said: &Said| {
            let state = attempts[said.attempt as usize].state;
            matches!(state, State::Audited(_))
        };
        let agree = said.filter(|said| !is_audited(said));
        Outcome {
            id: audit.id,
            finding: Finding::Passed,
            audits: agree
                .map(|said| (audit.of(said), Finding::Passed))
                .collect(),
        }
    }
}

impl Audit {
    /// When somebody got something else, if anybody did.
    fn disputed(&self) -> Option<u64> {
        let said = self.says.iter().filter_map(|(_, say)| say.said());
        let others = said.filter(|said| said.claim != self.claim);
        let first = others.map(|said| said.at).min()?;
        Some(first.max(self.since))
    }

    /// What was said so far by as many as have a say.
    fn heard(&self) -> Vec<Said> {
        let said = self.says.iter().filter_map(|(_, say)| say.vote());
        said.take(seats(self.says.len())).collect()
    }

    /// The lease of which this came.
    fn of(&self, said: Said) -> AttemptId {
        AttemptId {
            shard: self.id.shard,
            attempt: said.attempt,
        }
    }
}

/// How many of those that were drawn have a say: an even number, so that they and the provider are an odd one.
/// One more was drawn if there was one.
fn seats(drawn: usize) -> usize {
    (drawn / 2 * 2).max(2)
}

/// How many got what, the provider among them.
fn votes(audit: &Audit, said: &[Said]) -> BTreeMap<Digest, usize> {
    let mut votes: BTreeMap<Digest, usize> = BTreeMap::from([(audit.claim, 1)]);
    for said in said {
        *votes.entry(said.claim).or_default() += 1;
    }
    votes
}

/// How many more have to agree with most of those that said something, to be most of the panel.
fn missing(audit: &Audit, said: &[Said]) -> usize {
    let most = votes(audit, said).into_values().max().unwrap_or(0);
    let panel = seats(audit.says.len()) + 1;
    (panel / 2 + 1).saturating_sub(most)
}

/// Everybody has said what there is to say: who is with the majority of the panel?
fn tally(audit: &Audit, said: &[Said]) -> Outcome {
    let panel = seats(audit.says.len()) + 1;
    let majority = votes(audit, said)
        .into_iter()
        .find(|(_, votes)| 2 * votes > panel);
    let finding = |claim| match majority {
        None => Finding::Undecided,
        Some((right, _)) if right == claim => Finding::Passed,
        Some(_) => Finding::Wrong,
    };
    let audits = said
        .iter()
        .map(|said| (audit.of(*said), finding(said.claim)));
    Outcome {
        id: audit.id,
        finding: finding(audit.claim),
        audits: audits.collect(),
    }
}
