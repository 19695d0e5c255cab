//! Seeing a job through: asks its state what is next, writes down what is decided, and then does it.
//!
//! Nothing is remembered here that is not in the journal, but for who could be asked and what is
//! being said to whom; killed at any moment, it begins with the journal again.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use skep_evidence::{
    AccountId, AccountKey, Agreed, AuditSecret, AuditTerms, Candidates, Credits, Keys, Lease,
    Meter, Receipt, Signed, Split, Statement as _, Work,
};
use skep_market::{
    AttemptId, Conduct, Decision, Event, GaveUp, Job, Journal, Offer, Operation, Outstanding,
    Quotation, Warmth, typical,
};
use skep_registry::Digest;
use skep_swarm::{ProviderAddr, Swarm};
use tokio::sync::{Notify, watch};
use tokio::task::{AbortHandle, JoinError, JoinSet};

use super::around::{Quotes, listed, quotes};
use super::folder::{Folder, Spec};
use super::shown::Shown;
use super::talk::{self, Delivered, TalkError};
use super::{answer, failed, money, now};
use crate::failure::{Failure, FailureKind};
use crate::requests::jobs::{JobState, JobView};
use crate::service::{Service, install};

/// How often time is looked at when nothing else happens.
const TICK: Duration = Duration::from_millis(250);
/// How often providers are asked whether they would still take a shard.
const QUOTES: Duration = Duration::from_secs(5);
/// How long providers that have gone are waited for at the end, to have their receipts.
const PROOFS: Duration = Duration::from_secs(15);
/// The most operations that a lease allows for: what is paid is bounded by its price.
const FLOPS: u64 = 1 << 60;

/// A job that this process works on.
pub struct Running {
    view: watch::Receiver<JobView>,
    cancelled: AtomicBool,
    wake: Notify,
}

impl Running {
    /// What can be seen of it, now and later. It ends when nobody works on the job any more.
    pub fn view(&self) -> watch::Receiver<JobView> {
        self.view.clone()
    }

    /// Stops the job.
    pub fn cancel(&self) {
        self.cancelled.store(true, Ordering::SeqCst);
        self.wake.notify_one();
    }
}

/// Works on a job from here on, unless this process does already.
pub fn begin(service: &Arc<Service>, folder: &Folder) -> Result<Arc<Running>, Failure> {
    let mut all = service.jobs.running();
    if let Some(running) = all.get(&folder.id) {
        return Ok(Arc::clone(running));
    }
    let spec = folder.spec()?;
    let opened = tokio::task::block_in_place(|| Journal::open(&folder.journal(), spec.job));
    let (journal, events) = opened.map_err(failed)?;
    let job = Job::resume(spec.plan(), &events).map_err(failed)?;
    let first = answer::view(&spec, &job, JobState::Running, None, |_| 0);
    let (publish, view) = watch::channel(first);
    let shown = Shown::new(publish, spec.shards.len());
    let running = Arc::new(Running {
        view,
        cancelled: AtomicBool::new(false),
        wake: Notify::new(),
    });
    all.insert(folder.id, Arc::clone(&running));
    drop(all);
    let driver = Driver {
        account: money::account(service)?,
        folder: folder.clone(),
        spec,
        job,
        journal,
        shown,
        running: Arc::clone(&running),
        service: Arc::clone(service),
        quotes: BTreeMap::new(),
        refusals: BTreeMap::new(),
        trouble: None,
        sends: HashMap::new(),
        proofs: Vec::new(),
        handing: 0,
        patience: None,
        tasks: JoinSet::new(),
        quoting: None,
    };
    tokio::spawn(driver.run());
    Ok(running)
}

/// Something that was waited for.
enum Happened {
    /// Who would take a shard.
    Quotes(Quotes),
    /// What came of a lease.
    Sent(AttemptId, Result<Box<Delivered>, TalkError>),
    /// A provider has its receipt, or could not be given it.
    Settled(Box<Agreed<Receipt>>, Result<(), TalkError>),
}

struct Send {
    handle: AbortHandle,
    records: Arc<AtomicU64>,
}

