//! The adapters that an engine serves with, and where each of them is at the moment.
//!
//! An adapter is on disk, in host memory, or in pages of the pool that keys and values come from.
//! One that is asked for is brought into the pool while its request waits; when pages run out,
//! the one that was not used for longest goes back to memory, and from there to disk. Adapters of
//! similar rank make room for each other first ([`tier`]), so that a few large ones do not push
//! out hundreds of small ones.
//!
//! A name stands for a version. Whoever holds a [`Lease`] keeps the version that it was given,
//! also when the name is given to another one or taken away; a version without a name goes when
//! its last lease does. Reading from disk happens on a thread of its own; everything else happens
//! in calls of whoever owns the store, and takes no longer than copying an adapter.
//!
//! What this module must never do: give back or write to a page of an adapter that is in use;
//! hold a page that no adapter lies in; let a version change while somebody holds it.

mod error;
mod load;
mod pool;
mod slot;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use skep_accounts::Account;
use skep_decoder::{Adapter, AdapterWeights, Decoder, PagedAdapter};

pub use error::StoreError;
use load::Loads;
pub use pool::{AdapterPool, Pages};
use slot::{Place, Slot};

/// What a store serves.
#[derive(Debug, Clone)]
pub struct StoreOptions {
    /// The base that all of its adapters are for, with the weights that some of them are read with.
    pub base: Arc<Decoder>,
    /// What errors call it.
    pub base_name: String,
    /// Bytes of a page of the pool.
    pub page_bytes: usize,
    /// Bytes of host memory that adapters outside the pool may take. What is over goes to disk.
    pub memory_bytes: u64,
}

/// Where an adapter is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Residency {
    /// On disk, or on its way from there.
    Disk,
    /// In host memory.
    Memory,
    /// In the pool.
    Device,
}

/// What is known of an adapter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AdapterInfo {
    /// Its name.
    pub name: String,
    /// Which version of it, by the digest of its manifest as a rule.
    pub version: String,
    /// Its largest rank.
    pub rank: usize,
    /// Pages that it takes in the pool.
    pub pages: usize,
    /// Bytes that it takes, in the pool or in host memory.
    pub bytes: u64,
    /// Where it is.
    pub residency: Residency,
}

/// One version of an adapter.
#[derive(Debug)]
struct Version {
    number: u64,
    name: String,
    version: String,
    folder: PathBuf,
    rank: usize,
    pages: usize,
    bytes: u64,
    measuring_flops: u64,
}

/// A version of an adapter that stays there to be used. Cloning it is cheap.
#[derive(Debug, Clone)]
pub struct Lease(Arc<Version>);

impl Lease {
    /// The name that it was given for.
    pub fn name(&self) -> &str {
        &self.0.name
    }

    /// Which version of the adapter it is.
    pub fn version(&self) -> &str {
        &self.0.version
    }

    /// Pages that the adapter takes.
    pub fn pages(&self) -> usize {
        self.0.pages
    }

    /// Bytes that the adapter takes, in the pool or in host memory.
    pub fn bytes(&self) -> u64 {
        self.0.bytes
    }

    /// The adapter's largest rank.
    pub fn rank(&self) -> usize {
        self.0.rank
    }

    /// Floating-point operations that each reading of it takes ([`Adapter::measuring_flops`]).
    pub fn measuring_flops(&self) -> u64 {
        self.0.measuring_flops
    }

    /// Which of all versions that the store has had, counted from 1.
    pub fn number(&self) -> u64 {
        self.0.number + 1
    }
}

/// Reads the adapter in a PEFT folder, so that it can be put into a store with these options.
///
/// # Errors
/// When it cannot be read, or does not fit the base.
pub fn read(options: &StoreOptions, folder: &Path) -> Result<AdapterWeights, StoreError> {
    Ok(load::read(options, folder)?)
}

/// The same, with what that takes charged to an account, and ended when that may not go on.
///
/// # Errors
/// As for [`read`](fn@read), and when the account refuses it.
pub fn read_for(
    account: &Account,
    options: &StoreOptions,
    folder: &Path,
) -> Result<AdapterWeights, StoreError> {
    Ok(load::read_for(account, options, folder)?)
}

/// An adapter in the pool that stays there while this is held. Cloning it is cheap.
#[derive(Debug, Clone)]
pub struct ActiveAdapter {
    paged: Arc<PagedAdapter>,
    /// The version must not go while its pages are in use.
    _lease: Lease,
}

impl ActiveAdapter {
    /// What a batch takes: the same one for all that hold this adapter, so that their rows are
    /// computed together.
    pub fn paged(&self) -> &PagedAdapter {
        &self.paged
    }
}

