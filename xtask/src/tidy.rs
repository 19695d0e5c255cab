//! The rules of the house, as a check: which crate may import which, and what every source
//! file owes its reader.
//!
//! A rule here is one that review would otherwise have to remember. It reports every breach
//! at once, each with what to do about it.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result, bail};

use crate::environment::{Environment, output};
use crate::{links, recipe};

/// The floor of every crate of the host. A crate imports only crates on lower floors.
const FLOORS: &[(&str, u8)] = &[
    ("skep-node", 7),
    ("skep-router", 6),
    ("skep-sandbox", 5),
    ("skep-train-device", 5),
    ("skep-train", 4),
    ("skep-market", 4),
    ("skep-devices", 4),
    ("skep-engine", 3),
    ("skep-model", 2),
    ("skep-decoder", 2),
    ("skep-cubes", 2),
    ("skep-tensor", 1),
    ("skep-swarm", 1),
    ("skep-kernels", 1),
    ("skep-text", 1),
    ("skep-evidence", 1),
    ("skep-accounts", 0),
    ("skep-attest", 0),
    ("skep-registry", 0),
    ("skep-records", 0),
    ("skep-together", 0),
    ("skep-weights", 0),
    ("skep-templates", 0),
];

/// Crates that check or show the house rather than hold it up: they import any floor, and no
/// floor imports them.
const OUTSIDE: &[&str] = &[
    "skep-xtask",
    "skep-tickets",
    "skep-contract-tests",
    "skep-tests",
    "skep-benches",
];

/// Outside libraries that only some crates may import, by the beginning of their names.
const RESERVED: &[(&str, &[&str])] = &[
    ("wasmtime", &["skep-sandbox"]),
    ("burn", &["skep-tensor", "skep-model", "skep-train-device"]),
    ("iroh", &["skep-swarm"]),
    (
        "cubecl",
        &["skep-cubes", "skep-tensor", "skep-train-device"],
    ),
];

/// A file holds one idea; beyond this many lines it hardly can.
const LONGEST_FILE: usize = 600;
/// A file of integration tests is a list of cases, which is still read one by one.
const LONGEST_TESTS: usize = 800;

/// Checks all rules and fails with the list of breaches.
pub fn run(environment: &Environment) -> Result<()> {
    let mut breaches = Vec::new();
    check_floors(environment, &mut breaches)?;
    let files = output(
        std::process::Command::new("git")
            .args(["ls-files", "--cached", "--others", "--exclude-standard"])
            .current_dir(&environment.root),
        "list the repository's files",
    )?;
    let read = |file: &str| fs::read_to_string(environment.root.join(file)).ok();
    let exists = |path: &Path| environment.root.join(path).exists();
    let names: Vec<&str> = files.lines().collect();
    links::check(&names, read, exists, &mut breaches);
    recipe::check(environment, &mut breaches)?;
    for file in files.lines() {
        let path = environment.root.join(file);
        // A file that was deleted but is still in the index has nothing to check.
        let Ok(text) = fs::read_to_string(&path) else {
            continue;
        };
        check_file(file, &text, &mut breaches);
    }
    if breaches.is_empty() {
        println!("tidy: {} files, every rule kept", files.lines().count());
        return Ok(());
    }
    for breach in &breaches {
        eprintln!("{breach}");
    }
    bail!("tidy: {} breaches of the rules above", breaches.len())
}

fn check_floors(environment: &Environment, breaches: &mut Vec<String>) -> Result<()> {
    let metadata = output(
        environment
            .cargo()
            .args(["metadata", "--no-deps", "--format-version", "1"]),
        "read the workspace's metadata",
    )?;
    let metadata: serde_json::Value = serde_json::from_str(&metadata)?;
    let floors: BTreeMap<&str, u8> = FLOORS.iter().copied().collect();
    let packages = metadata["packages"]
        .as_array()
        .context("cargo metadata lists no packages")?;
    for package in packages {
        let name = package["name"].as_str().unwrap_or_default();
        let floor = floors.get(name).copied();
        if floor.is_none() && !OUTSIDE.contains(&name) {
            breaches.push(format!(
                "{name}: has no floor; add it to FLOORS in xtask/src/tidy.rs"
            ));
            continue;
        }
        for dependency in package["dependencies"].as_array().into_iter().flatten() {
            let imported = dependency["name"].as_str().unwrap_or_default();
            // What only the tests of a crate import does not ship with it.
            if dependency["kind"].as_str() == Some("dev") {
                continue;
            }
            if let Some(breach) = floor.and_then(|floor| breach_of(name, floor, imported, &floors))
            {
                breaches.push(breach);
            }
        }
    }
    Ok(())
}

