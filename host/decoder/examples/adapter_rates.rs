//! What adapters cost: `adapter_rates [threads] [attention|all] [rounds]` prints the tokens a
//! second of a model of 0.3 billion random weights in Q4_K and Q6_K at batch 8, alone and with 1,
//! 64 and 1,000 adapters of rank 16 in rotation.
//!
//! A row keeps its adapter for 32 tokens and then takes the next one. Of 1,000 adapters 128 lie in
//! the pool; the others lie parked in host memory, and the one that a row takes next is copied
//! into the pages of one that no row uses. Steps of the four take turns, so that whatever else
//! the machine does meets all of them, and the middle of their times counts.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

mod random_model;

use std::time::Instant;

use random_model::{Shape, write_adapter, write_model};
use skep_decoder::{AdapterTarget, AdapterWeights, Batch, Decoder, PagedAdapter, Part, Workspace};
use skep_kernels::Team;
use skep_kernels::kv::{KvFormat, KvPages, PAGE_TOKENS};

const BATCH: usize = 8;
/// Tokens that a row writes with one adapter.
const TOKENS: usize = 32;
/// Adapters that lie in the pool at most.
const RESIDENT: usize = 128;
/// Where rows begin: there is a context before them.
const START: usize = 64;

fn main() {
    let mut arguments = std::env::args().skip(1);
    let threads = arguments.next().map_or(2, |n| n.parse().unwrap());
    let all = arguments.next().is_some_and(|which| which == "all");
    let rounds: usize = arguments.next().map_or(TOKENS, |n| n.parse().unwrap());
    let targets = match all {
        true => &AdapterTarget::ALL[..],
        false => &AdapterTarget::ALL[..4],
    };
    let scratch = tempfile::tempdir().unwrap();
    let path = scratch.path().join("model.gguf");
    write_model(&path, &Shape::default());
    let decoder = Decoder::load(&path).unwrap();
    write_adapter(scratch.path(), targets);
    let shape = decoder.kv_shape(KvFormat::F16);
    let page_bytes = shape.page_bytes() as usize;
    let weights = AdapterWeights::load(scratch.path(), &decoder, "random", page_bytes).unwrap();
    let pages_each = weights.adapter().pages();
    println!(
        "{threads} threads, adapters on {} matrices a layer, {:.1} MB each",
        targets.len(),
        weights.adapter().bytes() as f64 / 1e6
    );
    let counts = [0, 1, 64, if all { 256 } else { 1000 }];
    let mut runs: Vec<_> = counts
        .iter()
        .map(|count| Run::new(&decoder, &weights, *count, pages_each))
        .collect();
    let team = Team::new(threads).unwrap();
    let mut workspace = Workspace::default();
    for step in 0..rounds + 3 {
        for run in &mut runs {
            let seconds = run.step(&decoder, &team, &mut workspace);
            // The first few touch memory for the first time.
            if step >= 3 {
                run.seconds.push(seconds);
            }
        }
    }
    let middle = |run: &mut Run| {
        run.seconds.sort_by(f64::total_cmp);
        run.seconds[run.seconds.len() / 2]
    };
    let base = middle(&mut runs[0]);
    for (run, count) in runs.iter_mut().zip(counts) {
        let seconds = middle(run);
        println!(
            "{count:>5} adapters: {:6.1} tokens/s, {:5.1} % of the base ({} copied in)",
            BATCH as f64 / seconds,
            100.0 * base / seconds,
            run.copied,
        );
    }
}

/// One of the measurements: eight rows and a number of adapters.
struct Run {
    pages: KvPages,
    /// Each row's pages.
    tables: Vec<Vec<u32>>,
    parked: Vec<AdapterWeights>,
    /// The adapters in the pool, each with its number.
    resident: Vec<(usize, PagedAdapter)>,
    /// Each row's adapter, as a place in `resident`, and the tokens that it has left.
    rows: Vec<(usize, usize)>,
    next: usize,
    copied: usize,
    seconds: Vec<f64>,
}

