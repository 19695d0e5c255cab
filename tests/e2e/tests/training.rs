//! Training in the sandbox: what a hostile recipe tries is refused before it costs anything, an honest
//! one trains the embedded language model to the same adapter whenever it is interrupted, and every
//! loss is what it is said to be.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "training/endings.rs"]
mod endings;
mod language;
#[path = "training/losses.rs"]
mod losses;
#[path = "language/served.rs"]
mod served;

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, LazyLock, Mutex};
use std::time::Duration;

use language::{Native, mini_lm};
use serde_json::json;
use served::{DIGEST, Served, Shelf, as_asked};
use skep_registry::{Grants, Limits};
use skep_sandbox::{
    Cancel, Program, Quota, RunError, RunReport, RunSpec, Sandbox, SandboxConfig, SavedAdapter,
    TrainingProgress, TrainingRoom,
};
use skep_tests::{Built, compiled, lessons};
use skep_train::device::{PassDevice, TrainingDevice};
use skep_train::{Base, TrainError};
use skep_train_device::{Compute, Place, TrainingPlace};

static SANDBOX: LazyLock<Sandbox> = LazyLock::new(|| {
    let config = SandboxConfig {
        cache_dir: Some(compiled::folder().unwrap()),
        ..SandboxConfig::default()
    };
    Sandbox::new(config).unwrap()
});
static MODEL: LazyLock<Arc<Served>> =
    LazyLock::new(|| Arc::new(Served(Native::load(&mini_lm()).engine, as_asked)));

/// A room that is asked to stop after some step.
struct Room {
    folder: tempfile::TempDir,
    stop_after: Mutex<Option<u64>>,
    seen: Mutex<Vec<TrainingProgress>>,
    saved: Mutex<Vec<SavedAdapter>>,
    device: Option<Arc<Burn>>,
}

impl Room {
    fn new(stop_after: Option<u64>) -> Arc<Self> {
        Arc::new(Self::on(None, stop_after))
    }

    fn on(device: Option<Arc<Burn>>, stop_after: Option<u64>) -> Self {
        Self {
            folder: tempfile::tempdir().unwrap(),
            stop_after: Mutex::new(stop_after),
            seen: Mutex::default(),
            saved: Mutex::default(),
            device,
        }
    }

    fn seen(&self) -> Vec<TrainingProgress> {
        self.seen.lock().unwrap().clone()
    }

    fn files(&self) -> Vec<String> {
        let entries = fs::read_dir(self.folder.path()).unwrap();
        let mut names: Vec<String> = entries
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }
}

impl TrainingRoom for Room {
    fn folder(&self) -> &Path {
        self.folder.path()
    }

    fn progress(&self, progress: &TrainingProgress) {
        self.seen.lock().unwrap().push(*progress);
    }

    fn is_to_stop(&self) -> bool {
        let after = *self.stop_after.lock().unwrap();
        let seen = self.seen.lock().unwrap();
        after.is_some_and(|after| seen.last().is_some_and(|last| last.step >= after))
    }

    fn saved(&self, saved: &SavedAdapter) -> std::io::Result<()> {
        self.saved.lock().unwrap().push(saved.clone());
        Ok(())
    }

    fn device(&self) -> Option<Arc<dyn TrainingDevice>> {
        self.device.clone().map(|device| device as _)
    }
}

/// Burn's processor backend in the place of a card: the same passes, where there is no card.
#[derive(Debug, Default)]
struct Burn {
    bases: AtomicUsize,
}

impl TrainingDevice for Burn {
    fn upload(
        &self,
        base: &Base,
        account: &skep_accounts::Account,
    ) -> Result<Arc<dyn PassDevice>, TrainError> {
        self.bases.fetch_add(1, Ordering::Relaxed);
        let place = TrainingPlace {
            place: Place::Processor,
            compute: Compute::F32,
        };
        place.upload(base, account)
    }
}

fn load(name: &str) -> Arc<Program> {
    let bytes = fs::read(Built::component(name)).unwrap_or_else(|error| {
        panic!("{name} is not built ({error}); `cargo xtask guests` builds it")
    });
    Arc::new(SANDBOX.load(bytes).unwrap())
}

