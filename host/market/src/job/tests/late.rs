//! In the same small world: nobody waits for who does not come, and who comes late is not called a liar for it.

use super::busy::lease;
use super::turns::{Desk, FIRST, patient};
use super::*;
use crate::reputation::Conduct;

#[test]
fn a_late_shard_is_hedged_and_the_first_result_counts() {
    // Five shards on four fast providers and one that is silent: the silent one's shard gets a
    // second lease long before its patience ends.
    let slow = JobPlan {
        patience: 50_000,
        first_patience: 50_000,
        ..plan(10, 1)
    };
    let mut world = World::new(
        slow,
        vec![Honest, Honest, Honest, Honest, Silent],
        BTreeSet::new(),
    );
    assert!(world.run().is_complete());
    assert!(world.now < 3_000, "{}", world.now);
    let without = JobPlan { hedges: 0, ..slow };
    let mut world = World::new(
        without,
        vec![Honest, Honest, Honest, Honest, Silent],
        BTreeSet::new(),
    );
    assert!(world.run().is_complete());
    assert!(world.now > 50_000, "{}", world.now);
}

#[test]
fn a_job_of_one_shard_does_not_wait_for_who_never_delivers() {
    let small = JobPlan {
        patience: 50_000,
        first_patience: 300,
        ..plan(1, 1)
    };
    for natures in [vec![Silent, Honest], vec![Honest, Silent]] {
        let mut world = World::new(small, natures.clone(), BTreeSet::new());
        let job = world.run();
        assert!(job.is_complete());
        assert!(world.now < 2_000, "{} {natures:?}", world.now);
        // Who is quick is not paid twice for it.
        assert!(job.view()[0].attempts.len() <= 2);
    }
    // One that is asked to audit is not waited for either.
    let mut world = World::new(small, vec![Honest, Silent, Honest], BTreeSet::new());
    world.audits = 100;
    assert!(world.run().is_complete());
    assert!(world.now < 3_000, "{}", world.now);
}

#[test]
fn a_requester_that_was_away_did_not_wait() {
    let plan = JobPlan {
        patience: 50_000,
        first_patience: 300,
        deadline: 1_000_000,
        ..plan(1, 1)
    };
    let offers = [1, 2].map(|node| offer(node, 4));
    let mut job = Job::new(plan);
    lease(&mut job, 0, 0, 1, None);
    // It would have had a second lease by now, and then been taken back.
    let back = 10 * plan.patience;
    job.watch_from(back);
    assert_eq!(job.decide(back + plan.first_patience, &offers), []);
    let decisions = job.decide(back + plan.first_patience + 1, &offers);
    assert!(
        matches!(decisions[..], [Decision::Lease { .. }]),
        "{decisions:?}"
    );
    let at = back + plan.patience;
    let id = AttemptId {
        shard: 0,
        attempt: 0,
    };
    let decisions = job.decide(at - 1, &offers[..1]);
    assert_eq!(decisions, [], "nobody else has room");
    let decisions = job.decide(at, &offers[..1]);
    let withdrawn = Decision::Note(Event::Withdrawn { id, at });
    assert_eq!(decisions.first(), Some(&withdrawn));
}

