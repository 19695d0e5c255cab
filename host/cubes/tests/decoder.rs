//! Whole models on the device: the forward pass that processors run, against PyTorch's logits and
//! against the processor's own.
#![cfg(any(feature = "cuda", feature = "wgsl"))]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod common;

use std::path::PathBuf;

use common::devices;
use safetensors::SafeTensors;
use skep_cubes::attention::Pages;
use skep_cubes::{Gpu, Kept, choose};
use skep_decoder::{
    AdapterWeights, Batch, Decoder, Part, PlacedDecoder, PlacedWorkspace, Workspace,
};
use skep_kernels::Team;
use skep_kernels::kv::{KvFormat, KvPages, PAGE_TOKENS};

const MODELS: [&str; 6] = ["llama", "smollm", "mistral", "qwen2", "qwen3", "gemma3"];

fn folder(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("../decoder/tests/models")
        .join(name)
}

struct Reference {
    prompt: Vec<u32>,
    positions: Vec<usize>,
    /// `[positions, vocabulary]`.
    logits: Vec<f32>,
    generated: Vec<u32>,
}

impl Reference {
    fn read(name: &str) -> Self {
        let bytes = std::fs::read(folder(name).join("reference.safetensors")).unwrap();
        let tensors = SafeTensors::deserialize(&bytes).unwrap();
        let words = |name: &str| -> Vec<[u8; 4]> {
            tensors
                .tensor(name)
                .unwrap()
                .data()
                .as_chunks::<4>()
                .0
                .to_vec()
        };
        let integers = |name| words(name).into_iter().map(u32::from_le_bytes);
        Self {
            prompt: integers("prompt").collect(),
            positions: integers("positions")
                .map(|position| position as usize)
                .collect(),
            logits: words("logits")
                .into_iter()
                .map(f32::from_le_bytes)
                .collect(),
            generated: integers("generated").collect(),
        }
    }
}

/// One sequence on its own pages of the device.
struct Session<'a> {
    gpu: &'a Gpu,
    decoder: &'a PlacedDecoder<Gpu>,
    workspace: PlacedWorkspace<Gpu>,
    pages: Pages,
    table: Vec<u32>,
    length: usize,
}

impl<'a> Session<'a> {
    fn new(
        gpu: &'a Gpu,
        host: &Decoder,
        decoder: &'a PlacedDecoder<Gpu>,
        format: KvFormat,
    ) -> Self {
        let count = 512 / PAGE_TOKENS;
        Self {
            gpu,
            decoder,
            workspace: PlacedWorkspace::default(),
            pages: Pages::new(gpu, host.kv_shape(format), count).unwrap(),
            // Backwards, so that a page's number is never its place.
            table: (0..count as u32).rev().collect(),
            length: 0,
        }
    }

    /// The logits of these tokens of `tokens`, and for each the largest's place as the device
    /// finds it.
    fn feed(&mut self, tokens: &[u32], outputs: &[usize]) -> (Vec<f32>, Vec<u32>) {
        let part = Part {
            tokens: tokens.len(),
            start: self.length,
            pages: &self.table,
            adapter: None,
        };
        let batch = Batch {
            tokens,
            parts: &[part],
            outputs,
        };
        let logits = self
            .decoder
            .forward(self.gpu, &mut self.workspace, &mut self.pages, &batch)
            .unwrap()
            .buffer()
            .unwrap();
        self.length += tokens.len();
        let vocabulary = self.decoder.config().vocabulary;
        let best = choose::largest(self.gpu, logits, vocabulary, 1).unwrap();
        let best = best.iter().map(|row| row[0].0).collect();
        (self.gpu.read(logits).unwrap(), best)
    }
}

fn largest_difference(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    a.iter()
        .zip(b)
        .fold(0.0, |most, (a, b)| (a - b).abs().max(most))
}

#[test]
fn logits_and_greedy_texts_are_those_of_pytorch() {
    for gpu in devices() {
        for name in MODELS {
            let reference = Reference::read(name);
            let host = Decoder::load(&folder(name)).unwrap();
            let decoder = host.place(&gpu).unwrap();
            let mut session = Session::new(&gpu, &host, &decoder, KvFormat::F32);
            let (logits, best) = session.feed(&reference.prompt, &reference.positions);
            let difference = largest_difference(&logits, &reference.logits);
            println!("{gpu:?} {name}: logits within {difference:.1e}");
            assert!(difference < 1e-3, "{name}: {difference}");
            let mut text = vec![best[best.len() - 1]];
            while text.len() < reference.generated.len() {
                let (_, best) = session.feed(&[text[text.len() - 1]], &[0]);
                text.extend(best);
            }
            assert_eq!(text, reference.generated, "{name}");
        }
    }
}

