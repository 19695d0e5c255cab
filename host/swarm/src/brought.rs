//! Packages that the work of others has brought here, within the room that the owner gives them.
//!
//! They are installed and offered like any other, and a file under `brought/` notes each: how much of the
//! disk it takes, when it was used last, and its release. What has no such note is the owner's, and no work
//! of others takes it away. When one more does not fit, those go that were not used for longest.
//!
//! What a package takes is counted from before its first byte is fetched. Of one that has gone the store keeps
//! the blobs until its next sweep, and as long they are counted too: one for which there is room only after that has
//! others go, and comes when it is asked for again. `going` says which.
//!
//! # What it must never do
//!
//! - Take away what the owner installed, or what is in use.
//! - Let strangers fill the disk beyond that room, whatever breaks off in the middle.

mod going;

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use skep_registry::{Digest, SignedRelease};

use self::going::{Candidate, Going, Wanted, who_goes};
use crate::blobs::Presence;
use crate::disk::{Layout, sync_dir, write_atomic};
use crate::error::{BringError, OpenError, PackageError};
use crate::ids::ProviderAddr;
use crate::node::Swarm;
use crate::packages::Installed;

/// What a file takes on a disk at least, in bytes.
const BLOCK: u64 = 4096;
/// A use is noted on disk if the one that is noted there is so many milliseconds older.
const NOTED: u64 = 60 * 60 * 1000;
/// How much longer than the time between two sweeps one may take.
const SWEEPING: Duration = Duration::from_secs(60);
/// What stands in front of the release in a note: the bytes and the last use.
const HEAD: usize = 16;

/// A package for the work of others, or one that they have brought and the owner works with. While this, or a clone
/// of it, is there, it is not taken away to make room.
#[derive(Clone, Debug)]
pub struct InUse {
    /// The package.
    pub installed: Installed,
    _use: Arc<()>,
}

/// What was brought here.
#[derive(Debug)]
pub(crate) struct Brought {
    dir: PathBuf,
    /// Within this time the store is rid of what nobody keeps.
    sweep: Duration,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    here: BTreeMap<Digest, Entry>,
    /// What the store may still hold of what nobody keeps, by release or blob.
    leaving: BTreeMap<Digest, Leaving>,
    /// The time of the last use: each is later than the one before.
    last: u64,
}

#[derive(Debug)]
struct Entry {
    bytes: u64,
    /// When it was used last, in milliseconds since 1970.
    used: u64,
    /// The same as it is on disk.
    noted: u64,
    uses: Weak<()>,
}

#[derive(Debug)]
struct Leaving {
    bytes: u64,
    until: Instant,
}

/// What a package takes on the disk at most, in bytes: each file in the store and in its folder.
pub fn taken_by(release: &SignedRelease) -> u64 {
    let blocks = |bytes: u64| bytes.checked_next_multiple_of(BLOCK).unwrap_or(u64::MAX);
    let twice = |bytes: u64| blocks(bytes.saturating_add(BLOCK)).saturating_mul(2);
    let files = release.files().iter().map(|entry| twice(entry.size));
    let note = twice(release.encode().len() as u64);
    files.fold(note, u64::saturating_add)
}

