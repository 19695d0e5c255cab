//! The simulated swarm: nodes that come and go, requesters with one job after the other.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};

use skep_evidence::{AccountId, AuditSecret, Candidate, Candidates, Credits};
use skep_market::{
    AttemptId, Conduct, Decision, Event, Finding, Job, JobPlan, Offer, Outstanding, Reputation,
    Warmth,
};
use skep_registry::Digest;

use crate::figures::Figures;
use crate::random::Random;

/// What is simulated.
#[derive(Clone, Copy)]
pub struct Settings {
    pub nodes: usize,
    /// Of a million nodes.
    pub cheats: u64,
    pub requesters: usize,
    /// How many providers a requester knows.
    pub neighbours: usize,
    /// Of each job.
    pub shards: u32,
    /// Of a million results.
    pub audits: u32,
    /// How many have a say in a disputed result.
    pub panel: usize,
    pub hours: u64,
    pub seed: u64,
}

/// Decisions are made so often, in milliseconds.
const TICK: u64 = 20_000;
const MINUTE: u64 = 60_000;
/// How long a shard takes on an average node.
const SHARD: u64 = 2 * MINUTE;
/// How long nodes are there, and away, on average.
const ONLINE: u64 = 120 * MINUTE;
const AWAY: u64 = 60 * MINUTE;
/// Fifty shards at the usual price.
const FINE: i64 = 5_000;

struct Node {
    account: AccountId,
    is_cheat: bool,
    /// Of a thousand results of a cheat, how many are made up.
    made_up: u64,
    /// In thousandths of the average.
    slowness: u64,
    price: u64,
    is_online: bool,
    until: u64,
    busy: u64,
    is_convicted: bool,
    earned: i64,
}

/// A result on its way.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Arrival {
    at: u64,
    requester: usize,
    round: u64,
    id: AttemptId,
    node: usize,
    is_wrong: bool,
}

struct Requester {
    job: Job,
    round: u64,
    known: Vec<usize>,
    seen: HashMap<usize, Reputation>,
    /// Which shards were accepted and paid.
    counted: u32,
}

/// What happened within one minute, and what was true at its end.
#[derive(Clone, Copy, Default)]
pub struct Minute {
    /// Results that were accepted and paid.
    pub accepted: u64,
    /// Those of them that were wrong.
    pub wrong: u64,
    /// How many results honest nodes that were there could have made, were none of them idle.
    pub possible: f64,
    /// What an honest node was paid less what it was fined, in micro-credits, mean of all.
    pub honest_earned: f64,
    /// Cheats that are not convicted, at its end.
    pub cheats_left: u64,
    /// Honest nodes that were convicted, up to its end.
    pub honest_convicted: u64,
}

/// The swarm.
pub struct World {
    settings: Settings,
    random: Random,
    now: u64,
    nodes: Vec<Node>,
    places: HashMap<AccountId, usize>,
    requesters: Vec<Requester>,
    arrivals: BinaryHeap<Reverse<Arrival>>,
    /// Whether each accepted attempt is wrong.
    wrong: HashMap<(usize, u64, AttemptId), bool>,
    /// Work of an average node, in milliseconds, that honest nodes could have done.
    honest_time: u64,
    honest_convicted: u64,
    /// [`Self::honest_time`], and what all honest nodes had earned, when the last minute ended.
    at_last_minute: (u64, i64),
    panels: u64,
    pub history: Vec<Minute>,
}

impl World {
    pub fn new(settings: Settings) -> Self {
        let mut random = Random(settings.seed);
        let nodes: Vec<Node> = (0..settings.nodes)
            .map(|_| {
                let is_cheat = random.below(1_000_000) < settings.cheats;
                Node {
                    account: AccountId::from_bytes(random.bytes()),
                    is_cheat,
                    made_up: if random.below(2) == 0 { 1_000 } else { 200 },
                    slowness: 500 + random.exponential(500),
                    price: 50 + random.below(101),
                    is_online: random.below(3) < 2,
                    until: random.exponential(ONLINE),
                    busy: 0,
                    is_convicted: false,
                    earned: 0,
                }
            })
            .collect();
        let places = nodes
            .iter()
            .enumerate()
            .map(|(place, node)| (node.account, place))
            .collect();
        let mut world = Self {
            settings,
            random,
            now: 0,
            nodes,
            places,
            requesters: Vec::new(),
            arrivals: BinaryHeap::new(),
            wrong: HashMap::new(),
            honest_time: 0,
            honest_convicted: 0,
            at_last_minute: (0, 0),
            panels: 0,
            history: vec![Minute::default()],
        };
        for _ in 0..settings.requesters {
            let requester = Requester {
                job: world.new_job(0),
                round: 0,
                known: world.meet(),
                seen: HashMap::new(),
                counted: 0,
            };
            world.requesters.push(requester);
        }
        world
    }

