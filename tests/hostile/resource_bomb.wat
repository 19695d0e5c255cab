;; uses: resource
;; Makes handles of a resource of its own, which no host function sees.
(core module $guest
  (import "resource" "new" (func $new (param i32) (result i32)))
  (func (export "run") (param i32 i32) (result i32)
    (loop $again (drop (call $new (i32.const 7))) (br $again))
    unreachable))
