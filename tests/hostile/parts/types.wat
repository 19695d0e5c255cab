  (import "skep:types/types@0.1.0" (instance $types
    (type $quota' (enum "device-memory" "device-work" "handles" "call-bytes" "output" "storage" "time"))
    (export "quota" (type $quota (eq $quota')))
    (type $excess' (record (field "quota" $quota) (field "limit" u64) (field "asked" u64)))
    (export "quota-excess" (type $excess (eq $excess')))
    (type $error' (variant
      (case "denied" string) (case "over-quota" $excess) (case "not-found" string)
      (case "invalid" string) (case "busy") (case "failed" string)))
    (export "error" (type $error (eq $error')))))
  (alias export $types "error" (type $error))