    fn new_job(&mut self, now: u64) -> Job {
        Job::new(JobPlan {
            job: Digest::from_bytes(self.random.bytes()),
            shards: self.settings.shards,
            replicas: 1,
            exact: false,
            followed: false,
            looks_at_odd: false,
            budget: Credits::MAX,
            lease_limit: Credits::from_micro(150),
            deadline: now + 24 * 60 * MINUTE,
            patience: 10 * SHARD,
            first_patience: 10 * SHARD,
            max_attempts: 50,
            hedges: 1,
        })
    }

    fn meet(&mut self) -> Vec<usize> {
        let nodes = self.nodes.len() as u64;
        (0..self.settings.neighbours)
            .map(|_| self.random.below(nodes) as usize)
            .collect()
    }

    pub fn run(&mut self) {
        while self.now < self.settings.hours * 60 * MINUTE {
            self.now += TICK;
            self.come_and_go();
            while self
                .arrivals
                .peek()
                .is_some_and(|Reverse(next)| next.at <= self.now)
            {
                if let Some(Reverse(arrival)) = self.arrivals.pop() {
                    self.arrive(arrival);
                }
            }
            for requester in 0..self.requesters.len() {
                self.drive(requester);
            }
            if self.now.is_multiple_of(MINUTE) {
                self.end_minute();
            }
        }
        self.history.pop();
    }

    /// Writes down what a minute came to, and begins the next.
    fn end_minute(&mut self) {
        let (honest, cheats): (Vec<&Node>, Vec<&Node>) =
            self.nodes.iter().partition(|node| !node.is_cheat);
        let earned: i64 = honest.iter().map(|node| node.earned).sum();
        let (time_before, earned_before) = self.at_last_minute;
        if let Some(minute) = self.history.last_mut() {
            minute.possible = (self.honest_time - time_before) as f64 / SHARD as f64;
            minute.honest_earned = (earned - earned_before) as f64 / honest.len().max(1) as f64;
            minute.cheats_left = cheats.iter().filter(|n| !n.is_convicted).count() as u64;
            minute.honest_convicted = self.honest_convicted;
        }
        self.at_last_minute = (self.honest_time, earned);
        self.history.push(Minute::default());
    }

    fn come_and_go(&mut self) {
        for node in &mut self.nodes {
            if node.until <= self.now {
                node.is_online = !node.is_online;
                let mean = if node.is_online { ONLINE } else { AWAY };
                node.until = self.now + self.random.exponential(mean);
            }
            if node.is_online && !node.is_cheat {
                self.honest_time += TICK * 1_000 / node.slowness;
            }
        }
    }

    fn arrive(&mut self, arrival: Arrival) {
        let node = &self.nodes[arrival.node];
        let requester = &mut self.requesters[arrival.requester];
        // What was under way when its node went is lost, and so is what is not wanted any more.
        let was_there = node.is_online && node.until > arrival.at;
        if !was_there || requester.round != arrival.round || node.is_convicted {
            return;
        }
        let output = match arrival.is_wrong {
            true => Digest::of(b"wrong"),
            false => Digest::of(b"right"),
        };
        // The nonce of the commitment is the provider's, the secret the requester's.
        let secret = AuditSecret::from_bytes(self.random.bytes());
        let draw = secret.draw(Digest::from_bytes(self.random.bytes()));
        // Where another's result counts already nobody looks at this one, and nobody pays for it.
        let counts_already = requester.job.accepted(arrival.id.shard).is_some();
        let audited = draw.is_audited(self.settings.audits) && !counts_already;
        let delivered = Event::Delivered {
            id: arrival.id,
            at: arrival.at,
            output,
            claim: output,
            bytes: 1,
            price: Credits::from_micro(node.price),
            auditors: match audited {
                true => vec![node.account],
                false => Vec::new(),
            },
            only_if_odd: false,
            receipt: Vec::new(),
        };
        self.wrong.insert(
            (arrival.requester, arrival.round, arrival.id),
            arrival.is_wrong,
        );
        let fits = requester.job.apply(&delivered);
        assert!(fits.is_ok(), "{fits:?}");
        let mut passed = true;
        if audited {
            passed = self.audit(&arrival, &draw);
            let audited = Event::Audited {
                id: arrival.id,
                at: self.now,
                finding: match passed {
                    true => Finding::Passed,
                    false => Finding::Wrong,
                },
            };
            let fits = self.requesters[arrival.requester].job.apply(&audited);
            assert!(fits.is_ok(), "{fits:?}");
        }
        let conduct = if passed {
            Conduct::Delivered
        } else {
            Conduct::Lied
        };
        self.requesters[arrival.requester]
            .seen
            .entry(arrival.node)
            .or_default()
            .note(conduct);
    }

