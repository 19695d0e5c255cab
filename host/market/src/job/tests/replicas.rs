//! What replicas have to agree on.

use super::*;

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
