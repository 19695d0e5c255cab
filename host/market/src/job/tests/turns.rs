//! Whose turn it is to audit a result: the first of the draw, whatever those do who lie alike.

use skep_evidence::{AuditSecret, Candidate, Candidates};

use super::*;

/// How long nobody is passed over, in milliseconds.
pub(super) const FIRST: u64 = 30_000;

/// A job in which nothing is done twice for the sake of time.
pub(super) fn patient(shards: u32, replicas: u32) -> JobPlan {
    JobPlan {
        budget: credits(LIMIT * 1_000),
        deadline: u64::MAX,
        patience: 20 * FIRST,
        first_patience: FIRST,
        hedges: 0,
        ..plan(shards, replicas)
    }
}

/// A requester, with the nodes that it may ask.
pub(super) struct Desk {
    pub(super) job: Job,
    journal: Vec<Event>,
    offers: Vec<Offer>,
    pub(super) now: u64,
}

impl Desk {
    pub(super) fn new(plan: JobPlan, nodes: u8) -> Self {
        let offers = (1..=nodes).map(|node| offer(node, 4));
        Self {
            job: Job::new(plan),
            journal: Vec::new(),
            offers: offers.collect(),
            now: 1_000,
        }
    }

    /// One in whose job nodes 1 and 2 have made shard 0 alike, and one of them others in a millisecond each. What the
    /// first made is audited by these.
    fn after_lies(shards: u32, auditors: &[u8]) -> Self {
        let mut desk = Self::new(patient(shards, 1), 6);
        for shard in 1..shards {
            let id = desk.lease(shard, account(2), None);
            desk.now += 1;
            desk.deliver(id, "lie", &[]);
        }
        let lies = [1, 2].map(|node| desk.lease(0, account(node), None));
        desk.now += 1;
        desk.deliver(lies[0], "lie", auditors);
        desk.deliver(lies[1], "lie", &[]);
        desk
    }

    /// What a node takes at once, if it answers.
    pub(super) fn set_slots(&mut self, node: u8, slots: Option<u32>) {
        let provider = account(node);
        self.offers.retain(|offer| offer.provider != provider);
        self.offers.extend(slots.map(|slots| Offer {
            provider,
            slots,
            ..self.offers[0]
        }));
    }

    pub(super) fn note(&mut self, event: Event) {
        self.job.apply(&event).unwrap();
        self.journal.push(event);
    }

    pub(super) fn lease(
        &mut self,
        shard: u32,
        provider: AccountId,
        audits: Option<u32>,
    ) -> AttemptId {
        let attempt = self.job.shards[shard as usize].attempts.len() as u32;
        let id = AttemptId { shard, attempt };
        let leased = Event::Leased {
            id,
            at: self.now,
            provider,
            limit: credits(LIMIT),
            lease: digest("lease", u64::from(shard) * 100 + u64::from(attempt)),
            audits,
            encoding: Vec::new(),
        };
        self.note(leased);
        id
    }

    pub(super) fn deliver(&mut self, id: AttemptId, made: &str, auditors: &[u8]) {
        self.deliver_as(id, made, auditors, false);
    }

    /// A result that was not drawn, and is looked at by these if it is odd.
    pub(super) fn deliver_if_odd(&mut self, id: AttemptId, made: &str, auditors: &[u8]) {
        self.deliver_as(id, made, auditors, true);
    }

    fn deliver_as(&mut self, id: AttemptId, made: &str, auditors: &[u8], only_if_odd: bool) {
        let made = Digest::of(made.as_bytes());
        let delivered = Event::Delivered {
            id,
            at: self.now,
            output: made,
            claim: made,
            bytes: 1,
            price: credits(10),
            auditors: auditors.iter().map(|node| account(*node)).collect(),
            only_if_odd,
            receipt: Vec::new(),
        };
        self.note(delivered);
    }

    fn fail(&mut self, id: AttemptId) {
        let at = self.now;
        self.note(Event::Failed { id, at });
    }

    /// Decides once, and writes it down: who is asked to audit, by which leases, and what audits came to. Whoever has
    /// nothing but the journal decides the same.
    pub(super) fn decide(&mut self) -> (Vec<(AccountId, AttemptId)>, Vec<Outcome>) {
        let (mut asked, mut over) = (Vec::new(), Vec::new());
        let decisions = self.job.decide(self.now, &self.offers);
        let mut again = Job::resume(*self.job.plan(), &self.journal).unwrap();
        again.watch_from(self.job.watched);
        assert_eq!(again.decide(self.now, &self.offers), decisions);
        for decision in decisions {
            match decision {
                Decision::Lease {
                    id,
                    provider,
                    audits,
                    ..
                } => {
                    assert_eq!(self.lease(id.shard, provider, audits), id);
                    if audits.is_some() {
                        asked.push((provider, id));
                    }
                }
                Decision::Note(event) => self.note(event),
                Decision::Audited(outcome) => {
                    for event in outcome.events(self.now) {
                        self.note(event);
                    }
                    over.push(outcome);
                }
            }
        }
        (asked, over)
    }

