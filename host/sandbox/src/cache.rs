//! The cache of compiled components on this node's disk.
//!
//! A compiled artefact is machine code, and loading one means trusting it, so an artefact is
//! only ever made on this node and never taken from a peer. Each file carries the BLAKE3 of
//! its artefact, which is checked before the artefact is handed to wasmtime; a file that does
//! not match is deleted and made anew. The folder belongs to the node's user alone.
//!
//! A file is mapped and not read, because the artefact of an interpreter has tens of megabytes
//! of which a run touches few. It appears whole under its name and is never written to again.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use memmap2::Mmap;
use rayon::prelude::*;

/// What stands behind the artefact: this, and its fingerprint.
const MAGIC: &[u8; 8] = b"skepc02\n";
const FOOTER: usize = MAGIC.len() + blake3::OUT_LEN;

/// The bytes that one thread hashes at a time.
const PIECE: usize = 1 << 20;

/// What the cache had.
#[derive(Debug)]
pub(crate) enum Lookup {
    /// The artefact, checked.
    Hit(Artefact),
    /// Nothing.
    Miss,
    /// A file that was not what it should be, and is gone now.
    Corrupt,
}

/// A checked artefact, where it lies.
#[derive(Debug)]
pub(crate) struct Artefact {
    path: PathBuf,
    map: Mmap,
}

impl Artefact {
    /// The file, which begins with the artefact and goes on with what the cache keeps of it.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// The artefact alone.
    pub(crate) fn bytes(&self) -> &[u8] {
        &self.map[..self.map.len() - FOOTER]
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
        let (file, map) = match open(&path) {
            Ok(opened) => opened,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Lookup::Miss,
            Err(error) => {
                tracing::warn!(path = %path.display(), %error, "compile cache: cannot read");
                return Lookup::Miss;
            }
        };
        if !map.as_ref().is_some_and(|map| is_sound(map)) {
            tracing::warn!(path = %path.display(), "compile cache: corrupt file, made anew");
            self.forget(key);
            return Lookup::Corrupt;
        }
        // The time of last use decides what is dropped first; failing to set it only makes
        // that choice worse.
        let _ = file.set_modified(SystemTime::now());
        match map {
            Some(map) => Lookup::Hit(Artefact { path, map }),
            None => Lookup::Miss,
        }
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
            file.write_all(artefact)?;
            file.write_all(MAGIC)?;
            file.write_all(fingerprint(artefact).as_bytes())?;
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

/// Opens a file of the cache and maps it; no map if the file is empty.
fn open(path: &Path) -> io::Result<(File, Option<Mmap>)> {
    let file = File::open(path)?;
    if file.metadata()?.len() == 0 {
        return Ok((file, None));
    }
    // SAFETY: nobody may change the file while it is mapped. It lies in a folder that only the
    // node's user can write to, and the cache itself never writes to a file that has its name:
    // it renames whole ones into place, and deletes.
    let map = unsafe { Mmap::map(&file)? };
    Ok((file, Some(map)))
}

fn is_sound(bytes: &[u8]) -> bool {
    let Some(length) = bytes.len().checked_sub(FOOTER) else {
        return false;
    };
    let (artefact, footer) = bytes.split_at(length);
    footer.starts_with(MAGIC) && footer[MAGIC.len()..] == *fingerprint(artefact).as_bytes()
}

/// The BLAKE3 of the BLAKE3 of each piece, so that all processors hash at once.
fn fingerprint(artefact: &[u8]) -> blake3::Hash {
    let pieces: Vec<blake3::Hash> = artefact.par_chunks(PIECE).map(blake3::hash).collect();
    let mut whole = blake3::Hasher::new_derive_key("skep compile cache 2: fingerprint");
    whole.update(&(artefact.len() as u64).to_le_bytes());
    for piece in &pieces {
        whole.update(piece.as_bytes());
    }
    whole.finalize()
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
        assert!(matches!(cache.get(&key("a")), Lookup::Miss));
        cache.put(&key("a"), b"code");
        assert!(matches!(cache.get(&key("a")), Lookup::Hit(found) if found.bytes() == b"code"));
        assert!(matches!(cache.get(&key("b")), Lookup::Miss));
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
            let found = cache.get(&key("a"));
            assert!(matches!(found, Lookup::Corrupt), "byte {byte}");
            assert!(matches!(cache.get(&key("a")), Lookup::Miss));
        }
        for length in 0..whole.len() {
            fs::write(&path, &whole[..length]).unwrap();
            let found = cache.get(&key("a"));
            assert!(matches!(found, Lookup::Corrupt), "length {length}");
        }
    }

    #[test]
    fn a_flipped_bit_is_noticed_in_every_piece() {
        let folder = tempfile::tempdir().unwrap();
        let cache = Cache::open(folder.path(), 1 << 30).unwrap();
        let artefact = vec![7; 3 * PIECE + 5];
        for byte in [0, PIECE - 1, PIECE, 2 * PIECE + 9, 3 * PIECE + 4] {
            cache.put(&key("a"), &artefact);
            assert!(
                matches!(cache.get(&key("a")), Lookup::Hit(found) if found.bytes() == artefact)
            );
            let path = cache.path(&key("a"));
            let mut bad = fs::read(&path).unwrap();
            bad[byte] ^= 1;
            fs::write(&path, &bad).unwrap();
            assert!(
                matches!(cache.get(&key("a")), Lookup::Corrupt),
                "byte {byte}"
            );
        }
    }

    #[test]
    fn what_was_not_used_for_longest_goes_first() {
        let folder = tempfile::tempdir().unwrap();
        let cache = Cache::open(folder.path(), 2 * (FOOTER as u64 + 100)).unwrap();
        for name in ["a", "b"] {
            cache.put(&key(name), &[0; 100]);
        }
        let old = SystemTime::now() - std::time::Duration::from_secs(60);
        let file = File::open(cache.path(&key("b"))).unwrap();
        file.set_modified(old).unwrap();
        assert!(matches!(cache.get(&key("a")), Lookup::Hit(_)));
        cache.put(&key("c"), &[0; 100]);
        assert!(matches!(cache.get(&key("b")), Lookup::Miss));
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
