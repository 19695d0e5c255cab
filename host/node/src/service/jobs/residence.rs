//! What is kept ready for requesters who pay for it: the package compiled, the models that it uses
//! loaded and its adapter open, from before the first shard until the time is over. What that is, and until
//! when, is in `kept.json` in the home folder, so that a node that was ended gets it ready
//! again when it is there again.
//!
//! # What it must never do
//!
//! - Let go of something before its time, or keep it longer because of a lease that was refused, or that
//!   nothing was signed for: what such a lease has ready goes with its conversation.
//! - Keep more at once than its limit: whoever asks for more is told. What is still to be got ready again
//!   after a start counts, so that nobody takes its place meanwhile.
//! - Keep anything for longer than its owner lets anybody have it kept, whatever is written down.

mod notes;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use skep_registry::Digest;
use skep_sandbox::{LanguageModel, TextEncoder};
use skep_tensor::Account;

use self::notes::Note;
use super::now;
use crate::failure::{Failure, FailureKind};
use crate::home::Home;
use crate::requests::KeptLine;
use crate::service::Service;
use crate::service::adapters::{ENCODERS, TEXT};
use crate::service::blobs::Reach;
use crate::service::run::{self, Prepared, Subject, Unready};

/// The most that is kept at once.
const MOST: usize = 16;

/// What is kept: a package, and the adapter with which it runs.
pub type What = (Digest, Option<Digest>);

/// All that is kept ready.
#[derive(Default)]
pub struct Residences(Mutex<All>);

#[derive(Default)]
struct All {
    kept: BTreeMap<What, Kept>,
    /// What is being got ready or is still to be, and what is ready for leases that are not signed for, and how
    /// often.
    awaited: BTreeMap<What, usize>,
}

/// Something that is kept until then. What holds it is all there is to it.
struct Kept {
    until: Instant,
    /// The same in milliseconds since 1970.
    at: u64,
    _ready: Ready,
}

/// A component and its models, ready for a run.
struct Ready {
    _prepared: Prepared,
    _text: Option<Arc<dyn LanguageModel>>,
    _encoder: Option<Arc<dyn TextEncoder>>,
}

/// Room for something that is not kept, until this is dropped.
struct Place {
    of: Arc<Residences>,
    what: What,
}

impl Drop for Place {
    fn drop(&mut self) {
        let awaited = &mut self.of.lock().awaited;
        if let Some(count) = awaited.get_mut(&self.what) {
            *count -= 1;
            if *count == 0 {
                awaited.remove(&self.what);
            }
        }
    }
}

/// Something that is ready, and its room, until this is dropped.
pub struct Reserved {
    place: Place,
    ready: Ready,
}

impl Reserved {
    /// Keeps it ready for so long from now on; what is kept for longer already stays for longer. If that cannot
    /// be written down, it is kept as long as this process is there.
    pub fn keep(self, home: &Home, long: Duration) -> Result<(), Failure> {
        let Self { place, ready } = self;
        if long.is_zero() {
            return Ok(());
        }
        let until = Instant::now() + long;
        let at = now().saturating_add(u64::try_from(long.as_millis()).unwrap_or(u64::MAX));
        {
            let kept = &mut place.of.lock().kept;
            let before = kept.get(&place.what);
            let now_kept = Kept {
                until: before.map_or(until, |kept| kept.until.max(until)),
                at: before.map_or(at, |kept| kept.at.max(at)),
                _ready: ready,
            };
            kept.insert(place.what, now_kept);
        }
        let residences = Arc::downgrade(&place.of);
        tokio::spawn(async move {
            tokio::time::sleep_until(until.into()).await;
            if let Some(residences) = residences.upgrade() {
                residences.let_go();
            }
        });
        tokio::task::block_in_place(|| place.of.note(home))
    }
}

impl Residences {
    /// Room for one more, if there is some; for what is kept or awaited already there is.
    fn place(self: &Arc<Self>, what: What) -> Option<Place> {
        let mut all = self.lock();
        let has: BTreeSet<&What> = all.kept.keys().chain(all.awaited.keys()).collect();
        if !has.contains(&what) && has.len() >= MOST {
            return None;
        }
        *all.awaited.entry(what).or_default() += 1;
        drop(all);
        let of = Arc::clone(self);
        Some(Place { of, what })
    }

    /// Gets a component and its models ready. They are so until what comes back is dropped, or for longer if
    /// it is kept.
    pub async fn reserve(
        self: &Arc<Self>,
        service: &Service,
        what: What,
        subject: Subject,
    ) -> Result<Reserved, Unready> {
        let full = || {
            Failure::new(
                FailureKind::Busy,
                format!("it keeps {MOST} packages ready already, which is as many as it does"),
            )
        };
        let place = self.place(what).ok_or_else(full)?;
        let ready = made_ready(service, subject).await?;
        Ok(Reserved { place, ready })
    }

    /// Writes down what is kept, and what of that was written down before and is still to be got ready.
    fn note(&self, home: &Home) -> Result<(), Failure> {
        // Who writes last has all of it.
        let all = self.lock();
        let kept = all.kept.iter().map(|((package, adapter), kept)| Note {
            package: *package,
            adapter: *adapter,
            until: kept.at,
        });
        notes::write(&home.kept(), kept.collect(), now())
    }

    /// What is to be got ready again, as far as there is room, each with its place, and for no longer than
    /// so many seconds.
    fn noted(self: &Arc<Self>, home: &Home, longest: u64) -> Result<Vec<(Note, Place)>, Failure> {
        let now = now();
        let latest = now.saturating_add(longest.saturating_mul(1_000));
        let notes = notes::read(&home.kept(), now)?.into_iter();
        let placed = notes.filter_map(|note| {
            let place = self.place(note.what())?;
            let until = note.until.min(latest);
            Some((Note { until, ..note }, place))
        });
        Ok(placed.collect())
    }

