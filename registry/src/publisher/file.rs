//! Publisher keys on disk: a short text file that only its owner can read.
//!
//! A key is never written over another file: a lost key can never sign a next version, and the
//! packages published with it stay as they are for good.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::path::{Path, PathBuf};

use data_encoding::BASE32_NOPAD;
use zeroize::Zeroizing;

use super::{PublisherId, PublisherKey};

const HEADER: &str =
    "# The secret key of a skep publisher. Whoever can read this file can publish under its name.";
const SECRET: &str = "secret ";
const PUBLISHER: &str = "publisher ";
/// A whole key file is some 260 bytes; nothing longer is one.
const MAX_BYTES: u64 = 4096;

impl PublisherKey {
    /// Writes the key to a new file that only its owner may read (mode 0600 on Unix).
    ///
    /// # Errors
    ///
    /// When there is already something at `path`, which is never overwritten, or when the file
    /// cannot be written; then nothing is left of it.
    pub fn save(&self, path: &Path) -> Result<(), KeyError> {
        let mut options = OpenOptions::new();
        options.write(true).create_new(true);
        #[cfg(unix)]
        std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
        let mut file = options.open(path).map_err(|error| match error.kind() {
            io::ErrorKind::AlreadyExists => KeyError::Exists {
                path: path.to_owned(),
            },
            _ => KeyError::io("write", path, error),
        })?;
        let secret = Zeroizing::new(BASE32_NOPAD.encode(self.seed()).to_ascii_lowercase());
        let text = Zeroizing::new(format!(
            "{HEADER}\n{PUBLISHER}{}\n{SECRET}{}\n",
            self.id(),
            secret.as_str()
        ));
        let written = file
            .write_all(text.as_bytes())
            .and_then(|()| file.sync_all());
        written.map_err(|error| {
            // What is there is no key. If it cannot even be removed, the first error says more.
            let _ = fs::remove_file(path);
            KeyError::io("write", path, error)
        })
    }

    /// Reads a key from its file.
    ///
    /// # Errors
    ///
    /// When the file is missing, open to others than its owner (Unix), or not a key file.
    pub fn load(path: &Path) -> Result<Self, KeyError> {
        let file = File::open(path).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => KeyError::Missing {
                path: path.to_owned(),
            },
            _ => KeyError::io("read", path, error),
        })?;
        refuse_if_open_to_others(&file, path)?;
        let mut text = Zeroizing::new(String::with_capacity(MAX_BYTES as usize));
        file.take(MAX_BYTES)
            .read_to_string(&mut text)
            .map_err(|error| match error.kind() {
                io::ErrorKind::InvalidData => malformed(path, "it is not text"),
                _ => KeyError::io("read", path, error),
            })?;
        parse(&text).map_err(|reason| malformed(path, reason))
    }
}

fn parse(text: &str) -> Result<PublisherKey, &'static str> {
    let mut secret = None;
    let mut publisher = None;
    for line in text.lines() {
        if line.is_empty() || line.starts_with('#') {
            continue;
        } else if let Some(value) = line.strip_prefix(SECRET) {
            secret = Some(value.trim());
        } else if let Some(value) = line.strip_prefix(PUBLISHER) {
            publisher = value.trim().parse::<PublisherId>().ok();
        } else {
            return Err("it has a line that is neither the publisher nor the secret");
        }
    }
    let (Some(secret), Some(publisher)) = (secret, publisher) else {
        return Err("it lacks the line with the secret or a correct line with the publisher");
    };
    let upper = Zeroizing::new(secret.to_ascii_uppercase());
    let mut seed = Zeroizing::new([0; 32]);
    if BASE32_NOPAD.decode_len(upper.len()) != Ok(seed.len())
        || BASE32_NOPAD
            .decode_mut(upper.as_bytes(), seed.as_mut_slice())
            .is_err()
    {
        return Err("its secret is mistyped or cut");
    }
    let key = PublisherKey::from_seed(&seed);
    if key.id() != publisher {
        return Err("its secret is not that of its publisher");
    }
    Ok(key)
}

#[cfg(unix)]
fn refuse_if_open_to_others(file: &File, path: &Path) -> Result<(), KeyError> {
    use std::os::unix::fs::PermissionsExt as _;
    let metadata = file
        .metadata()
        .map_err(|error| KeyError::io("read", path, error))?;
    let mode = metadata.permissions().mode() & 0o777;
    if mode & 0o077 != 0 {
        return Err(KeyError::OpenToOthers {
            path: path.to_owned(),
            mode,
        });
    }
    Ok(())
}

#[cfg(not(unix))]
#[expect(clippy::unnecessary_wraps, reason = "the same signature as on Unix")]
fn refuse_if_open_to_others(_: &File, _: &Path) -> Result<(), KeyError> {
    Ok(())
}

fn malformed(path: &Path, reason: &'static str) -> KeyError {
    KeyError::Malformed {
        path: path.to_owned(),
        reason,
    }
}

