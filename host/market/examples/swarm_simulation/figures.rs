//! What a simulated swarm came to.

use crate::world::Settings;

/// The figures of a whole run.
pub struct Figures {
    /// What was simulated.
    pub settings: Settings,
    /// How many panels were called.
    pub panels: u64,
    /// Results that were accepted and paid.
    pub accepted: u64,
    /// Those of them that were wrong.
    pub wrong: u64,
    /// How many results honest nodes could have made whenever they were there, were they never idle.
    pub possible: u64,
    /// How many nodes cheat.
    pub cheats: usize,
    /// Those of them that were convicted.
    pub cheats_convicted: usize,
    /// What one of them was paid less what it was fined, in micro-credits, mean of all.
    pub cheat_earned: i64,
    /// How many nodes are honest.
    pub honest: usize,
    /// Those of them that were convicted.
    pub honest_convicted: u64,
    /// What one of them was paid less what it was fined, in micro-credits, mean of all.
    pub honest_earned: i64,
}

impl Figures {
    /// Results that were accepted and right.
    pub fn right(&self) -> u64 {
        self.accepted - self.wrong
    }

    /// A row of a table.
    pub fn row(&self) -> String {
        format!(
            "| {} | {} % | {} | {} | {:.0} % | {} ({:.2} %) | {} of {} | {} of {} | {} | {} | {} |",
            self.settings.nodes,
            f64::from(self.settings.audits) / 10_000.0,
            self.settings.panel,
            self.right(),
            100.0 * self.right() as f64 / self.possible.max(1) as f64,
            self.wrong,
            100.0 * self.wrong as f64 / self.accepted.max(1) as f64,
            self.cheats_convicted,
            self.cheats,
            self.honest_convicted,
            self.honest,
            self.panels,
            self.cheat_earned,
            self.honest_earned,
        )
    }
}
