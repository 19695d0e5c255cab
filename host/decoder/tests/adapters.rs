//! Adapters: many in one batch against each merged into the base alone, and against PEFT.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod common;

use common::{Row, difference, folder, forward, merged, words, write_adapter};
use skep_decoder::{
    AdapterError, AdapterTarget, AdapterWeights, Batch, Decoder, ForwardError, PagedAdapter, Part,
    Workspace,
};
use skep_kernels::Team;
use skep_kernels::kv::{KvFormat, KvPages};

/// Hands out pages from the last one down.
struct Free(u32);

impl Free {
    fn take(&mut self, count: usize) -> Vec<u32> {
        (0..count)
            .map(|_| {
                self.0 -= 1;
                self.0
            })
            .collect()
    }
}

fn place(weights: &AdapterWeights, pages: &mut KvPages, free: &mut Free) -> PagedAdapter {
    let own = free.take(weights.adapter().pages());
    weights.place(pages.memory_mut(), own).unwrap()
}

/// The prompt and the next token of a row.
fn text(row: usize) -> (Vec<u32>, [u32; 1]) {
    let tokens = (0..3 + row as u32 % 5).map(|n| 3 + (row as u32 * 31 + n * 57) % 150);
    (tokens.collect(), [3 + (row as u32 * 13) % 150])
}

/// Holds each row of a batch, in which row `n` has adapter `owners[n]` of these ranks, against
/// the base with this adapter merged into it.
fn agree_with_merging(ranks: &[usize], owners: &[usize], threads: usize) {
    let base = folder("models/llama");
    let decoder = Decoder::load(&base).unwrap();
    let scratch = tempfile::tempdir().unwrap();
    let mut pages = KvPages::new(decoder.kv_shape(KvFormat::F32), 20_000);
    let page_bytes = pages.memory().page_bytes();
    let mut free = Free(20_000);
    let mut adapters = Vec::new();
    for (n, rank) in ranks.iter().enumerate() {
        // Different matrices as well as ranks: all seven, or some.
        let targets: Vec<_> = AdapterTarget::ALL
            .into_iter()
            .filter(|t| n.is_multiple_of(3) || !(n + *t as usize).is_multiple_of(3))
            .collect();
        let to = scratch.path().join(format!("adapter-{n}"));
        let written = write_adapter(to, decoder.config(), *rank, &targets, n as u64 + 1);
        let weights = AdapterWeights::load(&written.folder, &decoder, "tiny", page_bytes).unwrap();
        assert_eq!(weights.adapter().rank(), *rank);
        adapters.push((written, place(&weights, &mut pages, &mut free)));
    }
    let texts: Vec<_> = (0..owners.len()).map(text).collect();
    let tables: Vec<_> = owners.iter().map(|_| free.take(1)).collect();
    // Prompts of all rows together, then a token of each.
    let batch = |step: usize| -> Vec<Row<'_>> {
        let rows = owners.iter().zip(&texts).zip(&tables);
        rows.map(|((owner, (prompt, next)), table)| {
            let adapter = Some(&adapters[*owner].1);
            match step {
                0 => (&prompt[..], 0, &table[..], adapter),
                _ => (&next[..], prompt.len(), &table[..], adapter),
            }
        })
        .collect()
    };
    let first = forward(&decoder, threads, &mut pages, &batch(0));
    let second = forward(&decoder, threads, &mut pages, &batch(1));
    let mut largest = 0.0_f32;
    for (number, (written, _)) in adapters.iter().enumerate() {
        let alone = merged(&base, written, &scratch.path().join("merged"));
        let mut pages = KvPages::new(alone.kv_shape(KvFormat::F32), 1);
        for (row, _) in owners.iter().enumerate().filter(|(_, o)| **o == number) {
            let (prompt, next) = &texts[row];
            let want = forward(&alone, 1, &mut pages, &[(prompt, 0, &[0], None)]);
            let after = (&next[..], prompt.len(), &[0_u32][..], None);
            let after = forward(&alone, 1, &mut pages, &[after]);
            for (got, want) in [(&first[row], &want[0]), (&second[row], &after[0])] {
                let difference = difference(got, want);
                assert!(
                    difference < 1e-3,
                    "row {row}, rank {}: {difference}",
                    ranks[number]
                );
                largest = largest.max(difference);
            }
        }
    }
    println!(
        "{} rows, {} adapters: within {largest:.1e}",
        owners.len(),
        ranks.len()
    );
}