struct Driver {
    service: Arc<Service>,
    account: Arc<AccountKey>,
    folder: Folder,
    spec: Spec,
    job: Job,
    journal: Journal,
    shown: Shown,
    running: Arc<Running>,
    quotes: BTreeMap<AccountId, (ProviderAddr, Quotation)>,
    refusals: BTreeMap<String, String>,
    /// What last went wrong with a shard.
    trouble: Option<String>,
    sends: HashMap<AttemptId, Send>,
    /// Receipts that are paid and whose providers are to have them as proof, and until when.
    proofs: Vec<Agreed<Receipt>>,
    handing: usize,
    patience: Option<Instant>,
    tasks: JoinSet<Happened>,
    quoting: Option<Instant>,
}

impl Driver {
    async fn run(mut self) {
        let ended = self.see_through().await;
        let (state, reason) = match &ended {
            Ok(()) if self.job.is_complete() => (JobState::Done, None),
            Ok(()) => (JobState::Failed, self.reason()),
            Err(failure) => {
                tracing::warn!(job = %self.folder.id, %failure, "a job cannot be gone on with");
                (JobState::Paused, Some(failure.message.clone()))
            }
        };
        let view = answer::view(&self.spec, &self.job, state, reason, |_| 0);
        self.shown.show(view);
        // Before whoever watches learns of the end, the journal is free for another process.
        let Self {
            service,
            folder,
            journal,
            shown,
            ..
        } = self;
        drop(journal);
        service.jobs.running().remove(&folder.id);
        drop(shown);
    }

    async fn see_through(&mut self) -> Result<(), Failure> {
        let service = Arc::clone(&self.service);
        let swarm = service.swarm().await?;
        self.fund()?;
        // Whoever was killed may have paid and not told: once more does no harm.
        let paid: Vec<Vec<u8>> = self.job.paid().map(<[u8]>::to_vec).collect();
        for receipt in paid {
            self.proofs.push(self.countersigned(&receipt)?);
        }
        loop {
            if self.running.cancelled.load(Ordering::SeqCst) && self.job.gave_up().is_none() {
                let why = GaveUp::Cancelled;
                self.note(&[Event::GaveUp { at: now(), why }])?;
            }
            self.decide()?;
            self.act(swarm)?;
            let has_ended = self.job.is_complete() || self.job.gave_up().is_some();
            if has_ended && self.job.outstanding().is_empty() && self.sends.is_empty() {
                if self.job.is_complete() && self.patience.is_none() {
                    self.folder.deliver(&self.spec.output)?;
                }
                if self.have_proofs() {
                    break;
                }
            }
            self.hand_over(swarm);
            self.ask_around(swarm)?;
            if self.shown.is_due() {
                let view = self.view();
                self.shown.show(view);
            }
            let running = Arc::clone(&self.running);
            tokio::select! {
                Some(happened) = self.tasks.join_next_with_id() => match happened {
                    Ok((_, happened)) => self.take_in(happened)?,
                    Err(error) => self.lost(&error)?,
                },
                () = tokio::time::sleep(TICK) => {}
                () = running.wake.notified() => {}
            }
        }
        self.refund()?;
        self.folder.set_over()
    }

    /// Holds what the job may cost. Once is as good as twice.
    fn fund(&self) -> Result<(), Failure> {
        let amount = Credits::from_micro(self.spec.budget);
        if amount == Credits::ZERO {
            return Ok(());
        }
        let escrow = Operation::Escrow {
            id: self.entry("escrow"),
            job: self.spec.job,
            requester: self.account.id(),
            amount,
        };
        money::post(&self.service, &escrow)?
            .map(drop)
            .map_err(|error| Failure::of(FailureKind::Refused, &error))
    }

    /// Gives back what is left.
    fn refund(&self) -> Result<(), Failure> {
        if self.spec.budget == 0 {
            return Ok(());
        }
        let refund = Operation::Refund {
            id: self.entry("refund"),
            job: self.spec.job,
        };
        match money::post(&self.service, &refund)? {
            // All of it was spent.
            Ok(_) | Err(skep_market::PostError::Nothing) => Ok(()),
            Err(error) => Err(failed(error)),
        }
    }

