//! Who has a result that others look at for being odd gets no further shard meanwhile, and nobody else has to wait.

use super::turns::{Desk, FIRST, at, patient};
use super::*;

const LIE: [&str; 3] = ["lie", "right", "right"];

/// A job of so many shards in which two have to agree, with six nodes of which the first three have made the first
/// shard: these, in their order. The first one's result is looked at by others in this order, if it is odd.
fn made(shards: u32, made: [&str; 3], auditors: &[u8]) -> Desk {
    let mut desk = Desk::new(patient(shards, 2), 6);
    let leases = [1, 2, 3].map(|node| desk.lease(0, account(node), None));
    let auditors: [&[u8]; 3] = [auditors, &[3, 1, 4, 5, 6], &[1, 2, 4, 5, 6]];
    for ((id, made), auditors) in leases.into_iter().zip(made).zip(auditors) {
        desk.deliver_if_odd(id, made, auditors);
    }
    desk
}

/// Who was ever given a shard.
fn given(desk: &Desk, shard: usize) -> Vec<AccountId> {
    let attempts = &desk.job.view()[shard].attempts;
    attempts.iter().map(|lease| lease.provider).collect()
}

fn load(desk: &Desk, node: u8) -> u32 {
    desk.job.load(account(node))
}

#[test]
fn who_is_looked_at_gets_no_new_shard_and_keeps_what_it_has() {
    // More shards than all of them have room for.
    let mut desk = Desk::new(patient(20, 2), 6);
    let before = desk.lease(1, account(1), None);
    let leases = [1, 2, 3].map(|node| desk.lease(0, account(node), None));
    for (id, made) in leases.into_iter().zip(LIE) {
        desk.deliver_if_odd(id, made, &[2, 4, 3, 5, 6]);
    }
    assert_eq!(desk.job.suspects(), BTreeSet::from([account(1)]));
    let now = desk.now;
    let fourth = desk.asks(now, 4);
    // The others have all that they can, those with whom it does not agree among them.
    let loads = [1, 2, 3, 4, 5, 6].map(|node| load(&desk, node));
    assert_eq!(loads, [1, 4, 4, 4, 4, 4]);
    // What it has counts like anybody's.
    let beside = AttemptId {
        attempt: 1,
        ..before
    };
    for id in [before, beside] {
        desk.deliver(id, "right", &[]);
    }
    assert_eq!(desk.job.accepted(1), Some(Digest::of(b"right")));
    desk.waits(now + 1);
    let loads = [1, 2, 3, 4, 5, 6].map(|node| load(&desk, node));
    assert_eq!(loads, [0, 4, 4, 4, 4, 4]);
    // It is over.
    desk.deliver(fourth, "right", &[]);
    let (_, over) = desk.decide();
    assert_eq!(over.len(), 1);
    assert_eq!(desk.job.suspects(), BTreeSet::new());
}

#[test]
fn a_shard_for_which_there_is_nobody_else_waits_until_the_look_ends() {
    let mut desk = made(2, LIE, &[2, 4, 3, 5, 6]);
    for node in 2..=6 {
        desk.set_slots(node, None);
    }
    let begun = desk.now;
    for time in [0, 1, FIRST - 1] {
        desk.waits(begun + time);
        assert_eq!(given(&desk, 1), [], "after {time}");
    }
    // Of those who were to look none has come.
    desk.now = begun + FIRST;
    let (_, over) = desk.decide();
    let findings: Vec<Finding> = over.iter().map(|outcome| outcome.finding).collect();
    assert_eq!(findings, [Finding::Undecided]);
    assert_eq!(given(&desk, 1), []);
    desk.waits(begun + FIRST);
    assert_eq!(given(&desk, 1), [account(1)]);
}

#[test]
fn of_two_that_differ_neither_waits_before_a_third_has_told_which_is_odd() {
    let mut desk = Desk::new(patient(6, 2), 3);
    let leases = [1, 2].map(|node| desk.lease(0, account(node), None));
    for (id, made) in leases.into_iter().zip(LIE) {
        desk.deliver_if_odd(id, made, &[3, 2, 1]);
    }
    let now = desk.now;
    desk.waits(now);
    assert_eq!(given(&desk, 0), [1, 2, 3].map(account));
    assert!(load(&desk, 1) > 0 && load(&desk, 2) > 0);
}

#[test]
fn an_honest_one_against_whom_two_lie_waits_no_longer_than_the_look_at_it() {
    // More shards than the others have room for. Of the two that lie the panel does not hear the second.
    let mut desk = made(20, ["right", "lie", "lie"], &[2, 4, 5, 6, 3]);
    assert_eq!(desk.job.suspects(), BTreeSet::from([account(1)]));
    let (asked, _) = desk.decide();
    assert_eq!(asked, [(account(4), at(3)), (account(5), at(4))]);
    assert_eq!(load(&desk, 1), 0);
    for (_, id) in asked {
        desk.deliver(id, "right", &[]);
    }
    let wrong = |desk: &mut Desk| {
        let (_, over) = desk.decide();
        over.iter()
            .flat_map(Outcome::wrong)
            .collect::<Vec<AttemptId>>()
    };
    assert_eq!(wrong(&mut desk), [at(1)]);
    // Now it is the turn of who agreed with that.
    assert_eq!(desk.job.suspects(), BTreeSet::from([account(3)]));
    assert_eq!(wrong(&mut desk), [at(2)]);
    assert_eq!(desk.job.suspects(), BTreeSet::new());
    assert!(load(&desk, 1) > 0);
}

#[test]
fn who_is_looked_at_audits_others_meanwhile() {
    let mut desk = made(2, LIE, &[2, 4, 3, 5, 6]);
    let leases = [5, 6].map(|node| desk.lease(1, account(node), None));
    desk.deliver(leases[0], "right", &[1, 2, 3, 4]);
    desk.deliver(leases[1], "right", &[]);
    let (asked, over) = desk.decide();
    assert_eq!(over, []);
    let audit = AttemptId {
        shard: 1,
        attempt: 2,
    };
    assert_eq!(asked, [(account(4), at(3)), (account(1), audit)]);
}

#[test]
fn a_lease_whose_provider_is_busy_does_not_move_to_who_is_looked_at() {
    let mut desk = Desk::new(patient(2, 2), 6);
    let busy = desk.lease(1, account(2), None);
    let free = |node| offer(node, 4);
    assert!(desk.job.may_move(busy, desk.now, &[free(1)]));
    let leases = [1, 2, 3].map(|node| desk.lease(0, account(node), None));
    for (id, made) in leases.into_iter().zip(LIE) {
        desk.deliver_if_odd(id, made, &[2, 4, 3, 5, 6]);
    }
    // It would be taken from one and given to nobody.
    assert_eq!(desk.job.suspects(), BTreeSet::from([account(1)]));
    assert!(!desk.job.may_move(busy, desk.now, &[free(1)]));
    assert!(desk.job.may_move(busy, desk.now, &[free(1), free(4)]));
}
