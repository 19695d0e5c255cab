//! What whoever starts the training may say of it.

use std::fmt::{self, Display, Formatter};
use std::str::FromStr;

use crate::schedule::Course;

/// Which linear layers are changed.
#[derive(Debug, Clone, PartialEq)]
pub enum Layers {
    /// All of them.
    All,
    /// None: the model stays as it is, and only the layer learns that tells classes apart.
    None,
    /// Those with one of these names.
    Named(Vec<String>),
    /// Those whose whole name matches a regular expression.
    Pattern(String),
}

impl Layers {
    /// Reads names with commas between them, or a pattern between two slashes, of which no layer's
    /// name has any.
    fn parse(value: &str) -> Self {
        if value == NO_LAYER {
            return Self::None;
        }
        let pattern = value
            .strip_prefix('/')
            .and_then(|rest| rest.strip_suffix('/'));
        if let Some(pattern) = pattern {
            return Self::Pattern(pattern.to_owned());
        }
        let names = value.split(',').map(str::trim);
        let names: Vec<_> = names.filter(|name| !name.is_empty()).collect();
        match names[..] {
            [] | [ALL_LAYERS] => Self::All,
            _ => Self::Named(names.into_iter().map(str::to_owned).collect()),
        }
    }
}

impl Display for Layers {
    /// As it is read.
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Self::All => f.write_str(ALL_LAYERS),
            Self::None => f.write_str(NO_LAYER),
            Self::Named(names) => f.write_str(&names.join(",")),
            Self::Pattern(pattern) => write!(f, "/{pattern}/"),
        }
    }
}

const ALL_LAYERS: &str = "all-linear";
const NO_LAYER: &str = "none";

/// How to train. [`KNOWN`] says what each is called.
#[derive(Debug, Clone, PartialEq)]
pub struct Settings {
    pub rank: u32,
    pub alpha: f32,
    pub dropout: f32,
    pub rank_stabilized: bool,
    /// Whether the lengths of rows are learned apart from their directions.
    pub dora: bool,
    pub targets: Layers,
    pub seed: u64,
    pub epochs: u64,
    /// Steps in place of epochs.
    pub steps: Option<u64>,
    /// Examples of a step.
    pub batch: usize,
    /// Tokens that go through the model together; a step of more makes several passes.
    pub pass_tokens: usize,
    pub learning_rate: f32,
    pub course: Course,
    /// The share of all steps in which the learning rate rises.
    pub warm_up: f32,
    pub weight_decay: f32,
    pub clip: f32,
    /// The share of examples that are held out.
    pub held_out: f32,
    /// Steps between evaluations; none is four times an epoch.
    pub evaluate_every: Option<u64>,
    /// Evaluations in a row that may find nothing better; 0 is any number.
    pub patience: u32,
    pub nf4: bool,
    pub adamw_8_bit: bool,
    pub checkpoint_layers: bool,
    /// Whether to compute in 16 bits.
    pub bf16: bool,
    /// The adapter to go on from.
    pub from: Option<String>,
    /// Steps that others have made of this training before it was begun here: it takes its place in
    /// the order of examples and in the course of the rate as if they had been made here.
    pub made: u64,
}

impl Default for Settings {
    fn default() -> Self {
        Settings {
            rank: 8,
            alpha: 16.0,
            dropout: 0.0,
            rank_stabilized: false,
            dora: false,
            targets: Layers::All,
            seed: 0,
            epochs: 3,
            steps: None,
            batch: 8,
            pass_tokens: 2048,
            learning_rate: 5e-4,
            course: Course::Cosine,
            warm_up: 0.05,
            weight_decay: 0.01,
            clip: 1.0,
            held_out: 0.1,
            evaluate_every: None,
            patience: 3,
            nf4: false,
            adamw_8_bit: false,
            checkpoint_layers: false,
            bf16: false,
            from: None,
            made: 0,
        }
    }
}

/// The names of all settings.
const KNOWN: [&str; 25] = [
    "rank",
    "alpha",
    "dropout",
    "rank-stabilized",
    "dora",
    "targets",
    "seed",
    "epochs",
    "steps",
    "batch",
    "pass-tokens",
    "learning-rate",
    "schedule",
    "warm-up",
    "weight-decay",
    "clip",
    "held-out",
    "evaluate-every",
    "patience",
    "base-weights",
    "optimizer",
    "checkpoint-layers",
    "precision",
    "from",
    "steps-made",
];

