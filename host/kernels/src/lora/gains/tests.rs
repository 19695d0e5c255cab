//! Gains against the changed matrix, made whole in double precision.

use proptest::prelude::*;

use super::*;
use crate::Team;
use crate::lora::{Factor, LowRank, Segments, Target, add_low_rank};

const PAGE: usize = 1024;
const SCALE: f32 = 0.125;

/// Numbers that 16 bits hold exactly.
fn numbers(n: usize, salt: usize) -> Vec<f32> {
    (0..n)
        .map(|i| (((i + salt) * 7919 + salt * 104_729) % 1013) as f32 / 512.0 - 1.0)
        .collect()
}

/// A matrix with a bias or without, and what an adapter says of it.
struct Case {
    shape: LowRankShape,
    /// `[outputs, inputs]`.
    weights: Vec<f32>,
    bias: Option<Vec<f32>>,
    lengths: Vec<f32>,
    /// `[rank, inputs]`.
    a: Vec<f32>,
    /// `[rank, outputs]`.
    b: Vec<f32>,
}

impl Case {
    fn new(inputs: usize, outputs: usize, rank: usize, biased: bool) -> Self {
        Self {
            shape: LowRankShape {
                inputs,
                outputs,
                rank,
            },
            weights: numbers(outputs * inputs, 1),
            // Larger than what products come to, as queries' and keys' are.
            bias: biased.then(|| numbers(outputs, 2).iter().map(|x| 50.0 * x).collect()),
            lengths: numbers(outputs, 3).iter().map(|x| 2.0 + x).collect(),
            a: numbers(rank * inputs, 4),
            b: numbers(rank * outputs, 5),
        }
    }

    /// Writes the adapter's matrices to the second pair of a layout of two.
    fn write(&self, layout: &LowRankLayout, memory: &mut PageMemory, pages: &[u32]) {
        for (factor, values, width) in [
            (Factor::A, &self.a, self.shape.inputs),
            (Factor::B, &self.b, self.shape.outputs),
        ] {
            for (row, values) in values.chunks(width).enumerate() {
                let written = layout.write(memory, pages, 1, factor, row, values);
                written.unwrap();
            }
        }
    }

    fn write_gains(
        &self,
        isa: Isa,
        layout: &LowRankLayout,
        memory: &mut PageMemory,
        pages: &[u32],
    ) -> Result<bool, ShapeError> {
        let inputs = self.shape.inputs;
        let magnitudes = Magnitudes {
            lengths: &self.lengths,
            bias: self.bias.as_deref(),
            row: &|row, to| {
                let own = self.weights.chunks(inputs).nth(row);
                own.is_some_and(|own| {
                    to.copy_from_slice(own);
                    true
                })
            },
        };
        layout.write_gains(isa, memory, pages, (1, SCALE), &magnitudes)
    }

    fn bias(&self, output: usize) -> f64 {
        let bias = self.bias.as_ref();
        bias.map_or(0.0, |bias| f64::from(bias[output]))
    }

    /// What an input becomes by the base alone, the bias with it.
    fn base(&self, x: &[f32]) -> Vec<f32> {
        let rows = self.weights.chunks(self.shape.inputs).enumerate();
        rows.map(|(output, row)| (dot(row, x) + self.bias(output)) as f32)
            .collect()
    }

    /// A row of the changed matrix, and one of the sizes of what it is the sum of.
    fn changed(&self, output: usize) -> (Vec<f64>, Vec<f64>) {
        let LowRankShape {
            inputs, outputs, ..
        } = self.shape;
        let row = &self.weights[output * inputs..(output + 1) * inputs];
        let terms = |column: usize| {
            let a = self.a.iter().skip(column).step_by(inputs);
            let b = self.b.iter().skip(output).step_by(outputs);
            a.zip(b)
                .map(|(a, b)| f64::from(SCALE) * f64::from(*a) * f64::from(*b))
        };
        let row = row.iter().map(|x| f64::from(*x)).enumerate();
        row.map(|(column, own)| {
            let sizes: f64 = terms(column).map(f64::abs).sum();
            (own + terms(column).sum::<f64>(), own.abs() + sizes)
        })
        .unzip()
    }
}

