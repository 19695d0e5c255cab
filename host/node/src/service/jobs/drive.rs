//! Seeing a job through: asks its state what is next, writes down what is decided, and then does it.
//!
//! Nothing is remembered here that is not in the journal, but for who could be asked, what is being said to whom, and
//! with whom that broke off by a fault here; killed at any moment, it begins with the journal again. `lease` makes out
//! leases and `send` sends them, `came` takes in what comes of them, `assemble` puts that together, `audit` sees to it
//! that results are looked at and liars charged, `pay` keeps the books, `label` finds out who is attested, `busy` puts
//! off those that have no place, and `told` is what others are told of it.

mod assemble;
mod audit;
mod busy;
mod came;
mod label;
mod lease;
mod pay;
mod send;
mod told;

pub use lease::SMALLEST_PANEL;
pub use told::too_dear;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use skep_evidence::{AccountId, AccountKey, Agreed, Keys, Receipt, Split};
use skep_market::{
    AttemptId, Conduct, Dealings, Decision, Event, GaveUp, Job, Journal, Kept, Outstanding,
    Quotation,
};
use skep_registry::Digest;
use skep_swarm::{ProviderAddr, Swarm};
use tokio::sync::{Notify, watch};
use tokio::task::JoinSet;

use self::pay::Books;
use self::send::Send;
use super::around::{Asked, Quotes, quotes};
use super::folder::{Folder, Spec, with_the_job};
use super::found::Finding;
use super::shown::Shown;
use super::suitable::suitable;
use super::talk::{Delivered, TalkError};
use super::{answer, attest, failed, money, now};
use crate::failure::Failure;
use crate::requests::hardware::Hardware;
use crate::requests::jobs::{JobState, JobView};
use crate::service::{Service, locate};

/// How often time is looked at when nothing else happens.
const TICK: Duration = Duration::from_millis(250);
/// A process that has not looked for so long was not there: the machine slept.
const SLEPT: u64 = 30_000;
/// How often providers are asked whether they would still take a shard.
const QUOTES: Duration = Duration::from_secs(5);

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

/// Works on a job from here on, unless this process does already. `quotes` is what those said who
/// have just been asked, if any were.
pub fn begin(
    service: &Arc<Service>,
    folder: &Folder,
    quotes: Option<Quotes>,
) -> Result<Arc<Running>, Failure> {
    let mut all = service.jobs.running();
    if let Some(running) = all.get(&folder.id) {
        return Ok(Arc::clone(running));
    }
    let mut driver = Driver::open(service, folder)?;
    let running = Arc::clone(&driver.running);
    all.insert(folder.id, Arc::clone(&running));
    drop(all);
    if let Some(quotes) = quotes {
        driver.take_in(Happened::Quotes(quotes));
        // Whoever leaves the job to this process is told what it waits for, if it has to.
        let view = driver.view();
        driver.shown.show(view);
    }
    service.jobs.drive(driver.run());
    Ok(running)
}

/// Something that was waited for.
enum Happened {
    /// Who would take a shard.
    Quotes(Quotes),
    /// What came of a lease.
    Sent(AttemptId, Result<Box<Delivered>, TalkError>),
    /// A provider has its receipts, or could not be given them.
    Settled(AccountId, Vec<Agreed<Receipt>>, Result<(), TalkError>),
    /// A provider was asked what it runs on.
    Showed(AccountId, Finding),
}

