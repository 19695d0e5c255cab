;; uses: io
;; Writes until it is refused.
(core module $guest
  (import "io" "write" (func $write (param i32 i32 i32)))
  (import "env" "memory" (memory 1))
  (func (export "run") (param i32 i32) (result i32)
    (loop $again
      (call $write (i32.const 1024) (i32.const 4096) (i32.const 64))
      (br_if $again (i32.eqz (i32.load8_u (i32.const 64)))))
    (i32.const 64)))
