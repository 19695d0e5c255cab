//! DeMo's chunks, what is sent of them and what nodes come to together.

use proptest::prelude::*;

use super::*;
use crate::testing::numbers;

#[test]
fn settings_that_make_no_sense_are_refused() {
    let usual = DemoConfig::default();
    for config in [
        DemoConfig { side: 0, ..usual },
        DemoConfig { side: 65, ..usual },
        DemoConfig { one_of: 0, ..usual },
        DemoConfig {
            decay: 1.0,
            ..usual
        },
        DemoConfig {
            decay: f32::NAN,
            ..usual
        },
    ] {
        assert!(Demo::new(config, &[(4, 4)]).is_err(), "{config:?}");
    }
    assert!(Demo::new(usual, &[]).is_err());
    assert!(Demo::new(usual, &[(0, 7)]).is_err());
}

#[test]
fn chunks_are_all_parameters_once_whatever_the_shapes() {
    let matrices = [(16, 512), (1408, 16), (1, 97), (3, 50), (0, 5), (130, 66)];
    let demo = Demo::new(DemoConfig::default(), &matrices).unwrap();
    let mut seen = vec![0; demo.momentum().len()];
    let mut next = 0;
    for chunk in &demo.chunks {
        assert_eq!(chunk.first, next);
        next += chunk.code.size;
        assert_eq!(chunk.code.size, chunk.places().count());
        for at in chunk.places() {
            seen[at] += 1;
        }
    }
    assert!(seen.iter().all(|count| *count == 1));
    let sides: Vec<(usize, usize)> = demo.chunks.iter().map(|c| (c.rows, c.columns)).collect();
    assert!(sides.contains(&(16, 64)) && sides.contains(&(64, 16)));
    // 97 is prime, so that no smaller side divides it.
    assert!(sides.contains(&(1, 1)) && sides.contains(&(3, 50)) && sides.contains(&(26, 33)));
}

#[test]
fn a_kilobyte_of_gradients_in_16_bits_is_ten_bytes() {
    // What a rank of 16 makes of a model of width 512: 10 bits of place and 8 of amount for 8 of
    // 1,024, and a scale.
    let demo = Demo::new(DemoConfig::default(), &[(16, 512), (512, 16)]).unwrap();
    assert_eq!(demo.bytes(), Header::BYTES + 16 * (2 + 10 + 8));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(30))]
    #[test]
    fn what_was_sent_and_what_is_held_are_all_gradients(
        height in 1_usize..40,
        width in 1_usize..40,
        seed in 0_u64..1000,
    ) {
        // Hardly anything decays, so what was sent and the momentum are the gradients' sum.
        let decay = 1.0 - f32::EPSILON;
        let config = DemoConfig { one_of: 4, decay, ..DemoConfig::default() };
        let mut demo = Demo::new(config, &[(height, width)]).unwrap();
        let count = height * width;
        let (mut truth, mut waves) = (vec![0.0_f32; count], vec![0.0_f32; count]);
        for step in 0..6 {
            let gradients = numbers(count, seed + u64::from(step));
            let sent = demo.contribute(step, &gradients, 0.5).unwrap();
            prop_assert_eq!(sent.len(), demo.bytes());
            let Contribution::Frequencies(read) = demo.read(step, &sent).unwrap() else {
                panic!("frequencies were asked for");
            };
            for (at, amount) in read {
                waves[at as usize] += amount;
            }
            for (sum, x) in truth.iter_mut().zip(&gradients) {
                *sum += 0.5 * x;
            }
        }
        for chunk in &demo.chunks {
            let own = &mut waves[chunk.first..chunk.first + chunk.code.size];
            let mut scratch = vec![0.0; own.len()];
            let of = |side: usize| &demo.transforms[&side];
            inverse(of(chunk.rows), of(chunk.columns), own, &mut scratch);
            for (at, sent) in chunk.places().zip(own) {
                let all = *sent + demo.momentum()[at];
                prop_assert!((all - truth[at]).abs() < 1e-4, "{all} instead of {}", truth[at]);
            }
        }
    }

    #[test]
    fn nodes_come_to_the_same_bits_in_whatever_order_they_hear(
        order in Just((0_usize..4).collect::<Vec<_>>()).prop_shuffle(),
        seed in 0_u64..1000,
    ) {
        let demo = Demo::new(DemoConfig::default(), &[(32, 48)]).unwrap();
        let sent: Vec<Vec<u8>> = (0..4)
            .map(|who| {
                let mut own = Demo::new(DemoConfig::default(), &[(32, 48)]).unwrap();
                own.contribute(0, &numbers(32 * 48, seed + who), 0.1).unwrap()
            })
            .collect();
        let step = |order: &[usize]| {
            let heard = order.iter().map(|who| (*who, demo.read(0, &sent[*who]).unwrap()));
            let mut weights = vec![1.0; 32 * 48];
            demo.step(&heard.collect(), 0.1, 0.01, &mut weights).unwrap();
            weights
        };
        prop_assert_eq!(step(&[0, 1, 2, 3]), step(&order));
    }
}

