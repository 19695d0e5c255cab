//! What becomes of a lease whose provider has no place for it.

use super::turns::{Desk, at, patient};
use super::*;
use crate::reputation::Conduct;

/// Makes out a lease of a shard to this provider.
pub(super) fn lease(
    job: &mut Job,
    shard: u32,
    attempt: u32,
    provider: u8,
    audits: Option<u32>,
) -> AttemptId {
    let id = AttemptId { shard, attempt };
    let leased = Event::Leased {
        id,
        at: 1,
        provider: account(provider),
        limit: credits(LIMIT),
        lease: digest("lease", 100 * u64::from(shard) + u64::from(attempt)),
        audits,
        encoding: Vec::new(),
    };
    job.apply(&leased).unwrap();
    id
}

#[test]
fn it_moves_to_who_has_room_and_has_not_had_the_shard_and_is_waited_for_otherwise() {
    let mut job = Job::new(plan(2, 1));
    let first = lease(&mut job, 0, 0, 1, None);
    assert!(!job.may_move(first, 1, &[]), "there is nobody else");
    assert!(
        !job.may_move(first, 1, &[offer(1, 9)]),
        "it is the same one"
    );
    assert!(!job.may_move(first, 1, &[offer(2, 0)]), "who takes nothing");
    let dear = Offer {
        price: credits(LIMIT + 1),
        ..offer(2, 1)
    };
    assert!(!job.may_move(first, 1, &[dear]));
    assert!(job.may_move(first, 1, &[offer(2, 1)]));
    let withdrawn = Event::Withdrawn { id: first, at: 2 };
    job.apply(&withdrawn).unwrap();
    assert!(!job.may_move(first, 1, &[offer(2, 1)]), "it is over");
    let second = lease(&mut job, 0, 1, 2, None);
    assert!(!job.may_move(second, 1, &[offer(1, 9)]), "it had it before");
    // With the other shard it has one of those that it takes at once.
    lease(&mut job, 1, 0, 3, None);
    assert!(!job.may_move(second, 1, &[offer(3, 1)]));
    assert!(job.may_move(second, 1, &[offer(3, 2)]));
}

fn withdraw(job: &mut Job, id: AttemptId, at: u64) {
    job.apply(&Event::Withdrawn { id, at }).unwrap();
}

#[test]
fn auditors_and_shards_that_moved_often_stay_where_they_are() {
    let mut job = Job::new(plan(1, 1));
    let first = lease(&mut job, 0, 0, 1, None);
    let auditor = lease(&mut job, 0, 1, 2, Some(0));
    assert!(!job.may_move(auditor, 1, &[offer(9, 1)]));
    assert!(job.may_move(first, 1, &[offer(9, 1)]));
    lease(&mut job, 0, 2, 3, None);
    lease(&mut job, 0, 3, 4, None);
    assert!(job.may_move(first, 1, &[offer(9, 1)]));
    // Half of its leases are used up.
    lease(&mut job, 0, 4, 5, None);
    assert!(!job.may_move(first, 1, &[offer(9, 1)]));
}

#[test]
fn what_was_asked_of_others_for_an_audit_by_following_does_not_keep_a_shard_where_it_is() {
    let plan = JobPlan {
        followed: true,
        ..patient(1, 1)
    };
    let mut desk = Desk::new(plan, 6);
    let wrong = desk.lease(0, account(1), None);
    desk.deliver(wrong, "lie", &[2, 3, 4]);
    for auditor in [2, 3] {
        let now = desk.now;
        let id = desk.asks(now, auditor);
        desk.deliver(id, "right", &[]);
    }
    let (_, over) = desk.decide();
    assert_eq!(over.len(), 1, "it was found wrong");
    // It is made anew, by one that has no place for it.
    let busy = desk.lease(0, account(5), None);
    assert_eq!(busy, at(3));
    let moves = |node| desk.job.may_move(busy, desk.now, &[offer(node, 1)]);
    assert!(moves(6));
    // Two of these followed what the first one made, and have made nothing of it.
    assert!(moves(2) && moves(3) && moves(4));
    assert!(!moves(1), "it has made it");
}

/// A job without hedges, or with them, whose shard has moved three times and is with the fourth one since then.
fn moved_often(hedges: u32) -> (Job, AttemptId) {
    let mut job = Job::new(JobPlan {
        followed: hedges == 0,
        first_patience: 300,
        hedges,
        ..plan(1, 1)
    });
    for attempt in 0..3 {
        let id = lease(&mut job, 0, attempt, 1 + attempt as u8, None);
        assert!(job.may_move(id, 1, &[offer(9, 1)]));
        withdraw(&mut job, id, 1);
    }
    let fourth = lease(&mut job, 0, 3, 4, None);
    (job, fourth)
}

