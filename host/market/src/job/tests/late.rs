//! In the same small world: nobody waits for who does not come.

use super::*;

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
