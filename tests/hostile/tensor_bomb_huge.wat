;; uses: tensors
;; Wants a tensor of 4 GiB.
(core module $guest
  (import "tensors" "zeros" (func $zeros (param i32 i32 i32 i32)))
  (import "env" "memory" (memory 1))
  (func (export "run") (param i32 i32) (result i32)
    (i32.store (i32.const 16) (i32.const 0x40000000))
    (call $zeros (i32.const 16) (i32.const 1) (i32.const 0) (i32.const 64))
    (i32.const 64)))
