//! Compiling components: bounded in size before it starts, in number while it runs, and in time.
//!
//! Compilation is the one step that wasmtime does not promise to survive, and it cannot be
//! interrupted within a process. So there are two ways:
//!
//! - [`CompileIn::Thread`]: on threads of low priority. Components are bounded in every count
//!   that compilation time depends on before it begins. One that still takes longer than the
//!   limit is given up on; its thread goes on to the end and occupies one of the compilers.
//! - [`CompileIn::Process`]: in a process of its own, with limits on its memory and processor
//!   time, which is killed when its time is over. A fault of the compiler ends that process and
//!   not the node.

use std::io::{Read, Write};
use std::path::PathBuf;
use std::process::{Command, ExitCode, Stdio};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use wasmtime::Engine;

use crate::engine::{self, Allocation, EngineKind, Host};
use crate::error::LoadError;
use crate::priority;

/// Where components are compiled.
#[derive(Clone, Debug, Default)]
pub enum CompileIn {
    /// On threads of this process.
    #[default]
    Thread,
    /// In a process of its own, started with these arguments, whose `main` calls
    /// [`compile_process`].
    Process {
        /// The program, usually the node's own.
        program: PathBuf,
        /// What makes it call [`compile_process`].
        arguments: Vec<String>,
    },
}

/// The compilers of one sandbox.
pub(crate) struct Compilers {
    place: CompileIn,
    limit: Duration,
    memory: u64,
    free: Arc<(Mutex<usize>, Condvar)>,
    threads: Arc<rayon::ThreadPool>,
}

impl Compilers {
    /// Up to `number` compilers, each with this long and this many bytes.
    pub(crate) fn new(
        place: CompileIn,
        number: usize,
        limit: Duration,
        memory: u64,
    ) -> std::io::Result<Self> {
        let threads = rayon::ThreadPoolBuilder::new()
            .thread_name(|index| format!("skep-compiler-{index}"))
            .start_handler(|_| priority::lower_this_thread(priority::COMPILER))
            .build()
            .map_err(std::io::Error::other)?;
        Ok(Compilers {
            place,
            limit,
            memory,
            free: Arc::new((Mutex::new(number.max(1)), Condvar::new())),
            threads: Arc::new(threads),
        })
    }

    /// Compiles a component to an artefact for that engine.
    pub(crate) fn compile(
        &self,
        kind: EngineKind,
        host: &Host,
        bytes: Bytes,
    ) -> Result<Vec<u8>, LoadError> {
        let deadline = Instant::now() + self.limit;
        let slot = self.take(deadline)?;
        match &self.place {
            CompileIn::Thread => self.in_thread(slot, host.engine.clone(), bytes),
            CompileIn::Process { program, arguments } => {
                let mut command = Command::new(program);
                command.args(arguments);
                let result = self.in_process(command, kind, host.allocation, bytes);
                drop(slot);
                result
            }
        }
    }

    fn take(&self, deadline: Instant) -> Result<Slot, LoadError> {
        let (free, changed) = &*self.free;
        let mut number = free.lock().unwrap_or_else(PoisonError::into_inner);
        while *number == 0 {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(LoadError::Busy);
            }
            number = changed
                .wait_timeout(number, left)
                .unwrap_or_else(PoisonError::into_inner)
                .0;
        }
        *number -= 1;
        Ok(Slot(Arc::clone(&self.free)))
    }

    fn in_thread(&self, slot: Slot, engine: Engine, bytes: Bytes) -> Result<Vec<u8>, LoadError> {
        let (sender, receiver) = channel();
        let threads = Arc::clone(&self.threads);
        threads.clone().spawn(move || {
            // Within the pool, so that wasmtime's own parallel work stays in it.
            let result = engine
                .precompile_component(&bytes)
                .map_err(|error| format!("{error:#}"));
            drop(slot);
            let _ = sender.send(result);
        });
        match receiver.recv_timeout(self.limit) {
            Ok(result) => result.map_err(|reason| LoadError::Compile { reason }),
            Err(RecvTimeoutError::Timeout) => Err(LoadError::CompileTime { limit: self.limit }),
            Err(RecvTimeoutError::Disconnected) => Err(LoadError::Compile {
                reason: "the compiler failed".to_owned(),
            }),
        }
    }

    fn in_process(
        &self,
        mut command: Command,
        kind: EngineKind,
        allocation: Allocation,
        bytes: Bytes,
    ) -> Result<Vec<u8>, LoadError> {
        let failed = |reason: String| LoadError::Compile { reason };
        let of_host = |reason: String| LoadError::Host { reason };
        let mut child = command
            .env_clear()
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .map_err(|error| of_host(format!("the compiler could not be started: {error}")))?;
        let order = Order {
            kind,
            allocation,
            memory: self.memory,
            seconds: self.limit.as_secs().max(1),
        };
        let pipes = (child.stdin.take(), child.stdout.take());
        let (Some(mut stdin), Some(mut stdout)) = pipes else {
            return Err(of_host("the compiler has no pipes".to_owned()));
        };
        std::thread::spawn(move || {
            // A compiler that goes early closes its end; its answer tells why.
            let _ = stdin.write_all(&order.encode());
            let _ = stdin.write_all(&bytes);
        });
        let (sender, receiver) = channel();
        std::thread::spawn(move || {
            let mut answer = Vec::new();
            let read = stdout.read_to_end(&mut answer);
            let _ = sender.send(read.map(|_| answer));
        });
        let answer = receiver.recv_timeout(self.limit);
        if answer.is_err() {
            let _ = child.kill();
        }
        let status = child
            .wait()
            .map_err(|error| of_host(format!("the compiler was lost: {error}")))?;
        match answer {
            Err(_) => Err(LoadError::CompileTime { limit: self.limit }),
            Ok(Err(error)) => Err(of_host(format!("the compiler was lost: {error}"))),
            Ok(Ok(answer)) => match answer.split_first() {
                Some((0, artefact)) if status.success() => Ok(artefact.to_vec()),
                Some((1, reason)) => Err(failed(String::from_utf8_lossy(reason).into_owned())),
                _ => Err(failed(format!(
                    "the compiler ended without an answer ({status}); the component may need \
                     more memory to compile than the node allows"
                ))),
            },
        }
    }
}

