//! `skep new`: writes a workload to start from.

use std::path::PathBuf;

use crate::cli::New;
use crate::failure::{Failure, FailureKind};

/// Writes the template into a folder named after the workload, which must not exist.
pub fn write(new: &New) -> Result<PathBuf, Failure> {
    Err(Failure::new(FailureKind::Failed, format!("{:?}", new.template)))
}