impl Run {
    fn new(decoder: &Decoder, weights: &AdapterWeights, count: usize, each: usize) -> Self {
        let row_pages = (START + TOKENS).div_ceil(16);
        let slots = count.min(RESIDENT);
        let total = BATCH * row_pages + slots * each;
        let mut pages = KvPages::new(decoder.kv_shape(KvFormat::F16), total);
        let tables = (0..BATCH * row_pages)
            .map(|page| page as u32)
            .collect::<Vec<_>>();
        let tables = tables.chunks(row_pages).map(<[u32]>::to_vec).collect();
        fill(&mut pages, BATCH * row_pages);
        let mut resident = Vec::new();
        for slot in 0..slots {
            let first = (BATCH * row_pages + slot * each) as u32;
            let own = (first..first + each as u32).collect();
            resident.push((slot, weights.place(pages.memory_mut(), own).unwrap()));
        }
        // Each in memory of its own, as different adapters are.
        let parked = match count > slots {
            true => (0..count)
                .map(|_| resident[0].1.park(pages.memory()).unwrap())
                .collect(),
            false => Vec::new(),
        };
        // Rows change their adapters one after the other.
        let rows = (0..BATCH)
            .map(|row| (row % slots.max(1), TOKENS * (row + 1) / BATCH))
            .collect();
        Self {
            pages,
            tables,
            parked,
            resident,
            rows,
            next: BATCH % count.max(1),
            copied: 0,
            seconds: Vec::new(),
        }
    }

    /// Gives a row the adapter that is next.
    fn change(&mut self, row: usize) {
        self.rows[row].1 = TOKENS;
        if self.resident.is_empty() {
            return;
        }
        let wanted = self.next;
        self.next = (self.next + 1) % self.parked.len().max(self.resident.len());
        if let Some(slot) = self.resident.iter().position(|(n, _)| *n == wanted) {
            self.rows[row].0 = slot;
            return;
        }
        // In rotation, the one that nobody will want for longest has the number before.
        let count = self.parked.len();
        let slot = (0..self.resident.len())
            .filter(|slot| self.rows.iter().all(|(used, _)| used != slot))
            .min_by_key(|slot| (self.resident[*slot].0 + count - wanted) % count)
            .unwrap();
        let own = self.resident[slot].1.pages().to_vec();
        let placed = self.parked[wanted].place(self.pages.memory_mut(), own);
        self.resident[slot] = (wanted, placed.unwrap());
        self.rows[row].0 = slot;
        self.copied += 1;
    }

    /// A token of every row: seconds that it took.
    fn step(&mut self, decoder: &Decoder, team: &Team, workspace: &mut Workspace) -> f64 {
        let began = Instant::now();
        for row in 0..BATCH {
            if self.rows[row].1 == 0 {
                self.change(row);
            }
            self.rows[row].1 -= 1;
        }
        let tokens: Vec<u32> = (0..BATCH as u32).map(|row| 17 * row + 5).collect();
        let parts: Vec<Part<'_>> = (0..BATCH)
            .map(|row| Part {
                tokens: 1,
                start: START + TOKENS - 1 - self.rows[row].1,
                pages: &self.tables[row],
                adapter: self.resident.get(self.rows[row].0).map(|(_, a)| a),
            })
            .collect();
        let outputs: Vec<usize> = (0..BATCH).collect();
        let batch = Batch {
            tokens: &tokens,
            parts: &parts,
            outputs: &outputs,
        };
        let logits = decoder.forward(team, workspace, &mut self.pages, &batch);
        assert!(logits.unwrap().iter().all(|x| x.is_finite()));
        began.elapsed().as_secs_f64()
    }
}

/// Writes keys and values to the first `count` pages, in memory as a pool with adapters has it.
/// Memory that was never written to is one page of zeros, which stays in the nearest cache, and
/// placing an adapter has all of its pool handed out in large pages: without this the base would
/// read less memory than who is compared with it, and in smaller pages.
fn fill(pages: &mut KvPages, count: usize) {
    pages.memory_mut().expect_long_runs();
    let shape = *pages.shape();
    let row: Vec<f32> = (0..shape.kv_heads * shape.head_dim)
        .map(|n| (n % 13) as f32 / 13.0 - 0.5)
        .collect();
    for page in 0..count {
        for layer in 0..shape.layers {
            for slot in 0..PAGE_TOKENS {
                pages.store(layer, page, slot, &row, &row).unwrap();
            }
        }
    }
}