/// The tier of a rank: 0 for 1 to 8, then one for each doubling.
pub fn tier(rank: usize) -> u32 {
    rank.div_ceil(8).max(1).next_power_of_two().trailing_zeros()
}

/// All adapters of an engine.
#[derive(Debug)]
pub struct AdapterStore {
    options: StoreOptions,
    /// The version that each name stands for.
    names: BTreeMap<String, u64>,
    /// Every version that has a name or a lease.
    slots: BTreeMap<u64, Slot>,
    loads: Loads,
    /// Counts versions.
    next: u64,
    /// Counts uses: what is larger was used later.
    clock: u64,
}

impl AdapterStore {
    /// A store without adapters.
    ///
    /// # Errors
    /// When the system refuses a thread.
    pub fn new(options: StoreOptions) -> Result<Self, StoreError> {
        Ok(Self {
            loads: Loads::start(options.clone()).map_err(StoreError::Thread)?,
            options,
            names: BTreeMap::new(),
            slots: BTreeMap::new(),
            next: 0,
            clock: 0,
        })
    }

    /// Adds the adapter in a PEFT folder under a name that is free. It is read here and now, so
    /// that a wrong one is refused; the folder must stay as it is while the adapter is there.
    ///
    /// # Errors
    /// When the name is taken, or the adapter cannot be read or does not fit the base.
    pub fn add(&mut self, name: &str, version: &str, folder: PathBuf) -> Result<(), StoreError> {
        if self.names.contains_key(name) {
            return Err(StoreError::Taken {
                name: name.to_owned(),
            });
        }
        self.insert(name, version, folder)
    }

    /// Gives a name that is there to another version. Leases that are out keep the old one.
    ///
    /// # Errors
    /// When there is no adapter of that name, or as for [`AdapterStore::add`]; then the old one
    /// keeps its name.
    pub fn replace(
        &mut self,
        name: &str,
        version: &str,
        folder: PathBuf,
    ) -> Result<(), StoreError> {
        self.known(name)?;
        self.insert(name, version, folder)
    }

    /// Takes a name away. Leases that are out keep what they have.
    ///
    /// # Errors
    /// When there is no adapter of that name.
    pub fn remove(&mut self, name: &str) -> Result<(), StoreError> {
        let number = self.known(name)?;
        self.names.remove(name);
        if let Some(slot) = self.slots.get_mut(&number) {
            slot.named = false;
        }
        Ok(())
    }

    /// The version that a name stands for now, to be used until the lease is dropped.
    ///
    /// # Errors
    /// When there is no adapter of that name.
    pub fn acquire(&mut self, name: &str) -> Result<Lease, StoreError> {
        let number = self.known(name)?;
        match self.slots.get(&number) {
            Some(slot) => Ok(Lease(Arc::clone(&slot.version))),
            None => Err(unknown(name)),
        }
    }

    /// All adapters that have a name, by name.
    pub fn list(&self) -> Vec<AdapterInfo> {
        let slots = self.names.values().filter_map(|n| self.slots.get(n));
        slots.map(Slot::info).collect()
    }

    /// Pages of the pool that versions lie in, also those that have lost their names.
    pub fn pages(&self) -> usize {
        let there = self.slots.values().filter_map(|slot| match &slot.place {
            Place::Device(paged) => Some(paged.pages().len()),
            _ => None,
        });
        there.sum()
    }

    /// Where a version is.
    pub fn residency(&self, lease: &Lease) -> Residency {
        let slot = self.slots.get(&lease.0.number);
        slot.map_or(Residency::Disk, Slot::residency)
    }

    /// Brings an adapter nearer while its request waits: from disk to memory on another thread,
    /// from memory into the pool if pages are free or can be had from adapters that nobody holds.
    /// Call it for the requests that will be served next, in their order, between batches; what
    /// they hold may take more host memory than idle adapters may.
    ///
    /// # Errors
    /// As for [`AdapterStore::activate`].
    pub fn prefetch(
        &mut self,
        lease: &Lease,
        pool: &mut dyn AdapterPool,
        pages: &mut dyn Pages,
    ) -> Result<Residency, StoreError> {
        self.bring(lease, pool, pages, Slot::is_idle)?;
        Ok(self.residency(lease))
    }

