//! Builds the guests: the first-party workloads in Rust, and the same batch classifier in
//! Python and in JavaScript.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use clap::Args;

use crate::environment::{Environment, output, run};
use crate::python;

const TARGET: &str = "wasm32-wasip2";

#[derive(Args)]
pub struct Options {
    /// Build only the Rust guests.
    #[arg(long)]
    rust_only: bool,
}

/// Builds all guests and says where they are.
pub fn run(environment: &Environment, options: &Options) -> Result<PathBuf> {
    let folder = build(environment, options.rust_only)?;
    println!("guests: {}", folder.display());
    Ok(folder)
}
