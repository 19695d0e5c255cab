//! Passes on a device against the processor's own, on tiny models of every architecture. With the
//! feature `cuda` the device is a card; without it, burn's processor backend.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod common;

use std::sync::Arc;

use common::{
    Bounds, adapter, base, bounds, examples, lora, nf4, on_device, open, place, relative,
};
use skep_accounts::{Account, Limits};
use skep_train::{
    Base, Divisor, Example, HyperParameters, LoraConfig, Loss, OptimizerKind, Targets, TrainError,
    Trainer, TrainerOptions,
};
use skep_train_device::{Compute, DeviceDecoder};

const NAMES: [&str; 6] = ["llama", "smollm", "mistral", "qwen2", "qwen3", "gemma3"];

/// Holds loss, probabilities and gradients of one batch against the processor's.
fn agree(
    name: &str,
    compute: Compute,
    loss: Loss,
    texts: &[Example],
    trainers: (&mut Trainer, &mut Trainer),
) {
    let Bounds {
        losses,
        gradients,
        logs,
    } = bounds(compute);
    let (here, there) = trainers;
    let want = here.forward_backward(texts, loss, Divisor::Own).unwrap();
    let got = there.forward_backward(texts, loss, Divisor::Own).unwrap();
    assert_eq!((got.counted, got.tokens), (want.counted, want.tokens));
    let error = (got.loss / want.loss - 1.0).abs();
    assert!(
        error < losses,
        "{name} {loss:?}: {} instead of {}",
        got.loss,
        want.loss
    );
    let (all, wanted) = (
        got.log_probabilities.concat(),
        want.log_probabilities.concat(),
    );
    for (got, want) in all.iter().zip(&wanted) {
        assert!((got - want).abs() < logs, "{name} {loss:?}: {got} {want}");
    }
    let mut worst = 0.0_f32;
    for (tensor, _, range) in here.tensors() {
        let error = relative(&there.gradients()[range.clone()], &here.gradients()[range]);
        assert!(error < gradients, "{name} {loss:?}: {tensor}: {error}");
        worst = worst.max(error);
    }
    println!("{name} {compute:?} {loss:?}: loss within {error:.1e}, gradients within {worst:.1e}");
    let again = there.evaluate(texts, loss, Divisor::Own).unwrap();
    let error = (again.loss / got.loss - 1.0).abs();
    assert!(
        error < losses,
        "{name}: what is not learned from has the same loss"
    );
}

#[test]
fn every_architecture_has_the_processors_loss_and_gradients() {
    for name in NAMES {
        let texts = examples(name);
        let base = base(name);
        let account = Account::unlimited();
        let mut here = open(&base, lora());
        here.load_adapter(&adapter(name)).unwrap();
        let mut there = on_device(&base, lora(), Compute::F32, &account);
        there.load_adapter(&adapter(name)).unwrap();
        agree(
            name,
            Compute::F32,
            Loss::CrossEntropy,
            &texts,
            (&mut here, &mut there),
        );
        assert!(account.usage().device_bytes > 0);
        drop(there);
        assert_eq!(account.usage().device_bytes, 0, "{name}");
    }
}

#[test]
fn four_bits_are_the_processors_four_bits() {
    let blocks = common::blocks();
    for (name, base) in [
        ("llama", nf4("llama")),
        ("gemma3", nf4("gemma3")),
        ("blocks", blocks),
    ] {
        let texts = match name {
            "blocks" => common::texts_of(base.vocabulary()),
            _ => examples(name),
        };
        let mut here = open(&base, lora());
        let mut there = on_device(&base, lora(), Compute::F32, &Account::unlimited());
        // A step first, for the gradient of A is nothing where B is.
        for trainer in [&mut here, &mut there] {
            trainer
                .forward_backward(&texts, Loss::CrossEntropy, Divisor::Own)
                .unwrap();
        }
        let step = HyperParameters {
            learning_rate: 1e-2,
            ..HyperParameters::default()
        };
        here.optim_step(&step).unwrap();
        let weights = here.weights().to_vec();
        there.optim_step(&step).unwrap();
        there.set_weights(&weights).unwrap();
        agree(
            name,
            Compute::F32,
            Loss::CrossEntropy,
            &texts,
            (&mut here, &mut there),
        );
    }
}

