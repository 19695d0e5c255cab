//! Python environments of the chores' own, one for each set of packages, under the target
//! folder.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use anyhow::Result;

use crate::environment::{Environment, run};

/// A Python with these packages (each `name==version`), made on first use; returns the path of
/// its interpreter.
pub fn with(environment: &Environment, name: &str, packages: &[&str]) -> Result<PathBuf> {
    let folder = environment.tools().join(format!("python-{name}"));
    let interpreter = folder.join("bin").join("python");
    let receipt = folder.join("installed.txt");
    let wanted = packages.join("\n");
    if fs::read_to_string(&receipt).is_ok_and(|installed| installed == wanted) {
        return Ok(interpreter);
    }
    println!("python: installing {}", packages.join(", "));
    run(
        Command::new("python3").args(["-m", "venv"]).arg(&folder),
        "make a Python environment (on Debian, install python3-venv)",
    )?;
    run(
        Command::new(&interpreter)
            .args([
                "-m",
                "pip",
                "install",
                "--quiet",
                "--disable-pip-version-check",
            ])
            .args(packages),
        "install Python packages",
    )?;
    fs::write(receipt, wanted)?;
    Ok(interpreter)
}