#[test]
fn sixty_four_adapters_of_mixed_rank_are_each_what_merging_makes() {
    let ranks: Vec<usize> = (0..64)
        .map(|n| [1, 256, 8, 16, 2, 64, 128, 4, 32, 3, 100, 16][n % 12])
        .collect();
    let owners: Vec<usize> = (0..64).collect();
    agree_with_merging(&ranks, &owners, 2);
}

#[test]
fn skewed_segments_are_what_merging_makes() {
    // One adapter with 60 rows among four with one each, in between and at both ends.
    let ranks = [16, 1, 256, 8, 5];
    let mut owners = vec![0; 64];
    (owners[0], owners[20], owners[21], owners[63]) = (1, 2, 3, 4);
    agree_with_merging(&ranks, &owners, 2);
}

/// The same bits with other rows or without, on any number of threads, and beside rows without
/// an adapter, which are what they are without any.
#[test]
fn a_row_does_not_depend_on_the_adapters_of_others() {
    let decoder = Decoder::load(&folder("models/llama")).unwrap();
    let scratch = tempfile::tempdir().unwrap();
    let mut pages = KvPages::new(decoder.kv_shape(KvFormat::F16), 2000);
    let mut free = Free(2000);
    let adapters: Vec<_> = [7, 16, 3]
        .iter()
        .map(|rank| {
            let to = scratch.path().join(rank.to_string());
            let all = AdapterTarget::ALL;
            let written = write_adapter(to, decoder.config(), *rank, &all, *rank as u64);
            let page_bytes = pages.memory().page_bytes();
            let weights = AdapterWeights::load(&written.folder, &decoder, "tiny", page_bytes);
            place(&weights.unwrap(), &mut pages, &mut free)
        })
        .collect();
    let owners = [Some(0), None, Some(1), Some(0), Some(2), None];
    let texts: Vec<_> = (0..owners.len()).map(text).collect();
    let tables: Vec<_> = owners.iter().map(|_| free.take(1)).collect();
    let rows: Vec<Row<'_>> = (0..owners.len())
        .map(|n| {
            let adapter = owners[n].map(|owner: usize| &adapters[owner]);
            (&texts[n].0[..], 0, &tables[n][..], adapter)
        })
        .collect();
    let together = forward(&decoder, 2, &mut pages, &rows);
    for (n, row) in rows.iter().enumerate() {
        let alone = forward(&decoder, 1, &mut pages, &[*row]);
        assert_eq!(alone[0], together[n], "row {n}");
        let plain = forward(&decoder, 1, &mut pages, &[(row.0, 0, row.2, None)]);
        assert_eq!(plain[0] == together[n], owners[n].is_none(), "row {n}");
    }
    // Out of the pool, and back in other pages.
    let parked = adapters[1].park(pages.memory()).unwrap();
    for page in adapters[1].pages() {
        let page = pages.memory_mut().page_mut(*page as usize).unwrap();
        page.fill(0xff);
    }
    let back = place(&parked, &mut pages, &mut free);
    let row = rows[2];
    let again = forward(&decoder, 2, &mut pages, &[(row.0, 0, row.2, Some(&back))]);
    assert_eq!(again[0], together[2]);
}