/// Why a publisher key could not be made, saved or loaded.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// The operating system gave no randomness.
    #[error("the operating system gave no randomness to make a key from: {0}")]
    Randomness(String),
    /// There is no key file.
    #[error("there is no publisher key at {}; make one with `skep key new`", path.display())]
    Missing {
        /// Where it was looked for.
        path: PathBuf,
    },
    /// There is already something where the key should be saved.
    #[error(
        "{} exists already and is not overwritten, because a lost key cannot be made again; \
         save the new key elsewhere, or move the old one away yourself",
        path.display()
    )]
    Exists {
        /// The file in the way.
        path: PathBuf,
    },
    /// Others than the owner may read or write the key file.
    #[error(
        "the publisher key {} is open to other users (mode {mode:03o}); close it with \
         `chmod 600 {}`, and if others may have read it already, make a new key",
        path.display(), path.display()
    )]
    OpenToOthers {
        /// The key file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// The file is not a key file, or a damaged one.
    #[error("{} is not a publisher key: {reason}; restore it from your backup", path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What is wrong with it. Never contains any of its text.
        reason: &'static str,
    },
    /// Reading or writing failed.
    #[error("could not {action} the publisher key {}: {source}", path.display())]
    Io {
        /// "read" or "write".
        action: &'static str,
        /// The key file.
        path: PathBuf,
        /// What the operating system said.
        source: io::Error,
    },
}

impl KeyError {
    fn io(action: &'static str, path: &Path, source: io::Error) -> Self {
        Self::Io {
            action,
            path: path.to_owned(),
            source,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder() -> tempfile::TempDir {
        tempfile::tempdir().unwrap()
    }

    /// Saves a key and returns its text, for tests that damage it.
    fn saved(folder: &Path) -> (PathBuf, PublisherKey, String) {
        let path = folder.join("publisher.key");
        let key = PublisherKey::from_seed(&[3; 32]);
        key.save(&path).unwrap();
        let text = fs::read_to_string(&path).unwrap();
        (path, key, text)
    }

    #[test]
    fn a_key_comes_back_from_its_file() {
        let folder = folder();
        let (path, key, _) = saved(folder.path());
        assert_eq!(PublisherKey::load(&path).unwrap().id(), key.id());
    }

    #[test]
    fn a_key_is_never_overwritten() {
        let folder = folder();
        let (path, key, before) = saved(folder.path());
        assert!(matches!(
            PublisherKey::from_seed(&[4; 32]).save(&path),
            Err(KeyError::Exists { .. })
        ));
        assert_eq!(fs::read_to_string(&path).unwrap(), before);
        assert_eq!(PublisherKey::load(&path).unwrap().id(), key.id());
    }

    #[cfg(unix)]
    #[test]
    fn only_the_owner_may_read_it() {
        use std::os::unix::fs::PermissionsExt as _;
        let folder = folder();
        let (path, _, _) = saved(folder.path());
        assert_eq!(
            fs::metadata(&path).unwrap().permissions().mode() & 0o777,
            0o600
        );
        for mode in [0o640, 0o604, 0o610, 0o602] {
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            match PublisherKey::load(&path) {
                Err(KeyError::OpenToOthers { mode: found, .. }) => assert_eq!(found, mode),
                other => panic!("mode {mode:o} was not refused: {other:?}"),
            }
        }
        fs::set_permissions(&path, fs::Permissions::from_mode(0o400)).unwrap();
        PublisherKey::load(&path).unwrap();
    }

    #[test]
    fn a_damaged_key_file_is_refused_and_never_quoted() {
        let folder = folder();
        let (path, _, text) = saved(folder.path());
        let secret = text.lines().last().unwrap().strip_prefix(SECRET).unwrap();
        let other_publisher = text.replace(
            &PublisherKey::from_seed(&[3; 32]).id().to_string(),
            &PublisherKey::from_seed(&[5; 32]).id().to_string(),
        );
        for damaged in [
            String::new(),
            text.replace(secret, &secret[1..]),
            text.replace(secret, &secret.replace('a', "1")),
            text.replace(SECRET, ""),
            text.replace(PUBLISHER, "# "),
            other_publisher,
        ] {
            fs::write(&path, &damaged).unwrap();
            let error = PublisherKey::load(&path).unwrap_err();
            assert!(matches!(error, KeyError::Malformed { .. }), "{damaged}");
            assert!(!error.to_string().contains(&secret[..8]));
        }
        fs::write(&path, [0xff, 0xfe]).unwrap();
        assert!(matches!(
            PublisherKey::load(&path),
            Err(KeyError::Malformed { .. })
        ));
    }

    #[test]
    fn the_errors_say_what_to_do() {
        let path = PathBuf::from("publisher.key");
        insta::assert_snapshot!(
            PublisherKey::load(Path::new("no-such-folder/publisher.key")).unwrap_err(),
            @"there is no publisher key at no-such-folder/publisher.key; make one with `skep key new`"
        );
        insta::assert_snapshot!(
            KeyError::OpenToOthers { path: path.clone(), mode: 0o44 },
            @"the publisher key publisher.key is open to other users (mode 044); close it with `chmod 600 publisher.key`, and if others may have read it already, make a new key"
        );
        insta::assert_snapshot!(
            KeyError::Exists { path: path.clone() },
            @"publisher.key exists already and is not overwritten, because a lost key cannot be made again; save the new key elsewhere, or move the old one away yourself"
        );
        insta::assert_snapshot!(
            malformed(&path, "its secret is mistyped or cut"),
            @"publisher.key is not a publisher key: its secret is mistyped or cut; restore it from your backup"
        );
    }
}
