//! What came of many jobs with the same kind of cheat.

use std::ops::Range;

use super::Fault;
use super::cheat::{Cheat, End};
use super::swarm::Run;

/// Means over jobs, in credits where they are amounts.
pub struct Summary {
    cheat: Cheat,
    jobs: usize,
    /// Jobs in which all that cheat were caught.
    caught: usize,
    /// Results that were not what was asked for, until they were.
    attempted: f64,
    /// Those that were accepted and paid.
    accepted: f64,
    /// Audits that found nothing.
    pub undecided: f64,
    gained: f64,
    lost: f64,
    /// Jobs at whose end all that cheat deliver less reliably than everybody else.
    asked_last: usize,
    /// Honest nodes that were charged, in all jobs.
    honest_charged: u32,
}

impl Summary {
    /// Runs a job with each of these seeds.
    pub fn of(cheat: Cheat, shards: u32, rate: u32, seeds: Range<u64>) -> Result<Self, Fault> {
        let runs = seeds.map(|seed| Run::of(cheat, shards, rate, seed));
        let runs: Vec<Run> = runs.collect::<Result<_, _>>()?;
        let mean = |of: &dyn Fn(&Run) -> f64| runs.iter().map(of).sum::<f64>() / runs.len() as f64;
        Ok(Self {
            cheat,
            jobs: runs.len(),
            caught: runs.iter().filter(|run| run.was_caught).count(),
            attempted: mean(&|run| f64::from(run.attempted)),
            accepted: mean(&|run| f64::from(run.accepted)),
            undecided: mean(&|run| f64::from(run.undecided)),
            gained: mean(&|run| run.gained as f64 / 1e6),
            lost: mean(&|run| run.lost as f64 / 1e6),
            asked_last: runs.iter().filter(|run| run.is_asked_last).count(),
            honest_charged: runs.iter().map(|run| run.honest_charged).sum(),
        })
    }

    /// What it gained less what it lost: making something up costs it nothing.
    fn profit(&self) -> f64 {
        self.gained - self.lost
    }

    /// Whether it ends as it has to, and nobody honest was charged; if not, what is wrong.
    pub fn check(&self) -> Result<(), String> {
        let name = self.cheat.name();
        if self.honest_charged > 0 {
            let count = self.honest_charged;
            return Err(format!("{name}: {count} honest nodes were charged"));
        }
        let is_right = match self.cheat.end() {
            End::Nothing => self.attempted + self.lost + self.undecided == 0.0,
            End::Loss => self.profit() < 0.0,
            End::NoHarm => {
                let harm = self.attempted + self.undecided + self.lost;
                self.gained > 0.0 && harm == 0.0 && self.caught == 0
            }
            End::NoWork => {
                let came = self.accepted + self.gained + self.lost;
                self.attempted > 0.0 && came == 0.0 && self.asked_last == self.jobs
            }
        };
        match is_right {
            true => Ok(()),
            false => Err(format!(
                "{name} should come to {:?}, and came to {}",
                self.cheat.end(),
                self.row()
            )),
        }
    }

    /// Its row of the table.
    pub fn row(&self) -> String {
        format!(
            "| {} | {} of {} | {:.1} | {:.1} | {:.1} | {:.3} | {:.3} | {:+.3} | {} |",
            self.cheat.name(),
            self.caught,
            self.jobs,
            self.attempted,
            self.accepted,
            self.undecided,
            self.gained,
            self.lost,
            self.profit(),
            self.honest_charged,
        )
    }
}