    /// Brings an adapter into the pool and keeps it there: none as long as it is on its way from
    /// disk, or pages for it can be had from nobody but adapters that are in use. Call it between
    /// batches, before the batch that the adapter is first used in.
    ///
    /// # Errors
    /// When the adapter cannot be read any more, or the pool is too small for it.
    pub fn activate(
        &mut self,
        lease: &Lease,
        pool: &mut dyn AdapterPool,
        pages: &mut dyn Pages,
    ) -> Result<Option<ActiveAdapter>, StoreError> {
        self.bring(lease, pool, pages, |slot| !slot.is_active())?;
        let place = self.slots.get(&lease.0.number).map(|slot| &slot.place);
        let Some(Place::Device(paged)) = place else {
            return Ok(None);
        };
        Ok(Some(ActiveAdapter {
            paged: Arc::clone(paged),
            _lease: lease.clone(),
        }))
    }

    /// Notes that an adapter was in use until now: by that it is known which one was not used for
    /// longest. Whoever lets an [`ActiveAdapter`] go says so here.
    pub fn used(&mut self, lease: &Lease) {
        self.clock += 1;
        if let Some(slot) = self.slots.get_mut(&lease.0.number) {
            slot.used = self.clock;
        }
    }

    /// Moves adapters that are not in use out of the pool, the one that was not used for longest
    /// first, until so many pages are free or no adapter is left that could go. Returns how many
    /// are free. For when keys and values need room.
    pub fn make_room(
        &mut self,
        wanted: usize,
        pool: &mut dyn AdapterPool,
        pages: &mut dyn Pages,
    ) -> usize {
        self.collect(pages);
        while pages.free() < wanted {
            let candidates = self.slots.iter().filter(|(_, slot)| slot.is_evictable());
            let Some(oldest) = candidates
                .min_by_key(|(_, slot)| slot.used)
                .map(|(n, _)| *n)
            else {
                break;
            };
            self.evict(oldest, pool, pages);
        }
        pages.free()
    }

    /// Takes in what was read from disk, and lets go of versions that have neither a name nor a
    /// lease. Every call that gets `pages` does so first; call it when nothing else is called.
    pub fn collect(&mut self, pages: &mut dyn Pages) {
        while let Some((number, result)) = self.loads.finished() {
            self.arrived(number, result);
        }
        self.slots.retain(|_, slot| {
            let stays = slot.named || slot.is_held();
            if !stays && let Place::Device(paged) = &slot.place {
                paged.pages().iter().for_each(|page| pages.release(*page));
            }
            stays
        });
        self.trim();
    }

    /// Waits until an adapter that is on its way from disk has come. False at once if none is.
    pub fn wait(&mut self) -> bool {
        let Some((number, result)) = self.loads.wait() else {
            return false;
        };
        self.arrived(number, result);
        true
    }

    fn known(&self, name: &str) -> Result<u64, StoreError> {
        self.names.get(name).copied().ok_or_else(|| unknown(name))
    }

    fn insert(&mut self, name: &str, version: &str, folder: PathBuf) -> Result<(), StoreError> {
        let weights = load::read(&self.options, &folder)?;
        self.put(name, version, folder, weights);
        Ok(())
    }

    /// Gives a name, whether it is taken or free, to an adapter that was read with
    /// [`read`](fn@read) from this folder, which must stay as it is while the adapter is there.
    /// Leases that are out keep what they have.
    pub fn put(&mut self, name: &str, version: &str, folder: PathBuf, weights: AdapterWeights) {
        let adapter: &Adapter = weights.adapter();
        let number = self.next;
        self.next += 1;
        let version = Version {
            number,
            name: name.to_owned(),
            version: version.to_owned(),
            folder,
            rank: adapter.rank(),
            pages: adapter.pages(),
            bytes: adapter.bytes(),
            measuring_flops: adapter.measuring_flops(),
        };
        self.clock += 1;
        let slot = Slot {
            version: Arc::new(version),
            named: true,
            used: self.clock,
            place: Place::Memory(weights),
        };
        self.slots.insert(number, slot);
        if let Some(old) = self.names.insert(name.to_owned(), number)
            && let Some(old) = self.slots.get_mut(&old)
        {
            old.named = false;
        }
        self.trim();
    }

    /// Brings an adapter towards the pool; those that `may_go` make room.
    fn bring(
        &mut self,
        lease: &Lease,
        pool: &mut dyn AdapterPool,
        pages: &mut dyn Pages,
        may_go: impl Fn(&Slot) -> bool,
    ) -> Result<(), StoreError> {
        self.collect(pages);
        let Lease(version) = lease;
        self.clock += 1;
        let clock = self.clock;
        let Some(slot) = self.slots.get_mut(&version.number) else {
            return Err(unknown(&version.name));
        };
        slot.used = clock;
        match &slot.place {
            Place::Device(_) | Place::Loading => return Ok(()),
            Place::Lost(reason) => {
                return Err(StoreError::Lost {
                    name: version.name.clone(),
                    reason: reason.clone(),
                });
            }
            Place::Disk => {
                slot.place = Place::Loading;
                self.loads.begin(version.number, version.folder.clone());
                return Ok(());
            }
            Place::Memory(_) => {}
        }
        if version.pages > pool.pages() {
            return Err(StoreError::TooLarge {
                name: version.name.clone(),
                pages: version.pages,
                pool: pool.pages(),
            });
        }
        while pages.free() < version.pages {
            let Some(victim) = self.victim(version, &may_go) else {
                return Ok(());
            };
            self.evict(victim, pool, pages);
        }
        self.place(version.number, pool, pages)
    }

