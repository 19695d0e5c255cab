//! Rules that are functions of their own, as a requester that works on a job calls them: how many have a say in an
//! odd result, on which machines replicas are made, how often the books are kept, where a shard goes whose provider is
//! busy, and what is remembered of who is outvoted.

use skep_evidence::Evidence;
use skep_market::{BadDelivery, Outcome};
use skep_swarm::SwarmConfig;

use super::*;
use crate::failure::FailureKind;

/// What nodes 1, 2 and so on say that are on machines of these kinds, and take a shard at once each.
fn of_kinds(kinds: &[u8]) -> Said {
    let quotes = (1..).zip(kinds).map(|(seed, kind)| {
        let (account, (node, quotation)) = quote(seed, 1);
        let kind = [*kind; 32];
        (account, (node, Quotation { kind, ..quotation }))
    });
    quotes.collect()
}

/// Of so many shards two replicas are made, and whoever is odd is looked at.
fn looked_at(shards: u32) -> Spec {
    Spec {
        replicas: 2,
        exact: true,
        looks_at_odd: true,
        ..spec(shards)
    }
}

fn accounts<const N: usize>(seeds: [u8; N]) -> [AccountId; N] {
    seeds.map(|seed| key(seed).id())
}

/// A job of two shards that may cost ten millionths, with providers that ask for so many for 10¹² operations.
fn asked(replicas: u32, prices: &[u64]) -> Desk {
    let quotes = (1..).zip(prices).map(|(seed, flops)| {
        let (account, (node, quotation)) = quote(seed, 2);
        let tariff = [0, *flops, 0, 0];
        (
            account,
            (
                node,
                Quotation {
                    tariff,
                    ..quotation
                },
            ),
        )
    });
    let spec = Spec {
        budget: 10,
        replicas,
        ..spec(2)
    };
    Desk::with(&spec, quotes.collect(), &[])
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_that_too_few_nodes_work_on_for_its_price_says_so() {
    for (replicas, prices, leases) in [(1, &[5, 6][..], 2), (2, &[2, 2, 9][..], 4)] {
        let desk = asked(replicas, prices);
        assert_eq!(desk.open().len(), leases, "{prices:?}");
        assert_eq!(desk.driver.reason(), None, "{prices:?}");
    }
    let desk = asked(1, &[6, 7]);
    assert!(desk.open().is_empty());
    let reason = desk.driver.reason().unwrap();
    let leaves = "--max-price of 0.00001 credits leaves 0.000005 for each of 2 leases";
    assert!(reason.contains(leaves), "{reason}");
    assert!(reason.contains("ask for 0.000006,"), "{reason}");
    assert!(reason.contains("allow 0.000012, or"), "{reason}");
    // Whoever watches is told, since nobody works on what is left, and no more once nothing is.
    let mut view = desk.driver.view();
    for done in [0, 1] {
        assert_eq!(answer::what_for(&view).as_ref(), Some(&reason));
        "done".clone_into(&mut view.shards[done].state);
    }
    assert_eq!(answer::what_for(&view), None);
    // One of them would and does, and each shard takes two.
    let desk = asked(2, &[2, 3]);
    assert_eq!(desk.open().len(), 2);
    let reason = desk.driver.reason().unwrap();
    assert!(reason.contains("ask for 0.000003,"), "{reason}");
    assert_eq!(answer::what_for(&desk.driver.view()), None);
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_looks_at_a_job_that_is_open_elsewhere_is_told_so() {
    let desk = asked(1, &[1]);
    let (folder, spec) = (&desk.driver.folder, &desk.driver.spec);
    let view = answer::at_rest(folder).unwrap();
    assert_eq!((view.state, view.shards.len()), (JobState::Elsewhere, 0));
    let reason = view.reason.unwrap();
    assert!(reason.contains("`skep job watch` goes on"), "{reason}");
    // Who wants to work on it, or to stop it, comes later.
    let busy = answer::open(folder, spec).err().unwrap();
    assert_eq!(busy.kind, FailureKind::Busy);
    assert!(busy.message.ends_with(&reason), "{busy}");
    let busy = Driver::open(&desk.driver.service, folder).err().unwrap();
    assert_eq!(busy.kind, FailureKind::Busy);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_that_waited_in_vain_for_a_lower_price_says_so_at_its_end() {
    let mut desk = asked(1, &[6, 7]);
    let (at, why) = (now(), GaveUp::Deadline);
    desk.driver.note(&[Event::GaveUp { at, why }]).unwrap();
    let reason = desk.driver.reason().unwrap();
    assert!(reason.starts_with(&why.to_string()), "{reason}");
    assert!(reason.contains("ask for 0.000006,"), "{reason}");
    // What went wrong with a shard says more.
    desk.driver.trouble = Some("it broke".to_owned());
    let reason = desk.driver.reason().unwrap();
    assert!(reason.ends_with("; last, it broke"), "{reason}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_liar_asks_for_is_no_price_that_anybody_has_a_shard_done_for() {
    let desk = asked(1, &[2, 6, 7]);
    let liar = key(1).id();
    let open = desk.open().into_iter();
    assert_eq!(
        open.map(|(_, provider)| provider).collect::<Vec<_>>(),
        [liar; 2]
    );
    assert_eq!(desk.driver.reason(), None);
    desk.driver.remember(&[(liar, Conduct::Lied)]).unwrap();
    let reason = desk.driver.reason().unwrap();
    assert!(reason.contains("ask for 0.000006,"), "{reason}");
}

#[test]
fn an_input_of_one_part_is_not_to_be_cut_into_fewer() {
    let told = |shards| {
        let spec = Spec {
            budget: 10,
            ..spec(shards)
        };
        too_dear(&spec, vec![Credits::from_micro(11)]).unwrap()
    };
    assert!(told(2).contains("--shards"), "{}", told(2));
    assert!(told(1).ends_with("allow 0.000011"), "{}", told(1));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lease_without_audits_names_a_panel_of_seven_at_most() {
    let staked = accounts([1, 2, 3, 4, 5, 6, 7, 8, 9]);
    let panel = |audit| {
        let spec = Spec {
            audit,
            ..looked_at(1)
        };
        // Two more are there, which cannot tell.
        let quotes = of_kinds(&[1, 1, 1, 1, 1, 1, 1, 1, 1, 2, 2]);
        let desk = Desk::with(&spec, quotes, &staked);
        desk.lease(desk.open()[0].0).audit.panel
    };
    assert_eq!([0, 1, 1_000_000].map(panel), [7, 9, 9]);
}

/// Who has leases of a job with more to be made than nodes on machines of these kinds take at once.
fn makers(spec: &Spec, kinds: &[u8]) -> BTreeSet<AccountId> {
    let desk = Desk::with(spec, of_kinds(kinds), &[]);
    desk.open()
        .into_iter()
        .map(|(_, provider)| provider)
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn replicas_that_are_looked_at_are_made_on_one_kind_of_machine() {
    let kinds = [1, 2, 1, 2, 1];
    let one_kind = BTreeSet::from(accounts([1, 3, 5]));
    assert_eq!(makers(&looked_at(3), &kinds), one_kind);
    let unseen = Spec {
        looks_at_odd: false,
        ..looked_at(3)
    };
    let all = BTreeSet::from(accounts([1, 2, 3, 4, 5]));
    assert_eq!(makers(&unseen, &kinds), all);
    // As many replicas as a shard has take as many machines.
    let kinds = [1, 1, 1, 2];
    for (replicas, expected) in [
        (3, &accounts([1, 2, 3])[..]),
        (4, &accounts([1, 2, 3, 4])[..]),
    ] {
        let spec = Spec {
            replicas,
            ..looked_at(3)
        };
        let expected: BTreeSet<AccountId> = expected.iter().copied().collect();
        assert_eq!(makers(&spec, &kinds), expected, "{replicas}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_came_is_paid_and_put_together_when_the_books_are_kept_and_not_before() {
    let place = tempfile::tempdir().unwrap();
    let swarm = Swarm::open(SwarmConfig::loopback(place.path())).await;
    let swarm = swarm.unwrap();
    let mut desk = Desk::new(3, &[3]);
    // What is due to be paid, and what is put together.
    let stands = |desk: &Desk| {
        let outstanding = desk.driver.job.outstanding().into_iter();
        let due = outstanding.filter(|its| matches!(its, Outstanding::Pay { .. }));
        (due.count(), desk.driver.job.assembled())
    };
    let leases: Vec<AttemptId> = desk.open().into_iter().map(|(id, _)| id).collect();
    // Nobody is there to be sent anything.
    desk.driver.quotes.clear();
    desk.driver.act(&swarm).unwrap();
    assert_eq!(desk.driver.books, Books::default(), "nothing was written");

    let come = |desk: &mut Desk, id| {
        let made = desk.made(id, b"made");
        desk.driver.came(vec![(id, made)]).unwrap();
    };
    come(&mut desk, leases[0]);
    // They rest for as long as this test takes.
    let later = Instant::now() + Duration::from_secs(3_600);
    desk.driver.books.keep(later);
    desk.driver.act(&swarm).unwrap();
    assert_eq!(stands(&desk), (1, 0));
    come(&mut desk, leases[1]);
    desk.driver.act(&swarm).unwrap();
    assert_eq!(stands(&desk), (2, 0));
    // What came together is written together, and they rest from then on.
    desk.driver.books.hurry();
    desk.driver.act(&swarm).unwrap();
    assert_eq!(stands(&desk), (0, 2));
    assert_ne!(desk.driver.books, Books::default());
    // At the end nothing waits.
    desk.driver.books.keep(later);
    come(&mut desk, leases[2]);
    desk.driver.act(&swarm).unwrap();
    assert_eq!(stands(&desk), (0, 3));
    swarm.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_followed_shard_goes_on_to_who_is_free_however_many_were_busy() {
    // A lease of a job without any time is late at once.
    let deadline = now() + 3_600_000;
    let spec = Spec {
        exact: true,
        followed: true,
        deadline,
        began: deadline,
        ..spec(1)
    };
    let mut desk = Desk::with(&spec, of_kinds(&[1; 6]), &[]);
    let mut had = BTreeSet::new();
    // More often than a shard moves at once.
    for _ in 0..5 {
        let open = desk.open();
        let [(id, provider)] = open[..] else {
            unreachable!("{open:?}");
        };
        assert!(had.insert(provider));
        desk.driver.came(vec![(id, busy())]).unwrap();
        let since = now();
        while now() <= since {
            std::hint::spin_loop();
        }
        desk.driver.decide().unwrap();
    }
    let open = desk.open();
    assert_eq!(open.len(), 1, "nobody makes it twice");
    assert!(!had.contains(&open[0].1), "the sixth has it");
}

/// A requester with a shard that the first of two nodes has made otherwise than the second, and then a third like that
/// one; and these three.
fn outvoted(spec: &Spec, staked: &[AccountId]) -> (Desk, [AccountId; 3]) {
    let mut desk = Desk::with(spec, of_kinds(&[1; 4]), staked);
    let open = desk.open();
    let [(one, odd), (other, second)] = open[..] else {
        unreachable!("{open:?}");
    };
    let came =
        [(one, &b"one"[..]), (other, &b"other"[..])].map(|(id, made)| (id, desk.made(id, made)));
    desk.driver.came(came.into()).unwrap();
    desk.driver.decide().unwrap();
    let open = desk.open();
    let [(last, third)] = open[..] else {
        unreachable!("{open:?}");
    };
    let made = desk.made(last, b"other");
    desk.driver.came(vec![(last, made)]).unwrap();
    (desk, [odd, second, third])
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_outvoted_and_not_looked_at_is_doubted_once_and_has_not_lied() {
    let spec = Spec {
        looks_at_odd: false,
        ..looked_at(1)
    };
    let (mut desk, [odd, second, third]) = outvoted(&spec, &[]);
    assert_eq!(desk.accepted(0), Some(Digest::of(b"other")));
    let doubted = reputation(&[Conduct::Delivered, Conduct::Outvoted]);
    assert_eq!(desk.seen(odd), doubted);
    let delivered = reputation(&[Conduct::Delivered]);
    assert_eq!([second, third].map(|node| desk.seen(node)), [delivered; 2]);
    // Others agree with it elsewhere, and something late comes of the same shard.
    desk.driver.remember(&[(odd, Conduct::Agreed)]).unwrap();
    let late = AttemptId {
        shard: 0,
        attempt: 3,
    };
    let mut nodes = accounts([1, 2, 3, 4]).into_iter();
    let fourth = nodes.find(|node| ![odd, second, third].contains(node));
    let leased = desk
        .driver
        .lease(late, fourth.unwrap(), Credits::ZERO, None);
    desk.driver.note(&[leased.unwrap()]).unwrap();
    let made = desk.made(late, b"other");
    desk.driver.came(vec![(late, made)]).unwrap();
    assert_eq!(desk.seen(odd), delivered);
}

#[tokio::test(flavor = "multi_thread")]
async fn whom_others_agree_with_is_doubted_no_more() {
    let spec = Spec {
        looks_at_odd: false,
        ..looked_at(1)
    };
    let mut desk = Desk::with(&spec, of_kinds(&[1; 2]), &[]);
    let both = accounts([1, 2]);
    for node in both {
        desk.driver.remember(&[(node, Conduct::Outvoted)]).unwrap();
    }
    for (id, _) in desk.open() {
        let made = desk.made(id, b"made");
        desk.driver.came(vec![(id, made)]).unwrap();
    }
    let delivered = reputation(&[Conduct::Delivered]);
    assert_eq!(both.map(|node| desk.seen(node)), [delivered; 2]);
}

#[tokio::test(flavor = "multi_thread")]
async fn whom_a_panel_finds_wrong_has_lied() {
    let staked = accounts([1, 2, 3, 4]);
    let (mut desk, [odd, second, third]) = outvoted(&looked_at(1), &staked);
    assert_eq!(desk.accepted(0), None, "it is looked at");
    assert_eq!(desk.seen(odd), reputation(&[Conduct::Delivered]));
    // Elsewhere the second was outvoted, and this panel gets what it got.
    desk.driver
        .remember(&[(second, Conduct::Outvoted)])
        .unwrap();
    // Those who are asked get what the two got.
    for _ in 0..2 {
        desk.driver.decide().unwrap();
        for (id, _) in desk.open() {
            let made = desk.made(id, b"other");
            desk.driver.came(vec![(id, made)]).unwrap();
        }
    }
    assert_eq!(desk.accepted(0), Some(Digest::of(b"other")));
    let lied = reputation(&[Conduct::Delivered, Conduct::Lied]);
    assert_eq!(desk.seen(odd), lied);
    let delivered = reputation(&[Conduct::Delivered]);
    assert_eq!([second, third].map(|node| desk.seen(node)), [delivered; 2]);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_outvoted_as_a_job_is_given_up_is_doubted() {
    let staked = accounts([1, 2, 3, 4]);
    let (mut desk, [odd, second, third]) = outvoted(&looked_at(1), &staked);
    assert_eq!(desk.accepted(0), None, "it is looked at");
    desk.driver
        .remember(&[(second, Conduct::Outvoted)])
        .unwrap();
    let (at, why) = (now(), GaveUp::Cancelled);
    desk.driver
        .note_compared(&[Event::GaveUp { at, why }])
        .unwrap();
    assert_eq!(desk.accepted(0), Some(Digest::of(b"other")));
    let doubted = reputation(&[Conduct::Delivered, Conduct::Outvoted]);
    assert_eq!(desk.seen(odd), doubted);
    let delivered = reputation(&[Conduct::Delivered]);
    assert_eq!([second, third].map(|node| desk.seen(node)), [delivered; 2]);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_outvoted_as_a_job_is_called_off_that_nobody_works_on_is_doubted() {
    let staked = accounts([1, 2, 3, 4]);
    let (desk, [odd, second, third]) = outvoted(&looked_at(1), &staked);
    assert_eq!(desk.accepted(0), None, "it is looked at");
    desk.driver
        .remember(&[(second, Conduct::Outvoted)])
        .unwrap();
    let Desk { driver, _place } = desk;
    let (service, folder) = (Arc::clone(&driver.service), driver.folder.clone());
    // With it goes who works on the job.
    drop(driver);
    let dealings = money::dealings(&service).unwrap();
    let doubted = reputation(&[Conduct::Delivered, Conduct::Outvoted]);
    let delivered = reputation(&[Conduct::Delivered]);
    let seen = || [odd, second, third].map(|node| dealings.seen(node));
    answer::call_off(&service, &folder).unwrap();
    assert_eq!(seen(), [doubted, delivered, delivered]);
    let job = || {
        let (_, job) = answer::open(&folder, &folder.spec().unwrap()).unwrap();
        (job.gave_up(), job.accepted(0))
    };
    let counts = Some(Digest::of(b"other"));
    // Of the only shard enough have agreed, so that nothing is given up.
    assert_eq!(job(), (None, counts));
    // Others agree with it elsewhere, and the job is called off once more.
    dealings.note(&[(odd, Conduct::Agreed)]).unwrap();
    answer::call_off(&service, &folder).unwrap();
    assert_eq!(seen(), [delivered; 3]);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_outvoted_as_a_job_is_called_off_is_doubted() {
    let staked = accounts([1, 2, 3, 4]);
    let (mut desk, [odd, second, third]) = outvoted(&looked_at(1), &staked);
    assert_eq!(desk.accepted(0), None, "it is looked at");
    desk.driver.running.cancel();
    desk.is_seen_through().await;
    assert_eq!(desk.accepted(0), Some(Digest::of(b"other")));
    let doubted = reputation(&[Conduct::Delivered, Conduct::Outvoted]);
    assert_eq!(desk.seen(odd), doubted);
    let delivered = reputation(&[Conduct::Delivered]);
    assert_eq!([second, third].map(|node| desk.seen(node)), [delivered; 2]);
}

/// What is written down and does not fit the job ends it as a process that is killed there does.
#[tokio::test(flavor = "multi_thread")]
async fn who_is_outvoted_is_remembered_before_anything_is_written_down_of_it() {
    let staked = accounts([1, 2, 3, 4]);
    let (mut desk, [odd, ..]) = outvoted(&looked_at(1), &staked);
    let (at, why) = (now(), GaveUp::Cancelled);
    let unfit = Event::Assembled { shard: 7, at };
    let ended = desk
        .driver
        .note_compared(&[unfit, Event::GaveUp { at, why }]);
    assert!(ended.is_err(), "it does not fit");
    assert_eq!(desk.accepted(0), None, "it goes no further");
    let doubted = reputation(&[Conduct::Delivered, Conduct::Outvoted]);
    assert_eq!(desk.seen(odd), doubted);
}

/// Whoever is killed after something was written down does not look at it again.
#[tokio::test(flavor = "multi_thread")]
async fn who_has_lied_is_remembered_before_anything_is_written_down_of_it() {
    let staked = accounts([1, 2, 3, 4]);
    let (desk, [odd, ..]) = outvoted(&looked_at(1), &staked);
    let id = AttemptId {
        shard: 0,
        attempt: 0,
    };
    let found = Outcome {
        id,
        finding: skep_market::Finding::Wrong,
        audits: Vec::new(),
    };
    desk.driver.charge(&found).unwrap();
    let lied = reputation(&[Conduct::Delivered, Conduct::Lied]);
    assert_eq!(desk.seen(odd), lied);
    assert_eq!(desk.driver.job.outvoted_of(0), []);

    let mut desk = Desk::new(1, &[1]);
    let (id, provider) = desk.open()[0];
    let [one, two] = [&b"one"[..], b"two"].map(|made| {
        let delivered = desk.made(id, made).unwrap();
        delivered.commitment.clone()
    });
    let evidence = Box::new(Evidence::TwoResults(one, two));
    let what = "it bound itself to two results";
    let fraud = BadDelivery::Fraud { what, evidence };
    let blamed = desk.driver.blame(id, Some(provider), &fraud.into());
    assert_eq!(blamed.unwrap(), Conduct::Lied);
    assert_eq!(desk.seen(provider), reputation(&[Conduct::Lied]));
    assert!(!desk.driver.job.has_ended(id));
}
