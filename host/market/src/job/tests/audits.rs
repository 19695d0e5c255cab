//! Audits in the same small world: who lies is charged, nobody honest is, and no shard waits for
//! auditors of whom nothing comes.

use super::*;

impl World {
    /// Who audits a result, and whether only if it is odd: everybody else, in an order of its own. If they and the
    /// provider are no odd number, the last is there for one that does not answer.
    pub(super) fn draw(&self, id: AttemptId, provider: AccountId) -> (Vec<AccountId>, bool) {
        let draw = digest("draw", u64::from(id.shard) * 100 + u64::from(id.attempt));
        let is_drawn = u64::from(draw.as_bytes()[0]) * 100 / 256 < self.audits;
        if !is_drawn && !self.looks_at_odd {
            return (Vec::new(), false);
        }
        let others = (1..=self.natures.len()).map(|n| account(n as u8));
        let mut others: Vec<AccountId> = others.filter(|other| *other != provider).collect();
        let turn = usize::from(draw.as_bytes()[1]) % others.len().max(1);
        others.rotate_left(turn);
        (others, !is_drawn)
    }
}

#[test]
fn an_audited_liar_is_charged_and_its_shard_is_the_panel_s() {
    for natures in [
        vec![Lies, Honest, Honest],
        vec![Honest, Lies, Honest, Slow, Honest],
    ] {
        let mut world = World::new(plan(6, 1), natures.clone(), BTreeSet::new());
        world.audits = 100;
        let job = world.run();
        assert!(job.is_complete());
        assert_eq!(world.result, world.expected());
        let liar = 1 + natures.iter().position(|n| *n == Lies).unwrap();
        assert_eq!(world.charged, BTreeSet::from([account(liar as u8)]));
        let wrong: Vec<_> = job
            .view()
            .into_iter()
            .flat_map(|shard| shard.attempts)
            .collect();
        assert!(
            wrong
                .iter()
                .any(|lease| lease.state == AttemptState::Outvoted)
        );
        assert!(wrong.iter().any(|lease| lease.audits.is_some()));
    }
}

#[test]
fn who_meters_more_than_the_work_took_is_charged_and_not_paid() {
    let mut world = World::new(
        plan(6, 1),
        vec![Inflates, Honest, Honest, Honest, Honest],
        BTreeSet::new(),
    );
    world.audits = 100;
    let job = world.run();
    assert!(job.is_complete());
    // Its outputs are the right ones, and count as those of whoever did not inflate.
    assert_eq!(world.result, world.expected());
    assert_eq!(world.charged, BTreeSet::from([account(1)]));
    for shard in job.view() {
        for lease in shard.attempts {
            let is_paid = matches!(lease.state, AttemptState::Delivered(_));
            assert!(!is_paid || lease.provider != account(1));
        }
    }
}

#[test]
fn audits_of_honest_work_cost_one_lease_each_and_none_at_no_audits() {
    for (audits, each) in [(0, 1), (100, 2)] {
        let mut world = World::new(plan(6, 1), vec![Honest; 5], BTreeSet::new());
        world.audits = audits;
        let job = world.run();
        assert!(job.is_complete());
        for shard in job.view() {
            assert_eq!(shard.attempts.len(), each);
            let audited = shard.attempts.iter().filter(|lease| lease.audit.is_some());
            assert_eq!(audited.count(), each - 1);
        }
        assert_eq!(world.charged, BTreeSet::new());
    }
}

#[test]
fn where_no_output_has_a_majority_nobody_is_charged_and_nothing_counts() {
    // Each lies in its own way, so that the honest one is alone.
    let mut world = World::new(plan(1, 1), vec![Lies, Lies, Honest], BTreeSet::new());
    world.audits = 100;
    let job = world.run();
    assert!(job.gave_up().is_some());
    assert_eq!(world.charged, BTreeSet::new());
    assert_eq!(job.spent(), Credits::ZERO);
}

#[test]
fn auditors_of_whom_nothing_comes_do_not_hold_up_a_job() {
    let mut world = World::new(
        plan(3, 1),
        vec![Honest, Silent, Fails, Honest, Fails],
        BTreeSet::new(),
    );
    world.audits = 100;
    let job = world.run();
    assert!(job.is_complete(), "{:?}", job.gave_up());
    assert_eq!(world.result, world.expected());
}

/// Of a panel of three, one that does not answer would leave no majority: the fourth has its say.
#[test]
fn who_does_not_answer_is_replaced_and_the_liar_is_charged_all_the_same() {
    for followed in [false, true] {
        for lacking in [Silent, Fails] {
            let natures = vec![Lies, Honest, lacking, Honest];
            let plan = JobPlan {
                followed,
                ..plan(6, 1)
            };
            let mut world = World::new(plan, natures, BTreeSet::new());
            world.audits = 100;
            let job = world.run();
            assert!(job.is_complete(), "{:?}", job.gave_up());
            assert_eq!(world.result, world.expected());
            assert_eq!(world.charged, BTreeSet::from([account(1)]));
            let leases = job.view().into_iter().flat_map(|shard| shard.attempts);
            let own = leases.filter(|lease| lease.provider == account(1) && lease.audits.is_none());
            let states: Vec<AttemptState> = own.map(|lease| lease.state).collect();
            assert!(!states.is_empty());
            for state in states {
                assert_eq!(state, AttemptState::Outvoted, "{followed} {lacking:?}");
            }
        }
    }
}

#[test]
fn killed_at_every_point_of_an_audit_it_goes_on_where_it_was() {
    let natures = vec![Honest, Lies, Honest];
    let audited = |kills| {
        let mut world = World::new(plan(3, 1), natures.clone(), kills);
        world.audits = 100;
        world
    };
    let mut whole = audited(BTreeSet::new());
    assert!(whole.run().is_complete());
    for point in 0..whole.point {
        let mut world = audited(BTreeSet::from([point]));
        assert!(world.run().is_complete(), "killed at {point}");
        assert_eq!(world.result, world.expected(), "killed at {point}");
        assert!(world.charged.iter().all(|charged| *charged == account(2)));
    }
}
