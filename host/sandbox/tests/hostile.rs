//! Every hostile guest ends in the typed error that names the limit it ran into, within twice
//! its time limit.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod common;

use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant};

use common::{component, load, run, spec, tight};
use skep_registry::{Grants, Limits};
use skep_sandbox::{
    Cancel, LoadError, Quota, RunError, RunReport, RunSpec, Sandbox, SandboxConfig,
};

static SANDBOX: LazyLock<Sandbox> = LazyLock::new(common::sandbox);

/// Runs a hostile guest under tight limits; it must end in time and in an error.
fn ends(name: &str) -> (RunError, RunReport) {
    ends_under(name, tight())
}

fn ends_under(name: &str, limits: Limits) -> (RunError, RunReport) {
    let program = load(&SANDBOX, name);
    let began = Instant::now();
    let failed = run(&SANDBOX, &program, &spec(limits.clone())).expect_err("it must not succeed");
    let took = began.elapsed();
    let most = 2 * limits.time.unwrap();
    assert!(took < most, "{name} took {took:?}, more than {most:?}");
    (failed.error, *failed.report)
}

/// Little processor time and so much of the other kind that a busy machine does not matter.
fn patient() -> Limits {
    Limits {
        time: Some(Duration::from_secs(60)),
        ..tight()
    }
}

#[test]
fn endless_loop() {
    let (error, report) = ends_under("endless_loop", patient());
    assert!(matches!(error, RunError::CpuTime { limit } if limit == Duration::from_millis(500)));
    assert!(error.to_string().contains("limits.cpu-time"), "{error}");
    assert!((500..900).contains(&report.cpu_ms), "{report:?}");
}

#[test]
fn endless_loop_before_the_call() {
    let (error, report) = ends_under("slow_start", patient());
    assert_eq!(error.limit(), Some("cpu-time"));
    assert!((500..900).contains(&report.cpu_ms), "{report:?}");
}

#[test]
fn endless_loop_with_much_processor_time() {
    let limits = Limits {
        cpu_time: Some(Duration::from_secs(60)),
        time: Some(Duration::from_millis(700)),
        ..tight()
    };
    let (error, _) = ends_under("endless_loop", limits);
    assert!(matches!(error, RunError::WallTime { .. }), "{error}");
}

#[test]
fn memory_bomb() {
    let (error, report) = ends("memory_bomb");
    assert!(
        matches!(error, RunError::Memory { limit, asked } if limit == 16 << 20 && asked > limit),
        "{error}"
    );
    assert!(report.peak_memory_bytes <= 16 << 20);
}

#[test]
fn memory_from_the_start() {
    let (error, _) = ends("memory_from_the_start");
    assert_eq!(error.limit(), Some("memory"), "{error}");
}

#[test]
fn table_bomb() {
    let (error, _) = ends("table_bomb");
    assert!(matches!(error, RunError::Tables { .. }), "{error}");
}

#[test]
fn handle_bomb() {
    let (error, _) = ends("handle_bomb");
    assert!(
        matches!(&error, RunError::Quota(e) if e.quota == Quota::Handles && e.limit == 1000),
        "{error}"
    );
}

#[test]
fn resource_bomb() {
    assert_eq!(ends("resource_bomb").0.limit(), Some("handles"));
}

#[test]
fn tensor_bomb_many() {
    let (error, report) = ends("tensor_bomb_many");
    assert!(
        matches!(&error, RunError::Quota(e) if e.quota == Quota::DeviceMemory && e.limit == 8 << 20),
        "{error}"
    );
    assert!(report.device_bytes_peak <= 8 << 20);
    assert!(report.device_bytes_peak > 7 << 20);
}

#[test]
fn tensor_bomb_huge() {
    let (error, report) = ends("tensor_bomb_huge");
    assert_eq!(error.limit(), Some("device-memory"), "{error}");
    assert_eq!(report.device_bytes_peak, 0);
}

