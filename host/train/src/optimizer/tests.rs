//! The optimizer by itself; `tests/optimizer.rs` holds it against PyTorch.

use super::*;
use crate::random::test_values;
use skep_accounts::Limits;

fn limited(bytes: u64) -> Account {
    Account::new(Limits {
        device_memory: bytes,
        ..Limits::UNLIMITED
    })
}

#[test]
fn eight_bits_follow_thirty_two() {
    let account = Account::unlimited();
    let target = test_values(1000, 3);
    let mut ends = Vec::new();
    for kind in [OptimizerKind::AdamW, OptimizerKind::AdamW8Bit] {
        let mut optimizer = Optimizer::new(kind, 1000, &account, &account).unwrap();
        let mut parameters = vec![0.0; 1000];
        let hyper = HyperParameters {
            learning_rate: 0.02,
            weight_decay: 0.0,
            clip: None,
            ..HyperParameters::default()
        };
        for _ in 0..200 {
            let pairs = parameters.iter().zip(&target);
            let mut gradients: Vec<f32> = pairs.map(|(x, want)| x - want).collect();
            optimizer
                .step(&hyper, &mut parameters, &mut gradients)
                .unwrap();
        }
        let pairs = parameters.iter().zip(&target);
        let error = pairs.map(|(x, want)| (x - want).powi(2)).sum::<f32>() / 1000.0;
        assert!(error < 1e-3, "{kind:?}: {error}");
        ends.push(optimizer.bytes());
    }
    assert_eq!(ends, [8000, 2000 + 8 * 4]);
}

#[test]
fn the_state_moves_to_the_host_under_pressure_and_comes_back() {
    let (device, host) = (limited(1000), limited(1000));
    let mut optimizer = Optimizer::new(OptimizerKind::AdamW, 100, &device, &host).unwrap();
    assert!(optimizer.is_on_device());
    assert_eq!(device.usage().device_bytes, 800);
    optimizer.page_out().unwrap();
    assert_eq!(
        (device.usage().device_bytes, host.usage().device_bytes),
        (0, 800)
    );
    let activations = device.charge_memory(900).unwrap();
    // No room on the device: the step works on host memory.
    let (mut parameters, mut gradients) = (vec![1.0; 100], vec![1.0; 100]);
    let hyper = HyperParameters::default();
    optimizer
        .step(&hyper, &mut parameters, &mut gradients)
        .unwrap();
    assert!(!optimizer.is_on_device() && parameters[0] < 1.0);
    drop(activations);
    optimizer
        .step(&hyper, &mut parameters, &mut gradients)
        .unwrap();
    assert!(optimizer.is_on_device());
    assert_eq!(
        (device.usage().device_bytes, host.usage().device_bytes),
        (800, 0)
    );
    // Where the host has no room it stays.
    let full = host.charge_memory(300).unwrap();
    assert!(optimizer.page_out().is_err() && optimizer.is_on_device());
    drop(full);
    // And one that fits nowhere is not made, for want of room on the device.
    let host = limited(500);
    let refused = Optimizer::new(OptimizerKind::AdamW, 200, &device, &host).unwrap_err();
    assert_eq!((refused.limit, refused.asked), (1000, 800 + 1600));
}

#[test]
fn gradients_are_clipped_to_their_norm_and_refused_where_not_finite() {
    let account = Account::unlimited();
    let mut optimizer = Optimizer::new(OptimizerKind::AdamW, 2, &account, &account).unwrap();
    let hyper = HyperParameters {
        clip: Some(1.0),
        ..HyperParameters::default()
    };
    let mut gradients = [3.0, 4.0];
    let outcome = optimizer
        .step(&hyper, &mut [0.0; 2], &mut gradients)
        .unwrap();
    assert_eq!((outcome.step, outcome.gradient_norm), (1, 5.0));
    assert!((norm(None, &gradients) - 1.0).abs() < 1e-5);
    let mut parameters = [1.0, 2.0];
    for bad in [f32::NAN, f32::INFINITY] {
        let refused = optimizer.step(&hyper, &mut parameters, &mut [bad, 0.0]);
        assert!(matches!(refused, Err(TrainError::Diverged { .. })));
    }
    assert_eq!((parameters, optimizer.steps()), ([1.0, 2.0], 1));
    let bad = HyperParameters {
        learning_rate: f32::NAN,
        ..hyper
    };
    let refused = optimizer.step(&bad, &mut parameters, &mut [0.0; 2]);
    assert!(matches!(refused, Err(TrainError::Setting { .. })));
    assert!(
        optimizer
            .step(&hyper, &mut parameters, &mut [0.0; 3])
            .is_err()
    );
}

#[test]
fn a_saved_state_goes_on_as_the_unbroken_one() {
    let account = Account::unlimited();
    for kind in [OptimizerKind::AdamW, OptimizerKind::AdamW8Bit] {
        let make = || Optimizer::new(kind, 300, &account, &account).unwrap();
        let hyper = HyperParameters::default();
        let mut whole = make();
        let mut parameters = test_values(300, 1);
        whole
            .step(&hyper, &mut parameters, &mut test_values(300, 2))
            .unwrap();
        let saved = whole.save();
        let mut again = make();
        let read = |name: &str| {
            let found = saved.iter().find(|(known, _)| *known == name)?;
            Some(found.1.as_slice())
        };
        assert!(again.restore(read));
        let mut others = parameters.clone();
        whole
            .step(&hyper, &mut parameters, &mut test_values(300, 3))
            .unwrap();
        again
            .step(&hyper, &mut others, &mut test_values(300, 3))
            .unwrap();
        assert_eq!(parameters, others);
        let mut smaller = Optimizer::new(kind, 299, &account, &account).unwrap();
        assert!(!smaller.restore(read));
        assert_eq!(smaller.steps(), 0);
    }
}
