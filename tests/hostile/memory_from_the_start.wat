;; uses:
;; Wants 1 GiB before its first instruction.
(core module $guest
  (memory 16384)
  (func (export "run") (param i32 i32) (result i32) unreachable))
