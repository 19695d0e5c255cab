//! The sandbox: loads components and runs them.

use std::path::PathBuf;
use std::sync::Arc;
use std::thread::available_parallelism;
use std::time::{Duration, Instant};

use bytes::Bytes;
use skep_registry::{Digest, Limits};
use wasmtime::component::Component;

use crate::bindings::async_task::AsyncTaskPre;
use crate::bindings::classifier::BatchClassifierPre;
use crate::bindings::fine_tune::FineTunePre;
use crate::bindings::renderer::NpcRendererPre;
use crate::bindings::task::TaskPre;
use crate::bindings::verifier::VerifierPre;
use crate::bindings::village::VillagePre;
use crate::cache::{Artefact, Cache, Lookup};
use crate::compile::{CompileIn, Compilers};
use crate::devices::{DeviceThreads, GuestsComputing};
use crate::engine::{EngineKind, Engines, Host};
use crate::error::LoadError;
use crate::grants::{self, Refusal};
use crate::inspect;
use crate::program::{Origin, Program};
use crate::workers::Workers;

/// How a sandbox is set up.
#[derive(Clone, Debug)]
pub struct SandboxConfig {
    /// The folder of compiled components; without one, each process compiles anew.
    pub cache_dir: Option<PathBuf>,
    /// Bytes that the folder may take.
    pub cache_bytes: u64,
    /// What the node's owner allows each run at most.
    pub owner: Limits,
    /// Guests at once.
    pub guests: usize,
    /// The largest component that is taken, in bytes.
    pub component_bytes: u64,
    /// Components that are compiled at once.
    pub compilers: usize,
    /// How long compiling one may take.
    pub compile_time: Duration,
    /// How much memory compiling one may take, in bytes; held to in a process of its own only.
    pub compile_memory: u64,
    /// Where components are compiled.
    pub compile_in: CompileIn,
}

impl Default for SandboxConfig {
    fn default() -> Self {
        SandboxConfig {
            cache_dir: None,
            cache_bytes: 4 << 30,
            owner: Limits::default(),
            guests: 4 * available_parallelism().map_or(2, usize::from),
            component_bytes: 64 << 20,
            compilers: 2,
            compile_time: Duration::from_secs(120),
            compile_memory: 4 << 30,
            compile_in: CompileIn::Thread,
        }
    }
}

/// The sandbox of a node. One is enough; everything it starts ends with it.
pub struct Sandbox {
    pub(crate) engines: Arc<Engines>,
    pub(crate) threads: Arc<DeviceThreads>,
    pub(crate) workers: Workers,
    pub(crate) owner: Limits,
    compilers: Compilers,
    cache: Option<Cache>,
    component_bytes: u64,
}

impl Sandbox {
    /// Sets up a sandbox.
    ///
    /// # Errors
    /// If threads cannot be started or the cache's folder cannot be made.
    pub fn new(config: SandboxConfig) -> std::io::Result<Self> {
        let guests = u32::try_from(config.guests).unwrap_or(u32::MAX).max(1);
        Ok(Sandbox {
            engines: Arc::new(Engines::new(guests)?),
            threads: DeviceThreads::start()?,
            workers: Workers::new(config.guests),
            owner: config.owner,
            compilers: Compilers::new(
                config.compile_in,
                config.compilers,
                config.compile_time,
                config.compile_memory,
            )?,
            cache: match &config.cache_dir {
                Some(folder) => Some(Cache::open(folder, config.cache_bytes)?),
                None => None,
            },
            component_bytes: config.component_bytes,
        })
    }

    /// How many guests compute: what models look at that are to leave guests some time. Guests'
    /// threads run only where nothing else wants to, so a model that is never idle would starve
    /// them.
    #[must_use]
    pub fn guests_computing(&self) -> GuestsComputing {
        self.threads.guests_computing()
    }

