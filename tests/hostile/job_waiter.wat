;; uses: jobs
;; Begins a job, and waits for its end, seven weeks at a time.
(core module $guest
  (import "jobs" "submit" (func $submit
    (param i32 i32 i32 i32 i32 i32 i32 i32 i32 i32 i32 i32 i32 i64 i64 i64 i32)))
  (import "jobs" "wait" (func $wait (param i32 i32 i32)))
  (import "env" "memory" (memory 1))
  (data (i32.const 512) "af1349b9f5f9a1a6a0404dea36dcc9499bcb25c9adc112b7cc9a93cae41f3262")
  (data (i32.const 600) "one\0atwo\0a")
  (func (export "run") (param i32 i32) (result i32)
    (local $job i32)
    (call $submit
      (i32.const 512) (i32.const 64) (i32.const 600) (i32.const 8) ;; the package and the input
      (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 0) ;; no labels, no arguments
      (i32.const 0) (i32.const 0) (i32.const 1) (i32.const 0) ;; any shards, one replica, no audits
      (i64.const 0) (i64.const 0) (i64.const 60000) (i32.const 64))
    (if (i32.load8_u (i32.const 64)) (then (return (i32.const 64))))
    (local.set $job (i32.load (i32.const 72)))
    (loop $again
      (call $wait (local.get $job) (i32.const -1) (i32.const 64))
      (if (i32.load8_u (i32.const 64)) (then (return (i32.const 64))))
      (br_if $again (i32.eqz (i32.load8_u (i32.const 72)))))
    (i32.const 64)))