    /// One auditor looks; if it differs, a panel decides, and whoever is not with its majority is
    /// convicted.
    fn audit(&mut self, arrival: &Arrival, draw: &skep_evidence::Draw) -> bool {
        let known = self.requesters[arrival.requester].known.clone();
        let mut list: Vec<Candidate> = known
            .into_iter()
            .filter(|place| self.nodes[*place].is_online && !self.nodes[*place].is_convicted)
            .map(|place| Candidate {
                account: self.nodes[place].account,
                stake: Credits::from_micro(FINE as u64),
            })
            .collect();
        list.sort_unstable_by_key(|candidate| candidate.account);
        list.dedup_by_key(|candidate| candidate.account);
        let Ok(candidates) = Candidates::new(list) else {
            return true;
        };
        let provider = self.nodes[arrival.node].account;
        let drawn: Vec<usize> = draw
            .auditors(&candidates, self.settings.panel - 1, &[provider])
            .iter()
            .filter_map(|account| self.places.get(account).copied())
            .collect();
        // What each says: whether the wrong output came out.
        let mut said = vec![(arrival.node, arrival.is_wrong)];
        said.extend(
            drawn
                .iter()
                .map(|place| (*place, self.nodes[*place].is_cheat)),
        );
        if said
            .get(1)
            .is_none_or(|(_, first)| *first == arrival.is_wrong)
        {
            return true;
        }
        self.panels += 1;
        let wrong = said.iter().filter(|(_, is_wrong)| *is_wrong).count();
        let majority = if 2 * wrong > self.settings.panel {
            true
        } else if 2 * (said.len() - wrong) > self.settings.panel {
            false
        } else {
            return true;
        };
        for (place, is_wrong) in said {
            if is_wrong != majority {
                self.convict(place);
            }
        }
        arrival.is_wrong == majority
    }

    fn convict(&mut self, place: usize) {
        let node = &mut self.nodes[place];
        if !node.is_convicted {
            node.is_convicted = true;
            node.earned -= FINE;
            self.honest_convicted += u64::from(!node.is_cheat);
        }
    }

    fn drive(&mut self, place: usize) {
        loop {
            let offers = self.offers(place);
            let decisions = self.requesters[place].job.decide(self.now, &offers);
            if decisions.is_empty() {
                break;
            }
            for decision in decisions {
                self.carry_out(place, decision);
            }
        }
        self.settle(place);
        let requester = &self.requesters[place];
        if requester.counted == self.settings.shards {
            let job = self.new_job(self.now);
            let known = self.meet();
            let requester = &mut self.requesters[place];
            *requester = Requester {
                job,
                round: requester.round + 1,
                known,
                counted: 0,
                seen: std::mem::take(&mut requester.seen),
            };
        }
    }

    fn offers(&self, place: usize) -> Vec<Offer> {
        let requester = &self.requesters[place];
        requester
            .known
            .iter()
            .map(|place| (*place, &self.nodes[*place]))
            .filter(|(_, node)| node.is_online && !node.is_convicted && node.busy <= self.now)
            .map(|(place, node)| Offer {
                provider: node.account,
                price: Credits::from_micro(node.price),
                warmth: Warmth::default(),
                reputation: requester.seen.get(&place).copied().unwrap_or_default(),
                slots: 1,
                ahead: 0,
            })
            .collect()
    }

