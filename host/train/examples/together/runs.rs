//! The same training, with what nodes send each other in different ways.

use std::collections::BTreeMap;
use std::sync::Arc;

use skep_together::{Contribution, Demo, DemoConfig, Diloco, DilocoConfig, Guard, Turn};
use skep_train::{
    Base, Divisor, HyperParameters, LoraConfig, Loss, Schedule, ScheduleKind, Trainer,
    TrainerOptions,
};

use crate::Failed;
use crate::texts::Texts;

/// How many train together.
pub const NODES: usize = 4;
/// Texts that all are tested on.
const TESTS: usize = 128;

/// How much is trained.
pub struct Plan {
    pub steps: usize,
    pub batch: usize,
    pub length: usize,
    pub threads: usize,
    /// The largest learning rate of AdamW.
    pub rate: f32,
    /// The same of the signs that DeMo steps by.
    pub sign_rate: f32,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Run {
    AllReduce,
    Diloco50,
    Diloco100,
    Streamed,
    Demo,
}

impl Run {
    pub const ALL: [Self; 5] = [
        Self::AllReduce,
        Self::Diloco50,
        Self::Diloco100,
        Self::Streamed,
        Self::Demo,
    ];

    pub fn name(self) -> &'static str {
        match self {
            Self::AllReduce => "all-reduce",
            Self::Diloco50 => "diloco-50",
            Self::Diloco100 => "diloco-100",
            Self::Streamed => "diloco-50-streamed",
            Self::Demo => "demo",
        }
    }

    fn diloco(self) -> Option<DilocoConfig> {
        let usual = DilocoConfig::default();
        match self {
            Self::Diloco50 => Some(usual),
            Self::Diloco100 => Some(DilocoConfig {
                every: 100,
                ..usual
            }),
            Self::Streamed => Some(DilocoConfig {
                fragments: 4,
                overlap: 5,
                ..usual
            }),
            Self::AllReduce | Self::Demo => None,
        }
    }
}

/// What came of it.
pub struct Done {
    pub bytes: usize,
    pub before: f64,
    pub loss: f64,
    pub parameters: usize,
    /// The mean loss of each twentieth of the steps, over all nodes.
    pub losses: Vec<f64>,
}

/// Runs one.
pub fn run(run: Run, base: &Arc<Base>, texts: &Texts, plan: &Plan) -> Result<Done, Failed> {
    let mut training = Training {
        base,
        texts,
        plan,
        bytes: 0,
        all: Vec::new(),
    };
    let mut tested = training.trainer()?;
    let before = training.test(&mut tested)?;
    let weights = match (run, run.diloco()) {
        (Run::Demo, _) => training.demo()?,
        (_, Some(config)) => training.diloco(config)?,
        (_, None) => training.all_reduce()?,
    };
    tested.set_weights(&weights)?;
    let loss = training.test(&mut tested)?;
    let part = (training.all.len() / 20).max(1);
    let mean = |part: &[f64]| part.iter().sum::<f64>() / part.len() as f64;
    Ok(Done {
        bytes: training.bytes,
        before,
        loss,
        parameters: weights.len(),
        losses: training.all.chunks(part).map(mean).collect(),
    })
}

struct Training<'a> {
    base: &'a Arc<Base>,
    texts: &'a Texts,
    plan: &'a Plan,
    /// What one node has sent.
    bytes: usize,
    /// The loss of every batch.
    all: Vec<f64>,
}

