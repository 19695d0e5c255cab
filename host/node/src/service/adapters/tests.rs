//! Versions of an adapter come, take each other's place and go, while texts are being written.

use std::cell::Cell;
use std::future::poll_fn;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use skep_engine::{Caller, Chunk, Priority, Request as TextRequest};
use skep_registry::Digest;
use skep_sandbox::{LanguageModel, ModelError, Models, Residency, TextAdapter, TextGeneration};
use skep_swarm::Installed;
use skep_tensor::{Account, Limits, QuotaKind};
use skep_tests::random::{self, Attention, Shape};
use tokio::runtime::Handle;
use tokio::sync::mpsc;

use super::encoders::OfEncoder;
use super::{Applied, Wanted, package_of};
use crate::config::Config;
use crate::embedded;
use crate::home::Home;
use crate::keys;
use crate::requests::{Request, Response};
use crate::service::Service;
use crate::service::locate;
use crate::service::models::{Adapters, DefaultLanguage, RunModels};

/// A node, and what a run on it may open. Its calls are those of a run: they wait on the thread.
struct World {
    folder: tempfile::TempDir,
    service: Arc<Service>,
    models: RunModels,
    base: Digest,
    runtime: Handle,
}

impl World {
    /// A node that knows a tiny model.
    async fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let home = folder.path().join("home");
        skep_tests::set_up(&home).unwrap();
        let home = Home::open(Some(home)).unwrap();
        keys::create(&home, "default").unwrap();
        let service = Service::new(home.clone(), Config::load(&home).unwrap());
        let service = Arc::new(service.unwrap());
        let file = folder.path().join("tiny.gguf");
        random::gguf(&file, &Shape::TINY, 1).unwrap();
        let base = Digest::of(&std::fs::read(&file).unwrap());
        service.models.add("tiny", base, &file).unwrap();
        let runtime = Handle::current();
        let models = RunModels {
            node: Arc::clone(&service.models),
            encoder: embedded::ENCODER.digest().to_string(),
            language: DefaultLanguage::Chosen(base.to_string()),
            trained_encoder: None,
            adapters: Some(Adapters {
                swarm: service.swarm().await.unwrap().clone(),
                runtime: runtime.clone(),
            }),
            voices: Vec::new(),
            applied: None,
            home,
        };
        Self {
            folder,
            service,
            models,
            base,
            runtime,
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn ask(&self, request: Request) -> Response {
        let (progress, _) = mpsc::channel(1);
        let answer = self.service.answer(request, progress);
        self.runtime.block_on(answer).unwrap()
    }

    /// Adds a random adapter as a version of `voice`.
    fn add(&self, version: &str, rank: usize, seed: u64) {
        self.add_as("voice", version, rank, seed);
    }

    fn add_as(&self, name: &str, version: &str, rank: usize, seed: u64) {
        let folder = self.path(&format!("{name}-{version}"));
        self.write_adapter(&folder, rank, seed);
        self.add_folder(folder, name, version, &text(&self.path("tiny.gguf")));
    }

    fn write_adapter(&self, folder: &Path, rank: usize, seed: u64) {
        let base = Attention {
            layers: Shape::TINY.layers,
            width: Shape::TINY.width,
            queries: Shape::TINY.width,
            values: Shape::TINY.width / Shape::TINY.heads * Shape::TINY.kv_heads,
        };
        random::adapter(folder, &base, "tiny", rank, seed).unwrap();
    }

    fn add_folder(&self, path: PathBuf, name: &str, version: &str, base: &str) {
        self.ask(Request::AdapterAdd {
            path,
            base: Some(base.to_owned()),
            name: name.to_owned(),
            version: version.to_owned(),
            key: "default".to_owned(),
        });
    }

    /// Adds two adapters with magnitudes of this rank, one of the model and one of the encoder that comes
    /// with skep. Returns what they are called, and the operations of measuring what they change.
    fn add_measured(&self, rank: usize) -> [(&'static str, u64); 2] {
        self.add_encoder();
        let (width, encoder) = (Shape::TINY.width, &embedded::ENCODER);
        let [voice, desk] = ["voice", "desk"].map(|name| self.path(name));
        self.write_adapter(&voice, rank, 1);
        random::encoder_adapter(&desk, (3, 192), encoder.name, rank, 1).unwrap();
        for folder in [&voice, &desk] {
            random::add_magnitudes(folder).unwrap();
        }
        self.add_folder(voice, "voice", "1.0.0", &text(&self.path("tiny.gguf")));
        self.add_folder(desk, "desk", "1.0.0", encoder.name);
        let values = width / Shape::TINY.heads * Shape::TINY.kv_heads;
        let elements = [Shape::TINY.layers * width * (width + values), 3 * 192 * 192];
        let [voice, desk] = elements.map(|elements| 2 * (elements * (rank + 1)) as u64);
        [("voice", voice), ("desk", desk)]
    }

    /// Makes the encoder known that comes with skep.
    fn add_encoder(&self) {
        let base = &embedded::ENCODER;
        let folder = base.folder(&self.models.home).unwrap();
        let models = &self.service.models;
        models.add(base.name, base.digest(), &folder).unwrap();
    }

    /// Adds a random adapter of that encoder.
    fn add_for_encoder(&self, name: &str, seed: u64) {
        let base = &embedded::ENCODER;
        let folder = self.path(name);
        random::encoder_adapter(&folder, (3, 192), base.name, 4, seed).unwrap();
        self.add_folder(folder, name, "1.0.0", base.name);
    }

    fn installed(&self, adapter: &str) -> Installed {
        let found = locate::installed(&self.service, adapter);
        self.runtime.block_on(found).unwrap()
    }

    fn open(&self) -> Result<Arc<dyn TextAdapter>, ModelError> {
        self.models.open_adapter("voice", &Account::unlimited())
    }

    /// What a run may open that does everything with an installed adapter.
    fn applying(&self, adapter: &str) -> RunModels {
        RunModels {
            node: Arc::clone(&self.service.models),
            encoder: self.models.encoder.clone(),
            language: DefaultLanguage::Chosen(self.base.to_string()),
            trained_encoder: None,
            adapters: None,
            voices: Vec::new(),
            applied: Some(Applied::new(self.installed(adapter))),
            home: self.models.home.clone(),
        }
    }

    fn model(&self) -> Arc<dyn LanguageModel> {
        let account = Account::unlimited();
        self.models.open_text("default", &account).unwrap()
    }

    /// Begins to write with an adapter, or with none.
    fn begin(&self, adapter: Option<&dyn TextAdapter>, tokens: usize) -> Writing<'_> {
        self.begin_by(&*self.model(), adapter, tokens)
    }

    fn begin_by(
        &self,
        model: &dyn LanguageModel,
        adapter: Option<&dyn TextAdapter>,
        tokens: usize,
    ) -> Writing<'_> {
        let caller = Caller {
            account: Account::new(Limits::UNLIMITED),
            owner: 1,
            priority: Priority::Normal,
        };
        let request = TextRequest {
            adapter: adapter.map(TextAdapter::engine_name),
            ..TextRequest::greedy((1..30).collect(), tokens)
        };
        Writing {
            texts: model.generate(&caller, vec![request]),
            runtime: &self.runtime,
        }
    }

