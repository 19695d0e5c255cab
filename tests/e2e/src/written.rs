//! Components in the text format, for what has to take next to no time of its own.
//!
//! They are of the world `task`, and import nothing but what they use.

use std::time::Duration;

/// The errors of the contract, which every task may return.
const TYPES: &str = r#"  (import "skep:types/types@0.1.0" (instance $types
    (type $quota' (enum "device-memory" "device-work" "handles" "call-bytes" "output" "storage" "time"))
    (export "quota" (type $quota (eq $quota')))
    (type $excess' (record (field "quota" $quota) (field "limit" u64) (field "asked" u64)))
    (export "quota-excess" (type $excess (eq $excess')))
    (type $error' (variant
      (case "denied" string) (case "over-quota" $excess) (case "not-found" string)
      (case "invalid" string) (case "busy") (case "failed" string)))
    (export "error" (type $error (eq $error')))))
  (alias export $types "error" (type $error))
"#;

fn component(rest: &str) -> String {
    format!("(component\n{TYPES}{rest}")
}

/// A task that does nothing.
#[must_use]
pub fn trivial() -> String {
    component(TRIVIAL)
}

/// A task that waits, and does nothing else.
#[must_use]
pub fn waiter(time: Duration) -> String {
    component(&WAITER.replace("NANOSECONDS", &time.as_nanos().to_string()))
}

/// A task that gives back what it gets: what is left of a job of such tasks is what jobs cost.
#[must_use]
pub fn echo() -> String {
    component(ECHO)
}

const TRIVIAL: &str = r#"  (core module $guest
    (memory (export "memory") 1)
    (func (export "realloc") (param i32 i32 i32 i32) (result i32) (i32.const 1024))
    (func (export "run") (param i32 i32) (result i32) (i32.const 64)))
  (core instance $run (instantiate $guest))
  (func $exported (param "arguments" (list string)) (result (result (error $error)))
    (canon lift (core func $run "run")
      (memory (core memory $run "memory")) (realloc (core func $run "realloc"))))
  (export "run" (func $exported)))
"#;

const WAITER: &str = r#"  (import "wasi:io/poll@0.2.0" (instance $poll
    (export "pollable" (type $pollable (sub resource)))
    (export "[method]pollable.block" (func (param "self" (borrow $pollable))))))
  (alias export $poll "pollable" (type $pollable))
  (import "wasi:clocks/monotonic-clock@0.2.0" (instance $clock
    (alias outer 1 $pollable (type $it))
    (export "pollable" (type $pollable' (eq $it)))
    (export "subscribe-duration" (func (param "when" u64) (result (own $pollable'))))))
  (core func $subscribe (canon lower (func $clock "subscribe-duration")))
  (core func $block (canon lower (func $poll "[method]pollable.block")))
  (core func $drop (canon resource.drop $pollable))
  (core module $guest
    (import "host" "subscribe" (func $subscribe (param i64) (result i32)))
    (import "host" "block" (func $block (param i32)))
    (import "host" "drop" (func $drop (param i32)))
    (memory (export "memory") 1)
    (func (export "realloc") (param i32 i32 i32 i32) (result i32) (i32.const 1024))
    (func (export "run") (param i32 i32) (result i32)
      (local $pollable i32)
      (local.set $pollable (call $subscribe (i64.const NANOSECONDS)))
      (call $block (local.get $pollable))
      (call $drop (local.get $pollable))
      (i32.const 64)))
  (core instance $run (instantiate $guest (with "host" (instance
    (export "subscribe" (func $subscribe))
    (export "block" (func $block))
    (export "drop" (func $drop))))))
  (func $exported (param "arguments" (list string)) (result (result (error $error)))
    (canon lift (core func $run "run")
      (memory (core memory $run "memory")) (realloc (core func $run "realloc"))))
  (export "run" (func $exported)))
"#;

const ECHO: &str = r#"  (import "wasi:io/error@0.2.0" (instance $faults
    (export "error" (type (sub resource)))))
  (alias export $faults "error" (type $fault))
  (import "wasi:io/streams@0.2.0" (instance $streams
    (alias outer 1 $fault (type $it))
    (export "error" (type $error (eq $it)))
    (export "input-stream" (type $input (sub resource)))
    (export "output-stream" (type $output (sub resource)))
    (type $end' (variant (case "last-operation-failed" (own $error)) (case "closed")))
    (export "stream-error" (type $end (eq $end')))
    (export "[method]input-stream.blocking-read" (func
      (param "self" (borrow $input)) (param "len" u64) (result (result (list u8) (error $end)))))
    (export "[method]output-stream.blocking-write-and-flush" (func
      (param "self" (borrow $output)) (param "contents" (list u8)) (result (result (error $end)))))))
  (alias export $streams "input-stream" (type $input))
  (alias export $streams "output-stream" (type $output))
  (import "wasi:cli/stdin@0.2.0" (instance $stdin
    (alias outer 1 $input (type $it))
    (export "input-stream" (type $input (eq $it)))
    (export "get-stdin" (func (result (own $input))))))
  (import "wasi:cli/stdout@0.2.0" (instance $stdout
    (alias outer 1 $output (type $it))
    (export "output-stream" (type $output (eq $it)))
    (export "get-stdout" (func (result (own $output))))))
  (core module $memory
    (memory (export "memory") 1)
    (func (export "realloc") (param i32 i32 i32 i32) (result i32) (i32.const 1024)))
  (core instance $memory (instantiate $memory))
  (core func $stdin (canon lower (func $stdin "get-stdin")))
  (core func $stdout (canon lower (func $stdout "get-stdout")))
  (core func $read (canon lower (func $streams "[method]input-stream.blocking-read")
    (memory (core memory $memory "memory")) (realloc (core func $memory "realloc"))))
  (core func $write (canon lower (func $streams "[method]output-stream.blocking-write-and-flush")
    (memory (core memory $memory "memory"))))
  (core func $drop-input (canon resource.drop $input))
  (core func $drop-output (canon resource.drop $output))
  (core module $guest
    (import "memory" "memory" (memory 1))
    (import "host" "stdin" (func $stdin (result i32)))
    (import "host" "stdout" (func $stdout (result i32)))
    (import "host" "read" (func $read (param i32 i64 i32)))
    (import "host" "write" (func $write (param i32 i32 i32 i32)))
    (import "host" "drop-input" (func $drop-input (param i32)))
    (import "host" "drop-output" (func $drop-output (param i32)))
    (func (export "run") (param i32 i32) (result i32)
      (local $input i32) (local $output i32)
      (local.set $input (call $stdin))
      (local.set $output (call $stdout))
      (block $closed
        (loop $more
          (call $read (local.get $input) (i64.const 4096) (i32.const 0))
          (br_if $closed (i32.load8_u (i32.const 0)))
          (call $write (local.get $output) (i32.load (i32.const 4)) (i32.load (i32.const 8))
            (i32.const 32))
          (br_if $closed (i32.load8_u (i32.const 32)))
          (br $more)))
      (call $drop-input (local.get $input))
      (call $drop-output (local.get $output))
      (i32.const 64)))
  (core instance $run (instantiate $guest
    (with "memory" (instance $memory))
    (with "host" (instance
      (export "stdin" (func $stdin))
      (export "stdout" (func $stdout))
      (export "read" (func $read))
      (export "write" (func $write))
      (export "drop-input" (func $drop-input))
      (export "drop-output" (func $drop-output))))))
  (func $exported (param "arguments" (list string)) (result (result (error $error)))
    (canon lift (core func $run "run")
      (memory (core memory $memory "memory")) (realloc (core func $memory "realloc"))))
  (export "run" (func $exported)))
"#;
