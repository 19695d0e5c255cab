//! Whose answers are taken for quotations, what is taken of whom a lease was offered, and how much comes at once,
//! over real connections.

use std::pin::Pin;
use std::sync::Arc;

use skep_evidence::{
    AccountId, AuditTerms, Candidates, Credits, Meter, Split, Statement as _, Tariff, Work,
};
use skep_market::{NUMERICS, Warmth};
use skep_registry::Digest;
use skep_swarm::{Answerer, SwarmConfig};

use super::super::folder::{self, Piece, testing};
use super::super::testing::key;
use super::*;
use crate::home::Home;

fn quotation(account: AccountId) -> Quotation {
    Quotation {
        account: *account.as_bytes(),
        tariff: [0, 1_000, 10_000, 0],
        operator: None,
        slots: 1,
        warm: Warmth::default(),
        largest_output: 1 << 20,
        kind: [0; 32],
        numerics: NUMERICS,
    }
}

/// How a node answers who asks for a price.
#[derive(Clone, Debug)]
enum Answers {
    /// It quotes for `account`, and signs with the key of `signer`: for its own node, and for this question if
    /// there is one here instead of the one that it is asked with.
    Signs {
        account: u8,
        signer: u8,
        node: NodeId,
        instead: Option<[u8; 32]>,
    },
    /// It asks this node the same, and passes on what that answers.
    PassesOn(Swarm, ProviderAddr),
}

impl Answers {
    async fn to(self, frame: Vec<u8>) -> Vec<u8> {
        match self {
            Self::Signs {
                account,
                signer,
                node,
                instead,
            } => {
                let Ok(Ask::Quote { question, .. }) = Ask::decode(&frame) else {
                    panic!("something else is asked");
                };
                let question = instead.unwrap_or(question);
                let signed =
                    quotation(key(signer).id()).signed(*node.as_bytes(), question, &key(signer));
                let answer = Answer::Quote {
                    quotation: quotation(key(account).id()),
                    signed: signed.unwrap().encode(),
                };
                answer.encode().unwrap()
            }
            Self::PassesOn(swarm, node) => {
                let mut channel = swarm.converse(&node).await.unwrap();
                channel.say(&frame).await.unwrap();
                channel.hear(MAX_MESSAGE, SILENCE).await.unwrap()
            }
        }
    }
}

impl Answerer for Answers {
    fn answer(&self, mut channel: Channel) -> Pin<Box<dyn Future<Output = ()> + Send>> {
        let this = self.clone();
        Box::pin(async move {
            let frame = channel.hear(MAX_MESSAGE, SILENCE).await.unwrap();
            let answer = this.to(frame).await;
            channel.say(&answer).await.unwrap();
            let _ = channel.finish(SILENCE).await;
        })
    }
}

/// What comes of asking a node for a price.
async fn asked(requester: &Swarm, node: &Swarm) -> Result<Quotation, TalkError> {
    let wanted = Wanted {
        package: Digest::of(b"package"),
        adapter: None,
        residency: 0,
    };
    quote(requester, &node.addr(), wanted, 1, Vec::new()).await
}

#[tokio::test(flavor = "multi_thread")]
async fn only_an_account_that_signs_at_the_node_that_is_asked_quotes() {
    let folders = [(); 6].map(|()| tempfile::tempdir().unwrap());
    let mut swarms = Vec::new();
    for folder in &folders {
        let swarm = Swarm::open(SwarmConfig::loopback(folder.path())).await;
        swarms.push(swarm.unwrap());
    }
    let [requester, honest, forger, stale, between, asks] = &swarms[..] else {
        panic!("{} nodes", swarms.len());
    };
    let signs = |swarm: &Swarm, account, signer, instead| {
        let node = swarm.id();
        swarm.answer_with(Arc::new(Answers::Signs {
            account,
            signer,
            node,
            instead,
        }));
    };
    signs(honest, 1, 1, None);
    signs(forger, 1, 2, None);
    // It has the key, and shows what was signed when it was asked before.
    signs(stale, 1, 1, Some([0; 32]));
    let passes_on = Answers::PassesOn(asks.clone(), honest.addr());
    between.answer_with(Arc::new(passes_on));

    let right = asked(requester, honest).await.unwrap();
    assert_eq!(right, quotation(key(1).id()));
    for (node, why) in [
        (forger, "another account signed it"),
        (stale, "it was signed for another question"),
        // That the account is honest's, and that it answers this question, was found right.
        (between, "it was signed for another node"),
    ] {
        let refused = asked(requester, node).await.unwrap_err();
        assert!(matches!(refused, TalkError::Unproven(_)), "{refused:?}");
        assert!(refused.to_string().ends_with(why), "{refused}");
    }
    for swarm in swarms {
        swarm.shutdown().await;
    }
}