#[test]
fn all_losses_have_the_processors_gradients() {
    let base = base("llama");
    let mut texts = examples("llama");
    texts.truncate(2);
    let logs = open(&base, lora())
        .evaluate(&texts, Loss::CrossEntropy, Divisor::Own)
        .unwrap();
    for (number, (text, logs)) in texts.iter_mut().zip(logs.log_probabilities).enumerate() {
        text.label = Some(number as u32);
        let offsets = [0.1, -0.15, 0.5, -0.4].iter().cycle();
        text.sampled_log_probabilities = logs.iter().zip(offsets).map(|(x, by)| x + by).collect();
        text.advantages = (0..logs.len()).map(|n| [1.0, -0.7, 0.3][n % 3]).collect();
    }
    let policy = Loss::PolicyGradient {
        below: 0.2,
        above: 0.2,
    };
    for loss in [Loss::Preference { beta: 0.2 }, policy, Loss::Classification] {
        let classes = (loss == Loss::Classification).then_some(5);
        let options = TrainerOptions {
            classes,
            ..common::options()
        };
        let mut here = Trainer::open(Arc::clone(&base), lora(), &options).unwrap();
        let mut there = Trainer::open(Arc::clone(&base), lora(), &options).unwrap();
        let device = DeviceDecoder::upload(&base, place(), Compute::F32, &Account::unlimited());
        there.compute_on(Arc::new(device.unwrap())).unwrap();
        let mut weights = here.weights().to_vec();
        for (n, weight) in weights.iter_mut().enumerate() {
            *weight += ((n * 7919 % 101) as f32 / 50.0 - 1.0) * 0.02;
        }
        for trainer in [&mut here, &mut there] {
            trainer.set_weights(&weights).unwrap();
        }
        if loss != Loss::Classification {
            let sums = here.reference_log_probabilities(&texts).unwrap();
            let device_sums = there.reference_log_probabilities(&texts).unwrap();
            assert!(relative(&device_sums, &sums) < bounds(Compute::F32).gradients);
            for (text, sum) in texts.iter_mut().zip(sums) {
                text.reference_log_probability = sum;
            }
        }
        agree("llama", Compute::F32, loss, &texts, (&mut here, &mut there));
    }
}

/// What a text is worth does not depend on what lies beside it, whatever the lengths.
#[test]
fn packed_texts_know_only_themselves() {
    let base = base("gemma3");
    let mut texts = examples("gemma3");
    // Two of one length beside each other, and others.
    texts.push(texts[texts.len() - 1].clone());
    let mut device = on_device(&base, lora(), Compute::F32, &Account::unlimited());
    device.load_adapter(&adapter("gemma3")).unwrap();
    let whole = device
        .forward_backward(&texts, Loss::CrossEntropy, Divisor::Own)
        .unwrap();
    let together = device.take_gradients().unwrap();
    let mut sum = 0.0;
    for text in &texts {
        let by = Divisor::Given(whole.divisor as f32);
        let one = std::slice::from_ref(text);
        sum += device
            .forward_backward(one, Loss::CrossEntropy, by)
            .unwrap()
            .loss;
    }
    let Bounds {
        losses, gradients, ..
    } = bounds(Compute::F32);
    assert!((sum / whole.loss - 1.0).abs() < losses);
    assert!(relative(device.gradients(), &together) < gradients);
}

#[test]
fn an_adapter_learned_on_a_device_is_the_processors() {
    let base = nf4("llama");
    let texts = examples("llama");
    let step = HyperParameters {
        learning_rate: 5e-3,
        ..HyperParameters::default()
    };
    let mut losses = Vec::new();
    let mut learn = |mut trainer: Trainer| {
        let mut own = Vec::new();
        for n in 0..20 {
            let text = std::slice::from_ref(&texts[n % texts.len()]);
            own.push(
                trainer
                    .forward_backward(text, Loss::CrossEntropy, Divisor::Own)
                    .unwrap()
                    .loss as f32,
            );
            trainer.optim_step(&step).unwrap();
        }
        losses.push(own);
        let scratch = tempfile::tempdir().unwrap();
        let folder = scratch.path().join("adapter");
        trainer.save(&folder, "tiny").unwrap();
        let mut again = open(&base, lora());
        again.load_adapter(&folder).unwrap();
        again.weights().to_vec()
    };
    let want = learn(open(&base, lora()));
    let got = learn(on_device(
        &base,
        lora(),
        Compute::F32,
        &Account::unlimited(),
    ));
    let Bounds { gradients, .. } = bounds(Compute::F32);
    let (of_losses, of_weights) = (relative(&losses[1], &losses[0]), relative(&got, &want));
    println!("20 steps: losses within {of_losses:.1e}, weights within {of_weights:.1e}");
    // AdamW divides gradients by their size, so those that are nearly nothing count as much.
    assert!(of_losses < 10.0 * gradients, "{of_losses}");
    assert!(of_weights < 50.0 * gradients, "{of_weights}");
}

