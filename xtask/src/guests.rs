//! Builds the guests: the first-party workloads in Rust, and the examples of the Python and the
//! JavaScript SDK, which do the same as guests in Rust.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use clap::Args;

use crate::environment::{self, Environment, exists, output};
use crate::recipe;

const TARGET: &str = "wasm32-wasip2";

#[derive(Args)]
pub struct Options {
    /// Build only the Rust guests.
    #[arg(long)]
    rust_only: bool,
    /// Put the recipe `fine-tune`, as it is built, into the repository, from where it comes into
    /// the host.
    #[arg(long)]
    keep_recipe: bool,
}

/// Builds all guests and says where they are.
pub fn run(environment: &Environment, options: &Options) -> Result<PathBuf> {
    let folder = build(environment, options.rust_only)?;
    if options.keep_recipe {
        recipe::keep(environment)?;
    }
    println!("guests: {}", folder.display());
    Ok(folder)
}

/// Builds the guests into the folder of components, which it returns.
pub fn build(environment: &Environment, rust_only: bool) -> Result<PathBuf> {
    build_rust(environment)?;
    if !rust_only {
        build_python(environment)?;
        build_javascript(environment)?;
    }
    Ok(environment.components())
}

/// Makes a built guest a package, ready to be published or run, and returns its folder.
pub fn package(environment: &Environment, name: &str) -> Result<PathBuf> {
    let source = environment.root.join("guests").join(name);
    let package = environment.components().join(name);
    fs::create_dir_all(&package)?;
    for file in ["skep.toml", "README.md"] {
        fs::copy(source.join(file), package.join(file))
            .with_context(|| format!("cannot copy {file} of {name}"))?;
    }
    let component = format!("{name}.wasm");
    fs::copy(
        environment.components().join(&component),
        package.join(&component),
    )
    .with_context(|| format!("{name} is not built; `cargo xtask guests` builds it"))?;
    Ok(package)
}

/// Builds the guests in Rust.
pub fn build_rust(environment: &Environment) -> Result<()> {
    add_target(environment)?;
    let target = environment.target.join("guests");
    let mut fetch = environment.cargo();
    fetch
        .current_dir(environment.root.join("guests"))
        .args(["fetch", "--quiet"]);
    environment::run(&mut fetch, "fetch what the guests depend on")?;
    let mut cargo = environment.cargo();
    cargo
        .env("CARGO_TARGET_DIR", &target)
        .env("RUSTFLAGS", without_places()?)
        .current_dir(environment.root.join("guests"))
        .args([
            "build",
            "--release",
            "--target",
            TARGET,
            "--workspace",
            "--examples",
            "--lib",
        ]);
    environment::run(&mut cargo, "build the Rust guests")?;
    let built = target.join(TARGET).join("release");
    collect(&built, environment)?;
    collect(&built.join("examples"), environment)
}

/// What has the compiler leave out where dependencies lie on this machine, so that components have
/// the same digest wherever they are built.
fn without_places() -> Result<String> {
    let home = std::env::var_os("CARGO_HOME").map(PathBuf::from);
    let home = home.or_else(|| std::env::home_dir().map(|home| home.join(".cargo")));
    let sources = home
        .context("there is no home folder")?
        .join("registry")
        .join("src");
    let mut flags = Vec::new();
    for entry in fs::read_dir(sources).into_iter().flatten() {
        let folder = entry?.path();
        flags.push(format!("--remap-path-prefix={}=crates", folder.display()));
    }
    flags.sort();
    Ok(flags.join(" "))
}

/// The guests whose own tests run natively: what they compute has nothing to do with WebAssembly.
const TESTED: [&str; 5] = [
    "fine-tune",
    "npc-scene",
    "npc-renderer",
    "verifier",
    "village",
];

