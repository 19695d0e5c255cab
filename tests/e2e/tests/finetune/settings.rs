//! Settings of the recipe that change how a training is run: what each has to change and what it must
//! not, against the same training without it, of a model of half a megabyte.

use std::fs;

use safetensors::SafeTensors;
use serde_json::{Value, json};
use skep_tests::random::{self, Shape};

use super::{Setting, last, number, text};

/// What all trainings have in common, unless one says otherwise.
const COMMON: [&str; 9] = [
    "rank=4",
    "batch=4",
    "steps=6",
    "evaluate-every=6",
    "patience=0",
    "held-out=0.2",
    "learning-rate=0.01",
    "warm-up=0",
    "schedule=constant",
];
const RATE: f64 = 0.01;
const STEPS: usize = 6;

/// A home, a base, and examples that it can tokenize.
struct Workshop {
    setting: Setting,
}

impl Workshop {
    fn new() -> Self {
        let setting = Setting::new();
        random::gguf(&setting.path("tiny.gguf"), &Shape::TINY, 1).unwrap();
        // All are as long as each other, and none asks for a sample at the end: so passes take the
        // same memory however they are divided.
        let line = |number: usize| {
            let text = format!("Stall {number:02} sells {} jars of honey.", number % 7);
            format!("{}\n", json!({ "text": text }))
        };
        let lines: String = (0..20).map(line).collect();
        fs::write(setting.path("stalls.jsonl"), lines).unwrap();
        Self { setting }
    }

    /// The arguments that say what is trained on what.
    fn options(&self, name: &str) -> [String; 6] {
        let path = |name: &str| self.setting.text(name);
        let (data, base) = (path("stalls.jsonl"), path("tiny.gguf"));
        ["--data", &data, "--base", &base, "--out", name].map(str::to_owned)
    }

    fn train(&self, name: &str, changed: &[&str]) -> Trained {
        self.train_with(name, &[], changed)
    }

    /// With other arguments beside those of all.
    fn train_with(&self, name: &str, others: &[&str], changed: &[&str]) -> Trained {
        let options = self.options(name);
        let own = options.each_ref().map(String::as_str);
        let options = [&own[..], others].concat();
        let settings = [&COMMON[..], changed].concat();
        let result = last(&self.setting.train(&options, &settings));
        let losses = self.setting.losses(name);
        let steps = losses
            .lines()
            .map(|line| serde_json::from_str(line).unwrap());
        let adapter = self
            .setting
            .training(name, "adapter/adapter_model.safetensors");
        let adapter = fs::read(adapter).unwrap();
        let tensors = SafeTensors::deserialize(&adapter).unwrap();
        let tensors = tensors.iter().map(|(tensor, view)| {
            let numbers: usize = view.shape().iter().product();
            (tensor.to_owned(), numbers)
        });
        Trained {
            steps: steps.collect(),
            tensors: tensors.collect(),
            lineage: self.setting.lineage(name),
            losses,
            result,
        }
    }

    /// What is said of a training that cannot be.
    fn refused(&self, changed: &[&str]) -> String {
        self.refused_with(&[], changed)
    }

    fn refused_with(&self, others: &[&str], changed: &[&str]) -> String {
        let options = self.options("refused");
        let own = options.each_ref().map(String::as_str);
        let options = [&own[..], others].concat();
        let ended = self
            .setting
            .train(&options, &[&COMMON[..], changed].concat());
        assert_eq!(ended.code, 1, "{}", ended.stderr);
        ended.stderr
    }
}

/// What a training came to.
struct Trained {
    /// Its steps, the one before the first included, as they were told and as text.
    steps: Vec<Value>,
    losses: String,
    /// The names of what was saved, each with how many numbers it has.
    tensors: Vec<(String, usize)>,
    lineage: Value,
    result: Value,
}

impl Trained {
    /// The loss of each batch.
    fn of_batches(&self) -> Vec<f64> {
        let steps = self.steps.iter().skip(1);
        steps.map(|step| number(step, "/loss")).collect()
    }

    fn rates(&self) -> Vec<f64> {
        let steps = self.steps.iter().skip(1);
        steps.map(|step| number(step, "/learning_rate")).collect()
    }

    /// The loss on what is held out before anything is learned.
    fn before(&self) -> f64 {
        number(&self.result, "/metrics/held-out-loss-before")
    }

    /// The most bytes at once, and the operations in total.
    fn bytes(&self) -> u64 {
        number(&self.result, "/report/device_bytes_peak") as u64
    }

    fn work(&self) -> u64 {
        number(&self.result, "/report/flops") as u64
    }

    fn weights(&self) -> &str {
        text(&self.lineage, "/weights")
    }