impl Settings {
    /// Reads names and values. What is not said is as by default.
    pub fn parse(given: &[(String, String)]) -> Result<Self, String> {
        let mut settings = Settings::default();
        let mut alpha = None;
        for (name, value) in given {
            let s = &mut settings;
            match name.as_str() {
                "rank" => s.rank = number(name, value, 1, 1024)?,
                "alpha" => alpha = Some(number(name, value, 1e-6, 1e6)?),
                "dropout" => s.dropout = number(name, value, 0.0, 0.99)?,
                "rank-stabilized" => s.rank_stabilized = one_of(name, value, YES_OR_NO)?,
                "dora" => s.dora = one_of(name, value, YES_OR_NO)?,
                "targets" => s.targets = Layers::parse(value),
                "seed" => s.seed = number(name, value, 0, u64::MAX)?,
                "epochs" => s.epochs = number(name, value, 1, 10_000)?,
                "steps" => s.steps = Some(number(name, value, 1, 10_000_000)?),
                "batch" => s.batch = number(name, value, 1, 4096)?,
                "pass-tokens" => s.pass_tokens = number(name, value, 1, 1 << 20)?,
                "learning-rate" => s.learning_rate = number(name, value, 0.0, f32::MAX)?,
                "schedule" => s.course = one_of(name, value, COURSES)?,
                "warm-up" => s.warm_up = number(name, value, 0.0, 1.0)?,
                "weight-decay" => s.weight_decay = number(name, value, 0.0, 1.0)?,
                "clip" => s.clip = number(name, value, 1e-6, f32::MAX)?,
                "held-out" => s.held_out = number(name, value, 0.0, 0.9)?,
                "evaluate-every" => s.evaluate_every = Some(number(name, value, 1, u64::MAX)?),
                "patience" => s.patience = number(name, value, 0, u32::MAX)?,
                "base-weights" => {
                    s.nf4 = one_of(name, value, &[("stored", false), ("nf4", true)])?;
                }
                "optimizer" => {
                    s.adamw_8_bit =
                        one_of(name, value, &[("adamw", false), ("adamw-8-bit", true)])?;
                }
                "checkpoint-layers" => s.checkpoint_layers = one_of(name, value, YES_OR_NO)?,
                "precision" => s.bf16 = one_of(name, value, PRECISIONS)?,
                "from" => s.from = Some(value.clone()),
                "steps-made" => s.made = number(name, value, 0, 10_000_000)?,
                other => {
                    return Err(format!(
                        "the recipe has no setting `{other}`; it has {}",
                        KNOWN.join(", ")
                    ));
                }
            }
        }
        // Twice the rank scales what is learned alike at every rank.
        settings.alpha = alpha.unwrap_or(2.0 * settings.rank as f32);
        Ok(settings)
    }

    /// What has to be the same for a training to be gone on with: all that the order of examples
    /// and the parameters depend on. Rates and patience may change.
    pub fn identity(&self) -> String {
        format!(
            "rank={} alpha={} dropout={} rank-stabilized={} targets={} seed={} epochs={} steps={:?} \
             batch={} pass-tokens={} held-out={} nf4={} adamw-8-bit={} from={:?}{}{}{}",
            self.rank,
            self.alpha,
            self.dropout,
            self.rank_stabilized,
            self.targets,
            self.seed,
            self.epochs,
            self.steps,
            self.batch,
            self.pass_tokens,
            self.held_out,
            self.nf4,
            self.adamw_8_bit,
            self.from,
            if self.bf16 { " bf16" } else { "" },
            if self.dora { " dora" } else { "" },
            match self.made {
                0 => String::new(),
                made => format!(" steps-made={made}"),
            },
        )
    }

    /// All of it as names and values, for the record.
    pub fn told(&self) -> Vec<(String, String)> {
        let mut all = Vec::new();
        let mut tell = |name: &str, value: String| all.push((name.to_owned(), value));
        tell("rank", self.rank.to_string());
        tell("alpha", self.alpha.to_string());
        tell("dropout", self.dropout.to_string());
        tell("rank-stabilized", word(self.rank_stabilized, YES_OR_NO));
        tell("dora", word(self.dora, YES_OR_NO));
        tell("targets", self.targets.to_string());
        tell("seed", self.seed.to_string());
        match self.steps {
            Some(steps) => tell("steps", steps.to_string()),
            None => tell("epochs", self.epochs.to_string()),
        }
        tell("batch", self.batch.to_string());
        tell("learning-rate", self.learning_rate.to_string());
        tell("schedule", word(self.course, COURSES));
        tell("warm-up", self.warm_up.to_string());
        tell("weight-decay", self.weight_decay.to_string());
        tell("clip", self.clip.to_string());
        tell("held-out", self.held_out.to_string());
        tell(
            "base-weights",
            if self.nf4 { "nf4" } else { "stored" }.to_owned(),
        );
        let optimizer = if self.adamw_8_bit {
            "adamw-8-bit"
        } else {
            "adamw"
        };
        tell("optimizer", optimizer.to_owned());
        tell("precision", word(self.bf16, PRECISIONS));
        all
    }
}