/// Each node has a goal of its own; what is best for all of them lies between.
#[test]
fn nodes_find_the_common_minimum() {
    let count = 64 * 96;
    let goals: Vec<Vec<f32>> = (0..4).map(|n| numbers(count, 70 + n)).collect();
    let mean: Vec<f32> = (0..count)
        .map(|n| goals.iter().map(|goal| goal[n]).sum::<f32>() / 4.0)
        .collect();
    let config = DemoConfig {
        one_of: 16,
        decay: 0.9,
        ..DemoConfig::default()
    };
    let one = || Demo::new(config, &[(64, 96)]).unwrap();
    let mut nodes = [one(), one(), one(), one()];
    let mut weights = vec![0.0; count];
    let distance = |weights: &[f32]| {
        let squares = weights
            .iter()
            .zip(&mean)
            .map(|(x, y)| f64::from((x - y) * (x - y)));
        squares.sum::<f64>()
    };
    let before = distance(&weights);
    for step in 0..400 {
        let rate = 0.01 * (1.0 - step as f32 / 400.0);
        let mut heard = BTreeMap::new();
        for (who, node) in nodes.iter_mut().enumerate() {
            let own = weights.iter().zip(&goals[who]).map(|(x, goal)| x - goal);
            let sent = node
                .contribute(step, &own.collect::<Vec<_>>(), rate)
                .unwrap();
            heard.insert(who, node.read(step, &sent).unwrap());
        }
        nodes[0].step(&heard, rate, 0.0, &mut weights).unwrap();
    }
    let after = distance(&weights);
    assert!(after < 0.15 * before, "{after} of {before}");
}

#[test]
fn a_step_that_cannot_be_changes_nothing() {
    let mut demo = Demo::new(DemoConfig::default(), &[(16, 16)]).unwrap();
    demo.contribute(0, &numbers(256, 1), 0.1).unwrap();
    let before = demo.momentum().to_vec();
    let mut wrong = numbers(256, 2);
    for value in [f32::NAN, f32::INFINITY, -f32::INFINITY] {
        wrong[17] = value;
        assert!(demo.contribute(1, &wrong, 1.0).is_err(), "{value}");
        assert_eq!(demo.momentum(), before);
    }
    assert!(demo.contribute(1, &wrong[1..], 1.0).is_err());
    let mut weights = vec![1.0; 256];
    let nobody: BTreeMap<u8, Contribution> = BTreeMap::new();
    demo.step(&nobody, 0.1, 0.1, &mut weights).unwrap();
    let dense = BTreeMap::from([(0, Contribution::Dense(vec![1.0; 256]))]);
    assert!(demo.step(&dense, 0.1, 0.1, &mut weights).is_err());
    let outside = BTreeMap::from([(0, Contribution::Frequencies(vec![(256, 1.0)]))]);
    assert!(demo.step(&outside, 0.1, 0.1, &mut weights).is_err());
    assert_eq!(weights, [1.0; 256]);
}