fn dot(row: &[f32], x: &[f32]) -> f64 {
    let pairs = row.iter().zip(x);
    pairs.map(|(a, b)| f64::from(*a) * f64::from(*b)).sum()
}

fn length(row: &[f64]) -> f64 {
    row.iter().map(|x| x * x).sum::<f64>().sqrt()
}

/// A case in pages, once with gains and once as if it had none.
struct Placed {
    case: Case,
    memory: PageMemory,
    gaining: (LowRankLayout, Vec<u32>),
    plain: (LowRankLayout, Vec<u32>),
}

impl Placed {
    fn new(isa: Isa, case: Case) -> Self {
        // The pair before shares a page with it.
        let shapes = [
            LowRankShape {
                inputs: 10,
                outputs: 7,
                rank: 3,
            },
            case.shape,
        ];
        let gaining = LowRankLayout::with_gains(PAGE, &shapes).unwrap();
        let plain = LowRankLayout::new(PAGE, &shapes).unwrap();
        let all = (gaining.pages() + plain.pages()) as u32;
        let (first, second) = (0..all, 0..all);
        let gaining_pages: Vec<u32> = first.rev().take(gaining.pages()).collect();
        let plain_pages: Vec<u32> = second.take(plain.pages()).collect();
        let mut memory = PageMemory::new(PAGE, all as usize);
        case.write(&gaining, &mut memory, &gaining_pages);
        case.write(&plain, &mut memory, &plain_pages);
        assert!(
            case.write_gains(isa, &gaining, &mut memory, &gaining_pages)
                .unwrap()
        );
        Self {
            case,
            memory,
            gaining: (gaining, gaining_pages),
            plain: (plain, plain_pages),
        }
    }

