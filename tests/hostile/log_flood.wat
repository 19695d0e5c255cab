;; uses: print
;; Prints for ever.
(core module $guest
  (import "print" "stdout" (func $stdout (result i32)))
  (import "print" "print" (func $print (param i32 i32 i32 i32)))
  (import "env" "memory" (memory 1))
  (func (export "run") (param i32 i32) (result i32)
    (local $out i32)
    (local.set $out (call $stdout))
    (memory.fill (i32.const 1024) (i32.const 0x41) (i32.const 4096))
    (loop $again
      (call $print (local.get $out) (i32.const 1024) (i32.const 4096) (i32.const 64))
      (br $again))
    unreachable))
