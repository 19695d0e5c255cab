//! Trains an adapter on random tokens and says how fast and in how much memory.
//!
//!     train_speed BASE --batch 4 --length 512 --steps 8 --rank 16 [--threads 2] [--nf4]
//!                 [--checkpointing] [--eight-bit] [--save FOLDER] [--classes 12]
//!
//! With `--classes` the base is a sentence encoder, which learns as many, text by text in turn.
//!
//! `benches/train_side_by_side.py` runs it beside PEFT on the same model and tokens. The result is
//! a line of JSON: losses, tokens a second without the first step, and bytes.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use skep_accounts::Account;
use skep_decoder::Decoder;
use skep_model::{Encoder, EncoderOptions, Precision};
use skep_tensor::Device;
use skep_train::{
    Base, Checkpointing, Divisor, Example, HyperParameters, LoraConfig, Loss, OptimizerKind,
    Trainer, TrainerOptions,
};

/// A line of `/proc/self/status`, in bytes.
fn status(name: &str) -> u64 {
    let text = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = text.lines().find(|line| line.starts_with(name));
    let figure = line.and_then(|line| line.split_whitespace().nth(1));
    figure.and_then(|kib| kib.parse::<u64>().ok()).unwrap_or(0) * 1024
}

/// Seconds of processor time that the process has used, in hundredths.
fn processor_seconds() -> f64 {
    let text = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    // The name before them may hold spaces; it ends with a bracket.
    let fields = text.rsplit(')').next().unwrap_or_default();
    let ticks = fields.split_whitespace().skip(11).take(2);
    ticks.filter_map(|t| t.parse::<f64>().ok()).sum::<f64>() / 100.0
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut base = None;
    let mut given: HashMap<String, String> = HashMap::new();
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        match argument.strip_prefix("--") {
            None => base = Some(argument),
            Some(flag @ ("nf4" | "checkpointing" | "eight-bit")) => {
                given.insert(flag.to_owned(), String::new());
            }
            Some(name) => {
                let value = arguments.next().ok_or("an option without a value")?;
                given.insert(name.to_owned(), value);
            }
        }
    }
    let base = base.ok_or("which base?")?;
    let number = |name: &str, usual: usize| -> Result<usize, std::num::ParseIntError> {
        given.get(name).map_or(Ok(usual), |text| text.parse())
    };
    let (batch, length) = (number("batch", 4)?, number("length", 512)?);
    let steps = number("steps", 8)?;
    let account = Account::unlimited();
    let before = status("VmRSS");
    let classes = given.get("classes").map(|text| text.parse()).transpose()?;
    let nf4 = given.contains_key("nf4");
    let base = Arc::new(match classes {
        Some(_) => {
            let mut options = EncoderOptions::default();
            options.precision = Some(Precision::F32);
            let encoder = Encoder::load_with(Path::new(&base), &Device::cpu(), options)?;
            match nf4 {
                true => Base::encoder_nf4(&encoder, &account)?,
                false => Base::encoder(&encoder)?,
            }
        }
        None => {
            let decoder = Decoder::load(Path::new(&base))?;
            match nf4 {
                true => Base::nf4(&decoder, &account)?,
                false => Base::stored(Arc::new(decoder)),
            }
        }
    });
    let vocabulary = base.vocabulary() as u32;
    let lora = LoraConfig {
        rank: number("rank", 16)?,
        alpha: 32.0,
        ..LoraConfig::default()
    };
    let options = TrainerOptions {
        account: account.clone(),
        threads: number("threads", 2)?,
        optimizer: match given.contains_key("eight-bit") {
            true => OptimizerKind::AdamW8Bit,
            false => OptimizerKind::AdamW,
        },
        checkpointing: match given.contains_key("checkpointing") {
            true => Checkpointing::Layers,
            false => Checkpointing::None,
        },
        classes: classes.map(|classes| classes as usize),
        ..TrainerOptions::default()
    };
    let mut trainer = Trainer::open(Arc::clone(&base), lora, &options)?;
    // Where the other side has left its first weights, both begin with the same.
    if let Some(folder) = given.get("adapter") {
        trainer.load_adapter(Path::new(folder))?;
    }
    let hyper = HyperParameters {
        learning_rate: 1e-3,
        ..HyperParameters::default()
    };
    // The same tokens as the other side's: a linear congruence, of which the upper bits count.
    let mut state = 1_u64;
    let mut token = || {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        ((state >> 33) % u64::from(vocabulary)) as u32
    };
    let loss = match classes {
        Some(_) => Loss::Classification,
        None => Loss::CrossEntropy,
    };
    let label = |text: usize| classes.map(|classes: u32| text as u32 % classes);
    let mut losses = Vec::new();
    let (mut seconds, mut processor) = (0.0, 0.0);
    for step in 0..=steps {
        let texts: Vec<Example> = (0..batch)
            .map(|text| Example {
                tokens: (0..length).map(|_| token()).collect(),
                label: label(text),
                ..Example::default()
            })
            .collect();
        let (began, used) = (Instant::now(), processor_seconds());
        let outcome = trainer.forward_backward(&texts, loss, Divisor::Own)?;
        trainer.optim_step(&hyper)?;
        // The first step is where memory is asked for, on both sides.
        if step > 0 {
            seconds += began.elapsed().as_secs_f64();
            processor += processor_seconds() - used;
        }
        losses.push(outcome.loss);
    }
    if let Some(folder) = given.get("save") {
        trainer.save(Path::new(folder), "bench")?;
    }
    // What the other side makes of the saved adapter is held against this.
    let text = Example {
        tokens: (0..length as u32).map(|n| n % vocabulary).collect(),
        label: label(0),
        ..Example::default()
    };
    let check = trainer.evaluate(&[text], loss, Divisor::Own)?;
    let memory = trainer.memory();
    let (weights, weight_bytes) = base.linear_weights();
    let result = serde_json::json!({
        "losses": losses,
        "check_loss": check.loss,
        "tokens_per_second": (steps * batch * length) as f64 / seconds,
        "tokens_per_processor_second": (steps * batch * length) as f64 / processor,
        "rss_before": before,
        "rss_peak": status("VmHWM"),
        "charged_peak": account.usage().device_bytes_peak,
        "base_bytes": memory.base,
        "adapter_bytes": memory.parameters,
        "gradient_bytes": memory.gradients,
        "optimizer_bytes": memory.optimizer,
        "linear_weights": weights,
        "linear_bytes": weight_bytes,
    });
    println!("{result}");
    Ok(())
}
