//! Whose leases can still be disputed: of those that are out something may come, and what was signed stays signed.

use super::*;

/// A lease of the shard 0.
fn id(attempt: u32) -> AttemptId {
    AttemptId { shard: 0, attempt }
}

fn leased(attempt: u32, to: u8) -> Event {
    Event::Leased {
        id: id(attempt),
        at: 1,
        provider: account(to),
        limit: credits(100),
        lease: digest("lease", u64::from(attempt)),
        audits: None,
        encoding: b"lease".to_vec(),
    }
}

fn delivered(attempt: u32, output: &[u8]) -> Event {
    Event::Delivered {
        id: id(attempt),
        at: 2,
        output: Digest::of(output),
        claim: Digest::of(output),
        bytes: 1,
        price: credits(1),
        auditors: Vec::new(),
        only_if_odd: false,
        receipt: b"receipt".to_vec(),
    }
}

#[test]
fn a_lease_of_which_nothing_came_cannot_be_disputed_and_one_that_is_out_or_was_signed_for_can() {
    let mut job = Job::new(plan(1, 1));
    for attempt in 0..5 {
        job.apply(&leased(attempt, u8::try_from(attempt).unwrap()))
            .unwrap();
    }
    let disputable = |job: &Job| {
        let all = job.disputable();
        (0..5)
            .filter(|seed| all.contains(&account(*seed)))
            .collect::<Vec<u8>>()
    };
    assert_eq!(disputable(&job), [0, 1, 2, 3, 4]);
    for event in [
        Event::Failed { id: id(0), at: 2 },
        Event::Withdrawn { id: id(1), at: 2 },
        delivered(2, b"one"),
        // Too late, and something else: it was signed all the same.
        delivered(3, b"other"),
    ] {
        job.apply(&event).unwrap();
    }
    assert!(job.has_ended(id(3)));
    assert_eq!(disputable(&job), [2, 3, 4]);
    // Who failed once and was given another is not free for having failed.
    job.apply(&leased(5, 0)).unwrap();
    assert_eq!(disputable(&job), [0, 2, 3, 4]);
}
