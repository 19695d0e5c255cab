//! A small world of providers, good and bad, in which the requester is killed at every point:
//! nothing that was finished is lost, nothing is paid twice, and the result is the right one.

mod ahead;
mod audits;
mod busy;
mod disputable;
mod doubts;
mod followed;
mod kept;
mod late;
mod money;
mod odd;
mod replicas;
mod suspects;
mod turns;
mod written;

use proptest::prelude::*;

use super::*;
use crate::choose::{Offer, Warmth};
use crate::reputation::Reputation;
use crate::testing::{account, credits, digest};

/// How a provider behaves.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Nature {
    Honest,
    Slow,
    Fails,
    Silent,
    /// Another wrong output each time.
    Lies,
    /// The right output, and more metered than it took.
    Inflates,
    /// The right output; of another's that it follows it cannot tell.
    Doubts,
}

/// What a provider offers that takes so many shards at once and of which nothing was seen yet.
fn offer(provider: u8, slots: u32) -> Offer {
    Offer {
        provider: account(provider),
        price: credits(10),
        warmth: Warmth::default(),
        reputation: Reputation::default(),
        slots,
        ahead: 0,
    }
}

/// What is on its way to the requester; lost if the requester is killed.
#[derive(Clone, Debug)]
struct Message {
    due: u64,
    event: Event,
}

/// The requester was killed.
struct Killed;

struct World {
    plan: JobPlan,
    natures: Vec<Nature>,
    /// What is on disk at the requester.
    journal: Vec<Vec<u8>>,
    result: Vec<u8>,
    /// Leases that were paid, each with its price: posting one again pays nothing.
    ledger: BTreeMap<Digest, u64>,
    under_way: Vec<Message>,
    now: u64,
    /// Of a hundred results, how many are audited.
    audits: u64,
    /// Whether those that are not are if they are odd.
    looks_at_odd: bool,
    /// Who was found wrong by an audit.
    charged: BTreeSet<AccountId>,
    /// The points at which the requester is killed, by their number.
    kills: BTreeSet<usize>,
    point: usize,
    /// What was accepted before any crash.
    accepted: BTreeMap<u32, Digest>,
    /// Leases that were made out to audit others.
    auditing: BTreeMap<AttemptId, u32>,
}

const LIMIT: u64 = 100;

/// What a lease is billed: no two that follow each other the same, and none more than it may be.
fn price(id: AttemptId) -> u64 {
    10 + u64::from(id.attempt) % 90
}

fn output(shard: u32) -> Vec<u8> {
    format!("<{shard}:{}>", "x".repeat(shard as usize % 7)).into_bytes()
}

/// What the commitment to an output claims that took so much.
fn claim(output: &[u8], took: u8) -> Digest {
    Digest::of(&[output, &[took]].concat())
}

impl World {
    fn new(plan: JobPlan, natures: Vec<Nature>, kills: BTreeSet<usize>) -> Self {
        Self {
            plan,
            natures,
            journal: Vec::new(),
            result: Vec::new(),
            ledger: BTreeMap::new(),
            under_way: Vec::new(),
            now: 1_000,
            audits: 0,
            looks_at_odd: false,
            charged: BTreeSet::new(),
            kills,
            point: 0,
            accepted: BTreeMap::new(),
            auditing: BTreeMap::new(),
        }
    }

    fn offers(&self) -> Vec<Offer> {
        (1..=self.natures.len())
            .map(|n| Offer {
                ahead: 2,
                ..offer(n as u8, 2)
            })
            .collect()
    }

    /// A point at which the requester may be killed.
    fn step(&mut self) -> Result<(), Killed> {
        self.point += 1;
        match self.kills.contains(&(self.point - 1)) {
            true => Err(Killed),
            false => Ok(()),
        }
    }

    fn write(&mut self, job: &mut Job, events: &[Event]) -> Result<(), Killed> {
        self.step()?;
        self.journal.extend(events.iter().map(Event::encode));
        self.step()?;
        let undecided = (0..job.plan.shards).filter(|shard| job.accepted(*shard).is_none());
        let undecided: BTreeSet<u32> = undecided.collect();
        let foreseen = job.conducts_after(events, &undecided);
        for event in events {
            job.apply(event).unwrap();
        }
        let seen = undecided.iter().flat_map(|shard| job.conducts_of(*shard));
        assert_eq!(foreseen, seen.collect::<Vec<_>>());
        let promised = job.spent().micro() + job.reserved().micro();
        assert!(
            promised <= self.plan.budget.micro(),
            "{promised} of {:?}",
            self.plan.budget
        );
        for shard in 0..self.plan.shards {
            if let Some(found) = job.accepted(shard) {
                // Once accepted, always accepted.
                assert_eq!(*self.accepted.entry(shard).or_insert(found), found);
            }
        }
        Ok(())
    }

