//! What a requester makes of what comes of its leases, with a journal and books of its own, and nobody at the
//! other end.

mod asked;
mod goes_on;
mod rules;

use std::{fs, io};

use skep_evidence::{Credits, Lease, Meter, Signed};
use skep_market::{Done, NUMERICS, Refusal, Reputation, Warmth, conclude};
use skep_registry::Digest;
use skep_swarm::NodeId;

use super::super::coming::Coming;
use super::super::folder::{self, Piece, testing};
use super::super::spool::{Output, Stored};
use super::super::testing::key;
use super::*;
use crate::config::Config;
use crate::home::Home;

/// The node of an account.
fn node(account: AccountId) -> NodeId {
    NodeId::from_bytes(account.as_bytes()).unwrap()
}

/// What a job is of so many shards, of one line of two bytes each. It costs nothing, and there is an hour for it.
fn spec(shards: u32) -> Spec {
    let piece = |number: u32| Piece {
        start: 2 * u64::from(number),
        bytes: 2,
        first_line: u64::from(number) + 1,
        lines: 1,
    };
    Spec {
        deadline: now() + 3_600_000,
        began: now(),
        ..testing::spec((0..shards).map(piece).collect())
    }
}

/// What providers said, and where they are.
type Said = BTreeMap<AccountId, (ProviderAddr, Quotation)>;

/// A requester that works on a job.
struct Desk {
    driver: Driver,
    _place: tempfile::TempDir,
}

impl Desk {
    /// One with a job of so many shards, and providers 1, 2 and so on that take so many of them at once. Its leases
    /// are made out.
    fn new(shards: u32, slots: &[u32]) -> Self {
        let quotes = (1..).zip(slots).map(|(seed, slots)| quote(seed, *slots));
        Self::with(&spec(shards), quotes.collect(), &[])
    }

    /// One with this job and providers that say this, of which these have something at stake. Its leases are made out.
    fn with(spec: &Spec, quotes: Said, staked: &[AccountId]) -> Self {
        let place = tempfile::tempdir().unwrap();
        let home = place.path().join("home");
        skep_tests::set_up(&home).unwrap();
        let home = Home::open(Some(home)).unwrap();
        let service = Service::new(home.clone(), Config::load(&home).unwrap());
        let service = Arc::new(service.unwrap());
        for account in staked {
            money::stake(&service, 100, Some(&account.to_string())).unwrap();
        }
        let input = place.path().join("input");
        fs::write(&input, "a\n".repeat(spec.shards.len())).unwrap();
        let folder = folder::create(&home, spec, &input, None).unwrap();
        let mut driver = Driver::open(&service, &folder).unwrap();
        driver.quotes = quotes;
        driver.decide().unwrap();
        Self {
            driver,
            _place: place,
        }
    }

    /// Leases that are out, and who has them.
    fn open(&self) -> Vec<(AttemptId, AccountId)> {
        let outstanding = self.driver.job.outstanding().into_iter();
        let open = outstanding.filter_map(|outstanding| match outstanding {
            Outstanding::Send { id, provider, .. } => Some((id, provider)),
            _ => None,
        });
        open.collect()
    }

    /// A lease that is out.
    fn lease(&self, id: AttemptId) -> Signed<Lease> {
        let mut outstanding = self.driver.job.outstanding().into_iter();
        let lease = outstanding.find_map(|outstanding| match outstanding {
            Outstanding::Send { id: its, lease, .. } if its == id => Some(lease),
            _ => None,
        });
        Signed::<Lease>::decode(lease.unwrap(), &mut Keys::default()).unwrap()
    }

