//! What is kept ready for requesters who pay for it: the package compiled, the models that it uses
//! loaded and its adapter open, from before the first shard until the time is over.
//!
//! # What it must never do
//!
//! - Let go of something before its time, or keep it longer because of a lease that was refused.
//! - Keep more at once than its limit: whoever asks for more is told.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use skep_registry::Digest;
use skep_sandbox::{LanguageModel, TextEncoder};

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
    _ready: Ready,
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
        {
            let mut all = self.lock();
            let longer = all.get(&what).map_or(until, |kept| kept.until.max(until));
            let kept = Kept {
                until: longer,
                _ready: ready,
            };
            all.insert(what, kept);
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
