//! Shards that wait at a provider until it is done with another.

use super::*;

fn offer(provider: u8, slots: u32) -> Offer {
    Offer {
        price: credits(1),
        ahead: crate::ahead(slots),
        ..super::offer(provider, slots)
    }
}

/// Decides once, and writes it down.
fn leased(job: &mut Job, offers: &[Offer]) -> Vec<(AttemptId, AccountId)> {
    let decisions = job.decide(10, offers).into_iter();
    let leases = decisions.map(|decision| match decision {
        Decision::Lease {
            id,
            provider,
            limit,
            audits,
        } => {
            let leased = Event::Leased {
                id,
                at: 10,
                provider,
                limit,
                lease: digest("lease", u64::from(id.shard)),
                audits,
                encoding: Vec::new(),
            };
            job.apply(&leased).unwrap();
            (id, provider)
        }
        other => panic!("{other:?}"),
    });
    leases.collect()
}

fn fails(job: &mut Job, id: AttemptId) {
    job.apply(&Event::Failed { id, at: 11 }).unwrap();
}

#[test]
fn the_next_shard_waits_at_a_provider_but_the_last_do_not() {
    let offers = [offer(1, 1), offer(2, 2)];
    let mut job = Job::new(plan(8, 1));
    // Three are worked on and two of the five that are left wait: for three there is a place, and
    // as many as can be worked on are left to who is free first.
    assert_eq!(leased(&mut job, &offers).len(), 5);
    let loads = [1, 2].map(|provider| job.load(account(provider)));
    assert_eq!(loads.iter().sum::<u32>(), 5);
    assert!(loads[0] <= 2 && loads[1] <= 4, "{loads:?}");
    assert!(leased(&mut job, &offers).is_empty(), "nothing has changed");

    // With more of them every place is taken, and no more than that.
    let mut job = Job::new(plan(100, 1));
    leased(&mut job, &offers);
    assert_eq!([1, 2].map(|n| job.load(account(n))), [2, 4]);
    assert!(leased(&mut job, &offers).is_empty(), "all are full");
}

#[test]
fn nothing_waits_at_who_lied_or_where_several_have_to_agree() {
    let mut liar = offer(2, 1);
    liar.reputation.note(crate::Conduct::Lied);
    let mut job = Job::new(plan(50, 1));
    leased(&mut job, &[offer(1, 1), liar]);
    assert_eq!([1, 2].map(|n| job.load(account(n))), [2, 0]);

    let mut job = Job::new(plan(50, 2));
    leased(&mut job, &[offer(1, 1), offer(2, 1)]);
    assert_eq!([1, 2].map(|n| job.load(account(n))), [1, 1]);
}

#[test]
fn a_shard_that_failed_comes_before_those_that_would_wait() {
    let offers = [offer(1, 1), offer(2, 1)];
    let mut job = Job::new(plan(50, 1));
    let first = leased(&mut job, &offers);
    assert_eq!(first.len(), 4);
    let (failed, by) = first[0];
    fails(&mut job, failed);
    // Nobody has room, and what is new does not take what room there will be.
    assert!(leased(&mut job, &offers).is_empty());
    let other = first.iter().filter(|(_, provider)| *provider != by);
    let other: Vec<AttemptId> = other.map(|(id, _)| *id).collect();
    for id in &other {
        fails(&mut job, *id);
    }
    let again = leased(&mut job, &offers);
    assert!(
        again
            .iter()
            .any(|(id, provider)| id.shard == failed.shard && *provider != by)
    );
}
