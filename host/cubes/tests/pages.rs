//! What lies in pages: keys, values and adapters, against the processor's operators.
#![cfg(any(feature = "cuda", feature = "wgsl"))]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod common;

use common::{Numbers, devices};
use skep_cubes::attention::{Pages, Plan, Slots, attention, store};
use skep_cubes::lora::{Target, add_low_rank};
use skep_cubes::{Gpu, Kept};
use skep_kernels::attention::{AttentionLayer, Sequence};
use skep_kernels::kv::{KvFormat, KvPages, KvShape, PAGE_TOKENS};
use skep_kernels::lora::{Factor, LowRank, LowRankLayout, LowRankShape, Magnitudes, Segments};
use skep_kernels::operators::{Operators, PlannedBatch, Shared};
use skep_kernels::{Isa, Team};

const FORMATS: [KvFormat; 3] = [KvFormat::F32, KvFormat::F16, KvFormat::Int8];

/// The pool of the processor, page for page.
fn upload(gpu: &Gpu, host: &KvPages) -> Pages {
    let mut pages = Pages::new(gpu, *host.shape(), host.pages()).unwrap();
    for page in 0..host.pages() {
        pages
            .write(gpu, page, host.memory().page(page).unwrap())
            .unwrap();
    }
    pages
}

#[test]
fn keys_and_values_lie_as_on_the_processor() {
    for gpu in devices() {
        for format in FORMATS {
            let shape = KvShape {
                layers: 2,
                kv_heads: 3,
                head_dim: 20,
                format,
            };
            let mut host = KvPages::new(shape, 5);
            let mut pages = upload(&gpu, &host);
            let mut numbers = Numbers::new(2);
            let slots: Vec<(u32, u32)> = (0..33).map(|n| (4 - n / 16, n % 16)).collect();
            let table = Slots::upload(&gpu, &pages, &slots).unwrap();
            for layer in 0..2 {
                let mut keys = numbers.floats(33 * 60);
                let values = numbers.floats(33 * 60);
                // What 16 bits cannot hold, and hold only just.
                keys[..6].copy_from_slice(&[1e6, -1e6, 65_519.9, 1e-7, 3e-8, -0.0]);
                for (token, (page, slot)) in slots.iter().enumerate() {
                    let row = token * 60..token * 60 + 60;
                    let (page, slot) = (*page as usize, *slot as usize);
                    host.store(layer, page, slot, &keys[row.clone()], &values[row])
                        .unwrap();
                }
                let (keys, values) = (gpu.upload(&keys).unwrap(), gpu.upload(&values).unwrap());
                store(&gpu, layer, &mut pages, &table, &keys, &values).unwrap();
            }
            host.copy(4, 1, 7).unwrap();
            pages.copy(&gpu, 4, 1, 7).unwrap();
            for page in 0..5 {
                let (got, want) = (
                    pages.read(&gpu, page).unwrap(),
                    host.memory().page(page).unwrap(),
                );
                if format != KvFormat::Int8 {
                    assert_eq!(got, want, "{gpu:?} {format:?} page {page}");
                    continue;
                }
                // A device's division may be off by a last place, and the rounding of a number
                // between two integers with it.
                for (head, (got, want)) in
                    got.chunks(384).zip(want.chunks(384)).enumerate().take(12)
                {
                    for (got, want) in got[..320].iter().zip(&want[..320]) {
                        assert!(
                            (*got as i8 - *want as i8).abs() <= 1,
                            "page {page} head {head}"
                        );
                    }
                    let scales = got[320..]
                        .as_chunks::<4>()
                        .0
                        .iter()
                        .zip(want[320..].as_chunks::<4>().0);
                    for (got, want) in scales {
                        let (got, want) = (f32::from_le_bytes(*got), f32::from_le_bytes(*want));
                        assert!((got - want).abs() <= 1e-6 * want, "{got} {want}");
                    }
                }
            }
        }
    }
}

/// Texts of some lengths that bring some tokens each.
struct Case {
    past: &'static [usize],
    new: &'static [usize],
    kv_heads: usize,
    group: usize,
    dim: usize,
    window: Option<usize>,
}

