;; uses: tensors
;; Uses a handle that it was never given.
(core module $guest
  (import "tensors" "dtype" (func $dtype (param i32) (result i32)))
  (func (export "run") (param i32 i32) (result i32) (call $dtype (i32.const 12345))))
