//! Adapters with magnitudes (DoRA) against the base with each merged into it in double precision, beside
//! adapters without and rows without an adapter.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

// The other tests use more of it.
#[allow(dead_code)]
mod common;

use std::cell::RefCell;
use std::path::Path;

use common::{Row, Tensors, Written, changed, difference, folder, forward, random, words};
use common::{write_adapter, write_tensors};
use skep_accounts::{QuotaError, QuotaKind};
use skep_decoder::{AdapterError, AdapterTarget, AdapterWeights, Decoder, PagedAdapter};
use skep_kernels::kv::{KvFormat, KvPages};
use skep_weights::WeightsFile;

const MAGNITUDE: &str = "lora_magnitude_vector";

/// Gives an adapter magnitudes: those of the base's rows, each times a number around one.
fn add_magnitudes(base: &Path, written: &mut Written) {
    let weights = WeightsFile::open(base).unwrap();
    let mut all = Tensors::new();
    for name in written.tensors.keys() {
        let Some(module) = name.strip_suffix(".lora_A.weight") else {
            continue;
        };
        let own = format!("{}.weight", module.trim_start_matches("base_model.model."));
        let tensor = weights.tensor(&own).unwrap();
        let factors = random(tensor.rows(), all.len() as u64 + 77, 0.4);
        let lengths = factors.iter().enumerate().map(|(row, factor)| {
            let mut values = vec![0.0; tensor.columns()];
            tensor.dequantize_row(row, &mut values).unwrap();
            let values = values.into_iter().map(f64::from).collect::<Vec<_>>();
            (length(&values) * (1.0 + f64::from(*factor))) as f32
        });
        let lengths: Vec<f32> = lengths.collect();
        all.insert(
            format!("{module}.{MAGNITUDE}"),
            (vec![lengths.len()], lengths),
        );
    }
    written.tensors.append(&mut all);
    let file = written.folder.join("adapter_model.safetensors");
    write_tensors(&file, &written.tensors);
    let path = written.folder.join("adapter_config.json");
    let text = std::fs::read(&path).unwrap();
    let mut json: serde_json::Value = serde_json::from_slice(&text).unwrap();
    json["use_dora"] = true.into();
    std::fs::write(&path, json.to_string()).unwrap();
}

fn length(row: &[f64]) -> f64 {
    row.iter().map(|x| x * x).sum::<f64>().sqrt()
}

/// The base with an adapter merged into its weights: each row of `W + scale · B · A`, brought to its
/// magnitude if there is one. Biases stay as they are.
fn merged(base: &Path, adapter: &Written, to: &Path) -> Decoder {
    changed(base, to, |module, values| {
        let of = |end: &str| adapter.tensors.get(&format!("{module}.{end}"));
        if let (Some((shape, a)), Some((_, b))) = (of("lora_A.weight"), of("lora_B.weight")) {
            let (rank, inputs) = (shape[0], shape[1]);
            let rows = values.chunks_exact_mut(inputs).zip(b.chunks_exact(rank));
            for (output, (row, b)) in rows.enumerate() {
                let changed = row.iter().enumerate().map(|(column, own)| {
                    let a = a.iter().skip(column).step_by(inputs);
                    let products = b.iter().zip(a).map(|(b, a)| f64::from(*b) * f64::from(*a));
                    f64::from(*own) + f64::from(adapter.scale) * products.sum::<f64>()
                });
                let changed: Vec<f64> = changed.collect();
                let magnitude = of(MAGNITUDE).map(|(_, all)| f64::from(all[output]));
                let gain = magnitude.map_or(1.0, |magnitude| magnitude / length(&changed));
                for (to, changed) in row.iter_mut().zip(&changed) {
                    *to = (gain * changed) as f32;
                }
            }
        }
    })
}

/// A base, and adapters for it in pages.
struct World {
    decoder: Decoder,
    pages: KvPages,
    /// Pages from this one on are taken.
    free: u32,
    scratch: tempfile::TempDir,
}

impl World {
    fn new(name: &str, format: KvFormat) -> Self {
        let decoder = Decoder::load(&folder("models").join(name)).unwrap();
        let free = 1000;
        Self {
            pages: KvPages::new(decoder.kv_shape(format), free as usize),
            free,
            decoder,
            scratch: tempfile::tempdir().unwrap(),
        }
    }

    fn take(&mut self, count: usize) -> Vec<u32> {
        self.free -= count as u32;
        (self.free..self.free + count as u32).rev().collect()
    }