const CASES: [Case; 7] = [
    // One token each, of which the longest is split.
    Case {
        past: &[0, 15, 16, 300],
        new: &[1, 1, 1, 1],
        kv_heads: 2,
        group: 4,
        dim: 64,
        window: None,
    },
    Case {
        past: &[500],
        new: &[1],
        kv_heads: 1,
        group: 1,
        dim: 20,
        window: Some(200),
    },
    // Prompts, in one piece and in several, beside single tokens.
    Case {
        past: &[0, 37, 70],
        new: &[50, 20, 1],
        kv_heads: 2,
        group: 3,
        dim: 64,
        window: None,
    },
    Case {
        past: &[0, 90],
        new: &[70, 1],
        kv_heads: 2,
        group: 1,
        dim: 8,
        window: Some(5),
    },
    Case {
        past: &[0, 33],
        new: &[39, 18],
        kv_heads: 2,
        group: 4,
        dim: 128,
        window: None,
    },
    // More heads in a group than there are queries in a tile.
    Case {
        past: &[10, 100],
        new: &[9, 1],
        kv_heads: 1,
        group: 20,
        dim: 32,
        window: None,
    },
    Case {
        past: &[40],
        new: &[3],
        kv_heads: 1,
        group: 2,
        dim: 256,
        window: Some(16),
    },
];

#[test]
fn attention_is_that_of_the_processor() {
    let team = Team::new(1).unwrap();
    for gpu in devices() {
        for (format, case) in FORMATS
            .iter()
            .flat_map(|format| CASES.iter().map(move |case| (*format, case)))
        {
            let Case {
                past,
                new,
                kv_heads,
                group,
                dim,
                window,
            } = *case;
            let shape = KvShape {
                layers: 2,
                kv_heads,
                head_dim: dim,
                format,
            };
            let (width, kv_width) = (kv_heads * group * dim, kv_heads * dim);
            let mut numbers = Numbers::new(dim as u64);
            let mut host = KvPages::new(shape, 100);
            let mut free: Vec<u32> = (0..100).collect();
            let mut tables = Vec::new();
            for (past, new) in past.iter().zip(new) {
                let tokens = past + new;
                let table: Vec<u32> = (0..tokens.div_ceil(PAGE_TOKENS))
                    .map(|_| free.swap_remove(numbers.below(free.len())))
                    .collect();
                for token in 0..tokens {
                    let (keys, values) = (numbers.floats(kv_width), numbers.floats(kv_width));
                    let page = table[token / PAGE_TOKENS] as usize;
                    host.store(1, page, token % PAGE_TOKENS, &keys, &values)
                        .unwrap();
                }
                tables.push(table);
            }
            // What nobody has written to is never read: not even what is no number.
            for page in free {
                host.memory_mut()
                    .page_mut(page as usize)
                    .unwrap()
                    .fill(0xff);
            }
            let pages = upload(&gpu, &host);
            let mut sequences = Vec::new();
            let mut next = 0;
            for ((past, new), table) in past.iter().zip(new).zip(&tables) {
                sequences.push(Sequence {
                    tokens: next..next + new,
                    start: *past,
                    pages: table,
                });
                next += new;
            }
            let layer = AttentionLayer {
                layer: 1,
                heads: kv_heads * group,
                scale: 1.0 / (dim as f32).sqrt(),
                window,
            };
            let queries = numbers.floats(next * width);
            let mut want = vec![f32::NAN; next * width];
            skep_kernels::attention::attention(
                Isa::Portable,
                &team,
                &layer,
                &host,
                &sequences,
                &queries,
                &mut want,
            )
            .unwrap();
            let plan = Plan::new(&gpu, &pages, layer.heads, &sequences, next).unwrap();
            let on_gpu = gpu.upload(&queries).unwrap();
            let got = gpu
                .read(&attention(&gpu, &layer, &pages, &plan, &on_gpu).unwrap())
                .unwrap();
            for (n, (got, want)) in got.iter().zip(&want).enumerate() {
                // Both read the same pages, so the format's own error is not in it.
                assert!(
                    (got - want).abs() < 3e-5,
                    "{gpu:?} {format:?} dim {dim} at {n}: {got} {want}"
                );
            }
        }
    }
}

