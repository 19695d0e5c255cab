//! Products against double precision, on every instruction set and number of threads.

use super::*;
use crate::random::test_values;

struct Plain<'a>(&'a [f32], usize);

impl RowSource for Plain<'_> {
    fn rows(&self) -> usize {
        self.0.len() / self.1
    }

    fn columns(&self) -> usize {
        self.1
    }

    fn read(&self, row: usize, columns: Range<usize>, out: &mut [f32]) {
        assert!(columns.start.is_multiple_of(256));
        out.copy_from_slice(&self.0[row * self.1..(row + 1) * self.1][columns]);
    }
}

fn transposed(values: &[f32], rows: usize) -> Vec<f32> {
    let columns = values.len() / rows;
    let at = |n: usize| values[n % rows * columns + n / rows];
    (0..values.len()).map(at).collect()
}

#[test]
fn products_agree_with_double_precision_from_every_side() {
    let sizes = [
        (1, 1, 1),
        (14, 32, 16),
        (29, 47, 33),
        (3, 300, 700),
        (61, 16, 1030),
    ];
    for (m, n, k) in sizes {
        let (a, b) = (test_values(m * k, 1), test_values(k * n, 2));
        let (a_t, b_t) = (transposed(&a, m), transposed(&b, k));
        let want: Vec<f64> = (0..m * n)
            .map(|at| {
                let one = |i: usize| f64::from(a[at / n * k + i]) * f64::from(b[i * n + at % n]);
                (0..k).map(one).sum()
            })
            .collect();
        for simd in Simd::available() {
            let mut first: Option<Vec<f32>> = None;
            for threads in [1, 2, 3] {
                let team = Team::new(threads).unwrap();
                let (plain, plain_t) = (Plain(&b, n), Plain(&b_t, k));
                let rights = [
                    Rhs::Rows(&b),
                    Rhs::Columns(&b_t),
                    Rhs::Unpacked(&plain),
                    Rhs::UnpackedColumns(&plain_t),
                ];
                for b in rights {
                    for a in [Lhs::rows(&a, k), Lhs::transposed(&a_t, m)] {
                        let mut c = vec![f32::NAN; m * n];
                        let mut asked = Product {
                            m,
                            n,
                            k,
                            a,
                            b,
                            add: false,
                        };
                        let workers = Workers { simd, team: &team };
                        product(workers, &asked, &mut c);
                        for (c, want) in c.iter().zip(&want) {
                            let error = (f64::from(*c) - want).abs();
                            assert!(error < 1e-6 * k as f64, "{simd:?} {m} {n} {k}: {error}");
                        }
                        let bits = first.get_or_insert_with(|| c.clone());
                        assert!(*bits == c, "other bits on {threads} threads");
                        asked.add = true;
                        product(workers, &asked, &mut c);
                        for (c, want) in c.iter().zip(&want) {
                            assert!((f64::from(*c) - 2.0 * want).abs() < 2e-6 * k as f64);
                        }
                    }
                }
            }
        }
    }
}

#[test]
fn a_row_has_the_same_bits_alone_and_among_others() {
    let (m, n, k) = (40, 50, 600);
    let (a, b) = (test_values(m * k, 3), test_values(k * n, 4));
    let team = Team::new(2).unwrap();
    for simd in Simd::available() {
        let workers = Workers { simd, team: &team };
        let run = |a: &[f32], m: usize| {
            let mut c = vec![0.0; m * n];
            let a = Lhs::rows(a, k);
            product(
                workers,
                &Product {
                    m,
                    n,
                    k,
                    a,
                    b: Rhs::Rows(&b),
                    add: false,
                },
                &mut c,
            );
            c
        };
        let all = run(&a, m);
        for row in [0, 13, 39] {
            let alone = run(&a[row * k..(row + 1) * k], 1);
            assert_eq!(alone, all[row * n..(row + 1) * n]);
        }
    }
}
