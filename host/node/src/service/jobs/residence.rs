//! What is kept ready for requesters who pay for it: the package compiled, the models that it uses
//! loaded and its adapter open, from before the first shard until the time is over. What that is, and until
//! when, is in `kept.json` in the home folder, so that a node that was ended gets it ready
//! again when it is there again.
//!
//! # What it must never do
//!
//! - Let go of something before its time, or keep it longer because of a lease that was refused.
//! - Keep more at once than its limit: whoever asks for more is told.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use skep_registry::Digest;
use skep_sandbox::{LanguageModel, TextEncoder};

use super::{failed, now};
use crate::failure::{Failure, FailureKind};
use crate::requests::KeptLine;
use crate::service::Service;
use crate::service::adapters::{ENCODERS, TEXT};
use crate::service::run::{self, Prepared, Subject};

/// The most that is kept at once.
const MOST: usize = 16;

/// What is kept: a package, and the adapter with which it runs.
pub type What = (Digest, Option<Digest>);

/// All that is kept ready.
#[derive(Default)]
pub struct Residences(Mutex<BTreeMap<What, Kept>>);

/// Something that is kept until then. What holds it is all there is to it.
struct Kept {
    until: Instant,
    /// The same in milliseconds since 1970.
    at: u64,
    _ready: Ready,
}

/// What is kept, as it is written down.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Note {
    /// The release of the package.
    package: Digest,
    /// That of the adapter.
    adapter: Option<Digest>,
    /// Until when, in milliseconds since 1970.
    until: u64,
}

/// A component and its models, ready for a run.
struct Ready {
    _prepared: Prepared,
    _text: Option<Arc<dyn LanguageModel>>,
    _encoder: Option<Arc<dyn TextEncoder>>,
}

impl Residences {
    /// Whether this is kept ready.
    pub fn has(&self, what: &What) -> bool {
        self.lock().contains_key(what)
    }

    /// Gets a component and its models ready, and keeps them so for so long from now on; what is kept
    /// for longer already stays for longer.
    pub async fn keep(
        self: &Arc<Self>,
        service: &Service,
        what: What,
        subject: Subject,
        long: Duration,
    ) -> Result<(), Failure> {
        if !self.has(&what) && self.lock().len() >= MOST {
            return Err(Failure::new(
                FailureKind::Busy,
                format!("it keeps {MOST} packages ready already, which is as many as it does"),
            ));
        }
        let ready = made_ready(service, subject).await?;
        let until = Instant::now() + long;
        let at = now().saturating_add(u64::try_from(long.as_millis()).unwrap_or(u64::MAX));
        let before = {
            let mut all = self.lock();
            let before = all.get(&what);
            let kept = Kept {
                until: before.map_or(until, |kept| kept.until.max(until)),
                at: before.map_or(at, |kept| kept.at.max(at)),
                _ready: ready,
            };
            all.insert(what, kept)
        };
        if let Err(error) = tokio::task::block_in_place(|| self.note(service)) {
            // It is refused, and nothing is kept for it.
            let mut all = self.lock();
            match before {
                Some(kept) => all.insert(what, kept),
                None => all.remove(&what),
            };
            return Err(error);
        }
        let this = Arc::downgrade(self);
        tokio::spawn(async move {
            tokio::time::sleep_until(until.into()).await;
            if let Some(this) = this.upgrade() {
                this.let_go();
            }
        });
        Ok(())
    }

    /// Writes down what is kept, and what of that was written down before and is still to be got ready.
    fn note(&self, service: &Service) -> Result<(), Failure> {
        // Who writes last has all of it.
        let all = self.lock();
        let mut notes = noted(service)?;
        notes.retain(|note| {
            let is_here = all.contains_key(&(note.package, note.adapter));
            !is_here && note.until > now()
        });
        notes.extend(all.iter().map(|((package, adapter), kept)| Note {
            package: *package,
            adapter: *adapter,
            until: kept.at,
        }));
        let notes = serde_json::to_vec(&notes).map_err(failed)?;
        super::folder::put(&service.home.kept(), &notes).map_err(failed)
    }

