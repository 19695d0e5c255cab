;; uses: io text
;; As text_requests, but it sends its requests three times, and ends well whatever comes back.
(core module $guest
  (import "io" "read" (func $read (param i32 i32)))
  (import "text" "open" (func $open (param i32 i32 i32)))
  (import "text" "generate" (func $generate (param i32 i32 i32 i32)))
  (import "env" "memory" (memory 1))
  (data (i32.const 256) "default")
  (func (export "run") (param i32 i32) (result i32)
    (local $model i32) (local $end i32) (local $times i32)
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
    (loop $again
      (call $generate
        (local.get $model) (i32.const 65552) (i32.load (i32.const 65536)) (i32.const 64))
      (local.set $times (i32.add (local.get $times) (i32.const 1)))
      (br_if $again (i32.lt_u (local.get $times) (i32.const 3))))
    ;; Nothing is ever written there.
    (i32.const 512)))
