//! What a node says of its weights to others that train with it, dense, as frequencies and as
//! gradients: whatever is accepted is finite, and a step along it changes no weight to one that is not.
#![no_main]

use std::collections::BTreeMap;

use libfuzzer_sys::fuzz_target;
use skep_together::{AllReduce, Demo, DemoConfig, Diloco, DilocoConfig, Guard, Precision, Turn};

/// Not a multiple of a block, and odd.
const WEIGHTS: usize = 24 * 17;

fuzz_target!(|bytes: &[u8]| {
    let turn = Turn {
        round: 0,
        fragment: 0,
    };
    for precision in [Precision::Int8, Precision::Int4] {
        let config = DilocoConfig {
            precision,
            ..DilocoConfig::default()
        };
        let mut node = Diloco::new(config, &[0.5; WEIGHTS]).expect("these settings are sound");
        let heard = BTreeMap::from([(0, node.read(turn, bytes))]);
        let judged = Guard::default().judge(heard, None);
        let mut weights = [0.5; WEIGHTS];
        if node.step(turn, &judged.accepted, &mut weights).is_ok() {
            assert!(weights.iter().all(|x| x.is_finite()));
        }
    }
    let node = AllReduce::new(WEIGHTS).expect("there are some weights");
    let heard = BTreeMap::from([(0, node.read(0, bytes))]);
    let judged = Guard::default().judge(heard, None);
    let mean = node.mean(&judged.accepted).expect("they are gradients");
    assert!(mean.iter().all(|x| x.is_finite()));
    let node = Demo::new(DemoConfig::default(), &[(24, 17)]).expect("these settings are sound");
    let heard = BTreeMap::from([(0, node.read(0, bytes))]);
    let judged = Guard::default().judge(heard, None);
    let mut weights = [0.5; WEIGHTS];
    if node.step(&judged.accepted, 0.1, 0.1, &mut weights).is_ok() {
        assert!(weights.iter().all(|x| (0.3..=0.6).contains(x)));
    }
});
