//! The provider's side: other nodes' leases, as far as the owner's policy lets them in.
//!
//! The input of a shard is opened in memory, run from there, and gone when the conversation is over; so is the
//! output, but for a few minutes in which its requester may ask for it again. What stays is what was signed: that a
//! lease was done, with which digest, for how much. `engaged` keeps the leases that are here, `packages` describes and
//! brings what they run, `sources` says where others have that, `queue` has those wait that find no place, `transfer`
//! moves inputs and outputs, `make` does the work and signs for it, `untaken` has what was made until it is paid for,
//! `kept` has things kept ready, `begun` says what is owed for work that nothing is signed for, `memory` how much a run
//! has, and `fault` what this node itself is at fault with.

mod begun;
mod engaged;
mod fault;
mod kept;
mod make;
mod memory;
mod packages;
mod queue;
mod sources;
#[cfg(test)]
mod testing;
mod transfer;
mod untaken;

use std::fmt;
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use skep_evidence::{AccountKey, Agreed, Keys, Lease, Split};
use skep_market::{
    Answer, Ask, Earnings, MAX_MESSAGE, NUMERICS, Policy, Quotation, Refusal, SealSecret, Sealed,
    Undertaking, Warmth, ahead, divides, examine,
};
use skep_registry::Digest;
use skep_swarm::{Answerer, Capability, Channel, InUse, NodeId};
use tokio::sync::Semaphore;
use tokio::time::{Instant, MissedTickBehavior};
use zeroize::Zeroizing;

use self::begun::Begun;
use self::engaged::{Engagements, Held};
use self::fault::Fault;
use self::make::Shard;
use self::packages::{Questions, admit, in_time, may_be_had, obtained};
pub(super) use self::packages::{Room, bring, release};
use self::queue::Queue;
pub(super) use self::untaken::Untaken;
use super::around::Wanted;
use super::leisure::Leisure;
use super::{adapters, collect, interrupted, money, now, residence, work};
use crate::failure::Failure;
use crate::service::Service;
use crate::service::run::Subject;

/// How long a requester may say nothing while it is its turn.
const SILENCE: Duration = Duration::from_secs(10);
/// How often one that waits is told that work goes on.
const BEAT: Duration = Duration::from_secs(1);
/// For so long what somebody has not paid counts against them, in milliseconds.
const DAY: u64 = 24 * 60 * 60 * 1000;
/// No lease takes longer, whatever it says.
const LONGEST: Duration = Duration::from_secs(24 * 60 * 60);

/// Takes the leases of others from now on, as far as the owner lets them in.
pub async fn provide(service: &Arc<Service>) -> Result<(), Failure> {
    let policy = service.config.jobs.policy();
    let capability = policy.take.then(|| Capability {
        device: service.config.engine.device.to_string(),
        memory: memory::most(&service.config.limits),
        slots: policy.slots,
        tariff: {
            let tariff = policy.tariff;
            [tariff.tokens, tariff.flops, tariff.bytes, tariff.residency]
        },
    });
    let (earnings, places) = (money::earnings(service)?, places(policy.slots));
    interrupted::find(&earnings, places)?;
    let leisure = || Arc::new(Leisure::of(&service.config.jobs));
    let desk = Desk {
        service: Arc::downgrade(service),
        account: money::account(service)?,
        earnings,
        slots: Arc::new(Semaphore::new(policy.slots as usize)),
        queue: Queue::new(places),
        policy: Arc::new(policy),
        leisure: Arc::clone(service.jobs.leisure.get_or_init(leisure)),
        engaged: Engagements::default(),
        begun: Begun::default(),
        untaken: service.jobs.untaken.clone(),
        questions: Questions::default(),
        keys: Arc::default(),
    };
    let swarm = service.swarm().await?;
    // Before anybody can ask for the places of what others have paid for.
    residence::keep_on(service, desk.policy.residency);
    swarm.answer_with(Arc::new(desk));
    swarm.announce(capability);
    interrupted::tell(service)?;
    collect::now_and_then(service);
    Ok(())
}

/// How many leases may be here at once: at work, or waiting with their input.
fn places(slots: u32) -> usize {
    slots.saturating_add(ahead(slots)) as usize
}

/// What every conversation shares.
#[derive(Clone)]
struct Desk {
    service: Weak<Service>,
    account: Arc<AccountKey>,
    earnings: Arc<Earnings>,
    policy: Arc<Policy>,
    leisure: Arc<Leisure>,
    slots: Arc<Semaphore>,
    queue: Queue,
    engaged: Engagements,
    begun: Begun,
    untaken: Untaken,
    questions: Questions,
    /// The keys of those who signed something for this node.
    keys: Arc<Mutex<Keys>>,
}