impl Brought {
    /// Reads the notes; the store is swept once in every `sweep`. A package whose note is damaged goes
    /// first, and takes nothing until [`is_whole`](Self::is_whole) says what it is.
    pub(crate) fn open(layout: &Layout, sweep: Duration) -> Result<Self, OpenError> {
        let dir = layout.brought.clone();
        let folder = |source| OpenError::Folder {
            path: dir.clone(),
            source,
        };
        let mut state = State::default();
        for entry in fs::read_dir(&dir).map_err(folder)? {
            let entry = entry.map_err(folder)?;
            let Some(digest) = entry.file_name().to_str().and_then(|n| n.parse().ok()) else {
                continue;
            };
            let (bytes, used) = read_head(&entry.path()).unwrap_or_default();
            state.last = state.last.max(used);
            let entry = Entry {
                bytes,
                used,
                noted: used,
                uses: Weak::new(),
            };
            state.here.insert(digest, entry);
        }
        Ok(Self {
            dir,
            sweep: sweep + SWEEPING,
            state: Mutex::new(state),
        })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Every change is one insertion or removal, so a poisoned lock is still good.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Where a package is noted.
    pub(crate) fn path(&self, digest: &Digest) -> PathBuf {
        self.dir.join(digest.to_string())
    }

    /// Says that a package is here in whole: what it takes is known then, whatever its note says.
    pub(crate) fn is_whole(&self, release: &SignedRelease) {
        if let Some(entry) = self.lock().here.get_mut(&release.digest()) {
            entry.bytes = taken_by(release);
        }
    }

    /// No longer says that others' work has brought a package: it is the owner's, or gone.
    pub(crate) fn forget(&self, digest: &Digest) -> io::Result<()> {
        if self.lock().here.contains_key(digest) {
            match fs::remove_file(self.path(digest)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                Ok(()) | Err(_) => sync_dir(&self.dir)?,
            }
            self.lock().here.remove(digest);
        }
        Ok(())
    }

    /// Says that a package is used once more; `None` if it is not one of these.
    fn use_again(&self, digest: &Digest) -> io::Result<Option<Arc<()>>> {
        let (in_use, bytes, used, is_old) = {
            let mut state = self.lock();
            let used = state.next_use();
            let Some(entry) = state.here.get_mut(digest) else {
                return Ok(None);
            };
            let in_use = entry.uses.upgrade().unwrap_or_default();
            entry.uses = Arc::downgrade(&in_use);
            entry.used = used;
            let is_old = used.saturating_sub(entry.noted) >= NOTED;
            (in_use, entry.bytes, used, is_old)
        };
        if is_old && let Some(release) = self.release_of(digest) {
            self.write(&release, bytes, used)?;
            if let Some(entry) = self.lock().here.get_mut(digest) {
                entry.noted = used;
            }
        }
        Ok(Some(in_use))
    }

    /// Notes a package of which nothing is here yet, and that it is in use.
    fn note(&self, release: &SignedRelease) -> io::Result<Arc<()>> {
        let digest = release.digest();
        let bytes = taken_by(release);
        let used = self.lock().next_use();
        self.write(release, bytes, used)?;
        let in_use = Arc::new(());
        let mut state = self.lock();
        // What the store still holds of it is a part of that.
        state.leaving.remove(&digest);
        let entry = Entry {
            bytes,
            used,
            noted: used,
            uses: Arc::downgrade(&in_use),
        };
        state.here.insert(digest, entry);
        Ok(in_use)
    }

    fn write(&self, release: &SignedRelease, bytes: u64, used: u64) -> io::Result<()> {
        let mut note = bytes.to_le_bytes().to_vec();
        note.extend_from_slice(&used.to_le_bytes());
        note.extend_from_slice(release.encode());
        write_atomic(&self.path(&release.digest()), &note)
    }

    /// The release in a note, unless that is damaged.
    fn release_of(&self, digest: &Digest) -> Option<SignedRelease> {
        let note = fs::read(self.path(digest)).ok()?;
        let release = SignedRelease::decode(note.get(HEAD..)?).ok()?;
        (release.digest() == *digest).then_some(release)
    }

    /// Which packages have to go for `bytes` more, and one more package if `is_package`, to have room.
    fn must_go(
        &self,
        what: &Digest,
        bytes: u64,
        is_package: bool,
        room: u64,
        is_spared: &(dyn Fn(&Digest) -> bool + Sync),
    ) -> Result<Going, BringError> {
        if bytes > room {
            return Err(BringError::TooLarge { bytes, room });
        }
        let mut state = self.lock();
        let now = Instant::now();
        state.leaving.retain(|_, leaving| now < leaving.until);
        let others = state.leaving.iter().filter(|(digest, _)| *digest != what);
        let leaving = others.fold(0, |sum: u64, (_, leaving)| {
            sum.saturating_add(leaving.bytes)
        });
        let here = state.here.iter().map(|(digest, entry)| Candidate {
            digest: *digest,
            bytes: entry.bytes,
            used: entry.used,
            stays: entry.uses.strong_count() > 0 || is_spared(digest),
        });
        let here = here.collect();
        drop(state);
        let wanted = Wanted {
            bytes,
            places: usize::from(is_package),
            room,
        };
        who_goes(here, leaving, wanted).ok_or(BringError::NoRoom)
    }

    /// Counts what the store may hold until its next sweep.
    fn leaves(&self, what: Digest, bytes: u64) {
        let until = Instant::now() + self.sweep;
        let leaving = Leaving { bytes, until };
        self.lock().leaving.insert(what, leaving);
    }

    /// What `look` sees, unless others' work has brought this package. None is noted meanwhile; and as a package is
    /// noted before it is in its place, and until it has gone from there, one that is seen there is the owner's.
    fn unless_brought<T>(&self, digest: &Digest, look: impl FnOnce() -> T) -> Option<T> {
        let state = self.lock();
        (!state.here.contains_key(digest)).then(look)
    }

    fn has(&self, digest: &Digest) -> bool {
        self.lock().here.contains_key(digest)
    }

    fn bytes_of(&self, digest: &Digest) -> u64 {
        self.lock().here.get(digest).map_or(0, |entry| entry.bytes)
    }
}

impl State {
    fn next_use(&mut self) -> u64 {
        let since = SystemTime::now().duration_since(UNIX_EPOCH);
        let now = since.map_or(0, |since| {
            u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
        });
        self.last = now.max(self.last.saturating_add(1));
        self.last
    }
}

/// The bytes and the last use that a note begins with.
fn read_head(path: &Path) -> Option<(u64, u64)> {
    let mut number = [0; 8];
    let mut file = File::open(path).ok()?;
    file.read_exact(&mut number).ok()?;
    let bytes = u64::from_le_bytes(number);
    file.read_exact(&mut number).ok()?;
    Some((bytes, u64::from_le_bytes(number)))
}

impl Swarm {
    /// Installs a release for the work of others: it, and all that was brought here in this way, takes no more
    /// than `room` bytes of the disk. Where it does not fit, those go that were not used for longest, but none
    /// that is in use or that `is_spared`. What the owner installed is no part of this, and is used as it is.
    ///
    /// # Errors
    ///
    /// When there is no room for it, or it crawls, or cannot be fetched or written. What has come of it by then
    /// counts, and the next one goes on from it.
    pub async fn bring(
        &self,
        release: &SignedRelease,
        providers: &[ProviderAddr],
        room: u64,
        is_spared: &(dyn Fn(&Digest) -> bool + Sync),
    ) -> Result<InUse, BringError> {
        let in_use = self.take_place(release, room, is_spared).await?;
        let installed = match self.installed(&release.digest()) {
            Ok(installed) => installed,
            Err(_) => {
                let placed = self.fetch_and_place(release, providers, None, false);
                placed.await?.0
            }
        };
        Ok(InUse {
            installed,
            _use: in_use,
        })
    }

