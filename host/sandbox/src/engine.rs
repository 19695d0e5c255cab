//! The two engines, and the clock that their guests are interrupted by.
//!
//! Support for concurrency costs every call between guest and host about 150 ns, so components
//! without asynchronous parts run on an engine without it. An engine is set up on first use.
//!
//! Instances come from a pool of memory that is reserved once. The reservation is of address
//! space, not of memory, and small machines or strict `ulimit`s refuse it; then instances are
//! allocated one by one, which is slower to start and no less safe.

use std::hash::{Hash as _, Hasher};
use std::sync::OnceLock;

use wasmtime::component::Linker;
use wasmtime::{
    Config, Enabled, Engine, InstanceAllocationStrategy, PoolingAllocationConfig, WasmFeatures,
};

use crate::interfaces;
use crate::limits::RunLimits;
use crate::state::State;
use crate::ticker::Ticker;

/// Which of the two engines.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum EngineKind {
    /// Without support for concurrency: every component that has no asynchronous parts.
    Plain,
    /// With support for concurrency.
    Concurrent,
}

/// How instances are allocated.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Allocation {
    /// From a pool for this many guests at once.
    Pool {
        /// Guests at once.
        guests: u32,
    },
    /// One by one, with small reservations.
    OnDemand,
}

/// An engine, with every interface of the host linked.
pub(crate) struct Host {
    pub engine: Engine,
    pub linker: Linker<State>,
    pub allocation: Allocation,
    /// What an artefact depends on beside the component: wasmtime's version, the engine's
    /// configuration, the processor's features.
    pub key: [u8; 32],
}

/// Both engines.
pub(crate) struct Engines {
    guests: u32,
    plain: OnceLock<Result<Host, String>>,
    concurrent: OnceLock<Result<Host, String>>,
    pub ticker: Ticker,
}

impl Engines {
    pub(crate) fn new(guests: u32) -> std::io::Result<Self> {
        Ok(Engines {
            guests,
            plain: OnceLock::new(),
            concurrent: OnceLock::new(),
            ticker: Ticker::start()?,
        })
    }

    /// The engine of that kind.
    pub(crate) fn get(&self, kind: EngineKind) -> Result<&Host, String> {
        let cell = match kind {
            EngineKind::Plain => &self.plain,
            EngineKind::Concurrent => &self.concurrent,
        };
        cell.get_or_init(|| {
            let host = Host::new(kind, self.guests).map_err(|error| format!("{error:#}"))?;
            self.ticker.add(host.engine.clone());
            Ok(host)
        })
        .as_ref()
        .map_err(Clone::clone)
    }
}

impl Host {
    fn new(kind: EngineKind, guests: u32) -> wasmtime::Result<Self> {
        let pool = Allocation::Pool { guests };
        let (engine, allocation) = match engine(kind, pool) {
            Ok(engine) => (engine, pool),
            Err(error) => {
                tracing::info!(
                    %error,
                    "no address space for a pool of instances; they are allocated one by one"
                );
                (engine(kind, Allocation::OnDemand)?, Allocation::OnDemand)
            }
        };
        let mut linker = Linker::new(&engine);
        interfaces::link(&mut linker, kind)?;
        let mut hasher = KeyHasher(blake3::Hasher::new());
        engine.precompile_compatibility_hash().hash(&mut hasher);
        Ok(Host {
            key: *hasher.0.finalize().as_bytes(),
            engine,
            linker,
            allocation,
        })
    }
}

impl Host {
    /// What the engine lets guests use.
    pub(crate) fn features(&self) -> WasmFeatures {
        self.engine.get_wasm_features()
    }
}

/// Makes an engine. Compiling in another process uses the same function, so that artefacts fit.
pub(crate) fn engine(kind: EngineKind, allocation: Allocation) -> wasmtime::Result<Engine> {
    let mut config = Config::new();
    config
        .concurrency_support(kind == EngineKind::Concurrent)
        .epoch_interruption(true)
        .parallel_compilation(true)
        .memory_init_cow(true)
        .generate_address_map(false)
        .wasm_backtrace_max_frames(std::num::NonZeroUsize::new(20))
        .max_wasm_stack(1 << 20)
        .async_stack_size(2 << 20)
        .relaxed_simd_deterministic(true);
    for feature in refused_features() {
        config.wasm_features(feature, false);
    }
    match allocation {
        Allocation::Pool { guests } => {
            config.allocation_strategy(InstanceAllocationStrategy::Pooling(pool(guests)));
        }
        Allocation::OnDemand => {
            config
                .allocation_strategy(InstanceAllocationStrategy::OnDemand)
                .memory_reservation(1 << 20)
                .memory_reservation_for_growth(1 << 20)
                .memory_guard_size(64 << 10);
        }
    }
    Engine::new(&config)
}

/// What no guest may use, though wasmtime could: nothing that the supported languages compile
/// to, and each a way to memory that the limits do not see.
fn refused_features() -> [WasmFeatures; 6] {
    [
        WasmFeatures::THREADS,
        WasmFeatures::MEMORY64,
        WasmFeatures::GC,
        WasmFeatures::FUNCTION_REFERENCES,
        WasmFeatures::EXCEPTIONS,
        WasmFeatures::GC_TYPES,
    ]
}

fn pool(guests: u32) -> PoolingAllocationConfig {
    // Most guests are one component with one to four memories (its own and its adapters');
    // the pool has room for that many on average, and a run that finds it empty is told so.
    let parts = guests.saturating_mul(4);
    let mut pool = PoolingAllocationConfig::new();
    pool.total_component_instances(parts)
        .total_core_instances(guests.saturating_mul(64))
        .total_memories(parts)
        .total_tables(guests.saturating_mul(16))
        .total_stacks(guests.saturating_mul(2))
        .max_core_instances_per_component(RunLimits::INSTANCES as u32)
        .max_memories_per_component(16)
        .max_tables_per_component(64)
        .max_memories_per_module(4)
        .max_tables_per_module(8)
        .max_component_instance_size(4 << 20)
        .max_core_instance_size(4 << 20)
        .table_elements(RunLimits::ONE_TABLE as usize)
        .max_unused_warm_slots(guests)
        .decommit_batch_size(1)
        // What stays resident in a slot between two guests: it is zeroed instead of given
        // back, which is what makes a small guest start in microseconds.
        .linear_memory_keep_resident(128 << 10)
        .table_keep_resident(16 << 10)
        .async_stack_keep_resident(64 << 10)
        .pagemap_scan(Enabled::Auto);
    pool
}

struct KeyHasher(blake3::Hasher);

impl Hasher for KeyHasher {
    fn write(&mut self, bytes: &[u8]) {
        self.0.update(&(bytes.len() as u64).to_le_bytes());
        self.0.update(bytes);
    }

    fn finish(&self) -> u64 {
        0
    }
}
