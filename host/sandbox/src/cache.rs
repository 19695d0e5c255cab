//! The cache of compiled components on this node's disk.
//!
//! A compiled artefact is machine code, and loading one means trusting it, so an artefact is
//! only ever made on this node and never taken from a peer. Each file carries the BLAKE3 of
//! its artefact, which is checked before the artefact is handed to wasmtime; a file that does
//! not match is deleted and made anew. The folder belongs to the node's user alone.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

const MAGIC: &[u8; 8] = b"skepc01\n";
const HEADER: usize = MAGIC.len() + blake3::OUT_LEN;

/// What the cache had.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Lookup {
    /// The artefact, checked.
    Hit(Artefact),
    /// Nothing.
    Miss,
    /// A file that was not what it should be, and is gone now.
    Corrupt,
}

/// A checked artefact, still behind its header: it is too large to be moved for nothing.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Artefact(Vec<u8>);

impl std::ops::Deref for Artefact {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.0[HEADER..]
    }
}

/// The cache. All of its failures are misses: a node without a working cache is slow, not
/// broken.
#[derive(Debug)]
pub(crate) struct Cache {
    folder: PathBuf,
    capacity: u64,
}

impl Cache {
    /// Opens the cache in `folder`, which is made if it does not exist. Above `capacity` bytes
    /// the artefacts that were not used for longest are dropped.
    pub(crate) fn open(folder: &Path, capacity: u64) -> io::Result<Self> {
        fs::create_dir_all(folder)?;
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt as _;
            fs::set_permissions(folder, fs::Permissions::from_mode(0o700))?;
        }
        Ok(Cache {
            folder: folder.to_owned(),
            capacity,
        })
    }

    fn path(&self, key: &blake3::Hash) -> PathBuf {
        self.folder.join(format!("{}.skepc", key.to_hex()))
    }

    /// Looks for the artefact of `key`.
    pub(crate) fn get(&self, key: &blake3::Hash) -> Lookup {
        let path = self.path(key);
        let bytes = match fs::read(&path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Lookup::Miss,
            Err(error) => {
                tracing::warn!(path = %path.display(), %error, "compile cache: cannot read");
                return Lookup::Miss;
            }
        };
        if !is_sound(&bytes) {
            tracing::warn!(path = %path.display(), "compile cache: corrupt file, made anew");
            self.forget(key);
            return Lookup::Corrupt;
        }
        if let Ok(file) = File::open(&path) {
            // The time of last use decides what is dropped first; failing to set it only makes
            // that choice worse.
            let _ = file.set_modified(SystemTime::now());
        }
        Lookup::Hit(Artefact(bytes))
    }

    /// Deletes the artefact of `key`, if there is one.
    pub(crate) fn forget(&self, key: &blake3::Hash) {
        let path = self.path(key);
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                tracing::warn!(path = %path.display(), %error, "compile cache: cannot delete");
            }
            _ => {}
        }
    }

    /// Stores an artefact. It appears whole or not at all.
    pub(crate) fn put(&self, key: &blake3::Hash, artefact: &[u8]) {
        if let Err(error) = self.try_put(key, artefact) {
            tracing::warn!(folder = %self.folder.display(), %error, "compile cache: cannot write");
        }
    }

    fn try_put(&self, key: &blake3::Hash, artefact: &[u8]) -> io::Result<()> {
        use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
        static SERIAL: AtomicU64 = AtomicU64::new(0);
        let part = self.folder.join(format!(
            "{}.{}-{}.part",
            key.to_hex(),
            std::process::id(),
            SERIAL.fetch_add(1, Relaxed)
        ));
        let written = (|| {
            let mut file = File::create_new(&part)?;
            file.write_all(MAGIC)?;
            file.write_all(blake3::hash(artefact).as_bytes())?;
            file.write_all(artefact)?;
            file.sync_data()?;
            fs::rename(&part, self.path(key))
        })();
        if written.is_err() {
            let _ = fs::remove_file(&part);
        }
        written?;
        self.shrink()
    }

    /// Drops the artefacts that were not used for longest until the rest fits.
    fn shrink(&self) -> io::Result<()> {
        let mut files = Vec::new();
        for entry in fs::read_dir(&self.folder)? {
            let entry = entry?;
            let data = entry.metadata()?;
            if data.is_file() {
                files.push((data.modified()?, data.len(), entry.path()));
            }
        }
        let mut total: u64 = files.iter().map(|(_, size, _)| size).sum();
        files.sort();
        for (_, size, path) in files {
            if total <= self.capacity {
                break;
            }
            fs::remove_file(path)?;
            total -= size;
        }
        Ok(())
    }
}

fn is_sound(bytes: &[u8]) -> bool {
    bytes
        .split_at_checked(HEADER)
        .is_some_and(|(header, artefact)| {
            header.starts_with(MAGIC) && header[MAGIC.len()..] == *blake3::hash(artefact).as_bytes()
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(text: &str) -> blake3::Hash {
        blake3::hash(text.as_bytes())
    }

    #[test]
    fn what_was_put_is_got() {
        let folder = tempfile::tempdir().unwrap();
        let cache = Cache::open(&folder.path().join("deep/er"), 1000).unwrap();
        assert_eq!(cache.get(&key("a")), Lookup::Miss);
        cache.put(&key("a"), b"code");
        assert!(matches!(cache.get(&key("a")), Lookup::Hit(found) if *found == *b"code"));
        assert_eq!(cache.get(&key("b")), Lookup::Miss);
    }

    #[test]
    fn any_flipped_bit_and_any_cut_is_noticed() {
        let folder = tempfile::tempdir().unwrap();
        let cache = Cache::open(folder.path(), 1000).unwrap();
        cache.put(&key("a"), b"code");
        let path = cache.path(&key("a"));
        let whole = fs::read(&path).unwrap();
        for byte in 0..whole.len() {
            let mut bad = whole.clone();
            bad[byte] ^= 1;
            fs::write(&path, &bad).unwrap();
            assert_eq!(cache.get(&key("a")), Lookup::Corrupt, "byte {byte}");
            assert_eq!(cache.get(&key("a")), Lookup::Miss);
        }
        for length in 0..whole.len() {
            fs::write(&path, &whole[..length]).unwrap();
            assert_eq!(cache.get(&key("a")), Lookup::Corrupt, "length {length}");
        }
    }

    #[test]
    fn what_was_not_used_for_longest_goes_first() {
        let folder = tempfile::tempdir().unwrap();
        let cache = Cache::open(folder.path(), 2 * (HEADER as u64 + 100)).unwrap();
        for name in ["a", "b"] {
            cache.put(&key(name), &[0; 100]);
        }
        let old = SystemTime::now() - std::time::Duration::from_secs(60);
        let file = File::open(cache.path(&key("b"))).unwrap();
        file.set_modified(old).unwrap();
        assert!(matches!(cache.get(&key("a")), Lookup::Hit(_)));
        cache.put(&key("c"), &[0; 100]);
        assert_eq!(cache.get(&key("b")), Lookup::Miss);
        assert!(matches!(cache.get(&key("a")), Lookup::Hit(_)));
        assert!(matches!(cache.get(&key("c")), Lookup::Hit(_)));
    }

    #[cfg(unix)]
    #[test]
    fn the_folder_is_the_users_alone() {
        use std::os::unix::fs::PermissionsExt as _;
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("cache");
        Cache::open(&path, 1000).unwrap();
        assert_eq!(
            fs::metadata(path).unwrap().permissions().mode() & 0o777,
            0o700
        );
    }
}