    async fn take_place(
        &self,
        release: &SignedRelease,
        room: u64,
        is_spared: &(dyn Fn(&Digest) -> bool + Sync),
    ) -> Result<Arc<()>, BringError> {
        let (brought, digest) = (&self.inner.brought, release.digest());
        let disk = |source| BringError::Disk {
            path: brought.path(&digest),
            source,
        };
        let _one_at_a_time = self.inner.installing.lock().await;
        if let Some(in_use) = brought.use_again(&digest).map_err(disk)? {
            return Ok(in_use);
        }
        if self.installed(&digest).is_ok() {
            return Ok(Arc::default());
        }
        let going = brought.must_go(&digest, taken_by(release), true, room, is_spared)?;
        self.make_room(going).await?;
        brought.note(release).map_err(disk)
    }

    /// The whole of a small blob, fetched from `providers` if it is not here, and kept for nobody: as long as the
    /// store has it, it counts like what [`bring`](Self::bring) brought.
    ///
    /// # Errors
    ///
    /// When there is no room for it, or it cannot be had.
    pub async fn glance(
        &self,
        digest: &Digest,
        size: u64,
        providers: &[ProviderAddr],
        room: u64,
        is_spared: &(dyn Fn(&Digest) -> bool + Sync),
    ) -> Result<Bytes, BringError> {
        if !matches!(self.presence(digest).await?, Presence::Complete { .. }) {
            let _one_at_a_time = self.inner.installing.lock().await;
            let brought = &self.inner.brought;
            let taken = size.saturating_add(BLOCK);
            let going = brought.must_go(digest, taken, false, room, is_spared)?;
            self.make_room(going).await?;
            brought.leaves(*digest, taken);
        }
        let (blob, _) = self.fetch_blob(digest, size, providers, None).await?;
        let length = usize::try_from(size).unwrap_or(usize::MAX);
        Ok(blob.read_at(0, length).await?)
    }

    /// Sends those away, and fails if the store has to be swept before there is room.
    async fn make_room(&self, going: Going) -> Result<(), BringError> {
        self.send_away(going.who).await?;
        match going.is_enough {
            true => Ok(()),
            false => Err(BringError::NoRoom),
        }
    }

    /// An installed package, for work of the owner's: if others' work has brought it, it is not taken away as long as
    /// what comes back is there. One that the owner installed is had at once, whatever is being installed.
    ///
    /// # Errors
    ///
    /// When it is not installed, or its use cannot be noted.
    pub async fn hold(&self, digest: &Digest) -> Result<InUse, PackageError> {
        let brought = &self.inner.brought;
        // Nobody takes away what is the owner's, so that it need not wait for what is being installed.
        if let Some(Ok(installed)) = brought.unless_brought(digest, || self.installed(digest)) {
            return Ok(InUse {
                installed,
                _use: Arc::default(),
            });
        }
        let _one_at_a_time = self.inner.installing.lock().await;
        let installed = self.installed(digest)?;
        let in_use = brought.use_again(digest);
        let in_use = in_use.map_err(|source| PackageError::Disk {
            path: brought.path(digest),
            source,
        })?;
        Ok(InUse {
            installed,
            _use: in_use.unwrap_or_default(),
        })
    }

    /// What a release takes, or would take, of the room for others' work, in bytes: none if the owner installed
    /// it.
    #[must_use]
    pub fn takes_of_room(&self, release: &SignedRelease) -> u64 {
        let digest = release.digest();
        match !self.inner.brought.has(&digest) && self.installed(&digest).is_ok() {
            true => 0,
            false => taken_by(release),
        }
    }

    /// Takes packages away that others' work has brought. Nothing else is installed or removed meanwhile.
    async fn send_away(&self, going: Vec<Digest>) -> Result<(), BringError> {
        let brought = &self.inner.brought;
        for digest in going {
            let release = brought.release_of(&digest);
            match self.remove_now(&digest).await {
                Ok(()) | Err(PackageError::NotInstalled { .. }) => {}
                Err(error) => return Err(error.into()),
            }
            // What was fetched of one that was never whole.
            if let Some(release) = release {
                self.abandon_now(&release).await?;
            }
            brought.leaves(digest, brought.bytes_of(&digest) / 2);
            brought.forget(&digest).map_err(|source| BringError::Disk {
                path: brought.path(&digest),
                source,
            })?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
