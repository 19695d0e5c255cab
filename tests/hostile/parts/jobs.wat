  (import "skep:jobs/jobs@0.1.0" (instance $jobs
    (alias outer 1 $error (type $e'))
    (export "error" (type $e (eq $e')))
    (type $plan' (record
      (field "package" string) (field "input" (list u8)) (field "labels" (option (list u8)))
      (field "arguments" (list string)) (field "shards" (option u32)) (field "replicas" u32)
      (field "audit" u32) (field "min-stake" u64) (field "max-price" u64) (field "deadline" u64)))
    (export "plan" (type $plan (eq $plan')))
    (type $options' (record
      (field "adapter" (option string)) (field "nodes" (list string)) (field "attested" bool)
      (field "warm" (option u64))))
    (export "options" (type $options (eq $options')))
    (type $state' (enum "running" "done" "failed"))
    (export "state" (type $state (eq $state')))
    (type $status' (record
      (field "state" $state) (field "reason" string) (field "shards" u32) (field "finished" u32)
      (field "spent" u64)))
    (export "status" (type $status (eq $status')))
    (export "job" (type $job (sub resource)))
    (export "submit" (func (param "plan" $plan) (result (result (own $job) (error $e)))))
    (export "submit-with" (func
      (param "plan" $plan) (param "options" $options) (result (result (own $job) (error $e)))))
    (export "find" (func (param "name" string) (result (result (own $job) (error $e)))))
    (export "[method]job.wait" (func
      (param "self" (borrow $job)) (param "milliseconds" u32) (result (result $status (error $e)))))
    (export "[method]job.read" (func
      (param "self" (borrow $job)) (param "offset" u64) (param "length" u32)
      (result (result (list u8) (error $e)))))))
  (core func $submit (canon lower (func $jobs "submit")
    (memory (core memory $memory "memory")) (realloc (core func $memory "realloc"))))
  (core func $submit-with (canon lower (func $jobs "submit-with")
    (memory (core memory $memory "memory")) (realloc (core func $memory "realloc"))))
  (core func $find (canon lower (func $jobs "find")
    (memory (core memory $memory "memory")) (realloc (core func $memory "realloc"))))
  (core func $wait (canon lower (func $jobs "[method]job.wait")
    (memory (core memory $memory "memory")) (realloc (core func $memory "realloc"))))
  (core func $read-result (canon lower (func $jobs "[method]job.read")
    (memory (core memory $memory "memory")) (realloc (core func $memory "realloc"))))
  (core instance $from-jobs
    (export "submit" (func $submit)) (export "submit-with" (func $submit-with))
    (export "find" (func $find)) (export "wait" (func $wait)) (export "read" (func $read-result)))
