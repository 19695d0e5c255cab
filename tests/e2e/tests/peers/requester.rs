//! A requester that takes what a provider made, with whatever clock it has, pays only when it is told to, and
//! goes at any moment.

use std::fs;
use std::path::Path;
use std::time::Instant;

use serde_json::Value;
use skep_evidence::{
    AccountId, AccountKey, Agreed, AuditTerms, Candidates, Credits, Keys, Lease, Meter, Receipt,
    Signed, Split, Statement as _, Tariff, Work,
};
use skep_market::{
    Answer, Ask, CHUNK, Gathered, MAX_MESSAGE, MAX_SEALED, Refusal, SealSecret, Sealed, Sent,
    ShardInput, Undertaking, receive,
};
use skep_registry::Digest;
use skep_swarm::{Channel, NodeId, NodeTicket, Swarm, SwarmConfig};
use tokio::runtime::Runtime;

use super::{PATIENCE, milliseconds};

/// What is asked for.
pub struct Task {
    pub package: Digest,
    pub model: Option<Digest>,
    pub adapter: Option<Digest>,
    /// Whether it is done so that others get the same bytes.
    pub exact: bool,
    /// Who gets a part of the price.
    pub split: Split,
    /// The arguments of a task.
    pub arguments: Vec<String>,
    pub labels: Vec<u8>,
    pub records: Vec<u8>,
}

/// What some job of a requester is made of, for somebody else to ask for.
pub fn task_of(requester: &Path) -> Task {
    let jobs = fs::read_dir(requester.join("jobs")).unwrap();
    let folder = jobs.map(|entry| entry.unwrap().path()).next().unwrap();
    let spec = fs::read(folder.join("spec.json")).unwrap();
    let spec: Value = serde_json::from_slice(&spec).unwrap();
    Task {
        package: serde_json::from_value(spec["release"].clone()).unwrap(),
        model: serde_json::from_value(spec["model"].clone()).unwrap(),
        adapter: None,
        exact: false,
        split: Split::default(),
        arguments: Vec::new(),
        labels: fs::read(folder.join("labels")).unwrap_or_default(),
        records: fs::read(folder.join("input")).unwrap(),
    }
}

/// Somebody with work to give.
pub struct Requester {
    key: AccountKey,
    /// The node that it signs that it speaks from.
    node: NodeId,
    swarm: Swarm,
    runtime: Runtime,
}

impl Requester {
    pub fn start(folder: &Path) -> Self {
        Self::with(folder, 77)
    }

    /// The same, whose account grows from `seed`.
    pub fn with(folder: &Path, seed: u8) -> Self {
        let runtime = Runtime::new().unwrap();
        let swarm = runtime
            .block_on(Swarm::open(SwarmConfig::loopback(folder)))
            .unwrap();
        Self {
            key: AccountKey::from_seed(&[seed; 32]),
            node: swarm.id(),
            swarm,
            runtime,
        }
    }

    /// The same, who signs that it speaks from this node: what it says is passed on by the one that it has.
    pub fn posing_as(self, node: NodeId) -> Self {
        Self { node, ..self }
    }

    /// The node that it signs that it speaks from.
    pub fn node(&self) -> NodeId {
        self.node
    }

    /// Who pays.
    pub fn account(&self) -> AccountId {
        self.key.id()
    }

    /// Has a task done by a provider that has its package, under the `number`th lease of a job, as if
    /// the time were so many seconds ahead. Returns the output and the receipt.
    pub fn has_done(
        &self,
        provider: &str,
        task: &Task,
        number: u32,
        ahead: i64,
    ) -> Result<(Vec<u8>, Signed<Receipt>), Refusal> {
        let offered = self.lease(provider, task, number, ahead, 0)?;
        self.has(provider, &offered)
    }

