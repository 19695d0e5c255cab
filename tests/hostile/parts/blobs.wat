  (import "skep:swarm/blobs@0.1.0" (instance $blobs
    (alias outer 1 $error (type $e'))
    (export "error" (type $e (eq $e')))
    (export "blob-writer" (type $writer (sub resource)))
    (export "[static]blob-writer.create" (func (result (result (own $writer) (error $e)))))
    (export "[method]blob-writer.append" (func
      (param "self" (borrow $writer)) (param "data" (list u8)) (result (result (error $e)))))))
  (core func $create (canon lower (func $blobs "[static]blob-writer.create")
    (memory (core memory $memory "memory")) (realloc (core func $memory "realloc"))))
  (core func $append (canon lower (func $blobs "[method]blob-writer.append")
    (memory (core memory $memory "memory")) (realloc (core func $memory "realloc"))))
  (core instance $from-blobs (export "create" (func $create)) (export "append" (func $append)))
