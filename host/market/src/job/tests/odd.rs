//! Of replicas one that is another than enough others is looked at by a panel, and who is wrong is charged: the one
//! that is odd, or those against whom it was.

use super::turns::{Desk, FIRST, at, patient};
use super::*;
use crate::reputation::Conduct;

/// A job of one shard in which two have to agree, with so many nodes of which the first three have made it: these, in
/// their order, each of whom is looked at by others only if it is odd.
fn three(plan: JobPlan, nodes: u8, made: [&str; 3], auditors: [&[u8]; 3]) -> Desk {
    let mut desk = Desk::new(plan, nodes);
    let leases = [1, 2, 3].map(|node| desk.lease(0, account(node), None));
    for ((id, made), auditors) in leases.into_iter().zip(made).zip(auditors) {
        desk.deliver_if_odd(id, made, auditors);
    }
    desk
}

/// The same with six nodes, of which the first is odd and is looked at by others in this order.
fn odd_first(made: [&str; 3], auditors: &[u8]) -> Desk {
    let others: [&[u8]; 2] = [&[3, 1, 4, 5, 6], &[1, 2, 4, 5, 6]];
    let auditors = [auditors, others[0], others[1]];
    three(patient(1, 2), 6, made, auditors)
}

fn right() -> Digest {
    Digest::of(b"right")
}

/// What was found of the first one's result, and whose results are wrong.
fn found(desk: &mut Desk) -> (Finding, BTreeSet<AttemptId>) {
    let (asked, over) = desk.decide();
    assert_eq!(asked, []);
    let [outcome] = &over[..] else {
        panic!("{over:?}");
    };
    assert_eq!(outcome.id, at(0));
    (outcome.finding, outcome.wrong().collect())
}

#[test]
fn who_is_odd_is_looked_at_and_no_more_work_is_done_than_tells_who_lies() {
    const LIE: [&str; 3] = ["lie", "right", "right"];
    let mut desk = odd_first(LIE, &[2, 4, 3, 5, 6]);
    // Two agree, and it waits all the same.
    assert_eq!(desk.job.accepted(0), None);
    let now = desk.now;
    let fourth = desk.asks(now, 4);
    desk.waits(now);
    desk.deliver(fourth, "right", &[]);
    // Three of five.
    let wrong = BTreeSet::from([at(0)]);
    assert_eq!(found(&mut desk), (Finding::Wrong, wrong));
    assert_eq!(desk.job.accepted(0), Some(right()));
    assert_eq!(desk.job.outvoted_of(0), [account(1)]);
    let agreed = [2, 3, 4].map(|node| (account(node), Conduct::Agreed));
    let conducts = [&[(account(1), Conduct::Lied)][..], &agreed].concat();
    assert_eq!(desk.job.conducts_of(0), conducts);
    let shard = &desk.job.view()[0];
    assert_eq!(shard.attempts.len(), 4);
    let audits = shard.attempts.iter().map(|lease| lease.audit);
    let looked_at = Some(Some(Finding::Wrong));
    assert_eq!(audits.collect::<Vec<_>>(), [looked_at, None, None, None]);
    // All but the one that lied are paid, who was asked for the audit among them.
    assert_eq!(desk.job.spent(), credits(30));

    // A friend of it that stands by it pays as well.
    let mut desk = odd_first(LIE, &[2, 4, 3, 5, 6]);
    let fourth = desk.asks(now, 4);
    desk.deliver(fourth, "lie", &[]);
    let fifth = desk.asks(now, 5);
    desk.deliver(fifth, "right", &[]);
    let wrong = BTreeSet::from([at(0), fourth]);
    assert_eq!(found(&mut desk), (Finding::Wrong, wrong));
    assert_eq!(desk.job.accepted(0), Some(right()));

    // Of three nodes the other two are the panel, and have said what they got.
    let auditors: [&[u8]; 3] = [&[3, 2], &[1, 3], &[2, 1]];
    let mut desk = three(patient(1, 2), 3, LIE, auditors);
    let wrong = BTreeSet::from([at(0)]);
    assert_eq!(found(&mut desk), (Finding::Wrong, wrong));
    assert_eq!(desk.job.view()[0].attempts.len(), 3);
}