struct Driver {
    service: Arc<Service>,
    account: Arc<AccountKey>,
    dealings: Arc<Dealings>,
    folder: Folder,
    spec: Spec,
    job: Job,
    journal: Journal,
    shown: Shown,
    running: Arc<Running>,
    /// Who gets a part of every price, whoever the provider is.
    split: Split,
    /// The providers that keep things ready, each with the lease by which it does.
    reserved: BTreeMap<AccountId, AttemptId>,
    quotes: BTreeMap<AccountId, (ProviderAddr, Quotation)>,
    refusals: BTreeMap<String, String>,
    /// What last went wrong with a shard.
    trouble: Option<String>,
    /// Why the result is not where it was to go.
    undelivered: Option<String>,
    sends: HashMap<AttemptId, Send>,
    /// Leases whose providers did not take them then, and have not been given them again.
    put_off: BTreeSet<AttemptId>,
    /// How often a conversation with each provider broke off by a fault here.
    broke_off: BTreeMap<AccountId, u32>,
    /// Whose stakes stay where they are because of this job, as far as this process has seen to it.
    bound: BTreeSet<AccountId>,
    /// Receipts that are paid and whose providers are to have them as proof, and until when.
    proofs: Vec<Agreed<Receipt>>,
    /// Those who are being given some of them.
    handing: BTreeSet<AccountId>,
    /// Those who are being asked what they run on.
    showing: BTreeSet<AccountId>,
    /// What was found of those who were, by account.
    hardware: BTreeMap<String, Hardware>,
    /// The keys of those who signed something for this job.
    keys: Keys,
    /// When something was last paid or put together.
    books: Books,
    patience: Option<Instant>,
    tasks: JoinSet<Happened>,
    quoting: Option<Instant>,
}

impl Driver {
    /// A job as its journal says that it stands.
    fn open(service: &Arc<Service>, folder: &Folder) -> Result<Self, Failure> {
        let spec = folder.spec()?;
        let opened = tokio::task::block_in_place(|| Journal::open(&folder.journal(), spec.job));
        let (journal, events) = opened.map_err(|error| answer::unopened(folder, error))?;
        // Who has the journal is the only one that outputs come to.
        tokio::task::block_in_place(|| folder.forget_coming())?;
        let mut job = Job::resume(spec.plan(), &events).map_err(failed)?;
        job.watch_from(now());
        let first = answer::view(folder, &spec, &job, JobState::Running, None, |_| 0);
        let (publish, view) = watch::channel(first);
        let shown = Shown::new(publish, spec.shards.len());
        let running = Running {
            view,
            cancelled: AtomicBool::new(false),
            wake: Notify::new(),
        };
        Ok(Self {
            split: spec.split()?,
            reserved: match spec.warm {
                0 => BTreeMap::new(),
                _ => lease::reserved(&events)?,
            },
            account: money::account(service)?,
            dealings: money::dealings(service)?,
            hardware: folder.hardware(),
            folder: folder.clone(),
            spec,
            job,
            journal,
            shown,
            running: Arc::new(running),
            service: Arc::clone(service),
            quotes: BTreeMap::new(),
            refusals: BTreeMap::new(),
            trouble: None,
            undelivered: None,
            sends: HashMap::new(),
            put_off: BTreeSet::new(),
            broke_off: BTreeMap::new(),
            proofs: Vec::new(),
            bound: BTreeSet::new(),
            handing: BTreeSet::new(),
            showing: BTreeSet::new(),
            keys: Keys::default(),
            books: Books::default(),
            patience: None,
            tasks: JoinSet::new(),
            quoting: None,
        })
    }

    async fn run(mut self) {
        let ended = self.see_through().await;
        let (state, reason) = match &ended {
            Ok(()) if self.job.is_complete() => (JobState::Done, self.undelivered.take()),
            Ok(()) => (JobState::Failed, self.reason()),
            Err(failure) => {
                tracing::warn!(job = %self.folder.id, %failure, "a job cannot be gone on with");
                (JobState::Paused, Some(failure.message.clone()))
            }
        };
        let view = answer::view(&self.folder, &self.spec, &self.job, state, reason, |_| 0);
        let Self {
            service,
            folder,
            journal,
            mut shown,
            ..
        } = self;
        // Before whoever watches learns of the end, the journal is free for whoever asks next.
        drop(journal);
        service.jobs.running().remove(&folder.id);
        shown.show(view);
    }