impl Training<'_> {
    fn trainer(&self) -> Result<Trainer, Failed> {
        let options = TrainerOptions {
            threads: self.plan.threads,
            ..TrainerOptions::default()
        };
        Ok(Trainer::open(
            Arc::clone(self.base),
            LoraConfig::default(),
            &options,
        )?)
    }

    fn test(&self, trainer: &mut Trainer) -> Result<f64, Failed> {
        let tests = self.texts.tests(TESTS, self.plan.length);
        let mut sum = 0.0;
        for part in tests.chunks(16) {
            let told = trainer.evaluate(part, Loss::CrossEntropy, Divisor::Own)?;
            sum += told.loss * part.len() as f64;
        }
        Ok(sum / tests.len() as f64)
    }

    /// Adds the gradients of a node's batch.
    fn learn(&mut self, trainer: &mut Trainer, node: usize, step: usize) -> Result<(), Failed> {
        let batch = self
            .texts
            .batch(node, step, self.plan.batch, self.plan.length);
        let outcome = trainer.forward_backward(&batch, Loss::CrossEntropy, Divisor::Own)?;
        self.all.push(outcome.loss);
        Ok(())
    }

    fn factor(&self, step: usize) -> f32 {
        let schedule = Schedule {
            kind: ScheduleKind::Cosine,
            warm_up: self.plan.steps as u64 / 20,
            steps: self.plan.steps as u64,
        };
        schedule.factor(step as u64)
    }

    fn hyper(&self, step: usize) -> HyperParameters {
        HyperParameters {
            learning_rate: self.plan.rate * self.factor(step),
            ..HyperParameters::default()
        }
    }

    /// Each node's gradients in bfloat16, and their mean.
    fn all_reduce(&mut self) -> Result<Vec<f32>, Failed> {
        let mut trainer = self.trainer()?;
        for step in 0..self.plan.steps {
            let mut mean = vec![0.0; trainer.parameters()];
            for node in 0..NODES {
                self.learn(&mut trainer, node, step)?;
                for (sum, gradient) in mean.iter_mut().zip(trainer.take_gradients()?) {
                    *sum += rounded(gradient) / NODES as f32;
                }
            }
            self.bytes += 2 * mean.len();
            trainer.add_gradients(&mean)?;
            trainer.optim_step(&self.hyper(step))?;
        }
        Ok(trainer.weights().to_vec())
    }

    /// Nodes that make steps of their own.
    fn diloco(&mut self, config: DilocoConfig) -> Result<Vec<f32>, Failed> {
        let mut nodes = Vec::new();
        for _ in 0..NODES {
            let trainer = self.trainer()?;
            let part = Diloco::new(config, trainer.weights())?;
            nodes.push((trainer, part));
        }
        let mut guard = Guard::default();
        let mut under_way: BTreeMap<Turn, Vec<Vec<u8>>> = BTreeMap::new();
        for step in 0..self.plan.steps {
            let hyper = self.hyper(step);
            for (node, (trainer, _)) in nodes.iter_mut().enumerate() {
                self.learn(trainer, node, step)?;
                trainer.optim_step(&hyper)?;
            }
            let made = step as u64 + 1;
            if let Some(turn) = nodes[0].1.sends(made) {
                let mut sent = Vec::new();
                for (trainer, part) in &mut nodes {
                    sent.push(part.contribute(turn, trainer.weights())?);
                }
                self.bytes += sent[0].len();
                under_way.insert(turn, sent);
            }
            // At the end nobody computes while something is under way.
            let last = made as usize == self.plan.steps;
            let arrives = nodes[0].1.arrives(made);
            let arrived: Vec<Turn> = under_way
                .keys()
                .copied()
                .filter(|turn| last || Some(*turn) == arrives)
                .collect();
            for turn in arrived {
                let sent = under_way.remove(&turn).unwrap_or_default();
                merge(turn, &sent, &mut nodes, &mut guard)?;
            }
        }
        Ok(nodes[0].1.agreed().to_vec())
    }

    /// Nodes that make every step together.
    fn demo(&mut self) -> Result<Vec<f32>, Failed> {
        let mut trainer = self.trainer()?;
        let matrices: Vec<(usize, usize)> = trainer
            .tensors()
            .iter()
            .map(|(_, shape, _)| (shape[0], shape[1]))
            .collect();
        let mut nodes = Vec::new();
        for _ in 0..NODES {
            nodes.push(Demo::new(DemoConfig::default(), &matrices)?);
        }
        let mut weights = trainer.weights().to_vec();
        let mut guard = Guard::default();
        for step in 0..self.plan.steps {
            let rate = self.plan.sign_rate * self.factor(step);
            let mut heard = BTreeMap::new();
            for (node, part) in nodes.iter_mut().enumerate() {
                self.learn(&mut trainer, node, step)?;
                let gradients = clipped(trainer.take_gradients()?);
                let sent = part.contribute(step as u32, &gradients, rate)?;
                self.bytes += if node == 0 { sent.len() } else { 0 };
                heard.insert(node, part.read(step as u32, &sent));
            }
            let judged = guard.judge(heard, None);
            check(judged.left_out.len())?;
            nodes[0].step(&judged.accepted, rate, 0.01, &mut weights)?;
            trainer.set_weights(&weights)?;
        }
        Ok(weights)
    }
}

/// Every node takes what all have sent, and comes to the same.
fn merge(
    turn: Turn,
    sent: &[Vec<u8>],
    nodes: &mut [(Trainer, Diloco)],
    guard: &mut Guard,
) -> Result<(), Failed> {
    let read = sent.iter().enumerate();
    let read = read.map(|(node, bytes)| (node, nodes[0].1.read(turn, bytes)));
    let judged = guard.judge(read.collect(), None);
    check(judged.left_out.len())?;
    let accepted: BTreeMap<usize, Contribution> = judged.accepted;
    for (trainer, part) in nodes {
        let mut weights = trainer.weights().to_vec();
        part.step(turn, &accepted, &mut weights)?;
        trainer.set_weights(&weights)?;
    }
    Ok(())
}

/// All of these nodes are honest.
fn check(left_out: usize) -> Result<(), Failed> {
    match left_out {
        0 => Ok(()),
        _ => Err("an honest node was left out".into()),
    }
}

/// Gradients of a norm of at most 1, as AdamW has them in the other runs. Without that, a node with
/// an unusual text says so much that the guard takes it for a liar.
fn clipped(mut gradients: Vec<f32>) -> Vec<f32> {
    let squares: f64 = gradients.iter().map(|x| f64::from(*x).powi(2)).sum();
    let scale = 1.0 / squares.sqrt().max(1.0);
    for gradient in &mut gradients {
        *gradient = (f64::from(*gradient) * scale) as f32;
    }
    gradients
}

/// The nearest bfloat16.
fn rounded(x: f32) -> f32 {
    half::bf16::from_f32(x).to_f32()
}