/// A node that says these frames to whoever says something to it.
#[derive(Clone, Debug)]
struct Says(Vec<Vec<u8>>);

impl Answerer for Says {
    fn answer(&self, mut channel: Channel) -> Pin<Box<dyn Future<Output = ()> + Send>> {
        let Self(frames) = self.clone();
        Box::pin(async move {
            channel.hear(MAX_MESSAGE, SILENCE).await.unwrap();
            for frame in frames {
                // Who has no room for it does not hear all of it.
                if channel.say(&frame).await.is_err() {
                    return;
                }
            }
            let _ = channel.finish(SILENCE).await;
        })
    }
}

/// What closes an output on its way between these nodes, and what opens it.
fn sealed(requester: &Swarm, provider: &Swarm) -> (Sealer, Opener) {
    let (name, keys) = (Digest::of(b"lease"), &mut Keys::default());
    let [asks, provides] = [(requester, 1), (provider, 2)].map(|(swarm, seed)| {
        let secret = SealSecret::generate().unwrap();
        let node = *swarm.id().as_bytes();
        let signed = secret.signed(name, node, &key(seed)).unwrap().encode();
        (secret, node, signed)
    });
    let opener = asks
        .0
        .agree(name, key(2).id(), provides.1, &provides.2, false, keys);
    let sealer = provides
        .0
        .agree(name, key(1).id(), asks.1, &asks.2, true, keys);
    (sealer.unwrap().sealer, opener.unwrap().opener)
}

#[tokio::test(flavor = "multi_thread")]
async fn what_one_node_sends_takes_no_more_of_the_disk_than_there_is_room_for() {
    const BYTES: u64 = 4 * INLINE;
    let output: Vec<u8> = (0..BYTES).map(|n| n as u8).collect();
    // A quarter is what one node may have: it is enough; a byte of it is taken; or it is a byte too little.
    for (most, taken) in [(4 * BYTES, 0), (4 * BYTES, 1), (4 * BYTES - 4, 0)] {
        let place = tempfile::tempdir().unwrap();
        let folder = place.path().join("outputs");
        std::fs::create_dir(&folder).unwrap();
        let open = |name: &str| Swarm::open(SwarmConfig::loopback(place.path().join(name)));
        let requester = open("requester").await.unwrap();
        let provider = open("provider").await.unwrap();
        let (sealer, opener) = sealed(&requester, &provider);
        let frames = sealer.chunks(&output).map(|chunk| chunk.unwrap());
        provider.answer_with(Arc::new(Says(frames.collect())));
        let mut channel = requester.converse(&provider.addr()).await.unwrap();
        channel.say(b"what was made").await.unwrap();
        let coming = Coming::of(most);
        let mut other = coming.room_for(provider.id());
        assert!(other.take(taken));
        let came = take_out(&mut channel, opener, &folder, &coming, (BYTES, 0)).await;
        if most == 4 * BYTES && taken == 0 {
            let (spool, room) = came.unwrap();
            let (came, _) = spool.end().unwrap();
            assert_eq!(came.digest, Digest::of(&output));
            let mut more = coming.room_for(provider.id());
            assert!(!more.take(1), "what came is in its room");
            drop(room);
            assert!(more.take(1));
        } else {
            let Err(refused) = came else {
                panic!("there is no room for it");
            };
            // Once the rest has come there is room for it; for more than the quarter there never is.
            let is_too_much = match refused {
                TalkError::NoRoom => false,
                TalkError::TooMuch { bytes, limit } => (bytes, limit) == (BYTES, BYTES - 1),
                ref other => panic!("{other}"),
            };
            assert_eq!(is_too_much, taken == 0);
            assert_eq!(refused.is_for_later(), taken == 1);
            assert_eq!(std::fs::read_dir(&folder).unwrap().count(), 0);
            drop(other);
            assert!(coming.room_for(provider.id()).take(BYTES - 1));
        }
        drop(channel);
        requester.shutdown().await;
        provider.shutdown().await;
    }
}

/// A lease of the requester 1 for the provider 2 that allows for so many bytes.
fn lease(bytes: u64) -> Signed<Lease> {
    let lease = Lease {
        job: Digest::of(b"job"),
        shard: 0,
        attempt: 0,
        requester: key(1).id(),
        provider: key(2).id(),
        work: Work {
            package: Digest::of(b"package"),
            model: None,
            adapter: None,
            input: Digest::of(b"input"),
            seed: 0,
        },
        tariff: Tariff::default(),
        allowance: Meter {
            bytes,
            ..Meter::default()
        },
        limit: Credits::ZERO,
        split: Split::default(),
        issued: 1,
        deadline: 2,
        audit: AuditTerms {
            secret: Digest::of(b"secret"),
            candidates: Candidates::new(Vec::new()).unwrap().digest(),
            rate: 0,
            panel: 3,
            exact: false,
            followed: false,
            follows: None,
        },
    };
    lease.sign(&key(1)).unwrap()
}