    /// What a provider does with a lease, however often it gets it.
    fn receive(&mut self, id: AttemptId, provider: AccountId) {
        let n = (1..=self.natures.len())
            .find(|n| account(*n as u8) == provider)
            .unwrap();
        let right = output(id.shard);
        let wrong = format!("wrong {n} {}", id.attempt).into_bytes();
        // An auditor's own result is not audited; the first lease of a shard never is one.
        let (auditors, only_if_odd) = match self.auditing.contains_key(&id) {
            true => (Vec::new(), false),
            false => self.draw(id, provider),
        };
        let took = if self.natures[n - 1] == Nature::Inflates {
            2
        } else {
            1
        };
        let followed = self.claim_of_follower(id, self.natures[n - 1]);
        let deliver = |at, bytes: Vec<u8>| Event::Delivered {
            id,
            at,
            output: Digest::of(&bytes),
            claim: followed.unwrap_or_else(|| claim(&bytes, took)),
            bytes: bytes.len() as u64,
            price: credits(price(id)),
            auditors: auditors.clone(),
            only_if_odd,
            receipt: vec![7; 20],
        };
        let now = self.now;
        let (delay, event) = match self.natures[n - 1] {
            Nature::Honest | Nature::Doubts => (40 + n as u64, deliver(now + 40 + n as u64, right)),
            Nature::Slow => (700, deliver(now + 700, right)),
            Nature::Fails => (5, Event::Failed { id, at: now + 5 }),
            Nature::Silent => return,
            Nature::Lies => (10, deliver(now + 10, wrong)),
            Nature::Inflates => (10, deliver(now + 10, right)),
        };
        let due = now + delay;
        self.under_way.push(Message { due, event });
    }

    /// One life of the requester: until the job has ended, or it is killed.
    fn live(&mut self) -> Result<Job, Killed> {
        let events: Vec<Event> = self
            .journal
            .iter()
            .map(|e| Event::decode(e).unwrap())
            .collect();
        let mut job = Job::resume(self.plan, &events).unwrap();
        job.watch_from(self.now);
        for (shard, accepted) in &self.accepted {
            // What was written and applied before the crash is still there.
            assert_eq!(job.accepted(*shard), Some(*accepted));
        }
        self.result
            .truncate(usize::try_from(job.assembled_bytes()).unwrap());
        let mut sent = BTreeSet::new();
        for _ in 0..10_000 {
            loop {
                let decisions = job.decide(self.now, &self.offers());
                if decisions.is_empty() {
                    break;
                }
                let events = decisions.into_iter().flat_map(|d| self.carry_out(&job, d));
                let events: Vec<Event> = events.collect();
                self.write(&mut job, &events)?;
            }
            self.act(&mut job, &mut sent)?;
            let has_ended = job.is_complete() || job.gave_up().is_some();
            if has_ended && job.outstanding().is_empty() {
                return Ok(job);
            }
            self.now += 20;
            let (due, later) = self
                .under_way
                .drain(..)
                .partition(|m: &Message| m.due <= self.now);
            self.under_way = later;
            let due: Vec<Message> = due;
            for message in due {
                self.write(&mut job, &[message.event])?;
            }
        }
        panic!("the job has no end");
    }

    fn carry_out(&mut self, job: &Job, decision: Decision) -> Vec<Event> {
        match decision {
            Decision::Note(event) => vec![event],
            Decision::Lease {
                id,
                provider,
                limit,
                audits,
            } => {
                if let Some(audited) = audits {
                    self.auditing.insert(id, audited);
                }
                vec![Event::Leased {
                    id,
                    at: self.now,
                    provider,
                    limit,
                    lease: digest("lease", u64::from(id.shard) * 1_000 + u64::from(id.attempt)),
                    audits,
                    encoding: vec![1; 10],
                }]
            }
            Decision::Audited(outcome) => {
                // Charged before it is written down, since whoever is killed in between does it
                // again.
                let wrong = outcome.wrong().map(|id| job.provider(id).unwrap());
                self.charged.extend(wrong);
                outcome.events(self.now)
            }
        }
    }

