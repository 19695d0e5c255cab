//! Auditors that cannot tell: they have no say, another has their seat, and it costs and gains them nothing.

use super::turns::{Desk, FIRST, at, patient};
use super::*;

/// What all say who do not agree.
const DIFFERS: &str = "no agreement";
/// What becomes of a lease that followed and told something.
const FOLLOWED: AttemptState = AttemptState::Followed(Credits::from_micro(10));

/// A job whose first result is looked at by these, who follow it.
fn followed(auditors: &[u8]) -> Desk {
    let plan = JobPlan {
        followed: true,
        ..patient(1, 1)
    };
    let mut desk = Desk::new(plan, 4);
    desk.lease(0, account(1), None);
    desk.deliver(at(0), "made", auditors);
    desk
}

/// An auditor says that it cannot tell.
fn cannot_tell(desk: &mut Desk, id: AttemptId) {
    let delivered = Event::Delivered {
        id,
        at: desk.now,
        output: Digest::of(b"made"),
        claim: doubt(),
        bytes: 1,
        price: credits(10),
        auditors: Vec::new(),
        only_if_odd: false,
        receipt: Vec::new(),
    };
    desk.note(delivered);
}

/// What became of the first so many leases.
fn states(desk: &Desk, count: usize) -> Vec<AttemptState> {
    let attempts = desk.job.view().remove(0).attempts;
    let states = attempts.into_iter().map(|lease| lease.state);
    states.take(count).collect()
}

/// Decides that one audit is over, in which these were heard.
fn ends(desk: &mut Desk, finding: Finding, heard: &[(AttemptId, Finding)]) {
    let (asked, over) = desk.decide();
    assert_eq!(asked, []);
    let expected = Outcome {
        id: at(0),
        finding,
        audits: heard.to_vec(),
    };
    assert_eq!(over, [expected]);
}

/// The friend is the second, and the third was drawn beside those that have a say.
#[test]
fn a_liar_is_charged_though_a_friend_of_it_cannot_tell() {
    let mut desk = followed(&[3, 2, 4]);
    let now = desk.now;
    let honest = desk.asks(now, 3);
    desk.deliver(honest, DIFFERS, &[]);
    let friend = desk.asks(now, 2);
    cannot_tell(&mut desk, friend);
    let spare = desk.asks(now, 4);
    desk.waits(now);
    desk.deliver(spare, DIFFERS, &[]);
    ends(
        &mut desk,
        Finding::Wrong,
        &[(honest, Finding::Passed), (spare, Finding::Passed)],
    );
    let expected = [
        AttemptState::Outvoted,
        FOLLOWED,
        AttemptState::Ended,
        FOLLOWED,
    ];
    assert_eq!(states(&desk, 4), expected);
    assert_eq!(desk.job.spent(), credits(20), "of those who told");

    // It is the first: all others are asked, since one of them has its seat.
    let mut desk = followed(&[2, 3, 4]);
    let friend = desk.asks(now, 2);
    cannot_tell(&mut desk, friend);
    let (asked, over) = desk.decide();
    assert_eq!(over, []);
    assert_eq!(asked, [(account(3), at(2)), (account(4), at(3))]);
    desk.deliver(at(3), DIFFERS, &[]);
    desk.waits(now);
    desk.deliver(at(2), DIFFERS, &[]);
    ends(
        &mut desk,
        Finding::Wrong,
        &[(at(2), Finding::Passed), (at(3), Finding::Passed)],
    );
    let expected = [
        AttemptState::Outvoted,
        AttemptState::Ended,
        FOLLOWED,
        FOLLOWED,
    ];
    assert_eq!(states(&desk, 4), expected);
}

/// It may be on a machine of another kind: honest work counts without it, and it is not paid for having told nothing.
#[test]
fn one_that_cannot_tell_costs_an_honest_provider_nothing() {
    let mut desk = followed(&[2, 3, 4]);
    let now = desk.now;
    let unsure = desk.asks(now, 2);
    cannot_tell(&mut desk, unsure);
    let (asked, _) = desk.decide();
    assert_eq!(asked, [(account(3), at(2)), (account(4), at(3))]);
    for id in [at(2), at(3)] {
        desk.deliver(id, "made", &[]);
    }
    ends(
        &mut desk,
        Finding::Passed,
        &[(at(2), Finding::Passed), (at(3), Finding::Passed)],
    );
    let expected = [
        AttemptState::Delivered(credits(10)),
        AttemptState::Ended,
        FOLLOWED,
        FOLLOWED,
    ];
    assert_eq!(states(&desk, 4), expected);
    assert_eq!(desk.job.accepted(0), Some(Digest::of(b"made")));
    assert_eq!(desk.job.spent(), credits(30));
    assert_eq!(desk.job.reserved(), Credits::ZERO);
}