    /// Decides at this time: that one is asked, by the lease that is returned, and nobody else.
    pub(super) fn asks(&mut self, now: u64, node: u8) -> AttemptId {
        self.now = now;
        let (asked, over) = self.decide();
        assert_eq!(over, [], "at {now}");
        let [(provider, id)] = asked[..] else {
            panic!("{asked:?} at {now}");
        };
        assert_eq!(provider, account(node), "at {now}");
        id
    }

    /// Decides at this time, which changes nothing.
    pub(super) fn waits(&mut self, now: u64) {
        self.now = now;
        assert_eq!(self.decide(), (Vec::new(), Vec::new()), "at {now}");
    }

    /// Decides at this time that what the first made passes.
    fn passes(&mut self, now: u64) {
        self.now = now;
        let (asked, over) = self.decide();
        assert_eq!(asked, [], "at {now}");
        let findings = over.iter().map(|outcome| (outcome.id, outcome.finding));
        let expected = (at(0), Finding::Passed);
        assert_eq!(findings.collect::<Vec<_>>(), [expected], "at {now}");
    }
}

/// A lease of the first shard.
pub(super) fn at(attempt: u32) -> AttemptId {
    AttemptId { shard: 0, attempt }
}

#[test]
fn a_replica_that_agrees_is_no_audit_unless_it_is_its_turn() {
    let replicated = || {
        let mut desk = Desk::new(patient(1, 2), 6);
        for node in [1, 2] {
            desk.lease(0, account(node), None);
        }
        desk
    };
    let mut desk = replicated();
    desk.deliver(at(0), "lie", &[3, 2, 4, 5, 6]);
    desk.deliver(at(1), "lie", &[4, 1, 3, 5, 6]);
    // Each is looked at by the first of its own draw.
    let (asked, over) = desk.decide();
    assert_eq!(over, []);
    assert_eq!(asked, [(account(3), at(2)), (account(4), at(3))]);
    assert_eq!(desk.job.audits(at(2)), Some(0));
    assert_eq!(desk.job.audits(at(3)), Some(1));
    desk.deliver(at(2), "right", &[]);
    // One is asked that has to say something of both, and once.
    let now = desk.now;
    let id = desk.asks(now, 5);
    desk.deliver(id, "right", &[]);
    desk.deliver(at(3), "right", &[]);
    let (_, over) = desk.decide();
    let wrong = over.iter().flat_map(Outcome::wrong);
    let wrong: BTreeSet<AttemptId> = wrong.collect();
    assert_eq!(wrong, BTreeSet::from([at(0), at(1)]));
    assert_eq!(desk.job.accepted(0), Some(Digest::of(b"right")));

    // Where it is the friend's turn the first passes, and the friend's own result is looked at all the same.
    let mut desk = replicated();
    desk.deliver(at(0), "lie", &[2, 3, 4, 5, 6]);
    desk.deliver(at(1), "lie", &[4, 1, 3, 5, 6]);
    let (_, over) = desk.decide();
    let passed = Outcome {
        id: at(0),
        finding: Finding::Passed,
        audits: Vec::new(),
    };
    assert_eq!(over, [passed]);
    assert_eq!(desk.job.accepted(0), None);
    let now = desk.now;
    desk.asks(now, 4);
}

#[test]
fn auditors_are_asked_in_the_order_of_the_draw_and_not_by_who_has_room() {
    let mut desk = Desk::new(patient(2, 1), 6);
    desk.set_slots(3, Some(1));
    let busy = desk.lease(1, account(3), None);
    desk.lease(0, account(1), None);
    desk.deliver(at(0), "lie", &[3, 2, 4, 5, 6]);
    let begun = desk.now;
    // Many times as long as somebody is waited for who has room and does not answer.
    for time in [0, 1, FIRST, 19 * FIRST] {
        desk.waits(begun + time);
    }
    desk.deliver(busy, "right", &[]);
    let id = desk.asks(desk.now, 3);
    desk.deliver(id, "lie", &[]);
    let now = desk.now;
    desk.passes(now);
}