    /// The adapter that makes room for another: of those of its tier the one that was not used
    /// for longest; if there is none, one of the other tiers, the highest first.
    fn victim(&self, incoming: &Version, may_go: impl Fn(&Slot) -> bool) -> Option<u64> {
        let own = tier(incoming.rank);
        let candidates = self
            .slots
            .iter()
            .filter(|(number, _)| **number != incoming.number)
            .filter(|(_, slot)| slot.is_evictable() && may_go(slot));
        let first = candidates.min_by_key(|(_, slot)| {
            let tier = tier(slot.version.rank);
            (tier != own, std::cmp::Reverse(tier), slot.used)
        });
        first.map(|(number, _)| *number)
    }

    /// Copies an adapter from memory into pages, of which enough are free.
    fn place(
        &mut self,
        number: u64,
        pool: &mut dyn AdapterPool,
        pages: &mut dyn Pages,
    ) -> Result<(), StoreError> {
        let Some(slot) = self.slots.get_mut(&number) else {
            return Ok(());
        };
        let Place::Memory(weights) = &slot.place else {
            return Ok(());
        };
        let mut own = Vec::with_capacity(slot.version.pages);
        while own.len() < slot.version.pages
            && let Some(page) = pages.allocate()
        {
            own.push(page);
        }
        let given = own.clone();
        let placed = match own.len() == slot.version.pages {
            true => pool.place(weights, own).map(Some),
            false => Ok(None),
        };
        match placed {
            Ok(Some(paged)) => {
                slot.place = Place::Device(Arc::new(paged));
                Ok(())
            }
            other => {
                given.into_iter().for_each(|page| pages.release(page));
                other.map(|_| ())
            }
        }
    }

    /// Moves an adapter that is not in use from the pool to memory.
    fn evict(&mut self, number: u64, pool: &mut dyn AdapterPool, pages: &mut dyn Pages) {
        let Some(slot) = self.slots.get_mut(&number) else {
            return;
        };
        let Place::Device(paged) = &slot.place else {
            return;
        };
        let paged = Arc::clone(paged);
        let fits = self.options.memory_bytes >= paged.adapter().bytes();
        let parked = fits.then(|| pool.park(&paged));
        slot.place = match parked {
            Some(Ok(weights)) => Place::Memory(weights),
            // What is in the folder is the same.
            _ => Place::Disk,
        };
        paged.pages().iter().for_each(|page| pages.release(*page));
        self.trim();
    }

    fn arrived(&mut self, number: u64, result: load::Loaded) {
        let Some(slot) = self.slots.get_mut(&number) else {
            return;
        };
        slot.place = match result {
            Ok(weights) if weights.adapter().pages() == slot.version.pages => {
                Place::Memory(weights)
            }
            Ok(_) => Place::Lost("it is another adapter now".to_owned()),
            Err(error) => Place::Lost(error.to_string()),
        };
    }

    /// Lets adapters in memory go to disk until the others fit their bytes: of the tier that has
    /// the most bytes the one that was not used for longest. One that somebody holds has just
    /// come, or is about to be used, and stays.
    fn trim(&mut self) {
        let limit = self.options.memory_bytes;
        while self.slots.values().map(Slot::memory_bytes).sum::<u64>() > limit {
            let mut tiers: BTreeMap<u32, u64> = BTreeMap::new();
            for slot in self.slots.values().filter(|slot| slot.is_idle()) {
                *tiers.entry(tier(slot.version.rank)).or_default() += slot.memory_bytes();
            }
            let largest = tiers.iter().max_by_key(|(_, bytes)| **bytes);
            let Some(largest) = largest.map(|(tier, _)| *tier) else {
                break;
            };
            let parked = self.slots.values_mut().filter(|slot| {
                slot.is_idle() && slot.memory_bytes() > 0 && tier(slot.version.rank) == largest
            });
            let Some(oldest) = parked.min_by_key(|slot| slot.used) else {
                break;
            };
            oldest.place = Place::Disk;
        }
    }
}

fn unknown(name: &str) -> StoreError {
    StoreError::Unknown {
        name: name.to_owned(),
    }
}
