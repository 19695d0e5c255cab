//! Low-rank adapters: small changes to a model that is loaded once (LoRA, arXiv 2106.09685), with
//! learned lengths of the rows of what they change or without (DoRA, arXiv 2402.09353).
//!
//! An adapter is read from a PEFT folder into [`AdapterWeights`], which lie in host memory in the
//! form that pages have; [`AdapterWeights::place`] copies them into pages of the pool that keys
//! and values come from, and a [`PagedAdapter`] says which ones. A batch may carry another one in
//! every part.
//!
//! What this module must never do: let an adapter that was made for other shapes touch a model;
//! own a page, which is the business of whoever hands them out.

mod error;
mod forward;
mod read;

use std::path::Path;
use std::sync::Arc;

use skep_accounts::QuotaError;
use skep_kernels::PageMemory;
use skep_kernels::lora::LowRankLayout;
use skep_kernels::operators::Device;

pub use error::AdapterError;
pub(crate) use forward::Attached;

use crate::config::Config;
use crate::error::ForwardError;
use crate::model::Decoder;
use crate::placed::PlacedError;

/// A matrix of a layer that adapters may change.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum AdapterTarget {
    /// What makes queries.
    Query,
    /// What makes keys.
    Key,
    /// What makes values.
    Value,
    /// What attention's results go through.
    Output,
    /// The part of the feed-forward layer that the activation is applied to.
    Gate,
    /// The part that it is multiplied with.
    Up,
    /// The second product of the feed-forward layer.
    Down,
}

impl AdapterTarget {
    /// All, in the order in which a layer uses them.
    pub const ALL: [Self; 7] = [
        Self::Query,
        Self::Key,
        Self::Value,
        Self::Output,
        Self::Gate,
        Self::Up,
        Self::Down,
    ];

    /// What Hugging Face's models call it within a layer.
    pub fn name(self) -> &'static str {
        match self {
            Self::Query => "self_attn.q_proj",
            Self::Key => "self_attn.k_proj",
            Self::Value => "self_attn.v_proj",
            Self::Output => "self_attn.o_proj",
            Self::Gate => "mlp.gate_proj",
            Self::Up => "mlp.up_proj",
            Self::Down => "mlp.down_proj",
        }
    }
}

/// The shapes of a model that an adapter has to fit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct BaseShape {
    pub layers: usize,
    pub width: usize,
    pub hidden: usize,
    /// Elements of all queries of a token, and of all keys.
    pub queries: usize,
    pub keys: usize,
}

impl BaseShape {
    pub fn of(config: &Config) -> Self {
        Self {
            layers: config.layers.len(),
            width: config.width,
            hidden: config.hidden,
            queries: config.heads * config.head_dim,
            keys: config.kv_heads * config.head_dim,
        }
    }

    /// The outputs and inputs of a matrix.
    pub fn matrix(&self, target: AdapterTarget) -> [usize; 2] {
        match target {
            AdapterTarget::Query => [self.queries, self.width],
            AdapterTarget::Key | AdapterTarget::Value => [self.keys, self.width],
            AdapterTarget::Output => [self.width, self.queries],
            AdapterTarget::Gate | AdapterTarget::Up => [self.hidden, self.width],
            AdapterTarget::Down => [self.width, self.hidden],
        }
    }
}

/// What an adapter is, wherever its weights lie.
#[derive(Debug)]
pub struct Adapter {
    base: BaseShape,
    named_base: Option<String>,
    layout: LowRankLayout,
    /// For each layer and target the pair and its scale.
    pairs: Vec<[Option<(usize, f32)>; AdapterTarget::ALL.len()]>,
    rank: usize,
    measuring_flops: u64,
}

impl Adapter {
    /// The base that it says it was made for: `base_model_name_or_path`.
    pub fn named_base(&self) -> Option<&str> {
        self.named_base.as_deref()
    }

    /// Its largest rank.
    pub fn rank(&self) -> usize {
        self.rank
    }

