//! Audits by following: who follows says whether it agrees with a result, and nothing of the shard.

use super::*;

impl World {
    /// What an auditor that follows says of the result that it follows: who lies never agrees.
    pub(super) fn claim_of_follower(&self, id: AttemptId, nature: Nature) -> Option<Digest> {
        let audited = self.auditing.get(&id).filter(|_| self.plan.followed)?;
        if nature == Nature::Doubts {
            return Some(doubt());
        }
        let events = self
            .journal
            .iter()
            .map(|event| Event::decode(event).unwrap());
        let claims = events.filter_map(|event| match event {
            Event::Delivered { id: of, claim, .. } => Some((of, claim)),
            _ => None,
        });
        let claims: BTreeMap<AttemptId, Digest> = claims.collect();
        let claimed = claims[&AttemptId {
            attempt: *audited,
            ..id
        }];
        let is_right = claimed == claim(&output(id.shard), 1);
        Some(match is_right && nature != Lies {
            true => claimed,
            false => digest("no agreement", 1),
        })
    }
}

use Nature::{Fails, Honest, Inflates, Lies, Silent, Slow};

fn followed(shards: u32) -> JobPlan {
    JobPlan {
        followed: true,
        ..plan(shards, 1)
    }
}

fn audited(natures: &[Nature], kills: BTreeSet<usize>) -> World {
    let mut world = World::new(followed(3), natures.to_vec(), kills);
    world.audits = 100;
    world
}

#[test]
fn honest_work_is_followed_once_and_whoever_followed_is_paid() {
    let mut world = audited(&[Honest, Slow, Honest], BTreeSet::new());
    let job = world.run();
    assert!(job.is_complete());
    assert_eq!(world.result, world.expected());
    assert_eq!(world.charged, BTreeSet::new());
    for shard in job.view() {
        let states = shard
            .attempts
            .iter()
            .map(|lease| (lease.audits, lease.state));
        let followed = states.filter(|(audits, _)| audits.is_some());
        for (_, state) in followed {
            assert!(
                matches!(state, AttemptState::Followed(_) | AttemptState::Ended),
                "{shard:?}"
            );
        }
    }
}

/// Nobody's output stands for that of a provider that was wrong: the shard is made anew, by one of
/// those who followed if there is nobody else, and all who were right are paid.
#[test]
fn a_wrong_result_is_made_anew_and_those_who_found_it_out_are_paid() {
    for wrong in [Lies, Inflates] {
        let mut world = audited(&[wrong, Honest, Honest], BTreeSet::new());
        let job = world.run();
        assert!(job.is_complete(), "{:?}", job.gave_up());
        assert_eq!(world.result, world.expected());
        assert_eq!(world.charged, BTreeSet::from([account(1)]));
        let leases = job.view().into_iter().flat_map(|shard| shard.attempts);
        let leases: Vec<_> = leases.collect();
        let outvoted = leases
            .iter()
            .filter(|lease| lease.state == AttemptState::Outvoted);
        assert!(outvoted.clone().count() > 0);
        assert!(
            outvoted
                .into_iter()
                .all(|lease| lease.provider == account(1))
        );
        for lease in leases {
            let is_paid = matches!(
                lease.state,
                AttemptState::Delivered(_) | AttemptState::Followed(_)
            );
            assert_eq!(is_paid, lease.state != AttemptState::Outvoted, "{lease:?}");
        }
    }
}

#[test]
fn a_follower_that_never_agrees_is_charged() {
    let mut world = audited(&[Honest, Lies, Honest, Honest, Honest], BTreeSet::new());
    let job = world.run();
    assert!(job.is_complete());
    assert_eq!(world.result, world.expected());
    assert_eq!(world.charged, BTreeSet::from([account(2)]));
}

#[test]
fn followers_of_whom_nothing_comes_do_not_hold_up_a_job() {
    let mut world = audited(&[Honest, Silent, Fails, Honest, Fails], BTreeSet::new());
    let job = world.run();
    assert!(job.is_complete(), "{:?}", job.gave_up());
    assert_eq!(world.result, world.expected());
    assert_eq!(world.charged, BTreeSet::new());
}

#[test]
fn killed_at_every_point_it_goes_on_where_it_was() {
    let natures = [Honest, Lies, Honest];
    let mut whole = audited(&natures, BTreeSet::new());
    assert!(whole.run().is_complete());
    for point in 0..whole.point {
        let mut world = audited(&natures, BTreeSet::from([point]));
        assert!(world.run().is_complete(), "killed at {point}");
        assert_eq!(world.result, world.expected(), "killed at {point}");
        assert!(world.charged.iter().all(|charged| *charged == account(2)));
    }
}