#[test]
fn two_that_lie_alike_against_one_are_charged_and_that_one_is_not() {
    const LIES: [&str; 3] = ["right", "lie", "lie"];
    let mut desk = odd_first(LIES, &[2, 3, 4, 5, 6]);
    assert_eq!(desk.job.accepted(0), None, "two agreed on a lie");
    let now = desk.now;
    for node in [4, 5] {
        let id = desk.asks(now, node);
        desk.deliver(id, "right", &[]);
    }
    let wrong = BTreeSet::from([at(1), at(2)]);
    assert_eq!(found(&mut desk), (Finding::Passed, wrong));
    assert_eq!(desk.job.accepted(0), Some(right()));
    assert_eq!(desk.job.outvoted_of(0), [2, 3].map(account));
    assert_eq!(desk.job.spent(), credits(30));

    // One of the two that the panel does not hear is found by the panel of its own.
    let mut desk = odd_first(LIES, &[2, 4, 5, 6, 3]);
    let (asked, over) = desk.decide();
    assert_eq!(over, []);
    assert_eq!(asked, [(account(4), at(3)), (account(5), at(4))]);
    for (_, id) in asked {
        desk.deliver(id, "right", &[]);
    }
    let wrong = BTreeSet::from([at(1)]);
    assert_eq!(found(&mut desk), (Finding::Passed, wrong));
    assert_eq!(desk.job.accepted(0), None);
    let (asked, over) = desk.decide();
    assert_eq!(asked, []);
    let wrong: Vec<AttemptId> = over.iter().flat_map(Outcome::wrong).collect();
    assert_eq!(wrong, [at(2)]);
    assert_eq!(desk.job.accepted(0), Some(right()));

    // Nor does it help them that the panel does not know of either, and that they are as many as it takes.
    let auditors: [&[u8]; 3] = [&[4, 5, 6], &[1, 4, 5, 6], &[1, 4, 5, 6]];
    let mut desk = three(patient(1, 2), 6, LIES, auditors);
    let id = desk.asks(now, 4);
    desk.deliver(id, "right", &[]);
    assert_eq!(found(&mut desk), (Finding::Passed, BTreeSet::new()));
    assert_eq!(desk.job.accepted(0), None);
    // One is asked for both.
    let id = desk.asks(now, 5);
    desk.deliver(id, "right", &[]);
    let wrong = [1, 2].map(|attempt| {
        let (_, over) = desk.decide();
        let wrong: Vec<AttemptId> = over.iter().flat_map(Outcome::wrong).collect();
        assert_eq!(wrong, [at(attempt)]);
        desk.job.accepted(0)
    });
    assert_eq!(wrong, [None, Some(right())]);

    // Who has most of a panel is believed, whoever it is: two of three nodes, by whom the third is charged.
    let auditors: [&[u8]; 3] = [&[3, 2], &[1, 3], &[2, 1]];
    let mut desk = three(patient(1, 2), 3, LIES, auditors);
    let wrong = BTreeSet::from([at(0)]);
    assert_eq!(found(&mut desk), (Finding::Wrong, wrong));
}

#[test]
fn where_nothing_can_be_found_the_one_that_is_odd_is_not_paid_and_nobody_is_charged() {
    const LIE: [&str; 3] = ["lie", "right", "right"];
    let ends = |desk: &Desk, audit: Option<Option<Finding>>| {
        assert_eq!(desk.job.accepted(0), Some(right()));
        assert_eq!(desk.job.outvoted_of(0), [account(1)]);
        let doubted = (account(1), Conduct::Outvoted);
        assert_eq!(desk.job.conducts_of(0)[0], doubted, "it is no lie");
        assert_eq!(desk.job.view()[0].attempts[0].audit, audit);
        assert_eq!(desk.job.spent(), credits(20));
        assert_eq!(desk.job.gave_up(), None);
    };
    let undecided = Some(Some(Finding::Undecided));
    // Nobody is of its kind.
    let mut desk = odd_first(LIE, &[]);
    ends(&desk, None);
    assert_eq!(desk.decide(), (Vec::new(), Vec::new()));
    // Nothing is left to pay a panel with.
    let poor = JobPlan {
        budget: credits(LIMIT + 29),
        ..patient(1, 2)
    };
    let auditors: [&[u8]; 3] = [&[4, 2, 3, 5, 6], &[], &[]];
    let mut desk = three(poor, 6, LIE, auditors);
    assert_eq!(found(&mut desk), (Finding::Undecided, BTreeSet::new()));
    ends(&desk, undecided);
    // Nobody that is asked answers: each is waited for as long as any first one.
    let mut desk = odd_first(LIE, &[4, 5, 2, 3, 6]);
    let begun = desk.now;
    desk.asks(begun, 4);
    desk.waits(begun + FIRST - 1);
    desk.asks(begun + FIRST, 5);
    desk.asks(begun + 2 * FIRST, 6);
    desk.waits(begun + 3 * FIRST - 1);
    desk.now = begun + 3 * FIRST;
    assert_eq!(found(&mut desk), (Finding::Undecided, BTreeSet::new()));
    ends(&desk, undecided);
}

