//! How fast a graphics processor decodes: a model of random weights in the shape of Mistral 7B,
//! packed as `Q4_K_M` packs it (4.4 GB), at several batch sizes.
//!
//! `cargo run --release -p skep-cubes --features cuda --example decode_rate`, with
//! `--peak GB/S` for the memory bandwidth that the card's data sheet names, `--layers N` for a
//! shorter model on a smaller card, `--texts 1,8,64` for batches of so many texts, `--prompt N` for
//! prompts of so many tokens and `--runs N` for medians of so many. Beside the data sheet's, the
//! bandwidth that the operator which adds two long rows reaches is measured in the same run, and the
//! fraction of it given.
#![allow(missing_docs)]

#[cfg(not(any(feature = "cuda", feature = "wgsl")))]
fn main() {
    println!("nothing to measure: build this with --features cuda or vulkan");
}

#[cfg(any(feature = "cuda", feature = "wgsl"))]
fn main() -> Result<(), Box<dyn std::error::Error>> {
    measure::run()
}

#[cfg(any(feature = "cuda", feature = "wgsl"))]
mod measure {
    use std::error::Error;
    use std::time::Instant;

    use skep_accounts::Account;
    use skep_cubes::attention::Pages;
    use skep_cubes::{Gpu, GpuKind, choose, rows};
    use skep_decoder::config::LayerConfig;
    use skep_decoder::{
        AdapterTarget, Architecture, Batch, Config, MatrixName, Part, PlacedDecoder,
        PlacedWorkspace,
    };
    use skep_kernels::PackedMatrix;
    use skep_kernels::kv::{KvFormat, KvShape, PAGE_TOKENS};
    use skep_kernels::operators::Device;
    use skep_kernels::rows::{Gate, Rope, RopeLayout};
    use skep_weights::PackedFormat;

    /// Tokens that every text has before it is measured.
    const PAST: usize = 128;

    pub fn run() -> Result<(), Box<dyn Error>> {
        let mut peak: Option<f64> = None;
        let mut layers = 32;
        let mut length = 512;
        let mut batches: Vec<usize> = vec![1, 8, 64];
        let mut runs = 15;
        let mut arguments = std::env::args().skip(1);
        while let Some(argument) = arguments.next() {
            let value = arguments.next().ok_or("an option needs a value")?;
            match argument.as_str() {
                "--peak" => peak = Some(value.parse()?),
                "--layers" => layers = value.parse()?,
                "--texts" => {
                    batches = value.split(',').map(str::parse).collect::<Result<_, _>>()?;
                }
                "--runs" => runs = value.parse()?,
                "--prompt" => length = value.parse::<usize>()?.next_multiple_of(PAGE_TOKENS),
                other => return Err(format!("unknown option {other}").into()),
            }
        }
        let kind = match cfg!(feature = "cuda") {
            true => GpuKind::Cuda(0),
            false => GpuKind::VulkanBest,
        };
        let account = Account::unlimited();
        let gpu = Gpu::open(kind, account.clone())?;
        let reached = bandwidth(&gpu, runs)?;
        println!("{gpu:?}: adding long rows moves {reached:.0} GB/s");

        let begun = Instant::now();
        let mut weights = 0_u64;
        let decoder = decoder(&gpu, layers, &mut weights)?;
        gpu.wait()?;
        println!(
            "{layers} layers, {:.2} GB of weights, made and copied in {:.1} s",
            weights as f64 / 1e9,
            begun.elapsed().as_secs_f64()
        );
        for texts in batches {
            let seconds = step(&gpu, &decoder, texts, runs)?;
            let moved = weights as f64 / seconds / 1e9;
            print!(
                "batch {texts:2}: {:.2} ms a step, {:.0} tokens/s, weights at {moved:.0} GB/s, {:.1} % of what adding reaches",
                seconds * 1e3,
                texts as f64 / seconds,
                100.0 * moved / reached
            );
            match peak {
                Some(peak) => println!(", {:.1} % of the card's", 100.0 * moved / peak),
                None => println!(),
            }
        }
        let seconds = prompt(&gpu, &decoder, length, runs)?;
        println!(
            "a prompt of {length} tokens: {:.0} tokens/s",
            length as f64 / seconds
        );
        let used = account.usage().device_bytes_peak;
        println!("at most {:.2} GB on the device", used as f64 / 1e9);
        Ok(())
    }

    /// The median seconds of some runs after one that compiles the kernels.
    fn median(
        runs: usize,
        mut once: impl FnMut() -> Result<(), Box<dyn Error>>,
    ) -> Result<f64, Box<dyn Error>> {
        // The second of the same form keeps the pass.
        once()?;
        once()?;
        once()?;
        let mut all = Vec::new();
        for _ in 0..runs.max(1) {
            let begun = Instant::now();
            once()?;
            all.push(begun.elapsed().as_secs_f64());
        }
        all.sort_by(f64::total_cmp);
        Ok(all[all.len() / 2])
    }

    /// GB/s of an operator that does nothing but move memory: two numbers read, one written.
    fn bandwidth(gpu: &Gpu, runs: usize) -> Result<f64, Box<dyn Error>> {
        let count = 64 << 20;
        let mut to = gpu.empty(count)?;
        let from = gpu.empty(count)?;
        let seconds = median(runs, || {
            for _ in 0..4 {
                rows::add(gpu, &mut to, &from)?;
            }
            Ok(gpu.wait()?)
        })?;
        Ok(4.0 * 12.0 * count as f64 / seconds / 1e9)
    }

