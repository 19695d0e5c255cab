//! The pool that adapters lie in beside keys and values: which pages are free, and the memory.
//!
//! What this module must never do: say whose a page is. That is for whoever owns the pool.

use skep_decoder::{AdapterWeights, PagedAdapter};
use skep_kernels::PageMemory;

use super::StoreError;

/// The pages of the pool that adapters lie in beside keys and values.
pub trait Pages {
    /// A page that nobody has, if there is one.
    fn allocate(&mut self) -> Option<u32>;
    /// Gives a page back.
    fn release(&mut self, page: u32);
    /// Pages that nobody has.
    fn free(&self) -> usize;
}

/// The memory of that pool, wherever it is.
pub trait AdapterPool {
    /// Pages that there are.
    fn pages(&self) -> usize;

    /// Copies an adapter into these pages, as many as it takes.
    ///
    /// # Errors
    /// When it does not fit them, or the device that they lie on fails.
    fn place(
        &mut self,
        weights: &AdapterWeights,
        pages: Vec<u32>,
    ) -> Result<PagedAdapter, StoreError>;

    /// Copies an adapter out of its pages: bit for bit what was placed there.
    ///
    /// # Errors
    /// When its pages are not in this pool, or the device that they lie on fails.
    fn park(&mut self, adapter: &PagedAdapter) -> Result<AdapterWeights, StoreError>;
}

impl AdapterPool for PageMemory {
    fn pages(&self) -> usize {
        PageMemory::pages(self)
    }

    fn place(
        &mut self,
        weights: &AdapterWeights,
        pages: Vec<u32>,
    ) -> Result<PagedAdapter, StoreError> {
        Ok(weights.place(self, pages)?)
    }

    fn park(&mut self, adapter: &PagedAdapter) -> Result<AdapterWeights, StoreError> {
        Ok(adapter.park(self)?)
    }
}