    /// Floating-point operations of measuring the rows of the matrices that it changes, a multiplication and an
    /// addition counting as two: `2 · Σ inputs · outputs · (rank + 1)` if it has magnitudes, and otherwise 0. Each
    /// reading takes them.
    pub fn measuring_flops(&self) -> u64 {
        self.measuring_flops
    }

    /// Matrices that it changes.
    pub fn matrices(&self) -> usize {
        self.layout.len()
    }

    /// Pages that it takes.
    pub fn pages(&self) -> usize {
        self.layout.pages()
    }

    /// Bytes that it takes, in pages or in host memory.
    pub fn bytes(&self) -> u64 {
        self.layout.pages() as u64 * self.layout.page_bytes() as u64
    }

    fn pair(&self, layer: usize, target: AdapterTarget) -> Option<(usize, f32)> {
        self.pairs.get(layer)?[target as usize]
    }
}

/// An adapter in host memory, in the form that pages have.
#[derive(Debug)]
pub struct AdapterWeights {
    adapter: Arc<Adapter>,
    memory: PageMemory,
}

impl AdapterWeights {
    /// Reads a PEFT folder (`adapter_config.json`, `adapter_model.safetensors`) for this base, which
    /// errors call `base_name`. Weights become 16-bit floats, each matrix scaled by a power of two
    /// so that none overflows or loses its small elements. `page_bytes` is what the pool's pages have
    /// ([`PageMemory::page_bytes`]). For an adapter with magnitudes (`use_dora`) each row of the
    /// matrices that it changes is unpacked once, because the gains depend on the rows' lengths.
    ///
    /// # Errors
    /// When a file is unsound, the adapter is of a kind that is not supported, or it does not fit
    /// the base. What is allocated before that is in proportion to the files.
    pub fn load(
        folder: &Path,
        base: &Decoder,
        base_name: &str,
        page_bytes: usize,
    ) -> Result<Self, AdapterError> {
        Self::load_while(folder, (base, base_name), page_bytes, &|_| Ok(()))
    }

    /// As [`AdapterWeights::load`], for somebody who pays for it and may not wait to the end. `goes_on` is asked
    /// before any row is measured with what [`Adapter::measuring_flops`] will be, if that is not 0, and with 0
    /// between matrices and between the rows that are measured.
    ///
    /// # Errors
    /// As [`AdapterWeights::load`], and [`AdapterError::Quota`] with what `goes_on` says. Then nothing of it is
    /// kept.
    pub fn load_while(
        folder: &Path,
        (base, base_name): (&Decoder, &str),
        page_bytes: usize,
        goes_on: &dyn Fn(u64) -> Result<(), QuotaError>,
    ) -> Result<Self, AdapterError> {
        read::Reader::new(folder, (base, base_name), page_bytes, goes_on).read()
    }

    /// What it is.
    pub fn adapter(&self) -> &Arc<Adapter> {
        &self.adapter
    }

    /// Copies it into `pages` of a pool, in their order: as many as [`Adapter::pages`] says. They
    /// are the caller's to keep from others until the last batch that uses them is through.
    ///
    /// # Errors
    /// When the pool's pages have another length, or they are too few or not in the pool. Some
    /// may have been written to.
    pub fn place(
        &self,
        pool: &mut PageMemory,
        pages: Vec<u32>,
    ) -> Result<PagedAdapter, AdapterError> {
        let placed = PagedAdapter {
            adapter: Arc::clone(&self.adapter),
            pages,
        };
        placed.check((pool.page_bytes(), pool.pages()))?;
        pool.expect_long_runs();
        for (from, to) in placed.pages.iter().enumerate() {
            pool.copy_from(*to as usize, &self.memory, from)?;
        }
        Ok(placed)
    }
}