/// A lease that is asked for by its requester itself, and by nobody who only has a copy of it.
struct Asked<'a> {
    offer: &'a Undertaking,
    lease: Agreed<Lease>,
    /// How long it has.
    time: Duration,
    /// What its input and output are sealed with.
    sealed: Sealed,
    /// This side's half of the key to that, signed.
    key: Vec<u8>,
}

impl fmt::Debug for Desk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Desk({})", self.account.id())
    }
}

impl Answerer for Desk {
    fn answer(&self, channel: Channel) -> Pin<Box<dyn Future<Output = ()> + Send>> {
        let desk = self.clone();
        Box::pin(async move {
            let Some(service) = desk.service.upgrade() else {
                return;
            };
            let mut channel = channel;
            let ended = match desk.converse(&service, &mut channel).await {
                Ok(()) => Ok(()),
                Err(Stop::Gone) => return,
                Err(Stop::Refused(refusal)) => {
                    tracing::info!(peer = %channel.peer(), why = refusal.kind(), "refused a job");
                    say(&mut channel, &Answer::Refused(refusal.clipped())).await
                }
                Err(Stop::Broken(fault)) => {
                    tracing::warn!(%fault, "a job failed for a reason of this node's own");
                    say(&mut channel, &Answer::Refused(fault.told())).await
                }
            };
            if ended.is_ok() {
                // Whoever has gone meanwhile has what it wants, or asks again.
                let _ = channel.finish(SILENCE).await;
            }
        })
    }
}

/// Why a conversation does not go on.
pub(super) enum Stop {
    /// The requester has gone, or does not keep to the protocol.
    Gone,
    /// It is told why.
    Refused(Refusal),
    /// This node itself is at fault.
    Broken(Fault),
}

impl From<Refusal> for Stop {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal)
    }
}

pub(super) fn unavailable(error: &dyn std::error::Error) -> Stop {
    Refusal::Unavailable(error.to_string()).into()
}

async fn say(channel: &mut Channel, answer: &Answer) -> Result<(), Stop> {
    let frame = answer.encode().map_err(|_| Stop::Gone)?;
    channel.say(&frame).await.map_err(|_| Stop::Gone)
}

/// Works, and tells the requester every second that it does. Ends when the requester has gone.
async fn meanwhile<T>(
    channel: &mut Channel,
    done: &AtomicU64,
    work: impl Future<Output = T>,
) -> Result<T, Stop> {
    let mut work = pin!(work);
    // What takes less than that needs no word.
    let mut beat = tokio::time::interval_at(Instant::now() + BEAT, BEAT);
    beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            made = &mut work => return Ok(made),
            _ = beat.tick() => {}
            () = channel.gone() => return Err(Stop::Gone),
        }
        let done = done.load(Ordering::Relaxed);
        say(channel, &Answer::Working { done }).await?;
    }
}

impl Desk {
    fn keys(&self) -> MutexGuard<'_, Keys> {
        // A key is there whole or not at all, so a poisoned lock is still good.
        self.keys.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn converse(&self, service: &Arc<Service>, channel: &mut Channel) -> Result<(), Stop> {
        let frame = channel.hear(MAX_MESSAGE, SILENCE).await;
        let ask = Ask::decode(&frame.map_err(|_| Stop::Gone)?);
        let ask = ask.map_err(|_| Refusal::Malformed)?;
        let _room = self.queue.room_for(&ask)?;
        match ask {
            Ask::Quote {
                package,
                adapter,
                input_bytes,
                residency,
                sources,
                question,
            } => {
                let wanted = Wanted {
                    package,
                    adapter,
                    residency,
                };
                let asked = (channel.peer(), &sources[..], question);
                let answer = self.quote(service, wanted, input_bytes, asked).await?;
                say(channel, &answer).await
            }
            Ask::Offer(offer) => self.undertake(service, channel, &offer).await,
            Ask::Claim { lease } => {
                let dealings = money::dealings(service).map_err(Fault::from)?;
                let receipt = tokio::task::block_in_place(|| dealings.receipt(lease));
                let receipt = receipt.map_err(Fault::from)?;
                let receipt = receipt.ok_or(Refusal::NoReceipt)?;
                say(channel, &Answer::Claimed { receipt }).await
            }
            Ask::Failed { lease } => {
                let (awaited, peer) = (&service.jobs.awaited, channel.peer());
                if awaited.failed(peer, lease) {
                    tracing::info!(%peer, %lease, "a provider was ended in the middle of a shard");
                }
                say(channel, &Answer::Noted).await
            }
            Ask::Settle { receipts } => {
                let settle = || collect::settle(&self.earnings, &self.untaken, &receipts);
                tokio::task::block_in_place(settle)?;
                say(channel, &Answer::Settled).await
            }
            Ask::Attest { challenge } => {
                if !self.policy.take {
                    return Err(Refusal::NoJobs.into());
                }
                let (reports, attestation) = (&service.jobs.reports, &service.config.attestation);
                let (account, peer) = (self.account.id(), channel.peer());
                let making = reports.for_peer(attestation, account, &challenge, peer);
                let answer = match meanwhile(channel, &AtomicU64::new(0), making).await? {
                    Ok(quote) => Answer::Attested { quote },
                    // That most machines have no such hardware is nothing that was refused.
                    Err(refusal) => Answer::Refused(refusal),
                };
                say(channel, &answer).await
            }
        }
    }

