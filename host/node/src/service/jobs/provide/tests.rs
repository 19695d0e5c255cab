//! What a provider's desk answers strangers who ask for what it must not do, over real connections.

use std::net::UdpSocket;

use chrono::{Local, Timelike as _};
use skep_evidence::{Credits, Signed, Statement as _, Work};
use skep_registry::{PublisherKey, SignedRelease};
use skep_swarm::{NodeTicket, ProviderAddr, Swarm, SwarmConfig};
use tempfile::TempDir;

use super::testing::{desk, key, lease, published};
use super::*;
use crate::config::{Config, Jobs};
use crate::home::Home;

const PATIENCE: Duration = Duration::from_secs(60);
/// What leases here have for an input.
const INPUT: &[u8] = b"an input";

/// Rules by which others' work is done for what leases here say.
fn rules() -> Jobs {
    Jobs {
        accept: true,
        price_per_teraflop: Credits::ZERO,
        price_per_gigabyte: Credits::from_micro(1_000_000_000),
        price_per_hour: Credits::ZERO,
        ..Jobs::default()
    }
}

/// A provider, and a requester that has a package for it.
struct Setting {
    service: Arc<Service>,
    at: ProviderAddr,
    requester: Swarm,
    package: SignedRelease,
    _place: TempDir,
}

/// A lease that was offered.
struct Offered {
    channel: Channel,
    lease: Signed<Lease>,
    secret: SealSecret,
}

impl Setting {
    /// One in which the provider has these rules.
    async fn with(jobs: Jobs) -> Self {
        let place = tempfile::tempdir().unwrap();
        let home = place.path().join("home");
        skep_tests::set_up(&home).unwrap();
        let home = Home::open(Some(home)).unwrap();
        let service = Service::new(home.clone(), Config::load(&home).unwrap());
        let mut service = service.unwrap();
        let desk = desk(&jobs, &place.path().join("earnings"));
        service.config.jobs = jobs;
        let service = Arc::new(service);
        let desk = Desk {
            service: Arc::downgrade(&service),
            ..desk
        };
        let swarm = service.swarm().await.unwrap();
        swarm.answer_with(Arc::new(desk));
        let at = swarm.addr();
        let requester = SwarmConfig::loopback(place.path().join("requester"));
        let requester = Swarm::open(requester).await.unwrap();
        let package = published(&requester, &PublisherKey::generate().unwrap()).await;
        Self {
            service,
            at,
            requester,
            package,
            _place: place,
        }
    }

    /// A lease of the package that was made out now.
    fn lease(&self) -> Lease {
        let lease = lease(2, 0, 1_000).body().clone();
        let issued = now();
        Lease {
            work: Work {
                package: self.package.digest(),
                input: Digest::of(INPUT),
                ..lease.work
            },
            issued,
            deadline: issued + 60_000,
            ..lease
        }
    }

    /// Where the package is.
    fn sources(&self) -> Vec<String> {
        vec![self.requester.ticket().to_string()]
    }

    async fn asks(&self, ask: &Ask) -> Channel {
        let mut channel = self.requester.converse(&self.at).await.unwrap();
        channel.say(&ask.encode().unwrap()).await.unwrap();
        channel
    }

    /// Offers a lease for whose package these nodes are named.
    async fn offers(&self, lease: Lease, sources: Vec<String>) -> Offered {
        let lease = lease.sign(&key(2)).unwrap();
        let secret = SealSecret::generate().unwrap();
        let node = *self.requester.id().as_bytes();
        let signed = secret.signed(lease.digest(), node, &key(2));
        let offer = Ask::Offer(Undertaking {
            lease: lease.encode(),
            key: signed.unwrap().encode(),
            input_bytes: INPUT.len() as u64,
            script_bytes: 0,
            sources,
        });
        Offered {
            channel: self.asks(&offer).await,
            lease,
            secret,
        }
    }

    /// Why such a lease is refused.
    async fn is_refused(&self, lease: Lease, sources: Vec<String>) -> Refusal {
        let mut offered = self.offers(lease, sources).await;
        refusal(&mut offered.channel).await
    }

    async fn end(self) {
        self.requester.shutdown().await;
        self.service.shutdown().await;
    }
}

/// What comes next, but that work goes on.
async fn answer(channel: &mut Channel) -> Answer {
    loop {
        let frame = channel.hear(MAX_MESSAGE, PATIENCE).await.unwrap();
        match Answer::decode(&frame).unwrap() {
            Answer::Working { .. } => {}
            answer => return answer,
        }
    }
}

async fn refusal(channel: &mut Channel) -> Refusal {
    match answer(channel).await {
        Answer::Refused(refusal) => refusal,
        answer => panic!("{answer:?}"),
    }
}

