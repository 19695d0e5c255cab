//! Attention against double precision, and against itself alone.

use super::*;
use crate::kv::{KvFormat, KvShape};
use proptest::prelude::*;

fn numbers(n: usize, salt: usize) -> Vec<f32> {
    (0..n)
        .map(|i| (((i + salt) * 7919 + salt * 104_729) % 1013) as f32 / 400.0 - 1.25)
        .collect()
}

/// Keys and values of a sequence, `[tokens, kv_heads * dim]`, in pages from `first` on, every
/// second one, so that neighbours in a sequence are none in memory.
fn fill(pages: &mut KvPages, layer: usize, first: u32, keys: &[f32], values: &[f32]) -> Vec<u32> {
    let width = pages.shape().kv_heads * pages.shape().head_dim;
    let tokens = keys.len() / width;
    let table: Vec<u32> = (0..tokens.div_ceil(PAGE_TOKENS) as u32)
        .map(|n| first + 2 * n)
        .collect();
    for token in 0..tokens {
        let row = token * width..(token + 1) * width;
        let page = table[token / PAGE_TOKENS] as usize;
        pages
            .store(
                layer,
                page,
                token % PAGE_TOKENS,
                &keys[row.clone()],
                &values[row],
            )
            .unwrap();
    }
    table
}

/// One query in double precision.
fn expected(
    query: &[f32],
    keys: &[f32],
    values: &[f32],
    kv_width: usize,
    kv_head: usize,
    sees: Range<usize>,
    scale: f32,
) -> Vec<f64> {
    let dim = query.len();
    let at = |rows: &[f32], token: usize, d: usize| {
        f64::from(rows[token * kv_width + kv_head * dim + d])
    };
    let scores: Vec<f64> = sees
        .clone()
        .map(|token| {
            let product: f64 = (0..dim)
                .map(|d| f64::from(query[d]) * at(keys, token, d))
                .sum();
            (product * f64::from(scale)).exp()
        })
        .collect();
    let sum: f64 = scores.iter().sum();
    (0..dim)
        .map(|d| {
            let weighted = sees.clone().zip(&scores);
            weighted
                .map(|(token, score)| score * at(values, token, d))
                .sum::<f64>()
                / sum
        })
        .collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn agrees_with_double_precision(
        past in prop::collection::vec(0_usize..70, 1..4),
        new in prop::collection::vec(1_usize..20, 3),
        kv_heads in 1_usize..3,
        group in 1_usize..6,
        dim in prop::sample::select(vec![8_usize, 20, 48, 64, 128]),
        window in prop::option::of(1_usize..40),
        (format, tolerance) in prop::sample::select(vec![
            (KvFormat::F32, 2e-5),
            (KvFormat::F16, 2e-3),
            (KvFormat::Int8, 3e-2),
        ]),
        threads in 1_usize..3,
    ) {
        let shape = KvShape { layers: 2, kv_heads, head_dim: dim, format };
        let mut pages = KvPages::new(shape, 64);
        // What was in a page before is no number.
        for page in 0..pages.pages() {
            pages.memory_mut().page_mut(page).unwrap().fill(0xff);
        }
        let (kv_width, width) = (kv_heads * dim, kv_heads * group * dim);
        let layer = AttentionLayer {
            layer: 1,
            heads: kv_heads * group,
            scale: 1.0 / (dim as f32).sqrt(),
            window,
        };
        let mut contents = Vec::new();
        for (n, (past, new)) in past.iter().zip(&new).enumerate() {
            let tokens = past + new;
            let keys = numbers(tokens * kv_width, n + 1);
            let values = numbers(tokens * kv_width, n + 50);
            let table = fill(&mut pages, 1, 20 * n as u32 + n as u32 % 2, &keys, &values);
            contents.push((keys, values, table));
        }
        let mut sequences = Vec::new();
        let mut next = 0;
        for ((past, new), (_, _, table)) in past.iter().zip(&new).zip(&contents) {
            sequences.push(Sequence { tokens: next..next + new, start: *past, pages: table });
            next += new;
        }
        let queries = numbers(next * width, 99);
        let team = Team::new(threads).unwrap();
        for isa in Isa::available() {
            let mut out = vec![f32::NAN; next * width];
            attention(isa, &team, &layer, &pages, &sequences, &queries, &mut out).unwrap();
            for (sequence, (keys, values, _)) in sequences.iter().zip(&contents) {
                for token in sequence.tokens.clone() {
                    let position = sequence.start + token - sequence.tokens.start;
                    let first = window.map_or(0, |window| (position + 1).saturating_sub(window));
                    for head in 0..layer.heads {
                        let at = token * width + head * dim;
                        let want = expected(
                            &queries[at..at + dim],
                            keys,
                            values,
                            kv_width,
                            head / group,
                            first..position + 1,
                            layer.scale,
                        );
                        for (want, got) in want.iter().zip(&out[at..at + dim]) {
                            prop_assert!((want - f64::from(*got)).abs() < tolerance, "{want} {got}");
                        }
                    }
                }
            }
            // One token alone gives the same bits.
            let sequence = &sequences[sequences.len() - 1];
            let last = sequence.tokens.end - 1;
            let alone = [Sequence {
                tokens: 0..1,
                start: sequence.start + last - sequence.tokens.start,
                pages: sequence.pages,
            }];
            let mut one = vec![f32::NAN; width];
            let query = &queries[last * width..];
            attention(isa, &team, &layer, &pages, &alone, query, &mut one).unwrap();
            prop_assert_eq!(&one, &out[last * width..]);
        }
    }
}