    /// Makes out such a lease, by which things are kept ready for so many seconds.
    pub fn lease(
        &self,
        provider: &str,
        task: &Task,
        number: u32,
        ahead: i64,
        residency: u64,
    ) -> Result<Offered, Refusal> {
        let node: NodeTicket = provider.parse().unwrap();
        self.runtime.block_on(async {
            let input = ShardInput {
                first_line: 1,
                arguments: task.arguments.clone(),
                labels: &task.labels,
                is_csv: false,
                records: &task.records,
            };
            let input = input.encode().unwrap();
            let quote = Ask::Quote {
                package: task.package,
                adapter: task.adapter,
                input_bytes: input.len() as u64,
                residency,
                sources: Vec::new(),
                question: [7; 32],
            };
            let mut channel = self.swarm.converse(&node.node).await.unwrap();
            channel.say(&quote.encode().unwrap()).await.unwrap();
            let Answer::Quote { quotation, signed } = hear(&mut channel).await? else {
                panic!("no quotation");
            };
            let (its, keys) = (*channel.peer().as_bytes(), &mut Keys::default());
            quotation.verify(&signed, its, [7; 32], keys).unwrap();
            drop(channel);
            let issued = milliseconds(ahead);
            let lease = Lease {
                job: Digest::of(b"a job of somebody's own"),
                shard: number,
                attempt: 0,
                requester: self.key.id(),
                provider: AccountId::from_bytes(quotation.account),
                work: Work {
                    package: task.package,
                    model: task.model,
                    adapter: task.adapter,
                    input: Digest::of(&input),
                    seed: 0,
                },
                tariff: Tariff {
                    tokens: quotation.tariff[0],
                    flops: quotation.tariff[1],
                    bytes: quotation.tariff[2],
                    residency: quotation.tariff[3],
                },
                allowance: Meter {
                    tokens: 1 << 60,
                    flops: 1 << 60,
                    bytes: 1 << 24,
                    residency,
                },
                limit: Credits::from_micro(1_000_000),
                split: task.split.clone(),
                issued,
                deadline: issued + 600_000,
                audit: AuditTerms {
                    secret: Digest::of(b"secret"),
                    candidates: Candidates::new(Vec::new()).unwrap().digest(),
                    rate: 0,
                    panel: 3,
                    exact: task.exact,
                    followed: false,
                    follows: None,
                },
            };
            let lease = lease.sign(&self.key).unwrap();
            Ok::<_, Refusal>(Offered { lease, input })
        })
    }

    /// Has the work of a lease done, as often as it likes.
    pub fn has(
        &self,
        provider: &str,
        offered: &Offered,
    ) -> Result<(Vec<u8>, Signed<Receipt>), Refusal> {
        let mut held = self.begins(provider, offered)?;
        self.sends_input(&mut held);
        self.takes(held)
    }

    /// Offers a lease until it is accepted, and sends nothing of its input yet.
    pub fn begins(&self, provider: &str, offered: &Offered) -> Result<Held, Refusal> {
        let node: NodeTicket = provider.parse().unwrap();
        let Offered { lease, input } = offered;
        self.runtime.block_on(async {
            let keys = &mut Keys::default();
            let secret = SealSecret::generate().unwrap();
            let key = secret.signed(lease.digest(), *self.node.as_bytes(), &self.key);
            let offer = Ask::Offer(Undertaking {
                lease: lease.encode(),
                key: key.unwrap().encode(),
                input_bytes: input.len() as u64,
                script_bytes: 0,
                sources: Vec::new(),
            });
            let mut channel = self.swarm.converse(&node.node).await.unwrap();
            channel.say(&offer.encode().unwrap()).await.unwrap();
            let (accepted, their_key) = loop {
                match hear(&mut channel).await? {
                    Answer::Working { .. } => {}
                    Answer::Accepted { lease, key } => break (lease, key),
                    answer => panic!("{answer:?}"),
                }
            };
            let (name, its) = (lease.digest(), *channel.peer().as_bytes());
            let sealed = secret
                .agree(name, lease.provider, its, &their_key, false, keys)
                .unwrap();
            Ok::<_, Refusal>(Held {
                channel,
                sealed,
                accepted: Agreed::<Lease>::decode(&accepted, keys).unwrap(),
                input: input.clone(),
            })
        })
    }

    /// Sends the input of a lease, and nothing more.
    pub fn sends_input(&self, held: &mut Held) {
        self.runtime.block_on(send_input(held));
    }

    /// Waits until it hears that the work of a lease is done, and takes nothing of what was made.
    pub fn hears_of_the_end(&self, held: &mut Held) {
        self.runtime.block_on(async {
            loop {
                match hear(&mut held.channel).await.unwrap() {
                    Answer::Working { .. } => {}
                    Answer::Done { .. } => return,
                    answer => panic!("{answer:?}"),
                }
            }
        });
    }

