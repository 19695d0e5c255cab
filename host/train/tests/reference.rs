//! Quantization and optimizers against what `reference/make_reference.py` computed.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use std::path::PathBuf;

use safetensors::SafeTensors;
use skep_accounts::Account;
use skep_train::dynamic8::{SIGNED, UNSIGNED};
use skep_train::nf4::{NF4, Nf4Matrix};
use skep_train::{HyperParameters, Optimizer, OptimizerKind};

struct Reference(Vec<u8>);

impl Reference {
    fn open(name: &str) -> Self {
        let root = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
        Self(std::fs::read(root.join("tests/reference").join(name)).unwrap())
    }

    fn bytes(&self, name: &str) -> Vec<u8> {
        let tensors = SafeTensors::deserialize(&self.0).unwrap();
        tensors.tensor(name).unwrap().data().to_vec()
    }

    fn floats(&self, name: &str) -> Vec<f32> {
        let bytes = self.bytes(name);
        let words = bytes.as_chunks::<4>().0.iter();
        words.map(|word| f32::from_le_bytes(*word)).collect()
    }
}

fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|x| x.to_bits()).collect()
}

#[test]
fn the_tables_are_the_published_ones_bit_for_bit() {
    let reference = Reference::open("nf4.safetensors");
    assert_eq!(bits(&NF4), bits(&reference.floats("table")));
    assert_eq!(bits(&SIGNED.numbers), bits(&reference.floats("signed")));
    assert_eq!(bits(&UNSIGNED.numbers), bits(&reference.floats("unsigned")));
}

#[test]
fn nf4_and_its_double_quantization_agree_bit_for_bit() {
    let reference = Reference::open("nf4.safetensors");
    let (weights, columns) = (reference.floats("weights"), 256);
    let account = Account::unlimited();
    let matrix = Nf4Matrix::quantize(weights.len() / columns, columns, &account, |row, out| {
        out.copy_from_slice(&weights[row * columns..(row + 1) * columns]);
    })
    .unwrap();
    assert_eq!(matrix.codes(), reference.bytes("codes"));
    assert_eq!(bits(&[matrix.mean()]), bits(&reference.floats("mean")));
    assert_eq!(
        bits(matrix.outer_scales()),
        bits(&reference.floats("outer"))
    );
    assert_eq!(matrix.scales(), reference.bytes("scales"));
    let mut back = vec![0.0; weights.len()];
    for (row, out) in back.chunks_exact_mut(columns).enumerate() {
        matrix.dequantize(row, 0..columns, out).unwrap();
    }
    assert_eq!(bits(&back), bits(&reference.floats("back")));
}

#[test]
fn steps_are_those_of_pytorch() {
    let reference = Reference::open("adamw.safetensors");
    let mut parameters = reference.floats("start");
    let count = parameters.len();
    let account = Account::unlimited();
    let mut optimizer = Optimizer::new(OptimizerKind::AdamW, count, &account, &account).unwrap();
    let hyper = HyperParameters {
        learning_rate: 0.03,
        betas: (0.8, 0.97),
        epsilon: 1e-6,
        weight_decay: 0.2,
        clip: Some(0.5),
    };
    let (gradients, after) = (reference.floats("gradients"), reference.floats("after"));
    let steps = gradients.chunks_exact(count).zip(after.chunks_exact(count));
    let mut largest = 0.0_f32;
    for ((gradients, want), norm) in steps.zip(reference.floats("norms")) {
        let mut gradients = gradients.to_vec();
        let outcome = optimizer
            .step(&hyper, &mut parameters, &mut gradients)
            .unwrap();
        assert!((outcome.gradient_norm / norm - 1.0).abs() < 1e-6);
        for (got, want) in parameters.iter().zip(want) {
            largest = largest.max((got - want).abs());
        }
    }
    println!("ten steps of AdamW: within {largest:.1e}");
    assert!(largest < 2e-6, "{largest}");
}
