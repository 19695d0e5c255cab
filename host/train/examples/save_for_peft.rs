//! Saves adapters where `tests/training/make_adapters.py` has PEFT load them: one of the tests' tiny
//! encoder, trained for a few steps, and the one of a tiny decoder that PEFT made.

use std::error::Error;
use std::path::Path;
use std::sync::Arc;

use skep_decoder::Decoder;
use skep_model::{Encoder, EncoderOptions, Precision};
use skep_tensor::Device;
use skep_train::{
    Base, Divisor, Example, HyperParameters, LoraConfig, Loss, Trainer, TrainerOptions,
};

const CLASSES: u32 = 5;
const STEPS: usize = 20;

fn main() -> Result<(), Box<dyn Error>> {
    let tests = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/training");
    encoder(&tests.join("bert"))?;
    decoder(&tests)
}

fn lora() -> LoraConfig {
    LoraConfig {
        rank: 4,
        alpha: 6.0,
        ..LoraConfig::default()
    }
}

fn decoder(tests: &Path) -> Result<(), Box<dyn Error>> {
    let decoder = Decoder::load(&tests.join("../../../decoder/tests/models/smollm"))?;
    let base = Arc::new(Base::stored(Arc::new(decoder)));
    let mut trainer = Trainer::open(base, lora(), &TrainerOptions::default())?;
    trainer.load_adapter(&tests.join("smollm"))?;
    trainer.save(&tests.join("saved"), "tiny-smollm")?;
    Ok(())
}

fn encoder(folder: &Path) -> Result<(), Box<dyn Error>> {
    let mut options = EncoderOptions::default();
    options.precision = Some(Precision::F32);
    let encoder = Encoder::load_with(&folder.join("model"), &Device::cpu(), options)?;
    let base = Arc::new(Base::encoder(&encoder)?);
    let options = TrainerOptions {
        threads: 1,
        classes: Some(CLASSES as usize),
        ..TrainerOptions::default()
    };
    let mut trainer = Trainer::open(base, lora(), &options)?;
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