    async fn keep_on(self: &Arc<Self>, service: &Service, note: Note) -> Result<(), Failure> {
        let long = Duration::from_millis(note.until.saturating_sub(now()));
        if long.is_zero() {
            return Ok(());
        }
        let swarm = service.swarm().await?;
        let adapter = note.adapter.map(|adapter| swarm.installed(&adapter));
        let adapter = adapter.transpose().map_err(super::failed)?;
        let installed = swarm.installed(&note.package).map_err(super::failed)?;
        let gone = || Failure::new(FailureKind::NotFound, "the package lacks its component");
        let subject = Subject::of(&installed, adapter).ok_or_else(gone)?;
        let reserved = self.reserve(service, note.what(), subject).await?;
        reserved.keep(&service.home, long)
    }

    /// Lets go of what has had its time.
    fn let_go(&self) {
        let now = Instant::now();
        self.lock().kept.retain(|_, kept| kept.until > now);
    }

    /// Whether a package or an adapter belongs to what is kept ready, or is being got ready.
    pub fn keeps(&self, release: &Digest) -> bool {
        let all = self.lock();
        let mut whats = all.kept.keys().chain(all.awaited.keys());
        whats.any(|(package, adapter)| package == release || adapter.as_ref() == Some(release))
    }

    /// What is kept, and for how much longer.
    pub fn lines(&self) -> Vec<KeptLine> {
        let now = Instant::now();
        let all = self.lock();
        let lines = all.kept.iter().map(|((package, adapter), kept)| KeptLine {
            package: package.to_string(),
            adapter: adapter.map(|adapter| adapter.to_string()),
            seconds: kept.until.saturating_duration_since(now).as_secs_f64(),
        });
        lines.collect()
    }

    fn lock(&self) -> MutexGuard<'_, All> {
        // The maps are consistent after every statement, so a poisoned lock is still good.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Gets ready again what others have paid for before this node was ended, for no longer than so many
/// seconds. Its places are taken when this returns.
pub fn keep_on(service: &Arc<Service>, longest: u64) {
    let residences = Arc::clone(&service.jobs.residences);
    let noted = tokio::task::block_in_place(|| residences.noted(&service.home, longest));
    let noted = match noted {
        Ok(noted) => noted,
        Err(failure) => {
            tracing::warn!(%failure, "what was to be kept ready is not");
            return;
        }
    };
    let service = Arc::clone(service);
    tokio::spawn(async move {
        for (note, place) in noted {
            let package = note.package;
            // What has gone does not keep the others from being ready.
            if let Err(failure) = residences.keep_on(&service, note).await {
                tracing::warn!(%package, %failure, "what was to be kept ready is not");
            }
            drop(place);
        }
    });
}

/// Where what was written down is that could not be read, if there is such a file.
pub fn set_aside(home: &Home) -> Option<String> {
    let aside = notes::aside(&home.kept());
    aside.exists().then(|| aside.display().to_string())
}

async fn made_ready(service: &Service, subject: Subject) -> Result<Ready, Unready> {
    let prepared = run::prepare(service, subject, &[], Vec::new(), Reach::Offered).await?;
    let imports = prepared.program.imports();
    let uses = |interface: &str| imports.iter().any(|import| import.starts_with(interface));
    let (writes, embeds) = (uses(TEXT), uses(ENCODERS));
    let models = prepared.spec.models.clone();
    // Loading a model takes long.
    let loaded = tokio::task::spawn_blocking(move || {
        // What is kept ready is paid for by its time.
        let account = Account::unlimited();
        let text = models.as_ref().filter(|_| writes);
        let text = text
            .map(|models| models.open_text("default", &account))
            .transpose()?;
        let encoder = models.as_ref().filter(|_| embeds);
        let encoder = encoder
            .map(|models| models.open("default", &account))
            .transpose()?;
        Ok::<_, skep_sandbox::ModelError>((text, encoder))
    });
    let failed = |error: &dyn std::error::Error| Failure::of(FailureKind::Failed, error);
    let loaded = loaded.await.map_err(|error| failed(&error))?;
    let (text, encoder) = loaded.map_err(|error| Unready::Unfit(failed(&error)))?;
    Ok(Ready {
        _prepared: prepared,
        _text: text,
        _encoder: encoder,
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn what(number: usize) -> What {
        (Digest::of(&number.to_le_bytes()), None)
    }

    #[test]
    fn what_is_to_be_ready_again_does_not_lose_its_place() {
        let folder = tempfile::tempdir().unwrap();
        let home = Home::open(Some(folder.path().to_owned())).unwrap();
        let far = now() + 1_000_000_000;
        let notes = (0..MOST).map(|number| Note {
            package: what(number).0,
            adapter: None,
            until: far,
        });
        notes::write(&home.kept(), notes.collect(), 0).unwrap();
        let residences = Arc::new(Residences::default());
        let mut noted = residences.noted(&home, 60).unwrap();
        assert_eq!(noted.len(), MOST);
        let latest = now() + 60_000;
        assert!(noted.iter().all(|(note, _)| note.until <= latest));
        assert!(residences.place(what(MOST)).is_none(), "all are taken");
        // For one of these there is room, and nobody else gets it afterwards.
        drop(residences.place(what(3)).unwrap());
        assert!(residences.place(what(MOST)).is_none());
        // One that cannot be got ready gives its place to others.
        noted.pop();
        let taken = residences.place(what(MOST)).unwrap();
        assert!(residences.place(what(MOST + 1)).is_none());
        drop((noted, taken));
        assert!(residences.lock().awaited.is_empty());
    }
}
