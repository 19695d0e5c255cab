;; uses: streams
;; Opens streams of a blob by the thousand, and reads none of them.
(core module $guest
  (import "streams" "open" (func $open (param i32 i32 i32)))
  (import "streams" "read" (func $read (param i32 i64 i32)))
  (import "env" "memory" (memory 1))
  (data (i32.const 512) "af1349b9f5f9a1a6a0404dea36dcc9499bcb25c9adc112b7cc9a93cae41f3262")
  (func (export "run") (param i32 i32) (result i32)
    (local $blob i32)
    (call $open (i32.const 512) (i32.const 64) (i32.const 64))
    (if (i32.load8_u (i32.const 64)) (then (return (i32.const 64))))
    (local.set $blob (i32.load (i32.const 72)))
    (loop $again
      (call $read (local.get $blob) (i64.const 0) (i32.const 64))
      (br_if $again (i32.eqz (i32.load8_u (i32.const 64)))))
    (i32.const 64)))