/// Runs the guests' own tests. They are a workspace of their own, so the host's tests leave them
/// out.
pub fn test(environment: &Environment) -> Result<()> {
    let mut cargo = environment.cargo();
    cargo
        .env("CARGO_TARGET_DIR", environment.target.join("guests"))
        .current_dir(environment.root.join("guests"));
    match exists("cargo-nextest") {
        true => cargo.args(["nextest", "run", "--no-fail-fast"]),
        false => cargo.args(["test", "--no-fail-fast", "--tests"]),
    };
    for name in TESTED {
        cargo.args(["--package", name]);
    }
    environment::run(&mut cargo, "run the guests' own tests")
}

/// Copies the components in a folder, under their packages' names.
fn collect(built: &Path, environment: &Environment) -> Result<()> {
    fs::create_dir_all(environment.components())?;
    for entry in fs::read_dir(built)? {
        let path = entry?.path();
        // Cargo keeps copies with a hash in their names beside those that it links to.
        let Some(stem) = path.file_stem().and_then(|stem| stem.to_str()) else {
            continue;
        };
        if path.extension().is_none_or(|extension| extension != "wasm") || stem.contains('-') {
            continue;
        }
        let name = format!("{}.wasm", stem.replace('_', "-"));
        fs::copy(&path, environment.components().join(name))?;
    }
    Ok(())
}

/// Installs the target unless it is there. Asking first keeps rustup off the network.
fn add_target(environment: &Environment) -> Result<()> {
    let mut list = Command::new("rustup");
    list.current_dir(&environment.root)
        .args(["target", "list", "--installed"]);
    let installed = output(&mut list, "list the installed targets")?;
    if installed.lines().any(|line| line == TARGET) {
        return Ok(());
    }
    let mut add = Command::new("rustup");
    add.current_dir(&environment.root)
        .args(["target", "add", TARGET]);
    environment::run(&mut add, "install the target wasm32-wasip2")
}

/// The examples of the SDKs other than Rust's, by the names of their components.
const EXAMPLES: [&str; 2] = ["batch-classifier", "generate"];

/// Those that there are in Python alone.
const IN_PYTHON: [&str; 1] = ["fine-tune"];

fn build_python(environment: &Environment) -> Result<()> {
    for example in EXAMPLES.iter().chain(&IN_PYTHON) {
        build_in_python(environment, example)?;
    }
    Ok(())
}

/// Builds one example of the Python SDK, and returns its component.
pub fn build_in_python(environment: &Environment, example: &str) -> Result<PathBuf> {
    let sdk = environment.root.join("sdk").join("python");
    let folder = sdk.join("examples").join(example.replace('-', "_"));
    let component = environment
        .components()
        .join(format!("{example}-python.wasm"));
    let mut build = Command::new("python3");
    build
        .arg(sdk.join("build.py"))
        .arg(folder)
        .arg("--output")
        .arg(&component)
        .arg("--cache")
        .arg(environment.tools().join("componentize-py"));
    environment::run(&mut build, "build a Python guest")?;
    Ok(component)
}

/// The tools go into the SDK's own folder, because node looks for them beside the script.
fn build_javascript(environment: &Environment) -> Result<()> {
    let sdk = environment.root.join("sdk").join("js");
    let modules = sdk.join("node_modules");
    let lock = fs::read(sdk.join("package-lock.json"))?;
    let receipt = modules.join(".installed-lock.json");
    if fs::read(&receipt).ok().as_ref() != Some(&lock) {
        let mut install = Command::new("npm");
        install
            .current_dir(&sdk)
            .args(["ci", "--no-audit", "--no-fund", "--loglevel=error"]);
        environment::run(&mut install, "install componentize-js")?;
        fs::write(&receipt, &lock)?;
    }
    for example in EXAMPLES {
        let mut build = Command::new("node");
        build
            .arg(sdk.join("build.mjs"))
            .arg(sdk.join("examples").join(example))
            .arg("--output")
            .arg(environment.components().join(format!("{example}-js.wasm")));
        environment::run(&mut build, "build a JavaScript guest")?;
    }
    Ok(())
}
