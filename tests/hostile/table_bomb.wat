;; uses:
;; Takes more table elements until it is refused.
(core module $guest
  (table $t 1 funcref)
  (table $u 1 funcref)
  (table $v 1 funcref)
  (table $w 1 funcref)
  (table $x 1 funcref)
  (table $y 1 funcref)
  (table $z 1 funcref)
  (func (export "run") (param i32 i32) (result i32)
    (local $failed i32)
    (loop $again
      (local.set $failed (i32.const 0))
      (local.set $failed (i32.add (local.get $failed) (i32.eq (i32.const -1) (table.grow $t (ref.null func) (i32.const 1000)))))
      (local.set $failed (i32.add (local.get $failed) (i32.eq (i32.const -1) (table.grow $u (ref.null func) (i32.const 1000)))))
      (local.set $failed (i32.add (local.get $failed) (i32.eq (i32.const -1) (table.grow $v (ref.null func) (i32.const 1000)))))
      (local.set $failed (i32.add (local.get $failed) (i32.eq (i32.const -1) (table.grow $w (ref.null func) (i32.const 1000)))))
      (local.set $failed (i32.add (local.get $failed) (i32.eq (i32.const -1) (table.grow $x (ref.null func) (i32.const 1000)))))
      (local.set $failed (i32.add (local.get $failed) (i32.eq (i32.const -1) (table.grow $y (ref.null func) (i32.const 1000)))))
      (local.set $failed (i32.add (local.get $failed) (i32.eq (i32.const -1) (table.grow $z (ref.null func) (i32.const 1000)))))
      (br_if $again (i32.lt_u (local.get $failed) (i32.const 7))))
    unreachable))
