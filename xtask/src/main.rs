//! The project's chores, run as `cargo xtask <chore>`: everything that a person or the
//! continuous integration does with the repository beyond plain cargo.
//!
//! A chore installs what it needs. It must never write outside the target folder and the places
//! that git ignores for it: the model cache, and the JavaScript SDK's modules.

mod bench;
mod byte_pairs;
mod debian;
mod demo;
mod environment;
mod guests;
mod links;
mod models;
mod play;
mod python;
mod recipe;
mod recipe_tax;
mod slow_links;
mod test;
mod tidy;
mod together;
mod tuning;
mod village;

use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};

use crate::environment::Environment;

#[derive(Parser)]
#[command(name = "cargo xtask", about = "The chores of the skep repository")]
struct Arguments {
    #[command(subcommand)]
    chore: Chore,
}

#[derive(Subcommand)]
enum Chore {
    /// Run the main job: publish on one node, fetch, verify and run on another.
    Demo(demo::Options),
    /// Build the village and who gives its people their words, and play.
    Play(play::Options),
    /// Build what the tests need and run all of them.
    Test(test::Options),
    /// Build the guests: Rust, Python and JavaScript components.
    Guests(guests::Options),
    /// Check the rules of the house: floors, imports, headers, file lengths, links.
    Tidy,
    /// Run the benchmarks and the side-by-side comparisons.
    Bench(bench::Options),
    /// Download all-MiniLM-L6-v2 for comparisons, and check its BLAKE3.
    FetchModels,
}

fn main() -> ExitCode {
    match run(&Arguments::parse().chore) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(chore: &Chore) -> Result<()> {
    let environment = Environment::find()?;
    match chore {
        Chore::Demo(options) => demo::run(&environment, options),
        Chore::Play(options) => play::run(&environment, options),
        Chore::Test(options) => test::run(&environment, options),
        Chore::Guests(options) => guests::run(&environment, options).map(|_| ()),
        Chore::Tidy => tidy::run(&environment),
        Chore::Bench(options) => bench::run(&environment, options),
        Chore::FetchModels => models::fetch(&environment).map(|_| ()),
    }
}
