//! Trains an adapter on a random base in NF4 on a device, and says how fast and in how much memory.
//!
//!     qlora_rate [--layers 32] [--width 4096] [--hidden 14336] [--heads 32] [--kv-heads 8]
//!                [--vocabulary 32000] [--sequence 512] [--batch 1,4] [--steps 8] [--rank 16] [--f32]
//!
//! Without options the base has the shape of Mistral 7B. With the feature `cuda` the device is the
//! first card, without it burn's processor backend. For each batch size the result is a line of
//! JSON: the median of tokens a second over all steps but the first two, of whole steps, AdamW among
//! them; bytes as they were charged; and what the driver says, in MiB. `benches/qlora_peft.py` does
//! the same by PEFT and bitsandbytes.

use std::collections::HashMap;
use std::process::Command;
use std::sync::Arc;
use std::time::Instant;

use skep_accounts::Account;
use skep_decoder::{Architecture, Config, LayerConfig};
use skep_kernels::rows::{Gate, RopeLayout};
use skep_train::{
    Base, Divisor, Example, HyperParameters, LoraConfig, Loss, Trainer, TrainerOptions,
};
use skep_train_device::{Compute, DeviceDecoder, Place};

/// MiB of the card's memory that are in use, as its driver says.
fn driver_mib() -> Option<u64> {
    let asked = ["--query-gpu=memory.used", "--format=csv,noheader,nounits"];
    let said = Command::new("nvidia-smi").args(asked).output().ok()?;
    String::from_utf8_lossy(&said.stdout)
        .lines()
        .next()?
        .trim()
        .parse()
        .ok()
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut given: HashMap<String, String> = HashMap::new();
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        let name = argument
            .strip_prefix("--")
            .ok_or("options begin with two dashes")?;
        let value = match name {
            "f32" => String::new(),
            _ => arguments.next().ok_or("an option without a value")?,
        };
        given.insert(name.to_owned(), value);
    }
    let number = |name: &str, usual: usize| -> Result<usize, std::num::ParseIntError> {
        given.get(name).map_or(Ok(usual), |text| text.parse())
    };
    let (width, heads) = (number("width", 4096)?, number("heads", 32)?);
    let (sequence, steps) = (number("sequence", 512)?, number("steps", 8)?);
    let head_dim = width / heads;
    let turn = |pair: usize| 10_000_f64.powf(-2.0 * pair as f64 / head_dim as f64);
    let layer = LayerConfig {
        window: None,
        frequencies: (0..head_dim / 2).map(turn).collect(),
    };
    let config = Config {
        architecture: Architecture::Llama,
        vocabulary: number("vocabulary", 32_000)?,
        context: sequence,
        width,
        hidden: number("hidden", 14_336)?,
        heads,
        kv_heads: number("kv-heads", 8)?,
        head_dim,
        epsilon: 1e-5,
        norm_offset: 0.0,
        embedding_scale: 1.0,
        attention_scale: 1.0 / (head_dim as f32).sqrt(),
        gate: Gate::Silu,
        tied: false,
        rope_layout: RopeLayout::Halves,
        layers: vec![layer; number("layers", 32)?],
    };
    let vocabulary = config.vocabulary as u32;
    #[cfg(feature = "cuda")]
    let place = Place::Cuda(0);
    #[cfg(not(feature = "cuda"))]
    let place = Place::Processor;
    let compute = match given.contains_key("f32") {
        true => Compute::F32,
        false => Compute::Bf16,
    };
    let (began, before) = (Instant::now(), driver_mib());
    let base = Arc::new(Base::random_nf4(config, 1, &Account::unlimited())?);
    let made = began.elapsed().as_secs_f64();
    let account = Account::unlimited();
    let device = DeviceDecoder::upload(&base, place, compute, &account)?;
    let (weights, bytes) = device.linear_weights();
    let (device, uploaded) = (Arc::new(device), began.elapsed().as_secs_f64() - made);
    let base_bytes = account.usage().device_bytes;
    let batches = given.get("batch").map_or("1,4", String::as_str);
    for batch in batches.split(',') {
        let batch: usize = batch.trim().parse()?;
        let lora = LoraConfig {
            rank: number("rank", 16)?,
            ..LoraConfig::default()
        };
        let mut trainer = Trainer::open(Arc::clone(&base), lora, &TrainerOptions::default())?;
        trainer.compute_on(device.clone())?;
        // A linear congruence, of which the upper bits count.
        let mut state = 1_u64;
        let mut token = || {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            ((state >> 33) % u64::from(vocabulary)) as u32
        };
        let (mut rates, mut passes, mut losses) = (Vec::new(), Vec::new(), Vec::new());
        let mut first = 0.0;
        for step in 0..steps + 2 {
            let text = |_| Example {
                tokens: (0..sequence).map(|_| token()).collect(),
                ..Example::default()
            };
            let texts: Vec<Example> = (0..batch).map(text).collect();
            let began = Instant::now();
            let outcome = trainer.forward_backward(&texts, Loss::CrossEntropy, Divisor::Own)?;
            let pass = began.elapsed().as_secs_f64();
            trainer.optim_step(&HyperParameters::default())?;
            let whole = began.elapsed().as_secs_f64();
            // Kernels are compiled when they are first launched, and memory is asked for.
            match step {
                0 => first = whole,
                1 => {}
                _ => {
                    rates.push((batch * sequence) as f64 / whole);
                    passes.push(pass);
                }
            }
            losses.push(outcome.loss);
        }
        let result = serde_json::json!({
            "batch": batch,
            "sequence": sequence,
            "tokens_per_second": median(rates),
            "seconds_of_a_pass": median(passes),
            "seconds_of_the_first_step": first,
            "losses": losses,
            "linear_weights": weights,
            "bytes_a_weight": bytes as f64 / weights as f64,
            "base_bytes": base_bytes,
            "charged_peak_bytes": account.usage().device_bytes_peak,
            "parameters": trainer.parameters(),
            "driver_mib_before": before,
            "driver_mib": driver_mib(),
            "seconds_to_make": made,
            "seconds_to_upload": uploaded,
        });
        println!("{result}");
    }
    Ok(())
}
