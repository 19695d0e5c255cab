//! One version of an adapter in the store.

use std::sync::Arc;

use skep_decoder::{AdapterWeights, PagedAdapter};

use super::{AdapterInfo, Residency, Version};

/// A version, and where it is.
#[derive(Debug)]
pub struct Slot {
    pub version: Arc<Version>,
    /// Whether a name stands for it.
    pub named: bool,
    /// When it was asked for, or used, last.
    pub used: u64,
    pub place: Place,
}

/// Where a version is.
#[derive(Debug)]
pub enum Place {
    Disk,
    /// On its way from disk to memory.
    Loading,
    Memory(AdapterWeights),
    /// In the pool. Whoever uses it has a clone.
    Device(Arc<PagedAdapter>),
    /// It could not be read again, and why.
    Lost(String),
}

impl Slot {
    pub fn info(&self) -> AdapterInfo {
        AdapterInfo {
            name: self.version.name.clone(),
            version: self.version.version.clone(),
            rank: self.version.rank,
            pages: self.version.pages,
            bytes: self.version.bytes,
            residency: self.residency(),
        }
    }

    pub fn residency(&self) -> Residency {
        match self.place {
            Place::Disk | Place::Loading | Place::Lost(_) => Residency::Disk,
            Place::Memory(_) => Residency::Memory,
            Place::Device(_) => Residency::Device,
        }
    }

    /// Bytes of host memory that it takes beside the pool.
    pub fn memory_bytes(&self) -> u64 {
        match &self.place {
            Place::Memory(weights) => weights.adapter().bytes(),
            _ => 0,
        }
    }

    /// Whether somebody has a lease of it. New ones come from the store alone, or from one that
    /// is out, so a count of one stays one while the store does not hand any out.
    pub fn is_held(&self) -> bool {
        Arc::strong_count(&self.version) > 1
    }

    /// Whether nobody has a lease of it.
    pub fn is_idle(&self) -> bool {
        !self.is_held()
    }

    /// Whether somebody uses it in the pool.
    pub fn is_active(&self) -> bool {
        matches!(&self.place, Place::Device(paged) if Arc::strong_count(paged) > 1)
    }

    /// Whether it lies in the pool and could leave it.
    pub fn is_evictable(&self) -> bool {
        matches!(self.place, Place::Device(_)) && !self.is_active()
    }
}