const YES_OR_NO: &[(&str, bool)] = &[("yes", true), ("no", false)];
const PRECISIONS: &[(&str, bool)] = &[("f32", false), ("bf16", true)];
const COURSES: &[(&str, Course)] = &[
    ("cosine", Course::Cosine),
    ("linear", Course::Linear),
    ("constant", Course::Constant),
];

fn number<T: FromStr + PartialOrd + Display>(
    name: &str,
    value: &str,
    least: T,
    most: T,
) -> Result<T, String> {
    let wrong = || format!("{name} is `{value}`; it must be a number from {least} to {most}");
    match value.parse::<T>() {
        // A NaN is neither.
        Ok(number) if number >= least && number <= most => Ok(number),
        _ => Err(wrong()),
    }
}

fn one_of<T: Copy>(name: &str, value: &str, known: &[(&str, T)]) -> Result<T, String> {
    let found = known.iter().find(|(word, _)| *word == value);
    found.map(|(_, value)| *value).ok_or_else(|| {
        let words: Vec<&str> = known.iter().map(|(word, _)| *word).collect();
        format!(
            "{name} is `{value}`; it must be one of {}",
            words.join(", ")
        )
    })
}

fn word<T: PartialEq>(value: T, known: &[(&str, T)]) -> String {
    let found = known.iter().find(|(_, other)| *other == value);
    found.map_or("", |(word, _)| word).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(given: &[(&str, &str)]) -> Result<Settings, String> {
        let given: Vec<_> = given
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
            .collect();
        Settings::parse(&given)
    }

    #[test]
    fn settings_are_read_and_alpha_follows_the_rank() {
        assert_eq!(parse(&[]), Ok(Settings::default()));
        let given = parse(&[
            ("rank", "4"),
            ("schedule", "linear"),
            ("targets", "q_proj, v_proj"),
        ]);
        let Ok(given) = given else {
            unreachable!("{given:?}")
        };
        assert_eq!(
            (given.rank, given.alpha, given.course),
            (4, 8.0, Course::Linear)
        );
        let names = ["q_proj", "v_proj"].map(str::to_owned);
        assert_eq!(given.targets, Layers::Named(names.into()));
    }

    #[test]
    fn layers_are_told_as_they_are_read() {
        let pattern = r".*\.layers\.[0-3]\.(self_attn|mlp)\.\w{2,9}";
        let whole = format!("/{pattern}/");
        for (given, layers) in [
            ("all-linear", Layers::All),
            ("none", Layers::None),
            (
                "q_proj,v_proj",
                Layers::Named(["q_proj", "v_proj"].map(str::to_owned).into()),
            ),
            // A comma in a pattern is the pattern's own.
            (whole.as_str(), Layers::Pattern(pattern.to_owned())),
        ] {
            let read = parse(&[("targets", given)]).map(|settings| settings.targets);
            assert_eq!(read, Ok(layers.clone()));
            assert_eq!(layers.to_string(), given);
        }
        let nothing = parse(&[("targets", " , ")]).map(|settings| settings.targets);
        assert_eq!(nothing, Ok(Layers::All));
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (name, value) in [
            ("rank", "0"),
            ("rank", "x"),
            ("learning-rate", "NaN"),
            ("learning-rate", "-1"),
            ("schedule", "square"),
            ("held-out", "1"),
        ] {
            let error = parse(&[(name, value)]);
            assert!(
                matches!(&error, Err(text) if text.contains(name)),
                "{error:?}"
            );
        }
        let error = parse(&[("rnak", "4")]);
        assert!(
            matches!(&error, Err(text) if text.contains("learning-rate")),
            "{error:?}"
        );
    }

    #[test]
    fn rates_may_change_between_runs_and_the_order_may_not() {
        let of = |given| parse(given).map(|settings| settings.identity());
        assert_eq!(of(&[("learning-rate", "1")]), of(&[]));
        assert_ne!(of(&[("seed", "1")]), of(&[]));
        assert_ne!(of(&[("dora", "yes")]), of(&[]));
        assert_eq!(of(&[("dora", "no")]), of(&[]));
    }

    #[test]
    fn every_known_setting_is_read() {
        for name in KNOWN {
            let error = parse(&[(name, "\u{0}")]);
            let unknown = matches!(&error, Err(text) if text.contains("no setting"));
            assert!(!unknown, "{name}");
        }
    }
}
