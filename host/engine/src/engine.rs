//! The engine: a thread that puts batch after batch through a model, and the calls that feed it.
//!
//! Calls check what they are given, compile grammars and cut texts into tokens on their own
//! thread, and hand over texts; the engine's thread alone touches the scheduler. What it has to
//! say goes into the call's mailbox.

mod attached;

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use skep_kernels::Team;

use crate::adapters::{AdapterStore, Lease};
use crate::checking::{CheckRequest, FollowRequest};
use crate::error::{EngineError, StartError};
use crate::generation::{Checks, Embeddings, Follows, Generation, Scores};
use crate::mailbox::{Mail, Mailbox};
use crate::model::LanguageModel;
use crate::request::{Caller, Priority, Request, ScoreRequest};
use crate::rests::{BackgroundTime, Rests, Share, rest_until};
use crate::runner::{Backend, Processor};
use crate::scheduler::{Delivery, Event, Options, Prepared, Scheduler, Tally, Task, store_options};

/// An engine for one model. Clones are the same engine; it ends with the last.
#[derive(Clone)]
pub struct Engine(Arc<Running>);

struct Running {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

struct Shared {
    model: Arc<LanguageModel>,
    /// What people call whoever computes it.
    device: String,
    device_bytes: AtomicU64,
    options: Options,
    inbox: Mutex<Inbox>,
    wake: Condvar,
    tickets: AtomicU64,
    /// Texts that were handed over and are not over.
    texts: AtomicUsize,
    kv_bytes: AtomicU64,
    cached_bytes: AtomicU64,
    adapter_bytes: AtomicU64,
    tally: Mutex<Tally>,
    background: Mutex<BackgroundTime>,
    adapters: Arc<Mutex<AdapterStore>>,
    others: OnceLock<Others>,
}

/// Says whether others want the processors.
type Others = Box<dyn Fn() -> bool + Send + Sync>;

#[derive(Default)]
struct Inbox {
    commands: Vec<Command>,
    ended: bool,
}

enum Command {
    Submit(Submission),
    Cancel(u64),
    /// An adapter is about to be asked for.
    Fetch(Lease),
    /// An owner asks for nothing more.
    Forget(u64),
}

/// One request of a call on its way to the scheduler.
struct Submission {
    ticket: u64,
    mail: Arc<Mailbox>,
    request: usize,
    caller: Caller,
    prepared: Prepared,
}

/// Bytes that a model takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct MemoryReport {
    /// Of the weights, the draft model's among them, which stay in their mapped files.
    pub weights: u64,
    /// Of keys and values that texts hold.
    pub kv: u64,
    /// Of keys and values that are remembered, in case a text begins alike, and are held by none.
    pub cached: u64,
    /// Of adapters.
    pub adapters: u64,
    /// Of the memory of the device that computes, if it has one of its own: weights, the whole pool
    /// of pages, and what a pass writes between. None on the processor.
    pub device: u64,
}

/// The engine's side of a call. Dropping it takes back what has not been answered.
pub(crate) struct Ticket {
    number: u64,
    mail: Arc<Mailbox>,
    shared: Arc<Shared>,
}

impl Ticket {
    pub(crate) fn mail(&self) -> &Mailbox {
        &self.mail
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        if self.mail.is_over() {
            return;
        }
        self.shared
            .inbox()
            .commands
            .push(Command::Cancel(self.number));
        self.shared.wake.notify_all();
    }
}

impl Engine {
    /// Starts an engine whose products `team` computes, on the processor.
    ///
    /// # Errors
    /// When the system refuses a thread.
    pub fn start(
        model: Arc<LanguageModel>,
        team: Arc<Team>,
        options: Options,
    ) -> Result<Self, StartError> {
        Self::start_on(model, &Processor(team), options)
    }

