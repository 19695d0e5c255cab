  (type $stream (stream u8))
  (core instance $from-concurrent)