    async fn see_through(&mut self) -> Result<(), Failure> {
        let service = Arc::clone(&self.service);
        let swarm = service.swarm().await?;
        // Those who take shards have what these run from here.
        let adapter = self.spec.adapter.as_ref().map(|adapter| adapter.release);
        let used: Vec<Digest> = [Some(self.spec.release), adapter]
            .into_iter()
            .flatten()
            .collect();
        let _held = locate::hold(swarm, &used).await;
        let funded = self.fund()?;
        self.bind_earlier(funded)?;
        // Whoever was killed may have paid and not told: once more does no harm.
        let paid: Vec<Vec<u8>> = self.job.paid().map(<[u8]>::to_vec).collect();
        for receipt in paid {
            let receipt = pay::countersigned(&receipt, &self.account, &mut self.keys)?;
            self.proofs.push(receipt);
        }
        let mut looked = now();
        loop {
            let last = std::mem::replace(&mut looked, now());
            if looked.saturating_sub(last) > SLEPT {
                self.job.watch_from(looked);
            }
            if self.running.cancelled.load(Ordering::SeqCst) && self.job.gave_up().is_none() {
                let why = GaveUp::Cancelled;
                self.note_compared(&[Event::GaveUp { at: now(), why }])?;
            }
            self.decide()?;
            self.act(swarm)?;
            let has_ended = self.job.is_complete() || self.job.gave_up().is_some();
            if has_ended && self.job.outstanding().is_empty() && self.sends.is_empty() {
                if self.job.is_complete() && self.patience.is_none() {
                    self.deliver();
                }
                if self.have_proofs() && self.have_labels() {
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
            let rest = self.books_rest();
            let tick = if rest.is_zero() { TICK } else { rest };
            tokio::select! {
                Some(happened) = self.tasks.join_next_with_id() => self.take_in_all(happened)?,
                () = tokio::time::sleep(tick) => {}
                () = running.wake.notified() => {}
            }
        }
        self.refund()?;
        // What lost against others stays, for whoever checks the job.
        let lost = self.job.lost_outputs();
        for digest in &lost {
            if let Some(output) = self.journal.output(*digest).map_err(failed)? {
                self.folder.keep(*digest, &output)?;
            }
        }
        self.folder.set_over(&lost)?;
        self.journal.forget_outputs().map_err(failed)
    }

    /// Writes the result to where it goes. Where that cannot be, the job ends all the same: the result is with the job,
    /// and no credits are held for it any more.
    fn deliver(&mut self) {
        if let Err(failure) = self.folder.deliver_as(&self.spec) {
            tracing::warn!(job = %self.folder.id, %failure, "a result is not where it was to go");
            self.undelivered = Some(with_the_job(&failure.message));
        }
    }

    /// Writes events down, and only then lets the job know.
    fn note(&mut self, events: &[Event]) -> Result<(), Failure> {
        self.note_with(events, &Kept::default())
    }

    /// The same, with what came with them.
    fn note_with(&mut self, events: &[Event], kept: &Kept) -> Result<(), Failure> {
        tokio::task::block_in_place(|| self.journal.append_with(events, kept)).map_err(failed)?;
        for event in events {
            self.job.apply(event).map_err(failed)?;
            if self.spec.warm > 0 {
                lease::note_reserved(&mut self.reserved, event)?;
            }
        }
        Ok(())
    }

    fn decide(&mut self) -> Result<(), Failure> {
        loop {
            let offers = self.offers()?;
            let decisions = self.job.decide(now(), &offers);
            if decisions.is_empty() {
                let Some(moved) = self.moved(&offers) else {
                    return Ok(());
                };
                self.note(&[moved])?;
                continue;
            }
            let mut events = Vec::new();
            for decision in decisions {
                match decision {
                    Decision::Note(event) => events.push(event),
                    Decision::Lease {
                        id,
                        provider,
                        limit,
                        audits,
                    } => events.push(self.lease(id, provider, limit, audits)?),
                    Decision::Audited(outcome) => {
                        // Charged and remembered before it is written down: whoever is killed in between
                        // finds the same again, and what is charged twice is charged once.
                        self.charge(&outcome)?;
                        events.extend(outcome.events(now()));
                    }
                }
            }
            self.bind(&events)?;
            self.note_compared(&events)?;
        }
    }

    /// Writes down what was decided, and remembers what follows from it of those whose results were compared.
    fn note_compared(&mut self, events: &[Event]) -> Result<(), Failure> {
        let gives_up = |event: &Event| matches!(event, Event::GaveUp { .. });
        let shards: BTreeSet<u32> = match events.iter().any(gives_up) {
            // What enough agreed on counts with that, wherever somebody that is odd was looked at.
            true => (0..self.job.plan().shards).collect(),
            false => {
                let audited = events.iter().filter_map(|event| match event {
                    Event::Audited { id, .. } => Some(id.shard),
                    _ => None,
                });
                audited.collect()
            }
        };
        self.note_seen(events, &Kept::default(), shards)
    }

    /// Writes events down with what came with them, and remembers before that what they show of those who made these
    /// shards, of which no output counted before: who lied is not asked again, who was outvoted is asked last. Whoever
    /// is killed in between finds the same again, and what is remembered twice is remembered once.
    fn note_seen(
        &mut self,
        events: &[Event],
        kept: &Kept,
        mut shards: BTreeSet<u32>,
    ) -> Result<(), Failure> {
        shards.retain(|shard| self.job.accepted(*shard).is_none());
        self.remember(&self.job.conducts_after(events, &shards))?;
        self.note_with(events, kept)
    }

    fn remember(&self, conduct: &[(AccountId, Conduct)]) -> Result<(), Failure> {
        tokio::task::block_in_place(|| self.dealings.note(conduct)).map_err(failed)
    }

    /// Does what is outstanding and not being done.
    fn act(&mut self, swarm: &Swarm) -> Result<(), Failure> {
        let keeps_books = self.books_rest().is_zero();
        loop {
            let unsettled = match self.put_off.is_empty() {
                true => BTreeSet::new(),
                false => self.unsettled(),
            };
            // It may have been put off for want of these receipts.
            let waits = |id: &AttemptId, provider: &AccountId| {
                self.put_off.contains(id) && unsettled.contains(provider)
            };
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
                        if !self.sends.contains_key(&id)
                            && self.quotes.contains_key(&provider)
                            && !waits(&id, &provider)
                        {
                            begin.push((id, provider, lease.to_vec()));
                        }
                    }
                    Outstanding::Pay { id, receipt, .. } if keeps_books => {
                        let (account, keys) = (&self.account, &mut self.keys);
                        paid.push(pay::countersigned(receipt, account, keys)?);
                        events.push(Event::Paid { id, at: now() });
                    }
                    Outstanding::Pay { .. } | Outstanding::Assemble { .. } => {}
                }
            }
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
                self.label(swarm, provider);
            }
            // Those who are to work do, while this waits for the disk.
            if keeps_books {
                events.extend(self.assemble()?);
            }
            self.pay(&paid)?;
            self.proofs.extend(paid);
            if events.is_empty() {
                return Ok(());
            }
            self.note(&events)?;
            // Leases alone do not put the books off, or those that follow each other would for ever.
            if keeps_books {
                self.books.keep(Instant::now());
            }
        }
    }

    fn take_in(&mut self, happened: Happened) {
        match happened {
            Happened::Quotes(quotes) => {
                self.quoting = Some(Instant::now());
                self.quotes.clear();
                self.refusals.clear();
                for (node, quote) in suitable(quotes, self.account.id(), &self.split) {
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
            }
            Happened::Settled(provider, receipts, settled) => {
                self.handing.remove(&provider);
                match settled {
                    Ok(()) => {}
                    Err(TalkError::Channel(error)) => {
                        tracing::info!(%error, "a provider is not there to take its receipts");
                        self.quotes.remove(&provider);
                        self.proofs.extend(receipts);
                    }
                    Err(error) => tracing::warn!(%error, "a provider does not take its receipts"),
                }
            }
            Happened::Showed(provider, finding) => self.labelled(provider, finding),
            // What came of leases is taken in together.
            Happened::Sent(..) => {}
        }
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
        let asked = Asked::of(&self.spec.providers, self.spec.only)?;
        let (swarm, wanted, largest) = (swarm.clone(), self.wanted(), self.spec.largest);
        let (service, has_to_attest) = (Arc::clone(&self.service), self.spec.attested);
        self.tasks.spawn(async move {
            let mut quotes = quotes(&swarm, asked, wanted, largest).await;
            if has_to_attest {
                quotes = attest::attested(&service, &swarm, quotes).await;
            }
            Happened::Quotes(quotes)
        });
        Ok(())
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;