#[test]
fn nobody_is_passed_over_sooner_than_the_first_patience_however_quick_others_are() {
    // The friend is the next of the draw, and has said already that it agrees.
    let begin = || {
        let desk = Desk::after_lies(9, &[3, 2, 4, 5, 6]);
        assert_eq!(desk.job.late(), 4);
        let begun = desk.now;
        (desk, begun)
    };
    // It does not answer.
    let (mut desk, begun) = begin();
    desk.set_slots(3, None);
    desk.waits(begun);
    desk.waits(begun + FIRST - 1);
    desk.passes(begun + FIRST);
    // It is at work.
    let (mut desk, begun) = begin();
    desk.asks(begun, 3);
    desk.waits(begun + FIRST - 1);
    desk.passes(begun + FIRST);
    // It fails, and fails again, and once more when others would be late.
    let (mut desk, begun) = begin();
    for now in [begun, begun + 10] {
        let id = desk.asks(now, 3);
        desk.fail(id);
    }
    desk.waits(begun + FIRST - 1);
    let id = desk.asks(begun + FIRST, 3);
    desk.waits(begun + FIRST + 1);
    desk.fail(id);
    desk.passes(begun + FIRST + 1);
    // It takes nothing, whatever others do.
    let (mut desk, begun) = begin();
    desk.set_slots(3, Some(0));
    desk.passes(begun);
}

#[test]
fn who_was_busy_or_away_a_moment_is_waited_for_anew() {
    let mut desk = Desk::new(patient(2, 1), 6);
    desk.set_slots(3, Some(1));
    let busy = desk.lease(1, account(3), None);
    let lies = [1, 2].map(|node| desk.lease(0, account(node), None));
    desk.deliver(lies[0], "lie", &[3, 2, 4, 5, 6]);
    desk.deliver(lies[1], "lie", &[]);
    let begun = desk.now;
    desk.waits(begun);
    // It does not answer, and has a lease still, of which it is not known yet that nothing comes.
    desk.set_slots(3, None);
    desk.waits(begun + 2 * FIRST);
    desk.fail(busy);
    desk.waits(begun + 3 * FIRST - 1);
    desk.set_slots(3, Some(1));
    desk.asks(begun + 3 * FIRST - 1, 3);
    // One that is away is passed over once it was for so long, and for no longer than it is.
    let mut desk = Desk::after_lies(1, &[3, 4, 2, 5, 6]);
    let begun = desk.now;
    desk.set_slots(3, None);
    desk.waits(begun);
    let next = desk.asks(begun + FIRST, 4);
    desk.set_slots(3, Some(1));
    let first = desk.asks(begun + FIRST + 1, 3);
    desk.deliver(next, "lie", &[]);
    desk.waits(begun + FIRST + 2);
    desk.deliver(first, "lie", &[]);
    desk.passes(begun + FIRST + 2);
}

#[test]
fn a_requester_that_was_away_passes_nobody_over_for_that() {
    let mut desk = Desk::after_lies(1, &[3, 2, 4, 5, 6]);
    let back = desk.now + 10 * FIRST;
    desk.job.watch_from(back);
    // Nobody has been asked yet whether it is there.
    let offers = std::mem::take(&mut desk.offers);
    desk.waits(back);
    desk.waits(back + 1);
    desk.offers = offers;
    desk.asks(back + 2, 3);
    // What it was given before is not late for that either.
    let back = back + 10 * FIRST;
    desk.job.watch_from(back);
    desk.waits(back + FIRST - 1);
    desk.passes(back + FIRST);
}

#[test]
fn one_that_was_late_decides_if_it_comes_before_the_next() {
    let mut desk = Desk::after_lies(1, &[3, 4, 2, 5, 6]);
    let begun = desk.now;
    let first = desk.asks(begun, 3);
    let next = desk.asks(begun + FIRST, 4);
    desk.deliver(first, "right", &[]);
    let (asked, over) = desk.decide();
    assert_eq!(over, []);
    assert_eq!(asked, [(account(5), at(4))], "all that have a say");
    desk.deliver(next, "right", &[]);
    desk.deliver(at(4), "right", &[]);
    let (_, over) = desk.decide();
    let wrong: Vec<AttemptId> = over.iter().flat_map(Outcome::wrong).collect();
    assert_eq!(wrong, [at(1), at(0)]);
}

