;; uses: adapters
;; Opens an adapter that it was not granted.
(core module $guest
  (import "adapters" "open" (func $open (param i32 i32 i32)))
  (import "env" "memory" (memory 1))
  (data (i32.const 256) "secret")
  (func (export "run") (param i32 i32) (result i32)
    (call $open (i32.const 256) (i32.const 6) (i32.const 64))
    (i32.const 64)))
