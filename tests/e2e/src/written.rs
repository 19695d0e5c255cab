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

/// A component of these parts, of which the last is its core instance `$run`. What it is given and gives back
/// lies in the memory of the core instance `memory`.
fn component(parts: &[&str], memory: &str) -> String {
    let parts = parts.concat();
    format!(
        r#"(component
{TYPES}{parts}  (func $exported (param "arguments" (list string)) (result (result (error $error)))
    (canon lift (core func $run "run")
      (memory (core memory {memory} "memory")) (realloc (core func {memory} "realloc"))))
  (export "run" (func $exported)))
"#
    )
}

/// A component that reads and writes, by these two: its core module `$memory`, and the function `run` of its
/// core module `$guest`.
fn copier(memory: &str, run: &str) -> String {
    component(&[IO, memory, GUEST, run, LINKED], "$memory")
}

/// A task that does nothing.
#[must_use]
pub fn trivial() -> String {
    component(&[TRIVIAL], "$run")
}

/// A task that waits, and does nothing else.
#[must_use]
pub fn waiter(time: Duration) -> String {
    let waiter = WAITER.replace("NANOSECONDS", &time.as_nanos().to_string());
    component(&[waiter.as_str()], "$run")
}

/// A task that gives back what it gets: what is left of a job of such tasks is what jobs cost.
#[must_use]
pub fn echo() -> String {
    copier(ECHO_MEMORY, ECHO)
}

/// The same once it has all of it in its memory, and in one call: as much as a task holds that works on
/// its lines one by one, of which one may be as long as its input.
#[must_use]
pub fn gather() -> String {
    copier(GATHER_MEMORY, GATHER)
}

/// A task that prints what it gets, and then fails with all of it for a reason. It has room for some
/// 190,000 bytes.
#[must_use]
pub fn complaint() -> String {
    component(&[COMPLAINT], "$memory")
}

const TRIVIAL: &str = r#"  (core module $guest
    (memory (export "memory") 1)
    (func (export "realloc") (param i32 i32 i32 i32) (result i32) (i32.const 1024))
    (func (export "run") (param i32 i32) (result i32) (i32.const 64)))
  (core instance $run (instantiate $guest))
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
"#;

