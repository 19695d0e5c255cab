//! The training itself: steps, evaluations, checkpoints, and when to stop.
//!
//! All that a later run has to know is in [`State`], which is kept in one file with the weights. A
//! checkpoint is kept only of a training that is sound: `last` is where it goes on, `best` has the
//! lowest loss on what is held out.

use serde::{Deserialize, Serialize};

use crate::bindings::skep::model::text::LanguageModel;
use crate::bindings::skep::train::training::{
    BaseKind, BaseWeights, Example, HyperParameters, LoraConfig, Loss, Metadata, Optimizer,
    Options, Precision, Progress, Sampling, Signal, Targets, Trainer, report,
};
use crate::bindings::skep::types::types::Error;
use crate::bindings::skep::workload::io;
use crate::card::{self, Sample};
use crate::data;
use crate::examples::{self, Data, counted};
use crate::schedule::{batch, factor, passes};
use crate::settings::{Layers, Settings};

/// What the base is called that whoever started the run chose.
const BASE: &str = "default";
const LAST: &str = "last";
const BEST: &str = "best";
/// Bytes that are asked for at once.
const CHUNK: u32 = 256 << 10;
/// Of how many examples that were held out the card shows what is written to them, and how much.
const SAMPLES: usize = 2;
const SAMPLE_TOKENS: u32 = 24;
const SAMPLE_PROMPT: usize = 240;
/// A loss of so many times that of the untrained model, and of a batch so many times that of
/// guessing, is none that training comes to by learning.
const DIVERGED: f64 = 1.25;
/// The same of a batch of classes: it has few of them, and one that is thought impossible counts
/// for several.
const DIVERGED_CLASSES: f64 = 3.0;
/// The same of what is held out, of which there is enough to tell from guessing.
const AS_GUESSING: f64 = 0.99;

/// How much there is to learn.
pub struct Seen {
    pub training: usize,
    pub held_out: usize,
    /// Those for the end, and what the trained model came to on them.
    pub test: usize,
    pub tested: Option<Judged>,
    pub classes: usize,
    pub steps: u64,
}

/// The lowest loss on what is held out.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Best {
    pub step: u64,
    pub loss: f64,
    /// The share of classes that were right, where there are any.
    #[serde(default)]
    pub accuracy: Option<f64>,
}

/// What a model comes to on examples that it has not learned from.
#[derive(Debug, Clone, Copy)]
pub struct Judged {
    pub loss: f64,
    pub accuracy: Option<f64>,
}

/// Where a training is. Its weights are the trainer's.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct State {
    /// What the settings were, as far as they must not change.
    identity: String,
    /// Steps that were made.
    pub step: u64,
    /// Tokens that were learned from.
    pub tokens: u64,
    /// The loss of the last batch.
    pub loss: Option<f64>,
    /// The held-out loss before the first step.
    pub before: Option<f64>,
    pub best: Option<Best>,
    /// Evaluations since then.
    worse: u32,
}

/// Trains as the settings say, and saves an adapter unless it is asked to stop.
///
/// # Errors
/// When the data or the settings are not sound, or the training diverges.
pub fn train(settings: &Settings) -> Result<(), Error> {
    let records = data::parse(&read()?).map_err(Error::Invalid)?;
    let (trainer, writer, data) = match Trainer::kind_of(BASE)? {
        BaseKind::LanguageModel => {
            let trainer = open(settings, None)?;
            let model = LanguageModel::open(BASE)?;
            let (share, seed) = (settings.held_out, settings.seed);
            let data = examples::prepare(&trainer, &model, records, share, seed)?;
            (trainer, Some(model), data)
        }
        BaseKind::SentenceEncoder => {
            let classes = examples::classes(&records).map_err(Error::Invalid)?;
            let trainer = open(settings, Some(classes.len() as u32))?;
            trainer.name_classes(&classes)?;
            let (share, seed) = (settings.held_out, settings.seed);
            let data = examples::prepare_classes(&trainer, records, classes, share, seed)?;
            (trainer, None, data)
        }
    };
    let by_epoch = data.training.len().div_ceil(settings.batch) as u64;
    let steps = settings.steps.unwrap_or(settings.epochs * by_epoch);
    let training = Training {
        settings,
        trainer: &trainer,
        data: &data,
        steps,
        evaluate_every: settings
            .evaluate_every
            .unwrap_or(by_epoch.div_ceil(4))
            .max(1),
        guessing: match data.classes.len() {
            0 => f64::from(trainer.info().vocabulary).ln(),
            classes => (classes as f64).ln(),
        },
    };
    let mut state = training.begin()?;
    while state.step < steps && !training.has_learned_enough(&state) {
        if training.step(&mut state)? == Signal::Stop {
            return training.keep(LAST, &state);
        }
    }
    training.keep(LAST, &state)?;
    if let Some(best) = &state.best
        && best.step != state.step
    {
        training.take(BEST)?;
    }
    training.save(writer.as_ref(), &state)
}

