//! Trainings against PEFT and PyTorch on the same models, data and order; and against themselves.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod common;

use std::sync::Arc;

use common::{
    Reference, base, examples, fifty_steps, gradients_agree, here, labelled, model_folder, options,
    relative, seed_lora,
};
use skep_accounts::{Account, Limits};
use skep_decoder::{AdapterWeights, Decoder};
use skep_train::{
    Base, Checkpointing, Divisor, Example, HyperParameters, Loss, OptimizerKind, Sampling, Targets,
    TrainError, Trainer, TrainerOptions,
};

const NAMES: [&str; 6] = ["llama", "smollm", "mistral", "qwen2", "qwen3", "gemma3"];

#[test]
fn one_batch_of_every_architecture_has_pefts_loss_and_gradients() {
    for name in NAMES {
        let reference = Reference::open(&format!("{name}/reference.safetensors"));
        let texts = examples(&reference);
        for checkpointing in [Checkpointing::None, Checkpointing::Layers] {
            let options = TrainerOptions {
                checkpointing,
                ..options()
            };
            let mut trainer = Trainer::open(base(name), seed_lora(), &options).unwrap();
            trainer.load_adapter(&here(name)).unwrap();
            let outcome = trainer
                .forward_backward(&texts, Loss::CrossEntropy, Divisor::Own)
                .unwrap();
            let want = f64::from(reference.floats("loss")[0]);
            assert!(
                (outcome.loss / want - 1.0).abs() < 1e-5,
                "{name}: {}",
                outcome.loss
            );
            let weights = reference.floats("weights");
            let logs = reference.floats("logs");
            let all = outcome.log_probabilities.concat();
            for ((got, want), weight) in all.iter().zip(&logs).zip(&weights) {
                assert!(
                    *weight == 0.0 || (got - want).abs() < 2e-4,
                    "{name}: {got} {want}"
                );
            }
            gradients_agree(&trainer, &reference, name);
        }
    }
}

#[test]
fn fifty_steps_have_pefts_losses() {
    let texts = examples(&Reference::open("steps/reference.safetensors"));
    let mut trainer = Trainer::open(base("llama"), seed_lora(), &options()).unwrap();
    trainer.load_adapter(&here("steps")).unwrap();
    let loss = Loss::CrossEntropy;
    fifty_steps(&mut trainer, &texts, loss, "steps", |_, _| {});
}

#[test]
fn a_classifier_has_pefts_loss_and_gradients() {
    let reference = Reference::open("classes/reference.safetensors");
    let texts = labelled(&reference);
    let options = TrainerOptions {
        classes: Some(5),
        ..options()
    };
    let mut trainer = Trainer::open(base("llama"), seed_lora(), &options).unwrap();
    trainer.load_adapter(&here("classes")).unwrap();
    let outcome = trainer
        .forward_backward(&texts, Loss::Classification, Divisor::Own)
        .unwrap();
    let want = f64::from(reference.floats("loss")[0]);
    assert!((outcome.loss / want - 1.0).abs() < 1e-5, "{}", outcome.loss);
    assert_eq!(
        (outcome.counted, outcome.log_probabilities[0].len()),
        (2, 5)
    );
    gradients_agree(&trainer, &reference, "classes");
}

/// What a text is worth does not depend on what lies beside it, and neither do gradients.
#[test]
fn packed_texts_and_accumulated_batches_have_the_same_gradients() {
    let reference = Reference::open("gemma3/reference.safetensors");
    let texts = examples(&reference);
    let open = || {
        let mut trainer = Trainer::open(base("gemma3"), seed_lora(), &options()).unwrap();
        trainer.load_adapter(&here("gemma3")).unwrap();
        trainer
    };
    let (mut together, mut apart) = (open(), open());
    let whole = together
        .forward_backward(&texts, Loss::CrossEntropy, Divisor::Own)
        .unwrap();
    let mut sum = 0.0;
    for text in &texts {
        let by = Divisor::Given(whole.divisor as f32);
        let one = std::slice::from_ref(text);
        sum += apart
            .forward_backward(one, Loss::CrossEntropy, by)
            .unwrap()
            .loss;
    }
    assert!((sum / whole.loss - 1.0).abs() < 1e-6);
    assert!(relative(apart.gradients(), together.gradients()) < 1e-5);
}

