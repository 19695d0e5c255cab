//! What becomes of a lease whose provider has no place for it.

use super::*;

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

/// Makes out a lease of a shard to this provider.
fn lease(job: &mut Job, shard: u32, attempt: u32, provider: u8, audits: Option<u32>) -> AttemptId {
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
    assert!(!job.may_move(first, &[]), "there is nobody else");
    assert!(!job.may_move(first, &[offer(1, 9)]), "it is the same one");
    assert!(!job.may_move(first, &[offer(2, 0)]), "who takes nothing");
    let dear = Offer {
        price: credits(LIMIT + 1),
        ..offer(2, 1)
    };
    assert!(!job.may_move(first, &[dear]));
    assert!(job.may_move(first, &[offer(2, 1)]));
    let withdrawn = Event::Withdrawn { id: first, at: 2 };
    job.apply(&withdrawn).unwrap();
    assert!(!job.may_move(first, &[offer(2, 1)]), "it is over");
    let second = lease(&mut job, 0, 1, 2, None);
    assert!(!job.may_move(second, &[offer(1, 9)]), "it had it before");
    // With the other shard it has one of those that it takes at once.
    lease(&mut job, 1, 0, 3, None);
    assert!(!job.may_move(second, &[offer(3, 1)]));
    assert!(job.may_move(second, &[offer(3, 2)]));
}

#[test]
fn auditors_and_shards_that_moved_often_stay_where_they_are() {
    let mut job = Job::new(plan(1, 1));
    let first = lease(&mut job, 0, 0, 1, None);
    let auditor = lease(&mut job, 0, 1, 2, Some(0));
    assert!(!job.may_move(auditor, &[offer(9, 1)]));
    assert!(job.may_move(first, &[offer(9, 1)]));
    lease(&mut job, 0, 2, 3, None);
    assert!(job.may_move(first, &[offer(9, 1)]));
    // Half of its leases are used up.
    lease(&mut job, 0, 3, 4, None);
    assert!(!job.may_move(first, &[offer(9, 1)]));
}
