  (import "skep:model/text@0.1.0" (instance $text
    (alias outer 1 $error (type $e'))
    (export "error" (type $e (eq $e')))
    (type $message' (record (field "role" string) (field "content" string)))
    (export "message" (type $message (eq $message')))
    (type $prompt' (variant
      (case "text" string) (case "chat" (list $message)) (case "tokens" (list u32))))
    (export "prompt" (type $prompt (eq $prompt')))
    (type $sampling' (record
      (field "temperature" f32) (field "top-k" u32) (field "top-p" f32) (field "min-p" f32)
      (field "repetition-penalty" f32) (field "presence-penalty" f32)
      (field "frequency-penalty" f32) (field "logit-bias" (list (tuple u32 f32)))
      (field "seed" (option u64))))
    (export "sampling" (type $sampling (eq $sampling')))
    (type $constraint' (variant
      (case "choices" (list string)) (case "regex" string) (case "json-schema" string)
      (case "lark" string)))
    (export "constraint" (type $constraint (eq $constraint')))
    (type $request' (record
      (field "prompt" $prompt) (field "max-tokens" u32) (field "sampling" (option $sampling))
      (field "stop" (list string)) (field "constraint" (option $constraint))
      (field "samples" u32) (field "logprobs" (option u32)) (field "adapter" (option string))))
    (export "request" (type $request (eq $request')))
    (type $finish' (enum "end" "stop" "length"))
    (export "finish" (type $finish (eq $finish')))
    (type $logprob' (record
      (field "token" u32) (field "logprob" f32) (field "likeliest" (list (tuple u32 f32)))))
    (export "token-logprob" (type $logprob (eq $logprob')))
    (type $completion' (record
      (field "text" string) (field "tokens" (list u32)) (field "finish" $finish)
      (field "logprobs" (list $logprob)) (field "prompt-tokens" u32)
      (field "cached-tokens" u32)))
    (export "completion" (type $completion (eq $completion')))
    (type $chunk' (record
      (field "request" u32) (field "sample" u32) (field "text" string)
      (field "tokens" (list u32)) (field "logprobs" (list $logprob))
      (field "finish" (option $finish))))
    (export "chunk" (type $chunk (eq $chunk')))
    (export "generation" (type $generation (sub resource)))
    (export "language-model" (type $model (sub resource)))
    (export "[method]generation.next" (func
      (param "self" (borrow $generation)) (result (result (list $chunk) (error $e)))))
    (export "[static]language-model.open" (func
      (param "name" string) (result (result (own $model) (error $e)))))
    (export "[method]language-model.generate" (func
      (param "self" (borrow $model)) (param "requests" (list $request))
      (result (result (list (result (list $completion) (error $e))) (error $e)))))
    (export "[method]language-model.start" (func
      (param "self" (borrow $model)) (param "requests" (list $request))
      (result (result (own $generation) (error $e)))))))
  (alias export $text "generation" (type $generation))
  (alias export $text "language-model" (type $model))
  (alias export $text "request" (type $text-request))
  (alias export $text "chunk" (type $text-chunk))
  (core func $open (canon lower (func $text "[static]language-model.open")
    (memory (core memory $memory "memory")) (realloc (core func $memory "realloc"))))
  (core func $generate (canon lower (func $text "[method]language-model.generate")
    (memory (core memory $memory "memory")) (realloc (core func $memory "realloc"))))
  (core func $start (canon lower (func $text "[method]language-model.start")
    (memory (core memory $memory "memory")) (realloc (core func $memory "realloc"))))
  (core func $next (canon lower (func $text "[method]generation.next")
    (memory (core memory $memory "memory")) (realloc (core func $memory "realloc"))))
  (core func $drop-generation (canon resource.drop $generation))
  (core instance $from-text
    (export "open" (func $open)) (export "generate" (func $generate))
    (export "start" (func $start)) (export "next" (func $next))
    (export "drop" (func $drop-generation)))
