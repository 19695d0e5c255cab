  (import "skep:model/encoders@0.1.0" (instance $encoders
    (alias outer 1 $error (type $e'))
    (export "error" (type $e (eq $e')))
    (alias outer 1 $tensor (type $t'))
    (export "tensor" (type $t (eq $t')))
    (export "encoder" (type $encoder (sub resource)))
    (export "[static]encoder.open" (func
      (param "name" string) (result (result (own $encoder) (error $e)))))
    (export "[method]encoder.embed" (func
      (param "self" (borrow $encoder)) (param "texts" (list string))
      (result (result (own $t) (error $e)))))))
  (core func $open (canon lower (func $encoders "[static]encoder.open")
    (memory (core memory $memory "memory")) (realloc (core func $memory "realloc")) string-encoding=utf8))
  (core func $embed (canon lower (func $encoders "[method]encoder.embed")
    (memory (core memory $memory "memory")) (realloc (core func $memory "realloc")) string-encoding=utf8))
  (core instance $from-encoders (export "open" (func $open)) (export "embed" (func $embed)))