/// Why nothing comes of offering this lease to a node that answers like this, and the bytes of its input.
async fn offered<A: Answerer + 'static>(
    lease: &Signed<Lease>,
    answers: impl FnOnce(NodeId) -> A,
) -> (TalkError, u64) {
    let place = tempfile::tempdir().unwrap();
    let home = place.path().join("home");
    skep_tests::set_up(&home).unwrap();
    let home = Home::open(Some(home)).unwrap();
    let file = place.path().join("input");
    std::fs::write(&file, "a\n").unwrap();
    let spec = testing::spec(vec![Piece {
        start: 0,
        bytes: 2,
        first_line: 1,
        lines: 1,
    }]);
    let folder = folder::create(&home, &spec, &file, None).unwrap();
    let input = folder.input(&spec, 0).unwrap();
    let open = |name: &str| Swarm::open(SwarmConfig::loopback(place.path().join(name)));
    let requester = open("requester").await.unwrap();
    let provider = open("provider").await.unwrap();
    provider.answer_with(Arc::new(answers(provider.id())));
    let (outputs, bounds) = (folder.outputs(), Bounds::default());
    let begun = Begun {
        lease,
        input: &input,
        script: &[],
        keys: Keys::default(),
        outputs: &outputs,
        bounds: &bounds,
    };
    let (at, account, records) = (provider.addr(), key(1), AtomicU64::new(0));
    let never = std::future::pending();
    let came = perform(
        &requester,
        &at,
        &account,
        begun,
        Vec::new(),
        &records,
        never,
    );
    let Err(why) = came.await else {
        panic!("something came of it");
    };
    requester.shutdown().await;
    provider.shutdown().await;
    (why, input.bytes())
}

#[tokio::test(flavor = "multi_thread")]
async fn who_accepts_another_lease_than_it_was_offered_is_given_no_input() {
    // It has one of the same requester that allows for more.
    let other = lease(2_000).accept(&key(2)).unwrap();
    let accepted = Answer::Accepted {
        lease: other.encode(),
        key: Vec::new(),
    };
    let says = Says(vec![accepted.encode().unwrap()]);
    let (why, _) = offered(&lease(1_000), |_| says).await;
    assert!(matches!(why, TalkError::OtherLease), "{why:?}");
}

/// A provider that accepts what it is offered, and says that it has made so many bytes and shows so many.
#[derive(Clone, Copy, Debug)]
struct Makes {
    node: NodeId,
    output: u64,
    shown: u64,
}

impl Answerer for Makes {
    fn answer(&self, mut channel: Channel) -> Pin<Box<dyn Future<Output = ()> + Send>> {
        let Self {
            node,
            output,
            shown,
        } = *self;
        Box::pin(async move {
            let frame = channel.hear(MAX_MESSAGE, SILENCE).await.unwrap();
            let Ok(Ask::Offer(offer)) = Ask::decode(&frame) else {
                panic!("something else is asked");
            };
            let lease = Signed::<Lease>::decode(&offer.lease, &mut Keys::default()).unwrap();
            let secret = SealSecret::generate().unwrap();
            let signed = secret.signed(lease.digest(), *node.as_bytes(), &key(2));
            let accepted = Answer::Accepted {
                lease: lease.accept(&key(2)).unwrap().encode(),
                key: signed.unwrap().encode(),
            };
            channel.say(&accepted.encode().unwrap()).await.unwrap();
            channel.hear(MAX_SEALED, SILENCE).await.unwrap();
            let done = Answer::Done {
                commitment: Vec::new(),
                receipt: Vec::new(),
                handover: Vec::new(),
                output_bytes: output,
                shown_bytes: shown,
            };
            channel.say(&done.encode().unwrap()).await.unwrap();
            let _ = channel.finish(SILENCE).await;
        })
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn of_what_is_larger_than_its_lease_allows_nothing_is_waited_for() {
    const ALLOWED: u64 = 1_000;
    let lease = lease(ALLOWED);
    let made = |output, shown| {
        offered(&lease, move |node| Makes {
            node,
            output,
            shown,
        })
    };
    // No lease allows for less than its input, and this one has no texts shown.
    let (why, input) = made(ALLOWED, 0).await;
    assert!(matches!(why, TalkError::TooMuch { .. }), "{why:?}");
    let rest = ALLOWED - input;
    for (output, shown, most) in [(rest + 1, 0, rest), (rest, 1, 0)] {
        let (why, _) = made(output, shown).await;
        let TalkError::TooMuch { bytes, limit } = why else {
            panic!("{why:?}");
        };
        assert_eq!((bytes, limit), (most + 1, most));
    }
    // What fits is waited for, until the other side has gone.
    let (why, _) = made(rest, 0).await;
    assert!(matches!(why, TalkError::Channel(_)), "{why:?}");
}
