//! Builds what the tests need and runs all of them.

use std::process::Command;

use anyhow::Result;
use clap::Args;

use crate::environment::{self, Environment, exists};
use crate::guests;

#[derive(Args)]
pub struct Options {
    /// Leave out the Python and JavaScript components, and the tests that need them.
    #[arg(long)]
    rust_only: bool,
}

/// Runs everything. The end-to-end tests find the binary and the components through the
/// environment, so that they test what was just built.
pub fn run(environment: &Environment, options: &Options) -> Result<()> {
    environment.build_host()?;
    let components = guests::build(environment, options.rust_only)?;
    let with = |command: &mut Command| {
        command
            .env("SKEP_BIN", environment.skep())
            .env("SKEP_COMPONENTS", &components)
            .env("INSTA_UPDATE", "no");
        if options.rust_only {
            command.env("SKEP_RUST_ONLY", "1");
        }
    };
    // nextest runs the tests of all crates at once and shows which one hangs; plain cargo does
    // the same work where it is not installed.
    let mut tests = environment.cargo();
    if exists("cargo-nextest") {
        tests.args(["nextest", "run", "--workspace", "--no-fail-fast"]);
    } else {
        tests.args(["test", "--workspace", "--no-fail-fast"]);
    }
    with(&mut tests);
    environment::run(&mut tests, "run the tests")?;
    guests::test(environment)?;
    let mut documentation = environment.cargo();
    documentation.args(["test", "--workspace", "--doc"]);
    with(&mut documentation);
    environment::run(&mut documentation, "run the examples in the documentation")
}