#[test]
fn flop_bomb() {
    let limits = Limits {
        cpu_time: Some(Duration::from_secs(60)),
        time: Some(Duration::from_secs(60)),
        ..tight()
    };
    let (error, report) = ends_under("flop_bomb", limits);
    assert_eq!(error.limit(), Some("device-work"), "{error}");
    assert!(report.flops <= 20_000_000_000);
    assert!(report.flops > 19_000_000_000);
}

#[test]
fn what_a_run_uses_is_seen_before_it_reports() {
    let spec = spec(Limits {
        cpu_time: Some(Duration::from_secs(60)),
        time: Some(Duration::from_secs(60)),
        ..tight()
    });
    let used = spec.used.clone();
    assert_eq!((used.flops(), used.tokens()), (0, 0));
    let cancel = Cancel::new();
    let program = load(&SANDBOX, "flop_bomb");
    let failed = std::thread::scope(|scope| {
        let run = scope.spawn(|| {
            SANDBOX.run_task(
                &program,
                &spec,
                &[],
                std::io::empty(),
                std::io::sink(),
                &cancel,
            )
        });
        // It is at work, and its end is far away.
        while used.flops() == 0 && !run.is_finished() {
            std::thread::yield_now();
        }
        cancel.cancel();
        run.join().unwrap().unwrap_err()
    });
    assert!(failed.report.flops > 0, "{}", failed.error);
    assert!(used.flops() >= failed.report.flops);
}

#[test]
fn flop_bomb_against_the_clock() {
    let limits = Limits {
        device_work: Some(u64::MAX),
        time: Some(Duration::from_millis(800)),
        ..tight()
    };
    let (error, _) = ends_under("flop_bomb", limits);
    assert!(
        matches!(error.limit(), Some("time" | "cpu-time")),
        "{error}"
    );
}

#[test]
fn block_for_ever() {
    let (error, report) = ends("block_for_ever");
    assert!(
        matches!(error, RunError::WallTime { limit } if limit == Duration::from_millis(1500)),
        "{error}"
    );
    assert!(report.cpu_ms < 300, "waiting is not computing: {report:?}");
}

#[test]
fn log_flood() {
    let (error, report) = ends("log_flood");
    assert!(
        matches!(error.limit(), Some("time" | "cpu-time")),
        "{error}"
    );
    assert!(report.log_truncated);
    assert!(report.log.len() < 5 << 10);
    assert!(
        report.log.contains("the log is limited to 4 KiB"),
        "{}",
        report.log
    );
}

#[test]
fn output_flood() {
    let (error, report) = ends("output_flood");
    assert!(
        matches!(&error, RunError::Quota(e) if e.quota == Quota::Output && e.limit == 1 << 20),
        "{error}"
    );
    assert!(report.output_truncated);
    assert_eq!(report.output_bytes, 1 << 20);
}

#[test]
fn storage_flood() {
    let (error, report) = ends("storage_flood");
    assert_eq!(error.limit(), Some("storage"), "{error}");
    assert_eq!(report.stored_bytes, 1 << 20);
}

#[test]
fn call_flood() {
    let (error, _) = ends("call_flood");
    assert_eq!(error.limit(), Some("call-bytes"), "{error}");
}

#[test]
fn deep_recursion() {
    let (error, _) = ends("deep_recursion");
    let RunError::Trapped { message, backtrace } = error else {
        panic!("{error}");
    };
    assert!(message.contains("stack"), "{message}");
    assert!(
        backtrace.iter().any(|frame| frame.contains("deeper")),
        "{backtrace:?}"
    );
}

#[test]
fn forged_handle() {
    let (error, _) = ends("forged_handle");
    assert!(matches!(error, RunError::Trapped { .. }), "{error}");
}

