//! A requester, its ledger, and the nodes that it asks.

mod charge;
mod friends;

use std::collections::{BTreeMap, BTreeSet};

use skep_evidence::following::{Observation, Transcript};
use skep_evidence::{
    AccountId, AccountKey, Agreed, AuditSecret, AuditTerms, Candidate, Candidates, Credits, Keys,
    Lease, Meter, Receipt, ResultCommitment, Signed, Split, Statement as _, Tariff, Work,
};
use skep_market::{
    AttemptId, BadDelivery, Book, Conduct, Debt, Decision, Event, Finding, Job, JobPlan, Ledger,
    Offer, Operation, Outstanding, Reputation, Sent as Statements, Terms, Warmth, receive, typical,
};
use skep_registry::Digest;

use super::Fault;
use super::cheat::Cheat;
use super::node::{FLOPS, Node};
use super::random::Random;

/// What a shard costs: a tenth of what the default of a lease comes to.
pub const PRICE: Credits = Credits::from_micro(50_000);
/// What a node has at stake, and loses with one fraud: the default of a node's ledger.
pub const STAKE: Credits = Credits::from_micro(10 * Credits::ONE);
const NODES: usize = 10;
const PANEL: u32 = 9;
const TERMS: Terms = Terms {
    supply: Credits::from_micro(1_000_000_000 * Credits::ONE),
    fine: STAKE,
    reward: 250_000,
};

/// All of a million: evidence is only of what the lease lets be audited, and which replica is odd is not known yet.
const EVERY: u32 = 1_000_000;

/// What came of one job.
pub struct Run {
    /// Whether every node that cheats was caught in the end.
    pub was_caught: bool,
    /// Results that were not what was asked for, until nobody asked the cheat any more.
    pub attempted: u32,
    /// Those of them that were accepted and paid.
    pub accepted: u32,
    /// What was paid for them, and for results that others made, in micro-credits.
    pub gained: u64,
    /// What the cheats lost of their stake.
    pub lost: u64,
    /// Whether every node that cheats is at last seen to deliver less reliably than everybody else, so that it would be
    /// asked after them.
    pub is_asked_last: bool,
    /// Honest nodes that lost of theirs.
    pub honest_charged: u32,
    /// Audits that found nothing: the result did not count, and nobody was charged.
    pub undecided: u32,
}

/// What was signed for a lease, and what came with it.
#[derive(Clone)]
struct Trail {
    lease: Agreed<Lease>,
    result: Signed<ResultCommitment>,
    /// What it shows of its texts, if they are followed.
    shown: Vec<u8>,
}

struct Swarm {
    requester: AccountKey,
    nodes: Vec<Node>,
    places: BTreeMap<AccountId, usize>,
    seen: BTreeMap<AccountId, Reputation>,
    candidates: Candidates,
    ledger: Ledger,
    job: Job,
    root: [u8; 32],
    random: Random,
    trails: BTreeMap<AttemptId, Trail>,
    wrong: BTreeSet<AttemptId>,
    copied: BTreeSet<AttemptId>,
    undecided: BTreeSet<AttemptId>,
    /// What each asks for beyond what the others do, in micro-credits.
    dearer: [u64; NODES],
    now: u64,
    rate: u32,
}

impl Run {
    /// One job in a swarm of its own.
    pub fn of(cheat: Cheat, shards: u32, rate: u32, seed: u64) -> Result<Self, Fault> {
        let folder = tempfile::tempdir()?;
        let ledger = Ledger::open(&folder.path().join("ledger"), TERMS)?;
        let mut swarm = Swarm::new(cheat, shards, rate, seed, ledger)?;
        swarm.run()?;
        let at_stake = |node: &Node| swarm.ledger.balance(Book::Staked(node.key.id())).micro();
        let lost = |node: &Node| STAKE.micro() - at_stake(node);
        let (cheats, honest): (Vec<&Node>, Vec<&Node>) =
            swarm.nodes.iter().partition(|node| node.cheat.nodes() > 0);
        let is_out = |node: &Node| {
            let reputation = swarm.seen.get(&node.key.id());
            reputation.is_some_and(|reputation| !reputation.is_trusted())
        };
        let reliability = |node: &Node| {
            let reputation = swarm.seen.get(&node.key.id()).copied();
            reputation.unwrap_or_default().reliability()
        };
        let is_behind = |cheat: &Node| {
            let mut others = honest.iter().map(|node| reliability(node));
            others.all(|other| reliability(cheat) < other)
        };
        let (paid, copied) = (swarm.paid(&swarm.wrong)?, swarm.paid(&swarm.copied)?);
        for id in &swarm.undecided {
            let debt = owed_under(&swarm.trail(*id)?.lease);
            if swarm.ledger.paid(debt)?.is_some() {
                return Err(
                    "a result was paid of which nobody could tell whether it is right".into(),
                );
            }
        }
        if swarm.ledger.total() != u128::from(TERMS.supply.micro()) {
            return Err("credits were made or lost".into());
        }
        Ok(Self {
            was_caught: !cheats.is_empty() && cheats.iter().all(|node| is_out(node)),
            attempted: u32::try_from(swarm.wrong.len())?,
            accepted: u32::try_from(paid.len())?,
            gained: paid.iter().chain(&copied).sum(),
            lost: cheats.iter().map(|node| lost(node)).sum(),
            is_asked_last: cheats.iter().all(|node| is_behind(node)),
            honest_charged: u32::try_from(honest.iter().filter(|node| lost(node) > 0).count())?,
            undecided: u32::try_from(swarm.undecided.len())?,
        })
    }
}

