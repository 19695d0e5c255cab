//! The clock that guests are interrupted by: every tick, each engine's epoch moves on by one,
//! and each guest that is computing comes by the host to be checked.
//!
//! The clock stands still while no guest runs, so that an idle node costs nothing.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use wasmtime::Engine;

/// The time between two ticks.
pub(crate) const TICK: Duration = Duration::from_millis(10);

/// Ticks without a guest after which the clock stops.
const PATIENCE: u32 = 100;

struct Shared {
    engines: Mutex<Vec<Engine>>,
    running: AtomicUsize,
    asleep: AtomicBool,
    ended: AtomicBool,
}

/// The clock. It ends when this is dropped.
pub(crate) struct Ticker {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

/// Keeps the clock going.
pub(crate) struct Running(Arc<Shared>);

impl Ticker {
    pub(crate) fn start() -> std::io::Result<Self> {
        let shared = Arc::new(Shared {
            engines: Mutex::new(Vec::new()),
            running: AtomicUsize::new(0),
            asleep: AtomicBool::new(false),
            ended: AtomicBool::new(false),
        });
        let thread = std::thread::Builder::new()
            .name("skep-ticker".to_owned())
            .spawn({
                let shared = Arc::clone(&shared);
                move || tick(&shared)
            })?;
        Ok(Ticker {
            shared,
            thread: Some(thread),
        })
    }

    pub(crate) fn add(&self, engine: Engine) {
        self.shared
            .engines
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(engine);
    }

    /// A guest begins: the clock goes until what is returned is dropped.
    pub(crate) fn run(&self) -> Running {
        self.shared.running.fetch_add(1, SeqCst);
        if self.shared.asleep.load(SeqCst)
            && let Some(thread) = &self.thread
        {
            thread.thread().unpark();
        }
        Running(Arc::clone(&self.shared))
    }
}

fn tick(shared: &Shared) {
    let mut idle = 0;
    while !shared.ended.load(SeqCst) {
        if shared.running.load(SeqCst) > 0 {
            idle = 0;
        } else {
            idle += 1;
        }
        if idle > PATIENCE {
            // A guest that begins between the two lines has seen `asleep` and unparks; one
            // that began before the first is seen by the second.
            shared.asleep.store(true, SeqCst);
            if shared.running.load(SeqCst) == 0 && !shared.ended.load(SeqCst) {
                std::thread::park();
            }
            shared.asleep.store(false, SeqCst);
            idle = 0;
        } else {
            wait(shared);
        }
        for engine in shared
            .engines
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .iter()
        {
            engine.increment_epoch();
        }
    }
}

/// Waits for the next tick, or for the end: whoever drops the clock does not wait for a tick.
fn wait(shared: &Shared) {
    let next = Instant::now() + TICK;
    while !shared.ended.load(SeqCst) {
        let left = next.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return;
        }
        std::thread::park_timeout(left);
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.0.running.fetch_sub(1, SeqCst);
    }
}

impl Drop for Ticker {
    fn drop(&mut self) {
        self.shared.ended.store(true, SeqCst);
        if let Some(thread) = self.thread.take() {
            thread.thread().unpark();
            // It ends at once; a panic in it has no one left to go to.
            let _ = thread.join();
        }
    }
}