    /// What is told of how it was trained.
    fn told(&self, name: &str) -> &str {
        text(&self.lineage, &format!("/hyper_parameters/{name}"))
    }

    /// How many parameters were trained, as the card has it.
    fn parameters(&self) -> u64 {
        let card = fs::read_to_string(text(&self.result, "/card")).unwrap();
        let (before, _) = card.split_once(" parameters").unwrap();
        before.rsplit(' ').next().unwrap().parse().unwrap()
    }

    /// Every loss is within this share of the other's, and not all are the same.
    fn assert_near(&self, other: &Self, share: f64) {
        let (own, others) = (self.of_batches(), other.of_batches());
        assert_eq!((own.len(), others.len()), (STEPS, STEPS));
        assert_ne!(own, others);
        for (own, other) in own.iter().zip(&others) {
            assert!((own / other - 1.0).abs() < share, "{own} and {other}");
        }
    }
}

#[test]
fn settings_change_what_they_say_and_nothing_else() {
    let workshop = Workshop::new();
    let plain = workshop.train("plain", &[]);
    let losses = plain.of_batches();
    assert!(losses[STEPS - 1] < 0.95 * losses[0], "{losses:?}");
    base_weights(&workshop, &plain);
    optimizer(&workshop, &plain);
    precision(&workshop, &plain);
    dropout_and_checkpoint_layers(&workshop, &plain);
    targets_and_schedule(&workshop, &plain);
    dora(&workshop, &plain);
}

/// The base in four bits is another base, but nearly the same, and takes fewer bytes than a file of
/// 8.5 bits a weight.
fn base_weights(workshop: &Workshop, plain: &Trained) {
    let nf4 = workshop.train("nf4", &["base-weights=nf4"]);
    assert_eq!(
        (plain.told("base-weights"), nf4.told("base-weights")),
        ("stored", "nf4")
    );
    nf4.assert_near(plain, 0.1);
    assert_ne!(nf4.before(), plain.before());
    assert!((nf4.before() / plain.before() - 1.0).abs() < 0.1);
    // What is stored is the node's, and what was rounded is the training's: its linear layers, and the
    // embedding and the output layer as they were.
    let Shape {
        layers,
        width,
        hidden,
        heads,
        kv_heads,
        vocabulary,
        ..
    } = Shape::TINY;
    let keys = width / heads * kv_heads;
    let weights = layers * width * (2 * width + 2 * keys + 3 * hidden);
    let copied = 2 * vocabulary * width / 32 * 34;
    let rounded = nf4.bytes() - plain.bytes() - copied as u64;
    let bits = 8.0 * rounded as f64 / weights as f64;
    assert!((4.0..5.0).contains(&bits), "{bits}");
}

/// Two moments in 8 bits rather than in 32.
fn optimizer(workshop: &Workshop, plain: &Trained) {
    let eight = workshop.train("eight", &["optimizer=adamw-8-bit"]);
    assert_eq!(
        (plain.told("optimizer"), eight.told("optimizer")),
        ("adamw", "adamw-8-bit")
    );
    eight.assert_near(plain, 0.1);
    assert_eq!(eight.before(), plain.before());
    // A scale for each of two blocks of 256.
    let parameters = plain.parameters();
    let saved = 8 * parameters - (2 * parameters + 2 * 4 * parameters.div_ceil(256));
    assert_eq!(plain.bytes() - eight.bytes(), saved);
}

fn precision(workshop: &Workshop, plain: &Trained) {
    let half = workshop.train("half", &["precision=bf16"]);
    assert_eq!(
        (plain.told("precision"), half.told("precision")),
        ("f32", "bf16")
    );
    half.assert_near(plain, 0.05);
}

/// What is dropped is the same when a layer is computed again, and so is everything else.
fn dropout_and_checkpoint_layers(workshop: &Workshop, plain: &Trained) {
    let again = workshop.train("again", &["checkpoint-layers=yes"]);
    assert_eq!(
        (&again.losses, again.weights()),
        (&plain.losses, plain.weights())
    );
    assert!(again.bytes() < plain.bytes() && again.work() > plain.work());

    let dropping = workshop.train("dropping", &["dropout=0.4"]);
    assert_eq!(dropping.told("dropout"), "0.4");
    // An adapter that changes nothing yet has nothing to drop, and nothing is when it is judged.
    assert_eq!(dropping.before(), plain.before());
    assert_eq!(dropping.of_batches()[0], plain.of_batches()[0]);
    dropping.assert_near(plain, 0.3);
    let settings = ["dropout=0.4", "checkpoint-layers=yes"];
    let again = workshop.train("dropping-again", &settings);
    assert_eq!(
        (&again.losses, again.weights()),
        (&dropping.losses, dropping.weights())
    );
}