fn spec(room: Option<&Arc<Room>>, limits: Limits) -> RunSpec {
    RunSpec {
        grants: Grants {
            // A component in Python imports all of its world.
            tensor: true,
            models: ["default".parse().unwrap()].into(),
            ..Grants::default()
        },
        limits,
        models: Some(Arc::new(Shelf(Arc::clone(&MODEL)))),
        training: room.map(|room| Arc::clone(room) as Arc<dyn TrainingRoom>),
        ..RunSpec::default()
    }
}

fn train(
    recipe: &str,
    spec: &RunSpec,
    settings: &[(&str, &str)],
    data: &str,
) -> Result<RunReport, RunError> {
    train_by(&load(recipe), spec, settings, data)
}

/// The same by a recipe that was loaded before.
fn train_by(
    recipe: &Arc<Program>,
    spec: &RunSpec,
    settings: &[(&str, &str)],
    data: &str,
) -> Result<RunReport, RunError> {
    let settings: Vec<_> = settings
        .iter()
        .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
        .collect();
    let (input, output) = (data.as_bytes(), std::io::sink());
    SANDBOX
        .train(recipe, spec, &settings, input, output, &Cancel::new())
        .map_err(|failed| failed.error)
}

/// Limits that a hostile recipe meets soon.
fn tight() -> Limits {
    Limits {
        device_memory: Some(64 << 20),
        storage: Some(4 << 20),
        time: Some(Duration::from_secs(120)),
        cpu_time: Some(Duration::from_secs(60)),
        ..Limits::default()
    }
}

/// How a deed ends, and what is in its room then.
fn ends(deed: &str, limits: Limits) -> (RunError, Vec<String>) {
    let room = Room::new(None);
    let refused = train(
        "hostile-trainer",
        &spec(Some(&room), limits),
        &[("deed", deed)],
        "",
    );
    let refused = refused.expect_err("it must not be let through");
    // Whatever was refused, the node goes on.
    assert!(
        !matches!(refused, RunError::HostBug(_)),
        "{deed}: {refused}"
    );
    (refused, room.files())
}

#[test]
fn what_no_trainer_can_be_or_do_is_said_to_be_so() {
    for (deed, says) in [
        ("rank", "the rank is 4294967295; it must be from 1 to 1024"),
        ("alpha", "alpha is NaN"),
        ("pattern", "the pattern of target modules"),
        ("targets", "100000 target modules"),
        ("classes", "the number of classes is 4294967295"),
        ("secret", "grants.models: \"secret\""),
        ("secret-adapter", "grants.adapters: \"secret\""),
        ("batch", "70000 examples in a batch"),
        ("tokens", "1100000 tokens in a batch"),
        ("context", "it has 100000 tokens and the model's context is"),
        ("token", "4294967295"),
        ("weights", "one of its weights is not finite"),
        ("divisor", "the divisor of the loss is NaN"),
        ("beta", "beta is NaN"),
        ("empty", "nothing to learn from"),
        ("early-step", "no gradient has been computed"),
        ("learning-rate", "the learning rate is NaN"),
        ("samples", "100000 prompts in one call"),
        ("escape", "a checkpoint's name is"),
        ("note", "5242880 bytes beside a checkpoint"),
        ("card", "70000 bytes of a model card"),
    ] {
        let (refused, files) = ends(deed, tight());
        let text = refused.to_string();
        assert!(
            matches!(refused, RunError::Guest(_)) && text.contains(says),
            "{deed}: {text}"
        );
        assert_eq!(files, [] as [&str; 0], "{deed}");
    }
}

#[test]
fn what_would_pass_a_limit_is_refused_by_its_name() {
    for (deed, quota, limit) in [
        ("largest-rank", Quota::DeviceMemory, 64 << 20),
        ("activations", Quota::DeviceMemory, 64 << 20),
        ("work", Quota::DeviceWork, 40_000_000_000),
        ("trainers", Quota::Handles, 4),
        ("storage", Quota::Storage, 4 << 20),
    ] {
        let limits = Limits {
            device_work: (deed == "work").then_some(40_000_000_000),
            ..tight()
        };
        let (refused, _) = ends(deed, limits);
        assert!(
            matches!(&refused, RunError::Quota(excess)
                if excess.quota == quota && excess.limit == limit && excess.asked > limit),
            "{deed}: {refused}"
        );
    }
    // Room enough, and still no more than eight.
    let room = Room::new(None);
    let limits = Limits::default();
    let deed = [("deed", "names")];
    let refused = train("hostile-trainer", &spec(Some(&room), limits), &deed, "").unwrap_err();
    assert!(
        refused.to_string().contains("there are 8 checkpoints"),
        "{refused}"
    );
    assert_eq!(room.files().len(), 8);
}