    /// Starts an engine for a model that this backend computes. Returns once the model is there.
    ///
    /// # Errors
    /// When the backend has no room for the model, or cannot compute it; when the system refuses a
    /// thread.
    pub fn start_on(
        model: Arc<LanguageModel>,
        backend: &dyn Backend,
        options: Options,
    ) -> Result<Self, StartError> {
        let adapters = Arc::new(Mutex::new(AdapterStore::new(store_options(
            &model, &options,
        ))?));
        let scheduler = Scheduler::new(
            Arc::clone(&model),
            backend,
            options.clone(),
            Arc::clone(&adapters),
        );
        let scheduler = scheduler.map_err(|source| StartError::Load {
            name: model.name.clone(),
            source,
        })?;
        let shared = Arc::new(Shared {
            model,
            device: backend.name().to_owned(),
            device_bytes: AtomicU64::new(scheduler.device_bytes()),
            options,
            inbox: Mutex::default(),
            wake: Condvar::new(),
            tickets: AtomicU64::new(0),
            texts: AtomicUsize::new(0),
            kv_bytes: AtomicU64::new(0),
            cached_bytes: AtomicU64::new(0),
            adapter_bytes: AtomicU64::new(0),
            tally: Mutex::default(),
            background: Mutex::default(),
            adapters,
            others: OnceLock::new(),
        });
        let worker = Worker {
            scheduler,
            shared: Arc::clone(&shared),
            groups: HashMap::new(),
            rests: Rests::default(),
            share: Share::default(),
        };
        let thread = std::thread::Builder::new()
            .name("skep-engine".to_owned())
            .spawn(move || worker.run())?;
        Ok(Self(Arc::new(Running {
            shared,
            thread: Some(thread),
        })))
    }

    /// The model.
    pub fn model(&self) -> &LanguageModel {
        &self.0.shared.model
    }

    /// What people call whoever computes the model: `processor`, or the device's name.
    pub fn device(&self) -> &str {
        &self.0.shared.device
    }

    /// Leaves others a part of the processors' time whenever `others` says that they want it:
    /// those who run below these threads, whom a model that is never idle would starve. Only the
    /// first call counts.
    pub fn give_way_to(&self, others: impl Fn() -> bool + Send + Sync + 'static) {
        let _ = self.0.shared.others.set(Box::new(others));
    }

    /// Writes a text, or several, to each request. Returns at once; a request that cannot be
    /// taken on has its error in the generation.
    pub fn generate(&self, caller: &Caller, requests: Vec<Request>) -> Generation {
        let prompts = requests.iter().map(|r| r.prompt.len()).collect();
        let tasks = requests.into_iter().map(Task::Write).collect();
        Generation::new(self.ask(caller, tasks), prompts)
    }

    /// How likely each choice of each request is.
    pub fn score(&self, caller: &Caller, requests: Vec<ScoreRequest>) -> Scores {
        let count = requests.len();
        let tasks = requests.into_iter().map(Task::Score).collect();
        Scores::new(self.ask(caller, tasks), count)
    }

    /// The mean of the last hidden states of each text's tokens, scaled to length 1.
    pub fn embed(&self, caller: &Caller, texts: Vec<Vec<u32>>) -> Embeddings {
        let count = texts.len();
        let tasks = texts.into_iter().map(Task::Embed).collect();
        Embeddings::new(self.ask(caller, tasks), count)
    }

    /// Compares texts that others say this model wrote with what it says here: each in one pass,
    /// at the price of its prompt and tokens as a prompt.
    pub fn check(&self, caller: &Caller, requests: Vec<CheckRequest>) -> Checks {
        let mut claims = Vec::with_capacity(requests.len());
        let tasks = requests.into_iter().map(|check| {
            claims.push((check.commitments, check.tolerance, check.tokens.len()));
            Task::Follow(FollowRequest {
                request: check.request,
                sample: check.sample,
                tokens: check.tokens,
            })
        });
        let tasks = tasks.collect();
        Checks::new(self.ask(caller, tasks), claims)
    }

    /// Goes over texts that others wrote, as [`Self::check`] does, and takes them for the answers: at
    /// the price of having written them.
    pub fn follow(&self, caller: &Caller, requests: Vec<FollowRequest>) -> Follows {
        let count = requests.len();
        let tasks = requests.into_iter().map(Task::Follow).collect();
        Follows::new(self.ask(caller, tasks), count)
    }

    /// Keeps no keys and values of this owner's texts any longer: it asks for nothing more.
    pub fn forget(&self, owner: u64) {
        let shared = &self.0.shared;
        shared.inbox().commands.push(Command::Forget(owner));
        shared.wake.notify_all();
    }

    /// What texts were written in so far, and how right guesses were.
    pub fn tally(&self) -> Tally {
        let tally = self.0.shared.tally.lock();
        *tally.unwrap_or_else(PoisonError::into_inner)
    }

    /// How work of the background has been kept within its part of the time so far.
    pub fn background_time(&self) -> BackgroundTime {
        let time = self.0.shared.background.lock();
        *time.unwrap_or_else(PoisonError::into_inner)
    }

