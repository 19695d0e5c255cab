  (import "wasi:random/insecure@0.2.0" (instance $random
    (export "get-insecure-random-u64" (func (result u64)))))
  (core func $number (canon lower (func $random "get-insecure-random-u64")))
  (core instance $from-random (export "number" (func $number)))
