;; uses: io
;; Copies its input to its output: an honest guest, for comparison.
(core module $guest
  (import "io" "read" (func $read (param i32 i32)))
  (import "io" "write" (func $write (param i32 i32 i32)))
  (import "env" "memory" (memory 1))
  (import "env" "reset" (func $reset))
  (func (export "run") (param i32 i32) (result i32)
    (loop $again
      (call $reset)
      (call $read (i32.const 65536) (i32.const 64))
      (if (i32.load8_u (i32.const 64)) (then (return (i32.const 64))))
      (if (i32.eqz (i32.load (i32.const 76)))
        (then (i32.store8 (i32.const 64) (i32.const 0)) (return (i32.const 64))))
      (call $write (i32.load (i32.const 72)) (i32.load (i32.const 76)) (i32.const 64))
      (if (i32.load8_u (i32.const 64)) (then (return (i32.const 64))))
      (br $again))
    unreachable))