    fn carry_out(&mut self, place: usize, decision: Decision) {
        let event = match decision {
            Decision::Lease {
                id,
                provider,
                limit,
                audits,
            } => {
                self.begin(place, id, provider);
                Event::Leased {
                    id,
                    at: self.now,
                    provider,
                    limit,
                    lease: Digest::from_bytes([0; 32]),
                    audits,
                    encoding: Vec::new(),
                }
            }
            Decision::Note(event) => event,
            // An audit takes no time here, and is over before anything is decided.
            Decision::Audited(_) => return,
        };
        let requester = &mut self.requesters[place];
        if let Event::Withdrawn { id, .. } = event {
            // Late, unless another was only faster.
            let is_needed = requester.job.accepted(id.shard).is_none();
            let provider = requester.job.provider(id);
            if let Some(node) = provider
                .and_then(|p| self.places.get(&p))
                .filter(|_| is_needed)
            {
                requester
                    .seen
                    .entry(*node)
                    .or_default()
                    .note(Conduct::Failed);
            }
        }
        let fits = requester.job.apply(&event);
        assert!(fits.is_ok(), "{fits:?}");
    }

    fn begin(&mut self, requester: usize, id: AttemptId, provider: AccountId) {
        let Some(place) = self.places.get(&provider).copied() else {
            return;
        };
        let honest = SHARD * self.nodes[place].slowness / 1_000;
        let taken = honest / 2 + self.random.below(honest.max(1));
        let node = &mut self.nodes[place];
        let is_wrong = node.is_cheat && self.random.below(1_000) < node.made_up;
        let taken = if is_wrong { TICK } else { taken };
        node.busy = self.now + taken;
        self.arrivals.push(Reverse(Arrival {
            at: self.now + taken,
            requester,
            round: self.requesters[requester].round,
            id,
            node: place,
            is_wrong,
        }));
    }

    /// Pays what was accepted, and counts it.
    fn settle(&mut self, place: usize) {
        loop {
            let requester = &mut self.requesters[place];
            let mut done = Vec::new();
            for outstanding in requester.job.outstanding() {
                match outstanding {
                    Outstanding::Pay { id, .. } => done.push(Event::Paid { id, at: self.now }),
                    Outstanding::Assemble { shard, .. } => {
                        done.push(Event::Assembled {
                            shard,
                            at: self.now,
                        });
                    }
                    Outstanding::Send { .. } => {}
                }
            }
            if done.is_empty() {
                return;
            }
            for event in done {
                match &event {
                    Event::Paid { id, .. } => {
                        let is_wrong = self.wrong.remove(&(place, requester.round, *id));
                        if let Some(minute) = self.history.last_mut() {
                            minute.accepted += 1;
                            minute.wrong += u64::from(is_wrong == Some(true));
                        }
                        if let Some(node) = requester
                            .job
                            .provider(*id)
                            .and_then(|p| self.places.get(&p))
                        {
                            let node = &mut self.nodes[*node];
                            node.earned += node.price as i64;
                        }
                    }
                    Event::Assembled { .. } => requester.counted += 1,
                    _ => {}
                }
                let fits = requester.job.apply(&event);
                assert!(fits.is_ok(), "{fits:?}");
            }
        }
    }

    /// What the whole run came to.
    pub fn figures(&self) -> Figures {
        let sum = |of: fn(&Minute) -> u64| self.history.iter().map(of).sum::<u64>();
        let of = |is_cheat: bool| {
            self.nodes
                .iter()
                .filter(move |node| node.is_cheat == is_cheat)
        };
        let mean = |is_cheat: bool| {
            let earned: i64 = of(is_cheat).map(|node| node.earned).sum();
            earned / of(is_cheat).count().max(1) as i64
        };
        Figures {
            settings: self.settings,
            panels: self.panels,
            accepted: sum(|m| m.accepted),
            wrong: sum(|m| m.wrong),
            possible: self.honest_time / SHARD,
            cheats: of(true).count(),
            cheats_convicted: of(true).filter(|node| node.is_convicted).count(),
            cheat_earned: mean(true),
            honest: of(false).count(),
            honest_convicted: self.honest_convicted,
            honest_earned: mean(false),
        }
    }
}