/// The whole of a model, by differences: losses that PEFT has no counterpart of.
#[test]
fn preferences_and_policies_have_the_gradients_of_differences() {
    let reference = Reference::open("llama/reference.safetensors");
    let texts = examples(&reference);
    let mut pair = vec![texts[0].clone(), texts[2].clone()];
    let mut trainer = Trainer::open(base("llama"), seed_lora(), &options()).unwrap();
    trainer.load_adapter(&here("llama")).unwrap();
    let sums = trainer.reference_log_probabilities(&pair).unwrap();
    let now = trainer
        .evaluate(&pair, Loss::CrossEntropy, Divisor::Own)
        .unwrap();
    for ((text, sum), logs) in pair.iter_mut().zip(&sums).zip(&now.log_probabilities) {
        text.reference_log_probability = *sum;
        // As if sampled when tokens were more and less probable than now.
        let pairs = logs.iter().zip([0.1, -0.15, 0.5, -0.4].iter().cycle());
        text.sampled_log_probabilities = pairs.map(|(log, by)| log + by).collect();
        text.advantages = (0..logs.len()).map(|n| [1.0, -0.7, 0.3][n % 3]).collect();
    }
    let policy = Loss::PolicyGradient {
        below: 0.2,
        above: 0.2,
    };
    for loss in [Loss::Preference { beta: 0.2 }, policy] {
        trainer.load_adapter(&here("llama")).unwrap();
        trainer.forward_backward(&pair, loss, Divisor::Own).unwrap();
        let gradients = trainer.gradients().to_vec();
        let weights = trainer.weights().to_vec();
        // Along the gradient itself the slope is its square.
        let norm: f64 = gradients.iter().map(|x| f64::from(*x).powi(2)).sum();
        let mut at = |along: f32| {
            let pairs = weights.iter().zip(&gradients);
            let moved: Vec<f32> = pairs.map(|(weight, by)| weight + along * by).collect();
            trainer.set_weights(&moved).unwrap();
            trainer.evaluate(&pair, loss, Divisor::Own).unwrap().loss
        };
        let step = (2e-3 / norm.sqrt()) as f32;
        let slope = (at(step) - at(-step)) / f64::from(2.0 * step);
        println!("{loss:?}: slope {slope:.6} along a gradient of {norm:.6}");
        assert!(
            (slope / norm - 1.0).abs() < 5e-3,
            "{loss:?}: {slope} {norm}"
        );
    }
    // Without an adapter a text is as probable as the reference says.
    let mut fresh = Trainer::open(base("llama"), seed_lora(), &options()).unwrap();
    let again = fresh.reference_log_probabilities(&pair).unwrap();
    assert_eq!(sums, again);
}

#[test]
fn a_resumed_training_goes_on_bit_for_bit() {
    let reference = Reference::open("steps/reference.safetensors");
    let texts = examples(&reference);
    let scratch = tempfile::tempdir().unwrap();
    let file = scratch.path().join("checkpoint.safetensors");
    for optimizer in [OptimizerKind::AdamW, OptimizerKind::AdamW8Bit] {
        let options = TrainerOptions {
            optimizer,
            ..options()
        };
        let mut lora = seed_lora();
        lora.dropout = 0.2;
        let open = || Trainer::open(base("llama"), lora.clone(), &options).unwrap();
        let hyper = HyperParameters::default();
        let run = |trainer: &mut Trainer, batches: std::ops::Range<usize>| -> Vec<f64> {
            batches
                .map(|n| {
                    let text = std::slice::from_ref(&texts[n % 8]);
                    let done = trainer.forward_backward(text, Loss::CrossEntropy, Divisor::Own);
                    // A step every second batch.
                    if n % 2 == 1 {
                        trainer.optim_step(&hyper).unwrap();
                    }
                    done.unwrap().loss
                })
                .collect()
        };
        let mut unbroken = open();
        run(&mut unbroken, 0..5);
        unbroken.checkpoint(&file, b"after five").unwrap();
        let want = run(&mut unbroken, 5..12);
        let mut resumed = open();
        assert_eq!(resumed.resume(&file).unwrap(), b"after five");
        assert_eq!(resumed.steps(), 2);
        assert_eq!(run(&mut resumed, 5..12), want);
        // Another number of threads changes nothing.
        let single = TrainerOptions {
            threads: 1,
            ..options.clone()
        };
        let mut alone = Trainer::open(base("llama"), lora.clone(), &single).unwrap();
        alone.resume(&file).unwrap();
        assert_eq!(run(&mut alone, 5..12), want);
    }
}