/// Token for token, over pages, splits of pages and forms of batches: what a pass does that was kept
/// is what it does when it is run.
#[test]
fn passes_that_were_kept_do_what_others_do() {
    for gpu in devices() {
        let host = Decoder::load(&folder("llama")).unwrap();
        let decoder = host.place(&gpu).unwrap();
        let prompt = Reference::read("llama").prompt;
        let mut keeping = Session::new(&gpu, &host, &decoder, KvFormat::F16);
        let mut running = Session::new(&gpu, &host, &decoder, KvFormat::F16);
        let mut kept = 0;
        for step in 0..170 {
            let token = prompt[step % prompt.len()];
            let (with, best) = keeping.feed(&[token], &[0]);
            kept += usize::from(keeping.workspace.kept().is_some_and(Kept::is_kept));
            // A workspace of which nothing is known yet runs every pass.
            running.workspace = PlacedWorkspace::default();
            assert_eq!((with, best), running.feed(&[token], &[0]), "{gpu:?} {step}");
            assert!(!running.workspace.kept().is_some_and(Kept::is_kept));
            if step == 60 {
                // A batch of another shape between them, and back.
                let several = &prompt[..5];
                let with = keeping.feed(several, &[1, 4]);
                assert_eq!(with, running.feed(several, &[1, 4]));
            }
        }
        println!("{gpu:?}: {kept} of 170 passes were kept");
        // Forms change with the powers of two of pages and of their parts; two steps of each are run.
        assert!(kept >= 130, "{kept}");
    }
}

/// With small keys and values, in pieces, and beside another sequence: what the processor says.
#[test]
fn batches_of_several_texts_are_those_of_the_processor() {
    let team = Team::new(1).unwrap();
    for gpu in devices() {
        for name in ["llama", "gemma3"] {
            let prompt = Reference::read(name).prompt;
            let other: Vec<u32> = prompt.iter().rev().copied().collect();
            let host = Decoder::load(&folder(name)).unwrap();
            let decoder = host.place(&gpu).unwrap();
            for (format, tolerance) in [(KvFormat::F16, 2e-3), (KvFormat::Int8, 2e-2)] {
                let mut on_host = KvPages::new(host.kv_shape(format), 32);
                let mut on_gpu = Pages::new(&gpu, host.kv_shape(format), 32).unwrap();
                let mut workspace = Workspace::default();
                let mut placed = PlacedWorkspace::default();
                let (left, right): (Vec<u32>, Vec<u32>) =
                    ((0..16).rev().collect(), (16..32).collect());
                for (lengths, starts) in [
                    ([60, 100], [0, 0]),
                    ([1, 1], [60, 100]),
                    ([7, 1], [61, 101]),
                ] {
                    let tokens = [
                        &prompt[starts[0]..starts[0] + lengths[0]],
                        &other[starts[1]..starts[1] + lengths[1]],
                    ]
                    .concat();
                    let part = |number: usize| Part {
                        tokens: lengths[number],
                        start: starts[number],
                        pages: if number == 0 { &left } else { &right },
                        adapter: None,
                    };
                    let batch = Batch {
                        tokens: &tokens,
                        parts: &[part(0), part(1)],
                        outputs: &[tokens.len() - 1, lengths[0] - 1],
                    };
                    let want = host
                        .forward(&team, &mut workspace, &mut on_host, &batch)
                        .unwrap();
                    let got = decoder
                        .forward(&gpu, &mut placed, &mut on_gpu, &batch)
                        .unwrap();
                    let got = gpu.read(got.buffer().unwrap()).unwrap();
                    let difference = largest_difference(&got, want);
                    println!("{gpu:?} {name} {format:?}: logits within {difference:.1e}");
                    assert!(difference < tolerance, "{name} {format:?}: {difference}");
                }
            }
        }
    }
}