    fn decoder(
        gpu: &Gpu,
        layers: usize,
        weights: &mut u64,
    ) -> Result<PlacedDecoder<Gpu>, Box<dyn Error>> {
        let head_dim = 128;
        let config = Config {
            architecture: Architecture::Mistral,
            vocabulary: 32_000,
            context: 32_768,
            width: 4096,
            hidden: 14_336,
            heads: 32,
            kv_heads: 8,
            head_dim,
            epsilon: 1e-5,
            norm_offset: 0.0,
            embedding_scale: 1.0,
            attention_scale: 1.0 / (head_dim as f32).sqrt(),
            gate: Gate::Silu,
            tied: false,
            rope_layout: RopeLayout::Pairs,
            layers: vec![
                LayerConfig {
                    window: None,
                    frequencies: Rope::frequencies(1e4, head_dim),
                };
                layers
            ],
        };
        // As many blocks as the largest matrix has; every matrix gets a copy of its own.
        let most = config.hidden.max(config.vocabulary) * config.width / 256;
        let q4 = blocks(most, 144, &[0, 2]);
        let q6 = blocks(most, 210, &[208]);
        // Which matrices `Q4_K_M` gives more bits: the values' and the second of the feed-forward
        // layer in the first and last eighth of the layers and every third between, and the head.
        let finer = |number: usize| {
            let eighth = layers / 8;
            number < eighth || number >= 7 * layers / 8 || (number - eighth) % 3 == 2
        };
        let decoder = PlacedDecoder::with_matrices(gpu, config, |name, outputs, inputs| {
            let six = match name {
                MatrixName::Embedding => false,
                MatrixName::Head => true,
                MatrixName::Layer(number, target) => {
                    matches!(target, AdapterTarget::Value | AdapterTarget::Down) && finer(number)
                }
            };
            let (format, all) = match six {
                true => (PackedFormat::Q6_K, &q6),
                false => (PackedFormat::Q4_K, &q4),
            };
            let bytes = outputs * inputs / 256 * format.block_bytes();
            if name != MatrixName::Embedding {
                // Of the embedding a row a token is read.
                *weights += bytes as u64;
            }
            let packed = PackedMatrix::new(format, outputs, inputs, &all[..bytes])?;
            gpu.matrix(&packed.into(), None)
        })?;
        Ok(decoder)
    }

    /// Random blocks with scales that keep activations of the size of one.
    fn blocks(count: usize, size: usize, scales: &[usize]) -> Vec<u8> {
        let mut state = 0x9e37_79b9_7f4a_7c15_u64;
        let mut all = Vec::with_capacity(count * size + 8);
        while all.len() < count * size {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            all.extend(state.to_le_bytes());
        }
        all.truncate(count * size);
        for block in all.chunks_exact_mut(size) {
            for at in scales {
                block[*at..at + 2].copy_from_slice(&half::f16::from_f32(2e-5).to_le_bytes());
            }
        }
        all
    }

    fn pool(gpu: &Gpu, config: &Config, pages: usize) -> Result<Pages, Box<dyn Error>> {
        let shape = KvShape {
            layers: config.layers.len(),
            kv_heads: config.kv_heads,
            head_dim: config.head_dim,
            format: KvFormat::F16,
        };
        Ok(Pages::new(gpu, shape, pages)?)
    }

    /// Seconds of a step that writes a token to each of so many texts, with the choice of it.
    fn step(
        gpu: &Gpu,
        decoder: &PlacedDecoder<Gpu>,
        texts: usize,
        runs: usize,
    ) -> Result<f64, Box<dyn Error>> {
        // Three steps before the first that counts.
        let each = (PAST + runs.max(1) + 3).div_ceil(PAGE_TOKENS);
        let mut pages = pool(gpu, decoder.config(), texts * each)?;
        let tables: Vec<Vec<u32>> = (0..texts)
            .map(|text| (0..each).map(|page| (text * each + page) as u32).collect())
            .collect();
        let mut workspace = PlacedWorkspace::default();
        let outputs: Vec<usize> = (0..texts).collect();
        let mut tokens = vec![17_u32; texts];
        let mut past = PAST;
        median(runs, || {
            let parts: Vec<_> = tables
                .iter()
                .map(|table| Part {
                    tokens: 1,
                    start: past,
                    pages: table,
                    adapter: None,
                })
                .collect();
            let batch = Batch {
                tokens: &tokens,
                parts: &parts,
                outputs: &outputs,
            };
            let logits = decoder.forward(gpu, &mut workspace, &mut pages, &batch)?;
            let logits = logits.buffer().ok_or("no logits")?;
            let best = choose::largest(gpu, logits, decoder.config().vocabulary, 1)?;
            tokens = best.iter().map(|row| row[0].0.min(31_999)).collect();
            past += 1;
            Ok(())
        })
    }

    /// Seconds of a prompt of so many tokens, a multiple of a page's.
    fn prompt(
        gpu: &Gpu,
        decoder: &PlacedDecoder<Gpu>,
        count: usize,
        runs: usize,
    ) -> Result<f64, Box<dyn Error>> {
        let mut pages = pool(gpu, decoder.config(), count / PAGE_TOKENS)?;
        let table: Vec<u32> = (0..(count / PAGE_TOKENS) as u32).collect();
        let tokens: Vec<u32> = (0..count as u32).collect();
        let mut workspace = PlacedWorkspace::default();
        let seconds = median(runs, || {
            let parts = [Part {
                tokens: count,
                start: 0,
                pages: &table,
                adapter: None,
            }];
            let batch = Batch {
                tokens: &tokens,
                parts: &parts,
                outputs: &[count - 1],
            };
            let logits = decoder.forward(gpu, &mut workspace, &mut pages, &batch)?;
            let logits = logits.buffer().ok_or("no logits")?;
            choose::largest(gpu, logits, decoder.config().vocabulary, 1)?;
            Ok(())
        })?;
        Ok(seconds)
    }
}