    async fn quote(
        &self,
        service: &Service,
        wanted: Wanted,
        input_bytes: u64,
        (peer, sources, question): (NodeId, &[String], [u8; 32]),
    ) -> Result<Answer, Stop> {
        if !self.policy.take {
            return Err(Refusal::NoJobs.into());
        }
        self.leisure.admit()?;
        self.policy.keep(wanted.residency)?;
        let swarm = service.swarm().await.map_err(Fault::from)?;
        let (both, sources) = ((wanted.package, wanted.adapter), sources::nodes(sources)?);
        let described = self.questions.releases(swarm, peer, both, &sources);
        let (release, adapter) = described.await?;
        admit(&self.policy, &release, input_bytes)?;
        let room = service.config.jobs.keep_packages;
        may_be_had(swarm, &release, adapter.as_ref(), room)?;
        let adapters = &service.models.adapters;
        let warm = Warmth {
            package: swarm.installed(&wanted.package).is_ok(),
            model: work::has_models(service, &release),
            adapter: wanted
                .adapter
                .is_some_and(|adapter| adapters.holds(&adapter)),
        };
        let tariff = self.policy.tariff;
        let quotation = Quotation {
            account: *self.account.id().as_bytes(),
            tariff: [tariff.tokens, tariff.flops, tariff.bytes, tariff.residency],
            operator: self
                .policy
                .operator
                .map(|share| (*share.account.as_bytes(), share.parts)),
            slots: self.policy.slots,
            warm,
            largest_output: self.policy.largest_output,
            kind: *work::kind(service.config.engine.device).as_bytes(),
            numerics: NUMERICS,
        };
        let signed = quotation.signed(*swarm.id().as_bytes(), question, &self.account);
        let signed = signed.map_err(Fault::from)?.encode();
        Ok(Answer::Quote { quotation, signed })
    }

    async fn undertake(
        &self,
        service: &Arc<Service>,
        channel: &mut Channel,
        offer: &Undertaking,
    ) -> Result<(), Stop> {
        if !self.policy.take {
            return Err(Refusal::NoJobs.into());
        }
        self.leisure.admit()?;
        let lease = examine(offer, &self.policy, &self.account, &mut self.keys())?;
        in_time(&lease, now())?;
        let time = Duration::from_millis(lease.deadline.saturating_sub(lease.issued)).min(LONGEST);
        let swarm = service.swarm().await.map_err(Fault::from)?;
        // Copies of a lease are with others as well, its auditors among them: who asks with one ends nothing, and
        // hears neither what became of it nor what its requester owes.
        let (sealed, key) = self.seal(swarm.id(), channel.peer(), &lease, &offer.key)?;
        self.trust(&lease, time)?;
        // A requester that was killed comes again with the same lease, before anyone here knows
        // that it had gone: the new conversation takes the place of the old one.
        let (_engaged, superseded) = self.engaged.engage(lease.digest());
        let asked = Asked {
            offer,
            lease,
            time,
            sealed,
            key,
        };
        let mut held = None;
        let work = async {
            let fulfilled = self.fulfil(service, channel, asked, &mut held);
            // By this node's own clock, whatever the requester's says.
            tokio::time::timeout(time, fulfilled).await
        };
        let ended = tokio::select! {
            done = work => done.unwrap_or_else(|_| {
                Err(Refusal::Failed("the time of the lease is over".to_owned()).into())
            }),
            _ = superseded => Err(Stop::Gone),
        };
        if let Some(held) = held {
            held.let_go(&self.earnings);
        }
        ended
    }

    /// What a conversation with this peer about a lease is sealed with, and this side's half of the key to that, signed
    /// for the node `own`. The other half has to be of the requester of the lease, at that peer.
    fn seal(
        &self,
        own: NodeId,
        peer: NodeId,
        lease: &Agreed<Lease>,
        their_key: &[u8],
    ) -> Result<(Sealed, Vec<u8>), Stop> {
        let name = lease.digest();
        let secret = SealSecret::generate().map_err(Fault::from)?;
        let key = secret
            .signed(name, *own.as_bytes(), &self.account)
            .ok_or(Stop::Gone)?;
        // Who passes on what the requester says is another node than the one that it speaks from.
        let sealed = secret
            .agree(
                name,
                lease.requester,
                *peer.as_bytes(),
                their_key,
                true,
                &mut self.keys(),
            )
            .map_err(|error| Refusal::Lease(error.to_string()))?;
        Ok((sealed, key.encode()))
    }