    fn write(&self, adapter: &dyn TextAdapter) -> Vec<u32> {
        self.begin(Some(adapter), 60).rest()
    }

    /// The versions that the model's engine has.
    fn held(&self) -> Vec<String> {
        let engine = self.models.node.languages.engine(&self.base).unwrap();
        let adapters = engine.unwrap().adapters().into_iter();
        adapters.map(|adapter| adapter.version).collect()
    }
}

/// A text that is being written.
struct Writing<'a> {
    texts: Box<dyn TextGeneration>,
    runtime: &'a Handle,
}

impl Writing<'_> {
    fn next(&mut self) -> Option<Vec<Chunk>> {
        let next = poll_fn(|context| self.texts.poll_next(context));
        self.runtime.block_on(next).unwrap()
    }

    /// The tokens that are still to come.
    fn rest(mut self) -> Vec<u32> {
        let mut tokens = Vec::new();
        while let Some(chunks) = self.next() {
            tokens.extend(chunks.into_iter().flat_map(|chunk| chunk.tokens));
        }
        tokens
    }
}

fn text(path: &Path) -> String {
    path.to_str().unwrap().to_owned()
}

/// Runs a test as runs ask: on a thread that may wait.
async fn on_a_thread(test: impl FnOnce(&World) + Send + 'static) {
    let world = World::new().await;
    let world = tokio::task::spawn_blocking(move || {
        test(&world);
        world
    });
    world.await.unwrap().service.shutdown().await;
}

