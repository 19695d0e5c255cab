;; uses: tensors encoders
;; Embeds eight texts forty times: an honest neighbour, for comparison.
(core module $guest
  (import "tensors" "drop" (func $drop (param i32)))
  (import "encoders" "open" (func $open (param i32 i32 i32)))
  (import "encoders" "embed" (func $embed (param i32 i32 i32 i32)))
  (import "env" "memory" (memory 1))
  (data (i32.const 256) "default")
  (data (i32.const 300) "The printer on the second floor is on fire again.")
  (func (export "run") (param i32 i32) (result i32)
    (local $encoder i32) (local $i i32)
    (call $open (i32.const 256) (i32.const 7) (i32.const 64))
    (if (i32.load8_u (i32.const 64)) (then (return (i32.const 64))))
    (local.set $encoder (i32.load (i32.const 72)))
    (loop $text
      (i32.store (i32.add (i32.const 512) (i32.mul (local.get $i) (i32.const 8))) (i32.const 300))
      (i32.store (i32.add (i32.const 516) (i32.mul (local.get $i) (i32.const 8))) (i32.const 49))
      (local.set $i (i32.add (local.get $i) (i32.const 1)))
      (br_if $text (i32.lt_u (local.get $i) (i32.const 8))))
    (local.set $i (i32.const 0))
    (loop $again
      (call $embed (local.get $encoder) (i32.const 512) (i32.const 8) (i32.const 64))
      (if (i32.load8_u (i32.const 64)) (then (return (i32.const 64))))
      (call $drop (i32.load (i32.const 72)))
      (local.set $i (i32.add (local.get $i) (i32.const 1)))
      (br_if $again (i32.lt_u (local.get $i) (i32.const 40))))
    (i32.store8 (i32.const 64) (i32.const 0))
    (i32.const 64)))