    async fn fulfil(
        &self,
        service: &Arc<Service>,
        channel: &mut Channel,
        asked: Asked<'_>,
        held: &mut Option<Held>,
    ) -> Result<(), Stop> {
        let Asked {
            offer,
            lease,
            time,
            sealed,
            key,
        } = asked;
        let lease = &lease;
        let records = Arc::new(AtomicU64::new(0));
        let place = self.queue.place(lease.requester, channel.peer());
        let place = meanwhile(channel, &records, place).await??;
        let got = async {
            let (subject, in_use) = self.obtain(service, lease, offer).await?;
            let reserved = self.reserve(service, lease, &subject).await?;
            Ok::<_, Stop>((subject, in_use, reserved))
        };
        let (subject, _in_use, reserved) = meanwhile(channel, &records, got).await??;
        let (name, peer) = (lease.digest(), channel.peer());
        let asks = sources::ticket_of(peer, &offer.sources);
        *held = Some(self.hold(place, lease, asks.clone(), time)?);
        let accepted = Answer::Accepted {
            lease: lease.encode(),
            key,
        };
        say(channel, &accepted).await?;
        let sent = offer.input_bytes.saturating_add(offer.script_bytes);
        let mut input = transfer::receive(channel, sealed.opener, sent).await?;
        let length = usize::try_from(offer.input_bytes).unwrap_or(usize::MAX);
        let length = length.min(input.len());
        let script = Zeroizing::new(input.split_off(length));
        let texts = work::texts_of(lease, &script)?;
        if Digest::of(&input) != lease.work.input {
            return Err(Refusal::Lease("the input is not the one that it names".to_owned()).into());
        }

        let product = match self.untaken.once_more(name) {
            // It was made before, and whoever asked for it had no room for it then, or was ended.
            Some(product) => product,
            None => {
                let shard = Shard {
                    subject,
                    input,
                    texts,
                    time,
                    asks,
                };
                let made = self.make(service, channel, lease, shard, &records).await?;
                let product = Arc::new(made);
                tokio::task::block_in_place(|| {
                    let (untaken, earnings) = (&self.untaken, &self.earnings);
                    untaken.keep_unpaid(earnings, name, lease.requester, &product);
                });
                product
            }
        };
        if let Some(reserved) = reserved {
            kept::keep_on(service, reserved, &product.signed)?;
        }
        let (output, all) = (product.output_bytes, product.bytes.len());
        let done = Answer::Done {
            commitment: product.signed.commitment.clone(),
            receipt: product.signed.receipt.clone(),
            handover: self.hand_over(lease, &product.signed)?,
            output_bytes: output as u64,
            shown_bytes: (all - output) as u64,
        };
        say(channel, &done).await?;
        transfer::send(channel, sealed.sealer, &product.bytes, &product.sent).await
    }

    /// The package of a lease, brought here if it is not and the policy admits it, its adapter, and
    /// the models that it wants; and what keeps them here.
    async fn obtain(
        &self,
        service: &Service,
        lease: &Lease,
        offer: &Undertaking,
    ) -> Result<(Subject, [Option<InUse>; 2]), Stop> {
        let swarm = service.swarm().await.map_err(Fault::from)?;
        let sources = sources::nodes(&offer.sources)?;
        let package = lease.work.package;
        let (room, input) = (Room::of(service), offer.input_bytes);
        let package = obtained(swarm, &self.policy, package, input, &sources, &room).await?;
        let component = package.installed.release.component().ok_or(Stop::Gone)?;
        let models = work::models(&component.grants).map_err(|error| unavailable(&error))?;
        if models != lease.work.model {
            let reason = "the models that come with this node's skep are not the requester's";
            return Err(Refusal::Unavailable(reason.to_owned()).into());
        }
        let (adapter, asked) = match lease.work.adapter {
            None => (None, Split::default()),
            Some(adapter) => {
                let package = &package.installed.release;
                let obtained = adapters::obtained(swarm, package, adapter, &sources, &room);
                let (adapter, asked) = obtained.await?;
                (Some(adapter), asked)
            }
        };
        divides(lease, &asked, self.policy.operator)?;
        let lacks = || Refusal::Unavailable("the package lacks its component".to_owned());
        let with = adapter.as_ref().map(|adapter| adapter.installed.clone());
        let subject = Subject::of(&package.installed, with).ok_or_else(lacks)?;
        Ok((subject, [Some(package), adapter]))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic)]
mod tests;