    /// An adapter of all matrices of this rank, with magnitudes or without.
    fn adapter(&mut self, base: &Path, rank: usize, magnitudes: bool) -> (Written, PagedAdapter) {
        let to = self.scratch.path().join(format!("{rank}-{magnitudes}"));
        let config = self.decoder.config();
        let mut written = write_adapter(to, config, rank, &AdapterTarget::ALL, rank as u64);
        if magnitudes {
            add_magnitudes(base, &mut written);
        }
        let page_bytes = self.pages.memory().page_bytes();
        let weights = AdapterWeights::load(&written.folder, &self.decoder, "tiny", page_bytes);
        let weights = weights.unwrap();
        let own = self.take(weights.adapter().pages());
        let placed = weights.place(self.pages.memory_mut(), own).unwrap();
        (written, placed)
    }
}

/// The prompt of a row, of another length than its neighbours'.
fn text(row: usize) -> Vec<u32> {
    let tokens = (0..3 + row as u32 % 5).map(|n| 3 + (row as u32 * 31 + n * 57) % 150);
    tokens.collect()
}

/// Each row of one batch is what the base merged with its adapter makes of it, with biases (Qwen2), with
/// norms of heads (Qwen3) and without either.
#[test]
fn rows_are_what_merging_makes_whatever_is_beside_them() {
    for name in ["llama", "qwen2", "qwen3"] {
        let base = folder("models").join(name);
        let mut world = World::new(name, KvFormat::F32);
        let adapters = [(7, true), (16, false), (18, true)]
            .map(|(rank, magnitudes)| world.adapter(&base, rank, magnitudes));
        let owners = [Some(0), None, Some(1), Some(2), Some(0), Some(2), None];
        let tables: Vec<_> = owners.iter().map(|_| world.take(1)).collect();
        let texts: Vec<_> = (0..owners.len()).map(text).collect();
        let rows: Vec<Row<'_>> = (0..owners.len())
            .map(|n| {
                let adapter = owners[n].map(|owner: usize| &adapters[owner].1);
                (&texts[n][..], 0, &tables[n][..], adapter)
            })
            .collect();
        let together = forward(&world.decoder, 2, &mut world.pages, &rows);
        for (number, (written, _)) in adapters.iter().enumerate() {
            let to = world.scratch.path().join(format!("merged-{number}"));
            let alone = merged(&base, written, &to);
            let mut pages = KvPages::new(alone.kv_shape(KvFormat::F32), 1);
            for (row, _) in owners
                .iter()
                .enumerate()
                .filter(|(_, o)| **o == Some(number))
            {
                let want = forward(&alone, 1, &mut pages, &[(&texts[row], 0, &[0], None)]);
                let difference = difference(&together[row], &want[0]);
                println!("{name}, row {row}: within {difference:.1e}");
                assert!(difference < 1e-3, "{name}, row {row}: {difference}");
            }
        }
    }
}

/// The same bits beside any others and on any number of threads; rows without magnitudes are what they
/// are without those of others; and magnitudes change something.
#[test]
fn magnitudes_touch_no_other_row() {
    let base = folder("models/llama");
    let mut world = World::new("llama", KvFormat::F16);
    let (_, dora) = world.adapter(&base, 4, true);
    let (_, same_without) = world.adapter(&base, 4, false);
    let (_, plain) = world.adapter(&base, 9, false);
    let owners = [
        Some(&dora),
        None,
        Some(&plain),
        Some(&dora),
        Some(&same_without),
    ];
    let tables: Vec<_> = owners.iter().map(|_| world.take(1)).collect();
    let texts: Vec<_> = (0..owners.len()).map(text).collect();
    let rows: Vec<Row<'_>> = (0..owners.len())
        .map(|n| (&texts[n][..], 0, &tables[n][..], owners[n]))
        .collect();
    let (decoder, pages) = (&world.decoder, &mut world.pages);
    let together = forward(decoder, 2, pages, &rows);
    for (n, row) in rows.iter().enumerate() {
        let alone = forward(decoder, 1, pages, &[*row]);
        assert_eq!(alone[0], together[n], "row {n}");
    }
    let others = [rows[1], rows[2], rows[4]];
    let without = forward(decoder, 2, pages, &others);
    for (n, row) in [1, 2, 4].into_iter().enumerate() {
        assert_eq!(without[n], together[row], "row {row}");
    }
    // The matrices are the same ones; the magnitudes are not those of what they make.
    let unscaled = (rows[0].0, 0, rows[0].2, Some(&same_without));
    let unscaled = forward(decoder, 1, pages, &[unscaled]).remove(0);
    assert!(difference(&unscaled, &together[0]) > 0.05);
    // Out of the pool, and back in other pages: gains move with their matrices.
    let parked = dora.park(pages.memory()).unwrap();
    for page in dora.pages() {
        pages
            .memory_mut()
            .page_mut(*page as usize)
            .unwrap()
            .fill(0xff);
    }
    let own = (0..parked.adapter().pages() as u32).collect();
    let back = parked.place(pages.memory_mut(), own).unwrap();
    let again = forward(decoder, 2, pages, &[(rows[0].0, 0, rows[0].2, Some(&back))]);
    assert_eq!(again[0], together[0]);
}

