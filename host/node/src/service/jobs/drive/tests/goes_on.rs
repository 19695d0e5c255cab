//! What a job that goes on sees to before anything else: that what it runs stays here, that the stakes of those stay
//! who were given leases of it before, and that those who were paid have their proof.

use std::future::poll_fn;
use std::task::Poll;

use skep_market::DISPUTE;
use skep_registry::{Content, Model, PublisherKey, SignedRelease};
use skep_swarm::{BringError, taken_by};

use super::super::super::testing::signed_release;
use super::*;

/// What the job may cost.
const BUDGET: u64 = 1_000;

/// A requester with a job that costs something, of which this provider has a lease. Whoever made that out bound nobody.
fn begun() -> (Desk, AttemptId, AccountId) {
    let mut desk = Desk::new(1, &[1]);
    money::credit(&desk.driver.service, BUDGET, None).unwrap();
    desk.driver.spec.budget = BUDGET;
    let (id, provider) = desk.open()[0];
    (desk, id, provider)
}

impl Desk {
    fn stake(&self, account: AccountId) {
        money::stake(&self.driver.service, 100, Some(&account.to_string())).unwrap();
    }

    /// Until when the stake of an account stays.
    fn bound(&self, account: AccountId) -> Option<u64> {
        let service = &self.driver.service;
        money::with_ledger(service, |ledger| Ok(ledger.bound(account))).unwrap()
    }

    /// Until when stakes are bound by this job.
    fn until(&self) -> u64 {
        self.driver.spec.deadline + DISPUTE
    }