    fn entry(&self, what: &str) -> Digest {
        Digest::of(&[what.as_bytes(), self.spec.job.as_bytes()].concat())
    }

    /// Writes events down, and only then lets the job know.
    fn note(&mut self, events: &[Event]) -> Result<(), Failure> {
        tokio::task::block_in_place(|| self.journal.append(events)).map_err(failed)?;
        for event in events {
            self.job.apply(event).map_err(failed)?;
        }
        Ok(())
    }

    fn decide(&mut self) -> Result<(), Failure> {
        loop {
            let decisions = self.job.decide(now(), &self.offers());
            if decisions.is_empty() {
                return Ok(());
            }
            let mut events = Vec::new();
            for decision in decisions {
                events.push(match decision {
                    Decision::Note(event) => event,
                    Decision::Lease {
                        id,
                        provider,
                        limit,
                    } => self.lease(id, provider, limit)?,
                });
            }
            self.note(&events)?;
        }
    }

    fn offers(&self) -> Vec<Offer> {
        let seen = self.service.jobs.seen();
        let quotes = self.quotes.iter();
        let offers = quotes.map(|(account, (_, quotation))| Offer {
            provider: *account,
            price: typical(&quotation.tariff(), self.spec.largest),
            warmth: Warmth {
                package: quotation.warm,
                ..Warmth::default()
            },
            reputation: seen.get(account).copied().unwrap_or_default(),
            slots: quotation.slots,
        });
        offers.collect()
    }

    fn lease(&self, id: AttemptId, provider: AccountId, limit: Credits) -> Result<Event, Failure> {
        let gone = || Failure::new(FailureKind::Failed, "a provider was chosen that has gone");
        let (_, quotation) = self.quotes.get(&provider).ok_or_else(gone)?;
        let input = self.folder.shard(&self.spec, id.shard)?;
        let nobody = Candidates::new(Vec::new()).map_err(failed)?;
        let secret = AuditSecret::of_lease(&self.spec.root, self.spec.job, id.shard, id.attempt);
        let issued = now();
        let lease = Lease {
            job: self.spec.job,
            shard: id.shard,
            attempt: id.attempt,
            requester: self.account.id(),
            provider,
            work: Work {
                package: self.spec.release,
                model: self.spec.model,
                adapter: None,
                input: Digest::of(&input),
                seed: 0,
            },
            tariff: quotation.tariff(),
            allowance: Meter {
                tokens: 0,
                flops: FLOPS,
                bytes: (input.len() as u64).saturating_add(quotation.largest_output.min(1 << 30)),
                residency: 0,
            },
            limit,
            split: Split::default(),
            issued,
            deadline: self.spec.deadline.max(issued + 1),
            audit: AuditTerms {
                secret: secret.commitment(),
                candidates: nobody.digest(),
                rate: 0,
                panel: 3,
                exact: false,
            },
        };
        let lease = lease.sign(&self.account).map_err(failed)?;
        Ok(Event::Leased {
            id,
            at: issued,
            provider,
            limit,
            lease: lease.digest(),
            encoding: lease.encode(),
        })
    }

    /// Does what is outstanding and not being done.
    fn act(&mut self, swarm: &Swarm) -> Result<(), Failure> {
        loop {
            let mut events = Vec::new();
            let mut open = BTreeSet::new();
            let (mut begin, mut paid) = (Vec::new(), Vec::new());
            for outstanding in self.job.outstanding() {
                match outstanding {
                    Outstanding::Send {
                        id,
                        provider,
                        lease,
                    } => {
                        open.insert(id);
                        if !self.sends.contains_key(&id) && self.quotes.contains_key(&provider) {
                            begin.push((id, provider, lease.to_vec()));
                        }
                    }
                    Outstanding::Pay { id, receipt, .. } => {
                        paid.push(self.pay(receipt)?);
                        events.push(Event::Paid { id, at: now() });
                    }
                    Outstanding::Assemble { shard, output } => {
                        let length = self.job.assembled_bytes();
                        tokio::task::block_in_place(|| self.folder.append(length, output))?;
                        events.push(Event::Assembled { shard, at: now() });
                    }
                }
            }
            self.proofs.extend(paid);
            // Whoever works on a lease that was withdrawn learns it by the end of the connection.
            self.sends.retain(|id, send| {
                let keeps = open.contains(id);
                if !keeps {
                    send.handle.abort();
                }
                keeps
            });
            for (id, provider, lease) in begin {
                self.send(swarm, id, provider, &lease)?;
            }
            if events.is_empty() {
                return Ok(());
            }
            self.note(&events)?;
        }
    }

