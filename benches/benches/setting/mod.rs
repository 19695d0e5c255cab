//! What the benchmarks of jobs share: a requester that has published a task, and nodes that take its
//! jobs, as real processes on loopback.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use skep_tests::{Node, ask, configure};

/// A folder with the homes of all nodes, and the input of every job.
pub struct Setting {
    folder: tempfile::TempDir,
    pub skep: PathBuf,
    /// The package that jobs are made of.
    pub package: String,
}

impl Setting {
    /// `make` makes the folder of the package.
    pub fn new(skep: PathBuf, make: impl FnOnce(&Path), lines: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let package = folder.path().join("package");
        make(&package);
        fs::write(folder.path().join("lines"), lines).unwrap();
        let requester = folder.path().join("requester");
        configure(&requester, "").unwrap();
        ask(&skep, &requester, &["key", "new"]).unwrap();
        let published = ask(&skep, &requester, &["publish", package.to_str().unwrap()]).unwrap();
        ask(&skep, &requester, &["account", "add", "1000"]).unwrap();
        let package = published["published"]["reference"].as_str().unwrap();
        Self {
            package: package.to_owned(),
            folder,
            skep,
        }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub fn requester(&self) -> Node {
        Node::start(&self.skep, &self.path("requester")).unwrap()
    }

    pub fn provider(&self, name: &str) -> Node {
        let home = self.path(name);
        configure(&home, "[jobs]\naccept = true\n").unwrap();
        Node::start(&self.skep, &home).unwrap()
    }
}

pub fn median(mut times: Vec<Duration>) -> Duration {
    times.sort();
    times[times.len() / 2]
}
