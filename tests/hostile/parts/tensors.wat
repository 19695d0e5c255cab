  (import "skep:tensor/tensors@0.1.0" (instance $tensors
    (alias outer 1 $error (type $e'))
    (export "error" (type $e (eq $e')))
    (type $dtype' (enum "f32" "f16" "bf16" "i32" "u8"))
    (export "dtype" (type $dtype (eq $dtype')))
    (export "tensor" (type $tensor (sub resource)))
    (type $made (result (own $tensor) (error $e)))
    (export "[static]tensor.zeros" (func
      (param "shape" (list u32)) (param "dtype" $dtype) (result $made)))
    (export "[method]tensor.matmul" (func
      (param "self" (borrow $tensor)) (param "other" (borrow $tensor)) (result $made)))
    (export "[method]tensor.add" (func
      (param "self" (borrow $tensor)) (param "other" (borrow $tensor)) (result $made)))
    (export "[method]tensor.dtype" (func (param "self" (borrow $tensor)) (result $dtype)))))
  (alias export $tensors "tensor" (type $tensor))
  (core func $zeros (canon lower (func $tensors "[static]tensor.zeros")
    (memory (core memory $memory "memory")) (realloc (core func $memory "realloc"))))
  (core func $matmul (canon lower (func $tensors "[method]tensor.matmul")
    (memory (core memory $memory "memory")) (realloc (core func $memory "realloc"))))
  (core func $add (canon lower (func $tensors "[method]tensor.add")
    (memory (core memory $memory "memory")) (realloc (core func $memory "realloc"))))
  (core func $dtype (canon lower (func $tensors "[method]tensor.dtype")))
  (core func $drop-tensor (canon resource.drop $tensor))
  (core instance $from-tensors
    (export "zeros" (func $zeros)) (export "matmul" (func $matmul)) (export "add" (func $add))
    (export "dtype" (func $dtype)) (export "drop" (func $drop-tensor)))