#[test]
fn where_nobody_can_tell_nobody_is_charged_and_the_audit_ends() {
    let mut desk = followed(&[2, 3, 4]);
    let now = desk.now;
    let unsure = desk.asks(now, 2);
    cannot_tell(&mut desk, unsure);
    let (asked, _) = desk.decide();
    for (_, id) in asked {
        cannot_tell(&mut desk, id);
    }
    ends(&mut desk, Finding::Undecided, &[]);
    assert_eq!(states(&desk, 4), [AttemptState::Ended; 4]);
    assert_eq!(desk.job.spent(), Credits::ZERO);
    assert_eq!(desk.job.accepted(0), None);

    // Nor where one of them can, and does not agree: it is not with most of a panel.
    let mut desk = followed(&[2, 3, 4]);
    let unsure = desk.asks(now, 2);
    cannot_tell(&mut desk, unsure);
    desk.decide();
    cannot_tell(&mut desk, at(2));
    desk.deliver(at(3), DIFFERS, &[]);
    ends(
        &mut desk,
        Finding::Undecided,
        &[(at(3), Finding::Undecided)],
    );
    assert_eq!(states(&desk, 4), [AttemptState::Ended; 4]);
}

/// Whoever would have been right of a wrong result is paid though it is late, and who cannot tell was not.
#[test]
fn one_that_cannot_tell_is_not_paid_for_coming_late() {
    for (tells, expected) in [(true, FOLLOWED), (false, AttemptState::Ended)] {
        let mut desk = followed(&[3, 4, 2]);
        let begun = desk.now;
        let first = desk.asks(begun, 3);
        desk.deliver(first, DIFFERS, &[]);
        let late = desk.asks(begun, 4);
        let spare = desk.asks(begun + FIRST, 2);
        desk.deliver(spare, DIFFERS, &[]);
        ends(
            &mut desk,
            Finding::Wrong,
            &[(first, Finding::Passed), (spare, Finding::Passed)],
        );
        match tells {
            true => desk.deliver(late, DIFFERS, &[]),
            false => cannot_tell(&mut desk, late),
        }
        assert_eq!(states(&desk, 3)[2], expected);
    }
}

#[test]
fn whole_jobs_come_to_their_end_with_some_that_cannot_tell() {
    let run = |shards, natures: &[Nature], kills| {
        let plan = JobPlan {
            followed: true,
            ..plan(shards, 1)
        };
        let mut world = World::new(plan, natures.to_vec(), kills);
        world.audits = 100;
        let job = world.run();
        assert!(job.is_complete(), "{:?}", job.gave_up());
        assert_eq!(world.result, world.expected());
        let leases = job.view().into_iter().flat_map(|shard| shard.attempts);
        for lease in leases.filter(|lease| lease.audits.is_some()) {
            let place = (1..=natures.len()).find(|n| account(*n as u8) == lease.provider);
            let is_paid = matches!(lease.state, AttemptState::Followed(_));
            assert!(!is_paid || natures[place.unwrap() - 1] == Honest);
        }
        world
    };
    let honest = run(
        3,
        &[Honest, Doubts, Honest, Honest, Doubts],
        BTreeSet::new(),
    );
    assert_eq!(honest.charged, BTreeSet::new());
    let natures = [Lies, Doubts, Honest, Honest];
    // As many as they take at once, so that each of them makes some.
    let charged = run(8, &natures, BTreeSet::new()).charged;
    assert_eq!(charged, BTreeSet::from([account(1)]));
    let whole = run(2, &natures, BTreeSet::new());
    for point in 0..whole.point {
        let world = run(2, &natures, BTreeSet::from([point]));
        assert!(world.charged.iter().all(|charged| *charged == account(1)));
    }
}
