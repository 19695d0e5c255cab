;; uses: tensors
;; Asks for a tensor's dtype a hundred thousand times: an honest guest, for measuring.
(core module $guest
  (import "tensors" "zeros" (func $zeros (param i32 i32 i32 i32)))
  (import "tensors" "dtype" (func $dtype (param i32) (result i32)))
  (import "env" "memory" (memory 1))
  (func (export "run") (param i32 i32) (result i32)
    (local $a i32) (local $i i32)
    (i32.store (i32.const 16) (i32.const 4))
    (call $zeros (i32.const 16) (i32.const 1) (i32.const 0) (i32.const 64))
    (if (i32.load8_u (i32.const 64)) (then (return (i32.const 64))))
    (local.set $a (i32.load (i32.const 72)))
    (loop $again
      (drop (call $dtype (local.get $a)))
      (local.set $i (i32.add (local.get $i) (i32.const 1)))
      (br_if $again (i32.lt_u (local.get $i) (i32.const 100000))))
    (i32.store8 (i32.const 64) (i32.const 0))
    (i32.const 64)))