    /// What the model takes at the moment.
    pub fn memory(&self) -> MemoryReport {
        let shared = &self.0.shared;
        let draft = shared.model.draft.as_ref();
        MemoryReport {
            weights: shared.model.weights_bytes + draft.map_or(0, |draft| draft.weights_bytes),
            kv: shared.kv_bytes.load(Ordering::Relaxed),
            cached: shared.cached_bytes.load(Ordering::Relaxed),
            adapters: shared.adapter_bytes.load(Ordering::Relaxed),
            device: shared.device_bytes.load(Ordering::Relaxed),
        }
    }

    fn ask(&self, caller: &Caller, tasks: Vec<Task>) -> Ticket {
        let shared = &self.0.shared;
        let ticket = Ticket {
            number: shared.tickets.fetch_add(1, Ordering::Relaxed),
            mail: Arc::new(Mailbox::new(tasks.len())),
            shared: Arc::clone(shared),
        };
        for (request, task) in tasks.into_iter().enumerate() {
            match shared.prepare(task) {
                Ok(prepared) => {
                    let submission = Submission {
                        ticket: ticket.number,
                        mail: Arc::clone(&ticket.mail),
                        request,
                        caller: caller.clone(),
                        prepared,
                    };
                    shared.inbox().commands.push(Command::Submit(submission));
                }
                Err(failure) => ticket.mail.put(failed(request, failure), true),
            }
        }
        shared.wake.notify_all();
        ticket
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.shared.inbox().ended = true;
        self.shared.wake.notify_all();
        if let Some(thread) = self.thread.take()
            && thread.thread().id() != std::thread::current().id()
        {
            // It catches what panics in a step, so there is nothing to learn from it.
            drop(thread.join());
        }
    }
}

impl Shared {
    fn inbox(&self) -> MutexGuard<'_, Inbox> {
        self.inbox.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn adapters(&self) -> MutexGuard<'_, AdapterStore> {
        self.adapters.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes texts of a task, if there is room for them.
    fn prepare(&self, task: Task) -> Result<Prepared, EngineError> {
        // Looked at before grammars are compiled, and counted once it is known how many there are.
        let waiting = self.texts.load(Ordering::Relaxed);
        if waiting > 0 && waiting + task.texts() > self.options.texts {
            return Err(EngineError::Busy { waiting });
        }
        let prepared = Prepared::new(&self.model, &self.options, &self.adapters, task)?;
        self.texts.fetch_add(prepared.texts(), Ordering::Relaxed);
        Ok(prepared)
    }
}

fn failed(request: usize, failure: EngineError) -> Mail {
    Mail {
        request,
        event: Event::Failed(failure),
        cached_tokens: 0,
    }
}

/// A request that the scheduler has.
struct Open {
    ticket: u64,
    mail: Arc<Mailbox>,
    request: usize,
    texts: usize,
}

/// The engine's thread.
struct Worker {
    scheduler: Scheduler,
    shared: Arc<Shared>,
    groups: HashMap<u64, Open>,
    rests: Rests,
    share: Share,
}