/// Sixteen bits in products: the same to some hundredths.
#[test]
fn sixteen_bits_are_near_the_processors_thirty_two() {
    if !common::has_sixteen_bits() {
        return;
    }
    for (name, base) in [
        ("llama", nf4("llama")),
        ("gemma3", base("gemma3")),
        ("blocks", common::blocks()),
    ] {
        let texts = match name {
            "blocks" => common::texts_of(base.vocabulary()),
            _ => examples(name),
        };
        let mut here = open(&base, lora());
        let mut there = on_device(&base, lora(), Compute::Bf16, &Account::unlimited());
        let mut weights = here.weights().to_vec();
        for (n, weight) in weights.iter_mut().enumerate() {
            *weight += ((n * 7919 % 101) as f32 / 50.0 - 1.0) * 0.02;
        }
        for trainer in [&mut here, &mut there] {
            trainer.set_weights(&weights).unwrap();
        }
        agree(
            name,
            Compute::Bf16,
            Loss::CrossEntropy,
            &texts,
            (&mut here, &mut there),
        );
    }
}

#[test]
fn what_a_device_cannot_do_is_refused() {
    let base = base("llama");
    let device = DeviceDecoder::upload(&base, place(), Compute::F32, &Account::unlimited());
    let device = Arc::new(device.unwrap());
    let dropping = LoraConfig {
        dropout: 0.1,
        ..lora()
    };
    let refused = open(&base, dropping)
        .compute_on(device.clone())
        .unwrap_err();
    assert!(refused.to_string().contains("dropout"), "{refused}");
    let with_magnitudes = LoraConfig {
        dora: true,
        ..lora()
    };
    let refused = open(&base, with_magnitudes)
        .compute_on(device.clone())
        .unwrap_err();
    assert!(
        matches!(&refused, TrainError::Setting { .. })
            && refused.to_string().contains("the processor trains DoRA"),
        "{refused}"
    );
    // No room for the base, or for a pass.
    let with = |device_memory| {
        Account::new(Limits {
            device_memory,
            ..Limits::UNLIMITED
        })
    };
    let poor = DeviceDecoder::upload(&base, place(), Compute::F32, &with(1000));
    assert!(matches!(poor, Err(TrainError::Quota(_))));
    let account = Account::unlimited();
    drop(DeviceDecoder::upload(&base, place(), Compute::F32, &account).unwrap());
    let just = with(account.usage().device_bytes_peak);
    let device = DeviceDecoder::upload(&base, place(), Compute::F32, &just).unwrap();
    let mut trainer = open(&base, lora());
    trainer.compute_on(Arc::new(device)).unwrap();
    let texts = examples("llama");
    let before = trainer.weights().to_vec();
    let refused = trainer.forward_backward(&texts, Loss::CrossEntropy, Divisor::Own);
    assert!(matches!(refused, Err(TrainError::Quota(_))), "{refused:?}");
    assert_eq!(trainer.weights(), before);
    assert_eq!(trainer.pending(), 0);
}

/// An adapter on the upper layer alone: nothing below it has a gradient, and none is computed.
#[test]
fn an_adapter_of_some_matrices_has_their_gradients() {
    let base: Arc<Base> = base("qwen3");
    let texts = examples("qwen3");
    let some = LoraConfig {
        targets: Targets::Pattern(
            r"model\.layers\.1\.(self_attn\.v_proj|mlp\.down_proj)".to_owned(),
        ),
        ..lora()
    };
    let options = TrainerOptions {
        optimizer: OptimizerKind::AdamW8Bit,
        ..common::options()
    };
    let mut here = Trainer::open(Arc::clone(&base), some.clone(), &options).unwrap();
    let mut there = on_device(&base, some, Compute::F32, &Account::unlimited());
    let weights: Vec<f32> = (0..here.parameters())
        .map(|n| (n % 13) as f32 * 0.01 - 0.06)
        .collect();
    for trainer in [&mut here, &mut there] {
        trainer.set_weights(&weights).unwrap();
    }
    agree(
        "qwen3",
        Compute::F32,
        Loss::CrossEntropy,
        &texts,
        (&mut here, &mut there),
    );
}