/// All of the input.
fn read() -> Result<Vec<u8>, Error> {
    let mut all = Vec::new();
    loop {
        let chunk = io::read(CHUNK)?;
        if chunk.is_empty() {
            return Ok(all);
        }
        all.extend_from_slice(&chunk);
    }
}

fn open(settings: &Settings, classes: Option<u32>) -> Result<Trainer, Error> {
    let lora = LoraConfig {
        rank: settings.rank,
        alpha: settings.alpha,
        dropout: settings.dropout,
        rank_stabilized: settings.rank_stabilized,
        targets: match &settings.targets {
            Layers::All => Targets::AllLinear,
            Layers::None => Targets::Named(Vec::new()),
            Layers::Named(names) => Targets::Named(names.clone()),
            Layers::Pattern(pattern) => Targets::Pattern(pattern.clone()),
        },
        seed: settings.seed,
    };
    let options = Options {
        base: match settings.nf4 {
            true => BaseWeights::Nf4,
            false => BaseWeights::Stored,
        },
        optimizer: match settings.adamw_8_bit {
            true => Optimizer::Adamw8Bit,
            false => Optimizer::Adamw,
        },
        checkpoint_layers: settings.checkpoint_layers,
        classes,
    };
    let trainer = match settings.dora {
        true => Trainer::open_with_magnitudes(BASE, &lora, options)?,
        false => Trainer::open(BASE, &lora, options)?,
    };
    if settings.bf16 {
        trainer.compute_in(Precision::Bfloat16)?;
    }
    if let Some(adapter) = &settings.from {
        trainer.continue_from(adapter)?;
    }
    Ok(trainer)
}

struct Training<'a> {
    settings: &'a Settings,
    trainer: &'a Trainer,
    data: &'a Data,
    steps: u64,
    evaluate_every: u64,
    /// The loss of a model that finds every token as likely as any other.
    guessing: f64,
}

