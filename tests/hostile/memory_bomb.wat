;; uses:
;; Takes more memory until it is refused, and then gives up as allocators do.
(core module $guest
  (memory 1)
  (func (export "run") (param i32 i32) (result i32)
    (loop $again
      (if (i32.eq (memory.grow (i32.const 16)) (i32.const -1)) (then unreachable))
      (i32.store (i32.sub (i32.mul (memory.size) (i32.const 65536)) (i32.const 4)) (i32.const 1))
      (br $again))
    unreachable))