impl Worker {
    fn run(mut self) {
        while let Some(commands) = self.next() {
            for command in commands {
                match command {
                    Command::Submit(submission) => self.submit(submission),
                    Command::Cancel(ticket) => self.cancel(ticket),
                    Command::Fetch(lease) => self.scheduler.fetch(&lease),
                    Command::Forget(owner) => self.scheduler.forget(owner),
                }
            }
            let began = Instant::now();
            let held = self.share.waits_until(began).is_some();
            self.scheduler.hold_background(held);
            let step =
                std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| self.scheduler.step()));
            let part = self.scheduler.background_part();
            // Whoever is told something computes from then on, if only to wait for more; so others
            // are those who computed while the batch ran.
            let shared = Arc::clone(&self.shared);
            let others = || shared.others.get().is_some_and(|others| others());
            let wanted = others();
            // Whoever is told that a request is over finds its memory free.
            self.report();
            match step {
                Ok(deliveries) => {
                    for delivery in deliveries {
                        self.deliver(delivery);
                    }
                }
                Err(_) => self.give_up(&EngineError::Failed(
                    "a batch panicked; its message is in the log".to_owned(),
                )),
            }
            let took = began.elapsed();
            self.rests.give_way(took, wanted, others);
            let percent = self.shared.options.background_percent;
            self.share.charge(Instant::now(), took, part, percent);
            self.tell_background();
            if let Some(rested) = self.wait_for_owners() {
                self.share.rested(rested);
                self.tell_background();
            }
        }
        self.end();
    }

    /// Tells everybody that nothing more will come.
    fn end(&mut self) {
        self.give_up(&EngineError::Cancelled);
        let commands = std::mem::take(&mut self.shared.inbox().commands);
        for command in commands {
            if let Command::Submit(Submission { mail, request, .. }) = command {
                mail.put(failed(request, EngineError::Cancelled), true);
            }
        }
    }

    /// Waits until there is something to do. `None` when the engine ends.
    fn next(&self) -> Option<Vec<Command>> {
        let mut inbox = self.shared.inbox();
        while inbox.commands.is_empty() && self.scheduler.is_idle() && !inbox.ended {
            inbox = self
                .shared
                .wake
                .wait(inbox)
                .unwrap_or_else(PoisonError::into_inner);
        }
        (!inbox.ended).then(|| std::mem::take(&mut inbox.commands))
    }

    /// Computes nothing while there is nothing but texts of the background, which have had their part of
    /// the time, unless somebody asks for what may not wait. Returns for how long, if it waited.
    fn wait_for_owners(&self) -> Option<Duration> {
        let began = Instant::now();
        let until = self.share.waits_until(began)?;
        if self.scheduler.has_others_than_background() {
            return None;
        }
        let urgent = |command: &Command| match command {
            Command::Submit(submission) => submission.caller.priority > Priority::Background,
            _ => false,
        };
        rest_until(until, &self.shared.inbox, &self.shared.wake, |inbox| {
            inbox.ended || inbox.commands.iter().any(urgent)
        });
        Some(began.elapsed())
    }

    /// Lets others know how long the background has computed and waited.
    fn tell_background(&self) {
        let time = self.shared.background.lock();
        *time.unwrap_or_else(PoisonError::into_inner) = self.share.time();
    }

    fn submit(&mut self, submission: Submission) {
        let Submission {
            ticket,
            mail,
            request,
            caller,
            prepared,
        } = submission;
        let texts = prepared.texts();
        match self.scheduler.submit(caller, prepared) {
            Ok(group) => {
                let open = Open {
                    ticket,
                    mail,
                    request,
                    texts,
                };
                self.groups.insert(group, open);
            }
            Err(failure) => {
                self.shared.texts.fetch_sub(texts, Ordering::Relaxed);
                mail.put(failed(request, failure), true);
            }
        }
    }

    fn cancel(&mut self, ticket: u64) {
        let groups = self.groups.iter();
        let groups: Vec<u64> = groups
            .filter(|(_, open)| open.ticket == ticket)
            .map(|(group, _)| *group)
            .collect();
        for group in groups {
            self.scheduler.cancel(group);
            self.close(group);
        }
    }

    fn close(&mut self, group: u64) -> Option<Open> {
        let open = self.groups.remove(&group)?;
        self.shared.texts.fetch_sub(open.texts, Ordering::Relaxed);
        Some(open)
    }

    fn deliver(&mut self, delivery: Delivery) {
        let Delivery {
            group,
            event,
            cached_tokens,
            over,
        } = delivery;
        // Pages and room are free before whoever asked learns that the request is over.
        let closed = if over { self.close(group) } else { None };
        let Some(open) = closed.as_ref().or_else(|| self.groups.get(&group)) else {
            return;
        };
        let mail = Mail {
            request: open.request,
            event,
            cached_tokens,
        };
        open.mail.put(mail, over);
    }

    /// Ends all requests with an error.
    fn give_up(&mut self, failure: &EngineError) {
        let groups: Vec<u64> = self.groups.keys().copied().collect();
        for group in groups {
            self.scheduler.cancel(group);
            if let Some(open) = self.close(group) {
                open.mail.put(failed(open.request, failure.clone()), true);
            }
        }
    }

    fn report(&self) {
        let (held, cached) = self.scheduler.held_pages();
        let page = self.scheduler.page_bytes();
        self.shared
            .kv_bytes
            .store(held as u64 * page, Ordering::Relaxed);
        self.shared
            .cached_bytes
            .store(cached as u64 * page, Ordering::Relaxed);
        self.shared
            .adapter_bytes
            .store(self.scheduler.adapter_bytes(), Ordering::Relaxed);
        self.shared
            .device_bytes
            .store(self.scheduler.device_bytes(), Ordering::Relaxed);
        let tally = self.shared.tally.lock();
        *tally.unwrap_or_else(PoisonError::into_inner) = self.scheduler.tally();
    }
}