#[test]
fn a_late_shard_goes_to_nobody_who_lied_and_last_to_who_fails() {
    // All of them are free and have everything ready.
    let offer = |node, conduct: &[Conduct]| {
        let mut reputation = Reputation::default();
        conduct.iter().for_each(|seen| reputation.note(*seen));
        Offer {
            provider: account(node),
            price: Credits::ZERO,
            warmth: Warmth {
                package: true,
                model: true,
                adapter: true,
            },
            reputation,
            slots: 4,
            ahead: 0,
        }
    };
    let slow = offer(1, &[]);
    let lied = offer(2, &[Conduct::Delivered, Conduct::Lied]);
    let fails = offer(3, &[Conduct::Failed; 3]);
    let other = offer(4, &[]);
    for number in 0..10 {
        let hedged = |offers: &[Offer]| {
            let mut job = Job::new(JobPlan {
                job: digest("job", number),
                first_patience: 300,
                ..plan(1, 1)
            });
            let leased = Event::Leased {
                id: AttemptId {
                    shard: 0,
                    attempt: 0,
                },
                at: 1_000,
                provider: account(1),
                limit: credits(LIMIT),
                lease: digest("lease", 0),
                audits: None,
                encoding: Vec::new(),
            };
            job.apply(&leased).unwrap();
            assert_eq!(job.decide(1_300, offers), [], "it is not late yet");
            let decisions = job.decide(1_301, offers).into_iter();
            let leases = decisions.filter_map(|decision| match decision {
                Decision::Lease { provider, .. } => Some(provider),
                _ => None,
            });
            leases.collect::<Vec<AccountId>>()
        };
        assert_eq!(hedged(&[slow, lied]), []);
        assert_eq!(hedged(&[slow, lied, fails]), [account(3)]);
        assert_eq!(hedged(&[slow, lied, fails, other]), [account(4)]);
    }
}

/// Has a node make a shard, which takes so long.
fn make(desk: &mut Desk, shard: u32, node: u8, took: u64, made: &str) {
    let id = desk.lease(shard, account(node), None);
    desk.now += took;
    desk.deliver(id, made, &[]);
}

/// Who gets the last of four shards.
fn first_of(desk: &Desk) -> AccountId {
    let offers = [1, 2].map(|node| offer(node, 4));
    let decisions = desk.job.decide(desk.now, &offers).into_iter();
    let mut given = decisions.filter_map(|decision| match decision {
        Decision::Lease { id, provider, .. } if id.shard == 3 => Some(provider),
        _ => None,
    });
    given.next().unwrap()
}

#[test]
fn who_kept_a_shard_for_all_its_time_is_asked_after_others_until_it_delivers() {
    // Those who come first in one of these jobs, of two that are equals but for that.
    let firsts = |kept: u64, delivers: bool| -> BTreeSet<AccountId> {
        let first = |number| {
            let plan = JobPlan {
                job: digest("job", number),
                ..patient(4, 1)
            };
            let mut desk = Desk::new(plan, 2);
            let id = desk.lease(0, account(1), None);
            desk.now += kept;
            let at = desk.now;
            desk.note(Event::Withdrawn { id, at });
            if delivers {
                make(&mut desk, 1, 1, 1, "right");
            }
            first_of(&desk)
        };
        (0..20).map(first).collect()
    };
    let both = BTreeSet::from([1, 2].map(account));
    let patience = patient(4, 1).patience;
    // It was busy, and the shard moved, or another was quicker.
    assert_eq!(firsts(patience - 1, false), both);
    assert_eq!(firsts(patience, false), BTreeSet::from([account(2)]));
    assert_eq!(firsts(patience, true), both);
}

#[test]
fn however_many_results_two_of_five_make_up_nobody_honest_is_late_for_it() {
    const SHARDS: u32 = 100;
    let plan = JobPlan {
        hedges: 1,
        ..patient(SHARDS, 1)
    };
    let mut desk = Desk::new(plan, 5);
    let begun = desk.now;
    let honest =
        [(0, 1), (1, 2), (2, 3)].map(|(shard, node)| desk.lease(shard, account(node), None));
    // They are the first to deliver, and for long the only ones.
    for shard in 3..SHARDS - 1 {
        make(&mut desk, shard, 4 + (shard % 2) as u8, 1, "lie");
        assert_eq!(desk.job.late(), FIRST);
    }
    desk.now = begun + 10_000;
    for id in honest {
        desk.deliver(id, "right", &[]);
        // 2^13 ms were reached by the third of five: four times that.
        assert_eq!(desk.job.late(), 1 << 15);
    }
    // One of them has the last shard, and is left with it alone for so long.
    let begun = desk.now;
    desk.lease(SHARDS - 1, account(1), None);
    let mut leases = |now| {
        desk.waits(now);
        desk.job.view()[SHARDS as usize - 1].attempts.len()
    };
    assert_eq!(leases(begun + (1 << 15)), 1);
    assert_eq!(leases(begun + (1 << 15) + 1), 2, "it is hedged then");
}

