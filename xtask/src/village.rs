//! The village's long trial: a thousand talks with a hostile player, once with the grammar and
//! once without it, judged by somebody who shares nothing with the village's own judge.

use std::fs;

use anyhow::{Result, ensure};
use skep_tests::village::{Campaign, Figures};

use crate::environment::Environment;
use crate::guests;

/// Talks of each trial.
const TALKS: u32 = 1000;
/// What village and player are drawn from.
const SEED: u64 = 2026;

/// Builds, plays both trials, prints what came of them, and fails if anything false was said or
/// anything moved that nobody moved.
pub fn run(environment: &Environment, built: bool) -> Result<()> {
    if !built {
        environment.build_host()?;
        guests::build_rust(environment)?;
    }
    let village = guests::package(environment, "village")?;
    let renderer = guests::package(environment, "npc-renderer")?;
    for grammar in [true, false] {
        let home = environment.target.join("village-trial");
        if home.exists() {
            fs::remove_dir_all(&home)?;
        }
        let campaign = Campaign {
            skep: &environment.skep(),
            home: &home,
            village: &village,
            renderer: &renderer,
            model: &skep_tests::Built::language_model(),
            talks: TALKS,
            seed: SEED,
            grammar,
        };
        let figures = campaign.play()?;
        print(grammar, &figures);
        ensure!(
            figures.contradictions.is_empty() && figures.corruptions.is_empty(),
            "something false was said or something moved by itself; it is listed above"
        );
    }
    Ok(())
}

fn print(grammar: bool, figures: &Figures) {
    let which = if grammar { "with" } else { "without" };
    println!("\n=== {which} the grammar");
    for line in &figures.sample {
        println!("  {line}");
    }
    let talks = f64::from(figures.talks.max(1));
    println!("talks                       {:>8}", figures.talks);
    println!("deeds tried                 {:>8}", figures.deeds);
    println!("lines that did nothing      {:>8}", figures.refused_lines);
    println!(
        "replies refused             {:>8} ({:.2} %) {:?}",
        figures.violated(),
        f64::from(figures.violated()) * 100.0 / talks,
        figures.violations
    );
    println!("records of evidence         {:>8}", figures.evidence);
    println!("actions                     {:?}", figures.actions);
    println!(
        "contradictions committed    {:>8}",
        figures.contradictions.len()
    );
    println!(
        "changes by themselves       {:>8}",
        figures.corruptions.len()
    );
    println!(
        "milliseconds from line to answer {:.1}",
        figures.talking.as_secs_f64() * 1000.0 / talks
    );
    for wrong in figures.contradictions.iter().chain(&figures.corruptions) {
        println!("WRONG {wrong}");
    }
}