#[test]
fn a_damaged_or_foreign_checkpoint_changes_nothing() {
    let scratch = tempfile::tempdir().unwrap();
    let file = scratch.path().join("checkpoint.safetensors");
    let mut trainer = Trainer::open(base("llama"), seed_lora(), &options()).unwrap();
    trainer.checkpoint(&file, b"").unwrap();
    let whole = std::fs::read(&file).unwrap();
    for cut in [0, 7, 100, whole.len() / 2, whole.len() - 1] {
        std::fs::write(&file, &whole[..cut]).unwrap();
        let refused = trainer.resume(&file);
        assert!(
            matches!(refused, Err(TrainError::Checkpoint { .. })),
            "{cut}"
        );
    }
    std::fs::write(&file, &whole).unwrap();
    let mut other = seed_lora();
    other.rank = 5;
    let mut other = Trainer::open(base("llama"), other, &options()).unwrap();
    let refused = other.resume(&file).unwrap_err();
    assert!(refused.to_string().contains("rank: 4"), "{refused}");
    let mut other = Trainer::open(base("qwen3"), seed_lora(), &options()).unwrap();
    assert!(other.resume(&file).is_err());
    assert_eq!(trainer.resume(&file).unwrap(), b"");
    // A place that cannot be written to.
    let nowhere = scratch.path().join("none").join("checkpoint");
    assert!(matches!(
        trainer.checkpoint(&nowhere, b""),
        Err(TrainError::File { .. })
    ));
    let long = vec![0; skep_train::LARGEST_NOTE as usize + 1];
    let refused = trainer.checkpoint(&file, &long).unwrap_err();
    assert!(refused.to_string().contains("note"), "{refused}");
}

#[test]
fn a_saved_adapter_is_what_was_trained_here_and_in_the_decoder() {
    let reference = Reference::open("llama/reference.safetensors");
    let texts = examples(&reference);
    let mut trainer = Trainer::open(base("llama"), seed_lora(), &options()).unwrap();
    let hyper = HyperParameters {
        learning_rate: 0.02,
        ..HyperParameters::default()
    };
    for _ in 0..8 {
        trainer
            .forward_backward(&texts, Loss::CrossEntropy, Divisor::Own)
            .unwrap();
        trainer.optim_step(&hyper).unwrap();
    }
    let scratch = tempfile::tempdir().unwrap();
    let folder = scratch.path().join("adapter");
    trainer.save(&folder, "tiny-llama").unwrap();
    let want = trainer
        .evaluate(&texts, Loss::CrossEntropy, Divisor::Own)
        .unwrap();
    let mut again = Trainer::open(base("llama"), seed_lora(), &options()).unwrap();
    again.load_adapter(&folder).unwrap();
    let got = again
        .evaluate(&texts, Loss::CrossEntropy, Divisor::Own)
        .unwrap();
    assert_eq!(got, want);
    // The decoder keeps adapters in 16 bits and makes its sums in another order.
    let logs = common::decoder_log_probabilities(&folder, &texts[1].tokens);
    let weights = &texts[1].weights;
    for ((got, want), weight) in logs.iter().zip(&want.log_probabilities[1]).zip(weights) {
        assert!(*weight == 0.0 || (got - want).abs() < 5e-3, "{got} {want}");
    }
    let decoder = Decoder::load(&model_folder("llama")).unwrap();
    let loaded = AdapterWeights::load(&folder, &decoder, "tiny", 8192).unwrap();
    assert_eq!(
        (loaded.adapter().rank(), loaded.adapter().matrices()),
        (4, 14)
    );
    assert_eq!(loaded.adapter().named_base(), Some("tiny-llama"));
    // For another base, rank or scale it is refused.
    let mut lora = seed_lora();
    lora.alpha = 7.0;
    let mut other = Trainer::open(base("llama"), lora, &options()).unwrap();
    assert!(other.load_adapter(&folder).is_err());
    let mut other = Trainer::open(base("qwen3"), seed_lora(), &options()).unwrap();
    assert!(other.load_adapter(&folder).is_err());
    let mut lora = seed_lora();
    lora.targets = Targets::Named(vec!["q_proj".to_owned()]);
    let mut other = Trainer::open(base("llama"), lora, &options()).unwrap();
    assert!(other.load_adapter(&folder).is_err());
}

