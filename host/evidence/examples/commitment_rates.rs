//! How long a commitment to activations takes, and a comparison, on one core.
//!
//! `cargo run -p skep-evidence --example commitment_rates`

use std::hint::black_box;
use std::time::{Duration, Instant};

use half::bf16;
use skep_evidence::activations::{CHUNK, Commitment, Committer, States, compare};
use skep_evidence::sampling::Sampling;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("microseconds, best of 200");
    println!("| width | f32: token | end of chunk | chunk of {CHUNK} | bf16: chunk | compare |");
    println!("|---|---|---|---|---|---|");
    for width in [1024, 2048, 4096, 8192] {
        let states = states(width * CHUNK);
        let halves: Vec<bf16> = states.iter().map(|state| bf16::from_f32(*state)).collect();
        let commitment = Commitment::of(States::F32(&states))?;
        let whole = best(|| Commitment::of(States::F32(black_box(&states))).is_ok());
        let bf16 = best(|| Commitment::of(States::Bf16(black_box(&halves))).is_ok());
        let compared = best(|| compare(&commitment, States::F32(black_box(&states))).is_ok());
        // What each token of a text waits for: 31 of 32 are looked through, the last one makes
        // the polynomial too.
        let (mut token, mut last) = (Duration::MAX, Duration::MAX);
        for _ in 0..200 {
            let mut committer = Committer::new(width);
            let begin = Instant::now();
            for state in states.chunks(width).take(CHUNK - 1) {
                committer.push_token(States::F32(state))?;
            }
            let middle = Instant::now();
            committer.push_token(States::F32(&states[(CHUNK - 1) * width..]))?;
            last = last.min(middle.elapsed());
            token = token.min((middle - begin) / (CHUNK as u32 - 1));
            black_box(committer.finish()?);
        }
        let columns = [token, last, whole, bf16, compared].map(micros);
        println!("| {width} | {} |", columns.join(" | "));
    }
    let sampling = Sampling {
        temperature: 0.8,
        seed: 1,
        sample: 0,
    };
    for size in [32_000, 151_936] {
        let logits = self::states(size);
        let drawn = best(|| sampling.draw(black_box(&logits), 5).is_ok());
        println!(
            "a token of {size} drawn with shared noise: {} µs",
            micros(drawn)
        );
    }
    Ok(())
}

fn best(mut run: impl FnMut() -> bool) -> Duration {
    let mut best = Duration::MAX;
    for _ in 0..200 {
        let begin = Instant::now();
        assert!(black_box(run()), "it succeeds");
        best = best.min(begin.elapsed());
    }
    best
}

fn micros(duration: Duration) -> String {
    format!("{:.1}", duration.as_secs_f64() * 1e6)
}

/// Numbers as spread out as activations are: most small, few large.
fn states(count: usize) -> Vec<f32> {
    let mut stream = blake3::Hasher::new_derive_key("skep examples, activations").finalize_xof();
    let mut bytes = vec![0; 4 * count];
    stream.fill(&mut bytes);
    let words = bytes
        .chunks_exact(4)
        .map(|b| u32::from_le_bytes([b[0], b[1], b[2], b[3]]));
    words
        .map(|word| {
            let uniform = f64::from(word) / f64::from(u32::MAX) * 2.0 - 1.0;
            (uniform.powi(7) * 20.0) as f32
        })
        .collect()
}