    /// Takes what was made under a lease of which it has sent the input.
    pub fn takes(&self, held: Held) -> Result<(Vec<u8>, Signed<Receipt>), Refusal> {
        self.runtime.block_on(take(held))
    }

    /// Waits until its provider ends the conversation about a lease, without a word of why and with nothing made.
    pub fn is_hung_up_on(&self, mut held: Held) {
        let begun = Instant::now();
        self.runtime.block_on(async {
            while let Ok(frame) = held.channel.hear(MAX_MESSAGE, PATIENCE).await {
                let answer = Answer::decode(&frame).unwrap();
                assert!(matches!(answer, Answer::Working { .. }), "{answer:?}");
                assert!(begun.elapsed() < PATIENCE, "it goes on");
            }
        });
        // Who says nothing more has not ended it.
        assert!(begun.elapsed() < PATIENCE, "it is silent");
    }

    /// What it is answered that sends a chunk of nothing in front of the others.
    pub fn sends_nothing(&self, held: &mut Held) -> Refusal {
        self.runtime.block_on(async {
            let nothing = held.sealed.sealer.seal(&[], false).unwrap();
            held.channel.say(&nothing).await.unwrap();
            match hear(&mut held.channel).await {
                Err(refusal) => refusal,
                Ok(answer) => panic!("{answer:?}"),
            }
        })
    }

    /// Countersigns a receipt and gives it to the provider, as proof that it was paid.
    pub fn pays(&self, provider: &str, receipt: Signed<Receipt>) {
        let node: NodeTicket = provider.parse().unwrap();
        let agreed: Agreed<Receipt> = receipt.accept(&self.key).unwrap();
        self.runtime.block_on(async {
            let settle = Ask::Settle {
                receipts: vec![agreed.encode()],
            };
            let mut channel = self.swarm.converse(&node.node).await.unwrap();
            channel.say(&settle.encode().unwrap()).await.unwrap();
            assert!(matches!(hear(&mut channel).await, Ok(Answer::Settled)));
        });
    }
}

/// A lease that is made out, with its input.
pub struct Offered {
    lease: Signed<Lease>,
    input: Vec<u8>,
}

/// A lease that a provider has accepted. Who drops it hangs up.
pub struct Held {
    channel: Channel,
    sealed: Sealed,
    accepted: Agreed<Lease>,
    input: Vec<u8>,
}

async fn send_input(held: &mut Held) {
    let chunks = held.input.len().div_ceil(CHUNK);
    for (number, chunk) in held.input.chunks(CHUNK).enumerate() {
        let chunk = held.sealed.sealer.seal(chunk, number + 1 == chunks);
        held.channel.say(&chunk.unwrap()).await.unwrap();
    }
}

/// Takes what was made of the input of a lease.
async fn take(held: Held) -> Result<(Vec<u8>, Signed<Receipt>), Refusal> {
    let Held {
        mut channel,
        sealed,
        accepted,
        input,
    } = held;
    let (commitment, receipt, handover, output_bytes) = loop {
        match hear(&mut channel).await? {
            Answer::Working { .. } => {}
            Answer::Done {
                commitment,
                receipt,
                handover,
                output_bytes,
                ..
            } => break (commitment, receipt, handover, output_bytes),
            answer => panic!("{answer:?}"),
        }
    };
    let mut output = Gathered::new(sealed.opener, output_bytes);
    while !output
        .add(channel.hear(MAX_SEALED, PATIENCE).await.unwrap())
        .unwrap()
    {}
    let output = output.into_bytes().to_vec();
    let (found, moved) = (Digest::of(&output), (input.len() + output.len()) as u64);
    let sent = Sent {
        commitment: &commitment,
        receipt: &receipt,
        handover: &handover,
        shown: &[],
    };
    let delivery = receive(&accepted, &sent, found, moved, &mut Keys::default()).unwrap();
    Ok((output, delivery.receipt))
}

async fn hear(channel: &mut Channel) -> Result<Answer, Refusal> {
    let frame = channel.hear(MAX_MESSAGE, PATIENCE).await.unwrap();
    match Answer::decode(&frame).unwrap() {
        Answer::Refused(refusal) => Err(refusal),
        answer => Ok(answer),
    }
}
