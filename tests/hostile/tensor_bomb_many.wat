;; uses: tensors
;; Fills the device with tensors of 64 KiB.
(core module $guest
  (import "tensors" "zeros" (func $zeros (param i32 i32 i32 i32)))
  (import "env" "memory" (memory 1))
  (func (export "run") (param i32 i32) (result i32)
    (i32.store (i32.const 16) (i32.const 16384))
    (loop $again
      (call $zeros (i32.const 16) (i32.const 1) (i32.const 0) (i32.const 64))
      (br_if $again (i32.eqz (i32.load8_u (i32.const 64)))))
    (i32.const 64)))
