//! Honest guests get what the contract promises.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod common;

use std::io::{Read, Write};
use std::sync::LazyLock;

use common::{assemble, load, run, spec, tight};
use skep_registry::Limits;
use skep_sandbox::{Cancel, RunError, RunReport, Sandbox};

static SANDBOX: LazyLock<Sandbox> = LazyLock::new(common::sandbox);

#[test]
fn bytes_go_in_and_come_out() {
    let program = load(&SANDBOX, "honest/copy");
    let input: Vec<u8> = (0..3_000_000_u32).flat_map(u32::to_le_bytes).collect();
    let mut output = Vec::new();
    let limits = Limits {
        output: Some(1 << 30),
        ..tight()
    };
    let report = SANDBOX
        .run_task(
            &program,
            &spec(limits),
            &[],
            &input[..],
            &mut output,
            &Cancel::new(),
        )
        .unwrap();
    assert!(output == input);
    assert_eq!(report.output_bytes, input.len() as u64);
    assert!(!report.output_truncated);
    // One read and one write for each chunk, and one read that finds the end.
    assert_eq!(
        report.host_calls,
        2 * input.len().div_ceil(65536) as u64 + 1
    );
}

#[test]
fn a_report_is_json() {
    let report = run(&SANDBOX, &load(&SANDBOX, "honest/nothing"), &spec(tight())).unwrap();
    let json = serde_json::to_value(&report).unwrap();
    for key in [
        "records",
        "errors",
        "seconds",
        "records_per_s",
        "peak_memory_bytes",
        "device_bytes_peak",
        "flops",
        "host_calls",
    ] {
        assert!(json[key].is_number(), "{key} in {json}");
    }
}

#[test]
fn models_are_shared_and_their_work_is_not_the_guests() {
    let report = run(
        &SANDBOX,
        &load(&SANDBOX, "honest/embed"),
        &spec(Limits {
            time: Some(std::time::Duration::from_secs(60)),
            ..tight()
        }),
    )
    .unwrap();
    // The model computed for most of the time, and on another thread.
    assert!(
        (report.cpu_ms as f64) < report.seconds * 500.0,
        "{report:?}"
    );
    assert_eq!(report.device_bytes_peak, 8 * 2 * 4);
    assert_eq!(report.host_calls, 1 + 2 * 40);
}

#[test]
fn a_guest_that_is_refused_and_goes_on_is_fine() {
    let guest = r#"(core module $guest
      (import "tensors" "zeros" (func $zeros (param i32 i32 i32 i32)))
      (import "env" "memory" (memory 1))
      (func (export "run") (param i32 i32) (result i32)
        (i32.store (i32.const 16) (i32.const 0x40000000))
        (call $zeros (i32.const 16) (i32.const 1) (i32.const 0) (i32.const 64))
        (if (i32.eqz (i32.load8_u (i32.const 64))) (then unreachable))
        (i32.store8 (i32.const 64) (i32.const 0))
        (i32.const 64)))"#;
    let program = SANDBOX.load(assemble(&["tensors"], guest)).unwrap();
    run(&SANDBOX, &program.into(), &spec(tight())).unwrap();
}

struct Broken;

impl Read for Broken {
    fn read(&mut self, _: &mut [u8]) -> std::io::Result<usize> {
        Err(std::io::Error::other("unplugged"))
    }
}

impl Write for Broken {
    fn write(&mut self, _: &[u8]) -> std::io::Result<usize> {
        Err(std::io::Error::other("full"))
    }
    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[test]
fn failures_of_the_callers_streams_are_the_callers() {
    let program = load(&SANDBOX, "honest/copy");
    let spec = spec(tight());
    let input = SANDBOX
        .run_task(
            &program,
            &spec,
            &[],
            Broken,
            std::io::sink(),
            &Cancel::new(),
        )
        .unwrap_err();
    assert!(matches!(input.error, RunError::Input(_)), "{input}");
    let output = SANDBOX
        .run_task(&program, &spec, &[], &[0; 10][..], Broken, &Cancel::new())
        .unwrap_err();
    assert!(matches!(output.error, RunError::Output(_)), "{output}");
}

#[test]
fn what_was_printed_is_in_the_report() {
    let guest = r#"(core module $guest
      (import "print" "stdout" (func $stdout (result i32)))
      (import "print" "print" (func $print (param i32 i32 i32 i32)))
      (import "env" "memory" (memory 1))
      (data (i32.const 512) "hello\n")
      (func (export "run") (param i32 i32) (result i32)
        (call $print (call $stdout) (i32.const 512) (i32.const 6) (i32.const 64))
        (i32.const 64)))"#;
    let program = SANDBOX.load(assemble(&["print"], guest)).unwrap();
    let RunReport {
        log, log_truncated, ..
    } = run(&SANDBOX, &program.into(), &spec(tight())).unwrap();
    assert_eq!((log.as_str(), log_truncated), ("hello\n", false));
}
