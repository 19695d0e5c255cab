;; uses: jobs
;; Looks for a job by its name, again and again, and lets go of none that it finds.
(core module $guest
  (import "jobs" "find" (func $find (param i32 i32 i32)))
  (import "env" "memory" (memory 1))
  (data (i32.const 512) "af1349b9f5f9a1a6a0404dea36dcc9499bcb25c9adc112b7cc9a93cae41f3262")
  (data (i32.const 600) "one\0atwo\0a")
  (func (export "run") (param i32 i32) (result i32)
    (loop $again
      (call $find (i32.const 512) (i32.const 64) (i32.const 64))
      (br_if $again (i32.eqz (i32.load8_u (i32.const 64)))))
    (i32.const 64)))
