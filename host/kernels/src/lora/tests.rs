//! Adapters against double precision, and against themselves alone.

use super::*;
use proptest::prelude::*;

/// Numbers that 16 bits hold exactly.
fn numbers(n: usize, salt: usize) -> Vec<f32> {
    (0..n)
        .map(|i| (((i + salt) * 7919 + salt * 104_729) % 1013) as f32 / 512.0 - 1.0)
        .collect()
}

/// An adapter of one pair for each output, in every second page of a pool.
struct Adapter {
    layout: LowRankLayout,
    pages: Vec<u32>,
    rank: usize,
    salt: usize,
}

impl Adapter {
    fn a(&self, pair: usize, columns: usize) -> Vec<f32> {
        numbers(self.rank * columns, self.salt + 2 * pair)
    }

    /// `[rank, outputs]`.
    fn b(&self, pair: usize, outputs: usize) -> Vec<f32> {
        numbers(self.rank * outputs, self.salt + 2 * pair + 1)
    }
}

const PAGE: usize = 1024;

fn fill(ranks: &[usize], columns: usize, outputs: &[usize]) -> (PageMemory, Vec<Adapter>) {
    let mut next = 0;
    let mut adapters = Vec::new();
    for (n, rank) in ranks.iter().enumerate() {
        let shapes: Vec<_> = outputs
            .iter()
            .map(|outputs| LowRankShape {
                inputs: columns,
                outputs: *outputs,
                rank: *rank,
            })
            .collect();
        let layout = LowRankLayout::new(PAGE, &shapes).unwrap();
        let pages: Vec<u32> = (0..layout.pages() as u32).map(|p| 2 * (next + p)).collect();
        next += pages.len() as u32;
        adapters.push(Adapter {
            layout,
            pages: pages.into_iter().rev().collect(),
            rank: *rank,
            salt: 17 * n,
        });
    }
    let mut memory = PageMemory::new(PAGE, 2 * next as usize);
    for adapter in &adapters {
        for (pair, outputs) in outputs.iter().enumerate() {
            for (factor, values, width) in [
                (Factor::A, adapter.a(pair, columns), columns),
                (Factor::B, adapter.b(pair, *outputs), *outputs),
            ] {
                for (row, values) in values.chunks(width).enumerate() {
                    let write = adapter.layout.write(
                        &mut memory,
                        &adapter.pages,
                        pair,
                        factor,
                        row,
                        values,
                    );
                    write.unwrap();
                }
            }
        }
    }
    (memory, adapters)
}

/// Runs a batch: `owners` has each token's adapter. Outputs begin as ones.
fn run(
    isa: Isa,
    threads: usize,
    (memory, adapters): &(PageMemory, Vec<Adapter>),
    owners: &[Option<usize>],
    input: &[f32],
    outputs: &[usize],
    scale: f32,
) -> Vec<Vec<f32>> {
    let tokens_of = |adapter: usize| {
        let tokens = owners.iter().enumerate();
        tokens.filter_map(move |(token, owner)| (*owner == Some(adapter)).then_some(token))
    };
    let segments = Segments::new(owners.len(), (0..adapters.len()).map(tokens_of)).unwrap();
    let changes: Vec<Vec<_>> = (0..outputs.len())
        .map(|pair| {
            let of = |adapter: &'_ Adapter| (adapter.salt != 34 || pair != 0).then_some(());
            adapters
                .iter()
                .map(|adapter| {
                    of(adapter).map(|()| LowRank {
                        layout: &adapter.layout,
                        pages: &adapter.pages,
                        pair,
                        scale,
                    })
                })
                .collect()
        })
        .collect();
    let mut outs: Vec<Vec<f32>> = outputs
        .iter()
        .map(|outputs| vec![1.0; owners.len() * outputs])
        .collect();
    let mut targets: Vec<_> = outs
        .iter_mut()
        .zip(&changes)
        .map(|(out, changes)| Target { out, changes })
        .collect();
    let team = Team::new(threads).unwrap();
    let mut between = vec![f32::NAN; 3];
    add_low_rank(
        isa,
        &team,
        memory,
        &segments,
        input,
        &mut targets,
        &mut between,
    )
    .unwrap();
    outs
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    #[test]
    fn agrees_with_double_precision(
        ranks in prop::collection::vec(prop_oneof![1_usize..9, 1_usize..70], 1..6),
        owners in prop::collection::vec(prop::option::weighted(0.8, any::<prop::sample::Index>()), 1..80),
        columns in 1_usize..80,
        outputs in prop::collection::vec(1_usize..80, 1..4),
        threads in 1_usize..3,
    ) {
        let owners: Vec<_> = owners
            .iter()
            .map(|owner| owner.map(|owner| owner.index(ranks.len())))
            .collect();
        let pool = fill(&ranks, columns, &outputs);
        let input = numbers(owners.len() * columns, 999);
        let scale = 0.25;
        for isa in Isa::available() {
            let outs = run(isa, threads, &pool, &owners, &input, &outputs, scale);
            for (token, owner) in owners.iter().enumerate() {
                let x = &input[token * columns..(token + 1) * columns];
                for (pair, width) in outputs.iter().enumerate() {
                    let got = &outs[pair][token * width..(token + 1) * width];
                    let change = owner.map(|owner| &pool.1[owner]);
                    // One adapter leaves the first product alone.
                    let Some(adapter) = change.filter(|a| a.salt != 34 || pair != 0) else {
                        prop_assert!(got.iter().all(|x| *x == 1.0));
                        continue;
                    };
                    let (a, b) = (adapter.a(pair, columns), adapter.b(pair, *width));
                    let mut want = vec![(1.0_f64, 1.0_f64); *width];
                    for (a, b) in a.chunks(columns).zip(b.chunks(*width)) {
                        let product = |f: &dyn Fn(f64) -> f64| -> f64 {
                            a.iter().zip(x).map(|(a, x)| f(f64::from(*a) * f64::from(*x))).sum()
                        };
                        let (sum, size) = (product(&|x| x), product(&f64::abs));
                        for ((want, sizes), b) in want.iter_mut().zip(b) {
                            *want += f64::from(scale) * sum * f64::from(*b);
                            *sizes += f64::from(scale) * size * f64::from(b.abs());
                        }
                    }
                    for ((want, size), got) in want.iter().zip(got) {
                        let error = (want - f64::from(*got)).abs();
                        prop_assert!(error < 1e-6 * size, "{want} {got}");
                    }
                }
            }
            // A token alone gives the same bits.
            let last = owners.len() - 1;
            let alone = run(
                isa,
                1,
                &pool,
                &owners[last..],
                &input[last * columns..],
                &outputs,
                scale,
            );
            for ((alone, all), width) in alone.iter().zip(&outs).zip(&outputs) {
                prop_assert_eq!(alone, &all[last * width..]);
            }
        }
    }
}