#[test]
fn logits_are_those_of_peft() {
    for (name, base) in [
        ("plain", "llama"),
        ("stable", "llama"),
        ("patterns", "llama"),
        ("layer", "llama"),
        ("dora", "llama"),
        ("dora-biases", "qwen2"),
    ] {
        let decoder = Decoder::load(&folder("models").join(base)).unwrap();
        let adapter = folder("adapters").join(name);
        let mut pages = KvPages::new(decoder.kv_shape(KvFormat::F32), 500);
        let page_bytes = pages.memory().page_bytes();
        let weights = AdapterWeights::load(&adapter, &decoder, "tiny", page_bytes).unwrap();
        let named = format!("tiny-{base}");
        assert_eq!(weights.adapter().named_base(), Some(named.as_str()));
        let paged = place(&weights, &mut pages, &mut Free(500));
        let reference = adapter.join("reference.safetensors");
        let integers = |name| -> Vec<u32> {
            let words = words(&reference, name).into_iter();
            words.map(u32::from_le_bytes).collect()
        };
        let want: Vec<f32> = words(&reference, "logits")
            .into_iter()
            .map(f32::from_le_bytes)
            .collect();
        let (prompt, positions) = (integers("prompt"), integers("positions"));
        let mut got = Vec::new();
        for position in positions {
            let tokens = &prompt[..=position as usize];
            let row = (tokens, 0, &[0_u32, 1, 2][..], Some(&paged));
            got.extend(forward(&decoder, 2, &mut pages, &[row]).remove(0));
        }
        let difference = difference(&got, &want);
        println!("{name}: logits within {difference:.1e}");
        assert!(difference < 1e-3, "{name}: {difference}");
    }
}

#[test]
fn an_adapter_of_another_base_is_refused() {
    let llama = Decoder::load(&folder("models/llama")).unwrap();
    let qwen = Decoder::load(&folder("models/qwen3")).unwrap();
    let plain = folder("adapters/plain");
    let error = AdapterWeights::load(&plain, &qwen, "tiny-qwen", 8192).unwrap_err();
    assert!(matches!(error, AdapterError::WrongBase { .. }), "{error}");
    let message = error.to_string();
    assert!(
        message.contains("tiny-qwen") && message.contains("tiny-llama"),
        "{message}"
    );

    let mut pages = KvPages::new(llama.kv_shape(KvFormat::F16), 100);
    let page_bytes = pages.memory().page_bytes();
    let weights = AdapterWeights::load(&plain, &llama, "tiny", page_bytes).unwrap();
    let count = weights.adapter().pages();
    let paged = place(&weights, &mut pages, &mut Free(100));
    // Loaded for one model and used with another.
    let part = Part {
        tokens: 1,
        start: 0,
        pages: &[0],
        adapter: Some(&paged),
    };
    let batch = Batch {
        tokens: &[5],
        parts: &[part],
        outputs: &[0],
    };
    let team = Team::new(1).unwrap();
    let run = |decoder: &Decoder, pages: &mut KvPages| {
        let mut workspace = Workspace::default();
        let logits = decoder.forward(&team, &mut workspace, pages, &batch);
        logits.map(|_| ())
    };
    assert_eq!(run(&llama, &mut pages), Ok(()));
    let mut others = KvPages::new(qwen.kv_shape(KvFormat::F16), 100);
    assert_eq!(run(&qwen, &mut others), Err(ForwardError::OtherBase));
    // Another pool: pages that are not there, or of another length.
    let mut small = KvPages::new(llama.kv_shape(KvFormat::F16), 2);
    let refused = run(&llama, &mut small).unwrap_err();
    assert!(matches!(refused, ForwardError::AdapterPages(_)));
    let mut longer = KvPages::new(llama.kv_shape(KvFormat::F32), 100);
    assert!(run(&llama, &mut longer).is_err());
    assert!(weights.place(longer.memory_mut(), vec![0; count]).is_err());
    assert!(
        weights
            .place(pages.memory_mut(), vec![0; count + 1])
            .is_err()
    );
    assert!(weights.place(pages.memory_mut(), vec![100; count]).is_err());
    assert!(paged.park(small.memory()).is_err());
}
