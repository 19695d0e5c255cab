  (type $own-resource (resource (rep i32)))
  (core func $new (canon resource.new $own-resource))
  (core instance $from-resource (export "new" (func $new)))