/// One of the compilers, in use until this is dropped.
struct Slot(Arc<(Mutex<usize>, Condvar)>);

impl Drop for Slot {
    fn drop(&mut self) {
        *self.0.0.lock().unwrap_or_else(PoisonError::into_inner) += 1;
        self.0.1.notify_one();
    }
}

/// What a compiling process is told before the component.
#[derive(Debug, PartialEq, Eq)]
struct Order {
    kind: EngineKind,
    allocation: Allocation,
    memory: u64,
    seconds: u64,
}

impl Order {
    const SIZE: usize = 24;

    fn encode(&self) -> [u8; Self::SIZE] {
        let guests = match self.allocation {
            Allocation::Pool { guests } => guests,
            Allocation::OnDemand => 0,
        };
        let mut bytes = [0; Self::SIZE];
        bytes[0] = u8::from(self.kind == EngineKind::Concurrent);
        bytes[4..8].copy_from_slice(&guests.to_le_bytes());
        bytes[8..16].copy_from_slice(&self.memory.to_le_bytes());
        bytes[16..24].copy_from_slice(&self.seconds.to_le_bytes());
        bytes
    }

    fn decode(bytes: &[u8; Self::SIZE]) -> Self {
        let word = |at: usize| {
            let mut word = [0; 8];
            word.copy_from_slice(&bytes[at..at + 8]);
            u64::from_le_bytes(word)
        };
        Order {
            kind: if bytes[0] == 0 {
                EngineKind::Plain
            } else {
                EngineKind::Concurrent
            },
            allocation: match u32::from_le_bytes([bytes[4], bytes[5], bytes[6], bytes[7]]) {
                0 => Allocation::OnDemand,
                guests => Allocation::Pool { guests },
            },
            memory: word(8),
            seconds: word(16),
        }
    }
}

/// The whole life of a compiling process: takes a component from standard input and writes its
/// artefact to standard output. For the `main` of the program in [`CompileIn::Process`].
pub fn compile_process() -> ExitCode {
    priority::lower_this_thread(priority::COMPILER);
    let answer = match compile_from(&mut std::io::stdin().lock()) {
        Ok(artefact) => [&[0][..], &artefact].concat(),
        Err(reason) => [&[1][..], reason.as_bytes()].concat(),
    };
    match std::io::stdout().write_all(&answer) {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}

fn compile_from(input: &mut impl Read) -> Result<Vec<u8>, String> {
    let mut order = [0; Order::SIZE];
    input
        .read_exact(&mut order)
        .map_err(|error| error.to_string())?;
    let order = Order::decode(&order);
    let mut component = Vec::new();
    input
        .read_to_end(&mut component)
        .map_err(|error| error.to_string())?;
    let engine = engine::engine(order.kind, order.allocation).map_err(|e| format!("{e:#}"))?;
    // After the engine: its reservations of address space are not memory.
    limit_this_process(order.memory, order.seconds);
    engine
        .precompile_component(&component)
        .map_err(|error| format!("{error:#}"))
}

/// Limits what this process may take: bytes of memory beyond what it has now, and seconds of
/// processor time.
#[cfg(unix)]
fn limit_this_process(memory: u64, seconds: u64) {
    let set = |resource, value: u64| {
        let limit = libc::rlimit {
            rlim_cur: value as libc::rlim_t,
            rlim_max: value as libc::rlim_t,
        };
        // SAFETY: `limit` is a valid `rlimit` for the length of the call. Failing leaves the
        // limit as it was, and the parent's clock still ends this process.
        unsafe {
            libc::setrlimit(resource, &limit);
        }
    };
    // `RLIMIT_DATA` counts private writable memory, and so not what is merely reserved.
    set(libc::RLIMIT_DATA, memory);
    let cores = std::thread::available_parallelism().map_or(1, usize::from) as u64;
    set(libc::RLIMIT_CPU, seconds.saturating_mul(cores));
    set(libc::RLIMIT_CORE, 0);
}

/// Limits what this process may take: not on this system.
#[cfg(not(unix))]
fn limit_this_process(_memory: u64, _seconds: u64) {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_order_survives_the_pipe() {
        for allocation in [Allocation::OnDemand, Allocation::Pool { guests: 7 }] {
            for kind in [EngineKind::Plain, EngineKind::Concurrent] {
                let order = Order {
                    kind,
                    allocation,
                    memory: 1 << 40,
                    seconds: 9,
                };
                assert_eq!(Order::decode(&order.encode()), order);
            }
        }
    }
}