    /// Gets ready again what was kept when the node ended and has not had its time.
    async fn restore(self: &Arc<Self>, service: &Service) -> Result<(), Failure> {
        let notes = tokio::task::block_in_place(|| noted(service))?;
        for note in notes.into_iter().take(MOST) {
            let package = note.package;
            // What has gone does not keep the others from being ready.
            if let Err(failure) = self.keep_on(service, note).await {
                tracing::warn!(%package, %failure, "what was to be kept ready is not");
            }
        }
        Ok(())
    }

    async fn keep_on(self: &Arc<Self>, service: &Service, note: Note) -> Result<(), Failure> {
        let long = Duration::from_millis(note.until.saturating_sub(now()));
        if long.is_zero() {
            return Ok(());
        }
        let swarm = service.swarm().await?;
        let adapter = note.adapter.map(|adapter| swarm.installed(&adapter));
        let adapter = adapter.transpose().map_err(failed)?;
        let installed = swarm.installed(&note.package).map_err(failed)?;
        let gone = || Failure::new(FailureKind::NotFound, "the package lacks its component");
        let subject = Subject::of(&installed, adapter).ok_or_else(gone)?;
        let what = (note.package, note.adapter);
        self.keep(service, what, subject, long).await
    }

    /// Lets go of what has had its time.
    fn let_go(&self) {
        let now = Instant::now();
        self.lock().retain(|_, kept| kept.until > now);
    }

    /// What is kept, and for how much longer.
    pub fn lines(&self) -> Vec<KeptLine> {
        let now = Instant::now();
        let all = self.lock();
        let lines = all.iter().map(|((package, adapter), kept)| KeptLine {
            package: package.to_string(),
            adapter: adapter.map(|adapter| adapter.to_string()),
            seconds: kept.until.saturating_duration_since(now).as_secs_f64(),
        });
        lines.collect()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<What, Kept>> {
        // The map is consistent after every statement, so a poisoned lock is still good.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Gets ready again what others have paid for before this node was ended.
pub fn keep_on(service: &Arc<Service>) {
    let service = Arc::clone(service);
    tokio::spawn(async move {
        if let Err(failure) = service.jobs.residences.restore(&service).await {
            tracing::warn!(%failure, "what was to be kept ready is not");
        }
    });
}

/// What was written down last.
fn noted(service: &Service) -> Result<Vec<Note>, Failure> {
    match std::fs::read(service.home.kept()) {
        Ok(notes) => serde_json::from_slice(&notes).map_err(failed),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(failed(error)),
    }
}

async fn made_ready(service: &Service, subject: Subject) -> Result<Ready, Failure> {
    let prepared = run::prepare(service, subject, &[], Vec::new()).await?;
    let imports = prepared.program.imports();
    let uses = |interface: &str| imports.iter().any(|import| import.starts_with(interface));
    let (writes, embeds) = (uses(TEXT), uses(ENCODERS));
    let models = prepared.spec.models.clone();
    // Loading a model takes long.
    let loaded = tokio::task::spawn_blocking(move || {
        let text = models.as_ref().filter(|_| writes);
        let text = text.map(|models| models.open_text("default")).transpose()?;
        let encoder = models.as_ref().filter(|_| embeds);
        let encoder = encoder.map(|models| models.open("default")).transpose()?;
        Ok::<_, skep_sandbox::ModelError>((text, encoder))
    });
    let failed = |error: &dyn std::error::Error| Failure::of(FailureKind::Failed, error);
    let loaded = loaded.await.map_err(|error| failed(&error))?;
    let (text, encoder) = loaded.map_err(|error| failed(&error))?;
    Ok(Ready {
        _prepared: prepared,
        _text: text,
        _encoder: encoder,
    })
}