#[test]
fn who_was_not_started_to_train_does_not() {
    let denied = |spec: &RunSpec| {
        let run = SANDBOX.run_task(
            &load("hostile-trainer"),
            spec,
            &[],
            std::io::empty(),
            std::io::sink(),
            &Cancel::new(),
        );
        run.unwrap_err().error.to_string()
    };
    assert!(denied(&spec(None, tight())).contains("only a run that `skep finetune` starts"));
    let nothing = RunSpec {
        grants: Grants::default(),
        ..spec(Some(&Room::new(None)), tight())
    };
    let refused = denied(&nothing);
    assert!(
        refused.contains("skep:train/training") && refused.contains("models = "),
        "{refused}"
    );
    // What is no recipe is none.
    let refused = train("generate", &spec(None, tight()), &[], "").unwrap_err();
    assert!(
        matches!(
            refused,
            RunError::WrongWorld {
                wanted: "fine-tune",
                ..
            }
        ),
        "{refused}"
    );
}

/// Few and short steps.
const QUICK: [(&str, &str); 6] = [
    ("rank", "4"),
    ("batch", "4"),
    ("steps", "8"),
    ("evaluate-every", "4"),
    ("learning-rate", "0.01"),
    ("held-out", "0.2"),
];

fn roomy() -> Limits {
    Limits::default()
}

#[test]
fn an_interrupted_training_comes_to_the_same_as_an_unbroken_one() {
    let data = lessons(20);
    let whole = Room::new(None);
    let report = train("fine-tune", &spec(Some(&whole), roomy()), &QUICK, &data).unwrap();
    assert!(
        report.flops > 0 && report.device_bytes_peak > 0,
        "{report:?}"
    );
    assert!(
        report.stored_bytes > 0 && report.weights_bytes > 0,
        "{report:?}"
    );
    let losses = whole.seen();
    assert_eq!(losses.len(), 9);
    let held_out: Vec<f64> = losses
        .iter()
        .filter_map(|seen| seen.held_out_loss)
        .collect();
    assert_eq!(held_out.len(), 3);
    assert!(held_out[2] < 0.7 * held_out[0], "{held_out:?}");
    let saved = whole.saved.lock().unwrap()[0].clone();
    assert_eq!((saved.base.as_str(), saved.steps), (DIGEST, 8));
    assert!(
        saved.card.starts_with("# An adapter of served"),
        "{}",
        saved.card
    );
    assert!(
        saved
            .hyper_parameters
            .contains(&("rank".to_owned(), "4".to_owned()))
    );
    let of = |name: &str| saved.metrics.iter().find(|(own, _)| own == name).unwrap().1;
    assert_eq!(of("held-out-loss-before"), held_out[0]);
    assert_eq!(of("held-out-loss"), held_out[2]);

    // Stopped twice: between evaluations, and at one.
    let broken = Room::new(Some(3));
    let spec = spec(Some(&broken), roomy());
    train("fine-tune", &spec, &QUICK, &data).unwrap();
    assert_eq!(broken.seen().len(), 4);
    assert!(broken.saved.lock().unwrap().is_empty());
    *broken.stop_after.lock().unwrap() = Some(4);
    train("fine-tune", &spec, &QUICK, &data).unwrap();
    *broken.stop_after.lock().unwrap() = None;
    // Other settings are another training, but for the rates.
    let other = [&QUICK[..], &[("batch", "5")]].concat();
    let refused = train("fine-tune", &spec, &other, &data).unwrap_err();
    assert!(refused.to_string().contains("other settings"), "{refused}");
    train("fine-tune", &spec, &QUICK, &data).unwrap();
    assert_eq!(broken.seen(), losses);
    assert_eq!(broken.saved.lock().unwrap()[0].digest, saved.digest);
}

