//! Nodes that speak the protocol of jobs in ways of their own: providers that lie, never deliver or have
//! another clock, somebody who says what it should not, and a requester that need not pay.

#![allow(dead_code, reason = "each test file uses some of it")]

mod impostor;
mod requester;

use std::collections::BTreeSet;
use std::path::Path;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

#[allow(unused_imports, reason = "each test file uses some of it")]
pub use impostor::Impostor;
#[allow(unused_imports, reason = "each test file uses some of it")]
pub use requester::{Requester, Task, task_of};
use skep_evidence::{
    AccountId, AccountKey, AuditTerms, Candidates, Credits, Keys, Lease, Meter, Split,
    Statement as _, Tariff, Work,
};
use skep_kernels::Isa;
use skep_market::{
    Answer, Ask, Done, Gathered, MAX_MESSAGE, MAX_SEALED, NUMERICS, Policy, Quotation, Refusal,
    SealSecret, Undertaking, Warmth, conclude, examine, hand_over, machine_kind,
};
use skep_registry::Digest;
use skep_swarm::{Answerer, Channel, NodeTicket, Swarm, SwarmConfig};
use tokio::runtime::Runtime;

const PATIENCE: Duration = Duration::from_secs(60);

/// How a provider of these tests does its work.
#[derive(Clone, Debug)]
pub enum Manner {
    /// It signs for an output that it made up, another than other liars do.
    Lies,
    /// It signs for an output that it made up, the same as others of this manner do.
    LiesAlike,
    /// It says again and again that it works, and is never done.
    NeverDelivers,
    /// It makes up an output, and bills more for it than its tariff makes of it.
    Overprices,
    /// It makes up an output, and sends a receipt that it signed for an earlier lease.
    Replays,
    /// It gives this output, and says that it took a million million operations.
    Inflates(Vec<u8>),
    /// It gives this output for so many operations, whatever adapter it was to run with.
    DropsAdapter(Vec<u8>, u64),
    /// It gives this output, and from its second lease on sends all that it sent for the first again.
    ReplaysAll(Vec<u8>),
    /// It makes this of a shard's input, and shows texts with it. It audits nobody.
    Shows(fn(&[u8]) -> Made),
    /// It makes this of a shard's input, and that of the input and the script of what it is to follow.
    TwoFaced {
        makes: fn(&[u8]) -> Made,
        follows: fn(&[u8], &[u8]) -> Made,
    },
    /// It is of another version of skep, which counts work otherwise.
    CountsOtherwise,
    /// It gives this output, and signs with a clock that is so many seconds ahead.
    Clock(Vec<u8>, i64),
}

/// What a provider made whose texts are followed, or who follows.
pub struct Made {
    pub output: Vec<u8>,
    /// What it shows of its texts, or saw of another's.
    pub shown: Vec<u8>,
    /// What it took, but for the bytes.
    pub meter: Meter,
}

/// A provider that keeps to the protocol in everything but its work.
pub struct Liar {
    pub ticket: String,
    pub account: String,
    /// The receipts that it was given with both signatures.
    pub paid: Arc<AtomicUsize>,
    _swarm: Swarm,
    _runtime: Runtime,
}

impl Liar {
    /// One that is free and says that it is ready, so that it is asked first.
    pub fn start(folder: &Path) -> Self {
        Self::with(folder, 66, Manner::Lies)
    }

    /// One whose account grows from `seed`, that is free and says that it is ready.
    pub fn with(folder: &Path, seed: u8, manner: Manner) -> Self {
        Self::asking(folder, seed, manner, [0; 4], true)
    }

    /// One that is dearer than others and has nothing ready, so that it is asked last.
    pub fn dear(folder: &Path) -> Self {
        Self::dear_with(folder, 66, Manner::Lies)
    }

    /// The same, whose account grows from `seed`.
    pub fn dear_with(folder: &Path, seed: u8, manner: Manner) -> Self {
        Self::asking(folder, seed, manner, [0, 2_000, 20_000, 0], false)
    }