impl Training<'_> {
    /// Where an earlier run was when it stopped, or the beginning.
    fn begin(&self) -> Result<State, Error> {
        let identity = self.settings.identity();
        if let Some(state) = self.take(LAST)? {
            if state.identity != identity {
                return Err(Error::Invalid(format!(
                    "the training that was begun here has other settings ({}) than this one \
                     ({identity}), and only its rates and its patience may change; give the same, \
                     or begin anew under another name",
                    state.identity
                )));
            }
            return Ok(state);
        }
        let mut state = State {
            identity,
            step: self.settings.made,
            ..State::default()
        };
        if !self.data.held_out.is_empty() {
            state.before = Some(self.evaluate(&self.data.held_out, &state)?.loss);
        }
        self.tell(&state, None, state.before, 0.0);
        self.keep(LAST, &state)?;
        Ok(state)
    }

    /// One step, and what belongs after it.
    fn step(&self, state: &mut State) -> Result<Signal, Error> {
        let settings = self.settings;
        let warm_up = (f64::from(settings.warm_up) * self.steps as f64).round() as u64;
        let rate =
            settings.learning_rate * factor(settings.course, warm_up, self.steps, state.step);
        let count = self.data.training.len();
        let batch = batch(count, settings.batch, settings.seed, state.step);
        let examples: Vec<&Example> = batch.iter().map(|n| &self.data.training[*n]).collect();
        let divisor = counted(examples.iter().copied());
        let lengths: Vec<usize> = examples
            .iter()
            .map(|example| example.tokens.len())
            .collect();
        let mut loss = 0.0;
        for pass in passes(&lengths, settings.pass_tokens) {
            let part: Vec<Example> = examples[pass].iter().map(|e| (*e).clone()).collect();
            let done = self
                .trainer
                .forward_backward(&part, self.loss(), Some(divisor))?;
            loss += done.loss;
            state.tokens += done.tokens;
        }
        let most = match self.data.classes.is_empty() {
            true => DIVERGED,
            false => DIVERGED_CLASSES,
        };
        self.check(loss, "the loss", most, state)?;
        let made = self.trainer.optim_step(HyperParameters {
            learning_rate: rate,
            beta1: 0.9,
            beta2: 0.999,
            epsilon: 1e-8,
            weight_decay: settings.weight_decay,
            clip: Some(settings.clip),
        })?;
        if !made.gradient_norm.is_finite() {
            return Err(self.has_diverged("the gradient is not finite", state));
        }
        state.step += 1;
        state.loss = Some(loss);
        let is_due = state.step.is_multiple_of(self.evaluate_every) || state.step == self.steps;
        let held_out = match is_due && !self.data.held_out.is_empty() {
            true => Some(self.judge(state)?),
            false => None,
        };
        Ok(self.tell(state, Some(loss), held_out, rate))
    }

    /// Evaluates, and keeps what is the best so far.
    fn judge(&self, state: &mut State) -> Result<f64, Error> {
        let Judged { loss, accuracy } = self.evaluate(&self.data.held_out, state)?;
        self.check(loss, "the held-out loss", AS_GUESSING, state)?;
        if state.best.as_ref().is_none_or(|best| loss < best.loss) {
            state.best = Some(Best {
                step: state.step,
                loss,
                accuracy,
            });
            state.worse = 0;
            self.keep(BEST, state)?;
        } else {
            state.worse += 1;
        }
        self.keep(LAST, state)?;
        Ok(loss)
    }

    fn has_learned_enough(&self, state: &State) -> bool {
        self.settings.patience > 0 && state.worse >= self.settings.patience
    }

    fn loss(&self) -> Loss {
        match self.data.classes.is_empty() {
            true => Loss::CrossEntropy,
            false => Loss::Classification,
        }
    }

    /// The mean loss over examples, and how many classes are right.
    fn evaluate(&self, examples: &[Example], state: &State) -> Result<Judged, Error> {
        let lengths: Vec<usize> = examples.iter().map(|e| e.tokens.len()).collect();
        let (mut sum, mut count, mut right) = (0.0, 0.0, 0);
        for pass in passes(&lengths, self.settings.pass_tokens) {
            let part = &examples[pass];
            let done = self.trainer.evaluate(part, self.loss())?;
            sum += done.outcome.loss * done.outcome.divisor;
            count += done.outcome.divisor;
            let answers = part.iter().zip(&done.log_probabilities);
            right += answers
                .filter(|(example, logs)| is_right(example, logs))
                .count();
        }
        let loss = sum / count;
        if !loss.is_finite() {
            return Err(self.has_diverged("the loss on what was not learned is not finite", state));
        }
        let accuracy = right as f64 / examples.len() as f64;
        Ok(Judged {
            loss,
            accuracy: (!self.data.classes.is_empty()).then_some(accuracy),
        })
    }

    /// Refuses a loss that no training comes to by learning.
    fn check(
        &self,
        loss: f64,
        what: &str,
        times_guessing: f64,
        state: &State,
    ) -> Result<(), Error> {
        let before = DIVERGED * state.before.unwrap_or(0.0);
        let most = before.max(times_guessing * self.guessing);
        // What the untrained model comes to is not the training's doing.
        if loss.is_finite() && (loss < most || state.step == 0) {
            return Ok(());
        }
        let reason = format!(
            "{what} is {loss:.2}, where guessing has {:.2}",
            self.guessing
        );
        Err(self.has_diverged(&reason, state))
    }

    fn has_diverged(&self, reason: &str, state: &State) -> Error {
        let kept = match &state.best {
            Some(best) => format!(
                "the last good checkpoint is kept, with a held-out loss of {:.4} at step {}",
                best.loss, best.step
            ),
            None => "the checkpoint of its beginning is kept".to_owned(),
        };
        Error::Failed(format!(
            "the training diverged after step {}: {reason}. It was stopped, and {kept}. Train on \
             with a smaller learning-rate than {}",
            state.step, self.settings.learning_rate
        ))
    }

    fn tell(
        &self,
        state: &State,
        loss: Option<f64>,
        held_out_loss: Option<f64>,
        learning_rate: f32,
    ) -> Signal {
        report(Progress {
            step: state.step,
            steps: self.steps,
            loss,
            held_out_loss,
            learning_rate,
            tokens: state.tokens,
        })
    }

    fn keep(&self, name: &str, state: &State) -> Result<(), Error> {
        let state = serde_json::to_vec(state)
            .map_err(|error| Error::Failed(format!("the state cannot be written: {error}")))?;
        self.trainer.checkpoint(name, &state)
    }

    /// Goes on from a checkpoint, if there is one.
    fn take(&self, name: &str) -> Result<Option<State>, Error> {
        let Some(state) = self.trainer.resume(name)? else {
            return Ok(None);
        };
        let state = serde_json::from_slice(&state);
        let state = state.map_err(|error| {
            Error::Invalid(format!(
                "the checkpoint {name} is none of this recipe's: {error}"
            ))
        })?;
        Ok(Some(state))
    }

    fn save(&self, writer: Option<&LanguageModel>, state: &State) -> Result<(), Error> {
        let test = &self.data.test;
        let tested = match test.is_empty() {
            true => None,
            false => Some(self.evaluate(test, state)?),
        };
        let seen = Seen {
            training: self.data.training.len(),
            held_out: self.data.held_out.len(),
            test: test.len(),
            tested,
            classes: self.data.classes.len(),
            steps: self.steps,
        };
        let samples = match writer {
            Some(model) => self.samples(model)?,
            None => Vec::new(),
        };
        let card = card::write(&self.trainer.info(), self.settings, &seen, state, &samples);
        let mut metrics = vec![
            ("steps".to_owned(), state.step as f64),
            ("tokens".to_owned(), state.tokens as f64),
            ("training-examples".to_owned(), seen.training as f64),
            ("held-out-examples".to_owned(), seen.held_out as f64),
        ];
        metrics.extend(state.loss.map(|loss| ("last-loss".to_owned(), loss)));
        metrics.extend(
            state
                .before
                .map(|loss| ("held-out-loss-before".to_owned(), loss)),
        );
        if let Some(best) = &state.best {
            metrics.push(("held-out-loss".to_owned(), best.loss));
            metrics.push(("best-step".to_owned(), best.step as f64));
            let accuracy = best.accuracy;
            metrics.extend(accuracy.map(|share| ("held-out-accuracy".to_owned(), share)));
        }
        if let Some(Judged { loss, accuracy }) = seen.tested {
            metrics.push(("test-examples".to_owned(), seen.test as f64));
            metrics.push(("test-loss".to_owned(), loss));
            metrics.extend(accuracy.map(|share| ("test-accuracy".to_owned(), share)));
        }
        self.trainer.save(&Metadata {
            card,
            hyper_parameters: self.settings.told(),
            metrics,
        })?;
        Ok(())
    }

    /// What is written now to some of what was held out.
    fn samples(&self, model: &LanguageModel) -> Result<Vec<Sample>, Error> {
        let prompts = self.data.prompts.iter().filter(|prompt| !prompt.is_empty());
        let prompts: Vec<Vec<u32>> = prompts.take(SAMPLES).cloned().collect();
        let sampling = Sampling {
            temperature: 0.0,
            seed: 0,
            max_tokens: SAMPLE_TOKENS,
        };
        let written = self.trainer.sample(&prompts, sampling)?;
        let texts = model.detokenize(&written)?;
        let prompts = model.detokenize(&prompts)?;
        let samples = prompts.iter().zip(texts).map(|(prompt, text)| {
            let letters: Vec<char> = prompt.chars().collect();
            let from = letters.len().saturating_sub(SAMPLE_PROMPT);
            Sample {
                prompt: letters[from..].iter().collect(),
                text,
            }
        });
        Ok(samples.collect())
    }
}

/// Whether the likeliest class is the example's.
fn is_right(example: &Example, logs: &[f32]) -> bool {
    let likeliest = logs.iter().enumerate().max_by(|a, b| a.1.total_cmp(b.1));
    example.label.is_some() && likeliest.map(|(class, _)| class as u32) == example.label
}