#[test]
fn slots_beyond_a_text_may_hold_anything() {
    for gpu in devices() {
        for (format, (tokens, dim)) in FORMATS
            .iter()
            .flat_map(|format| [(1, 8), (3, 64)].map(|case| (*format, case)))
        {
            let shape = KvShape {
                layers: 1,
                kv_heads: 1,
                head_dim: dim,
                format,
            };
            let mut host = KvPages::new(shape, 1);
            host.memory_mut().page_mut(0).unwrap().fill(0xff);
            for slot in 0..tokens {
                let (keys, values) = (vec![1.0; dim], vec![2.0; dim]);
                host.store(0, 0, slot, &keys, &values).unwrap();
            }
            let pages = upload(&gpu, &host);
            let sequences = [Sequence {
                tokens: 0..tokens,
                start: 0,
                pages: &[0],
            }];
            let plan = Plan::new(&gpu, &pages, 1, &sequences, tokens).unwrap();
            let layer = AttentionLayer {
                layer: 0,
                heads: 1,
                scale: 1.0,
                window: None,
            };
            let queries = gpu.upload(&vec![1.0; tokens * dim]).unwrap();
            let got = gpu
                .read(&attention(&gpu, &layer, &pages, &plan, &queries).unwrap())
                .unwrap();
            assert!(
                got.iter().all(|x| (x - 2.0).abs() < 1e-5),
                "{format:?} {got:?}"
            );
        }
    }
}

#[test]
fn adapters_add_what_they_add_on_the_processor() {
    let team = Team::new(1).unwrap();
    let (inputs, outputs, tokens) = (96, 50, 12);
    for gpu in devices() {
        let mut numbers = Numbers::new(7);
        let shape = KvShape {
            layers: 1,
            kv_heads: 2,
            head_dim: 64,
            format: KvFormat::F16,
        };
        let mut host = KvPages::new(shape, 80);
        let page_bytes = host.memory().page_bytes();
        let mut free: Vec<u32> = (0..80).collect();
        // The second pair is the one that is used.
        let layouts: Vec<_> = [1_usize, 5, 16, 64]
            .iter()
            .map(|rank| {
                let other = LowRankShape {
                    inputs: 10,
                    outputs: 10,
                    rank: 3,
                };
                let shape = LowRankShape {
                    inputs,
                    outputs,
                    rank: *rank,
                };
                // One of them has gains.
                match *rank == 5 {
                    true => LowRankLayout::with_gains(page_bytes, &[other, shape]).unwrap(),
                    false => LowRankLayout::new(page_bytes, &[other, shape]).unwrap(),
                }
            })
            .collect();
        let mut tables = Vec::new();
        for layout in &layouts {
            let table: Vec<u32> = (0..layout.pages())
                .map(|_| free.swap_remove(numbers.below(free.len())))
                .collect();
            for row in 0..layout.shape(1).unwrap().rank {
                let (a, b) = (numbers.floats(inputs), numbers.floats(outputs));
                layout
                    .write(host.memory_mut(), &table, 1, Factor::A, row, &a)
                    .unwrap();
                layout
                    .write(host.memory_mut(), &table, 1, Factor::B, row, &b)
                    .unwrap();
            }
            if layout.shape(1).unwrap().rank == 5 {
                let (weights, bias) = (numbers.floats(inputs * outputs), numbers.floats(outputs));
                let magnitudes = Magnitudes {
                    lengths: &numbers.floats(outputs),
                    bias: Some(&bias),
                    row: &|row, to| {
                        to.copy_from_slice(&weights[row * inputs..(row + 1) * inputs]);
                        true
                    },
                };
                let memory = host.memory_mut();
                let written =
                    layout.write_gains(Isa::Portable, memory, &table, (1, 0.25), &magnitudes);
                assert!(written.unwrap());
            }
            tables.push(table);
        }
        // One adapter with many tokens, others with one, one without any change here.
        let parts = [vec![11, 0, 1, 2, 7], vec![3], vec![4, 6], vec![5], vec![9]];
        let segments = Segments::new(tokens, parts).unwrap();
        let mut changes: Vec<_> = layouts
            .iter()
            .zip(&tables)
            .map(|(layout, pages)| {
                Some(LowRank {
                    layout,
                    pages,
                    pair: 1,
                    scale: 0.25,
                })
            })
            .collect();
        changes.insert(2, None);
        let input = numbers.floats(tokens * inputs);
        let base = numbers.floats(tokens * outputs);
        let mut want = base.clone();
        let mut targets = [skep_kernels::lora::Target {
            out: &mut want,
            changes: &changes,
        }];
        skep_kernels::lora::add_low_rank(
            Isa::Portable,
            &team,
            host.memory(),
            &segments,
            &input,
            &mut targets,
            &mut Vec::new(),
        )
        .unwrap();
        let pages = upload(&gpu, &host);
        let on_gpu = gpu.upload(&input).unwrap();
        let mut out = gpu.upload(&base).unwrap();
        let mut targets = [Target {
            out: &mut out,
            changes: &changes,
        }];
        add_low_rank(&gpu, &pages, &segments, &on_gpu, &mut targets).unwrap();
        let got = gpu.read(&out).unwrap();
        assert_ne!(want, base);
        for (got, want) in got.iter().zip(&want) {
            // Sums of up to 96 times 64 products in another order.
            assert!(
                (got - want).abs() <= 1e-5 * want.abs().max(100.0),
                "{got} {want}"
            );
        }
        let mut short = gpu.upload(&base[1..]).unwrap();
        let mut targets = [Target {
            out: &mut short,
            changes: &changes,
        }];
        assert!(add_low_rank(&gpu, &pages, &segments, &on_gpu, &mut targets).is_err());
    }
}

