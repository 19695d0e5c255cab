//! What replicas have to agree on.

use super::turns::{Desk, patient};
use super::*;
use crate::reputation::Conduct;

#[test]
fn replicas_of_work_that_can_be_repeated_agree_on_what_it_took() {
    let odd = |exact, number| {
        let plan = JobPlan {
            exact,
            job: digest("job", number),
            ..plan(1, 2)
        };
        let mut world = World::new(plan, vec![Inflates, Honest, Honest], BTreeSet::new());
        let job = world.run();
        assert!(job.is_complete());
        assert_eq!(world.result, world.expected());
        let odd = job.outvoted().into_iter().map(|(_, who)| who);
        odd.collect::<Vec<_>>()
    };
    // Whom a job asks first is its own affair, so that of some jobs one of the two is the one that
    // meters more.
    let mut caught = 0;
    for number in 0..10 {
        let who = odd(true, number);
        assert!(who.iter().all(|who| *who == account(1)), "{who:?}");
        caught += who.len();
        assert_eq!(odd(false, number), []);
    }
    assert!((1..10).contains(&caught), "{caught}");
}

/// What is to be remembered of those who made a shard.
fn seen(desk: &Desk) -> Vec<(AccountId, Conduct)> {
    desk.job.conducts_of(0)
}

#[test]
fn who_is_outvoted_and_not_looked_at_is_doubted_and_those_who_agree_are_not() {
    let mut desk = Desk::new(patient(1, 2), 4);
    let leases = [1, 2, 3, 4].map(|node| desk.lease(0, account(node), None));
    desk.deliver(leases[0], "one", &[]);
    desk.deliver(leases[1], "other", &[]);
    // Of two that differ nobody can tell which is right.
    assert_eq!(seen(&desk), []);
    desk.deliver(leases[2], "other", &[]);
    let expected = [
        (account(1), Conduct::Outvoted),
        (account(2), Conduct::Agreed),
        (account(3), Conduct::Agreed),
    ];
    assert_eq!(seen(&desk), expected);
    // Who comes when that counts is late, and not against it.
    desk.deliver(leases[3], "one", &[]);
    assert_eq!(seen(&desk), expected);
}

#[test]
fn nothing_is_thought_of_results_that_nobody_compared() {
    let mut desk = Desk::new(patient(1, 1), 2);
    let id = desk.lease(0, account(1), None);
    desk.deliver(id, "one", &[]);
    assert!(desk.job.accepted(0).is_some());
    assert_eq!(seen(&desk), []);

    let mut desk = Desk::new(patient(1, 1), 4);
    let id = desk.lease(0, account(1), None);
    desk.deliver(id, "one", &[2, 3, 4]);
    assert_eq!(seen(&desk), [], "it does not count yet");
    let now = desk.now;
    let auditor = desk.asks(now, 2);
    desk.deliver(auditor, "one", &[]);
    desk.decide();
    let agreed = [1, 2].map(|node| (account(node), Conduct::Agreed));
    assert_eq!(seen(&desk), agreed);
}