impl Swarm {
    fn new(
        cheat: Cheat,
        shards: u32,
        rate: u32,
        seed: u64,
        mut ledger: Ledger,
    ) -> Result<Self, Fault> {
        let mut random = Random(seed);
        let requester = AccountKey::from_seed(&random.bytes());
        let nodes = (0..NODES).map(|place| {
            let cheats = place < cheat.nodes();
            let cheat = if cheats { cheat } else { cheat.others() };
            Node::new(AccountKey::from_seed(&random.bytes()), cheat)
        });
        let nodes: Vec<Node> = nodes.collect::<Result<_, _>>()?;
        let accounts = nodes.iter().map(|node| node.key.id());
        let list = accounts.clone().map(|account| Candidate {
            account,
            stake: STAKE,
        });
        let candidates = Candidates::new(list.collect())?;
        let places = accounts.clone().zip(0..).collect();
        let name = Digest::from_bytes(random.bytes());
        let replicas = cheat.replicas();
        let budget = 2 * PRICE.micro() * u64::from(shards) * u64::from(replicas);
        let budget = Credits::from_micro(budget);
        let mut operations = Vec::new();
        let mut id = || Digest::from_bytes(random.bytes());
        for account in accounts {
            let amount = STAKE;
            operations.push(Operation::Deposit {
                id: id(),
                account,
                amount,
            });
            operations.push(Operation::Stake {
                id: id(),
                account,
                amount,
            });
        }
        let account = requester.id();
        operations.push(Operation::Deposit {
            id: id(),
            account,
            amount: budget,
        });
        operations.push(Operation::Escrow {
            id: id(),
            job: name,
            requester: account,
            amount: budget,
        });
        for outcome in ledger.post(&operations)? {
            outcome?;
        }
        let plan = JobPlan {
            job: name,
            shards,
            replicas,
            exact: true,
            followed: cheat.texts().is_some(),
            looks_at_odd: replicas > 1,
            budget,
            lease_limit: Credits::from_micro(2 * PRICE.micro()),
            deadline: u64::MAX,
            patience: 1_000,
            first_patience: 1_000,
            max_attempts: 20,
            hedges: 0,
        };
        Ok(Self {
            root: random.bytes(),
            requester,
            nodes,
            places,
            seen: BTreeMap::new(),
            candidates,
            ledger,
            job: Job::new(plan),
            random,
            trails: BTreeMap::new(),
            wrong: BTreeSet::new(),
            copied: BTreeSet::new(),
            undecided: BTreeSet::new(),
            dearer: [0; NODES],
            now: 1_000,
            rate,
        })
    }

    fn run(&mut self) -> Result<(), Fault> {
        while !self.job.is_complete() {
            if let Some(why) = self.job.gave_up() {
                return Err(why.into());
            }
            self.now += 1;
            if self.job.plan().replicas > 1 {
                // Who asks for the same comes in the same order in all of a job: two nodes would share all shards, or none.
                for dearer in &mut self.dearer {
                    *dearer = self.random.below(PRICE.micro() / 100);
                }
            }
            self.decide()?;
            self.act()?;
        }
        Ok(())
    }

    fn offers(&self) -> Vec<Offer> {
        let usual = typical(&tariff(), 0, 0).micro();
        let offer = |(node, dearer): (&Node, &u64)| Offer {
            provider: node.key.id(),
            price: Credits::from_micro(usual + dearer),
            warmth: Warmth::default(),
            // Only whether it is trusted, so that all have the same share of the work.
            reputation: match self.seen.get(&node.key.id()) {
                Some(seen) if !seen.is_trusted() => *seen,
                _ => Reputation::default(),
            },
            slots: 2,
            ahead: 0,
        };
        self.nodes.iter().zip(&self.dearer).map(offer).collect()
    }

