//! A scheduler that tests drive step by step, and what its requests are told.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, LazyLock, Mutex};

use skep_engine::adapters::{AdapterStore, read};
use skep_engine::scheduler::{Delivery, Event, Options, Prepared, Scheduler, Task, store_options};
use skep_engine::{Backend, Caller, EngineError, LanguageModel};
use skep_kernels::kv::KvFormat;

use super::backend::backend;
use super::{adapter, drafted, model};

pub static MODEL: LazyLock<Arc<LanguageModel>> = LazyLock::new(model);
pub static BACKEND: LazyLock<Box<dyn Backend>> = LazyLock::new(|| backend(1));

/// With a draft model that is the model itself, whose guesses are always right.
pub static TWIN: LazyLock<Arc<LanguageModel>> = LazyLock::new(|| drafted("llama"));

pub fn options(pages: usize) -> Options {
    Options {
        pages,
        kv_format: KvFormat::F32,
        batch_texts: 5,
        batch_tokens: 40,
        ..Options::default()
    }
}

/// A scheduler, and what its requests are prepared with.
pub struct World {
    pub scheduler: Scheduler,
    pub model: Arc<LanguageModel>,
    pub options: Options,
    pub adapters: Arc<Mutex<AdapterStore>>,
}

impl World {
    pub fn new(options: Options) -> Self {
        Self::of(&MODEL, options)
    }

    pub fn of(model: &Arc<LanguageModel>, options: Options) -> Self {
        Self::on(&**BACKEND, model, options)
    }

    pub fn on(backend: &dyn Backend, model: &Arc<LanguageModel>, options: Options) -> Self {
        let adapters = AdapterStore::new(store_options(model, &options)).unwrap();
        let adapters = Arc::new(Mutex::new(adapters));
        let scheduler = Scheduler::new(
            Arc::clone(model),
            backend,
            options.clone(),
            Arc::clone(&adapters),
        );
        Self {
            scheduler: scheduler.unwrap(),
            model: Arc::clone(model),
            options,
            adapters,
        }
    }

    /// Adds an adapter, or gives a name to another.
    pub fn adapt(&self, name: &str, which: &str) {
        let options = store_options(&self.model, &self.options);
        let weights = read(&options, &adapter(which)).unwrap();
        let mut adapters = self.adapters.lock().unwrap();
        adapters.put(name, which, adapter(which), weights);
    }

    pub fn prepare(&self, task: Task) -> Result<Prepared, EngineError> {
        Prepared::new(&self.model, &self.options, &self.adapters, task)
    }

    pub fn submit(&mut self, caller: Caller, task: Task) -> Result<u64, EngineError> {
        let prepared = self.prepare(task)?;
        self.scheduler.submit(caller, prepared)
    }
}

/// A text that begins as others do: `family` says with which, `length` how much of it there is.
pub fn text(family: u32, length: usize) -> Vec<u32> {
    (0..length as u32)
        .map(|n| 3 + (family * 7 + n * n + n / 20 * family) % 157)
        .collect()
}

/// What a request was told.
#[derive(Default)]
pub struct Told {
    pub written: BTreeMap<usize, Vec<u32>>,
    pub scores: BTreeMap<usize, f32>,
    pub mean: Option<Vec<f32>>,
    pub over: bool,
}

pub fn take(told: &mut HashMap<u64, Told>, deliveries: Vec<Delivery>) {
    for delivery in deliveries {
        let told = told.get_mut(&delivery.group).expect("it was asked for");
        assert!(!told.over, "told something after the end");
        match delivery.event {
            Event::Chunk(chunk) => {
                let text = told.written.entry(chunk.sample).or_default();
                text.extend(chunk.tokens);
            }
            Event::Scored { choice, score } => {
                told.scores.insert(choice, score.logprob);
            }
            Event::Embedded(mean) => told.mean = Some(mean),
            Event::Followed(text) => panic!("nobody asked for a check: {text:?}"),
            Event::Failed(error) => panic!("{error}"),
        }
        told.over = delivery.over;
    }
}
