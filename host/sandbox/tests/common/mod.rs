//! Puts the guests under `tests/hostile/` together into components, and stands in for models
//! and blobs.
#![allow(dead_code, reason = "each test file uses a part of it")]

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use skep_registry::{Grants, JobsGrant, Limits, SwarmRead};
use skep_sandbox::{
    Allowance, BlobError, Blobs, Cancel, EncoderInfo, FailedRun, LanguageModel, ModelError, Models,
    Pending, Program, ReadBlob, RunReport, RunSpec, Sandbox, SandboxConfig, TextAdapter,
    TextEncoder, WriteBlob,
};
use skep_tensor::{Account, Device, Tensor};

pub fn folder() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../tests/hostile")
}

/// The text of a guest's core module.
pub fn module(name: &str) -> String {
    read(name)
}

/// An event loop as guests' threads have it.
pub fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap()
}

fn read(name: &str) -> String {
    let path = folder().join(format!("{name}.wat"));
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The component around a guest's core module.
pub fn component(name: &str) -> Vec<u8> {
    let module = read(name);
    let uses = module
        .lines()
        .next()
        .and_then(|line| line.strip_prefix(";; uses:"))
        .unwrap_or_else(|| panic!("{name} does not say what it uses"));
    let parts: Vec<&str> = uses.split_whitespace().collect();
    assemble(&parts, &module)
}

/// What every component begins with: the shared types, and a memory with an allocator that
/// never frees and can be reset.
fn beginning() -> String {
    let memory = r#"
  (core module $memory-module
    (memory (export "memory") 64)
    (global $next (mut i32) (i32.const 65536))
    (func (export "reset") (global.set $next (i32.const 65536)))
    (func (export "realloc") (param $old i32) (param $from i32) (param $align i32) (param $to i32) (result i32)
      (local $at i32)
      (local.set $at (i32.and (i32.add (global.get $next) (i32.const 7)) (i32.const -8)))
      (global.set $next (i32.add (local.get $at) (local.get $to)))
      (local.get $at)))
  (core instance $memory (instantiate $memory-module))
"#;
    format!("(component\n{}{memory}", read("parts/types"))
}

/// The component around a core module that uses these parts.
pub fn assemble(parts: &[&str], module: &str) -> Vec<u8> {
    let mut text = beginning();
    for part in parts {
        text += &read(&format!("parts/{part}"));
    }
    text += module;
    text += "\n  (core instance $run (instantiate $guest (with \"env\" (instance $memory))";
    for part in parts {
        text += &format!(" (with \"{part}\" (instance $from-{part}))");
    }
    text += r#"))
  (func $exported (param "arguments" (list string)) (result (result (error $error)))
    (canon lift (core func $run "run")
      (memory (core memory $memory "memory")) (realloc (core func $memory "realloc"))))
  (export "run" (func $exported)))"#;
    binary(&text)
}

/// A component of the world `batch-classifier`.
pub fn classifier(name: &str) -> Vec<u8> {
    let module = read(&format!("classifiers/{name}"));
    binary(&format!(
        "{}{module}{}",
        beginning(),
        read("parts/as_classifier")
    ))
}

fn binary(text: &str) -> Vec<u8> {
    wat::parse_str(text).unwrap_or_else(|error| panic!("{error}\n{text}"))
}

/// Everything granted.
pub fn everything() -> Grants {
    Grants {
        tensor: true,
        models: ["default".parse().unwrap()].into(),
        adapters: ["village".parse().unwrap()].into(),
        swarm_read: SwarmRead::Everything,
        swarm_write: true,
        jobs: Some(JobsGrant {
            max_price: 1_000_000,
        }),
    }
}

/// Small limits, which hostile guests meet soon.
pub fn tight() -> Limits {
    Limits {
        memory: Some(16 << 20),
        cpu_time: Some(Duration::from_millis(500)),
        time: Some(Duration::from_millis(1500)),
        device_memory: Some(8 << 20),
        device_work: Some(20_000_000_000),
        handles: Some(1000),
        call_bytes: Some(256 << 10),
        output: Some(1 << 20),
        storage: Some(1 << 20),
        log: Some(4 << 10),
    }
}