#[test]
fn a_recipe_on_a_device_learns_what_it_learns_on_the_processor() {
    let data = lessons(20);
    let here = Room::new(None);
    train("fine-tune", &spec(Some(&here), roomy()), &QUICK, &data).unwrap();
    let device = Arc::new(Burn::default());
    let there = Arc::new(Room::on(Some(Arc::clone(&device)), None));
    let report = train("fine-tune", &spec(Some(&there), roomy()), &QUICK, &data).unwrap();
    assert_eq!(device.bases.load(Ordering::Relaxed), 1);
    assert!(report.flops > 0 && report.device_bytes_peak > 0);
    let (here, there) = (here.seen(), there.seen());
    assert_eq!(here.len(), there.len());
    for (one, other) in here.iter().zip(&there) {
        for (one, other) in [
            (one.loss, other.loss),
            (one.held_out_loss, other.held_out_loss),
        ] {
            let far = one.zip(other).map(|(one, other)| (other / one - 1.0).abs());
            assert_eq!(one.is_some(), other.is_some());
            assert!(far.is_none_or(|far| far < 1e-3), "{one:?} and {other:?}");
        }
    }

    // What a device cannot do is said, and not done on the processor instead.
    for (setting, says) in [
        (("dropout", "0.1"), "the dropout"),
        (("dora", "yes"), "the processor trains DoRA"),
    ] {
        let asked = [&QUICK[..], &[setting]].concat();
        let room = Arc::new(Room::on(Some(Arc::clone(&device)), None));
        let refused = train("fine-tune", &spec(Some(&room), roomy()), &asked, &data).unwrap_err();
        assert!(refused.to_string().contains(says), "{refused}");
    }
}

/// The recipe in each language that was built, that in Rust first.
fn recipes() -> Vec<Arc<Program>> {
    match std::env::var_os("SKEP_RUST_ONLY") {
        Some(_) => vec![load("fine-tune")],
        None => vec![load("fine-tune"), load("fine-tune-python")],
    }
}

/// All that the recipe can be told of a new adapter, each in another way than by default.
const OTHER: [(&str, &str); 23] = [
    ("rank", "4"),
    ("alpha", "6"),
    ("dropout", "0.1"),
    ("rank-stabilized", "yes"),
    ("dora", "yes"),
    ("targets", "q_proj, down_proj"),
    ("seed", "7"),
    ("steps", "9"),
    ("batch", "3"),
    ("pass-tokens", "60"),
    ("learning-rate", "0.003"),
    ("schedule", "linear"),
    ("warm-up", "0.5"),
    ("weight-decay", "0.1"),
    ("clip", "0.25"),
    ("held-out", "0.3"),
    ("evaluate-every", "3"),
    ("patience", "2"),
    ("base-weights", "nf4"),
    ("optimizer", "adamw-8-bit"),
    ("checkpoint-layers", "yes"),
    ("precision", "bf16"),
    ("steps-made", "2"),
];

/// Lines of every form, and some that are for the end.
fn lines_of_every_form() -> String {
    let goods = ["honey", "bread", "rope", "cheese", "wool", "salt"];
    let of = |(number, thing): (usize, &&str)| {
        let split = if number > 3 { "test" } else { "train" };
        let label = if number > 2 { "ask" } else { "beg" };
        [
            json!({"text": format!("The shop has {thing} today."), "split": split}),
            json!({"text": format!("Have you {thing}?"), "label": label}),
            json!({"prompt": format!("The {thing} is"), "completion": " on the shelf: 2 €."}),
        ]
    };
    let lines = goods.iter().enumerate().flat_map(of);
    let lines: String = lines.map(|line| format!("{line}\n")).collect();
    lessons(8) + &lines
}

