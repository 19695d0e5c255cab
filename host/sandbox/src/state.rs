//! What the host knows of one run: its limits and what it has used of them, its handles, its
//! grants, its log. One [`State`] is made for each run and dropped with it.
//!
//! Making one must stay cheap: whatever only some runs need is made when it is first needed.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use skep_tensor::{Account, Device, MemoryCharge};
use thiserror::Error;
use wasmtime::component::ResourceTable;
use wasmtime::{ResourceLimiter, UpdateDeadline};
use wasmtime_wasi::{WasiCtx, WasiCtxView, WasiView};

use crate::devices::DeviceThreads;
use crate::error::{Quota, QuotaExcess};
use crate::following::Showing;
use crate::interfaces::HostError;
use crate::jobs::Begun;
use crate::language::{LanguageModel, TextAdapter};
use crate::limits::RunLimits;
use crate::log::Log;
use crate::priority;
use crate::repeatable;
use crate::run::report::Reported;
use crate::run::spec::RunSpec;
use crate::streams::{self, Streams};
use crate::task_io::TaskIo;
use crate::ticker::TICK;
use crate::training::Trainings;
use crate::turns::Turn;
use crate::writing::Promises;

/// The owner's number of the next run.
static OWNERS: AtomicU64 = AtomicU64::new(0);

/// The host's side of one run.
pub(crate) struct State {
    pub spec: Arc<RunSpec>,
    pub limits: RunLimits,
    pub table: ResourceTable,
    pub memory: MemoryMeter,
    pub clock: CpuClock,
    pub turn: Turn,
    pub account: Account,
    pub device: Device,
    pub threads: Arc<DeviceThreads>,
    pub log: Log,
    pub io: TaskIo,
    pub streams: Streams,
    pub lent: Lent,
    /// The part of the account that keys and values are charged to.
    pub texts: Account,
    /// Whose requests these are, for the engine: no other run's.
    pub owner: Owner,
    /// What texts that are being written may still bring.
    pub promises: Promises,
    /// The adapters that the guest has open, by the name that it asked for, and how often.
    pub adapters: BTreeMap<String, (Arc<dyn TextAdapter>, usize)>,
    /// What the run trains, and what it keeps of it.
    pub trainings: Trainings,
    /// Calls from the guest to skep's interfaces.
    pub host_calls: u64,
    /// Bytes that the run has put into the blob store, and given to jobs.
    pub stored: u64,
    /// The jobs that the run has begun.
    pub begun: Begun,
    /// What the guest reported of others' outputs, and nobody has taken yet.
    pub reports: Vec<Reported>,
    /// The last call that was refused for a limit.
    pub refused: Option<QuotaExcess>,
    /// Whether it was told that the node is busy.
    pub was_busy: bool,
    /// Whether it was told that something of the node failed.
    pub had_fault: bool,
    /// Requests for texts that named no seed.
    pub unseeded: AtomicU64,
    /// What the run shows of its texts so far.
    pub showing: Showing,
    wasi: Option<Box<WasiCtx>>,
}

/// Whoever asks models for texts: one run. When it is over they keep nothing of it.
pub(crate) struct Owner {
    number: u64,
    /// The models that it has opened, by digest.
    asked: BTreeMap<String, Arc<dyn LanguageModel>>,
}

impl Owner {
    fn new() -> Self {
        Self {
            number: OWNERS.fetch_add(1, Ordering::Relaxed),
            asked: BTreeMap::new(),
        }
    }

    /// What engines know it by.
    pub(crate) fn number(&self) -> u64 {
        self.number
    }

    /// Notes that it may ask the model of this digest.
    pub(crate) fn asks(&mut self, digest: String, model: &Arc<dyn LanguageModel>) {
        self.asked
            .entry(digest)
            .or_insert_with(|| Arc::clone(model));
    }
}

impl Drop for Owner {
    fn drop(&mut self) {
        for model in self.asked.values() {
            model.forget(self.number);
        }
    }
}

/// What the node has lent a run, and shares with others: bytes by digest.
#[derive(Default)]
pub(crate) struct Lent {
    /// Weights of models.
    pub models: BTreeMap<String, u64>,
    /// Adapters.
    pub adapters: BTreeMap<String, u64>,
    /// Who computes language models, with what is taken of a device's own memory.
    pub devices: BTreeMap<String, u64>,
}

/// Why the host itself stops a guest; found again in the error that wasmtime hands back.
#[derive(Clone, Copy, Debug, Error)]
pub(crate) enum Stop {
    #[error("processor time is over")]
    CpuTime,
    #[error("processor time of one call is over")]
    CallCpuTime { limit: Duration },
    #[error("cancelled")]
    Cancelled,
}

