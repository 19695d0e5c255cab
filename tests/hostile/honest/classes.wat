;; uses: tensors classes io
;; Opens the default encoder with the adapter `village`, writes what its first class is called, and
;; classifies a text.
(core module $guest
  (import "classes" "open" (func $open (param i32 i32 i32)))
  (import "classes" "with-adapter" (func $with-adapter (param i32 i32 i32 i32)))
  (import "classes" "classes" (func $classes (param i32 i32)))
  (import "classes" "classify" (func $classify (param i32 i32 i32 i32)))
  (import "io" "write" (func $write (param i32 i32 i32)))
  (import "env" "memory" (memory 1))
  (data (i32.const 512) "default")
  (data (i32.const 520) "village")
  ;; A list of one text: where it is, and how long.
  (data (i32.const 528) "\08\02\00\00\07\00\00\00")
  (func (export "run") (param i32 i32) (result i32)
    (local $encoder i32)
    (call $open (i32.const 512) (i32.const 7) (i32.const 64))
    (if (i32.load8_u (i32.const 64)) (then (return (i32.const 64))))
    (call $with-adapter (i32.load (i32.const 72)) (i32.const 520) (i32.const 7) (i32.const 64))
    (if (i32.load8_u (i32.const 64)) (then (return (i32.const 64))))
    (local.set $encoder (i32.load (i32.const 72)))
    (call $classes (local.get $encoder) (i32.const 96))
    (call $write
      (i32.load (i32.load (i32.const 96))) (i32.load offset=4 (i32.load (i32.const 96)))
      (i32.const 128))
    (if (i32.load8_u (i32.const 128)) (then (return (i32.const 128))))
    (call $classify (local.get $encoder) (i32.const 528) (i32.const 1) (i32.const 64))
    (i32.const 64)))