#[test]
fn pages_that_are_not_there_are_refused() {
    for gpu in devices() {
        let shape = KvShape {
            layers: 1,
            kv_heads: 1,
            head_dim: 8,
            format: KvFormat::F16,
        };
        let mut pages = Pages::new(&gpu, shape, 2).unwrap();
        assert!(
            Pages::new(
                &gpu,
                KvShape {
                    head_dim: 6,
                    format: KvFormat::Int8,
                    ..shape
                },
                2
            )
            .is_err()
        );
        assert!(Pages::new(&gpu, shape, usize::MAX).is_err());
        assert!(pages.write(&gpu, 2, &[0; 512]).is_err());
        assert!(pages.write(&gpu, 0, &[0; 8]).is_err());
        assert!(pages.read(&gpu, 2).is_err());
        assert!(pages.copy(&gpu, 0, 2, 1).is_err());
        assert!(pages.copy(&gpu, 0, 1, 17).is_err());
        for slots in [&[(2, 0)][..], &[(0, 16)], &[(1, 3), (1, 3)]] {
            assert!(Slots::upload(&gpu, &pages, slots).is_err(), "{slots:?}");
        }
        let slots = Slots::upload(&gpu, &pages, &[(0, 1)]).unwrap();
        let (row, short) = (
            gpu.upload(&[0.0; 8]).unwrap(),
            gpu.upload(&[0.0; 7]).unwrap(),
        );
        assert!(store(&gpu, 1, &mut pages, &slots, &row, &row).is_err());
        assert!(store(&gpu, 0, &mut pages, &slots, &row, &short).is_err());
        let far = [Sequence {
            tokens: 0..1,
            start: 40,
            pages: &[0, 1],
        }];
        assert!(Plan::new(&gpu, &pages, 1, &far, 1).is_err());
        let none = [Sequence {
            tokens: 0..1,
            start: 0,
            pages: &[2],
        }];
        assert!(Plan::new(&gpu, &pages, 1, &none, 1).is_err());

        // Every token of a batch is one of a sequence, and every output one of its tokens.
        let model = Shared {
            heads: 1,
            ropes: &[],
        };
        for (tokens, outputs, fits) in [
            (&[7][..], &[0][..], true),
            (&[7, 8], &[], false),
            (&[7], &[1], false),
        ] {
            let batch = PlannedBatch {
                tokens,
                sequences: vec![Sequence {
                    tokens: 0..1,
                    start: 0,
                    pages: &[0],
                }],
                outputs,
            };
            let planned = gpu.plan(&mut Kept::default(), &pages, &model, batch);
            assert_eq!(planned.is_ok(), fits, "{tokens:?} {outputs:?}");
        }
    }
}