#[test]
fn a_job_that_is_given_up_while_one_is_looked_at_pays_for_what_enough_agreed_on() {
    let mut desk = odd_first(["lie", "right", "right"], &[2, 4, 3, 5, 6]);
    let at = desk.now;
    desk.asks(at, 4);
    assert_eq!(desk.job.accepted(0), None);
    let why = GaveUp::Deadline;
    desk.note(Event::GaveUp { at, why });
    assert_eq!(desk.job.accepted(0), Some(right()));
    assert_eq!(desk.job.spent(), credits(20));
    assert_eq!(desk.job.outvoted_of(0), [account(1)]);
}

#[test]
fn what_the_other_shards_need_is_kept_from_who_looks_at_the_odd_one() {
    let tight = JobPlan {
        budget: credits(30 + 2 * LIMIT),
        ..patient(2, 2)
    };
    let auditors: [&[u8]; 3] = [&[2, 4, 3, 5, 6], &[3, 1, 4, 5, 6], &[1, 2, 4, 5, 6]];
    let mut desk = three(tight, 6, ["lie", "right", "right"], auditors);
    let now = desk.now;
    desk.waits(now);
    assert_eq!(desk.job.view()[1].attempts.len(), 2);
    for attempt in [0, 1] {
        desk.deliver(AttemptId { shard: 1, attempt }, "right", &[]);
    }
    // They cost less than they might have.
    let fourth = desk.asks(now, 4);
    desk.deliver(fourth, "right", &[]);
    assert_eq!(found(&mut desk), (Finding::Wrong, BTreeSet::from([at(0)])));
}

#[test]
fn however_slow_a_liar_is_those_who_look_at_it_are_not_waited_for_longer() {
    let mut desk = Desk::new(patient(1, 2), 6);
    let leases = [1, 2, 3].map(|node| desk.lease(0, account(node), None));
    // What it takes makes auditors late only after as long.
    desk.now += 10 * FIRST;
    let auditors: [&[u8]; 3] = [&[2, 4, 3, 5, 6], &[3, 1, 4, 5, 6], &[1, 2, 4, 5, 6]];
    let made = ["lie", "right", "right"];
    for ((id, made), auditors) in leases.into_iter().zip(made).zip(auditors) {
        desk.deliver_if_odd(id, made, auditors);
    }
    let begun = desk.now;
    desk.asks(begun, 4);
    desk.waits(begun + 3 * FIRST - 1);
    desk.now = begun + 3 * FIRST;
    assert_eq!(found(&mut desk), (Finding::Undecided, BTreeSet::new()));
    assert_eq!(desk.job.accepted(0), Some(right()));
}

#[test]
fn who_stood_by_one_that_was_found_right_has_not_lied_whatever_the_shard_becomes() {
    // None of their kind is there for the two that agree, so that their output counts in the end.
    let auditors: [&[u8]; 3] = [&[4, 5], &[], &[]];
    let mut desk = three(patient(1, 2), 5, ["right", "lie", "lie"], auditors);
    let now = desk.now;
    let fourth = desk.asks(now, 4);
    desk.deliver(fourth, "right", &[]);
    assert_eq!(found(&mut desk), (Finding::Passed, BTreeSet::new()));
    let odd = desk.job.outvoted_of(0);
    assert!(
        !odd.contains(&account(1)) && !odd.contains(&account(4)),
        "{odd:?}"
    );
}