#[test]
fn a_parked_adapter_comes_back_the_same() {
    let outputs = [40, 8];
    let mut pool = fill(&[5, 3], 24, &outputs);
    let owners = [Some(0), Some(1), Some(0)];
    let input = numbers(3 * 24, 4);
    let before = run(Isa::best(), 1, &pool, &owners, &input, &outputs, 1.0);
    let adapter = &mut pool.1[1];
    let mut parked = PageMemory::new(PAGE, adapter.layout.pages());
    for (to, from) in adapter.pages.iter().enumerate() {
        parked.copy_from(to, &pool.0, *from as usize).unwrap();
        pool.0.page_mut(*from as usize).unwrap().fill(0xff);
    }
    for (from, page) in adapter.pages.iter_mut().enumerate() {
        // Pages that nobody had.
        *page += 1;
        pool.0.copy_from(*page as usize, &parked, from).unwrap();
    }
    let after = run(Isa::best(), 2, &pool, &owners, &input, &outputs, 1.0);
    assert_eq!(before, after);
}

#[test]
fn what_does_not_fit_is_refused() {
    assert!(Segments::new(3, [vec![0, 3]]).is_err());
    assert!(Segments::new(3, [vec![0, 1], vec![1]]).is_err());
    assert!(Segments::new(3, [vec![2, 1], vec![]]).is_ok());
    let (memory, adapters) = fill(&[4], 16, &[24]);
    let team = Team::new(1).unwrap();
    let go =
        |segments: &[Vec<usize>], input: usize, out: usize, changes: &[Option<LowRank<'_>>]| {
            let segments = Segments::new(2, segments.iter().cloned()).unwrap();
            let mut out = vec![0.0; out];
            add_low_rank(
                Isa::best(),
                &team,
                &memory,
                &segments,
                &vec![0.0; input],
                &mut [Target {
                    out: &mut out,
                    changes,
                }],
                &mut Vec::new(),
            )
        };
    let change = LowRank {
        layout: &adapters[0].layout,
        pages: &adapters[0].pages,
        pair: 0,
        scale: 1.0,
    };
    let one = [vec![1]];
    assert!(go(&one, 32, 48, &[Some(change)]).is_ok());
    assert!(go(&one, 32, 48, &[None]).is_ok());
    assert!(go(&one, 32, 48, &[]).is_err());
    assert!(go(&one, 33, 48, &[Some(change)]).is_err());
    assert!(go(&one, 34, 48, &[Some(change)]).is_err());
    assert!(go(&one, 32, 47, &[Some(change)]).is_err());
    assert!(go(&one, 32, 48, &[Some(LowRank { pair: 1, ..change })]).is_err());
    assert!(
        go(
            &one,
            32,
            48,
            &[Some(LowRank {
                pages: &[],
                ..change
            })]
        )
        .is_err()
    );
    let outside = vec![memory.pages() as u32; adapters[0].pages.len()];
    let outside = LowRank {
        pages: &outside,
        ..change
    };
    assert!(go(&one, 32, 48, &[Some(outside)]).is_err());
}