#[test]
fn a_shard_that_moved_often_and_may_have_no_second_lease_moves_when_it_would_have_had_that() {
    let others = [offer(9, 1)];
    let (mut job, fourth) = moved_often(0);
    assert!(!job.may_move(fourth, 301, &others));
    assert!(job.may_move(fourth, 302, &others));
    assert!(!job.may_move(fourth, 302, &[offer(2, 1)]), "it had it");
    // As long as it has not moved, nobody else makes it.
    assert_eq!(job.decide(302, &others), []);
    withdraw(&mut job, fourth, 302);
    let decisions = job.decide(302, &others);
    let [Decision::Lease { id, provider, .. }] = decisions[..] else {
        panic!("{decisions:?}");
    };
    assert_eq!((id, provider), (at(4), account(9)));

    let (job, fourth) = moved_often(1);
    assert!(!job.may_move(fourth, 302, &others));
    let decisions = job.decide(302, &others);
    assert!(matches!(decisions[..], [Decision::Lease { .. }]));
}

/// Accounts that say that they take shards and then are busy cost nothing, so that there may be any number of them.
#[test]
fn a_shard_that_moved_often_goes_to_who_has_made_something_before_others_and_at_once() {
    let plan = JobPlan {
        followed: true,
        ..patient(2, 1)
    };
    let mut desk = Desk::new(plan, 9);
    let made = desk.lease(1, account(9), None);
    desk.deliver(made, "made", &[]);
    let now = desk.now;
    for node in 1..=3 {
        let id = desk.lease(0, account(node), None);
        desk.note(Event::Withdrawn { id, at: now });
    }
    let fourth = desk.lease(0, account(4), None);
    assert!(!desk.job.may_move(fourth, now, &[offer(5, 1)]));
    assert!(desk.job.may_move(fourth, now, &[offer(5, 1), offer(9, 1)]));
    let mut elsewhere = offer(6, 1);
    elsewhere.reputation.note(Conduct::Delivered);
    assert!(
        desk.job.may_move(fourth, now, &[elsewhere]),
        "in other jobs"
    );
    desk.note(Event::Withdrawn {
        id: fourth,
        at: now,
    });
    let given = |offers: &[Offer]| {
        let decisions = desk.job.decide(now, offers);
        let [Decision::Lease { provider, .. }] = decisions[..] else {
            panic!("{decisions:?}");
        };
        provider
    };
    // It would be asked first.
    let warm = Offer {
        warmth: Warmth {
            package: true,
            model: true,
            adapter: true,
        },
        ..offer(5, 1)
    };
    assert_eq!(given(&[warm, offer(9, 1)]), account(9));
    assert_eq!(given(&[warm, elsewhere]), account(6));
    // Nobody waits for one that is not there.
    assert_eq!(given(&[warm]), account(5));
}

/// As many leases as a shard may have.
const MOST: u32 = 8;

#[test]
fn leases_that_moved_keep_no_shard_from_its_second_lease_when_it_is_late() {
    let mut job = Job::new(JobPlan {
        first_patience: 300,
        ..plan(1, 1)
    });
    for attempt in 0..MOST {
        let id = lease(&mut job, 0, attempt, 1 + attempt as u8, None);
        withdraw(&mut job, id, 2);
    }
    // Its provider is busy too, or works for as long as it likes.
    lease(&mut job, 0, MOST, 1 + MOST as u8, None);
    let others = [offer(20, 1)];
    assert_eq!(job.decide(301, &others), [], "it is not late yet");
    let decisions = job.decide(302, &others);
    assert!(
        matches!(decisions[..], [Decision::Lease { .. }]),
        "{decisions:?}"
    );
}

/// Whether a job is given up in which so many leases ended like this, and one provider is left that had none.
fn is_given_up(ends: impl Fn(&mut Job, AttemptId)) -> bool {
    let plan = plan(1, 1);
    assert_eq!(plan.max_attempts, MOST);
    let mut job = Job::new(plan);
    for attempt in 0..MOST {
        let id = lease(&mut job, 0, attempt, 1 + attempt as u8, None);
        ends(&mut job, id);
    }
    let decisions = job.decide(2 + plan.patience, &[offer(9, 1)]);
    match decisions[..] {
        [Decision::Note(Event::GaveUp { .. })] => true,
        [Decision::Lease { .. }] => false,
        _ => panic!("{decisions:?}"),
    }
}

#[test]
fn no_shard_is_given_up_for_providers_that_were_busy() {
    let patience = plan(1, 1).patience;
    assert!(!is_given_up(|job, id| withdraw(job, id, patience)));
    // Those of whom nothing came in time are counted, and those that failed.
    assert!(is_given_up(|job, id| withdraw(job, id, 1 + patience)));
    assert!(is_given_up(|job, id| {
        job.apply(&Event::Failed { id, at: 2 }).unwrap();
    }));
}