    fn act(&mut self, job: &mut Job, sent: &mut BTreeSet<AttemptId>) -> Result<(), Killed> {
        loop {
            let owned = job.clone();
            let mut acted = false;
            for outstanding in owned.outstanding() {
                match outstanding {
                    Outstanding::Send { id, provider, .. } => {
                        if sent.insert(id) {
                            self.step()?;
                            self.receive(id, provider);
                        }
                    }
                    Outstanding::Pay { id, lease, .. } => {
                        self.step()?;
                        self.ledger.entry(lease).or_insert(price(id));
                        self.write(job, &[Event::Paid { id, at: self.now }])?;
                        acted = true;
                    }
                    Outstanding::Assemble {
                        shard,
                        output: accepted,
                    } => {
                        // Liars' outputs are not known here, and need no bytes of their own.
                        let right = output(shard);
                        let bytes = match Digest::of(&right) == accepted {
                            true => right,
                            false => vec![
                                b'?';
                                usize::try_from(
                                    job.shards[shard as usize].accepted_bytes().unwrap()
                                )
                                .unwrap()
                            ],
                        };
                        self.step()?;
                        self.result.extend(bytes);
                        self.write(
                            job,
                            &[Event::Assembled {
                                shard,
                                at: self.now,
                            }],
                        )?;
                        acted = true;
                    }
                }
            }
            if !acted {
                return Ok(());
            }
        }
    }

    /// Lives until the job has ended, and checks what came of it.
    fn run(&mut self) -> Job {
        let mut lives = 0;
        let job = loop {
            lives += 1;
            match self.live() {
                Ok(job) => break job,
                Err(Killed) => self.under_way.clear(),
            }
        };
        assert!(lives <= self.kills.len() + 1);
        self.assert_settled(&job);
        let assembled = self
            .journal
            .iter()
            .filter(|event| matches!(Event::decode(event), Ok(Event::Assembled { .. })))
            .count();
        assert_eq!(assembled, job.assembled() as usize, "each shard once");
        job
    }

    fn expected(&self) -> Vec<u8> {
        (0..self.plan.shards).flat_map(output).collect()
    }
}

fn plan(shards: u32, replicas: u32) -> JobPlan {
    JobPlan {
        job: digest("job", 1),
        shards,
        replicas,
        exact: true,
        followed: false,
        looks_at_odd: true,
        budget: credits(LIMIT * 60),
        lease_limit: credits(LIMIT),
        deadline: 100_000,
        patience: 1_500,
        first_patience: 1_500,
        max_attempts: 8,
        hedges: 1,
    }
}

use Nature::{Doubts, Fails, Honest, Inflates, Lies, Silent, Slow};