impl State {
    pub(crate) fn new(
        spec: Arc<RunSpec>,
        limits: RunLimits,
        account: Account,
        threads: Arc<DeviceThreads>,
        io: TaskIo,
    ) -> Self {
        let mut table = ResourceTable::new();
        table.set_max_capacity(limits.handles as usize);
        State {
            table,
            memory: MemoryMeter::new(limits.memory),
            clock: CpuClock::start(),
            turn: Turn::new(),
            texts: account.part(),
            owner: Owner::new(),
            promises: Promises::new(limits.call_bytes),
            lent: Lent::default(),
            adapters: BTreeMap::new(),
            trainings: Trainings::default(),
            account,
            device: spec.device,
            log: Log::new(limits.log),
            threads,
            io,
            streams: Streams::new(limits.call_bytes),
            host_calls: 0,
            stored: 0,
            begun: Begun::default(),
            reports: Vec::new(),
            refused: None,
            was_busy: false,
            had_fault: false,
            unseeded: AtomicU64::new(0),
            showing: Showing::of(&spec.texts),
            wasi: None,
            limits,
            spec,
        }
    }

    /// Notes a refusal, so that a guest that dies of it is told what it died of.
    pub(crate) fn refuse(&mut self, quota: Quota, limit: u64, asked: u64) -> QuotaExcess {
        let excess = QuotaExcess {
            quota,
            limit,
            asked,
        };
        self.refused = Some(excess);
        excess
    }

    /// Whether the guest may have one more stream, with its future.
    pub(crate) fn room_for_a_stream(&self) -> Result<(), HostError> {
        let limit = u64::from(self.limits.handles);
        let asked = (self.streams.open() + 1).saturating_mul(streams::HANDLES);
        if asked > limit {
            return Err(HostError::Quota(QuotaExcess {
                quota: Quota::Handles,
                limit,
                asked,
            }));
        }
        Ok(())
    }

    /// Comes by at each tick of the clock while the guest computes.
    pub(crate) fn on_tick(&mut self) -> wasmtime::Result<UpdateDeadline> {
        if self.account.is_cancelled() {
            return Err(Stop::Cancelled.into());
        }
        self.clock.ticks = self.clock.ticks.saturating_add(1);
        let used = self.clock.used();
        if used > self.limits.cpu {
            return Err(Stop::CpuTime.into());
        }
        if let Some(limit) = self.clock.call_is_over() {
            return Err(Stop::CallCpuTime { limit }.into());
        }
        let guests = self.threads.guests_computing();
        let wanted = guests.models_are_wanted();
        let rest = self
            .turn
            .on_tick(Instant::now(), used, wanted, guests.share());
        // Yielding lets the guest's event loop look at the wall clock.
        Ok(match rest {
            Some(rest) => UpdateDeadline::YieldCustom(1, Box::pin(guests.rest(rest))),
            None => UpdateDeadline::Yield(1),
        })
    }
}

impl WasiView for State {
    fn ctx(&mut self) -> WasiCtxView<'_> {
        let (log, seed) = (&self.log, self.spec.seed);
        let ctx = self.wasi.get_or_insert_with(|| {
            let mut wasi = WasiCtx::builder();
            wasi.stdout(log.clone())
                .stderr(log.clone())
                .allow_ip_name_lookup(false)
                .allow_tcp(false)
                .allow_udp(false)
                .max_random_size(1 << 20);
            if let Some(seed) = seed {
                repeatable::set_up(&mut wasi, seed);
            }
            Box::new(wasi.build())
        });
        WasiCtxView {
            ctx,
            table: &mut self.table,
        }
    }
}

/// The time that a guest has computed, on the thread that it runs on.
pub(crate) struct CpuClock {
    before: Option<Duration>,
    ticks: u32,
    /// Of a session's call: the processor time at its beginning, and how much it may use.
    call: Option<(Duration, Duration)>,
}

impl CpuClock {
    fn start() -> Self {
        CpuClock {
            before: priority::thread_time(),
            ticks: 0,
            call: None,
        }
    }

    /// A call of a session begins, which may use so much.
    pub(crate) fn begin_call(&mut self, limit: Duration) {
        self.call = Some((self.used(), limit));
    }

    /// What the call may use, if it has used more.
    fn call_is_over(&self) -> Option<Duration> {
        let (began, limit) = self.call?;
        (self.used().saturating_sub(began) > limit).then_some(limit)
    }

    /// Processor time since the start. Where the system does not say, whole ticks in which the
    /// guest was found computing.
    pub(crate) fn used(&self) -> Duration {
        match (self.before, priority::thread_time()) {
            (Some(before), Some(now)) => now.saturating_sub(before),
            _ => TICK * self.ticks,
        }
    }
}

/// What a guest has of the host's own memory: its linear memories, all together, and what the host
/// keeps there for it. Beside it, its tables.
pub(crate) struct MemoryMeter {
    /// All of these bytes.
    account: Account,
    /// Those of the linear memories, once there are any.
    memories: Option<MemoryCharge>,
    elements: u64,
    last: u64,
    last_elements: u64,
    /// The most bytes that the memories had.
    pub peak: u64,
    /// What a refused growth of a memory would have come to.
    pub refused: Option<u64>,
    /// What a refused growth of a table would have come to.
    pub refused_elements: Option<u64>,
}