/// A question for a price of a package that nobody is named for.
fn quote() -> Ask {
    Ask::Quote {
        package: Digest::of(b"package"),
        adapter: None,
        input_bytes: INPUT.len() as u64,
        residency: 0,
        sources: Vec::new(),
        question: [7; 32],
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn where_no_jobs_are_taken_nothing_is_done_whatever_is_asked() {
    let setting = Setting::with(Jobs {
        accept: false,
        ..rules()
    });
    let setting = setting.await;
    // It would be told next that nobody has the package.
    let refused = setting.is_refused(setting.lease(), Vec::new()).await;
    assert_eq!(refused, Refusal::NoJobs);
    let challenge = [7; 32];
    for ask in [quote(), Ask::Attest { challenge }] {
        let mut channel = setting.asks(&ask).await;
        assert_eq!(refusal(&mut channel).await, Refusal::NoJobs, "{ask:?}");
    }
    setting.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_offers_a_lease_without_having_asked_keeps_to_the_owner_s_hours_too() {
    // It is half a day away, however long this takes.
    let hour = (Local::now().hour() + 12) % 24;
    let hours = format!("{hour}:00-{hour}:01").parse().unwrap();
    let setting = Setting::with(Jobs {
        hours: vec![hours],
        ..rules()
    });
    let setting = setting.await;
    let refused = setting.is_refused(setting.lease(), Vec::new()).await;
    assert!(matches!(refused, Refusal::Hours(_)), "{refused}");
    let mut channel = setting.asks(&quote()).await;
    let refused = refusal(&mut channel).await;
    assert!(matches!(refused, Refusal::Hours(_)), "{refused}");
    setting.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lease_that_is_older_than_what_is_remembered_of_leases_is_not_worked_on() {
    let setting = Setting::with(rules()).await;
    for issued in [now() - 15 * DAY, now() + 15 * DAY] {
        let lease = Lease {
            issued,
            deadline: issued + 60_000,
            ..setting.lease()
        };
        let refused = setting.is_refused(lease, Vec::new()).await.to_string();
        assert!(refused.contains("more than two weeks"), "{refused}");
    }
    setting.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_signed_for_models_that_are_not_the_lease_s() {
    let setting = Setting::with(rules()).await;
    let lease = setting.lease();
    let work = Work {
        model: Some(Digest::of(b"other models")),
        ..lease.work
    };
    let lease = Lease { work, ..lease };
    let refused = setting.is_refused(lease, setting.sources()).await;
    let is_told = |why: &str| why.contains("are not the requester's");
    assert!(
        matches!(&refused, Refusal::Unavailable(why) if is_told(why)),
        "{refused}"
    );
    setting.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lease_brings_no_package_for_which_its_owner_gives_no_room() {
    let setting = Setting::with(Jobs {
        keep_packages: 1_000,
        ..rules()
    });
    let setting = setting.await;
    let refused = setting.is_refused(setting.lease(), setting.sources());
    let refused = refused.await;
    assert!(
        matches!(&refused, Refusal::Unavailable(why) if why.contains("1000")),
        "{refused}"
    );
    let swarm = setting.service.swarm().await.unwrap();
    assert!(swarm.installed(&setting.package.digest()).is_err());
    setting.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_input_that_is_not_the_lease_s_is_not_worked_on() {
    let setting = Setting::with(rules()).await;
    let offered = setting.offers(setting.lease(), setting.sources()).await;
    let Offered {
        mut channel,
        lease,
        secret,
    } = offered;
    let Answer::Accepted { key: theirs, .. } = answer(&mut channel).await else {
        panic!("it is not accepted");
    };
    let (node, keys) = (*channel.peer().as_bytes(), &mut Keys::default());
    let sealed = secret.agree(lease.digest(), lease.provider, node, &theirs, false, keys);
    let mut sealer = sealed.unwrap().sealer;
    let mut other = INPUT.to_vec();
    other[0] ^= 1;
    let sent = sealer.seal(&other, true).unwrap();
    channel.say(&sent).await.unwrap();
    let refused = refusal(&mut channel).await;
    let is_told = |why: &str| why.contains("not the one that it names");
    assert!(
        matches!(&refused, Refusal::Lease(why) if is_told(why)),
        "{refused}"
    );
    setting.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_waits_for_a_package_to_be_brought_hears_meanwhile_that_work_goes_on() {
    let setting = Setting::with(rules()).await;
    // It is there and never says anything, which takes far longer to find out than the first word takes to come.
    let silent = UdpSocket::bind("127.0.0.1:0").unwrap();
    let node = ProviderAddr {
        id: NodeId::from_bytes(key(9).id().as_bytes()).unwrap(),
        addrs: vec![silent.local_addr().unwrap()],
    };
    let sources = vec![NodeTicket { node }.to_string()];
    let mut offered = setting.offers(setting.lease(), sources).await;
    let frame = offered.channel.hear(MAX_MESSAGE, PATIENCE).await.unwrap();
    let first = Answer::decode(&frame).unwrap();
    assert_eq!(first, Answer::Working { done: 0 });
    setting.end().await;
}
