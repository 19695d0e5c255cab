//! Compiled components are kept, checked before they are used, and made anew when they are
//! not what they should be.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod common;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use common::{component, run, spec, tight};
use skep_sandbox::{CompileIn, EngineKind, LoadError, Origin, Sandbox, SandboxConfig};

fn sandbox(folder: &Path) -> Sandbox {
    Sandbox::new(SandboxConfig {
        cache_dir: Some(folder.to_owned()),
        ..SandboxConfig::default()
    })
    .unwrap()
}

fn only_file(folder: &Path) -> PathBuf {
    let mut files = std::fs::read_dir(folder).unwrap();
    let file = files.next().unwrap().unwrap().path();
    assert!(files.next().is_none());
    file
}

#[test]
fn a_second_sandbox_finds_what_the_first_compiled() {
    let folder = tempfile::tempdir().unwrap();
    let bytes = component("honest/copy");
    let first = sandbox(folder.path());
    assert_eq!(
        first.load(bytes.clone()).unwrap().origin(),
        Origin::Compiled
    );
    assert_eq!(first.load(bytes.clone()).unwrap().origin(), Origin::Cache);
    let second = sandbox(folder.path());
    let program = Arc::new(second.load(bytes).unwrap());
    assert_eq!(program.origin(), Origin::Cache);
    assert_eq!(program.world(), Some("task"));
    run(&second, &program, &spec(tight())).unwrap();
}

#[test]
fn a_corrupt_file_is_found_and_made_anew() {
    let folder = tempfile::tempdir().unwrap();
    let bytes = component("honest/nothing");
    let sandbox = sandbox(folder.path());
    sandbox.load(bytes.clone()).unwrap();
    let file = only_file(folder.path());
    let whole = std::fs::read(&file).unwrap();
    let mut flipped = whole.clone();
    flipped[whole.len() / 2] ^= 0x10;
    for bad in [
        &flipped[..],
        &whole[..whole.len() / 2],
        b"",
        b"something else",
    ] {
        std::fs::write(&file, bad).unwrap();
        let program = Arc::new(sandbox.load(bytes.clone()).unwrap());
        assert_eq!(program.origin(), Origin::Rebuilt);
        run(&sandbox, &program, &spec(tight())).unwrap();
        assert_eq!(std::fs::read(&file).unwrap(), whole);
    }
    assert_eq!(sandbox.load(bytes).unwrap().origin(), Origin::Cache);
}

#[test]
fn another_component_is_another_file() {
    let folder = tempfile::tempdir().unwrap();
    let sandbox = sandbox(folder.path());
    for name in ["honest/nothing", "honest/copy"] {
        assert_eq!(
            sandbox.load(component(name)).unwrap().origin(),
            Origin::Compiled
        );
    }
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 2);
}

#[test]
fn a_process_of_its_own_compiles_the_same() {
    let folder = tempfile::tempdir().unwrap();
    let apart = Sandbox::new(SandboxConfig {
        cache_dir: Some(folder.path().to_owned()),
        compile_in: CompileIn::Process {
            program: env!("CARGO_BIN_EXE_skep-compile").into(),
            arguments: Vec::new(),
        },
        ..SandboxConfig::default()
    })
    .unwrap();
    let bytes = component("honest/copy");
    let program = Arc::new(apart.load(bytes.clone()).unwrap());
    assert_eq!(program.origin(), Origin::Compiled);
    let mut output = Vec::new();
    apart
        .run_task(
            &program,
            &spec(tight()),
            &[],
            &b"bytes"[..],
            &mut output,
            &Default::default(),
        )
        .unwrap();
    assert_eq!(output, b"bytes");
    // What it made is in the cache for one that compiles in threads.
    assert_eq!(
        sandbox(folder.path()).load(bytes).unwrap().origin(),
        Origin::Cache
    );
}

#[test]
fn a_process_that_takes_too_long_is_killed() {
    let apart = Sandbox::new(SandboxConfig {
        compile_time: Duration::from_millis(100),
        compile_in: CompileIn::Process {
            program: "/bin/sleep".into(),
            arguments: vec!["60".to_owned()],
        },
        ..SandboxConfig::default()
    })
    .unwrap();
    let began = std::time::Instant::now();
    let error = apart.load(component("honest/nothing")).unwrap_err();
    assert!(matches!(error, LoadError::CompileTime { .. }), "{error}");
    assert!(began.elapsed() < Duration::from_secs(10));
}

#[test]
fn a_process_without_enough_memory_fails_alone() {
    let apart = Sandbox::new(SandboxConfig {
        compile_memory: 1 << 20,
        compile_in: CompileIn::Process {
            program: env!("CARGO_BIN_EXE_skep-compile").into(),
            arguments: Vec::new(),
        },
        ..SandboxConfig::default()
    })
    .unwrap();
    let error = apart.load(component("honest/copy")).unwrap_err();
    assert!(
        matches!(&error, LoadError::Compile { reason } if reason.contains("memory")),
        "{error}"
    );
}

#[test]
fn a_compiler_that_does_not_start_is_no_fault_of_the_component() {
    let folder = tempfile::tempdir().unwrap();
    let apart = Sandbox::new(SandboxConfig {
        compile_in: CompileIn::Process {
            program: folder.path().join("compiler"),
            arguments: Vec::new(),
        },
        ..SandboxConfig::default()
    })
    .unwrap();
    let error = apart.load(component("honest/nothing")).unwrap_err();
    assert!(matches!(error, LoadError::Host { .. }), "{error}");
}

#[test]
fn only_asynchronous_components_run_on_the_engine_for_them() {
    let folder = tempfile::tempdir().unwrap();
    let sandbox = sandbox(folder.path());
    let plain = sandbox.load(component("honest/nothing")).unwrap();
    assert_eq!(plain.engine(), EngineKind::Plain);
    let text = "(component (type (stream u8)))";
    let other = sandbox.load(wat::parse_str(text).unwrap()).unwrap();
    assert_eq!(other.engine(), EngineKind::Concurrent);
}