    /// Makes a component ready to run: checks its size, its structure and its imports, and
    /// compiles it unless the cache has it.
    ///
    /// # Errors
    /// [`LoadError`]. Nothing of the component has run.
    pub fn load(&self, bytes: impl Into<Bytes>) -> Result<Program, LoadError> {
        let began = Instant::now();
        let bytes = bytes.into();
        let size = bytes.len() as u64;
        if size > self.component_bytes {
            return Err(LoadError::TooLarge {
                size,
                limit: self.component_bytes,
            });
        }
        let (inspection, digest) = rayon::join(|| inspect::inspect(&bytes), || Digest::of(&bytes));
        let inspection = inspection?;
        let unknown = grants::unknown(&inspection.imports);
        if !unknown.is_empty() {
            return Err(LoadError::Refused(Refusal {
                unknown,
                ..Refusal::default()
            }));
        }
        let kind = if inspection.concurrent {
            EngineKind::Concurrent
        } else {
            EngineKind::Plain
        };
        let failed = |reason: String| LoadError::Compile { reason };
        let host = self.engines.get(kind);
        let host = host.map_err(|reason| LoadError::Host { reason })?;
        let (component, origin) = self.component(kind, host, &digest, bytes)?;
        let pre = host
            .linker
            .instantiate_pre(&component)
            .map_err(|error| failed(format!("{error:#}")))?;
        Ok(Program {
            task: TaskPre::new(pre.clone()).ok(),
            async_task: AsyncTaskPre::new(pre.clone()).ok(),
            recipe: FineTunePre::new(pre.clone()).ok(),
            village: VillagePre::new(pre.clone()).ok(),
            renderer: NpcRendererPre::new(pre.clone()).ok(),
            verifier: VerifierPre::new(pre.clone()).ok(),
            classifier: BatchClassifierPre::new(pre).ok(),
            inspection,
            kind,
            digest,
            origin,
            load_time: began.elapsed(),
        })
    }

    fn component(
        &self,
        kind: EngineKind,
        host: &Host,
        digest: &Digest,
        bytes: Bytes,
    ) -> Result<(Component, Origin), LoadError> {
        let key = blake3::Hasher::new_derive_key("skep compile cache 2")
            .update(digest.as_bytes())
            .update(&host.key)
            .finalize();
        let mut origin = Origin::Compiled;
        if let Some(cache) = &self.cache {
            match cache.get(&key) {
                Lookup::Hit(artefact) => match map(host, &artefact) {
                    Ok(component) => return Ok((component, Origin::Cache)),
                    Err(error) => {
                        tracing::warn!(%error, "compile cache: an artefact does not load");
                        cache.forget(&key);
                        origin = Origin::Rebuilt;
                    }
                },
                Lookup::Corrupt => origin = Origin::Rebuilt,
                Lookup::Miss => {}
            }
        }
        inspect::validate(&bytes, host.features())?;
        let artefact = self.compilers.compile(kind, host, bytes)?;
        let component = deserialize(host, &artefact).map_err(|error| LoadError::Compile {
            reason: format!("{error:#}"),
        })?;
        if let Some(cache) = &self.cache {
            cache.put(&key, &artefact);
        }
        Ok((component, origin))
    }
}

/// A component from this node's own compiler.
fn deserialize(host: &Host, artefact: &[u8]) -> wasmtime::Result<Component> {
    // SAFETY: an artefact must be one that wasmtime made and nobody has changed. These bytes
    // are fresh from this node's own compiler, or their BLAKE3 was checked on these very bytes.
    // Nothing from a peer comes here.
    unsafe { Component::deserialize(&host.engine, artefact) }
}

/// A component from the cache, in place: its code and its memories' first contents are mapped
/// from the file, page by page as a guest touches them.
fn map(host: &Host, artefact: &Artefact) -> wasmtime::Result<Component> {
    // SAFETY: as above, and nobody may change the file as long as the component is there. The
    // file lies in a folder that only the node's user can write to; the cache never writes to a
    // file that has its name, and its BLAKE3 has just been checked on these very pages. What
    // may take its place between the two is another artefact for the same key, which the same
    // user's node has made.
    let mapped = unsafe { Component::deserialize_file(&host.engine, artefact.path()) };
    // Where files must not be executed from, it is copied.
    mapped.or_else(|_| deserialize(host, artefact.bytes()))
}