impl AdapterWeights {
    /// As [`AdapterWeights::place`], into a device's pages.
    ///
    /// # Errors
    /// As [`AdapterWeights::place`], and when the device fails.
    pub fn place_on<O: Device>(
        &self,
        device: &O,
        pool: &mut O::Pages,
        pages: Vec<u32>,
    ) -> Result<PagedAdapter, PlacedError<O::Error>> {
        let placed = PagedAdapter {
            adapter: Arc::clone(&self.adapter),
            pages,
        };
        placed
            .check(device.pool(pool))
            .map_err(|error| PlacedError::Batch(ForwardError::AdapterPages(error.to_string())))?;
        for (from, to) in placed.pages.iter().enumerate() {
            let bytes = self.memory.page(from).map_err(ForwardError::from);
            device
                .write_page(pool, *to as usize, bytes.map_err(PlacedError::Batch)?)
                .map_err(PlacedError::Device)?;
        }
        Ok(placed)
    }
}

/// An adapter in pages of a pool.
#[derive(Debug, Clone)]
pub struct PagedAdapter {
    adapter: Arc<Adapter>,
    pages: Vec<u32>,
}

impl PagedAdapter {
    /// What it is.
    pub fn adapter(&self) -> &Arc<Adapter> {
        &self.adapter
    }

    /// The pages that it lies in.
    pub fn pages(&self) -> &[u32] {
        &self.pages
    }

    /// Copies it out of its pages to host memory: bit for bit what was placed there.
    ///
    /// # Errors
    /// When its pages are not in this pool.
    pub fn park(&self, pool: &PageMemory) -> Result<AdapterWeights, AdapterError> {
        self.check((pool.page_bytes(), pool.pages()))?;
        let mut memory = PageMemory::new(pool.page_bytes(), self.pages.len());
        for (to, from) in self.pages.iter().enumerate() {
            memory.copy_from(to, pool, *from as usize)?;
        }
        Ok(AdapterWeights {
            adapter: Arc::clone(&self.adapter),
            memory,
        })
    }

    /// As [`PagedAdapter::park`], out of a device's pages.
    ///
    /// # Errors
    /// As [`PagedAdapter::park`], and when the device fails.
    pub fn park_from<O: Device>(
        &self,
        device: &O,
        pool: &O::Pages,
    ) -> Result<AdapterWeights, PlacedError<O::Error>> {
        let refuse = |reason: String| PlacedError::Batch(ForwardError::AdapterPages(reason));
        let (page_bytes, _) = device.pool(pool);
        self.check(device.pool(pool))
            .map_err(|error| refuse(error.to_string()))?;
        let mut memory = PageMemory::new(page_bytes, self.pages.len());
        for (to, from) in self.pages.iter().enumerate() {
            let bytes = device
                .read_page(pool, *from as usize)
                .map_err(PlacedError::Device)?;
            let page = memory.page_mut(to).map_err(ForwardError::from);
            let page = page.map_err(PlacedError::Batch)?;
            if page.len() != bytes.len() {
                return Err(refuse(format!(
                    "a page of {} bytes was read as {}",
                    page.len(),
                    bytes.len()
                )));
            }
            page.copy_from_slice(&bytes);
        }
        Ok(AdapterWeights {
            adapter: Arc::clone(&self.adapter),
            memory,
        })
    }

    /// Whether it lies in a pool of so many pages of so many bytes.
    fn check(&self, (page_bytes, pages): (usize, usize)) -> Result<(), AdapterError> {
        let wrong = |what, got, want| AdapterError::Pages { what, got, want };
        let layout = &self.adapter.layout;
        if page_bytes != layout.page_bytes() {
            return Err(wrong(
                "the bytes of a page",
                page_bytes,
                layout.page_bytes(),
            ));
        }
        if self.pages.len() != layout.pages() {
            let (got, want) = (self.pages.len(), layout.pages());
            return Err(wrong("the adapter's pages", got, want));
        }
        match self.pages.iter().max() {
            Some(last) if *last as usize >= pages => {
                let want = *last as usize + 1;
                Err(wrong("the pool's pages", pages, want))
            }
            _ => Ok(()),
        }
    }
}