fn breach_of(name: &str, floor: u8, imported: &str, floors: &BTreeMap<&str, u8>) -> Option<String> {
    if OUTSIDE.contains(&imported) {
        return Some(format!(
            "{name}: imports {imported}, which is for tests and chores"
        ));
    }
    if let Some(&other) = floors.get(imported)
        && other >= floor
    {
        return Some(format!(
            "{name} (floor {floor}): imports {imported} (floor {other}); a crate imports only \
             lower floors, so hand it over as a trait from above"
        ));
    }
    let (library, allowed) = RESERVED.iter().find(|(library, _)| {
        imported == *library || imported.starts_with(&format!("{library}-"))
    })?;
    (!allowed.contains(&name)).then(|| {
        format!(
            "{name}: imports {imported}, but only {} may import {library}",
            allowed.join(", ")
        )
    })
}

fn check_file(file: &str, text: &str, breaches: &mut Vec<String>) {
    let extension = Path::new(file).extension().and_then(|e| e.to_str());
    if extension != Some("rs") {
        return;
    }
    let lines = text.lines().count();
    let longest = match file.contains("/tests/") {
        true => LONGEST_TESTS,
        false => LONGEST_FILE,
    };
    if lines > longest {
        breaches.push(format!(
            "{file}: {lines} lines; a file holds one idea, in at most {longest}"
        ));
    }
    let is_template = file.starts_with("sdk/templates/");
    let first = text
        .lines()
        .find(|line| !line.trim().is_empty() && !line.starts_with("#!["))
        .unwrap_or_default();
    if !first.starts_with("//!") && !is_template {
        breaches.push(format!(
            "{file}: begin with a `//!` header that says what the file is for"
        ));
    }
    for (number, line) in text.lines().enumerate() {
        for mark in unfinished_marks() {
            if line.contains(&mark) {
                breaches.push(format!(
                    "{file}:{}: `{mark}` is unfinished work; finish it or take it out",
                    number + 1
                ));
            }
        }
    }
}

/// The marks of unfinished work, put together here so that this file does not contain them.
fn unfinished_marks() -> [String; 4] {
    [
        ["TO", "DO"].concat(),
        ["FIX", "ME"].concat(),
        ["dbg", "!("].concat(),
        ["#[ig", "nore"].concat(),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn floors() -> BTreeMap<&'static str, u8> {
        FLOORS.iter().copied().collect()
    }

    #[test]
    fn an_arrow_that_runs_up_a_floor_is_a_breach() {
        assert!(breach_of("skep-tensor", 1, "skep-model", &floors()).is_some());
        assert!(breach_of("skep-tensor", 1, "skep-swarm", &floors()).is_some());
        assert!(breach_of("skep-model", 2, "skep-tensor", &floors()).is_none());
    }

    #[test]
    fn a_reserved_library_is_for_its_crates_alone() {
        assert!(breach_of("skep-node", 6, "wasmtime-wasi", &floors()).is_some());
        assert!(breach_of("skep-sandbox", 4, "wasmtime-wasi", &floors()).is_none());
        assert!(breach_of("skep-node", 6, "burnish", &floors()).is_none());
    }

    #[test]
    fn a_file_without_a_header_or_with_unfinished_work_is_a_breach() {
        let mut breaches = Vec::new();
        check_file("a.rs", "//! What it is for.\nfn main() {}\n", &mut breaches);
        assert_eq!(breaches, Vec::<String>::new());
        check_file("b.rs", "fn main() {}\n", &mut breaches);
        check_file(
            "c.rs",
            &format!("//! x\n// {}\n", unfinished_marks()[0]),
            &mut breaches,
        );
        assert_eq!(breaches.len(), 2);
    }
}
