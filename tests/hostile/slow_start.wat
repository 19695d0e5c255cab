;; uses:
;; Computes for ever before `run` is called.
(core module $guest
  (func $start (loop $again (br $again)))
  (func (export "run") (param i32 i32) (result i32) unreachable)
  (start $start))
