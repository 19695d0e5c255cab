;; uses: blobs
;; Fills the node's disk.
(core module $guest
  (import "blobs" "create" (func $create (param i32)))
  (import "blobs" "append" (func $append (param i32 i32 i32 i32)))
  (import "env" "memory" (memory 1))
  (func (export "run") (param i32 i32) (result i32)
    (local $blob i32)
    (call $create (i32.const 64))
    (if (i32.load8_u (i32.const 64)) (then (return (i32.const 64))))
    (local.set $blob (i32.load (i32.const 72)))
    (loop $again
      (call $append (local.get $blob) (i32.const 1024) (i32.const 32768) (i32.const 64))
      (br_if $again (i32.eqz (i32.load8_u (i32.const 64)))))
    (i32.const 64)))
