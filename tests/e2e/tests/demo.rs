//! The demo as the README promises it: one command, and a summary that a script can read.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::process::{Command, Stdio};

use serde_json::Value;
use skep_tests::Built;

#[test]
fn the_demo_ends_with_its_summary_as_one_object() {
    // The same program as `cargo xtask demo --json`, with what the tests have built.
    let output = Command::new(Built::skep().with_file_name("skep-xtask"))
        .args(["demo", "--json", "--built"])
        // As cargo says it to a chore, and not as the runner of tests says it to this test.
        .env("CARGO_MANIFEST_DIR", Built::root().join("xtask"))
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    let text = String::from_utf8(output.stdout).unwrap();
    let summary: Value = serde_json::from_str(text.lines().last().unwrap()).unwrap();

    let [a, b] = &summary["nodes"].as_array().unwrap()[..] else {
        panic!("two nodes: {summary}");
    };
    assert_ne!(a, b, "each is a process of its own");
    for what in ["component", "model"] {
        let moved = &summary[what];
        assert!(moved["bytes_fetched"].as_u64().unwrap() > 0, "{moved}");
        assert!(moved["chunks_verified"].as_u64().unwrap() > 0, "{moved}");
        assert_eq!(moved["providers"].as_array().unwrap().len(), 1, "{moved}");
    }
    let run = &summary["run"];
    // Every five hundredth line is no record, and costs that record only.
    assert_eq!(run["records"], 4008);
    assert_eq!(run["errors"], 8);
    for field in [
        "errors",
        "seconds",
        "records_per_s",
        "peak_memory_bytes",
        "device_bytes_peak",
        "flops",
        "host_calls",
    ] {
        assert!(run[field].as_f64().unwrap() > 0.0, "{field} in {run}");
    }
    let used = run["peak_memory_bytes"].as_u64().unwrap();
    assert!(used <= run["limits"]["memory"].as_u64().unwrap(), "{run}");
    assert_eq!(summary["judged"], 4000);
    // Guessing among eight labels is right one time in eight.
    assert!(summary["accuracy"].as_f64().unwrap() > 0.5, "{summary}");

    // A person reads the same above it.
    assert!(text.contains("What moved, from node A to node B"), "{text}");
    assert!(text.contains("What the sandbox allowed and used"), "{text}");
}
