;; uses: text
;; Begins a text two thousand times, takes a piece of it, and drops it in the middle.
(core module $guest
  (import "text" "open" (func $open (param i32 i32 i32)))
  (import "text" "start" (func $start (param i32 i32 i32 i32)))
  (import "text" "next" (func $next (param i32 i32)))
  (import "text" "drop" (func $drop (param i32)))
  (import "env" "memory" (memory 1))
  (data (i32.const 256) "default")
  ;; One request: the prompt "default", 100 tokens at most, one sample, and nothing else.
  (data (i32.const 1024) "\00\00\00\00\00\01\00\00\07\00\00\00\64")
  (data (i32.const 1128) "\01")
  (func (export "run") (param i32 i32) (result i32)
    (local $model i32) (local $text i32) (local $left i32)
    (call $open (i32.const 256) (i32.const 7) (i32.const 64))
    (if (i32.load8_u (i32.const 64)) (then (return (i32.const 64))))
    (local.set $model (i32.load (i32.const 72)))
    (local.set $left (i32.const 2000))
    (loop $again
      (call $start (local.get $model) (i32.const 1024) (i32.const 1) (i32.const 64))
      (if (i32.load8_u (i32.const 64)) (then (return (i32.const 64))))
      (local.set $text (i32.load (i32.const 72)))
      (call $next (local.get $text) (i32.const 64))
      (if (i32.load8_u (i32.const 64)) (then (return (i32.const 64))))
      (call $drop (local.get $text))
      (local.set $left (i32.sub (local.get $left) (i32.const 1)))
      (br_if $again (local.get $left)))
    (i32.const 64)))
