  (import "skep:model/encoders@0.1.0" (instance $classing
    (alias outer 1 $error (type $e'))
    (export "error" (type $e (eq $e')))
    (alias outer 1 $tensor (type $t'))
    (export "tensor" (type $t (eq $t')))
    (export "encoder" (type $encoder (sub resource)))
    (export "[static]encoder.open" (func
      (param "name" string) (result (result (own $encoder) (error $e)))))
    (export "[method]encoder.with-adapter" (func
      (param "self" (borrow $encoder)) (param "name" string)
      (result (result (own $encoder) (error $e)))))
    (export "[method]encoder.classes" (func
      (param "self" (borrow $encoder)) (result (list string))))
    (export "[method]encoder.classify" (func
      (param "self" (borrow $encoder)) (param "texts" (list string))
      (result (result (own $t) (error $e)))))))
  (core func $open (canon lower (func $classing "[static]encoder.open")
    (memory (core memory $memory "memory")) (realloc (core func $memory "realloc"))))
  (core func $with-adapter (canon lower (func $classing "[method]encoder.with-adapter")
    (memory (core memory $memory "memory")) (realloc (core func $memory "realloc"))))
  (core func $classes (canon lower (func $classing "[method]encoder.classes")
    (memory (core memory $memory "memory")) (realloc (core func $memory "realloc"))))
  (core func $classify (canon lower (func $classing "[method]encoder.classify")
    (memory (core memory $memory "memory")) (realloc (core func $memory "realloc"))))
  (core instance $from-classes
    (export "open" (func $open)) (export "with-adapter" (func $with-adapter))
    (export "classes" (func $classes)) (export "classify" (func $classify)))