/// Layers are chosen by names or by a pattern, and the rate takes the course that it is told.
fn targets_and_schedule(workshop: &Workshop, plain: &Trained) {
    let near = |rates: Vec<f64>, want: &dyn Fn(f64) -> f64| {
        assert_eq!(rates.len(), STEPS);
        for (step, rate) in rates.into_iter().enumerate() {
            let want = RATE * want(step as f64 / STEPS as f64);
            assert!((rate - want).abs() < 1e-8, "step {step}: {rate} and {want}");
        }
    };
    let saved = |trained: &Trained| -> u64 {
        let numbers: usize = trained.tensors.iter().map(|(_, numbers)| numbers).sum();
        assert_eq!(numbers as u64, trained.parameters());
        numbers as u64
    };
    near(plain.rates(), &|_| 1.0);
    let all = saved(plain);

    let settings = ["targets=q_proj, v_proj", "schedule=linear"];
    let named = workshop.train("named", &settings);
    assert_eq!(
        (named.told("targets"), named.told("schedule")),
        ("q_proj,v_proj", "linear")
    );
    near(named.rates(), &|done| 1.0 - done);
    let is_one = |name: &str| name.contains(".q_proj.") || name.contains(".v_proj.");
    assert!(named.tensors.iter().all(|(name, _)| is_one(name)));
    let of_both = plain.tensors.iter().filter(|(name, _)| is_one(name));
    let of_both: u64 = of_both.map(|(_, numbers)| *numbers as u64).sum();
    assert_eq!(saved(&named), of_both);
    assert!(of_both < all);

    let pattern = r"/model\.layers\.1\.(self_attn|mlp)\..{1,9}/";
    let targets = format!("targets={pattern}");
    let settings = [targets.as_str(), "schedule=cosine"];
    let matching = workshop.train("matching", &settings);
    assert_eq!(matching.told("targets"), pattern);
    near(matching.rates(), &|done| {
        0.5 * (1.0 + (std::f64::consts::PI * done).cos())
    });
    // One of two layers, whole.
    assert_eq!(2 * saved(&matching), all);
    let is_one = |name: &str| name.contains(".layers.1.");
    assert!(matching.tensors.iter().all(|(name, _)| is_one(name)));

    let refused = workshop.refused(&["targets=/(/"]);
    assert!(
        refused.contains("the pattern of target modules"),
        "{refused}"
    );
    // A pattern is of the whole name.
    let refused = workshop.refused(&["targets=/q_proj/"]);
    assert!(
        refused.contains("no linear layer of the model"),
        "{refused}"
    );
}

/// The lengths of rows are learned beside both matrices: a number a row, which changes nothing at first,
/// and which whoever goes on from it learns on.
fn dora(workshop: &Workshop, plain: &Trained) {
    let dora = workshop.train("dora", &["dora=yes"]);
    assert_eq!((plain.told("dora"), dora.told("dora")), ("no", "yes"));
    assert_eq!(dora.before(), plain.before());
    assert_eq!(dora.of_batches()[0], plain.of_batches()[0]);
    dora.assert_near(plain, 0.3);
    let numbers = |end: &str| -> u64 {
        let tensors = dora.tensors.iter();
        let own = tensors.filter(|(name, _)| name.ends_with(end));
        own.map(|(_, numbers)| *numbers as u64).sum()
    };
    // Of rank 4, so B has four numbers a row.
    let magnitudes = numbers(".lora_magnitude_vector");
    assert_eq!(4 * magnitudes, numbers(".lora_B.weight"));
    assert_eq!(dora.parameters(), plain.parameters() + magnitudes);
    assert!(dora.bytes() > plain.bytes() && dora.work() > plain.work());
    let again = workshop.train("dora-again", &["dora=yes", "checkpoint-layers=yes"]);
    assert_eq!(
        (&again.losses, again.weights()),
        (&dora.losses, dora.weights())
    );

    let after = number(&dora.result, "/metrics/held-out-loss");
    let on = workshop.train_with("dora-on", &["--from", "dora"], &["dora=yes"]);
    let begun = on.before();
    assert!((begun - after).abs() < 1e-6, "{begun} {after}");
    assert_ne!(on.weights(), dora.weights());
    let refused = workshop.refused_with(&["--from", "dora"], &[]);
    assert!(refused.contains("it has magnitudes (DoRA)"), "{refused}");
    let refused = workshop.refused_with(&["--from", "plain"], &["dora=yes"]);
    assert!(refused.contains("it has no magnitudes"), "{refused}");
}