// What `copier` has around its two parts. `GUEST` leaves its module open for the function.
const IO: &str = r#"  (import "skep:workload/io@0.1.0" (instance $io
    (alias outer 1 $error (type $it))
    (export "error" (type $error' (eq $it)))
    (export "read" (func (param "length" u32) (result (result (list u8) (error $error')))))
    (export "write" (func (param "data" (list u8)) (result (result (error $error')))))))
"#;

const GUEST: &str = r#"  (core instance $memory (instantiate $memory))
  (core func $read (canon lower (func $io "read")
    (memory (core memory $memory "memory")) (realloc (core func $memory "realloc"))))
  (core func $write (canon lower (func $io "write")
    (memory (core memory $memory "memory")) (realloc (core func $memory "realloc"))))
  (core module $guest
    (import "memory" "memory" (memory 1))
    (import "host" "read" (func $read (param i32 i32)))
    (import "host" "write" (func $write (param i32 i32 i32)))
"#;

const LINKED: &str = r#"  (core instance $run (instantiate $guest
    (with "memory" (instance $memory))
    (with "host" (instance
      (export "read" (func $read))
      (export "write" (func $write))))))
"#;

const ECHO_MEMORY: &str = r#"  (core module $memory
    (memory (export "memory") 1)
    (func (export "realloc") (param i32 i32 i32 i32) (result i32) (i32.const 1024)))
"#;

const ECHO: &str = r#"    (func (export "run") (param i32 i32) (result i32)
      (block $end
        (loop $more
          (call $read (i32.const 4096) (i32.const 0))
          (if (i32.load8_u (i32.const 0)) (then (unreachable)))
          (br_if $end (i32.eqz (i32.load (i32.const 12))))
          (call $write (i32.load (i32.const 8)) (i32.load (i32.const 12)) (i32.const 128))
          (if (i32.load8_u (i32.const 128)) (then (unreachable)))
          (br $more)))
      (i32.const 64)))
"#;

const GATHER_MEMORY: &str = r#"  (core module $memory
    (memory (export "memory") 1)
    (global $free (mut i32) (i32.const 1024))
    (func (export "realloc") (param $old i32) (param $size i32) (param $align i32) (param $new i32)
      (result i32)
      (local $place i32)
      ;; What came is never given back: each piece lies behind the one before it.
      (local.set $place (i32.and
        (i32.add (global.get $free) (i32.sub (local.get $align) (i32.const 1)))
        (i32.sub (i32.const 0) (local.get $align))))
      (global.set $free (i32.add (local.get $place) (local.get $new)))
      (block $fits
        (loop $grow
          (br_if $fits (i32.le_u (global.get $free) (i32.shl (memory.size) (i32.const 16))))
          (br_if $grow (i32.ne (memory.grow (i32.const 16)) (i32.const -1))))
        (unreachable))
      (local.get $place)))
"#;

const GATHER: &str = r#"    (func (export "run") (param i32 i32) (result i32)
      (local $start i32)
      (local $length i32)
      (block $end
        (loop $more
          (call $read (i32.const 65536) (i32.const 0))
          (if (i32.load8_u (i32.const 0)) (then (unreachable)))
          (br_if $end (i32.eqz (i32.load (i32.const 12))))
          (if (i32.eqz (local.get $length))
            (then (local.set $start (i32.load (i32.const 8)))))
          (if (i32.ne (i32.load (i32.const 8))
              (i32.add (local.get $start) (local.get $length)))
            (then (unreachable)))
          (local.set $length (i32.add (local.get $length) (i32.load (i32.const 12))))
          (br $more)))
      (call $write (local.get $start) (local.get $length) (i32.const 128))
      (if (i32.load8_u (i32.const 128)) (then (unreachable)))
      (i32.const 64)))
"#;

// What is read lies one behind the other, since each piece is put behind the one before it.
const COMPLAINT: &str = r#"  (import "skep:workload/io@0.1.0" (instance $io
    (alias outer 1 $error (type $it))
    (export "error" (type $error' (eq $it)))
    (export "read" (func (param "length" u32) (result (result (list u8) (error $error')))))))
  (import "wasi:io/error@0.2.0" (instance $io-error (export "error" (type $it (sub resource)))))
  (alias export $io-error "error" (type $io-error-type))
  (import "wasi:io/streams@0.2.0" (instance $streams
    (alias outer 1 $io-error-type (type $it))
    (export "error" (type $error' (eq $it)))
    (type $failure (variant (case "last-operation-failed" (own $error')) (case "closed")))
    (export "stream-error" (type $stream-error (eq $failure)))
    (export "output-stream" (type $out (sub resource)))
    (export "[method]output-stream.blocking-write-and-flush" (func
      (param "self" (borrow $out)) (param "contents" (list u8))
      (result (result (error $stream-error)))))))
  (alias export $streams "output-stream" (type $output-stream))
  (import "wasi:cli/stdout@0.2.0" (instance $stdout
    (alias outer 1 $output-stream (type $it))
    (export "output-stream" (type $out (eq $it)))
    (export "get-stdout" (func (result (own $out))))))
  (core module $memory
    (memory (export "memory") 4)
    (global $next (mut i32) (i32.const 65536))
    (func (export "realloc") (param $old i32) (param $from i32) (param $align i32) (param $to i32)
      (result i32)
      (local $at i32)
      (local.set $at (global.get $next))
      (global.set $next (i32.add (local.get $at) (local.get $to)))
      (local.get $at)))
  (core instance $memory (instantiate $memory))
  (core func $read (canon lower (func $io "read")
    (memory (core memory $memory "memory")) (realloc (core func $memory "realloc"))))
  (core func $get-stdout (canon lower (func $stdout "get-stdout")))
  (core func $print (canon lower (func $streams "[method]output-stream.blocking-write-and-flush")
    (memory (core memory $memory "memory")) (realloc (core func $memory "realloc"))))
  (core module $guest
    (import "memory" "memory" (memory 4))
    (import "host" "read" (func $read (param i32 i32)))
    (import "host" "stdout" (func $stdout (result i32)))
    (import "host" "print" (func $print (param i32 i32 i32 i32)))
    (func (export "run") (param i32 i32) (result i32)
      (local $out i32)
      (local $bytes i32)
      (local $first i32)
      (local.set $out (call $stdout))
      (block $end
        (loop $more
          (call $read (i32.const 4096) (i32.const 0))
          (if (i32.load8_u (i32.const 0)) (then (unreachable)))
          (br_if $end (i32.eqz (i32.load (i32.const 12))))
          (if (i32.eqz (local.get $bytes))
            (then (local.set $first (i32.load (i32.const 8)))))
          (local.set $bytes (i32.add (local.get $bytes) (i32.load (i32.const 12))))
          (call $print
            (local.get $out) (i32.load (i32.const 8)) (i32.load (i32.const 12)) (i32.const 128))
          (br $more)))
      ;; An error, which is the sixth, `failed`, with its text.
      (i32.store8 (i32.const 64) (i32.const 1))
      (i32.store8 (i32.const 72) (i32.const 5))
      (i32.store (i32.const 80) (local.get $first))
      (i32.store (i32.const 84) (local.get $bytes))
      (i32.const 64)))
  (core instance $run (instantiate $guest
    (with "memory" (instance $memory))
    (with "host" (instance
      (export "read" (func $read))
      (export "stdout" (func $get-stdout))
      (export "print" (func $print))))))
"#;
