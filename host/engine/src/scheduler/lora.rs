//! Adapters of the texts that come next: they are brought into the pool before they are needed,
//! and kept there while a text that is written with them has pages.

use std::cmp::Reverse;
use std::sync::{MutexGuard, PoisonError};

use super::{Group, Options, Scheduler};
use crate::adapters::{AdapterStore, Lease, Pages, Residency, StoreOptions};
use crate::error::EngineError;
use crate::model::LanguageModel;
use crate::pages::PagePool;
use crate::request::Priority;
use crate::sequence::Key;

/// Requests whose adapters are fetched ahead of need.
const AHEAD: usize = 16;

impl Pages for PagePool {
    fn allocate(&mut self) -> Option<u32> {
        PagePool::allocate(self)
    }

    fn release(&mut self, page: u32) {
        PagePool::release(self, page);
    }

    fn free(&self) -> usize {
        PagePool::free(self)
    }
}

/// What a store of adapters for this model's scheduler is made with.
pub fn store_options(model: &LanguageModel, options: &Options) -> StoreOptions {
    let shape = model.decoder.kv_shape(options.kv_format);
    StoreOptions {
        base: std::sync::Arc::clone(&model.decoder),
        base_name: model.name.clone(),
        page_bytes: usize::try_from(shape.page_bytes()).unwrap_or(usize::MAX),
        memory_bytes: options.adapter_bytes,
    }
}

impl Scheduler {
    /// Brings the adapter of a text into the pool. `false` if the text has to wait for it.
    pub(super) fn ready_adapter(
        &mut self,
        key: Key,
        chosen: &std::collections::HashSet<Key>,
    ) -> Result<bool, EngineError> {
        let Some(group) = self.groups.get(&key.group) else {
            return Ok(false);
        };
        let (Some(lease), None) = (group.lease.clone(), &group.adapter) else {
            return Ok(true);
        };
        let wanted = lease.pages();
        loop {
            {
                // Let go of before others are asked for their pages, who give up their adapters.
                let mut adapters = lock(&self.adapters);
                let memory = self.runner.adapter_pool();
                if let Some(active) = adapters.activate(&lease, memory, &mut self.pool)? {
                    if let Some(group) = self.groups.get_mut(&key.group) {
                        group.adapter = Some(active);
                    }
                    return Ok(true);
                }
                if adapters.residency(&lease) != Residency::Memory || self.pool.free() >= wanted {
                    // It is on its way from disk.
                    return Ok(false);
                }
            }
            self.cache.shrink(&mut self.pool, wanted);
            if self.pool.free() < wanted && !self.take_from_another(key, chosen) {
                return Ok(false);
            }
        }
    }

    /// Brings the adapters of requests that wait nearer: of the most urgent first, then in the
    /// order in which they came.
    pub(super) fn fetch_ahead(&mut self) {
        let waiting = self.groups.values().filter(|group| group.adapter.is_none());
        let mut leases: Vec<(Priority, Lease)> = waiting
            .filter_map(|group| Some((group.caller.priority, group.lease.clone()?)))
            .collect();
        // Those that are equally urgent stay in their order.
        leases.sort_by_key(|(priority, _)| Reverse(*priority));
        for (_, lease) in leases.iter().take(AHEAD) {
            self.fetch(lease);
        }
    }

    /// Brings an adapter nearer that is about to be used. One that cannot be had is told so when
    /// its turn comes.
    pub fn fetch(&mut self, lease: &Lease) {
        let adapters = std::sync::Arc::clone(&self.adapters);
        let fetched = lock(&adapters).prefetch(lease, self.runner.adapter_pool(), &mut self.pool);
        if let Err(error) = fetched {
            tracing::debug!(adapter = lease.name(), %error, "not fetched ahead");
        }
    }

    /// Adapters that nobody uses make room for keys and values. Whether there is a free page now.
    pub(super) fn take_from_adapters(&mut self) -> bool {
        let adapters = std::sync::Arc::clone(&self.adapters);
        let mut adapters = lock(&adapters);
        adapters.make_room(1, self.runner.adapter_pool(), &mut self.pool) > 0
    }

    /// Lets the adapter of a request go, none of whose texts has pages.
    pub(super) fn rest_adapter(&mut self, group: u64) {
        let idle = self
            .texts_of(group)
            .filter_map(|key| self.sequences.get(&key))
            .all(|sequence| sequence.pages.is_empty());
        if idle
            && let Some(group) = self.groups.get_mut(&group)
            && group.adapter.take().is_some()
            && let Some(lease) = &group.lease
        {
            lock(&self.adapters).used(lease);
        }
    }

    /// Lets the adapter of a request go that is over.
    pub(super) fn leave_adapter(&self, group: &Group) {
        if let (Some(_), Some(lease)) = (&group.adapter, &group.lease) {
            lock(&self.adapters).used(lease);
        }
    }

    /// When everything that there is to do waits for adapters, waits for the next one.
    pub(super) fn wait_for_adapters(&self) {
        if !self.sequences.is_empty() {
            lock(&self.adapters).wait();
        }
    }

    /// Pages that adapters lie in.
    pub fn adapter_pages(&self) -> usize {
        lock(&self.adapters).pages()
    }

    /// Bytes of the adapters in the pool.
    pub fn adapter_bytes(&self) -> u64 {
        self.adapter_pages() as u64 * self.page_bytes
    }
}

fn lock(adapters: &std::sync::Mutex<AdapterStore>) -> MutexGuard<'_, AdapterStore> {
    adapters.lock().unwrap_or_else(PoisonError::into_inner)
}