    fn asking(folder: &Path, seed: u8, manner: Manner, tariff: [u64; 4], warm: bool) -> Self {
        let runtime = Runtime::new().unwrap();
        let swarm = runtime
            .block_on(Swarm::open(SwarmConfig::loopback(folder)))
            .unwrap();
        let paid = Arc::new(AtomicUsize::new(0));
        swarm.answer_with(Arc::new(Lies {
            key: Arc::new(AccountKey::from_seed(&[seed; 32])),
            node: *swarm.id().as_bytes(),
            numerics: match manner {
                Manner::CountsOtherwise => NUMERICS + 1,
                _ => NUMERICS,
            },
            manner,
            tariff,
            warm,
            paid: paid.clone(),
            first: Arc::default(),
        }));
        Self {
            ticket: swarm.ticket().to_string(),
            account: AccountKey::from_seed(&[seed; 32]).id().to_string(),
            paid,
            _swarm: swarm,
            _runtime: runtime,
        }
    }
}

/// The key of who lies.
pub fn key() -> AccountKey {
    AccountKey::from_seed(&[66; 32])
}

#[derive(Clone, Debug)]
struct Lies {
    key: Arc<AccountKey>,
    node: [u8; 32],
    manner: Manner,
    tariff: [u64; 4],
    warm: bool,
    paid: Arc<AtomicUsize>,
    /// What it sent for its first lease.
    first: Arc<OnceLock<Answer>>,
    /// What it says of how it counts.
    numerics: u32,
}

impl Answerer for Lies {
    fn answer(&self, mut channel: Channel) -> Pin<Box<dyn Future<Output = ()> + Send>> {
        let this = self.clone();
        Box::pin(async move {
            this.converse(&mut channel).await;
            // The requester may have gone once it has all.
            let _ = channel.finish(PATIENCE).await;
        })
    }
}

impl Lies {
    /// Says something; whether anybody is there to hear it.
    async fn says(&self, channel: &mut Channel, answer: &Answer) -> bool {
        channel.say(&answer.encode().unwrap()).await.is_ok()
    }