/// A GGUF file has queries and keys in another order; what is learned on it is the same adapter.
#[test]
fn an_adapter_learned_on_a_gguf_file_is_the_same_adapter() {
    let scratch = tempfile::tempdir().unwrap();
    let file = scratch.path().join("model.gguf");
    common::gguf::write_llama(&model_folder("smollm"), &file);
    let gguf = Decoder::load(&file).unwrap();
    let gguf = Arc::new(Base::stored(Arc::new(gguf)));
    let reference = Reference::open("smollm/reference.safetensors");
    let texts = examples(&reference);
    let learn = |base: Arc<Base>| {
        let mut trainer = Trainer::open(base, seed_lora(), &options()).unwrap();
        trainer.load_adapter(&here("smollm")).unwrap();
        let mut losses = Vec::new();
        for _ in 0..3 {
            let done = trainer.forward_backward(&texts, Loss::CrossEntropy, Divisor::Own);
            losses.push(done.unwrap().loss as f32);
            trainer.optim_step(&HyperParameters::default()).unwrap();
        }
        (trainer, losses)
    };
    let (folder_trained, want) = learn(base("smollm"));
    let (gguf_trained, losses) = learn(gguf);
    assert!((want[0] / reference.floats("loss")[0] - 1.0).abs() < 1e-5);
    assert!(relative(&losses, &want) < 1e-5, "{losses:?} {want:?}");
    let saved = scratch.path().join("adapter");
    gguf_trained.save(&saved, "tiny").unwrap();
    let mut again = Trainer::open(base("smollm"), seed_lora(), &options()).unwrap();
    again.load_adapter(&saved).unwrap();
    let error = relative(again.weights(), folder_trained.weights());
    println!("weights within {error:.1e}");
    assert!(error < 1e-3, "{error}");
    // In the base's own order they would not be the same.
    assert!(relative(gguf_trained.weights(), folder_trained.weights()) > 0.1);
}

/// A base in NF4 is the base whose weights are what its codes stand for.
#[test]
fn a_base_in_nf4_learns_as_its_dequantized_weights() {
    let scratch = tempfile::tempdir().unwrap();
    let decoder = Decoder::load(&model_folder("llama")).unwrap();
    let account = Account::unlimited();
    let quantized = Arc::new(Base::nf4(&decoder, &account).unwrap());
    let (weights, bytes) = quantized.linear_weights();
    println!("{:.4} bytes a weight", bytes as f64 / weights as f64);
    common::write_dequantized(&quantized, "llama", scratch.path());
    drop(decoder);
    let dense = Decoder::load(scratch.path()).unwrap();
    let dense = Arc::new(Base::stored(Arc::new(dense)));
    let reference = Reference::open("llama/reference.safetensors");
    let texts = examples(&reference);
    let run = |base: &Arc<Base>| {
        let mut trainer = Trainer::open(Arc::clone(base), seed_lora(), &options()).unwrap();
        trainer.load_adapter(&here("llama")).unwrap();
        let outcome = trainer
            .forward_backward(&texts, Loss::CrossEntropy, Divisor::Own)
            .unwrap();
        (outcome.loss, trainer.gradients().to_vec())
    };
    assert_eq!(run(&quantized), run(&dense));
}

