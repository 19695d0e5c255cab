//! What the swarm keeps on disk, and how it writes there.
//!
//! ```text
//! <dir>/node.key      the node's secret key, 64 hexadecimal digits, readable by its owner only
//! <dir>/port          the port that the node listened on last of those it could choose, in decimal
//! <dir>/lock          held for as long as a process has the folder open; names that process
//! <dir>/blobs/        the blob store
//! <dir>/releases/     one file for each package known here: its history and its remembered head
//! <dir>/packages/     installed packages, one folder for each release digest
//! <dir>/brought/      one file for each package that the work of others has brought here
//! <dir>/damaged/      one empty file for each blob known to be damaged
//! ```
//!
//! A small file is replaced as a whole (written beside, flushed, renamed, the folder flushed), so
//! a reader or a crash never sees half of one.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Read, Seek, Write};
use std::path::{Path, PathBuf};

use iroh::SecretKey;

use crate::error::OpenError;

/// The paths of everything below the folder.
#[derive(Clone, Debug)]
pub(crate) struct Layout {
    pub(crate) root: PathBuf,
    pub(crate) blobs: PathBuf,
    pub(crate) releases: PathBuf,
    pub(crate) packages: PathBuf,
    pub(crate) brought: PathBuf,
    pub(crate) damaged: PathBuf,
}

impl Layout {
    /// Makes the folders below `root` and returns their paths.
    pub(crate) fn create(root: &Path) -> Result<Self, OpenError> {
        let make = |path: &Path| {
            fs::create_dir_all(path).map_err(|source| OpenError::Folder {
                path: path.to_owned(),
                source,
            })
        };
        make(root)?;
        let root = root.canonicalize().map_err(|source| OpenError::Folder {
            path: root.to_owned(),
            source,
        })?;
        let layout = Self {
            blobs: root.join("blobs"),
            releases: root.join("releases"),
            packages: root.join("packages"),
            brought: root.join("brought"),
            damaged: root.join("damaged"),
            root,
        };
        for path in [
            &layout.blobs,
            &layout.releases,
            &layout.packages,
            &layout.brought,
            &layout.damaged,
        ] {
            make(path)?;
        }
        Ok(layout)
    }
}

/// Holds the folder for this process; gives it back when dropped.
#[derive(Debug)]
pub(crate) struct DirLock(#[expect(dead_code, reason = "held for its lock")] File);

impl DirLock {
    /// Takes the folder, or says which process has it.
    pub(crate) fn take(layout: &Layout) -> Result<Self, OpenError> {
        let path = layout.root.join("lock");
        let folder_error = |source| OpenError::Folder {
            path: path.clone(),
            source,
        };
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(&path)
            .map_err(folder_error)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let mut text = String::new();
                let read = (&file).take(20).read_to_string(&mut text);
                return Err(OpenError::Locked {
                    dir: layout.root.clone(),
                    pid: read.ok().and_then(|_| text.trim().parse().ok()),
                });
            }
            Err(TryLockError::Error(source)) => return Err(folder_error(source)),
        }
        file.set_len(0)
            .and_then(|()| file.rewind())
            .and_then(|()| writeln!(file, "{}", std::process::id()))
            .map_err(folder_error)?;
        Ok(Self(file))
    }
}

/// Reads the node's key, or makes one on the first start.
pub(crate) fn load_or_create_key(layout: &Layout) -> Result<SecretKey, OpenError> {
    let path = layout.root.join("node.key");
    match fs::read_to_string(&path) {
        Ok(text) => {
            let mut bytes = [0; 32];
            let text = text.trim();
            let decoded = text.len() == 64
                && data_encoding::HEXLOWER
                    .decode_mut(text.as_bytes(), &mut bytes)
                    .is_ok();
            if decoded {
                Ok(SecretKey::from_bytes(&bytes))
            } else {
                Err(OpenError::Key { path })
            }
        }
        Err(e) if e.kind() == io::ErrorKind::NotFound => {
            let key = SecretKey::generate();
            let text = data_encoding::HEXLOWER.encode(&key.to_bytes()) + "\n";
            write_private(&path, text.as_bytes())
                .map_err(|source| OpenError::Folder { path, source })?;
            Ok(key)
        }
        Err(source) => Err(OpenError::Folder { path, source }),
    }
}

/// Replaces the file at `path` by `content`, all or nothing.
pub(crate) fn write_atomic(path: &Path, content: &[u8]) -> io::Result<()> {
    write_with(path, content, &mut OpenOptions::new())
}

/// As [`write_atomic`], readable by its owner only.
fn write_private(path: &Path, content: &[u8]) -> io::Result<()> {
    let mut options = OpenOptions::new();
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    write_with(path, content, &mut options)
}

fn write_with(path: &Path, content: &[u8], options: &mut OpenOptions) -> io::Result<()> {
    let mut beside = path.as_os_str().to_owned();
    beside.push(".new");
    let beside = PathBuf::from(beside);
    // A crash may have left one; it was never visible under its final name.
    let _ = fs::remove_file(&beside);
    let mut file = options.write(true).create_new(true).open(&beside)?;
    file.write_all(content)?;
    file.sync_all()?;
    fs::rename(&beside, path)?;
    sync_parent(path)
}

/// Makes the rename or creation of `path` durable.
pub(crate) fn sync_parent(path: &Path) -> io::Result<()> {
    match path.parent() {
        Some(parent) => sync_dir(parent),
        None => Ok(()),
    }
}

/// Makes the entries of a folder durable, where the system can.
pub(crate) fn sync_dir(path: &Path) -> io::Result<()> {
    if cfg!(unix) {
        File::open(path)?.sync_all()?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_key_is_private_and_stays() {
        let dir = tempfile::tempdir().unwrap();
        let layout = Layout::create(dir.path()).unwrap();
        let key = load_or_create_key(&layout).unwrap();
        assert_eq!(
            load_or_create_key(&layout).unwrap().to_bytes(),
            key.to_bytes()
        );
        let path = layout.root.join("node.key");
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt;
            let mode = fs::metadata(&path).unwrap().permissions().mode();
            assert_eq!(mode & 0o777, 0o600);
        }
        fs::write(&path, "not a key").unwrap();
        assert!(matches!(
            load_or_create_key(&layout),
            Err(OpenError::Key { .. })
        ));
    }

    #[test]
    fn a_second_holder_is_told_who_is_first() {
        let dir = tempfile::tempdir().unwrap();
        let layout = Layout::create(dir.path()).unwrap();
        let first = DirLock::take(&layout).unwrap();
        let Err(OpenError::Locked { pid, .. }) = DirLock::take(&layout) else {
            panic!("the lock was given twice");
        };
        assert_eq!(pid, Some(std::process::id()));
        drop(first);
        DirLock::take(&layout).unwrap();
    }

    #[test]
    fn a_file_is_replaced_as_a_whole() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x");
        write_atomic(&path, b"one").unwrap();
        fs::write(dir.path().join("x.new"), b"left by a crash").unwrap();
        write_atomic(&path, b"two").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"two");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }
}
