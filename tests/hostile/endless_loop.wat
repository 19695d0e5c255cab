;; uses:
;; Computes for ever without calling the host.
(core module $guest
  (func (export "run") (param i32 i32) (result i32)
    (loop $again (br $again))
    unreachable))
