;; uses: io
;; Carries more in one call than a call may carry.
(core module $guest
  (import "io" "write" (func $write (param i32 i32 i32)))
  (import "env" "memory" (memory 1))
  (func (export "run") (param i32 i32) (result i32)
    (call $write (i32.const 0) (i32.const 1000000) (i32.const 64))
    (i32.const 64)))
