//! When the owner does not need the machine: by the clock, and by what other programs make of it.
//!
//! Whatever is found here keeps new shards out, until it is over. Those at work go on. What their guests compute
//! has the lowest standing of the system, so that any program of the owner's comes before it, and what language
//! models compute for them keeps to `device-share`. A shard that stood still instead would come to nothing: its
//! lease has an end, and a requester that waits for longer than others take has somebody else make it, so that all
//! that was computed here would be lost and the memory held meanwhile.

use std::iter;
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
    others: Arc<Others>,
}

impl Leisure {
    /// As an owner has configured it. Only where it matters are the processors watched.
    pub fn of(jobs: &Jobs) -> Self {
        let leisure = Self::unwatched(jobs);
        if leisure.most.is_some() {
            let others = Arc::downgrade(&leisure.others);
            let watching = thread::Builder::new().name("skep-leisure".to_owned());
            if let Err(error) = watching.spawn(move || watch(&others, looks())) {
                tracing::warn!(%error, "nobody can see whether the machine is in use");
            }
        }
        leisure
    }

    /// The same, with nobody that looks at the processors.
    fn unwatched(jobs: &Jobs) -> Self {
        Self {
            hours: jobs.hours.clone(),
            most: jobs.pause_above.map(|part| part.0),
            others: Arc::default(),
        }
    }

    /// Whether a shard may begin now.
    pub fn admit(&self) -> Result<(), Refusal> {
        let now = Local::now();
        self.admit_at(u16::try_from(now.hour() * 60 + now.minute()).unwrap_or(0))
    }

    /// Whether one may at this minute of the day, from 0 to 1,439.
    fn admit_at(&self, minute: u16) -> Result<(), Refusal> {
        if !self.hours.is_empty() && !self.hours.iter().any(|hours| hours.contain(minute)) {
            let hours: Vec<String> = self.hours.iter().map(ToString::to_string).collect();
            return Err(Refusal::Hours(hours.join(", ")));
        }
        match self.most {
            Some(most) if self.others.part() > most => Err(Refusal::InUse),
            _ => Ok(()),
        }
    }
}

/// The part of all processors that other programs take: a mean of what was found, in which the latest counts
/// most. In millionths.
struct Others(AtomicU32);

/// Nobody has looked yet.
const UNSEEN: u32 = u32::MAX;

impl Default for Others {
    fn default() -> Self {
        Self(AtomicU32::new(UNSEEN))
    }
}

impl Others {
    /// The part, from 0 to 1.
    fn part(&self) -> f32 {
        match self.0.load(Relaxed) {
            UNSEEN => 0.0,
            millionths => millionths as f32 / 1e6,
        }
    }

    /// Takes in what was found at a look, from 0 to 1. Only one at a time may.
    fn take_in(&self, found: f32) {
        let mean = match self.0.load(Relaxed) {
            UNSEEN => found,
            _ => FADING * self.part() + (1.0 - FADING) * found,
        };
        self.0.store((mean * 1e6) as u32, Relaxed);
    }
}

/// Takes in what is found, look by look, until nobody wants to know.
fn watch(others: &Weak<Others>, looks: impl Iterator<Item = f32>) {
    for found in looks {
        let Some(others) = others.upgrade() else {
            return;
        };
        others.take_in(found);
    }
}

/// What other programs take of all processors, from 0 to 1, again and again: who asks for the next waits for it.
fn looks() -> impl Iterator<Item = f32> {
    let mut system = System::new();
    let own = Pid::from_u32(std::process::id());
    let mut look = move || {
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
    // What there is to tell is since the look before.
    look();
    iter::repeat_with(move || {
        thread::sleep(LOOK);
        look()
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    /// What an owner says in `config.toml`; nobody but these tests looks at the processors.
    fn leisure(jobs: &str) -> Leisure {
        Leisure::unwatched(&toml::from_str::<Jobs>(jobs).unwrap())
    }

    impl Leisure {
        /// Whether shards are let in after each of these looks.
        fn after(&self, found: &[f32]) -> Vec<bool> {
            let after = found.iter().map(|found| {
                watch(&Arc::downgrade(&self.others), iter::once(*found));
                match self.admit() {
                    Ok(()) => true,
                    Err(refusal) => {
                        assert_eq!(refusal, Refusal::InUse);
                        false
                    }
                }
            });
            after.collect()
        }
    }

    #[test]
    fn a_machine_in_use_takes_no_shard_and_one_that_is_free_again_does() {
        let leisure = leisure("pause-above = \"25 %\"");
        assert_eq!(leisure.admit(), Ok(()), "nobody has looked yet");
        assert_eq!(leisure.after(&[0.9, 0.9]), [false; 2]);
        // A program that does nothing for a moment has not ended: 0.9 · 0.8⁵ is above a quarter still.
        assert_eq!(leisure.after(&[0.0; 5]), [false; 5]);
        assert_eq!(leisure.after(&[0.0; 20]), [true; 20]);
        // Nor is one look that finds much somebody at work.
        assert_eq!(leisure.after(&[0.9, 0.0, 0.0]), [true; 3]);
        // Again and again, as often as the owner comes and goes.
        for _ in 0..3 {
            assert_eq!(leisure.after(&[0.9; 20])[4..], [false; 16]);
            assert_eq!(leisure.after(&[0.0; 20])[6..], [true; 14]);
        }
    }

    #[test]
    fn only_more_than_the_part_that_an_owner_names_keeps_shards_out() {
        let half = leisure("pause-above = \"50 %\"");
        assert_eq!(half.after(&[0.5; 30]), [true; 30]);
        let none = leisure("pause-above = \"0 %\"");
        assert_eq!(none.after(&[0.0; 30]), [true; 30]);
        assert_eq!(none.after(&[0.01; 30]), [false; 30]);
        // Who names none lets them in whatever happens.
        assert_eq!(leisure("").after(&[1.0; 30]), [true; 30]);
    }

    #[test]
    fn outside_its_hours_no_shard_begins_however_free_the_machine_is() {
        let hours = "hours = [\"22:00-07:30\", \"12:00-13:00\"]\npause-above = \"25 %\"";
        let leisure = leisure(hours);
        let asleep = Refusal::Hours("22:00-07:30, 12:00-13:00".to_owned());
        for minute in [0, 449, 720, 1320, 1439] {
            assert_eq!(leisure.admit_at(minute), Ok(()), "{minute}");
        }
        for minute in [450, 719, 780, 1319] {
            assert_eq!(leisure.admit_at(minute), Err(asleep.clone()), "{minute}");
        }
        // Within them it is still the owner's.
        leisure.others.take_in(1.0);
        assert_eq!(leisure.admit_at(0), Err(Refusal::InUse));
        assert_eq!(leisure.admit_at(450), Err(asleep));
    }

    #[test]
    fn nobody_looks_any_longer_than_somebody_wants_to_know() {
        let others = Arc::new(Others::default());
        let watched = Arc::downgrade(&others);
        let (mut kept, mut looks) = (Some(others), 0);
        let endless = iter::repeat_with(|| {
            looks += 1;
            if looks == 3 {
                drop(kept.take());
            }
            0.5
        });
        watch(&watched, endless);
        assert_eq!(looks, 3);
    }
}
