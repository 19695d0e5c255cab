//! Plays the village as a person would who has it installed: builds the host and the two
//! components, makes packages of them, and starts `skep play` with both.

use std::ffi::OsString;
use std::process::Command;

use anyhow::{Context, Result, bail};
use clap::Args;

use crate::environment::Environment;
use crate::guests;

#[derive(Args)]
pub struct Options {
    /// Take the host and the guests as they are built, and build nothing.
    #[arg(long)]
    built: bool,
    /// What goes to `skep play`, such as `-- --seed 7 --save game`.
    #[arg(last = true)]
    arguments: Vec<OsString>,
}

/// Builds and plays. The home is one of its own, so that nobody's is touched.
pub fn run(environment: &Environment, options: &Options) -> Result<()> {
    if !options.built {
        environment.build_host()?;
        guests::build_rust(environment)?;
    }
    let village = guests::package(environment, "village")?;
    let renderer = guests::package(environment, "npc-renderer")?;
    let home = environment.target.join("play");
    skep_tests::set_up(&home)?;
    let mut play = Command::new(environment.skep());
    play.arg("--home")
        .arg(&home)
        .arg("play")
        .arg("--village")
        .arg(village)
        .arg("--renderer")
        .arg(renderer);
    let chosen = ["--model", "-m"];
    if !options
        .arguments
        .iter()
        .any(|each| chosen.iter().any(|name| each == name))
    {
        play.arg("--model").arg(skep_tests::Built::language_model());
    }
    play.args(&options.arguments);
    let status = play.status().context("cannot start skep")?;
    if !status.success() {
        bail!("the game ended with {status}");
    }
    Ok(())
}
