//! The home folder: where keys, blobs, caches and the configuration are, and who may read them.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use crate::failure::{Failure, FailureKind};

/// A home folder that exists and that only its owner can enter.
#[derive(Debug, Clone)]
pub struct Home(PathBuf);

impl Home {
    /// The given folder, or `.skep` in the user's own; made if it is missing.
    pub fn open(given: Option<PathBuf>) -> Result<Self, Failure> {
        let path = match given {
            Some(path) => path,
            None => std::env::home_dir()
                .map(|user| user.join(".skep"))
                .ok_or_else(|| {
                    Failure::new(
                        FailureKind::Usage,
                        "this user has no home folder; say where skep may keep its own with --home",
                    )
                })?,
        };
        let failed = |error: io::Error| {
            Failure::new(
                FailureKind::Failed,
                format!(
                    "cannot use {} as the home folder ({error}); choose another with --home",
                    path.display()
                ),
            )
        };
        make_private(&path).map_err(failed)?;
        let path = fs::canonicalize(&path).map_err(failed)?;
        Ok(Self(path))
    }

    /// The folder itself.
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// Publisher keys, one file each.
    pub fn keys(&self) -> PathBuf {
        self.0.join("keys")
    }

    /// Everything that the swarm keeps: the node's identity, blobs, releases, packages.
    pub fn swarm(&self) -> PathBuf {
        self.0.join("swarm")
    }

    /// Compiled components, made here and never taken from elsewhere.
    pub fn compiled(&self) -> PathBuf {
        self.0.join("compiled")
    }

    /// What is kept ready for others, and until when.
    pub fn kept(&self) -> PathBuf {
        self.0.join("kept.json")
    }

    /// The models that come with the binary, written out to be mapped into memory.
    pub fn embedded(&self) -> PathBuf {
        self.0.join("embedded")
    }

    /// What runs are writing, until it is finished and put where it belongs.
    pub fn drafts(&self) -> PathBuf {
        self.0.join("drafts")
    }

    /// The jobs that were begun here, a folder for each.
    pub fn jobs(&self) -> PathBuf {
        self.0.join("jobs")
    }

    /// What was seen of others' work that does not stand.
    pub fn evidence(&self) -> PathBuf {
        self.0.join("evidence")
    }

    /// The key that signs leases and receipts, and that credits belong to.
    pub fn account_key(&self) -> PathBuf {
        self.0.join("account.key")
    }

    /// What this node has to spend, and spent.
    pub fn ledger(&self) -> PathBuf {
        self.0.join("ledger.redb")
    }

    /// What this node signed and was paid for.
    pub fn earnings(&self) -> PathBuf {
        self.0.join("earnings.redb")
    }

    /// What this node remembers of those who worked for it.
    pub fn dealings(&self) -> PathBuf {
        self.0.join("dealings.redb")
    }

    /// The owner's configuration.
    pub fn configuration(&self) -> PathBuf {
        self.0.join("config.toml")
    }
}

/// Makes a folder, with those above it, that only its owner can enter.
pub fn make_private(path: &Path) -> io::Result<()> {
    let mut builder = fs::DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    {
        use std::os::unix::fs::DirBuilderExt;
        builder.mode(0o700);
    }
    builder.create(path)
}
