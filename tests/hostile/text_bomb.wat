;; uses: text
;; Begins to have texts written by the thousand, takes nothing of them and drops none.
(core module $guest
  (import "text" "open" (func $open (param i32 i32 i32)))
  (import "text" "start" (func $start (param i32 i32 i32 i32)))
  (import "env" "memory" (memory 1))
  (data (i32.const 256) "default")
  ;; One request: the prompt "default", ten tokens at most, one sample, and nothing else.
  (data (i32.const 1024) "\00\00\00\00\00\01\00\00\07\00\00\00\0a")
  (data (i32.const 1128) "\01")
  (func (export "run") (param i32 i32) (result i32)
    (local $model i32)
    (call $open (i32.const 256) (i32.const 7) (i32.const 64))
    (if (i32.load8_u (i32.const 64)) (then (return (i32.const 64))))
    (local.set $model (i32.load (i32.const 72)))
    (loop $again
      (call $start (local.get $model) (i32.const 1024) (i32.const 1) (i32.const 64))
      (br_if $again (i32.eqz (i32.load8_u (i32.const 64)))))
    (i32.const 64)))
