//! What one test has compiled, kept for the others of the same run.
//!
//! A node compiles every component that it has not compiled before, and keeps what comes of it in its home. Those
//! that bring a whole interpreter keep all processors busy for ten seconds; tests that are not about that have one
//! folder for it together. Nothing in it is from an earlier run, which may have been of another build.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};

use crate::target;

/// How long the folder of another run stays after something was last put into it: much longer than a run takes.
const KEPT: Duration = Duration::from_secs(2 * 60 * 60);

/// The folder of what this run of the tests has compiled, which is made if it is missing.
///
/// # Errors
///
/// When it cannot be made.
pub fn folder() -> Result<PathBuf> {
    let run = std::env::var("NEXTEST_RUN_ID");
    // Without nextest all tests of one file are in one process, and share with nobody else.
    let run = run.unwrap_or_else(|_| std::process::id().to_string());
    of_run(&target().join("tmp").join("compiled"), &run)
}

/// Lets a home in which nothing was compiled yet keep what is compiled for it in the folder of this run.
///
/// # Errors
///
/// When the folder cannot be made, or the home has one of its own already.
pub fn share(home: &Path) -> Result<()> {
    fs::create_dir_all(home)?;
    symlink(folder()?, home.join("compiled"))
        .with_context(|| format!("{} cannot share what is compiled", home.display()))
}

/// The folder of a run among those of all runs. Those of runs that are long over are removed.
fn of_run(all: &Path, run: &str) -> Result<PathBuf> {
    let own = all.join(run);
    fs::create_dir_all(&own).with_context(|| format!("cannot make {}", own.display()))?;
    for other in fs::read_dir(all)? {
        let other = other?;
        let changed = other.metadata().and_then(|data| data.modified());
        let age = changed.ok().and_then(|changed| changed.elapsed().ok());
        if other.path() != own && age.is_some_and(|age| age > KEPT) {
            // Another test may be removing it too.
            let _ = fs::remove_dir_all(other.path());
        }
    }
    // A link to it is read from other folders than this process's.
    Ok(fs::canonicalize(own)?)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::time::SystemTime;

    use super::*;

    #[test]
    fn runs_have_folders_of_their_own_and_only_what_is_long_over_goes() {
        let all = tempfile::tempdir().unwrap();
        let [over, other, own] = ["over", "other", "own"].map(|run| {
            let folder = of_run(all.path(), run).unwrap();
            fs::write(folder.join("a component"), run).unwrap();
            folder
        });
        let long_ago = SystemTime::now() - 2 * KEPT;
        for folder in [&over, &own] {
            let folder = fs::File::open(folder).unwrap();
            folder.set_modified(long_ago).unwrap();
        }
        assert_eq!(of_run(all.path(), "own").unwrap(), own);
        assert!(!over.exists());
        for (folder, run) in [(other, "other"), (own, "own")] {
            let kept = fs::read_to_string(folder.join("a component"));
            assert_eq!(kept.unwrap(), run);
        }
    }
}