    /// Countersigns a receipt and pays it out of what is held for the job.
    fn pay(&self, receipt: &[u8]) -> Result<Agreed<Receipt>, Failure> {
        let agreed = self.countersigned(receipt)?;
        if agreed.price > Credits::ZERO {
            money::post(&self.service, &Operation::Release(&agreed))?.map_err(failed)?;
        }
        Ok(agreed)
    }

    fn countersigned(&self, receipt: &[u8]) -> Result<Agreed<Receipt>, Failure> {
        let receipt = Signed::<Receipt>::decode(receipt, &mut Keys::default()).map_err(failed)?;
        receipt.accept(&self.account).map_err(failed)
    }

    /// Gives providers the receipts that both have signed, as far as they can be reached.
    fn hand_over(&mut self, swarm: &Swarm) {
        for receipt in std::mem::take(&mut self.proofs) {
            let Some((node, _)) = self.quotes.get(&receipt.provider) else {
                self.proofs.push(receipt);
                continue;
            };
            let (swarm, node) = (swarm.clone(), node.clone());
            self.handing += 1;
            self.tasks.spawn(async move {
                let settled = talk::settle(&swarm, &node, &receipt).await;
                Happened::Settled(Box::new(receipt), settled)
            });
        }
    }

    /// Whether every provider has its proofs, or was waited for long enough after the end.
    fn have_proofs(&mut self) -> bool {
        let since = *self.patience.get_or_insert_with(Instant::now);
        let all = self.proofs.is_empty() && self.handing == 0;
        all || since.elapsed() >= PROOFS
    }

    fn send(
        &mut self,
        swarm: &Swarm,
        id: AttemptId,
        provider: AccountId,
        lease: &[u8],
    ) -> Result<(), Failure> {
        let Some((node, _)) = self.quotes.get(&provider) else {
            return Ok(());
        };
        let lease = Signed::<Lease>::decode(lease, &mut Keys::default()).map_err(failed)?;
        let input = self.folder.shard(&self.spec, id.shard)?;
        let (swarm, node, account) = (swarm.clone(), node.clone(), Arc::clone(&self.account));
        let records = Arc::new(AtomicU64::new(0));
        let done = Arc::clone(&records);
        let handle = self.tasks.spawn(async move {
            let sources = vec![swarm.ticket().to_string()];
            let came = talk::perform(&swarm, &node, &account, &lease, &input, sources, &done).await;
            Happened::Sent(id, came.map(Box::new))
        });
        self.sends.insert(id, Send { handle, records });
        Ok(())
    }

    fn take_in(&mut self, happened: Happened) -> Result<(), Failure> {
        match happened {
            Happened::Quotes(quotes) => {
                self.quoting = Some(Instant::now());
                self.quotes.clear();
                self.refusals.clear();
                for (node, quote) in quotes {
                    match quote {
                        Ok(quotation) => {
                            let account = AccountId::from_bytes(quotation.account);
                            self.quotes.insert(account, (node, quotation));
                        }
                        Err(error) => {
                            let name = node.id.fmt_short();
                            self.refusals.insert(name, error.to_string());
                        }
                    }
                }
                Ok(())
            }
            Happened::Settled(receipt, settled) => {
                self.handing -= 1;
                match settled {
                    Ok(()) => {}
                    Err(TalkError::Channel(error)) => {
                        tracing::info!(%error, "a provider is not there to take its receipt");
                        self.quotes.remove(&receipt.provider);
                        self.proofs.push(*receipt);
                    }
                    Err(error) => tracing::warn!(%error, "a provider does not take its receipt"),
                }
                Ok(())
            }
            Happened::Sent(id, came) => self.came(id, came),
        }
    }