#[test]
fn a_copied_page_is_the_same_page() {
    for format in [KvFormat::F32, KvFormat::F16, KvFormat::Int8] {
        let shape = KvShape {
            layers: 2,
            kv_heads: 2,
            head_dim: 8,
            format,
        };
        let mut pages = KvPages::new(shape, 3);
        let (keys, values) = (numbers(20 * 16, 1), numbers(20 * 16, 2));
        let table = fill(&mut pages, 1, 0, &keys, &values);
        assert_eq!(table, [0, 2]);
        pages.copy(2, 1, 4).unwrap();
        let layer = AttentionLayer {
            layer: 1,
            heads: 4,
            scale: 0.3,
            window: None,
        };
        let queries = numbers(32, 5);
        let team = Team::new(1).unwrap();
        let run = |table: &[u32]| {
            let sequence = [Sequence {
                tokens: 0..1,
                start: 19,
                pages: table,
            }];
            let mut out = vec![0.0; 32];
            attention(
                Isa::best(),
                &team,
                &layer,
                &pages,
                &sequence,
                &queries,
                &mut out,
            )
            .unwrap();
            out
        };
        assert_eq!(run(&[0, 2]), run(&[0, 1]));
        assert!(pages.copy(0, 3, 1).is_err() && pages.copy(0, 1, 17).is_err());
    }
}

#[test]
fn what_does_not_fit_is_refused() {
    let shape = KvShape {
        layers: 1,
        kv_heads: 2,
        head_dim: 8,
        format: KvFormat::F16,
    };
    let mut pages = KvPages::new(shape, 2);
    assert_eq!(shape.page_bytes(), 2 * 16 * 2 * 8 * 2);
    assert!(pages.store(1, 0, 0, &[0.0; 16], &[0.0; 16]).is_err());
    assert!(pages.store(0, 2, 0, &[0.0; 16], &[0.0; 16]).is_err());
    assert!(pages.store(0, 0, 16, &[0.0; 16], &[0.0; 16]).is_err());
    assert!(pages.store(0, 0, 0, &[0.0; 15], &[0.0; 16]).is_err());
    let team = Team::new(1).unwrap();
    let layer = AttentionLayer {
        layer: 0,
        heads: 4,
        scale: 1.0,
        window: None,
    };
    let queries = [0.0; 64];
    let run = |layer: AttentionLayer, tokens: Range<usize>, start: usize, table: &[u32]| {
        let sequence = [Sequence {
            tokens,
            start,
            pages: table,
        }];
        let mut out = [0.0; 64];
        attention(
            Isa::best(),
            &team,
            &layer,
            &pages,
            &sequence,
            &queries,
            &mut out,
        )
    };
    assert!(run(layer, 0..2, 0, &[0]).is_ok());
    assert!(run(layer, 0..3, 0, &[0]).is_err());
    assert!(run(layer, 0..2, 15, &[0]).is_err());
    assert!(run(layer, 0..2, usize::MAX, &[0]).is_err());
    assert!(run(layer, 0..2, 0, &[2]).is_err());
    assert!(run(layer, 0..2, 15, &[0, 1]).is_ok());
    assert!(run(layer, Range { start: 2, end: 1 }, 0, &[0]).is_err());
    assert!(run(AttentionLayer { layer: 1, ..layer }, 0..2, 0, &[0]).is_err());
    assert!(run(AttentionLayer { heads: 3, ..layer }, 0..2, 0, &[0]).is_err());
}