    async fn converse(&self, channel: &mut Channel) {
        let key = &*self.key;
        let frame = channel.hear(MAX_MESSAGE, PATIENCE).await.unwrap();
        let offer = match Ask::decode(&frame).unwrap() {
            Ask::Quote { question, .. } => {
                let version = match self.manner {
                    Manner::CountsOtherwise => "of another time",
                    _ => env!("CARGO_PKG_VERSION"),
                };
                let encoders = skep_model::Isa::best().name();
                let alike = format!("{}, encoders with {encoders}", Isa::alike());
                let kind = machine_kind(version, &alike);
                let quotation = Quotation {
                    account: *key.id().as_bytes(),
                    tariff: self.tariff,
                    operator: None,
                    slots: 4,
                    warm: Warmth {
                        package: self.warm,
                        model: self.warm,
                        adapter: self.warm,
                    },
                    largest_output: 1 << 20,
                    kind: *kind.as_bytes(),
                    numerics: self.numerics,
                };
                let signed = quotation.signed(self.node, question, key).unwrap();
                let signed = signed.encode();
                let answer = Answer::Quote { quotation, signed };
                self.says(channel, &answer).await;
                return;
            }
            Ask::Offer(offer) => offer,
            Ask::Settle { receipts } => {
                self.paid.fetch_add(receipts.len(), Ordering::SeqCst);
                self.says(channel, &Answer::Settled).await;
                return;
            }
            Ask::Claim { .. } => {
                self.says(channel, &Answer::Refused(Refusal::NoReceipt))
                    .await;
                return;
            }
            Ask::Failed { .. } => {
                self.says(channel, &Answer::Noted).await;
                return;
            }
            Ask::Attest { .. } => {
                let refusal = Refusal::NoHardware("it has none".to_owned());
                self.says(channel, &Answer::Refused(refusal)).await;
                return;
            }
        };
        let policy = Policy {
            take: true,
            publishers: BTreeSet::new(),
            worlds: BTreeSet::new(),
            largest_input: 1 << 30,
            largest_output: 1 << 20,
            slots: 4,
            residency: 0,
            tariff: Tariff {
                flops: self.tariff[1],
                bytes: self.tariff[2],
                ..Tariff::default()
            },
            operator: None,
            unpaid: Credits::MAX,
        };
        let keys = &mut Keys::default();
        let lease = examine(&offer, &policy, key, keys).unwrap();
        if let (Manner::Shows(_), Some(_)) = (&self.manner, lease.audit.follows) {
            self.says(channel, &Answer::Refused(Refusal::NoJobs)).await;
            return;
        }
        let secret = SealSecret::generate().unwrap();
        let accepted = Answer::Accepted {
            lease: lease.encode(),
            key: secret
                .signed(lease.digest(), self.node, key)
                .unwrap()
                .encode(),
        };
        let (name, asks) = (lease.digest(), *channel.peer().as_bytes());
        let sealed = secret
            .agree(name, lease.requester, asks, &offer.key, true, keys)
            .unwrap();
        if !self.says(channel, &accepted).await {
            return;
        }
        let sent = offer.input_bytes + offer.script_bytes;
        let mut input = Gathered::new(sealed.opener, sent);
        loop {
            // It may be outvoted, or too late, before it has heard all.
            match channel.hear(MAX_SEALED, PATIENCE).await {
                Ok(chunk) => match input.add(chunk) {
                    Ok(true) => break,
                    Ok(false) => {}
                    Err(error) => panic!("{error}"),
                },
                Err(_) => return,
            }
        }
        let mut shown = Vec::new();
        let mut meter = Meter::default();
        let (output, ahead) = match &self.manner {
            Manner::Shows(make) => {
                let input = input.into_bytes();
                let made = tokio::task::block_in_place(|| make(&input));
                (shown, meter) = (made.shown, made.meter);
                (made.output, 0)
            }
            Manner::TwoFaced { makes, follows } => {
                let input = input.into_bytes();
                let length = usize::try_from(offer.input_bytes).unwrap();
                let (input, script) = input.split_at(length);
                let made = tokio::task::block_in_place(|| match lease.audit.follows {
                    Some(_) => follows(input, script),
                    None => makes(input),
                });
                (shown, meter) = (made.shown, made.meter);
                (made.output, 0)
            }
            Manner::Lies | Manner::Overprices | Manner::Replays | Manner::CountsOtherwise => {
                let label = &key.id().to_string()[..6];
                let line = format!("{{\"id\":\"1\",\"label\":\"{label}\",\"score\":1.0}}\n");
                (line.into_bytes(), 0)
            }
            Manner::LiesAlike => {
                let line = "{\"id\":\"1\",\"label\":\"agreed\",\"score\":1.0}\n";
                (line.as_bytes().to_vec(), 0)
            }
            Manner::NeverDelivers => {
                while self.says(channel, &Answer::Working { done: 0 }).await {
                    tokio::time::sleep(Duration::from_secs(1)).await;
                }
                return;
            }
            Manner::Inflates(output)
            | Manner::DropsAdapter(output, _)
            | Manner::ReplaysAll(output) => (output.clone(), 0),
            Manner::Clock(output, ahead) => (output.clone(), *ahead),
        };
        let now = milliseconds(ahead);
        let done = Done {
            output: Digest::of(&output),
            meter: Meter {
                bytes: offer.input_bytes + output.len() as u64,
                flops: match self.manner {
                    Manner::Inflates(_) => 1_000_000_000_000,
                    Manner::DropsAdapter(_, flops) => flops,
                    _ => meter.flops,
                },
                ..meter
            },
            shown: (!shown.is_empty()).then(|| Digest::of(&shown)),
            sequence: 0,
            nonce: [1; 32],
            started: now - 1,
            finished: now,
        };
        let (commitment, receipt) = conclude(&lease, &done, key).unwrap();
        let mut billed = receipt.body().clone();
        match self.manner {
            Manner::Overprices => billed.price = Credits::from_micro(1),
            Manner::Replays => billed.lease = Digest::of(b"an earlier lease"),
            _ => {}
        }
        let receipt = billed.sign(key).unwrap();
        let mut done = Answer::Done {
            commitment: commitment.encode(),
            handover: hand_over(&lease, commitment.digest(), receipt.digest(), key)
                .unwrap()
                .encode(),
            receipt: receipt.encode(),
            output_bytes: output.len() as u64,
            shown_bytes: shown.len() as u64,
        };
        if let Manner::ReplaysAll(_) = self.manner {
            done = self.first.get_or_init(|| done).clone();
        }
        if !self.says(channel, &done).await {
            return;
        }
        for chunk in sealed.sealer.chunks(&[output, shown].concat()) {
            if channel.say(&chunk.unwrap()).await.is_err() {
                return;
            }
        }
    }
}

