//! The recipe that comes with the host: a built component in the repository, because whoever builds
//! the host alone has no compiler for WebAssembly.
//!
//! Beside it lies the digest of what it was built from, so that a change of its sources that did
//! not reach it is a breach of the rules. What this module must never do: keep a component that
//! says where it was built.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use crate::environment::Environment;

/// The recipe.
const NAME: &str = "fine-tune";
/// The folder of both files.
const FOLDER: &str = "guests/fine-tune/built";
/// What the component is made from: its sources, its dependencies, and the interface that it
/// drives.
const SOURCES: [&str; 4] = [
    "guests/fine-tune/Cargo.toml",
    "guests/fine-tune/src",
    "guests/Cargo.lock",
    "wit/deps/train",
];

/// Keeps the component that was just built, and says of what.
pub fn keep(environment: &Environment) -> Result<()> {
    let built = environment.components().join(component());
    let bytes = fs::read(&built).with_context(|| format!("cannot read {}", built.display()))?;
    // Sources lie in the first, those of dependencies in the second.
    let places = [Some(environment.root.clone()), std::env::home_dir()];
    for place in places.into_iter().flatten() {
        let text = place.to_string_lossy();
        if text.len() > 1 && holds(&bytes, text.as_bytes()) {
            bail!("{} says that it was built in {text}", built.display());
        }
    }
    let folder = environment.root.join(FOLDER);
    fs::create_dir_all(&folder)?;
    fs::write(folder.join(component()), bytes)?;
    fs::write(
        folder.join(digest_file()),
        format!("{}\n", digest(environment)?),
    )?;
    println!("recipe: {}", folder.display());
    Ok(())
}

/// Whether the component that is kept was built from the sources as they are.
pub fn check(environment: &Environment, breaches: &mut Vec<String>) -> Result<()> {
    let kept = fs::read_to_string(environment.root.join(FOLDER).join(digest_file()));
    if kept.unwrap_or_default().trim() != digest(environment)? {
        breaches.push(format!(
            "{FOLDER}/{}: its sources have changed since it was built; run \
             `cargo xtask guests --keep-recipe`",
            component()
        ));
    }
    Ok(())
}

fn component() -> String {
    format!("{NAME}.wasm")
}

fn digest_file() -> String {
    format!("{NAME}.sources")
}

fn holds(bytes: &[u8], part: &[u8]) -> bool {
    bytes.windows(part.len()).any(|window| window == part)
}

/// The digest of all sources with their places.
fn digest(environment: &Environment) -> Result<String> {
    let mut files = Vec::new();
    for source in SOURCES {
        files_below(&environment.root.join(source), &mut files)?;
    }
    files.sort();
    let mut whole = blake3::Hasher::new();
    for file in files {
        let place = file.strip_prefix(&environment.root).unwrap_or(&file);
        whole.update(place.to_string_lossy().as_bytes());
        whole.update(&[0]);
        whole.update(blake3::hash(&fs::read(&file)?).as_bytes());
    }
    Ok(whole.finalize().to_hex().to_string())
}

fn files_below(place: &Path, files: &mut Vec<PathBuf>) -> Result<()> {
    if place.is_dir() {
        for entry in fs::read_dir(place)? {
            files_below(&entry?.path(), files)?;
        }
        return Ok(());
    }
    files.push(place.to_owned());
    Ok(())
}