#[test]
fn samples_are_what_was_learned() {
    let mut trainer = Trainer::open(base("llama"), seed_lora(), &options()).unwrap();
    let text: Vec<u32> = vec![5, 17, 90, 33, 120, 8, 61, 44, 2];
    let learned = Example {
        tokens: text.clone(),
        ..Example::default()
    };
    let hyper = HyperParameters {
        learning_rate: 0.02,
        ..HyperParameters::default()
    };
    let mut loss = f64::MAX;
    for _ in 0..120 {
        let one = std::slice::from_ref(&learned);
        loss = trainer
            .forward_backward(one, Loss::CrossEntropy, Divisor::Own)
            .unwrap()
            .loss;
        trainer.optim_step(&hyper).unwrap();
    }
    assert!(loss < 0.3, "{loss}");
    let how = Sampling {
        temperature: 0.0,
        seed: 1,
        tokens: 20,
        end: Some(2),
    };
    assert_eq!(trainer.sample(&text[..2], &how).unwrap(), text[2..8]);
    let free = Sampling {
        temperature: 5.0,
        end: None,
        ..how
    };
    let (first, second) = (trainer.sample(&text, &free), trainer.sample(&text, &free));
    assert_eq!(first.unwrap(), second.unwrap());
}

#[test]
fn what_cannot_be_learned_is_refused_and_nothing_changes() {
    let mut trainer = Trainer::open(base("llama"), seed_lora(), &options()).unwrap();
    let text = |tokens: Vec<u32>| Example {
        tokens,
        ..Example::default()
    };
    let mut wrong = |example: Example, loss| {
        trainer
            .forward_backward(&[example], loss, Divisor::Own)
            .unwrap_err()
            .to_string()
    };
    let entropy = Loss::CrossEntropy;
    assert!(wrong(text(vec![]), entropy).contains("no tokens"));
    assert!(wrong(text(vec![5]), entropy).contains("nothing to learn"));
    assert!(wrong(text(vec![5, 160]), entropy).contains("none of the model's 160"));
    assert!(wrong(text(vec![5; 513]), entropy).contains("context is 512"));
    let weighted = |weights| Example {
        weights,
        ..text(vec![5, 6])
    };
    assert!(wrong(weighted(vec![1.0]), entropy).contains("1 weights for 2 tokens"));
    assert!(wrong(weighted(vec![1.0, f32::NAN]), entropy).contains("not finite"));
    assert!(wrong(weighted(vec![1.0, 0.0]), entropy).contains("nothing to learn"));
    assert!(wrong(text(vec![5, 6]), Loss::Classification).contains("classes"));
    assert!(wrong(text(vec![5, 6]), Loss::Preference { beta: 0.1 }).contains("even"));
    let refused = trainer.optim_step(&HyperParameters::default());
    assert!(matches!(refused, Err(TrainError::NoGradient)));
    let mut none = seed_lora();
    none.targets = Targets::Named(vec!["proj_q".to_owned()]);
    let refused = Trainer::open(base("llama"), none, &options()).unwrap_err();
    assert!(refused.to_string().contains("proj_q"), "{refused}");
    let mut bad = seed_lora();
    bad.targets = Targets::Pattern("(".to_owned());
    assert!(Trainer::open(base("llama"), bad, &options()).is_err());
    let classes = TrainerOptions {
        classes: Some(3),
        ..options()
    };
    let mut trainer = Trainer::open(base("llama"), seed_lora(), &classes).unwrap();
    let labelled = Example {
        label: Some(3),
        ..text(vec![5, 6])
    };
    let refused = trainer.forward_backward(&[labelled], Loss::Classification, Divisor::Own);
    assert!(refused.unwrap_err().to_string().contains("label is 3"));
}