    /// What comes of a lease whose provider has made this.
    fn made(&self, id: AttemptId, made: &[u8]) -> Result<Box<Delivered>, TalkError> {
        let lease = self.lease(id);
        let key = (1..=9).map(key).find(|key| key.id() == lease.provider);
        let key = key.unwrap();
        let lease = lease.accept(&key).unwrap();
        let digest = Digest::of(made);
        let done = Done {
            output: digest,
            meter: Meter::default(),
            shown: None,
            sequence: 0,
            nonce: [1; 32],
            started: now(),
            finished: now(),
        };
        let (commitment, receipt) = conclude(&lease, &done, &key).unwrap();
        Ok(Box::new(Delivered {
            lease,
            commitment,
            receipt,
            output: Output {
                digest,
                bytes: made.len() as u64,
                kept: Stored::Memory(made.to_vec()),
            },
            shown: Vec::new(),
            held: None,
            room: Coming::default().room_for(node(key.id())),
        }))
    }

    fn accepted(&self, shard: u32) -> Option<Digest> {
        self.driver.job.accepted(shard)
    }

    /// The job is seen through to its end, at which nobody is waited for any more who is to have its receipts.
    async fn is_seen_through(&mut self) {
        self.driver.patience = Instant::now().checked_sub(Duration::from_secs(60));
        let seen = self.driver.see_through();
        let ended = tokio::time::timeout(Duration::from_secs(60), seen).await;
        ended.unwrap().unwrap();
        self.driver.service.shutdown().await;
    }

    /// What was seen of a provider.
    fn seen(&self, provider: AccountId) -> Reputation {
        self.driver.dealings.seen(provider)
    }
}

/// What a provider says that takes so many shards at once, for nothing.
fn quote(seed: u8, slots: u32) -> (AccountId, (ProviderAddr, Quotation)) {
    let account = key(seed).id();
    let node = ProviderAddr {
        id: node(account),
        addrs: Vec::new(),
    };
    let quotation = Quotation {
        account: *account.as_bytes(),
        tariff: [0; 4],
        operator: None,
        slots,
        warm: Warmth::default(),
        largest_output: 1 << 20,
        kind: [2; 32],
        numerics: NUMERICS,
    };
    (account, (node, quotation))
}

fn reputation(conducts: &[Conduct]) -> Reputation {
    let mut reputation = Reputation::default();
    conducts.iter().for_each(|seen| reputation.note(*seen));
    reputation
}