    /// A task ended without saying what came of it: it was called off, or it failed in a way that
    /// nobody thought of, and then its shard must not wait for it.
    fn lost(&mut self, error: &JoinError) -> Result<(), Failure> {
        if error.is_cancelled() {
            return Ok(());
        }
        tracing::warn!(%error, "a conversation of a job broke off");
        let mut sends = self.sends.iter();
        let found = sends.find(|(_, send)| send.handle.id() == error.id());
        match found.map(|(id, _)| *id) {
            Some(id) => self.came(id, Err(TalkError::Broken)),
            None => Ok(()),
        }
    }

    /// Writes down what came of a lease; an output is on disk before.
    fn came(
        &mut self,
        id: AttemptId,
        came: Result<Box<Delivered>, TalkError>,
    ) -> Result<(), Failure> {
        self.sends.remove(&id);
        let provider = self.job.provider(id);
        let (event, conduct) = match came {
            Ok(delivered) => {
                let Delivered { receipt, output } = *delivered;
                let digest = receipt.output;
                tokio::task::block_in_place(|| self.folder.keep(digest, &output))?;
                let event = Event::Delivered {
                    id,
                    at: now(),
                    output: digest,
                    bytes: output.len() as u64,
                    price: receipt.price,
                    audited: false,
                    receipt: receipt.encode(),
                };
                (event, Conduct::Delivered)
            }
            Err(error) => {
                self.trouble = Some(format!("shard {}: {error}", id.shard));
                // Who cannot be reached is asked again once it answers.
                if let (TalkError::Channel(_), Some(provider)) = (&error, &provider) {
                    self.quotes.remove(provider);
                }
                (Event::Failed { id, at: now() }, Conduct::Failed)
            }
        };
        self.note(&[event])?;
        let mut seen = self.service.jobs.seen();
        if let Some(provider) = provider {
            seen.entry(provider).or_default().note(conduct);
        }
        for (_, liar) in self.job.outvoted() {
            seen.entry(liar).or_default().note(Conduct::Lied);
        }
        Ok(())
    }

    /// Asks every node that is known what it would take, now and then.
    fn ask_around(&mut self, swarm: &Swarm) -> Result<(), Failure> {
        let is_due = match self.quoting {
            None => true,
            Some(last) => last.elapsed() >= QUOTES,
        };
        let is_done = self.job.finished() == self.job.plan().shards;
        if !is_due || (is_done && self.proofs.is_empty()) {
            return Ok(());
        }
        // Until they answer; then the time of that counts.
        self.quoting = Instant::now().checked_add(Duration::from_secs(60));
        let named = install::nodes_of(&self.spec.providers)?;
        let (swarm, package, largest) = (swarm.clone(), self.spec.release, self.spec.largest);
        self.tasks.spawn(async move {
            let quotes = quotes(&swarm, named, package, largest).await;
            Happened::Quotes(quotes)
        });
        Ok(())
    }

    fn view(&self) -> JobView {
        let records = |id: AttemptId| {
            let send = self.sends.get(&id);
            send.map_or(0, |send| send.records.load(Ordering::Relaxed))
        };
        answer::view(
            &self.spec,
            &self.job,
            JobState::Running,
            self.reason(),
            records,
        )
    }

    /// Why it ended without its result, or what keeps it.
    fn reason(&self) -> Option<String> {
        if let Some(why) = self.job.gave_up() {
            let trouble = self
                .trouble
                .iter()
                .map(|trouble| format!("; last, {trouble}"));
            return Some(format!("{why}{}", trouble.collect::<String>()));
        }
        if self.quotes.is_empty() && !self.refusals.is_empty() {
            return Some(format!("no node takes it: {}", listed(&self.refusals)));
        }
        self.trouble.clone()
    }
}
