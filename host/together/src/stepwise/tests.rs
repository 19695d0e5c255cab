//! What nodes that make every step together say, and what shows of a node that says something else.

use proptest::prelude::*;

use super::*;
use crate::audit::ROUNDING;
use crate::demo::DemoConfig;
use crate::testing::numbers;

const MATRICES: [(usize, usize); 2] = [(16, 40), (24, 16)];
const COUNT: usize = 16 * 40 + 24 * 16;

fn ways() -> [Stepwise; 2] {
    let demo = Method::Demo(DemoConfig {
        one_of: 16,
        ..DemoConfig::default()
    });
    [demo, Method::AllReduce].map(|method| Stepwise::new(&method, &MATRICES).unwrap().unwrap())
}

/// A node that has made three steps, and what it says in the fourth.
fn said(way: &Stepwise, seed: u64) -> (Vec<u8>, Vec<f32>, Vec<f32>) {
    let mut own = way.clone();
    for step in 0..3 {
        own.contribute(step, &numbers(COUNT, seed + u64::from(step)), 0.1)
            .unwrap();
    }
    let before = own.unsaid().to_vec();
    let bytes = own.contribute(3, &numbers(COUNT, seed + 3), 0.1).unwrap();
    (bytes, before, own.unsaid().to_vec())
}

#[test]
fn the_end_is_said_in_a_header() {
    for way in ways() {
        let bytes = way.at_the_end();
        assert_eq!(bytes.len(), Header::BYTES);
        assert_eq!(way.read(LAST_ROUND, &bytes), Ok(Contribution::Unmoved));
        // Before the end nobody says nothing.
        assert!(way.read(3, &bytes).is_err());
        let (contribution, ..) = said(&way, 1);
        assert!(way.read(LAST_ROUND, &contribution).is_err());
        assert!(contribution.len() <= way.bytes());
    }
    let diloco = Method::Diloco(crate::DilocoConfig::default());
    assert!(Stepwise::new(&diloco, &MATRICES).unwrap().is_none());
    assert!(Stepwise::new(&Method::AllReduce, &[]).is_err());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(20))]
    #[test]
    fn who_says_what_it_has_computed_passes(seed in 0_u64..1000, noise in 0.0_f32..1e-6) {
        for way in ways() {
            let (bytes, before, after) = said(&way, seed);
            let gradients = numbers(COUNT, seed + 3);
            prop_assert_eq!(way.check(3, &bytes, (&before, &after), &gradients, 0.1), Ok(()));
            // So does one whose processor rounds otherwise.
            let other: Vec<f32> = gradients.iter().map(|x| x * (1.0 + noise)).collect();
            prop_assert_eq!(way.check(3, &bytes, (&before, &after), &other, 0.1), Ok(()));
        }
    }

    #[test]
    fn who_says_something_else_does_not(seed in 0_u64..1000) {
        for way in ways() {
            let (bytes, before, after) = said(&way, seed);
            let gradients = numbers(COUNT, seed + 3);
            let check = |said: &[u8], before: &[f32], after: &[f32], of: &[f32], rate: f32| {
                way.check(3, said, (before, after), of, rate)
            };
            // Other examples.
            let other = numbers(COUNT, seed + 4);
            prop_assert!(check(&bytes, &before, &after, &other, 0.1).is_err());
            // The other way around.
            let turned: Vec<f32> = gradients.iter().map(|x| -x).collect();
            prop_assert!(check(&bytes, &before, &after, &turned, 0.1).is_err());
            // Something cut off, or of another step.
            prop_assert!(check(&bytes[1..], &before, &after, &gradients, 0.1).is_err());
            let mut elsewhere = before.clone();
            elsewhere.push(0.0);
            prop_assert!(check(&bytes, &elsewhere, &after, &gradients, 0.1).is_err());
            if let Stepwise::Demo(_) = way {
                // It keeps what it has said, or forgets what it has not.
                prop_assert!(check(&bytes, &before, &before, &gradients, 0.1).is_err());
                let nothing = vec![0.0; COUNT];
                prop_assert!(check(&bytes, &before, &nothing, &gradients, 0.1).is_err());
                let rate = 0.1 * (1.0 + 3.0 * ROUNDING as f32);
                prop_assert!(check(&bytes, &nothing, &after, &gradients, rate).is_err());
            }
        }
    }

    #[test]
    fn positions_come_back_and_nothing_else_is_one(
        batches in any::<u64>(),
        unsaid in prop::collection::vec(-1.0_f32..1.0, 0..20),
        cut in 1_usize..8,
    ) {
        let position = Position { batches, unsaid };
        let mut bytes = position.to_bytes();
        prop_assert_eq!(Position::from_bytes(&bytes), Some(position.clone()));
        prop_assert_eq!(position.digest(), *blake3::hash(&bytes).as_bytes());
        bytes.extend_from_slice(&f32::NAN.to_le_bytes());
        prop_assert_eq!(Position::from_bytes(&bytes), None);
        bytes.truncate(bytes.len() - 4);
        if cut % 4 != 0 {
            prop_assert_eq!(Position::from_bytes(&bytes[..bytes.len() - cut]), None);
        }
    }
}

/// Each node has a goal of its own; what is best for all of them lies between. With all-reduce by
/// steps of plain descent all come there exactly, and with DeMo near to it; whoever reads comes to
/// the same bits.
#[test]
fn nodes_come_to_the_same_weights_near_the_common_minimum() {
    let goals: Vec<Vec<f32>> = (0..3).map(|n| numbers(COUNT, 50 + n)).collect();
    let mean: Vec<f32> = (0..COUNT)
        .map(|at| goals.iter().map(|goal| goal[at]).sum::<f32>() / 3.0)
        .collect();
    let config = DemoConfig {
        one_of: 8,
        decay: 0.9,
        ..DemoConfig::default()
    };
    for (method, left) in [(Method::Demo(config), 0.15), (Method::AllReduce, 1e-3)] {
        let one = || Stepwise::new(&method, &MATRICES).unwrap().unwrap();
        let mut nodes = [one(), one(), one()];
        let mut weights = vec![vec![0.0_f32; COUNT]; 3];
        let distance = |weights: &[f32]| {
            let squares = weights
                .iter()
                .zip(&mean)
                .map(|(x, y)| f64::from((x - y).powi(2)));
            squares.sum::<f64>()
        };
        let before = distance(&weights[0]);
        for step in 0..300 {
            let rate = 0.015 * (1.0 - step as f32 / 300.0);
            let mut sent = Vec::new();
            for (node, (weights, goal)) in nodes.iter_mut().zip(weights.iter().zip(&goals)) {
                let own: Vec<f32> = weights.iter().zip(goal).map(|(x, y)| x - y).collect();
                sent.push(node.contribute(step, &own, rate).unwrap());
            }
            for (node, weights) in nodes.iter().zip(&mut weights) {
                let heard: BTreeMap<usize, Contribution> = sent
                    .iter()
                    .enumerate()
                    .map(|(who, bytes)| (who, node.read(step, bytes).unwrap()))
                    .collect();
                match node {
                    Stepwise::Demo(demo) => demo.step(&heard, rate, 0.0, weights).unwrap(),
                    Stepwise::AllReduce(all) => {
                        let mean = all.mean(&heard).unwrap();
                        weights
                            .iter_mut()
                            .zip(mean)
                            .for_each(|(x, y)| *x -= 0.1 * y);
                    }
                }
            }
        }
        assert!(weights[0] == weights[1] && weights[1] == weights[2]);
        let after = distance(&weights[0]);
        assert!(after < left * before, "{method:?}: {after} of {before}");
    }
}