#[test]
fn killed_at_every_point_it_goes_on_where_it_was() {
    let natures = vec![Honest, Slow, Fails, Honest, Silent];
    let mut whole = World::new(plan(5, 1), natures.clone(), BTreeSet::new());
    assert!(whole.run().is_complete());
    assert_eq!(whole.result, whole.expected());
    let points = whole.point;
    assert!(points > 50);
    for point in 0..points {
        let mut world = World::new(plan(5, 1), natures.clone(), BTreeSet::from([point]));
        assert!(world.run().is_complete(), "killed at {point}");
        assert_eq!(world.result, world.expected(), "killed at {point}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    #[test]
    fn the_right_result_or_a_clear_failure(
        natures in proptest::collection::vec(money::nature(), 1..9),
        shards in 0..8_u32,
        kills in proptest::collection::btree_set(0..200_usize, 0..12),
        budget in 0..30_u64,
        is_replicated: bool,
    ) {
        // Either two have to agree and no two lies are the same, or every result is audited. An
        // audit takes three.
        let is_replicated = is_replicated || natures.len() < 3;
        let replicas = if is_replicated { 2 } else { 1 };
        // A panel is up to eight leases.
        let leases = if is_replicated { 8 } else { 80 };
        let budget = if is_replicated { budget } else { 10 * budget };
        let plan = JobPlan { budget: credits(LIMIT * budget), ..plan(shards, replicas) };
        let mut world = World::new(plan, natures.clone(), kills);
        world.audits = if is_replicated { 0 } else { 100 };
        let job = world.run();
        match job.gave_up() {
            None => {
                prop_assert!(job.is_complete());
                prop_assert_eq!(&world.result, &world.expected());
            }
            Some(_) => {
                prop_assert!(!job.is_complete());
                // What there is of the result is right.
                prop_assert!(world.expected().starts_with(&world.result));
                let good = natures.iter().filter(|n| matches!(n, Honest | Slow | Doubts)).count();
                let enough = budget >= u64::from(shards * leases).max(1);
                // Of an even number one is not in the panel.
                let panel = (natures.len() - 1) / 2 * 2 + 1;
                let can_decide = is_replicated || 2 * (good - good.min(1)) > panel;
                prop_assert!(
                    good < replicas as usize || !enough || !can_decide,
                    "{:?}",
                    job.gave_up()
                );
            }
        }
        // Nobody honest is said to be odd, or charged.
        let odd = job.outvoted().into_iter().map(|(_, odd)| odd);
        for odd in odd.chain(world.charged.iter().copied()) {
            let n = (1..=natures.len()).find(|n| account(*n as u8) == odd).unwrap();
            prop_assert_eq!(natures[n - 1], Lies);
        }
    }
}

#[test]
fn of_two_that_differ_a_third_decides() {
    let mut world = World::new(plan(1, 2), vec![Lies, Honest, Honest], BTreeSet::new());
    let job = world.run();
    assert!(job.is_complete());
    assert_eq!(world.result, world.expected());
    // Whether the liar was asked depends on the order; if it was, it is named and not paid.
    let asked = world.journal.len();
    assert!(asked > 0);
    let mut liar_first = World::new(
        plan(1, 2),
        vec![Lies, Lies, Honest, Honest],
        BTreeSet::new(),
    );
    let job = liar_first.run();
    let odd: Vec<_> = job.outvoted().into_iter().map(|(_, who)| who).collect();
    assert!(!odd.is_empty() && odd.iter().all(|who| [account(1), account(2)].contains(who)));
}

#[test]
fn the_budget_is_kept_and_its_end_is_told() {
    let poor = JobPlan {
        budget: credits(LIMIT * 2),
        ..plan(50, 1)
    };
    let mut world = World::new(poor, vec![Honest; 3], BTreeSet::new());
    let job = world.run();
    assert_eq!(job.gave_up(), Some(GaveUp::Budget));
    // Leases cost less than their limit, so there was enough for many shards.
    assert!(job.finished() > 5);
    let late = JobPlan {
        deadline: 3_000,
        ..plan(50, 1)
    };
    let mut world = World::new(late, vec![Silent; 3], BTreeSet::new());
    assert_eq!(world.run().gave_up(), Some(GaveUp::Deadline));
    let mut world = World::new(plan(50, 1), vec![Fails; 9], BTreeSet::new());
    assert!(matches!(
        world.run().gave_up(),
        Some(GaveUp::Attempts { .. })
    ));
}

#[test]
fn what_comes_too_late_or_does_not_fit_changes_nothing() {
    let mut job = Job::new(plan(2, 1));
    let id = AttemptId {
        shard: 0,
        attempt: 0,
    };
    let leased = Event::Leased {
        id,
        at: 1,
        provider: account(1),
        limit: credits(100),
        lease: digest("lease", 0),
        audits: None,
        encoding: Vec::new(),
    };
    let delivered = |price| Event::Delivered {
        id,
        at: 2,
        output: digest("output", 0),
        claim: digest("claim", 0),
        bytes: 3,
        price: credits(price),
        auditors: Vec::new(),
        only_if_odd: false,
        receipt: Vec::new(),
    };
    assert!(job.apply(&delivered(1)).is_err(), "before any lease");
    job.apply(&leased).unwrap();
    assert!(job.apply(&leased).is_err(), "the same lease twice");
    assert!(job.apply(&delivered(101)).is_err(), "dearer than its limit");
    assert!(
        job.apply(&Event::Assembled { shard: 0, at: 3 }).is_err(),
        "nothing to put together"
    );
    job.apply(&Event::Withdrawn { id, at: 2 }).unwrap();
    job.apply(&delivered(1)).unwrap();
    assert_eq!((job.accepted(0), job.spent()), (None, Credits::ZERO));
    let nowhere = AttemptId {
        shard: 7,
        attempt: 0,
    };
    assert!(job.apply(&Event::Failed { id: nowhere, at: 4 }).is_err());
}

#[test]
fn where_everybody_had_a_shard_it_goes_again_to_who_failed() {
    let mut job = Job::new(plan(1, 1));
    let offer = |n| Offer {
        price: credits(1),
        ..offer(n, 1)
    };
    let asked = |job: &mut Job, offers: &[Offer]| {
        let decisions = job.decide(10, offers);
        let [
            Decision::Lease {
                id,
                provider,
                limit,
                audits: None,
            },
        ] = decisions[..]
        else {
            panic!("{decisions:?}");
        };
        let leased = Event::Leased {
            id,
            at: 10,
            provider,
            limit,
            lease: digest("lease", u64::from(id.attempt)),
            audits: None,
            encoding: Vec::new(),
        };
        job.apply(&leased).unwrap();
        (id, provider)
    };
    let (first, one) = asked(&mut job, &[offer(1)]);
    assert!(job.decide(11, &[offer(1)]).is_empty(), "it has it");
    job.apply(&Event::Failed { id: first, at: 12 }).unwrap();
    // Somebody else comes first, and who failed only if there is nobody else.
    let (second, other) = asked(&mut job, &[offer(1), offer(2)]);
    assert_ne!(one, other);
    job.apply(&Event::Failed { id: second, at: 13 }).unwrap();
    assert_eq!(asked(&mut job, &[offer(1)]).1, one);
}