/// Whether a call on another thread comes to its end within a time that is far longer than it takes.
fn is_answered(call: impl FnOnce() + Send + 'static) -> bool {
    let (sender, answered) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        call();
        // Nobody listens any more if it took too long.
        let _ = sender.send(());
    });
    answered.recv_timeout(Duration::from_secs(30)).is_ok()
}

/// Where an engine stops after some more batches once it is closed.
#[derive(Default)]
struct Gate {
    /// How many batches may still pass; any number while it is open.
    left: Mutex<Option<usize>>,
    opened: Condvar,
}

impl Gate {
    /// What a text has been given may be read before its last batch has passed, so one of these is
    /// perhaps not of the next text. The others are enough for its first token, and, with all that
    /// may be guessed ahead, too few for sixty.
    const BATCHES: usize = 4;

    fn close(&self) {
        *self.lock() = Some(Self::BATCHES);
    }

    fn open(&self) {
        *self.lock() = None;
        self.opened.notify_all();
    }

    fn pass(&self) {
        let shut = |left: &mut Option<usize>| *left == Some(0);
        let left = self.opened.wait_while(self.lock(), shut);
        if let Some(left) = left.unwrap_or_else(PoisonError::into_inner).as_mut() {
            *left -= 1;
        }
    }

    fn lock(&self) -> MutexGuard<'_, Option<usize>> {
        self.left.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Opens a gate whatever becomes of the test, so that the engine can end.
struct Opens(Arc<Gate>);

impl Drop for Opens {
    fn drop(&mut self) {
        self.0.open();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_text_in_flight_finishes_on_the_version_that_it_began_with() {
    on_a_thread(|world| {
        let gate = Arc::new(Gate::default());
        let engine = world.models.node.languages.engine(&world.base);
        let at_gate = Arc::clone(&gate);
        engine.unwrap().unwrap().give_way_to(move || {
            at_gate.pass();
            false
        });
        world.add("0.1.0", 4, 1);
        let old = world.open().unwrap();
        let expected = world.write(&*old);
        let _opens = Opens(Arc::clone(&gate));
        gate.close();
        let mut flight = world.begin(Some(&*old), 60);
        let begun = flight.next().unwrap();
        let mut tokens: Vec<u32> = begun.into_iter().flat_map(|chunk| chunk.tokens).collect();
        assert!(tokens.len() < expected.len(), "it is written already");
        // Only the text still has the old version when the new one comes.
        drop(old);
        world.add("0.2.0", 8, 2);
        let new = world.open().unwrap();
        assert_eq!(world.held(), ["0.2.0"]);
        gate.open();
        assert_ne!(world.write(&*new), expected);
        tokens.extend(flight.rest());
        assert_eq!(tokens, expected);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_has_a_version_open_keeps_it_when_it_is_replaced_or_removed() {
    on_a_thread(|world| {
        world.add("0.1.0", 4, 1);
        let old = world.open().unwrap();
        let expected = world.write(&*old);
        world.add("0.2.0", 8, 2);
        let new = world.open().unwrap();
        assert_ne!(old.info().digest, new.info().digest);
        assert_eq!((old.info().rank, new.info().rank), (4, 8));
        assert_eq!(world.held().len(), 2);
        assert_eq!(world.write(&*old), expected);
        let other = world.write(&*new);
        assert_ne!(other, expected);
        // The same version is opened once for all who ask.
        assert!(Arc::ptr_eq(&new, &world.open().unwrap()));

        drop(old);
        let package = "voice".to_owned();
        world.ask(Request::AdapterRemove { package });
        assert!(matches!(world.open(), Err(ModelError::NotFound(_))));
        assert_eq!(world.held(), ["0.2.0"]);
        assert_eq!(world.write(&*new), other);
        drop(new);
        world.add("0.3.0", 4, 1);
        let again = world.open().unwrap();
        assert_eq!(world.held(), ["0.3.0"]);
        assert_eq!(world.write(&*again), expected);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_with_an_adapter_has_it_by_every_name_of_its_base() {
    on_a_thread(|world| {
        world.add("1.0.0", 4, 1);
        let run = world.applying("voice");
        let plain = world.begin(None, 40).rest();
        let written = |name: &str| {
            let model = run.open_text(name, &Account::unlimited()).unwrap();
            world.begin_by(&*model, None, 40).rest()
        };
        let changed = written("default");
        assert_ne!(changed, plain);
        for name in ["tiny".to_owned(), world.base.to_string()] {
            assert_eq!(written(&name), changed, "{name}");
        }

        let base = &embedded::ENCODER;
        world.add_encoder();
        world.add_for_encoder("desk", 1);
        let run = world.applying("desk");
        let rows_of = |models: &RunModels, name: &str| {
            let account = Account::new(Limits::UNLIMITED);
            let encoder = models.open(name, &account).unwrap();
            let rows = encoder.embed(&["I was charged twice".to_owned()], &account);
            rows.unwrap().to_f32().unwrap()
        };
        let plain = rows_of(&world.models, "default");
        let changed = rows_of(&run, "default");
        assert_ne!(changed, plain);
        for name in [base.name.to_owned(), base.digest().to_string()] {
            assert_eq!(rows_of(&run, &name), changed, "{name}");
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_adapter_comes_to_the_device_when_it_is_opened() {
    on_a_thread(|world| {
        world.add("0.1.0", 4, 1);
        let adapter = world.open().unwrap();
        // What is asked of an engine is done in turn, so the adapter has come before this text.
        world.begin(None, 1).rest();
        assert_eq!(adapter.residency(), Residency::Device);
        let info = adapter.info();
        assert_eq!(
            (info.name.as_str(), info.base_name.as_str()),
            ("voice", "tiny")
        );
        assert_eq!(info.base, world.base.to_string());
        assert!(info.bytes > 0);
    })
    .await;
}

/// Reading one with magnitudes takes as long as measuring all that it changes.
#[tokio::test(flavor = "multi_thread")]
async fn others_are_opened_while_one_is_being_read() {
    on_a_thread(|world| {
        for (name, seed) in [("voice", 1), ("slow", 2)] {
            world.add_as(name, "0.1.0", 4, seed);
        }
        let [voice, slow] = ["voice", "slow"].map(|name| world.installed(name));
        let node = &world.service.models;
        let engine = node.languages.engine(&world.base).unwrap().unwrap();
        let wanted = Wanted {
            package: package_of(&slow.release),
            digest: slow.release.digest(),
            version: slow.release.version().to_string(),
            base: slow.release.adapter().unwrap().base.clone(),
            files: slow.files,
        };
        let was_read = Cell::new(false);
        let read = |wanted: &Wanted| {
            was_read.set(true);
            let (node, voice) = (Arc::clone(node), voice.clone());
            let others = move || {
                let account = Account::unlimited();
                let open = node.adapters.open(&node.languages, &voice, &account);
                assert_eq!(open.unwrap().info().name, "voice");
                assert!(node.adapters.holds(&voice.release.digest()));
            };
            assert!(is_answered(others), "they wait for what is read");
            engine.add_adapter(&wanted.digest.to_string(), &wanted.version, &wanted.files)
        };
        let account = Account::unlimited();
        let adapters = &node.adapters;
        let opened = adapters.open_in(engine.clone(), wanted, &account, read);
        assert_eq!(opened.unwrap().info().name, "slow");
        assert!(was_read.get(), "it was there before");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn others_are_opened_while_one_of_an_encoder_is_being_read() {
    on_a_thread(|world| {
        world.add_encoder();
        for (name, seed) in [("counter", 1), ("desk", 2)] {
            world.add_for_encoder(name, seed);
        }
        let [counter, desk] = ["counter", "desk"].map(|name| world.installed(name));
        let node = &world.service.models;
        let base = embedded::ENCODER.digest();
        let account = Account::unlimited();
        let encoder = world.models.open("default", &account);
        let encoder = encoder.unwrap().encoder().unwrap();
        let mut was_read = false;
        let read = || {
            was_read = true;
            let (node, counter, own) = (Arc::clone(node), counter.clone(), encoder.clone());
            let others = move || {
                let (adapters, account) = (&node.adapters, Account::unlimited());
                let open = adapters.open_for_encoder(&own, &base, &counter, &account);
                assert_eq!(open.unwrap().info().name, "counter");
                assert!(adapters.holds(&counter.release.digest()));
            };
            assert!(is_answered(others), "they wait for what is read");
            OfEncoder::read(&encoder, &base, &desk, &account)
        };
        let opened = node.adapters.encoders.open_by(&desk, &account, read);
        assert_eq!(opened.unwrap().info().name, "desk");
        assert!(was_read, "it was there before");
    })
    .await;
}

/// Of a run that others repeat, all have to come to the same, whoever has read the adapter before.
#[tokio::test(flavor = "multi_thread")]
async fn each_opening_is_charged_what_measuring_takes_wherever_the_adapter_is() {
    on_a_thread(|world| {
        let node = &world.service.models;
        for (name, flops) in world.add_measured(4) {
            let digest = world.installed(name).release.digest();
            let open = |account: &Account| world.models.open_adapter(name, account);
            let is_refused = |account: &Account, quota: QuotaKind| {
                let refused = open(account).err();
                let is_so =
                    matches!(refused, Some(ModelError::Quota(error)) if error.quota == quota);
                is_so && account.usage().flops == 0
            };
            let cancelled = Account::unlimited();
            cancelled.cancel();
            let poor = Account::new(Limits {
                device_work: flops - 1,
                ..Limits::UNLIMITED
            });
            // Nothing is left of one that was not read to its end.
            for (account, quota) in [
                (&cancelled, QuotaKind::Time),
                (&poor, QuotaKind::DeviceWork),
            ] {
                assert!(is_refused(account, quota), "{name}");
                assert!(!node.adapters.holds(&digest), "{name}");
            }
            assert_eq!(world.held().len(), usize::from(name == "desk"), "{name}");
            // It is read for the first, here and let go for the second, and open for the third.
            let charged = || {
                let account = Account::unlimited();
                let opened = open(&account).unwrap();
                (opened, account.usage().flops)
            };
            assert_eq!(charged().1, flops, "{name}");
            let (_open, second) = charged();
            assert_eq!((second, charged().1), (flops, flops), "{name}");
            assert!(is_refused(&poor, QuotaKind::DeviceWork), "{name}");

            // A run that does everything with it pays once, for the first model that it opens.
            let run = world.applying(name);
            let account = Account::unlimited();
            for _ in 0..2 {
                match name {
                    "voice" => drop(run.open_text("default", &account).unwrap()),
                    _ => drop(run.open("default", &account).unwrap()),
                }
                assert_eq!(account.usage().flops, flops, "{name}");
            }
        }
    })
    .await;
}