#[tokio::test(flavor = "multi_thread")]
async fn an_input_that_cannot_be_read_takes_nothing_away_from_what_came_with_it() {
    let mut desk = Desk::new(3, &[3]);
    let open = desk.open();
    let [(first, provider), (second, _), (third, _)] = open[..] else {
        unreachable!("{open:?}");
    };
    let unread = TalkError::Input(io::ErrorKind::NotFound.into());
    let said = unread.to_string();
    let came = vec![
        (first, desk.made(first, b"one")),
        (second, Err(unread)),
        (third, desk.made(third, b"three")),
    ];
    let failure = desk.driver.came(came).unwrap_err();
    assert_eq!(failure.message, said);
    let made = [Some(Digest::of(b"one")), None, Some(Digest::of(b"three"))];
    assert_eq!([0, 1, 2].map(|shard| desk.accepted(shard)), made);
    for output in [&b"one"[..], b"three"] {
        let kept = desk.driver.journal.output(Digest::of(output)).unwrap();
        assert_eq!(kept.as_deref(), Some(output));
    }
    // Nobody else is given it, and nothing is held against who has it.
    assert_eq!(desk.open(), [(second, provider)]);
    let twice = reputation(&[Conduct::Delivered; 2]);
    assert_eq!(desk.seen(provider), twice);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_input_that_nobody_needs_any_more_stops_no_job() {
    let mut desk = Desk::new(1, &[1]);
    let (id, provider) = desk.open()[0];
    let withdrawn = Event::Withdrawn { id, at: now() };
    desk.driver.note(&[withdrawn]).unwrap();
    let unread = TalkError::Input(io::ErrorKind::NotFound.into());
    desk.driver.came(vec![(id, Err(unread))]).unwrap();
    assert_eq!(desk.seen(provider), Reputation::default());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_written_down_here_is_held_against_nobody() {
    let mut desk = Desk::new(1, &[1, 1]);
    let open = desk.open();
    let (id, provider) = open[0];
    let full = TalkError::Output(io::ErrorKind::StorageFull.into());
    let said = full.to_string();
    let failure = desk.driver.came(vec![(id, Err(full))]).unwrap_err();
    assert_eq!(failure.message, said);
    assert_eq!(desk.open(), open);
    assert_eq!(desk.seen(provider), Reputation::default());
    // Whatever else goes wrong is its failure, and the shard goes to the other one.
    let silent = TalkError::OutOfTurn;
    desk.driver.came(vec![(id, Err(silent))]).unwrap();
    desk.driver.decide().unwrap();
    assert_eq!(desk.seen(provider), reputation(&[Conduct::Failed]));
    let open = desk.open();
    assert!(open.len() == 1 && open[0].1 != provider, "{open:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fault_here_has_a_provider_asked_after_others_in_this_job_and_is_not_remembered_of_it() {
    let mut desk = Desk::new(3, &[1, 1]);
    let open = desk.open();
    let [(first, provider), (second, other)] = open[..] else {
        unreachable!("{open:?}");
    };
    let seed = (1..=2).find(|seed| key(*seed).id() == provider).unwrap();
    let mostly_fails = |desk: &Desk| {
        let offers = desk.driver.offers().unwrap().into_iter();
        let its = offers.filter(|offer| offer.provider == provider);
        its.map(|offer| offer.reputation.mostly_fails())
            .collect::<Vec<_>>()
    };
    desk.driver
        .came(vec![(first, Err(TalkError::Broken))])
        .unwrap();
    assert!(desk.driver.job.has_ended(first));
    assert!(mostly_fails(&desk).is_empty(), "it has not answered since");
    desk.driver.quotes.extend([quote(seed, 1)]);
    desk.driver.decide().unwrap();
    // Its shard waits for who has not had it yet, and it has the next one.
    let next = AttemptId {
        shard: 2,
        attempt: 0,
    };
    assert_eq!(desk.open(), [(second, other), (next, provider)]);
    assert_eq!(mostly_fails(&desk), [false]);
    desk.driver
        .came(vec![(next, Err(TalkError::Broken))])
        .unwrap();
    desk.driver.quotes.extend([quote(seed, 1)]);
    assert_eq!(mostly_fails(&desk), [true]);
    assert_eq!(desk.seen(provider), Reputation::default());
    let reason = desk.driver.reason().unwrap();
    assert!(reason.contains("a fault here"), "{reason}");
}

/// What is seen of the first and of a second that has the same shard, if they made these.
fn seen_of_two(first: &[u8], second: &[u8]) -> [Reputation; 2] {
    let mut desk = Desk::new(1, &[1, 1]);
    let (id, provider) = desk.open()[0];
    let mut others = [1, 2].map(|seed| key(seed).id()).into_iter();
    let other = others.find(|other| *other != provider).unwrap();
    let rival = AttemptId { attempt: 1, ..id };
    let leased = desk.driver.lease(rival, other, Credits::ZERO, None);
    desk.driver.note(&[leased.unwrap()]).unwrap();
    let came = [(id, first), (rival, second)].map(|(id, made)| (id, desk.made(id, made)));
    desk.driver.came(came.into()).unwrap();
    assert_eq!(desk.accepted(0), Some(Digest::of(first)));
    [provider, other].map(|provider| desk.seen(provider))
}

#[tokio::test(flavor = "multi_thread")]
async fn who_makes_something_else_than_what_counts_already_has_not_delivered() {
    let delivered = reputation(&[Conduct::Delivered]);
    let nothing = Reputation::default();
    assert_eq!(seen_of_two(b"right", b"other"), [delivered, nothing]);
    assert_eq!(seen_of_two(b"right", b"right"), [delivered; 2]);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_takes_no_shard_now_has_not_failed_and_is_waited_for() {
    let later = [
        Refusal::Busy,
        Refusal::InUse,
        Refusal::Hours("22:00-07:30".to_owned()),
        Refusal::Unpaid { owed: 2, limit: 1 },
    ];
    let mut desk = Desk::new(1, &[1]);
    let provider = key(1).id();
    let open = desk.open();
    let [(id, _)] = open[..] else {
        unreachable!("{open:?}");
    };
    // More often than a shard may fail.
    for refusal in later.iter().cycle().take(20) {
        let said = refusal.to_string();
        desk.driver
            .came(vec![(id, Err(refusal.clone().into()))])
            .unwrap();
        desk.driver.decide().unwrap();
        assert_eq!(desk.open(), open, "{said}");
        let reason = desk.driver.reason().unwrap();
        assert!(reason.contains(&said), "{reason}");
        // It is not given the shard before it was asked again.
        assert!(desk.driver.quotes.is_empty(), "{said}");
        desk.driver.quotes.extend([quote(1, 1)]);
    }
    // Nor is it one that there is no room here for what it sends.
    desk.driver
        .came(vec![(id, Err(TalkError::NoRoom))])
        .unwrap();
    assert_eq!(desk.open(), open);
    assert_eq!(desk.seen(provider), Reputation::default());
    // What it refuses for good is a failure.
    let never = Refusal::Publisher;
    desk.driver.came(vec![(id, Err(never.into()))]).unwrap();
    assert_eq!(desk.seen(provider), reputation(&[Conduct::Failed]));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_there_is_no_room_for_is_waited_for_where_it_was_made() {
    let mut desk = Desk::new(1, &[1, 1]);
    let open = desk.open();
    let (id, provider) = open[0];
    let no_room = || vec![(id, Err(TalkError::NoRoom))];
    // It had no place for the shard first, was asked again before anybody else was, and has made it since.
    desk.driver.came(vec![(id, busy())]).unwrap();
    for _ in 0..20 {
        desk.driver.came(no_room()).unwrap();
        desk.driver.decide().unwrap();
        // The other one is free, and is not given what is made already.
        assert_eq!(desk.open(), open);
        assert!(
            !desk.driver.quotes.contains_key(&provider),
            "it is not asked at once"
        );
        let seed = (1..=2).find(|seed| key(*seed).id() == provider).unwrap();
        desk.driver.quotes.extend([quote(seed, 1)]);
    }
    desk.driver.decide().unwrap();
    assert_eq!(desk.open(), open);
    assert_eq!(desk.seen(provider), Reputation::default());
    let made = desk.made(id, b"made");
    desk.driver.came(vec![(id, made)]).unwrap();
    assert_eq!(desk.accepted(0), Some(Digest::of(b"made")));
    assert_eq!(desk.seen(provider), reputation(&[Conduct::Delivered]));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_audit_waits_for_a_place_and_for_nothing_that_may_last() {
    for (refusal, waits) in [
        (Refusal::Busy, true),
        (Refusal::InUse, false),
        (Refusal::Hours("22:00-07:30".to_owned()), false),
        // Nothing is due to it, and what it is owed may be for the result that waits for this audit.
        (Refusal::Unpaid { owed: 2, limit: 1 }, false),
    ] {
        let mut desk = Desk::new(1, &[1]);
        let (said, auditor) = (refusal.to_string(), key(2).id());
        let id = AttemptId {
            shard: 0,
            attempt: 1,
        };
        let audit = Event::Leased {
            id,
            at: now(),
            provider: auditor,
            limit: Credits::from_micro(1),
            lease: Digest::of(b"an audit"),
            audits: Some(0),
            encoding: Vec::new(),
        };
        desk.driver.note(&[audit]).unwrap();
        desk.driver.came(vec![(id, Err(refusal.into()))]).unwrap();
        assert_eq!(desk.driver.job.has_ended(id), !waits, "{said}");
        assert_eq!(desk.seen(auditor), Reputation::default());
        assert!(desk.driver.reason().unwrap().contains(&said));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_owed_too_much_is_offered_the_next_shard_once_it_was_paid() {
    let unpaid = || -> Result<Box<Delivered>, TalkError> {
        Err(Refusal::Unpaid { owed: 2, limit: 1 }.into())
    };
    let mut desk = Desk::new(2, &[2]);
    let provider = key(1).id();
    let open = desk.open();
    let [(first, _), (second, _)] = open[..] else {
        unreachable!("{open:?}");
    };
    let made = desk.made(first, b"made");
    desk.driver.came(vec![(first, made)]).unwrap();
    desk.driver.books.keep(Instant::now());
    desk.driver.came(vec![(second, unpaid())]).unwrap();
    // Its receipt is given to it now, and it is not asked first whether it takes a shard.
    assert!(desk.driver.books_rest().is_zero());
    assert!(desk.driver.unsettled().contains(&provider));
    assert!(desk.driver.quotes.contains_key(&provider));
    let paid = Event::Paid {
        id: first,
        at: now(),
    };
    desk.driver.note(&[paid]).unwrap();
    assert!(desk.driver.unsettled().is_empty());
    // Where there is nothing to pay, it is not asked again and again.
    desk.driver.came(vec![(second, unpaid())]).unwrap();
    assert!(desk.driver.quotes.is_empty());
    assert_eq!(desk.open(), [(second, provider)]);
    assert_eq!(desk.seen(provider), reputation(&[Conduct::Delivered]));
}

/// What comes of a lease whose provider has no place for it.
fn busy() -> Result<Box<Delivered>, TalkError> {
    Err(Refusal::Busy.into())
}

/// A requester with three shards, of which the first provider has these two, and no place for either. The second has
/// delivered the third one since.
fn with_two_put_off() -> (Desk, [AttemptId; 2]) {
    let mut desk = Desk::new(3, &[2, 1]);
    let (first, second) = (key(1).id(), key(2).id());
    let open = desk.open().into_iter();
    let (has, others): (Vec<_>, Vec<_>) = open.partition(|(_, provider)| *provider == first);
    let [(one, _), (two, _)] = has[..] else {
        unreachable!("{has:?}");
    };
    desk.driver
        .came(vec![(one, busy()), (two, busy())])
        .unwrap();
    desk.driver.decide().unwrap();
    assert_eq!(desk.open().len(), 3, "the other one has no room");
    let (id, provider) = others[0];
    assert_eq!(provider, second);
    let made = desk.made(id, b"made");
    desk.driver.came(vec![(id, made)]).unwrap();
    (desk, [one, two])
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lease_that_was_put_off_moves_to_who_is_free_later() {
    let (first, second) = (key(1).id(), key(2).id());
    let (mut desk, [one, two]) = with_two_put_off();
    desk.driver.decide().unwrap();
    // The second has room for one of them, and the other one waits.
    let moved = AttemptId { attempt: 1, ..one };
    assert_eq!(desk.open(), [(moved, second), (two, first)]);
    let made = desk.made(moved, b"made");
    desk.driver.came(vec![(moved, made)]).unwrap();
    desk.driver.decide().unwrap();
    let moved = AttemptId { attempt: 1, ..two };
    assert_eq!(desk.open(), [(moved, second)]);
    // To be busy is no failure.
    assert_eq!(desk.seen(first), Reputation::default());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lease_that_was_put_off_is_offered_again_to_who_takes_shards_again() {
    let first = key(1).id();
    let (mut desk, leases) = with_two_put_off();
    desk.driver.quotes.extend([quote(1, 2)]);
    desk.driver.decide().unwrap();
    assert_eq!(desk.open(), leases.map(|id| (id, first)));
}
