//! Loading a component, and whose fault it is where that cannot be.
//!
//! # What it must never do
//!
//! - Blame a component for what this node's disk has made of it.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use skep_registry::Digest;
use skep_sandbox::{LoadError, Program};

use super::Service;
use crate::failure::{Failure, FailureKind};

/// Why a component is not ready to run.
#[derive(Debug)]
pub(in crate::service) enum Unready {
    /// It is none that runs here. Where it lies is for the owner of this node alone.
    Component { failure: Failure, path: PathBuf },
    /// Its adapter is none for it, or a model that it gets does not open for it.
    Unfit(Failure),
    /// Something beside it: a file or a compiler of this node, or a model that it gets.
    Beside(Failure),
}

impl From<Failure> for Unready {
    fn from(failure: Failure) -> Self {
        Self::Beside(failure)
    }
}

impl From<Unready> for Failure {
    fn from(unready: Unready) -> Self {
        match unready {
            Unready::Component { failure, path } => of_file(&path, &failure),
            Unready::Unfit(failure) | Unready::Beside(failure) => failure,
        }
    }
}

/// The same failure, which says of which file it is.
fn of_file(path: &Path, failure: &Failure) -> Failure {
    Failure::new(failure.kind, format!("{}: {failure}", path.display()))
}

/// Loads a component: checks it and compiles it, or finds it in the cache.
pub async fn load(service: &Service, path: PathBuf) -> Result<Arc<Program>, Failure> {
    Ok(loaded(service, path, None).await?)
}

/// The same. Bytes that are not those that were `signed`, if any were, are no component's fault but this disk's,
/// whether or not they happen to be a component.
pub(super) async fn loaded(
    service: &Service,
    path: PathBuf,
    signed: Option<Digest>,
) -> Result<Arc<Program>, Unready> {
    let sandbox = service.sandbox()?;
    let loaded = tokio::task::spawn_blocking(move || {
        let bytes = std::fs::read(&path).map_err(|error| {
            let kind = match error.kind() {
                io::ErrorKind::NotFound => FailureKind::NotFound,
                _ => FailureKind::Failed,
            };
            let advice = match error.kind() {
                io::ErrorKind::NotFound => "; `skep build` makes it from its sources",
                _ => "",
            };
            Failure::new(
                kind,
                format!("cannot read {}: {error}{advice}", path.display()),
            )
        })?;
        let bytes = Bytes::from(bytes);
        let loaded = sandbox.load(bytes.clone());
        let digest = match &loaded {
            Ok(program) => program.digest(),
            Err(_) => Digest::of(&bytes),
        };
        if signed.is_some_and(|signed| signed != digest) {
            return Err(Unready::Beside(damaged(&path)));
        }
        loaded.map_err(|error| {
            let kind = match error {
                LoadError::Refused(_) => FailureKind::Refused,
                LoadError::TooLarge { .. } => FailureKind::Limit,
                LoadError::Busy => FailureKind::Busy,
                _ => FailureKind::Failed,
            };
            let failure = Failure::of(kind, &error);
            match error {
                LoadError::Busy | LoadError::Host { .. } => {
                    Unready::Beside(of_file(&path, &failure))
                }
                _ => Unready::Component { failure, path },
            }
        })
    });
    let program = loaded
        .await
        .map_err(|error| Failure::of(FailureKind::Failed, &error))??;
    Ok(Arc::new(program))
}

fn damaged(path: &Path) -> Failure {
    Failure::new(
        FailureKind::Failed,
        format!(
            "{} is damaged on this disk: it is not what its publisher signed; delete the folder of its package, \
             and `skep install` or the next job that runs it puts it there anew",
            path.display()
        ),
    )
}