/// Milliseconds since 1970, by a clock that is so many seconds ahead.
fn milliseconds(ahead: i64) -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    u64::try_from(since.as_millis())
        .unwrap()
        .saturating_add_signed(ahead * 1000)
}

/// Somebody who says to a provider what no requester would.
pub struct Stranger {
    swarm: Swarm,
    runtime: Runtime,
    node: NodeTicket,
}

impl Stranger {
    pub fn start(folder: &Path, ticket: &str) -> Self {
        let runtime = Runtime::new().unwrap();
        let swarm = runtime
            .block_on(Swarm::open(SwarmConfig::loopback(folder)))
            .unwrap();
        Self {
            swarm,
            runtime,
            node: ticket.parse().unwrap(),
        }
    }

    /// What these bytes are answered.
    pub fn sends(&self, bytes: &[u8]) -> Refusal {
        self.runtime.block_on(async {
            let mut channel = self.swarm.converse(&self.node.node).await.unwrap();
            channel.say(bytes).await.unwrap();
            let frame = channel.hear(MAX_MESSAGE, PATIENCE).await.unwrap();
            match Answer::decode(&frame).unwrap() {
                Answer::Refused(refusal) => refusal,
                answer => panic!("{answer:?}"),
            }
        })
    }

    /// What a lease with an input of so many bytes is answered.
    pub fn offers(&self, input_bytes: u64) -> Refusal {
        let provider = self.account();
        let lease = Lease {
            job: Digest::of(b"job"),
            shard: 0,
            attempt: 0,
            requester: key().id(),
            provider,
            work: Work {
                package: Digest::of(b"package"),
                model: None,
                adapter: None,
                input: Digest::of(b"input"),
                seed: 0,
            },
            tariff: Tariff {
                tokens: 0,
                flops: 1_000,
                bytes: 10_000,
                residency: 10_000,
            },
            allowance: Meter {
                bytes: u64::MAX,
                ..Meter::default()
            },
            limit: Credits::MAX,
            split: Split::default(),
            issued: 1,
            deadline: u64::MAX,
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
        let offer = Ask::Offer(Undertaking {
            lease: lease.sign(&key()).unwrap().encode(),
            key: Vec::new(),
            input_bytes,
            script_bytes: 0,
            sources: Vec::new(),
        });
        self.sends(&offer.encode().unwrap())
    }

    /// What it is answered that wants to know the price of a package which that node has.
    pub fn asks_for(&self, package: Digest, source: &str) -> Refusal {
        let quote = Ask::Quote {
            package,
            adapter: None,
            input_bytes: 100,
            residency: 0,
            sources: vec![source.to_owned()],
            question: [0; 32],
        };
        self.sends(&quote.encode().unwrap())
    }

    /// What a receipt that the provider never signed is answered.
    pub fn settles(&self) -> Refusal {
        let settle = Ask::Settle {
            receipts: vec![vec![0x83; 90]],
        };
        self.sends(&settle.encode().unwrap())
    }

    /// The account of the provider, from the file in which it keeps its key: this test has both
    /// on one disk.
    fn account(&self) -> AccountId {
        let home = self.swarm.dir().parent().unwrap().join("a");
        let text = std::fs::read_to_string(home.join("account.key")).unwrap();
        let mut seed = [0; 32];
        let digits = text.trim().as_bytes().chunks(2);
        for (byte, digits) in seed.iter_mut().zip(digits) {
            *byte = u8::from_str_radix(std::str::from_utf8(digits).unwrap(), 16).unwrap();
        }
        AccountKey::from_seed(&seed).id()
    }
}
