//! Trains an adapter of the tests' tiny encoder for a few steps and saves it where
//! `tests/training/make_adapters.py` has PEFT load it.

use std::error::Error;
use std::path::Path;
use std::sync::Arc;

use skep_model::{Encoder, EncoderOptions, Precision};
use skep_tensor::Device;
use skep_train::{
    Base, Divisor, Example, HyperParameters, LoraConfig, Loss, Trainer, TrainerOptions,
};

const CLASSES: u32 = 5;
const STEPS: usize = 20;

fn main() -> Result<(), Box<dyn Error>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/training/bert");
    let mut options = EncoderOptions::default();
    options.precision = Some(Precision::F32);
    let encoder = Encoder::load_with(&folder.join("model"), &Device::cpu(), options)?;
    let base = Arc::new(Base::encoder(&encoder)?);
    let lora = LoraConfig {
        rank: 4,
        alpha: 6.0,
        ..LoraConfig::default()
    };
    let options = TrainerOptions {
        threads: 1,
        classes: Some(CLASSES as usize),
        ..TrainerOptions::default()
    };
    let mut trainer = Trainer::open(base, lora, &options)?;
    let text = |n: u32| Example {
        tokens: (0..5 + 6 * n)
            .map(|place| 3 + (37 * n + 11 * place) % 157)
            .collect(),
        label: Some(n % CLASSES),
        ..Example::default()
    };
    let texts: Vec<Example> = (0..10).map(text).collect();
    let hyper = HyperParameters {
        learning_rate: 2e-2,
        ..HyperParameters::default()
    };
    for step in 0..STEPS {
        let done = trainer.forward_backward(&texts, Loss::Classification, Divisor::Own)?;
        trainer.optim_step(&hyper)?;
        println!("step {step}: {:.4}", done.loss);
    }
    trainer.save(&folder.join("saved"), "tiny-bert")?;
    Ok(())
}
