//! When the owner does not need the machine: by the clock, and by what other programs make of it.
//!
//! Whatever is found here keeps new shards out. Those at work go on, at the lowest standing of the
//! system, as all guests do.

use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::sync::{Arc, Weak};
use std::thread;
use std::time::Duration;

use chrono::{Local, Timelike as _};
use skep_market::Refusal;
use sysinfo::{Pid, ProcessRefreshKind, ProcessesToUpdate, System};

use crate::config::{Hours, Jobs};

/// How often it is looked at who uses the processors.
const LOOK: Duration = Duration::from_secs(1);
/// Of what was found before, the part that counts at each look: some five seconds back.
const FADING: f32 = 0.8;

/// When jobs of others may begin here.
pub struct Leisure {
    hours: Vec<Hours>,
    most: Option<f32>,
    /// The part of all processors that other programs take, in millionths.
    others: Arc<AtomicU32>,
}

impl Leisure {
    /// As an owner has configured it. Only where it matters are the processors watched.
    pub fn of(jobs: &Jobs) -> Self {
        let leisure = Self {
            hours: jobs.hours.clone(),
            most: jobs.pause_above.map(|part| part.0),
            others: Arc::new(AtomicU32::new(0)),
        };
        if leisure.most.is_some() {
            let others = Arc::downgrade(&leisure.others);
            let watching = thread::Builder::new().name("skep-leisure".to_owned());
            if let Err(error) = watching.spawn(move || watch(&others)) {
                tracing::warn!(%error, "nobody can see whether the machine is in use");
            }
        }
        leisure
    }

    /// Whether a shard may begin now.
    pub fn admit(&self) -> Result<(), Refusal> {
        let now = Local::now();
        let minute = u16::try_from(now.hour() * 60 + now.minute()).unwrap_or(0);
        if !self.hours.is_empty() && !self.hours.iter().any(|hours| hours.contain(minute)) {
            let hours: Vec<String> = self.hours.iter().map(ToString::to_string).collect();
            return Err(Refusal::Hours(hours.join(", ")));
        }
        let others = self.others.load(Relaxed) as f32 / 1e6;
        match self.most {
            Some(most) if others > most => Err(Refusal::InUse),
            _ => Ok(()),
        }
    }
}

/// Looks until nobody wants to know.
fn watch(others: &Weak<AtomicU32>) {
    let mut system = System::new();
    let own = Pid::from_u32(std::process::id());
    let mut look = || {
        system.refresh_cpu_usage();
        system.refresh_processes_specifics(
            ProcessesToUpdate::Some(&[own]),
            false,
            ProcessRefreshKind::nothing().with_cpu(),
        );
        let processors = system.cpus().len().max(1) as f32;
        // In percent of all processors, and in percent of one.
        let all = system.global_cpu_usage();
        let own = system.process(own).map_or(0.0, |own| own.cpu_usage());
        ((all - own / processors) / 100.0).clamp(0.0, 1.0)
    };
    look();
    let mut seen: Option<f32> = None;
    loop {
        thread::sleep(LOOK);
        let found = look();
        let mean = seen.map_or(found, |seen| FADING * seen + (1.0 - FADING) * found);
        seen = Some(mean);
        let Some(others) = others.upgrade() else {
            return;
        };
        others.store((mean * 1e6) as u32, Relaxed);
    }
}
