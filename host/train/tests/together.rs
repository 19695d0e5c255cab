//! Steps that are made of what several trainers have computed.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod common;

use std::collections::BTreeMap;

use common::{Reference, base, examples, options, seed_lora};
use skep_together::AllReduce;
use skep_train::{
    Divisor, Example, HyperParameters, LoraConfig, Loss, Made, OptimizerKind, TrainError, Trainer,
    TrainerOptions, steps_in,
};

fn texts() -> Vec<Example> {
    examples(&Reference::open("steps/reference.safetensors"))
}

fn open() -> Trainer {
    Trainer::open(base("llama"), seed_lora(), &options()).unwrap()
}

fn norm(numbers: impl Iterator<Item = f32>) -> f64 {
    numbers.map(|x| f64::from(x).powi(2)).sum::<f64>().sqrt()
}

/// The loss of a batch is divided by what both batches count, so the mean of two nodes' gradients is
/// that of both batches added up.
#[test]
fn two_nodes_that_send_all_gradients_are_one_with_both_batches() {
    let texts = texts();
    // With so large an epsilon AdamW's steps are as long as gradients are. With a small one they are
    // as long for little gradients as for large ones, and what bfloat16 rounds of two that nearly
    // cancel each other would be a whole step.
    let hyper = HyperParameters {
        learning_rate: 0.5,
        epsilon: 1.0,
        clip: Some(1e6),
        ..HyperParameters::default()
    };
    let mut alone = open();
    let start = alone.weights().to_vec();
    let mut nodes = [open(), open()];
    let all = AllReduce::new(start.len()).unwrap();
    for step in 0..6 {
        let batch = |node: usize| {
            let at = (4 * step as usize + 2 * node) % texts.len();
            [texts[at].clone(), texts[(at + 1) % texts.len()].clone()]
        };
        let mut heard = BTreeMap::new();
        for (who, node) in nodes.iter_mut().enumerate() {
            let own = batch(who);
            let learn = |trainer: &mut Trainer, divisor| {
                let divisor = Divisor::Given(divisor);
                trainer
                    .forward_backward(&own, Loss::CrossEntropy, divisor)
                    .unwrap();
            };
            learn(node, 40.0);
            learn(&mut alone, 80.0);
            let (gradients, norm) = node.take_clipped(&hyper).unwrap();
            assert!(norm > 0.0 && node.pending() == 0);
            let sent = all.contribute(step, &gradients).unwrap();
            heard.insert(who, all.read(step, &sent).unwrap());
        }
        alone.optim_step(&hyper).unwrap();
        for node in &mut nodes {
            let mean = all.mean(&heard).unwrap();
            assert_eq!(node.step_along(&hyper, mean).unwrap(), u64::from(step) + 1);
        }
    }
    assert_eq!(nodes[0].weights(), nodes[1].weights());
    let (ours, theirs) = (nodes[0].weights(), alone.weights());
    let difference = norm(ours.iter().zip(theirs).map(|(x, y)| x - y));
    let change = norm(theirs.iter().zip(&start).map(|(x, y)| x - y));
    // Each gradient is rounded to 9 bits.
    assert!(change > 0.01, "{change}");
    assert!(difference < change / 256.0, "{difference} of {change}");
}

#[test]
fn gradients_are_computed_again_to_the_bit_and_change_nothing() {
    let texts = texts();
    let lora = LoraConfig {
        dropout: 0.2,
        ..seed_lora()
    };
    let open = || Trainer::open(base("llama"), lora.clone(), &options()).unwrap();
    let made = Made {
        batches: (0..2)
            .map(|n| (vec![texts[n].clone()], Loss::CrossEntropy, Divisor::Own))
            .collect(),
        hyper: HyperParameters::default(),
    };
    let (mut node, mut other) = (open(), open());
    node.make(&made).unwrap();
    other.set_weights(node.weights()).unwrap();
    let before = node.batches();
    for (examples, loss, divisor) in &made.batches {
        node.forward_backward(examples, *loss, *divisor).unwrap();
    }
    assert_eq!(node.batches(), before + 2);
    let (said, _) = node.take_clipped(&made.hyper).unwrap();
    assert!((norm(said.iter().copied()) - 1.0).abs() < 1e-4);
    let state = other.state().unwrap();
    assert_eq!(other.gradients_of(&made, before).unwrap(), said);
    // After other batches other elements are dropped.
    assert_ne!(other.gradients_of(&made, before + 1).unwrap(), said);
    assert_eq!(other.state().unwrap(), state);
    let nothing = Made {
        batches: Vec::new(),
        ..made
    };
    let nothing = other.gradients_of(&nothing, 0);
    assert!(matches!(nothing, Err(TrainError::NoGradient)));
    assert_eq!(other.state().unwrap(), state);
}

#[test]
fn an_optimizers_state_goes_on_elsewhere() {
    let texts = texts();
    for optimizer in [OptimizerKind::AdamW, OptimizerKind::AdamW8Bit] {
        let options = TrainerOptions {
            optimizer,
            ..options()
        };
        let open = || Trainer::open(base("llama"), seed_lora(), &options).unwrap();
        let (mut first, mut second) = (open(), open());
        let made = Made {
            batches: vec![(texts[..2].to_vec(), Loss::CrossEntropy, Divisor::Own)],
            hyper: HyperParameters::default(),
        };
        first.make(&made).unwrap();
        first.make(&made).unwrap();
        let state = first.optimizer_state().unwrap();
        assert!(
            second
                .take_optimizer_state(&state[..state.len() - 1])
                .is_err()
        );
        assert!(second.take_optimizer_state(b"nothing").is_err());
        assert_eq!(second.steps(), 0);
        second.take_optimizer_state(&state).unwrap();
        second.set_weights(first.weights()).unwrap();
        let gradients = first.gradients_of(&made, 0).unwrap();
        assert_eq!(first.step_along(&made.hyper, gradients.clone()).unwrap(), 3);
        assert_eq!(
            second.step_along(&made.hyper, gradients.clone()).unwrap(),
            3
        );
        assert_eq!(first.weights(), second.weights());
        // And a step that something else has made is counted.
        let weights = vec![0.25; first.weights().len()];
        assert_eq!(first.step_to(&weights).unwrap(), 4);
        assert_eq!(first.weights(), weights);
        assert!(first.step_to(&weights[1..]).is_err());
        assert!(first.step_along(&made.hyper, vec![0.0; 3]).is_err());
        assert_eq!(first.steps(), 4);
        // What a checkpoint has made is known without the training.
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("last.checkpoint");
        first.checkpoint(&file, b"a note").unwrap();
        assert_eq!(steps_in(&file).unwrap(), 4);
        std::fs::write(&file, b"no checkpoint").unwrap();
        assert!(steps_in(&file).is_err());
        assert!(steps_in(&folder.path().join("none")).is_err());
    }
}