    fn decide(&mut self) -> Result<(), Fault> {
        loop {
            let decisions = self.job.decide(self.now, &self.offers());
            if decisions.is_empty() {
                return Ok(());
            }
            for decision in decisions {
                let events = match decision {
                    Decision::Note(event) => vec![event],
                    Decision::Lease {
                        id,
                        provider,
                        limit,
                        audits,
                    } => vec![self.lease(id, provider, limit, audits)?],
                    Decision::Audited(outcome) => {
                        if outcome.finding == Finding::Undecided {
                            self.undecided.insert(outcome.id);
                        }
                        self.charge(&outcome)?;
                        outcome.events(self.now)
                    }
                };
                for event in events {
                    self.job.apply(&event)?;
                }
            }
            for shard in 0..self.job.plan().shards {
                for (provider, conduct) in self.job.conducts_of(shard) {
                    // Of replicas, who was outvoted has not been shown to lie.
                    if conduct == Conduct::Lied {
                        self.seen.entry(provider).or_default().note(conduct);
                    }
                }
            }
        }
    }

    fn secret(&self, id: AttemptId) -> AuditSecret {
        AuditSecret::of_lease(&self.root, self.job.plan().job, id.shard, id.attempt)
    }

    fn trail(&self, id: AttemptId) -> Result<&Trail, Fault> {
        Ok(self.trails.get(&id).ok_or("a result is missing")?)
    }

    /// The lease whose result another one's work follows, if that audits it and texts are followed.
    fn followed_by(&self, id: AttemptId, audits: Option<u32>) -> Option<AttemptId> {
        let attempt = audits.filter(|_| self.job.plan().followed)?;
        Some(AttemptId { attempt, ..id })
    }

    fn transcript(&self, id: AttemptId) -> Result<Transcript, Fault> {
        Ok(Transcript::decode(&self.trail(id)?.shown)?)
    }

    fn lease(
        &self,
        id: AttemptId,
        provider: AccountId,
        limit: Credits,
        audits: Option<u32>,
    ) -> Result<Event, Fault> {
        let follows = match self.followed_by(id, audits) {
            Some(other) => Some(self.transcript(other)?.script().digest()),
            None => None,
        };
        let lease = Lease {
            job: self.job.plan().job,
            shard: id.shard,
            attempt: id.attempt,
            requester: self.requester.id(),
            provider,
            work: Work {
                package: Digest::of(b"package"),
                model: Some(Digest::of(b"model")),
                adapter: Some(Digest::of(b"adapter")),
                input: Digest::of(&id.shard.to_le_bytes()),
                seed: 0,
            },
            tariff: tariff(),
            allowance: Meter {
                flops: u64::MAX,
                ..Meter::default()
            },
            limit,
            split: Split::default(),
            issued: self.now,
            deadline: self.now + 1_000,
            audit: AuditTerms {
                secret: self.secret(id).commitment(),
                candidates: self.candidates.digest(),
                rate: match self.job.plan().looks_at_odd {
                    true => EVERY,
                    false => self.rate,
                },
                panel: PANEL,
                exact: true,
                followed: self.job.plan().followed,
                follows,
            },
        };
        let lease = lease.sign(&self.requester)?;
        Ok(Event::Leased {
            id,
            at: self.now,
            provider,
            limit,
            lease: lease.digest(),
            audits,
            encoding: lease.encode(),
        })
    }

    fn act(&mut self) -> Result<(), Fault> {
        loop {
            let (mut sends, mut events, mut paid) = (Vec::new(), Vec::new(), Vec::new());
            let at = self.now;
            for outstanding in self.job.outstanding() {
                match outstanding {
                    Outstanding::Send {
                        id,
                        provider,
                        lease,
                    } => sends.push((id, provider, lease.to_vec())),
                    Outstanding::Pay { id, receipt, .. } => {
                        let receipt = Signed::<Receipt>::decode(receipt, &mut Keys::default())?;
                        paid.push(receipt.accept(&self.requester)?);
                        events.push(Event::Paid { id, at });
                    }
                    Outstanding::Assemble { shard, .. } => {
                        events.push(Event::Assembled { shard, at });
                    }
                }
            }
            for (id, provider, lease) in sends {
                events.push(self.send(id, provider, &lease)?);
            }
            let releases: Vec<_> = paid.iter().map(Operation::Release).collect();
            if !releases.is_empty() {
                for outcome in self.ledger.post(&releases)? {
                    outcome?;
                }
            }
            if events.is_empty() {
                return Ok(());
            }
            for event in events {
                self.job.apply(&event)?;
            }
        }
    }

