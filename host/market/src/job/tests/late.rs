//! In the same small world: nobody waits for who does not come.

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
