//! The training itself: steps, evaluations, checkpoints, and when to stop.
//!
//! All that a later run has to know is in [`State`], which is kept in one file with the weights. A
//! checkpoint is kept only of a training that is sound: `last` is where it goes on, `best` has the
//! lowest loss on what is held out.

use serde::{Deserialize, Serialize};

use crate::bindings::skep::model::text::LanguageModel;
use crate::bindings::skep::train::training::{
    BaseWeights, Example, HyperParameters, LoraConfig, Loss, Metadata, Optimizer, Options,
    Progress, Sampling, Signal, Targets, Trainer, report,
};
use crate::bindings::skep::types::types::Error;
use crate::bindings::skep::workload::io;
use crate::card::{self, Sample};
use crate::data;
use crate::examples::{self, Data, counted};
use crate::schedule::{batch, factor, passes};
use crate::settings::Settings;

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
/// The same of what is held out, of which there is enough to tell from guessing.
const AS_GUESSING: f64 = 0.99;

/// How much there is to learn.
pub struct Seen {
    pub training: usize,
    pub held_out: usize,
    pub steps: u64,
}

/// The lowest loss on what is held out.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Best {
    pub step: u64,
    pub loss: f64,
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
    let trainer = open(settings)?;
    let model = LanguageModel::open("default")?;
    let data = examples::prepare(&trainer, &model, records, settings.held_out, settings.seed)?;
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
        guessing: f64::from(trainer.info().vocabulary).ln(),
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
    training.save(&model, &state)
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

fn open(settings: &Settings) -> Result<Trainer, Error> {
    let lora = LoraConfig {
        rank: settings.rank,
        alpha: settings.alpha,
        dropout: settings.dropout,
        rank_stabilized: settings.rank_stabilized,
        targets: match settings.targets.is_empty() {
            true => Targets::AllLinear,
            false => Targets::Named(settings.targets.clone()),
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
        classes: None,
    };
    let trainer = Trainer::open("default", &lora, options)?;
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
            ..State::default()
        };
        if !self.data.held_out.is_empty() {
            state.before = Some(self.evaluate(&state)?);
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
                .forward_backward(&part, Loss::CrossEntropy, Some(divisor))?;
            loss += done.loss;
            state.tokens += done.tokens;
        }
        self.check(loss, "the loss", DIVERGED, state)?;
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
        let loss = self.evaluate(state)?;
        if state.best.as_ref().is_none_or(|best| loss < best.loss) {
            let step = state.step;
            state.best = Some(Best { step, loss });
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

    /// The mean loss over the tokens that are held out.
    fn evaluate(&self, state: &State) -> Result<f64, Error> {
        let held_out = &self.data.held_out;
        let lengths: Vec<usize> = held_out.iter().map(|e| e.tokens.len()).collect();
        let (mut sum, mut count) = (0.0, 0.0);
        for pass in passes(&lengths, self.settings.pass_tokens) {
            let done = self.trainer.evaluate(&held_out[pass], Loss::CrossEntropy)?;
            sum += done.outcome.loss * done.outcome.divisor;
            count += done.outcome.divisor;
        }
        let loss = sum / count;
        self.check(loss, "the held-out loss", AS_GUESSING, state)?;
        Ok(loss)
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

    fn save(&self, model: &LanguageModel, state: &State) -> Result<(), Error> {
        let seen = Seen {
            training: self.data.training.len(),
            held_out: self.data.held_out.len(),
            steps: self.steps,
        };
        let samples = self.samples(model)?;
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