#[test]
fn the_recipe_in_python_comes_to_the_same() {
    let recipes = recipes();
    let [rust, python] = &recipes[..] else {
        return;
    };
    let came = |recipe: &Arc<Program>, settings: &[(&str, &str)], data: &str| {
        let room = Room::new(None);
        let report = train_by(recipe, &spec(Some(&room), roomy()), settings, data).unwrap();
        let saved = SavedAdapter {
            // Each has its own.
            folder: PathBuf::new(),
            ..room.saved.lock().unwrap()[0].clone()
        };
        (room.seen(), saved, report.flops)
    };
    let data = lines_of_every_form();
    let (seen, saved, flops) = came(rust, &OTHER, &data);
    // Seven steps, and what was before the first of them.
    assert_eq!(seen.len(), 8);
    assert!(saved.card.contains("## What it writes"), "{}", saved.card);
    let tests = ("test-examples".to_owned(), 2.0);
    assert!(saved.metrics.contains(&tests), "{:?}", saved.metrics);
    assert_eq!(came(python, &OTHER, &data), (seen, saved, flops));

    // What is not said is as by default, and a training that was stopped goes on.
    let data = lessons(20);
    let few = [("epochs", "2"), ("learning-rate", "0.01")];
    let (seen, saved, _) = came(rust, &few, &data);
    let broken = Room::new(Some(2));
    let spec = spec(Some(&broken), roomy());
    train_by(python, &spec, &few, &data).unwrap();
    assert_eq!(broken.seen(), seen[..3]);
    *broken.stop_after.lock().unwrap() = None;
    let other = [&few[..], &[("batch", "5")]].concat();
    let refused = train_by(python, &spec, &other, &data).unwrap_err();
    assert!(refused.to_string().contains("other settings"), "{refused}");
    train_by(python, &spec, &few, &data).unwrap();
    assert_eq!(broken.seen(), seen);
    let gone_on = broken.saved.lock().unwrap()[0].clone();
    assert_eq!(
        (gone_on.digest, gone_on.hyper_parameters, gone_on.metrics),
        (saved.digest, saved.hyper_parameters, saved.metrics)
    );
}

#[test]
fn what_cannot_be_learned_from_is_told_by_its_line() {
    let recipes = recipes();
    let long = format!("{{\"text\": \"{}\"}}", "honey and bread, ".repeat(2000));
    let one = "{\"text\": \"Good morning.\"}\n";
    for (data, settings, says) in [
        (
            "{\"text\": \"a\"}\n{\"text\": \n",
            vec![],
            "line 2 is not JSON",
        ),
        ("{\"text\": \"\\ud800\"}", vec![], "line 1 is not JSON"),
        ("\u{0}", vec![], "line 1 is not JSON"),
        ("", vec![], "there is nothing to learn from"),
        ("\n \n[1]", vec![], "line 3: it is no object"),
        ("{\"text\": 1}", vec![], "line 1: `text` is no text"),
        ("{\"text\": \" \"}", vec![], "`text` is empty"),
        ("{\"prompt\": \"a\"}", vec![], "it has no `completion`"),
        ("{\"words\": \"a\"}", vec![], "neither `prompt`"),
        ("{\"messages\": [3]}", vec![], "`messages[0]` is no object"),
        (
            "{\"messages\": [{\"role\": \"assistant\", \"content\": \"a\"}]}",
            vec![],
            "no turn of `messages`",
        ),
        (
            "{\"text\": \"a\", \"split\": \"dev\"}",
            vec![],
            "`split` is \"dev\"",
        ),
        (
            "{\"text\": \"a\", \"split\": \"test\"}",
            vec![],
            "all lines are of the part for tests",
        ),
        (&format!("{one}{long}"), vec![], "line 2 has"),
        (one, vec![], "at least two are needed"),
        (one, vec![("rnak", "4")], "no setting `rnak`"),
        (one, vec![("rank", "0")], "rank is `0`"),
        (one, vec![("rank", " 4")], "rank is ` 4`"),
        (one, vec![("learning-rate", "NaN")], "learning-rate is"),
        (one, vec![("clip", "0")], "from 0.000001 to 34028235000000"),
        (one, vec![("held-out", "1")], "from 0 to 0.9"),
        (one, vec![("schedule", "square")], "one of cosine, linear"),
        (one, vec![("precision", "f16")], "one of f32, bf16"),
        (one, vec![("targets", "/(/")], "the pattern of target"),
        (one, vec![("targets", "//")], "target modules [\"\"]"),
        (one, vec![("from", "nobody")], "grants.adapters: \"nobody\""),
    ] {
        let mut told = Vec::new();
        for recipe in &recipes {
            let room = Room::new(None);
            let refused = train_by(recipe, &spec(Some(&room), roomy()), &settings, data);
            let text = refused.unwrap_err().to_string();
            assert!(text.contains(says), "{says}: {text}");
            assert_eq!(room.files(), [] as [&str; 0]);
            told.push(text);
        }
        // What is wrong with JSON is said by each language's own library.
        if !says.contains("not JSON") {
            assert!(told.iter().all(|text| *text == told[0]), "{told:?}");
        }
    }
}
