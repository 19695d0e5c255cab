;; uses: wait
;; Waits in the host for five hundred years.
(core module $guest
  (import "wait" "subscribe" (func $subscribe (param i64) (result i32)))
  (import "wait" "block" (func $block (param i32)))
  (func (export "run") (param i32 i32) (result i32)
    (call $block (call $subscribe (i64.const -1)))
    unreachable))
