  (import "skep:adapter/adapters@0.1.0" (instance $adapters
    (alias outer 1 $error (type $e'))
    (export "error" (type $e (eq $e')))
    (export "adapter" (type $adapter (sub resource)))
    (export "[static]adapter.open" (func
      (param "name" string) (result (result (own $adapter) (error $e)))))))
  (core func $open (canon lower (func $adapters "[static]adapter.open")
    (memory (core memory $memory "memory")) (realloc (core func $memory "realloc"))))
  (core instance $from-adapters (export "open" (func $open)))