/// What PEFT's magnitudes are left out of is another model: the test against its logits means something.
#[test]
fn without_their_magnitudes_adapters_are_not_what_peft_has() {
    let world = World::new("llama", KvFormat::F32);
    let from = folder("adapters/dora");
    let logits = |magnitudes: bool| {
        let to = tempfile::tempdir().unwrap();
        let text = std::fs::read(from.join("adapter_config.json")).unwrap();
        let mut json: serde_json::Value = serde_json::from_slice(&text).unwrap();
        json["use_dora"] = magnitudes.into();
        std::fs::write(to.path().join("adapter_config.json"), json.to_string()).unwrap();
        let bytes = std::fs::read(from.join("adapter_model.safetensors")).unwrap();
        let file = safetensors::SafeTensors::deserialize(&bytes).unwrap();
        let kept = file.tensors().into_iter();
        let kept = kept.filter(|(name, _)| magnitudes || !name.ends_with(MAGNITUDE));
        let kept = safetensors::serialize(kept, None).unwrap();
        std::fs::write(to.path().join("adapter_model.safetensors"), kept).unwrap();
        let mut pages = KvPages::new(world.decoder.kv_shape(KvFormat::F32), 200);
        let page_bytes = pages.memory().page_bytes();
        let weights = AdapterWeights::load(to.path(), &world.decoder, "tiny", page_bytes);
        let weights = weights.unwrap();
        let own = (100..100 + weights.adapter().pages() as u32).collect();
        let placed = weights.place(pages.memory_mut(), own).unwrap();
        let prompt = words(&from.join("reference.safetensors"), "prompt");
        let prompt: Vec<u32> = prompt.into_iter().map(u32::from_le_bytes).collect();
        let row = (&prompt[..4], 0, &[0_u32][..], Some(&placed));
        forward(&world.decoder, 1, &mut pages, &[row]).remove(0)
    };
    let want = words(&from.join("reference.safetensors"), "logits");
    let want: Vec<f32> = want.into_iter().map(f32::from_le_bytes).collect();
    let first = &want[..world.decoder.config().vocabulary];
    assert!(difference(&logits(true), first) < 1e-3);
    assert!(difference(&logits(false), first) > 0.05);
}

/// What measuring takes is said once and before anything is measured, and reading ends wherever it is not to go
/// on: between matrices, and between the rows of one.
#[test]
fn reading_says_first_what_measuring_takes_and_ends_at_any_row() {
    let base = folder("models/llama");
    let mut world = World::new("llama", KvFormat::F16);
    let page_bytes = world.pages.memory().page_bytes();
    for (rank, magnitudes) in [(4, true), (9, false)] {
        let (written, _) = world.adapter(&base, rank, magnitudes);
        let (mut matrices, mut rows, mut elements) = (0, 0, 0);
        for (name, (a, _)) in &written.tensors {
            let Some(module) = name.strip_suffix(".lora_A.weight") else {
                continue;
            };
            let (b, _) = &written.tensors[&format!("{module}.lora_B.weight")];
            matrices += 1;
            rows += b[0];
            elements += b[0] * a[1];
        }
        let want = match magnitudes {
            true => 2 * elements as u64 * (rank as u64 + 1),
            false => 0,
        };
        let read = |refused: usize| {
            let asked = RefCell::new(Vec::new());
            let goes_on = |flops: u64| {
                let mut asked = asked.borrow_mut();
                asked.push(flops);
                let (quota, limit) = (QuotaKind::Time, 1);
                match asked.len() == refused {
                    true => Err(QuotaError {
                        quota,
                        limit,
                        asked: 1,
                    }),
                    false => Ok(()),
                }
            };
            let of = (&world.decoder, "tiny");
            let read = AdapterWeights::load_while(&written.folder, of, page_bytes, &goes_on);
            let read = read.map(|weights| weights.adapter().measuring_flops());
            (read, asked.take())
        };
        let (whole, asked) = read(0);
        assert_eq!(whole.unwrap(), want);
        let mut all = vec![0; matrices];
        if magnitudes {
            all.resize(matrices + rows, 0);
            all.insert(0, want);
        }
        assert_eq!(asked, all);
        for refused in [1, 2, 3, asked.len() / 2, asked.len()] {
            let (read, asked) = read(refused);
            assert!(matches!(read, Err(AdapterError::Quota(_))), "{refused}");
            assert_eq!(asked, all[..refused], "nothing goes on after that");
        }
    }
}