#[test]
fn however_slow_two_of_five_are_the_others_do_not_wait_longer_for_it() {
    let mut desk = Desk::new(patient(20, 1), 5);
    let never = desk.lease(0, account(4), None);
    // Of two nodes one is not most of them.
    for shard in 1..9 {
        make(&mut desk, shard, 1, 1_000, "right");
        assert_eq!(desk.job.late(), FIRST);
    }
    make(&mut desk, 9, 2, 1_000, "right");
    // 2^9 ms were reached by two of three.
    assert_eq!(desk.job.late(), 1 << 11);
    // The third of four, and then of five, is the slowest of those who are not slow on purpose.
    make(&mut desk, 10, 3, 4_000, "right");
    assert_eq!(desk.job.late(), 1 << 13);
    make(&mut desk, 11, 5, 19 * FIRST, "right");
    assert_eq!(desk.job.late(), 1 << 13);
    desk.deliver(never, "right", &[]);
    make(&mut desk, 12, 5, 19 * FIRST, "right");
    assert_eq!(desk.job.late(), 1 << 13);
}

#[test]
fn who_is_late_is_not_called_a_liar_for_what_came_before() {
    // It comes in the same moment as the hedge that lies, and before its lease was withdrawn.
    let mut desk = Desk::new(patient(1, 1), 6);
    let [late, hedge] = [1, 2].map(|node| desk.lease(0, account(node), None));
    desk.deliver(hedge, "lie", &[]);
    desk.deliver(late, "right", &[3, 4, 5, 6]);
    assert_eq!(desk.job.accepted(0), Some(Digest::of(b"lie")));
    assert_eq!(desk.job.outvoted(), []);
    assert_eq!(desk.job.spent(), credits(10));
    let its = &desk.job.view()[0].attempts[0];
    assert_eq!((its.state, its.audit), (AttemptState::Ended, None));

    // Both came before anything counted, and a friend of the hedge passes it.
    let mut desk = Desk::new(patient(1, 1), 6);
    let [late, hedge] = [1, 2].map(|node| desk.lease(0, account(node), None));
    desk.deliver(hedge, "lie", &[3, 4, 5, 6]);
    desk.deliver(late, "right", &[]);
    let now = desk.now;
    let friend = desk.asks(now, 3);
    desk.deliver(friend, "lie", &[]);
    let (_, over) = desk.decide();
    let findings: Vec<Finding> = over.iter().map(|outcome| outcome.finding).collect();
    assert_eq!(findings, [Finding::Passed]);
    assert_eq!(desk.job.accepted(0), Some(Digest::of(b"lie")));
    assert_eq!(desk.job.outvoted(), []);

    // Two have to agree, and the hedge and another have.
    let mut desk = Desk::new(patient(1, 2), 6);
    let leases = [1, 2, 3].map(|node| desk.lease(0, account(node), None));
    for id in &leases[1..] {
        desk.deliver_if_odd(*id, "lie", &[1, 4, 5, 6]);
    }
    desk.deliver_if_odd(leases[0], "right", &[4, 5, 6]);
    assert_eq!(desk.job.accepted(0), Some(Digest::of(b"lie")));
    assert_eq!(desk.job.outvoted(), []);
    // The same that comes late is paid like the others.
    let mut desk = Desk::new(patient(1, 2), 6);
    for id in [1, 2, 3].map(|node| desk.lease(0, account(node), None)) {
        desk.deliver(id, "right", &[]);
    }
    assert_eq!(desk.job.spent(), credits(30));
}
