//! Publisher keys in the home folder, by the names that their owner gave them.

use std::fs;

use serde::Serialize;
use skep_registry::{Identifier, PublisherKey};

use crate::failure::{Failure, FailureKind};
use crate::home::{Home, make_private};

const ENDING: &str = "key";

/// A key as lists show it. The secret half never leaves its file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct KeyLine {
    /// What it is called here.
    pub name: String,
    /// The public half: the publisher's identity.
    pub publisher: String,
}

/// Makes a key under a name that is free.
pub fn create(home: &Home, name: &str) -> Result<KeyLine, Failure> {
    let path = path_of(home, name)?;
    if path.exists() {
        return Err(Failure::new(
            FailureKind::Refused,
            format!(
                "there is a key called {name:?} already, and replacing it would orphan what it has \
                 published; choose another name"
            ),
        ));
    }
    make_private(&home.keys()).map_err(|error| Failure::of(FailureKind::Failed, &error))?;
    let key = PublisherKey::generate().map_err(|error| Failure::of(FailureKind::Failed, &error))?;
    key.save(&path)
        .map_err(|error| Failure::of(FailureKind::Failed, &error))?;
    Ok(KeyLine {
        name: name.to_owned(),
        publisher: key.id().to_string(),
    })
}

/// Loads a key by its name.
pub fn load(home: &Home, name: &str) -> Result<PublisherKey, Failure> {
    let path = path_of(home, name)?;
    if !path.exists() {
        return Err(Failure::new(
            FailureKind::NotFound,
            format!("there is no key called {name:?} here; make it with `skep key new {name}`"),
        ));
    }
    PublisherKey::load(&path).map_err(|error| Failure::of(FailureKind::Refused, &error))
}

/// Lists the keys by name.
pub fn list(home: &Home) -> Result<Vec<KeyLine>, Failure> {
    let entries = match fs::read_dir(home.keys()) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(Failure::of(FailureKind::Failed, &error)),
    };
    let mut names: Vec<String> = entries
        .filter_map(|entry| {
            let path = entry.ok()?.path();
            let is_key = path.extension()?.to_str()? == ENDING;
            is_key.then(|| path.file_stem()?.to_str().map(str::to_owned))?
        })
        .collect();
    names.sort();
    names
        .into_iter()
        .map(|name| {
            let publisher = load(home, &name)?.id().to_string();
            Ok(KeyLine { name, publisher })
        })
        .collect()
}

/// The file of a key. An identifier cannot reach outside the folder.
fn path_of(home: &Home, name: &str) -> Result<std::path::PathBuf, Failure> {
    let name: Identifier = name
        .parse()
        .map_err(|error| Failure::of(FailureKind::Usage, &error))?;
    Ok(home.keys().join(format!("{name}.{ENDING}")))
}