#[test]
fn many_instances() {
    let instances: String = (0..600)
        .map(|i| format!("(core instance $i{i} (instantiate $m))"))
        .collect();
    let text = format!(
        r#"(component (core module $m (memory 0)) {instances}
            (core module $f (func (export "run") (param i32 i32) (result i32) unreachable)
              (memory (export "memory") 1)
              (func (export "realloc") (param i32 i32 i32 i32) (result i32) unreachable))
            (core instance $f (instantiate $f))
            (import "skep:types/types@0.1.0" (instance $t
              (type $q' (enum "device-memory" "device-work" "handles" "call-bytes" "output" "storage" "time"))
              (export "quota" (type $q (eq $q')))
              (type $x' (record (field "quota" $q) (field "limit" u64) (field "asked" u64)))
              (export "quota-excess" (type $x (eq $x')))
              (type $e' (variant (case "denied" string) (case "over-quota" $x) (case "not-found" string)
                (case "invalid" string) (case "busy") (case "failed" string)))
              (export "error" (type $e (eq $e')))))
            (alias export $t "error" (type $error))
            (func $run (param "arguments" (list string)) (result (result (error $error)))
              (canon lift (core func $f "run") (memory (core memory $f "memory")) (realloc (core func $f "realloc"))))
            (export "run" (func $run)))"#
    );
    match SANDBOX.load(wat::parse_str(&text).unwrap()) {
        // Refused when it is loaded, or when it is instantiated: never run.
        Err(error) => assert!(
            matches!(
                error,
                LoadError::Compile { .. } | LoadError::TooComplex { .. }
            ),
            "{error}"
        ),
        Ok(program) => {
            let failed = run(&SANDBOX, &Arc::new(program), &spec(tight())).unwrap_err();
            assert_eq!(failed.error.limit(), Some("instances"), "{}", failed.error);
        }
    }
}

#[test]
fn a_component_of_200_megabytes() {
    let began = Instant::now();
    let mut bytes = component("honest/nothing");
    bytes.resize(200 << 20, 0);
    let error = SANDBOX.load(bytes).unwrap_err();
    assert!(
        matches!(error, LoadError::TooLarge { size, limit } if size == 200 << 20 && limit == 64 << 20),
        "{error}"
    );
    assert!(began.elapsed() < Duration::from_secs(2));
}

#[test]
fn a_malformed_component() {
    let whole = component("honest/copy");
    for length in [0, 4, 7, 9, whole.len() / 2, whole.len() - 1] {
        let error = SANDBOX.load(whole[..length].to_vec()).unwrap_err();
        assert!(
            matches!(error, LoadError::Malformed { .. }),
            "{length}: {error}"
        );
    }
    // A function body that is well-formed and does not type-check.
    let mut bad = whole.clone();
    let code = bad
        .windows(3)
        .rposition(|w| w == [0x41, 0xc0, 0x00])
        .unwrap();
    bad[code] = 0x6a;
    let error = SANDBOX.load(bad).unwrap_err();
    assert!(matches!(error, LoadError::Malformed { .. }), "{error}");
}

#[test]
fn a_function_too_large_to_compile_soon() {
    let body = "(drop (i32.const 1000000))".repeat(600_000);
    let text = format!("(component (core module (func {body})))");
    let error = SANDBOX.load(wat::parse_str(&text).unwrap()).unwrap_err();
    assert!(
        matches!(
            error,
            LoadError::TooComplex {
                what: "bytes in one function",
                ..
            }
        ),
        "{error}"
    );
}

#[test]
fn an_import_that_was_not_granted() {
    let program = load(&SANDBOX, "storage_flood");
    let nothing = RunSpec {
        grants: Grants::default(),
        ..spec(tight())
    };
    let failed = run(&SANDBOX, &program, &nothing).unwrap_err();
    let RunError::Refused(refusal) = &failed.error else {
        panic!("{failed}");
    };
    assert_eq!(refusal.ungranted.len(), 1);
    let text = failed.to_string();
    assert!(text.contains("skep:swarm/blobs@0.1.0"), "{text}");
    assert!(text.contains("swarm-write"), "{text}");
}

#[test]
fn a_function_that_was_not_granted() {
    // A grant to read admits the interface, and not its other half.
    let program = load(&SANDBOX, "storage_flood");
    let mut only_read = spec(tight());
    only_read.grants.swarm_write = false;
    let failed = run(&SANDBOX, &program, &only_read).unwrap_err();
    assert!(matches!(&failed.error, RunError::Guest(text) if text.contains("swarm-write")));
}

#[test]
fn imports_that_no_host_has() {
    let text = r#"(component
        (import "foo:bar/baz@1.0.0" (instance (export "f" (func))))
        (import "wasi:http/outgoing-handler@0.2.4" (instance (export "g" (func)))))"#;
    let error = SANDBOX.load(wat::parse_str(text).unwrap()).unwrap_err();
    assert_eq!(
        error.to_string(),
        "refused: no such interface on this host: foo:bar/baz@1.0.0; no such interface on this \
         host: wasi:http/outgoing-handler@0.2.4"
    );
}

#[test]
fn a_component_that_does_other_work() {
    let program = Arc::new(
        SANDBOX
            .load(wat::parse_str("(component)").unwrap())
            .unwrap(),
    );
    let failed = run(&SANDBOX, &program, &spec(tight())).unwrap_err();
    assert!(
        matches!(failed.error, RunError::WrongWorld { .. }),
        "{failed}"
    );
}

#[test]
fn no_more_guests_than_the_owner_allows() {
    let sandbox = Sandbox::new(SandboxConfig {
        guests: 1,
        ..SandboxConfig::default()
    })
    .unwrap();
    let program = load(&sandbox, "block_for_ever");
    let cancel = Cancel::new();
    std::thread::scope(|scope| {
        let first = scope.spawn(|| {
            loop {
                let ended = sandbox.run_task(
                    &program,
                    &spec(tight()),
                    &[],
                    std::io::empty(),
                    std::io::sink(),
                    &cancel,
                );
                // The honest guest below may have been there first.
                if !matches!(&ended, Err(failed) if matches!(failed.error, RunError::Busy { .. })) {
                    return ended;
                }
            }
        });
        let honest = load(&sandbox, "honest/nothing");
        // It has room until the first guest is there.
        loop {
            match run(&sandbox, &honest, &spec(tight())) {
                Err(failed) => {
                    assert!(
                        matches!(failed.error, RunError::Busy { running: 1 }),
                        "{failed}"
                    );
                    break;
                }
                Ok(_) => assert!(!first.is_finished()),
            }
        }
        cancel.cancel();
        let failed = first.join().unwrap().unwrap_err();
        assert!(matches!(failed.error, RunError::Cancelled), "{failed}");
    });
}

#[test]
fn a_fault_of_the_host_ends_one_run_only() {
    struct Faulty;
    impl skep_sandbox::Blobs for Faulty {
        fn open(
            &self,
            _: skep_registry::Digest,
            _: Arc<skep_sandbox::Allowance>,
        ) -> skep_sandbox::Pending<Arc<dyn skep_sandbox::ReadBlob>> {
            panic!("a fault in the host")
        }
        fn create(&self) -> skep_sandbox::Pending<Box<dyn skep_sandbox::WriteBlob>> {
            panic!("a fault in the host")
        }
    }
    let program = load(&SANDBOX, "storage_flood");
    let faulty = RunSpec {
        blobs: Some(Arc::new(Faulty)),
        ..spec(tight())
    };
    let failed = run(&SANDBOX, &program, &faulty).unwrap_err();
    assert!(
        matches!(&failed.error, RunError::HostBug(text) if text == "a fault in the host"),
        "{failed}"
    );
    run(&SANDBOX, &load(&SANDBOX, "honest/nothing"), &spec(tight())).unwrap();
}
