//! DiLoCo against PyTorch's outer optimizer, and DeMo against transforms by FFT:
//! `reference/make_reference.py`.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use std::collections::BTreeMap;

use safetensors::SafeTensors;
use skep_together::{Demo, DemoConfig, Diloco, DilocoConfig, Turn};

const NODES: usize = 3;

fn reference(name: &str) -> Vec<f32> {
    let bytes = include_bytes!("reference/reference.safetensors");
    let tensors = SafeTensors::deserialize(bytes).unwrap();
    let data = tensors.tensor(name).unwrap().data().to_vec();
    let words = data.chunks_exact(4);
    words
        .map(|word| f32::from_le_bytes(word.try_into().unwrap()))
        .collect()
}

fn furthest(got: &[f32], want: &[f32]) -> f32 {
    assert_eq!(got.len(), want.len());
    got.iter()
        .zip(want)
        .map(|(x, y)| (x - y).abs())
        .fold(0.0, f32::max)
}

#[test]
fn diloco_is_pytorchs_outer_optimizer_on_what_was_sent() {
    let start = reference("diloco.start");
    let weights = reference("diloco.weights");
    let config = DilocoConfig {
        every: 2,
        fragments: 2,
        rate: 0.7,
        momentum: 0.9,
        ..DilocoConfig::default()
    };
    let mut nodes: Vec<Diloco> = (0..NODES)
        .map(|_| Diloco::new(config, &start).unwrap())
        .collect();
    let all = nodes.len() * start.len();
    for (round, weights) in (0_u32..).zip(weights.chunks(all)) {
        for fragment in 0..2 {
            let turn = Turn { round, fragment };
            let mut heard = BTreeMap::new();
            for (who, node) in nodes.iter_mut().enumerate() {
                let own = &weights[who * start.len()..][..start.len()];
                let sent = node.contribute(turn, own).unwrap();
                heard.insert(who, node.read(turn, &sent).unwrap());
            }
            for node in &mut nodes {
                node.step(turn, &heard, &mut start.clone()).unwrap();
            }
        }
    }
    let lost = reference("diloco.lost");
    for (who, node) in nodes.iter().enumerate() {
        assert!(furthest(node.agreed(), &reference("diloco.agreed")) < 1e-5);
        let own = &lost[who * start.len()..][..start.len()];
        assert!(furthest(node.lost(), own) < 1e-6);
    }
}

#[test]
fn demo_takes_the_steps_of_the_reference() {
    const SIZE: usize = 16 * 128;
    let config = DemoConfig {
        decay: 0.9,
        ..DemoConfig::default()
    };
    let mut nodes: Vec<Demo> = (0..NODES)
        .map(|_| Demo::new(config, &[(16, 128)]).unwrap())
        .collect();
    let mut weights = reference("demo.start");
    let gradients = reference("demo.gradients");
    for (step, gradients) in (0_u32..).zip(gradients.chunks(NODES * SIZE)) {
        let mut heard = BTreeMap::new();
        for (who, node) in nodes.iter_mut().enumerate() {
            let own = &gradients[who * SIZE..][..SIZE];
            let sent = node.contribute(step, own, 0.01).unwrap();
            heard.insert(who, node.read(step, &sent).unwrap());
        }
        nodes[0].step(&heard, 0.01, 0.1, &mut weights).unwrap();
    }
    // A sign that differed would be a difference of 0.02.
    assert!(furthest(&weights, &reference("demo.weights")) < 1e-5);
    let momentum = reference("demo.momentum");
    for (who, node) in nodes.iter().enumerate() {
        let own = &momentum[who * SIZE..][..SIZE];
        assert!(furthest(node.momentum(), own) < 1e-5);
    }
}