#[test]
fn who_comes_when_the_panel_has_decided_stood_by_nobody() {
    for (late, expected) in [("other", Conduct::Outvoted), ("right", Conduct::Agreed)] {
        let auditors: [&[u8]; 3] = [&[4, 5, 6, 7], &[5, 6], &[5, 6]];
        let mut desk = three(patient(1, 2), 7, ["right", "lie", "lie"], auditors);
        let begun = desk.now;
        let (asked, over) = desk.decide();
        assert_eq!(over, []);
        assert_eq!(asked, [(account(4), at(3)), (account(5), at(4))]);
        desk.deliver(at(4), "right", &[]);
        let sixth = desk.asks(begun + FIRST, 6);
        desk.deliver(sixth, "right", &[]);
        assert_eq!(found(&mut desk), (Finding::Passed, BTreeSet::new()));
        // The two that lie are looked at for that, so that nothing counts yet.
        assert_eq!(desk.job.accepted(0), None);
        desk.deliver(at(3), late, &[]);
        for attempt in [1, 2] {
            let (_, over) = desk.decide();
            let wrong: Vec<AttemptId> = over.iter().flat_map(Outcome::wrong).collect();
            assert_eq!(wrong, [at(attempt)]);
        }
        assert_eq!(desk.job.accepted(0), Some(right()));
        let conducts = [
            (account(1), Conduct::Agreed),
            (account(2), Conduct::Lied),
            (account(3), Conduct::Lied),
            (account(4), expected),
            (account(5), Conduct::Agreed),
            (account(6), Conduct::Agreed),
        ];
        assert_eq!(desk.job.conducts_of(0), conducts, "{late}");
    }
}

#[test]
fn whoever_is_asked_first_a_liar_among_three_is_charged_if_it_was_asked() {
    let mut caught = 0;
    for number in 0..10 {
        let plan = JobPlan {
            job: digest("job", number),
            ..plan(1, 2)
        };
        let mut world = World::new(plan, vec![Lies, Honest, Honest], BTreeSet::new());
        world.looks_at_odd = true;
        let job = world.run();
        assert!(job.is_complete());
        assert_eq!(world.result, world.expected());
        let odd = job.outvoted().into_iter().map(|(_, who)| who);
        let odd: BTreeSet<AccountId> = odd.collect();
        assert_eq!(world.charged, odd);
        // Those who tell are the panel.
        assert_eq!(job.view()[0].attempts.len(), 2 + odd.len());
        caught += odd.len();
    }
    assert!((1..10).contains(&caught), "{caught}");
}

#[test]
fn killed_at_every_point_of_an_audit_of_who_is_odd_it_goes_on_where_it_was() {
    let odd = |kills| {
        let mut world = World::new(plan(3, 2), vec![Honest, Lies, Honest, Honest], kills);
        world.looks_at_odd = true;
        world
    };
    let mut whole = odd(BTreeSet::new());
    assert!(whole.run().is_complete());
    assert_eq!(whole.charged, BTreeSet::from([account(2)]));
    for point in 0..whole.point {
        let mut world = odd(BTreeSet::from([point]));
        assert!(world.run().is_complete(), "killed at {point}");
        assert_eq!(world.result, world.expected(), "killed at {point}");
        assert!(world.charged.iter().all(|charged| *charged == account(2)));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    /// No two lies are the same. Where most of each panel are honest, and quick enough to say so before the look is over,
    /// whoever is called odd is charged for it.
    #[test]
    fn nobody_honest_is_charged_for_being_odd_and_who_lies_is(
        natures in proptest::collection::vec(money::nature(), 3..9),
        shards in 1..4_u32,
        replicas in 2..4_u32,
    ) {
        let mut world = World::new(plan(shards, replicas), natures.clone(), BTreeSet::new());
        world.looks_at_odd = true;
        let job = world.run();
        let lies = |who: AccountId| {
            let place = (1..=natures.len()).find(|n| account(*n as u8) == who).unwrap();
            natures[place - 1] == Lies
        };
        let odd = job.outvoted().into_iter().map(|(_, odd)| odd);
        for who in odd.chain(world.charged.iter().copied()) {
            prop_assert!(lies(who));
        }
        prop_assert!(world.expected().starts_with(&world.result));
        let good = natures.iter().filter(|n| matches!(n, Honest)).count();
        // Of an even number one is not in the panel.
        let panel = (natures.len() - 1) / 2 * 2 + 1;
        if 2 * (good - good.min(natures.len() - panel)) <= panel || !job.is_complete() {
            return Ok(());
        }
        for lease in job.view().into_iter().flat_map(|shard| shard.attempts) {
            if lease.audit.is_some() {
                prop_assert_eq!(lease.audit, Some(Some(Finding::Wrong)));
                prop_assert!(lies(lease.provider) && world.charged.contains(&lease.provider));
            }
        }
    }
}