/// Two adapters and a text without one in a batch, from the same files in both pools.
#[test]
fn adapters_change_each_its_own_text_as_on_the_processor() {
    let team = Team::new(1).unwrap();
    let host = Decoder::load(&folder("llama")).unwrap();
    let prompt = Reference::read("llama").prompt;
    let tables: [Vec<u32>; 3] = [vec![2], vec![0], vec![1]];
    for gpu in devices() {
        let decoder = host.place(&gpu).unwrap();
        let mut on_host = KvPages::new(host.kv_shape(KvFormat::F32), 200);
        let mut on_gpu = Pages::new(&gpu, host.kv_shape(KvFormat::F32), 200).unwrap();
        let mut free = 3..200_u32;
        let mut adapters = Vec::new();
        for name in ["plain", "stable", "dora"] {
            let files = folder("../adapters").join(name);
            let page_bytes = on_gpu.page_bytes();
            let weights = AdapterWeights::load(&files, &host, "tiny", page_bytes).unwrap();
            let pages: Vec<u32> = free.by_ref().take(weights.adapter().pages()).collect();
            let beyond = vec![200; pages.len()];
            assert!(weights.place_on(&gpu, &mut on_gpu, beyond).is_err());
            let placed = weights.place_on(&gpu, &mut on_gpu, pages.clone()).unwrap();
            weights.place(on_host.memory_mut(), pages).unwrap();
            adapters.push(placed);
        }
        let mut run = |adapters: [Option<_>; 3]| {
            let parts: Vec<_> = tables
                .iter()
                .zip(adapters)
                .map(|(pages, adapter)| Part {
                    tokens: 5,
                    start: 0,
                    pages,
                    adapter,
                })
                .collect();
            let batch = Batch {
                tokens: &prompt[..15],
                parts: &parts,
                outputs: &[4, 9, 14],
            };
            let mut workspace = Workspace::default();
            let want = host.forward(&team, &mut workspace, &mut on_host, &batch);
            let mut placed = PlacedWorkspace::default();
            let got = decoder.forward(&gpu, &mut placed, &mut on_gpu, &batch);
            let got = gpu.read(got.unwrap().buffer().unwrap()).unwrap();
            (got, want.unwrap().to_vec())
        };
        let (got, want) = run([Some(&adapters[0]), None, Some(&adapters[1])]);
        let difference = largest_difference(&got, &want);
        println!("{gpu:?}: logits within {difference:.1e}");
        assert!(difference < 1e-3, "{difference}");
        let (gains, want) = run([None, Some(&adapters[2]), Some(&adapters[0])]);
        let difference = largest_difference(&gains, &want);
        println!("{gpu:?}: logits with gains within {difference:.1e}");
        assert!(difference < 1e-3, "{difference}");
        let (without, _) = run([None; 3]);
        let texts = gains
            .chunks(gains.len() / 3)
            .zip(without.chunks(gains.len() / 3));
        for ((got, plain), changed) in texts.zip([false, true, true]) {
            let difference = largest_difference(got, plain);
            assert_eq!(difference > 1e-2, changed, "{difference}");
        }
        let row = got.len() / 3;
        for (number, changed) in [true, false, true].into_iter().enumerate() {
            let own = number * row..(number + 1) * row;
            let difference = largest_difference(&got[own.clone()], &without[own]);
            assert_eq!(difference > 1e-2, changed, "text {number}: {difference}");
        }
    }
}

#[test]
fn batches_that_do_not_fit_are_refused() {
    for gpu in devices() {
        let host = Decoder::load(&folder("llama")).unwrap();
        let decoder = host.place(&gpu).unwrap();
        let mut pages = Pages::new(&gpu, host.kv_shape(KvFormat::F16), 2).unwrap();
        let mut run = |tokens: &[u32], start: usize, pages_of: &[u32], outputs: &[usize]| {
            let parts = [Part {
                tokens: tokens.len(),
                start,
                pages: pages_of,
                adapter: None,
            }];
            let batch = Batch {
                tokens,
                parts: &parts,
                outputs,
            };
            decoder
                .forward(&gpu, &mut PlacedWorkspace::default(), &mut pages, &batch)
                .map(|_| ())
        };
        assert!(run(&[5, 6], 0, &[0], &[1]).is_ok());
        assert!(run(&[5, 160], 0, &[0], &[1]).is_err());
        assert!(run(&[5], 16, &[0], &[0]).is_err());
        assert!(run(&[5], 0, &[2], &[0]).is_err());
        assert!(run(&[5], 0, &[0], &[1]).is_err());
    }
}

fn root_mean_square(values: impl ExactSizeIterator<Item = f32>) -> f32 {
    let count = values.len() as f32;
    (values.map(|x| x * x).sum::<f32>() / count).sqrt()
}

/// A model of 8-bit weights, the project's own, on both: prompts as tiles and tokens row by row.
///
/// An activation between two integers may be rounded to either, in each layer, and the next layer
/// carries it on. The processor's own instruction sets, which differ in the order of sums alone,
/// are 0.3 % to 0.6 % of the logits' size apart on this model for that reason (root mean squares;
/// single logits by up to 0.09). A weight in the wrong place is some 100 %.
#[test]
fn quantized_models_are_those_of_the_processor() {
    let path = "../../models/skep-mini-lm/skep-mini-lm.gguf";
    let host = Decoder::load(&PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(path)).unwrap();
    let team = Team::new(1).unwrap();
    let vocabulary = host.config().vocabulary as u32;
    let tokens: Vec<u32> = (0..40).map(|n| n * 7919 % vocabulary).collect();
    for gpu in devices() {
        let decoder = host.place(&gpu).unwrap();
        let mut on_host = KvPages::new(host.kv_shape(KvFormat::F16), 32);
        let mut workspace = Workspace::default();
        let mut session = Session::new(&gpu, &host, &decoder, KvFormat::F16);
        let mut start = 0;
        for count in [30, 1, 2, 7] {
            let part = Part {
                tokens: count,
                start,
                pages: &session.table.clone(),
                adapter: None,
            };
            let batch = Batch {
                tokens: &tokens[start..start + count],
                parts: &[part],
                outputs: &[0, count - 1],
            };
            let want = host
                .forward(&team, &mut workspace, &mut on_host, &batch)
                .unwrap();
            let (got, _) = session.feed(batch.tokens, batch.outputs);
            assert_eq!(got.len(), want.len());
            let difference = root_mean_square(got.iter().zip(want).map(|(a, b)| a - b));
            let difference = difference / root_mean_square(want.iter().copied());
            println!("{gpu:?}: {count} tokens, logits {difference:.1e} of their size apart");
            assert!(difference < 0.01, "{count} tokens: {difference}");
            start += count;
        }
    }
}
