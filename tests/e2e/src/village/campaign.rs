//! Many turns of the adversary at the table, and what came of them.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use serde_json::Value;

use super::judge::{Judge, corruption};
use super::{Adversary, Table, Try};

/// What is played.
#[derive(Debug, Clone)]
pub struct Campaign<'a> {
    /// The `skep` binary.
    pub skep: &'a Path,
    /// A home of its own, which also gets the saved game and the evidence.
    pub home: &'a Path,
    /// The village's component or package.
    pub village: &'a Path,
    /// The renderer's.
    pub renderer: &'a Path,
    /// The language model.
    pub model: &'a Path,
    /// Talks.
    pub talks: u32,
    /// What the village and the player are drawn from.
    pub seed: u64,
    /// Whether the model is held to the grammar.
    pub grammar: bool,
}

/// What came of it.
#[derive(Debug, Clone, Default)]
pub struct Figures {
    /// Talks that were answered.
    pub talks: u32,
    /// Deeds that were tried.
    pub deeds: u32,
    /// Lines that did nothing.
    pub refused_lines: u32,
    /// Replies that did not stand, by their fault.
    pub violations: BTreeMap<String, u32>,
    /// Actions that were done, by their verb.
    pub actions: BTreeMap<String, u32>,
    /// Committed lines that contradict the state, by the independent judge.
    pub contradictions: Vec<String>,
    /// Changes of the state that nothing accounts for.
    pub corruptions: Vec<String>,
    /// Records of evidence that were written.
    pub evidence: usize,
    /// A few lines, as they were said.
    pub sample: Vec<String>,
    /// How long the talks took, from line to answer.
    pub talking: Duration,
}

impl Figures {
    /// Replies that did not stand.
    #[must_use]
    pub fn violated(&self) -> u32 {
        self.violations.values().sum()
    }
}

impl Campaign<'_> {
    /// Plays, and takes the saved game up again to see whether it leads to the same hash.
    ///
    /// # Errors
    /// When the game fails, or does not lead where it led.
    pub fn play(&self) -> Result<Figures> {
        let judge = Judge::new();
        let mut player = Adversary::new(self.seed);
        let saved = self.home.join("game");
        let evidence = self.home.join("evidence.jsonl");
        let mut table = self.open(&["--save".as_ref(), saved.as_os_str()], Some(&evidence))?;
        let coins = table.facts.coins();
        let mut figures = Figures::default();
        while figures.talks < self.talks {
            for deed in player.deeds(&table.view) {
                figures.deeds += 1;
                self.step(&mut table, &deed, &judge, &mut figures)?;
            }
            // The view is of when the visitor came; people may have gone since.
            table.turn("look")?;
            if let Some(order) = player.order(&table.view, &table.facts) {
                let began = Instant::now();
                self.step(&mut table, &order, &judge, &mut figures)?;
                figures.talking += began.elapsed();
            }
            if table.facts.coins() != coins {
                let now = table.facts.coins();
                figures
                    .corruptions
                    .push(format!("{coins} coins became {now}"));
            }
        }
        let hash = table.hash.clone();
        let tally = table.end()?;
        let number = |name: &str| tally.get(name).and_then(Value::as_u64);
        ensure!(
            number("talks") == Some(u64::from(figures.talks))
                && number("violations") == Some(u64::from(figures.violated())),
            "the game counts {tally}, and it was {figures:?}"
        );
        let records = std::fs::read_to_string(&evidence)?;
        figures.evidence = records.lines().count();
        let again = self.open(&["--load".as_ref(), saved.as_os_str()], None)?;
        let (found, tally_again) = (again.hash.clone(), again.end()?);
        ensure!(
            found == hash,
            "the saved game leads to {found}, and it was {hash}"
        );
        ensure!(tally_again == tally, "{tally_again} was {tally}");
        Ok(figures)
    }

    fn open(&self, more: &[&std::ffi::OsStr], evidence: Option<&Path>) -> Result<Table> {
        let seed = self.seed.to_string();
        let mut arguments: Vec<&std::ffi::OsStr> = vec![
            "--village".as_ref(),
            self.village.as_os_str(),
            "--renderer".as_ref(),
            self.renderer.as_os_str(),
            "--model".as_ref(),
            self.model.as_os_str(),
            "--seed".as_ref(),
            seed.as_ref(),
        ];
        arguments.extend(more);
        if let Some(path) = evidence {
            arguments.extend(["--evidence".as_ref(), path.as_os_str()]);
        }
        if !self.grammar {
            arguments.push("--without-grammar".as_ref());
        }
        Table::start(self.skep, self.home, &arguments)
    }

    /// Says a line, and judges everything that comes of it.
    fn step(
        &self,
        table: &mut Table,
        said: &Try,
        judge: &Judge,
        figures: &mut Figures,
    ) -> Result<()> {
        let before = table.facts.clone();
        let answers = table.turn(&said.line)?;
        let after = &table.facts;
        let mut done = false;
        for answer in &answers {
            if let Some(answer) = answer.get("answer") {
                done = true;
                let text = |name: &str| answer.get(name).and_then(Value::as_str).unwrap_or("");
                let (speaker, line, action) = (text("person"), text("line"), text("action"));
                figures.talks += 1;
                let verb = action.split(' ').next().unwrap_or_default();
                *figures.actions.entry(verb.to_owned()).or_default() += 1;
                if let Some(fault) = answer.pointer("/refused/fault").and_then(Value::as_str) {
                    *figures.violations.entry(fault.to_owned()).or_default() += 1;
                }
                let told = || format!("{} -> {speaker}: {line} | {action}", said.line);
                if let Some(wrong) = judge.contradiction(&before, speaker, said, line, action) {
                    figures.contradictions.push(format!("{} ({wrong})", told()));
                }
                if let Some(wrong) = corruption(&before, after, speaker, action) {
                    figures.corruptions.push(format!("{} ({wrong})", told()));
                }
                if figures.talks % 50 == 1 {
                    figures.sample.push(told());
                }
            } else if answer.get("events").is_some() {
                done = true;
                figures.corruptions.extend(after.nonsense());
            } else if answer.get("hint").is_some() {
                figures.refused_lines += 1;
            }
        }
        if !done && *after != before {
            let line = &said.line;
            figures
                .corruptions
                .push(format!("{line} did nothing, and changed the state"));
        }
        Ok(())
    }
}