pub fn spec(limits: Limits) -> RunSpec {
    RunSpec {
        grants: everything(),
        limits,
        device: Device::cpu(),
        models: Some(Arc::new(OneModel(Arc::new(BusyEncoder)))),
        blobs: Some(Arc::new(Nowhere)),
        jobs: None,
        training: None,
        seed: None,
        texts: skep_sandbox::Texts::Kept,
        waits_for_others: false,
        used: skep_sandbox::Used::default(),
    }
}

pub fn sandbox() -> Sandbox {
    Sandbox::new(SandboxConfig::default()).unwrap()
}

pub fn load(sandbox: &Sandbox, name: &str) -> Arc<Program> {
    Arc::new(sandbox.load(component(name)).unwrap())
}

/// Runs a guest without input, and drops its output.
pub fn run(
    sandbox: &Sandbox,
    program: &Arc<Program>,
    spec: &RunSpec,
) -> Result<RunReport, FailedRun> {
    sandbox.run_task(
        program,
        spec,
        &[],
        std::io::empty(),
        std::io::sink(),
        &Cancel::new(),
    )
}

/// A model that computes on two threads, for each text about as long as all-MiniLM-L6-v2 takes
/// on two processors: just under a millisecond.
pub struct BusyEncoder;

impl TextEncoder for BusyEncoder {
    fn info(&self) -> EncoderInfo {
        EncoderInfo {
            name: "busy".to_owned(),
            digest: "0".repeat(64),
            dimensions: 2,
            max_tokens: 8,
            weights_bytes: 0,
        }
    }

    fn count_tokens(&self, texts: &[String], _: &Account) -> Result<Vec<u32>, ModelError> {
        Ok(texts.iter().map(|text| text.len() as u32).collect())
    }

    fn embed(&self, texts: &[String], account: &Account) -> Result<Tensor, ModelError> {
        account.check()?;
        let (a, b) = rayon::join(|| spin(texts.len()), || spin(texts.len()));
        let row = [a as f32, b as f32];
        let rows: Vec<f32> = texts.iter().flat_map(|_| row).collect();
        Tensor::from_f32(&Device::cpu(), account, &rows, &[texts.len() as u32, 2])
            .map_err(|error| ModelError::Failed(error.to_string()))
    }
}

fn spin(texts: usize) -> u64 {
    let mut x = texts as u64;
    for _ in 0..texts * 1_300_000 {
        x = std::hint::black_box(x.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1));
    }
    x & 1
}

/// One model under every name.
pub struct OneModel(pub Arc<dyn TextEncoder>);

impl Models for OneModel {
    fn open(&self, _: &str, _: &Account) -> Result<Arc<dyn TextEncoder>, ModelError> {
        Ok(Arc::clone(&self.0))
    }

    fn open_text(&self, name: &str, _: &Account) -> Result<Arc<dyn LanguageModel>, ModelError> {
        Err(ModelError::NotFound(name.to_owned()))
    }

    fn open_adapter(&self, name: &str, _: &Account) -> Result<Arc<dyn TextAdapter>, ModelError> {
        Err(ModelError::NotFound(name.to_owned()))
    }
}

/// A blob store that forgets everything.
pub struct Nowhere;

impl Blobs for Nowhere {
    fn open(&self, digest: skep_registry::Digest, _: Arc<Allowance>) -> Pending<Arc<dyn ReadBlob>> {
        Box::pin(async move { Err(BlobError::NotFound(digest)) })
    }

    fn create(&self) -> Pending<Box<dyn WriteBlob>> {
        Box::pin(async { Ok(Box::new(Nowhere) as Box<dyn WriteBlob>) })
    }
}

impl WriteBlob for Nowhere {
    fn append(&mut self, _: bytes::Bytes) -> Pending<()> {
        Box::pin(async { Ok(()) })
    }

    fn finish(self: Box<Self>) -> Pending<skep_registry::Digest> {
        Box::pin(async { Ok(skep_registry::Digest::of(b"")) })
    }
}
