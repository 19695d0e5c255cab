//! What a job costs: all that counts is paid, once, nothing else is, and nothing is held back for a job that is
//! over.

use super::*;

impl World {
    /// Checks the books of a job that has ended.
    pub(super) fn assert_settled(&self, job: &Job) {
        let paid: u64 = self.ledger.values().sum();
        assert_eq!(
            paid,
            job.spent().micro(),
            "everything accepted is paid, and nothing else"
        );
        assert!(paid <= self.plan.budget.micro());
        assert_eq!(
            job.reserved(),
            Credits::ZERO,
            "a job that is over holds nothing"
        );
        let events = self
            .journal
            .iter()
            .map(|event| Event::decode(event).unwrap());
        let paid = events.filter_map(|event| match event {
            Event::Paid { id, .. } => Some(id),
            _ => None,
        });
        let paid: Vec<AttemptId> = paid.collect();
        let once: BTreeSet<AttemptId> = paid.iter().copied().collect();
        assert_eq!(paid.len(), once.len(), "nothing is paid twice");
        assert_eq!(paid.len(), self.ledger.len());
    }
}

pub(super) fn nature() -> impl Strategy<Value = Nature> {
    prop_oneof![
        3 => Just(Honest),
        1 => Just(Slow),
        1 => Just(Fails),
        1 => Just(Silent),
        2 => Just(Lies),
        1 => Just(Doubts),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(120))]

    /// With several results of a shard that are audited one after the other and at once, some of which
    /// nobody can decide on, and with a requester that is killed again and again.
    #[test]
    fn whatever_audits_come_to_a_job_that_is_over_holds_nothing(
        natures in proptest::collection::vec(nature(), 3..9),
        shards in 1..5_u32,
        kills in proptest::collection::btree_set(0..200_usize, 0..8),
        budget in 1..40_u64,
        replicas in 1..3_u32,
        followed: bool,
        looks_at_odd: bool,
        audits in prop_oneof![Just(30_u64), Just(100)],
    ) {
        let plan = JobPlan {
            followed,
            budget: credits(LIMIT * budget * 4),
            ..plan(shards, replicas)
        };
        let mut world = World::new(plan, natures, kills);
        world.audits = audits;
        world.looks_at_odd = looks_at_odd;
        let job = world.run();
        prop_assert!(job.is_complete() || job.gave_up().is_some());
    }
}

/// Who is found wrong in one audit of a shard has no say in another that goes on at the time: what it said
/// there is not waited for, and not held credits for.
#[test]
fn who_is_found_wrong_elsewhere_is_not_waited_for_at_another_audit_of_the_shard() {
    let plan = JobPlan {
        followed: true,
        ..plan(1, 2)
    };
    let mut job = Job::new(plan);
    let at = |attempt| AttemptId { shard: 0, attempt };
    let mut number = 0;
    let mut leased = |provider, audits| {
        let id = at(number);
        number += 1;
        Event::Leased {
            id,
            at: 1,
            provider: account(provider),
            limit: credits(LIMIT),
            lease: digest("lease", u64::from(id.attempt)),
            audits,
            encoding: Vec::new(),
        }
    };
    let delivered = |attempt, claim, auditors: &[u8]| Event::Delivered {
        id: at(attempt),
        at: 2,
        output: digest("output", 0),
        claim: digest("claim", claim),
        bytes: 3,
        price: credits(10),
        auditors: auditors.iter().map(|auditor| account(*auditor)).collect(),
        only_if_odd: false,
        receipt: Vec::new(),
    };
    let audited = |attempt, finding| Event::Audited {
        id: at(attempt),
        at: 3,
        finding,
    };
    for event in [
        leased(1, None),
        leased(2, None),
        delivered(0, 0, &[2, 3]),
        delivered(1, 1, &[3, 4]),
        // The second follows the first, and is itself found wrong by two others.
        leased(2, Some(0)),
        delivered(2, 0, &[]),
        leased(3, Some(1)),
        leased(4, Some(1)),
        delivered(3, 9, &[]),
        delivered(4, 9, &[]),
        audited(3, Finding::Passed),
        audited(4, Finding::Passed),
        audited(1, Finding::Wrong),
        // Without it the first passes.
        leased(3, Some(0)),
        delivered(5, 0, &[]),
        audited(5, Finding::Passed),
        audited(0, Finding::Passed),
    ] {
        job.apply(&event).unwrap();
    }
    // The first result, of which another is needed; the three that followed and were right are spent.
    assert_eq!((job.spent(), job.reserved()), (credits(30), credits(10)));
}
