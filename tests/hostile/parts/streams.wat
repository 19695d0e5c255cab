  (import "skep:swarm/blobs@0.1.0" (instance $blobs
    (alias outer 1 $error (type $e'))
    (export "error" (type $e (eq $e')))
    (export "blob" (type $blob (sub resource)))
    (export "[static]blob.open" (func
      (param "digest" string) (result (result (own $blob) (error $e)))))))
  (alias export $blobs "blob" (type $blob))
  (import "skep:swarm/blob-streams@0.1.0" (instance $streams
    (alias outer 1 $error (type $e'))
    (export "error" (type $e (eq $e')))
    (alias outer 1 $blob (type $blob'))
    (export "blob" (type $blob (eq $blob')))
    (type $bytes (stream u8))
    (type $ended (future (result (error $e))))
    (export "read-via-stream" (func
      (param "blob" (borrow $blob)) (param "offset" u64)
      (result (result (tuple $bytes $ended) (error $e)))))))
  (core func $open (canon lower (func $blobs "[static]blob.open")
    (memory (core memory $memory "memory")) (realloc (core func $memory "realloc"))))
  (core func $read (canon lower (func $streams "read-via-stream")
    (memory (core memory $memory "memory")) (realloc (core func $memory "realloc"))))
  (core instance $from-streams (export "open" (func $open)) (export "read" (func $read)))
