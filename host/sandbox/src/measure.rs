//! What a call between guest and host costs by itself, for the benchmarks. It is measured in
//! here because nobody outside sees the engines: on the very engine that programs run on, in a
//! store with every limit in place, and without any interface of the contract.
//!
//! Nothing here is reached by a run.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::runtime::Runtime;
use wasmtime::component::{Component, Linker};

use crate::engine::EngineKind;
use crate::run::{open, spec::RunSpec, state};
use crate::sandbox::Sandbox;
use crate::task_io::TaskIo;

/// A guest that calls a host function without parameters and results `count` times.
const CALLER: &str = r#"
(component
  (import "nothing" (func $nothing))
  (core func $lowered (canon lower (func $nothing)))
  (core module $guest
    (import "host" "nothing" (func $nothing))
    (func (export "run") (param $count i32)
      (loop $again
        (call $nothing)
        (local.set $count (i32.sub (local.get $count) (i32.const 1)))
        (br_if $again (local.get $count)))))
  (core instance $run (instantiate $guest
    (with "host" (instance (export "nothing" (func $lowered))))))
  (func (export "run") (param "count" u32) (canon lift (core func $run "run"))))
"#;

impl Sandbox {
    /// Times `count` synchronous calls from a guest to a host function that does nothing.
    ///
    /// # Errors
    /// Whatever wasmtime says; the guest is a fixed one, so that it says nothing.
    #[doc(hidden)]
    pub fn time_empty_calls(
        &self,
        kind: EngineKind,
        count: u32,
        spec: &Arc<RunSpec>,
        runtime: &Runtime,
    ) -> Result<Duration, String> {
        let host = self.engines.get(kind)?;
        let timed = runtime.block_on(async {
            let component = Component::new(&host.engine, CALLER)?;
            let mut linker = Linker::new(&host.engine);
            linker.root().func_wrap("nothing", |_, (): ()| Ok(()))?;
            let limits = self.limits_of(spec);
            let state = state(spec, limits, &self.threads, TaskIo::default());
            let mut store = open(host, state);
            let _ticking = self.engines.ticker.run();
            let instance = linker.instantiate_async(&mut store, &component).await?;
            let run = instance.get_typed_func::<(u32,), ()>(&mut store, "run")?;
            let began = Instant::now();
            run.call_async(&mut store, (count.max(1),)).await?;
            wasmtime::Result::<_>::Ok(began.elapsed())
        });
        timed.map_err(|error| format!("{error:#}"))
    }
}
