//! Measures how many texts an encoder embeds per second.
//!
//! ```text
//! embed_bench --model FOLDER --texts FILE [--threads N] [--repeat N] [--f32] [--out FILE]
//! ```
//!
//! Reads one text a line, embeds all of them `repeat` times after once to warm up, and prints one
//! JSON object on one line: `texts`, `tokens`, `threads`, `precision`, `isa`, `load_seconds`,
//! and, for the median repeat, `seconds`, `texts_per_s`, `tokens_per_s` and `gflops` (by the
//! formula of `skep_model::Cost`); `runs` has the seconds of each repeat, `cpu_seconds` what all
//! repeats took of the processor's time on average (on Linux). `--out` writes the
//! embeddings as little-endian f32, row by row.

use std::error::Error;
use std::path::PathBuf;
use std::time::Instant;

use skep_model::{Encoder, EncoderOptions, Isa, Precision, Workers};
use skep_tensor::{Account, Device};

fn main() -> Result<(), Box<dyn Error>> {
    let (mut model, mut texts, mut out) = (None, None, None);
    let (mut threads, mut repeat, mut precision) = (2_usize, 3_usize, Precision::I16);
    let mut args = std::env::args().skip(1);
    while let Some(flag) = args.next() {
        let mut value = || args.next().ok_or(format!("{flag} needs a value"));
        match flag.as_str() {
            "--model" => model = Some(PathBuf::from(value()?)),
            "--texts" => texts = Some(PathBuf::from(value()?)),
            "--out" => out = Some(PathBuf::from(value()?)),
            "--threads" => threads = value()?.parse()?,
            "--repeat" => repeat = value()?.parse()?,
            "--f32" => precision = Precision::F32,
            other => return Err(format!("unknown option {other}").into()),
        }
    }
    let model = model.ok_or("--model is missing")?;
    let texts = std::fs::read_to_string(texts.ok_or("--texts is missing")?)?;
    let texts: Vec<String> = texts.lines().map(str::to_owned).collect();

    let begin = Instant::now();
    let mut options = EncoderOptions::default();
    options.precision = Some(precision);
    options.workers = Some(Workers::new(threads)?);
    let encoder = Encoder::load_with(&model, &Device::cpu(), options)?;
    let load_seconds = begin.elapsed().as_secs_f64();

    let tokens: u64 = encoder
        .count_tokens(&texts)?
        .into_iter()
        .map(|n| u64::from(n.min(encoder.info().max_tokens)))
        .sum();
    let account = Account::unlimited();
    let vectors = encoder.embed(&texts, &account)?;
    if let Some(out) = out {
        std::fs::write(out, vectors.to_bytes()?)?;
    }
    drop(vectors);
    let flops = account.usage().flops as f64;

    let mut runs = Vec::new();
    let before = cpu_seconds();
    for _ in 0..repeat.max(1) {
        let begin = Instant::now();
        encoder.embed(&texts, &Account::unlimited())?;
        runs.push(begin.elapsed().as_secs_f64());
    }
    let cpu = (cpu_seconds() - before) / runs.len() as f64;
    let mut sorted = runs.clone();
    sorted.sort_by(f64::total_cmp);
    let seconds = sorted[sorted.len() / 2];
    let result = serde_json::json!({
        "texts": texts.len(),
        "tokens": tokens,
        "threads": threads,
        "precision": match precision { Precision::F32 => "f32", _ => "i16" },
        "isa": Isa::best().name(),
        "load_seconds": load_seconds,
        "seconds": seconds,
        "cpu_seconds": cpu,
        "texts_per_s": texts.len() as f64 / seconds,
        "tokens_per_s": tokens as f64 / seconds,
        "gflops": flops / seconds / 1e9,
        "runs": runs,
    });
    println!("{result}");
    Ok(())
}

/// Processor time of this process so far, to the hundredth; 0 where it cannot be read.
fn cpu_seconds() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    // User and system time are fields 14 and 15, the 12th and 13th after the name.
    let after = stat.rsplit(')').next().unwrap_or_default();
    let ticks = after.split_whitespace().skip(11).take(2);
    ticks
        .filter_map(|field| field.parse::<f64>().ok())
        .sum::<f64>()
        / 100.0
}