    /// What the products of inputs become: of each token with gains, without, or without an adapter.
    fn run(&self, isa: Isa, threads: usize, owners: &[Option<bool>], input: &[f32]) -> Vec<f32> {
        let (inputs, tokens) = (self.case.shape.inputs, owners.len());
        let of = |gains: bool| {
            let owners = owners.iter().enumerate();
            owners.filter_map(move |(token, own)| (*own == Some(gains)).then_some(token))
        };
        let segments = Segments::new(tokens, [true, false].map(of)).unwrap();
        let changes = [&self.gaining, &self.plain].map(|(layout, pages)| {
            Some(LowRank {
                layout,
                pages,
                pair: 1,
                scale: SCALE,
            })
        });
        let rows = input.chunks(inputs).map(|x| self.case.base(x));
        let mut out: Vec<f32> = rows.flatten().collect();
        let mut targets = [Target {
            out: &mut out,
            changes: &changes,
        }];
        let team = Team::new(threads).unwrap();
        let between = &mut Vec::new();
        let memory = &self.memory;
        add_low_rank(isa, &team, memory, &segments, input, &mut targets, between).unwrap();
        out
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    #[test]
    fn rows_have_the_lengths_that_are_said(
        inputs in 8_usize..80,
        outputs in 1_usize..150,
        rank in prop_oneof![1_usize..9, 1_usize..40],
        biased in any::<bool>(),
        owners in prop::collection::vec(prop::option::weighted(0.8, any::<bool>()), 1..70),
        threads in 1_usize..3,
    ) {
        let input = numbers(owners.len() * inputs, 999);
        for isa in Isa::available() {
            let placed = Placed::new(isa, Case::new(inputs, outputs, rank, biased));
            let case = &placed.case;
            let got = placed.run(isa, threads, &owners, &input);
            let changed: Vec<_> = (0..outputs).map(|output| case.changed(output)).collect();
            for (token, own) in owners.iter().enumerate() {
                let x = &input[token * inputs..(token + 1) * inputs];
                let got = &got[token * outputs..(token + 1) * outputs];
                // The same bits alone.
                let alone = placed.run(isa, 1, &[*own], x);
                prop_assert_eq!(got, &alone[..]);
                if own.is_none() {
                    let base = case.base(x);
                    prop_assert_eq!(got, &base[..]);
                }
                if *own != Some(true) {
                    continue;
                }
                for (output, got) in got.iter().enumerate() {
                    let (row, sizes) = &changed[output];
                    let gain = f64::from(case.lengths[output]) / length(row);
                    let product = |row: &[f64]| -> f64 {
                        row.iter().zip(x).map(|(w, x)| w * f64::from(*x)).sum()
                    };
                    let want = gain * product(row) + case.bias(output);
                    let sizes: f64 = sizes
                        .iter()
                        .zip(x)
                        .map(|(size, x)| size * f64::from(x.abs()))
                        .sum::<f64>() * length(sizes) / length(row);
                    let bias = case.bias(output).abs() * (1.0 + gain);
                    let error = (want - f64::from(*got)).abs();
                    let most = 2e-6 * (gain * sizes + bias);
                    prop_assert!(error <= most, "{want} {got}: {error:.1e} of {most:.1e}");
                }
            }
            // Who has no gains is not touched by those of others.
            let without: Vec<_> = owners.iter().map(|own| own.filter(|gains| !gains)).collect();
            let without = placed.run(isa, threads, &without, &input);
            for (token, own) in owners.iter().enumerate() {
                let row = token * outputs..(token + 1) * outputs;
                prop_assert!(*own == Some(true) || got[row.clone()] == without[row]);
            }
        }
    }
}

/// A case whose second row is zeros and is not changed.
fn with_an_empty_row() -> Case {
    let mut case = Case::new(16, 6, 2, true);
    case.weights[16..32].fill(0.0);
    for b in case.b.chunks_mut(6) {
        b[1] = 0.0;
    }
    case
}

#[test]
fn a_row_without_a_length_stays_without() {
    let placed = Placed::new(Isa::best(), with_an_empty_row());
    let input = numbers(16, 7);
    let got = placed.run(Isa::best(), 1, &[Some(true)], &input);
    assert!(got.iter().all(|x| x.is_finite()), "{got:?}");
    assert_eq!(f64::from(got[1]), placed.case.bias(1));
}

#[test]
fn what_is_not_finite_is_said_to_be() {
    let shapes = [
        LowRankShape {
            inputs: 10,
            outputs: 7,
            rank: 3,
        },
        Case::new(16, 6, 2, false).shape,
    ];
    let layout = LowRankLayout::with_gains(PAGE, &shapes).unwrap();
    let pages: Vec<u32> = (0..layout.pages() as u32).collect();
    let finite = |change: &dyn Fn(&mut Case)| {
        let mut case = with_an_empty_row();
        change(&mut case);
        let mut memory = PageMemory::new(PAGE, pages.len());
        case.write(&layout, &mut memory, &pages);
        case.write_gains(Isa::best(), &layout, &mut memory, &pages)
            .unwrap()
    };
    assert!(finite(&|_| ()));
    // Nothing brings next to nothing to such a length.
    assert!(!finite(&|case| {
        case.weights[16] = 1e-30;
        case.lengths[1] = f32::MAX;
    }));
    assert!(!finite(&|case| case.weights[16] = f32::INFINITY));
    assert!(!finite(&|case| case.lengths[0] = f32::NAN));
}

#[test]
fn what_does_not_fit_is_refused() {
    let case = || Case::new(16, 6, 2, true);
    let shapes = [
        LowRankShape {
            inputs: 10,
            outputs: 7,
            rank: 3,
        },
        case().shape,
    ];
    let layout = LowRankLayout::with_gains(PAGE, &shapes).unwrap();
    let plain = LowRankLayout::new(PAGE, &shapes).unwrap();
    let pages: Vec<u32> = (0..layout.pages() as u32).collect();
    let go = |layout: &LowRankLayout, case: &Case, pages: &[u32]| {
        let mut memory = PageMemory::new(PAGE, 8);
        case.write_gains(Isa::best(), layout, &mut memory, pages)
    };
    assert!(go(&layout, &case(), &pages).is_ok());
    assert!(go(&plain, &case(), &pages).is_err());
    assert!(go(&layout, &case(), &[]).is_err());
    assert!(go(&layout, &case(), &vec![8; pages.len()]).is_err());
    let mut other = case();
    other.lengths.pop();
    assert!(go(&layout, &other, &pages).is_err());
    let mut other = case();
    other.bias = Some(vec![0.0; 7]);
    assert!(go(&layout, &other, &pages).is_err());
    let mut other = case();
    other.weights.truncate(5 * 16);
    assert!(go(&layout, &other, &pages).is_err());
}
