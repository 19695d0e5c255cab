;; uses: jobs
;; Begins a job with an adapter, for one node that shows its hardware and keeps things ready. With one
;; argument it is for 65 nodes, and with two for one whose name has 4097 bytes.
(core module $guest
  (import "jobs" "submit-with" (func $submit-with (param i32 i32)))
  (import "env" "memory" (memory 1))
  (data (i32.const 512) "af1349b9f5f9a1a6a0404dea36dcc9499bcb25c9adc112b7cc9a93cae41f3262")
  (data (i32.const 600) "one\0atwo\0a")
  (data (i32.const 620) "a node")
  (func (export "run") (param $arguments i32) (param $count i32) (result i32)
    ;; The plan: the package, the input, no labels, no arguments, any shards.
    (i32.store (i32.const 1024) (i32.const 512))
    (i32.store (i32.const 1028) (i32.const 64))
    (i32.store (i32.const 1032) (i32.const 600))
    (i32.store (i32.const 1036) (i32.const 8))
    ;; One replica, no audits, no stake, no price, a minute.
    (i32.store (i32.const 1068) (i32.const 1))
    (i64.store (i32.const 1096) (i64.const 60000))
    ;; The options: an adapter, by the digest of the package.
    (i32.store (i32.const 1104) (i32.const 1))
    (i32.store (i32.const 1108) (i32.const 512))
    (i32.store (i32.const 1112) (i32.const 64))
    ;; The nodes, of which the first has a name.
    (i32.store (i32.const 1116) (i32.const 2048))
    (i32.store (i32.const 1120)
      (select (i32.const 65) (i32.const 1) (i32.eq (local.get $count) (i32.const 1))))
    (i32.store (i32.const 2048) (i32.const 620))
    (i32.store (i32.const 2052) (i32.const 6))
    (if (i32.eq (local.get $count) (i32.const 2)) (then
      (i32.store (i32.const 2048) (i32.const 4096))
      (i32.store (i32.const 2052) (i32.const 4097))))
    ;; Attested, and warm for a second and a half.
    (i32.store (i32.const 1124) (i32.const 1))
    (i32.store (i32.const 1128) (i32.const 1))
    (i64.store (i32.const 1136) (i64.const 1500))
    (call $submit-with (i32.const 1024) (i32.const 64))
    (i32.const 64)))
