//! Runs the benchmarks and the side-by-side comparisons, one after the other, because each needs
//! the machine to itself. The figures that count are in `docs/benchmarks.md`.

use std::process::Command;

use anyhow::Result;
use clap::{Args, ValueEnum};

use crate::environment::{self, Environment};
use crate::{models, python};

#[derive(Args)]
pub struct Options {
    /// Which; all of them without a word.
    #[arg(value_enum)]
    which: Vec<Which>,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Which {
    /// A host call, an instantiation, a small tensor operation.
    Calls,
    /// Sentence embedding beside sentence-transformers.
    Embedding,
    /// Fetching a large blob beside nginx, curl and b3sum.
    Swarm,
}

/// Runs what was asked for.
pub fn run(environment: &Environment, options: &Options) -> Result<()> {
    let wanted = |which| options.which.is_empty() || options.which.contains(&which);
    // Dependencies are optimised in the development profile, and so are the crates that compute;
    // another profile would be another long build for the same figures.
    if wanted(Which::Calls) {
        for bench in ["small_ops", "host_call", "instantiate"] {
            let mut cargo = environment.cargo();
            cargo.args(["bench", "--workspace", "--profile", "dev", "--bench", bench]);
            environment::run(&mut cargo, "run the benchmark of calls")?;
        }
    }
    if wanted(Which::Embedding) {
        let model = models::fetch(environment)?;
        build_examples(environment, &["embed_bench"])?;
        let packages = ["torch==2.9.1", "sentence-transformers==5.1.2"];
        let python = python::with(environment, "embedding", &packages)?;
        let mut compare = Command::new(python);
        compare
            .arg(
                environment
                    .root
                    .join("benches")
                    .join("embed_side_by_side.py"),
            )
            .arg(example(environment, "embed_bench"))
            .arg(model);
        environment::run(&mut compare, "compare embeddings")?;
    }
    if wanted(Which::Swarm) {
        build_examples(environment, &["transfer"])?;
        let mut compare = Command::new("python3");
        compare
            .arg(
                environment
                    .root
                    .join("benches")
                    .join("swarm_side_by_side.py"),
            )
            .arg(example(environment, "transfer"));
        environment::run(&mut compare, "compare transfers")?;
    }
    Ok(())
}

fn build_examples(environment: &Environment, names: &[&str]) -> Result<()> {
    let mut cargo = environment.cargo();
    cargo.args(["build", "--workspace", "--test", "golden"]);
    for name in names {
        cargo.args(["--example", name]);
    }
    environment::run(&mut cargo, "build the benchmark")
}

fn example(environment: &Environment, name: &str) -> std::path::PathBuf {
    environment.target.join("debug").join("examples").join(name)
}
