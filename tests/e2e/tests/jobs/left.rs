//! What is left of a job where it was worked on: a process whose temporary files and log have a place of
//! their own, and a search of such places for pieces of texts.

use std::collections::HashSet;
use std::fs;
use std::path::{Path, PathBuf};

use skep_tests::Built;

use super::files;
use super::places::script;

/// Bytes of a piece: more than texts have in common that have nothing to do with each other.
const PIECE: usize = 24;

/// The program of a node that keeps its temporary files, and what it logs, in a folder of its own.
pub struct Apart {
    skep: PathBuf,
    folder: PathBuf,
}

impl Apart {
    /// For the node called `name`, beside its home in `folder`.
    pub fn new(folder: &Path, name: &str) -> Self {
        let own = folder.join(format!("{name}.apart"));
        let temporary = own.join("temporary");
        fs::create_dir_all(&temporary).unwrap();
        let text = format!(
            "export TMPDIR='{}' SKEP_LOG=info\nexec {} \"$@\" 2>> '{}'",
            temporary.display(),
            Built::skep().display(),
            own.join("log").display()
        );
        Self {
            skep: script(own.join("skep"), &text),
            folder: own,
        }
    }

    /// The program that starts it.
    pub fn skep(&self) -> &Path {
        &self.skep
    }

    /// Where its temporary files and its log are.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// What it logged.
    pub fn log(&self) -> String {
        fs::read_to_string(self.folder.join("log")).unwrap()
    }
}

/// Pieces of texts: whatever of these is somewhere, and is not much shorter than two pieces, has one of
/// them in it.
pub struct Pieces {
    all: HashSet<[u8; PIECE]>,
    /// By what pieces begin with, for a quick look.
    begins: Vec<bool>,
}

impl Pieces {
    /// Of these texts, without what is in the folder `known` as well.
    pub fn of<'a>(texts: impl IntoIterator<Item = &'a str>, known: &Path) -> Self {
        let mut all: HashSet<[u8; PIECE]> = HashSet::new();
        for text in texts {
            let pieces = text.as_bytes().chunks_exact(PIECE);
            all.extend(pieces.map(|piece| <[u8; PIECE]>::try_from(piece).unwrap()));
        }
        for file in files(known) {
            let bytes = fs::read(file).unwrap();
            for window in bytes.windows(PIECE) {
                all.remove(window);
            }
        }
        let mut begins = vec![false; 1 << 16];
        for piece in &all {
            begins[beginning(piece)] = true;
        }
        Self { all, begins }
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.all.len()
    }

    /// A file below a folder that has one of them.
    pub fn found_in(&self, folder: &Path) -> Option<PathBuf> {
        let has_one = |file: &PathBuf| self.are_in(&fs::read(file).unwrap());
        files(folder).into_iter().find(has_one)
    }

    /// Whether one of them is in these bytes.
    pub fn are_in(&self, bytes: &[u8]) -> bool {
        let is_one = |window: &[u8]| self.begins[beginning(window)] && self.all.contains(window);
        bytes.windows(PIECE).any(is_one)
    }
}

fn beginning(piece: &[u8]) -> usize {
    usize::from(u16::from_be_bytes([piece[0], piece[1]]))
}