    /// Has a node work, and checks what it sends as a requester does.
    fn send(&mut self, id: AttemptId, provider: AccountId, lease: &[u8]) -> Result<Event, Fault> {
        let mut keys = Keys::default();
        let lease = Signed::<Lease>::decode(lease, &mut keys)?;
        let place = *self.places.get(&provider).ok_or("there is no such node")?;
        let chance = self.random.next();
        let audits = self.job.audits(id);
        let followed = match self.followed_by(id, audits) {
            Some(other) => Some((other, self.transcript(other)?)),
            None => None,
        };
        let script = followed.as_ref().map(|(_, transcript)| transcript.script());
        let follows = followed.as_ref().map(|(other, _)| *other);
        let is_shared = self.is_shared(id, place, follows);
        let node = &mut self.nodes[place];
        let agreed = lease.accept(&node.key)?;
        let sent = node.work(&agreed, script.as_ref(), is_shared, chance)?;
        if sent.is_wrong && audits.is_none() {
            self.wrong.insert(id);
        }
        if sent.is_copied {
            self.copied.insert(id);
        }
        let statements = Statements {
            commitment: &sent.commitment,
            receipt: &sent.receipt,
            handover: &sent.handover,
            shown: &sent.shown,
        };
        let delivery = match receive(&agreed, &statements, sent.output, 0, &mut keys) {
            Ok(delivery) => delivery,
            Err(bad) => {
                // Whose own statements contradict each other is asked no more. What proves nothing has failed.
                let conduct = match &bad {
                    BadDelivery::Fraud { evidence, .. } => {
                        self.accuse(provider, evidence)?;
                        Conduct::Lied
                    }
                    _ => Conduct::Failed,
                };
                self.seen.entry(provider).or_default().note(conduct);
                return Ok(Event::Failed { id, at: self.now });
            }
        };
        let reputation = self.seen.entry(provider).or_default();
        reputation.note(Conduct::Delivered);
        let draw = self.secret(id).draw(delivery.commitment.digest());
        let is_drawn = draw.is_audited(self.rate) && audits.is_none();
        let may_be_odd = self.job.plan().looks_at_odd && audits.is_none();
        let auditors = match is_drawn || may_be_odd {
            true => draw.auditors(
                &self.candidates,
                agreed.audit.drawn(),
                &[provider, self.requester.id()],
            ),
            false => Vec::new(),
        };
        let claim = match followed {
            Some((other, transcript)) => {
                let seen = Observation::decode(&sent.shown)?;
                transcript.vote(&self.trail(other)?.result, &delivery.commitment, &seen)
            }
            None => delivery.commitment.claim(),
        };
        let trail = Trail {
            lease: agreed,
            result: delivery.commitment,
            shown: sent.shown,
        };
        self.trails.insert(id, trail);
        Ok(Event::Delivered {
            id,
            at: self.now,
            output: delivery.receipt.output,
            claim,
            bytes: 1,
            price: delivery.receipt.price,
            auditors,
            only_if_odd: may_be_odd && !is_drawn,
            receipt: delivery.receipt.encode(),
        })
    }

    /// What was paid for each of these results that was paid. Of one that was metered too much, only what was too
    /// much.
    fn paid(&self, results: &BTreeSet<AttemptId>) -> Result<Vec<u64>, Fault> {
        let mut paid = Vec::new();
        for id in results {
            let Some(trail) = self.trails.get(id) else {
                continue;
            };
            let Some(sequence) = self.ledger.paid(owed_under(&trail.lease))? else {
                continue;
            };
            let entry = self.ledger.entry(sequence)?.ok_or("an entry is missing")?;
            let all: u64 = entry
                .movements
                .iter()
                .map(|movement| movement.amount.micro())
                .sum();
            let is_inflated = trail.result.meter.flops > FLOPS;
            paid.push(if is_inflated {
                all - PRICE.micro()
            } else {
                all
            });
        }
        Ok(paid)
    }
}

fn tariff() -> Tariff {
    Tariff {
        flops: PRICE.micro(),
        ..Tariff::default()
    }
}

/// What is owed for the work of a lease.
fn owed_under(lease: &Signed<Lease>) -> Debt {
    Debt {
        lease: lease.digest(),
        provider: lease.provider,
        requester: lease.requester,
    }
}