    /// The job goes on, as far as stakes are concerned.
    fn goes_on(&mut self) {
        let funded = self.driver.fund().unwrap();
        self.driver.bind_earlier(funded).unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_stakes_of_those_who_were_given_leases_before_are_bound_when_a_job_goes_on() {
    let (mut desk, _, provider) = begun();
    desk.stake(provider);
    assert_eq!(desk.bound(provider), None);
    // Once is as good as twice.
    for _ in 0..2 {
        desk.goes_on();
        assert_eq!(desk.bound(provider), Some(desk.until()));
        let stakes = money::view(&desk.driver.service).unwrap().stakes;
        assert_eq!(stakes[0].until, Some(desk.until()));
        desk.driver.bound.clear();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stake_that_was_put_there_after_a_lease_is_not_bound_by_that_lease() {
    // The credits for the job are put aside before any lease is made out.
    let (mut desk, _, provider) = begun();
    let funded = desk.driver.fund().unwrap();
    assert!(funded.is_some());
    desk.stake(provider);
    desk.goes_on();
    assert_eq!(desk.bound(provider), None);
    assert_eq!(desk.driver.fund().unwrap(), funded);
    // Nor is one that was there before, was taken back meanwhile, and put there again.
    let (mut desk, _, provider) = begun();
    desk.stake(provider);
    desk.driver.fund().unwrap();
    let whose = provider.to_string();
    money::unstake(&desk.driver.service, 100, Some(&whose)).unwrap();
    desk.stake(provider);
    desk.goes_on();
    assert_eq!(desk.bound(provider), None);
    // Of a job that costs nothing the ledger does not know when it began.
    let (mut desk, _, provider) = begun();
    desk.driver.spec.budget = 0;
    desk.stake(provider);
    desk.goes_on();
    assert_eq!(desk.bound(provider), None);
}

/// Something that comes of a lease.
type Comes = fn(&mut Desk, AttemptId);

#[tokio::test(flavor = "multi_thread")]
async fn only_leases_that_can_be_disputed_bind_when_a_job_goes_on() {
    let comes: [(Comes, bool); 4] = [
        (|_, _| {}, true),
        (
            |desk, id| {
                let made = desk.made(id, b"made");
                desk.driver.came(vec![(id, made)]).unwrap();
            },
            true,
        ),
        (
            |desk, id| {
                let failed = Event::Failed { id, at: now() };
                desk.driver.note(&[failed]).unwrap();
            },
            false,
        ),
        (
            |desk, id| {
                let withdrawn = Event::Withdrawn { id, at: now() };
                desk.driver.note(&[withdrawn]).unwrap();
            },
            false,
        ),
    ];
    for (number, (comes, can_be)) in comes.into_iter().enumerate() {
        let (mut desk, id, provider) = begun();
        desk.stake(provider);
        comes(&mut desk, id);
        desk.goes_on();
        let bound = can_be.then(|| desk.until());
        assert_eq!(desk.bound(provider), bound, "{number}");
    }
    // A week after the deadline none can.
    let (mut desk, _, provider) = begun();
    desk.stake(provider);
    desk.driver.spec.deadline = now() - DISPUTE;
    desk.goes_on();
    assert_eq!(desk.bound(provider), None);
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_sees_a_job_through_binds_the_stakes_of_those_who_were_given_leases_before() {
    let (mut desk, _, provider) = begun();
    desk.stake(provider);
    let until = desk.until();
    // It is called off, so that nobody is given a lease any more, by which a stake would be bound as well.
    desk.driver.running.cancel();
    desk.is_seen_through().await;
    assert_eq!(desk.driver.job.gave_up(), Some(GaveUp::Cancelled));
    assert_eq!(desk.bound(provider), Some(until));
}

#[tokio::test(flavor = "multi_thread")]
async fn who_was_paid_before_has_its_proof_of_that_when_a_job_goes_on() {
    let mut desk = Desk::new(1, &[1]);
    let (id, provider) = desk.open()[0];
    let made = desk.made(id, b"made");
    desk.driver.came(vec![(id, made)]).unwrap();
    // Whoever paid was killed before the provider had the receipt.
    let paid = Event::Paid { id, at: now() };
    desk.driver.note(&[paid]).unwrap();
    assert!(desk.driver.proofs.is_empty());
    desk.is_seen_through().await;
    assert!(desk.driver.job.is_complete());
    let proofs = desk.driver.proofs.iter();
    let proofs: Vec<_> = proofs
        .map(|receipt| (receipt.provider, receipt.output))
        .collect();
    assert_eq!(proofs, [(provider, Digest::of(b"made"))]);
}

/// A release of one file, with the package's own name in it.
fn release(name: &str, key: &PublisherKey) -> SignedRelease {
    let model = Content::Model(Model {
        task: "sentence-encoder".parse().unwrap(),
    });
    signed_release(key, name, model, ("a", name.as_bytes()))
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_job_runs_makes_no_room_for_others_before_the_job_is_over() {
    let mut desk = Desk::new(1, &[]);
    desk.driver.spec.only = true;
    let (service, running) = (
        Arc::clone(&desk.driver.service),
        Arc::clone(&desk.driver.running),
    );
    let swarm = service.swarm().await.unwrap();
    let key = PublisherKey::generate().unwrap();
    let names = ["used", "other"];
    for name in names {
        swarm.import_bytes(name.as_bytes()).await.unwrap();
    }
    let [used, other] = names.map(|name| release(name, &key));
    // The work of others has brought it, and there is no room for one more beside it.
    let nobody = |_: &Digest| false;
    let room = taken_by(&used) + taken_by(&other) - 1;
    drop(swarm.bring(&used, &[], room, &nobody).await.unwrap());
    desk.driver.spec.release = used.digest();
    {
        let mut seen = Box::pin(desk.driver.see_through());
        let waits = poll_fn(|context| Poll::Ready(seen.as_mut().poll(context).is_pending()));
        assert!(waits.await, "nobody takes a shard of it");
        let refused = swarm.bring(&other, &[], room, &nobody).await;
        assert!(matches!(refused, Err(BringError::NoRoom)), "{refused:?}");
        assert!(swarm.installed(&used.digest()).is_ok());
        running.cancel();
        seen.await.unwrap();
    }
    swarm.bring(&other, &[], room, &nobody).await.unwrap();
    assert!(swarm.installed(&used.digest()).is_err());
    service.shutdown().await;
}
