  (import "skep:swarm/blobs@0.1.0" (instance $opened
    (alias outer 1 $error (type $e'))
    (export "error" (type $e (eq $e')))
    (export "blob" (type $blob (sub resource)))
    (export "[static]blob.open" (func
      (param "digest" string) (result (result (own $blob) (error $e)))))))
  (core func $open (canon lower (func $opened "[static]blob.open")
    (memory (core memory $memory "memory")) (realloc (core func $memory "realloc"))))
  (core instance $from-open (export "open" (func $open)))
