;; uses: io text
;; Sends requests that it was given as input, whatever is in them, and fails with the first error
;; that comes back. The input is a list of requests as it lies in memory at the address 65552, and
;; before it, at 65536, their number and its own length. What is read lies there piece by piece,
;; because nothing else is allocated meanwhile.
(core module $guest
  (import "io" "read" (func $read (param i32 i32)))
  (import "text" "open" (func $open (param i32 i32 i32)))
  (import "text" "generate" (func $generate (param i32 i32 i32 i32)))
  (import "env" "memory" (memory 1))
  (data (i32.const 256) "default")
  (func (export "run") (param i32 i32) (result i32)
    (local $model i32) (local $answer i32) (local $left i32) (local $end i32)
    (call $open (i32.const 256) (i32.const 7) (i32.const 64))
    (if (i32.load8_u (i32.const 64)) (then (return (i32.const 64))))
    (local.set $model (i32.load (i32.const 72)))
    (local.set $end (i32.const 65536))
    (loop $more
      (call $read (i32.const 16000000) (i32.const 64))
      (if (i32.load8_u (i32.const 64)) (then (return (i32.const 64))))
      (if (i32.ne (i32.load (i32.const 72)) (local.get $end)) (then unreachable))
      (local.set $end (i32.add (local.get $end) (i32.load (i32.const 76))))
      (br_if $more (i32.lt_u
        (i32.sub (local.get $end) (i32.const 65536)) (i32.load (i32.const 65540)))))
    (call $generate
      (local.get $model) (i32.const 65552) (i32.load (i32.const 65536)) (i32.const 64))
    (if (i32.load8_u (i32.const 64)) (then (return (i32.const 64))))
    ;; An answer has the same shape as the result of a call, and takes 40 bytes.
    (local.set $answer (i32.load (i32.const 72)))
    (local.set $left (i32.load (i32.const 76)))
    (loop $next
      (if (local.get $left)
        (then
          (if (i32.load8_u (local.get $answer)) (then (return (local.get $answer))))
          (local.set $answer (i32.add (local.get $answer) (i32.const 40)))
          (local.set $left (i32.sub (local.get $left) (i32.const 1)))
          (br $next))))
    (i32.const 64)))