impl MemoryMeter {
    fn new(limit: u64) -> Self {
        MemoryMeter {
            account: Account::new(skep_tensor::Limits {
                device_memory: limit,
                ..skep_tensor::Limits::UNLIMITED
            }),
            memories: None,
            elements: 0,
            last: 0,
            last_elements: 0,
            peak: 0,
            refused: None,
            refused_elements: None,
        }
    }

    /// What else the host keeps in its own memory for the guest is charged to this. What it has in
    /// its linear memories is already, so that both together stay within the limit.
    pub(crate) fn account(&self) -> &Account {
        &self.account
    }
}

impl ResourceLimiter for MemoryMeter {
    fn memory_growing(
        &mut self,
        current: usize,
        desired: usize,
        _maximum: Option<usize>,
    ) -> wasmtime::Result<bool> {
        let more = desired.saturating_sub(current) as u64;
        let grown = match &mut self.memories {
            Some(memories) => memories.resize(memories.bytes().saturating_add(more)),
            None => {
                let charged = self.account.charge_memory(more);
                charged.map(|memories| self.memories = Some(memories))
            }
        };
        if let Err(refusal) = grown {
            self.refused = Some(refusal.asked);
            return Ok(false);
        }
        let total = self.memories.as_ref().map_or(0, MemoryCharge::bytes);
        self.last = more;
        self.peak = self.peak.max(total);
        Ok(true)
    }

    fn memory_grow_failed(&mut self, _error: wasmtime::Error) -> wasmtime::Result<()> {
        // Permitted above, and then not to be had.
        let last = std::mem::take(&mut self.last);
        if let Some(memories) = &mut self.memories {
            drop(memories.split(last));
        }
        Ok(())
    }

    fn table_growing(
        &mut self,
        current: usize,
        desired: usize,
        _maximum: Option<usize>,
    ) -> wasmtime::Result<bool> {
        let more = desired.saturating_sub(current) as u64;
        let total = self.elements.saturating_add(more);
        if total > RunLimits::TABLE_ELEMENTS || desired as u64 > RunLimits::ONE_TABLE {
            self.refused_elements = Some(total);
            return Ok(false);
        }
        self.elements = total;
        self.last_elements = more;
        Ok(true)
    }

    fn table_grow_failed(&mut self, _error: wasmtime::Error) -> wasmtime::Result<()> {
        self.elements = self
            .elements
            .saturating_sub(std::mem::take(&mut self.last_elements));
        Ok(())
    }

    fn instances(&self) -> usize {
        RunLimits::INSTANCES
    }

    fn tables(&self) -> usize {
        RunLimits::INSTANCES
    }

    fn memories(&self) -> usize {
        RunLimits::INSTANCES
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memories_count_together_and_refusals_are_remembered() {
        let mut meter = MemoryMeter::new(100);
        assert!(meter.memory_growing(0, 60, None).unwrap());
        assert!(meter.memory_growing(0, 40, None).unwrap());
        assert!(!meter.memory_growing(60, 61, None).unwrap());
        assert_eq!((meter.refused, meter.peak), (Some(101), 100));
    }

    #[test]
    fn what_the_host_keeps_for_a_guest_counts_with_its_memories() {
        let mut meter = MemoryMeter::new(100);
        assert!(meter.memory_growing(0, 60, None).unwrap());
        let kept = meter.account().charge_memory(30).unwrap();
        assert!(meter.account().charge_memory(11).is_err());
        assert!(!meter.memory_growing(60, 80, None).unwrap());
        assert_eq!((meter.refused, meter.peak), (Some(110), 60));
        drop(kept);
        assert!(meter.memory_growing(60, 100, None).unwrap());
        assert!(meter.account().charge_memory(1).is_err());
    }

    #[test]
    fn a_growth_that_the_system_refuses_is_not_counted() {
        let mut meter = MemoryMeter::new(100);
        assert!(meter.memory_growing(0, 60, None).unwrap());
        assert!(meter.memory_growing(60, 100, None).unwrap());
        meter
            .memory_grow_failed(wasmtime::format_err!("no memory"))
            .unwrap();
        assert!(meter.memory_growing(0, 40, None).unwrap());
    }

    #[test]
    fn tables_have_a_limit_of_their_own() {
        let mut meter = MemoryMeter::new(0);
        let one = RunLimits::ONE_TABLE as usize;
        assert!(!meter.table_growing(0, one + 1, None).unwrap());
        let mut tables = 0;
        while meter.table_growing(0, one, None).unwrap() {
            tables += 1;
        }
        assert_eq!(tables, RunLimits::TABLE_ELEMENTS / RunLimits::ONE_TABLE);
        assert_eq!(
            meter.refused_elements,
            Some((tables + 1) * RunLimits::ONE_TABLE)
        );
    }
}
