;; uses: tensors
;; Multiplies matrices for ever, keeping nothing.
(core module $guest
  (import "tensors" "zeros" (func $zeros (param i32 i32 i32 i32)))
  (import "tensors" "matmul" (func $matmul (param i32 i32 i32)))
  (import "tensors" "drop" (func $drop (param i32)))
  (import "env" "memory" (memory 1))
  (func (export "run") (param i32 i32) (result i32)
    (local $a i32)
    (i32.store (i32.const 16) (i32.const 512))
    (i32.store (i32.const 20) (i32.const 512))
    (call $zeros (i32.const 16) (i32.const 2) (i32.const 0) (i32.const 64))
    (if (i32.load8_u (i32.const 64)) (then (return (i32.const 64))))
    (local.set $a (i32.load (i32.const 72)))
    (loop $again
      (call $matmul (local.get $a) (local.get $a) (i32.const 64))
      (if (i32.load8_u (i32.const 64)) (then (return (i32.const 64))))
      (call $drop (i32.load (i32.const 72)))
      (br $again))
    unreachable))