#[test]
fn a_training_that_diverges_stops_at_the_last_good_weights() {
    let reference = Reference::open("steps/reference.safetensors");
    let texts = examples(&reference);
    let mut trainer = Trainer::open(base("llama"), seed_lora(), &options()).unwrap();
    let hyper = HyperParameters {
        learning_rate: 1e30,
        weight_decay: 0.0,
        ..HyperParameters::default()
    };
    let mut stopped = None;
    for text in texts.iter().cycle().take(20) {
        let one = std::slice::from_ref(text);
        let made = trainer
            .forward_backward(one, Loss::CrossEntropy, Divisor::Own)
            .and_then(|_| trainer.optim_step(&hyper));
        if let Err(error) = made {
            stopped = Some(error);
            break;
        }
    }
    let stopped = stopped.expect("it diverges");
    assert!(
        stopped.to_string().contains("smaller learning rate"),
        "{stopped}"
    );
    let refused = trainer.optim_step(&hyper);
    assert!(matches!(refused, Err(TrainError::NoGradient)));
}

/// Everything is charged, given back, and refused where there is no room; the optimizer's state
/// makes room where that is enough.
#[test]
fn memory_is_charged_and_the_optimizer_moves_out_of_the_way() {
    let reference = Reference::open("llama/reference.safetensors");
    let texts = examples(&reference);
    let run = |limit: u64, host: u64| {
        let limited = |bytes| {
            Account::new(Limits {
                device_memory: bytes,
                ..Limits::UNLIMITED
            })
        };
        let (account, host) = (limited(limit), limited(host));
        let options = TrainerOptions {
            account: account.clone(),
            host: host.clone(),
            ..options()
        };
        let mut trainer = Trainer::open(base("llama"), seed_lora(), &options)?;
        let done = trainer.forward_backward(&texts, Loss::CrossEntropy, Divisor::Own);
        let peak = account.usage().device_bytes_peak;
        let paged = host.usage().device_bytes;
        done?;
        trainer.optim_step(&HyperParameters::default())?;
        drop(trainer);
        assert_eq!(account.usage().device_bytes, 0);
        Ok::<_, TrainError>((peak, paged))
    };
    let (peak, paged) = run(u64::MAX, 0).unwrap();
    assert_eq!(paged, 0);
    // The least that it can do with, when buffers that are free for the moment are given back.
    let (mut least, mut most) = (0, peak);
    while most - least > 1 {
        let middle = least.midpoint(most);
        match run(middle, 0) {
            Ok(_) => most = middle,
            Err(TrainError::Quota(_)) => least = middle,
            Err(other) => panic!("{other}"),
        }
    }
    // A byte less: the state moves, if the host has room.
    let (_, paged) = run(least, u64::MAX).unwrap();
    assert!(paged > 0);
    println!("peak {peak} bytes, at least {most}, of which {paged} can move");
}

#[test]
fn gradients_that_come_posing_as_make_the_same_step() {
    let texts = examples(&Reference::open("steps/reference.safetensors"));
    let open = || Trainer::open(base("llama"), seed_lora(), &options()).unwrap();
    let hyper = HyperParameters::default();
    let (mut alone, mut together) = (open(), open());
    let learn = |trainer: &mut Trainer| {
        let batch = &texts[..2];
        trainer
            .forward_backward(batch, Loss::CrossEntropy, Divisor::Own)
            .unwrap();
    };
    learn(&mut alone);
    alone.optim_step(&hyper).unwrap();
    let none = together.take_gradients();
    assert!(matches!(none, Err(TrainError::NoGradient)));
    learn(&mut together);
    let taken = together.take_gradients().unwrap();
    // They are gone, so that there is nothing to make a step with.
    assert!(together.gradients().iter().all(|x| *x == 0.0));
    assert!(together.optim_step(&hyper).is_err());
    for wrong in [&taken[1..], &vec![f32::NAN; taken.len()]] {
        assert!(together.add_gradients(wrong).is_err());
        assert!(together.optim_step(&hyper).is_err());
    }
    together.add_gradients(&taken).unwrap();
    together.optim_step(&hyper).unwrap();
    assert_eq!(alone.weights(), together.weights());
}