#[test]
fn quick_results_do_not_change_when_an_auditor_is_late_and_slow_ones_do() {
    let mut desk = Desk::new(patient(40, 1), 6);
    let mut make = |shard, took| {
        let id = desk.lease(shard, account(1), None);
        desk.now += took;
        desk.deliver(id, "lie", &[]);
        (desk.job.late(), desk.job.late_for_audits())
    };
    for shard in 0..10 {
        assert_eq!(make(shard, 1).1, FIRST);
    }
    // 2^14 ms were reached: four times that.
    assert_eq!(make(10, 20_000), (4, 1 << 16));
    for shard in 11..30 {
        assert_eq!(make(shard, 1), (4, 1 << 16));
    }
    // No lease waits longer.
    assert_eq!(make(30, 19 * FIRST), (4, 20 * FIRST));
}

#[test]
fn who_was_drawn_beside_a_panel_has_no_say_as_long_as_that_may_come() {
    let mut desk = Desk::new(patient(1, 1), 4);
    let lies = [1, 2].map(|node| desk.lease(0, account(node), None));
    // Two have a say, and the friend has made the shard and was drawn beside them.
    desk.deliver(lies[0], "lie", &[3, 4, 2]);
    desk.deliver(lies[1], "lie", &[]);
    let begun = desk.now;
    let first = desk.asks(begun, 3);
    desk.deliver(first, "right", &[]);
    let second = desk.asks(begun + 1, 4);
    desk.waits(begun + FIRST);
    desk.deliver(second, "right", &[]);
    let (_, over) = desk.decide();
    let wrong: Vec<AttemptId> = over.iter().flat_map(Outcome::wrong).collect();
    assert_eq!(wrong, [lies[0]]);
    assert_eq!(desk.job.accepted(0), Some(Digest::of(b"right")));
}

/// What comes of the first one's lie, if its friend answers at once, where it has been asked and where it is at
/// work already, and all others take a while.
fn finding(desk: &mut Desk, mut at_work: Option<AttemptId>) -> Finding {
    let mut slow = Vec::new();
    for _ in 0..20 {
        let (asked, over) = desk.decide();
        if let Some(outcome) = over.first() {
            assert_eq!(outcome.id, at(0));
            return outcome.finding;
        }
        let is_friend = |(auditor, _): &(AccountId, AttemptId)| *auditor == account(2);
        let (friend, others): (Vec<_>, Vec<_>) = asked.into_iter().partition(is_friend);
        slow.extend(others.into_iter().map(|(_, id)| id));
        let lies = friend.into_iter().map(|(_, id)| id);
        let lies: Vec<AttemptId> = lies.chain(at_work.take()).collect();
        for id in &lies {
            desk.deliver(*id, "lie", &[]);
        }
        if lies.is_empty() {
            desk.now += FIRST - 1;
            for id in slow.drain(..) {
                desk.deliver(id, "right", &[]);
            }
        }
    }
    panic!("the audit has no end");
}

#[test]
fn a_pair_that_lies_alike_passes_as_often_as_the_draw_has_the_friend_first() {
    const DRAWS: u64 = 400;
    let nodes: Vec<AccountId> = (1..=6).map(account).collect();
    // By equal stakes the friend is the first of five in 80 of 400 draws, give or take five deviations.
    for (stake, expected) in [(10, 40..=120), (100_000_000, 0..=0)] {
        let list = nodes.iter().enumerate().map(|(place, account)| Candidate {
            account: *account,
            stake: credits(if place < 2 { 10 } else { stake }),
        });
        let candidates = Candidates::new(list.collect()).unwrap();
        let mut passed = 0;
        for number in 0..DRAWS {
            let secret = AuditSecret::of_lease(&[7; 32], digest("job", number), 0, 0);
            let draw = secret.draw(digest("result", number));
            let drawn = draw.auditors(&candidates, 5, &nodes[..1]);
            let is_first = drawn[0] == nodes[1];
            let drawn = drawn.iter().map(|auditor| {
                let place = nodes.iter().position(|node| node == auditor);
                1 + place.unwrap() as u8
            });
            let drawn: Vec<u8> = drawn.collect();
            // The friend gets the shard only to audit, has made it, or is at work on it.
            let mut desk = Desk::new(patient(1, 1), 6);
            desk.lease(0, nodes[0], None);
            let friend = (number % 3 > 0).then(|| desk.lease(0, nodes[1], None));
            desk.deliver(at(0), "lie", &drawn);
            if number % 3 == 1 {
                desk.deliver(at(1), "lie", &[]);
            }
            let at_work = friend.filter(|_| number % 3 == 2);
            let expected = match is_first {
                true => Finding::Passed,
                false => Finding::Wrong,
            };
            assert_eq!(
                finding(&mut desk, at_work),
                expected,
                "draw {number}: {drawn:?}"
            );
            passed += u64::from(is_first);
        }
        assert!(expected.contains(&passed), "{passed} at a stake of {stake}");
    }
}
