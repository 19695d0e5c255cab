//! What all layers need of a batch, in one buffer; and what is kept of a pass, so that the next
//! batch of the same form is a matter of writing that buffer and playing the pass again.
//!
//! What it must never do: play a pass again for a batch whose launches would be others, or with a
//! number in its tables that was not checked against what the launches read.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use cubecl::client::Graph;
use skep_kernels::kv::PAGE_TOKENS;
use skep_kernels::operators::{PlannedBatch, Shared};
use skep_kernels::{expect_below, expect_len};

use crate::attention::{self, Pages, Slots};
use crate::device::{ALIGNED, Buffer, Gpu, guard};
use crate::error::GpuError;
use crate::rows::Turns;

/// Tokens of a batch whose passes are kept. Beyond them the work and not the launches decide.
const MOST_KEPT: usize = 64;

/// After how many recordings that came to nothing no more are tried.
const MOST_FAILURES: usize = 3;

/// What all layers need of a batch.
#[derive(Debug)]
pub struct BatchPlan {
    form: Form,
    /// All tables, one after the other.
    tables: Buffer,
    pub(crate) attention: attention::Plan,
    pub(crate) slots: Slots,
    /// Of each of the model's rotary positions.
    pub(crate) turns: Vec<Turns>,
    /// The batch's tokens.
    pub(crate) tokens: (Buffer, usize),
    /// The places of its outputs.
    pub(crate) outputs: (Buffer, usize),
    /// The largest of its tokens.
    pub(crate) largest_token: usize,
    /// The rows of the matrix that tokens are looked up in, once they were.
    pub(crate) embedded: AtomicUsize,
}

/// What launches of a pass depend on beside the tables' contents.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Form {
    /// Which pages.
    pages: u64,
    attention: [usize; 6],
    /// Where each table lies.
    parts: Vec<(usize, usize)>,
}

/// What is kept of a pass for the next one.
#[derive(Default)]
pub struct Kept {
    plan: Option<Arc<BatchPlan>>,
    /// Whether the plan was made again for a batch of the same form.
    again: bool,
    /// Whether the device does not keep passes, or not this one.
    refused: bool,
    /// Recordings that came to nothing.
    failures: usize,
    pass: Option<Graph>,
}

/// Tables on their way to one buffer.
#[derive(Default)]
struct Tables {
    words: Vec<u32>,
    parts: Vec<(usize, usize)>,
}

impl Tables {
    fn add(&mut self, table: &[u32]) {
        self.parts.push((self.words.len(), table.len()));
        self.words.extend_from_slice(table);
        // A buffer of nothing has no address.
        let end = self.words.len().max(1).next_multiple_of(ALIGNED);
        self.words.resize(end, 0);
    }
}

impl Kept {
    /// Whether the next pass of the same form will be played rather than run.
    pub fn is_kept(&self) -> bool {
        self.pass.is_some()
    }

    /// The plan of a batch: that of the last one, if it has the same form.
    pub(crate) fn plan(
        &mut self,
        gpu: &Gpu,
        pages: &Pages,
        model: &Shared<'_>,
        batch: &PlannedBatch<'_>,
    ) -> Result<Arc<BatchPlan>, GpuError> {
        let count = batch.tokens.len();
        // Checks that every position has a page.
        let unplaced = attention::Plan::unplaced(gpu, pages, model.heads, &batch.sequences, count)?;
        let mut positions = Vec::with_capacity(count);
        let mut slots = Vec::with_capacity(count);
        for sequence in &batch.sequences {
            for position in sequence.start..sequence.start + sequence.tokens.len() {
                let page = sequence.pages[position / PAGE_TOKENS];
                slots.push((page, (position % PAGE_TOKENS) as u32));
                positions.push(position as u32);
            }
        }
        // Tables have an entry for each token, and launches read as many.
        let placed = positions.len();
        expect_len("plan", "the sequences", placed, Some(count))?;
        let mut outputs = Vec::with_capacity(batch.outputs.len());
        for place in batch.outputs {
            expect_below("outputs", "the tokens", *place, count)?;
            // A batch has fewer than 2³² tokens.
            outputs.push(*place as u32);
        }
        let mut tables = Tables::default();
        tables.add(batch.tokens);
        tables.add(&outputs);
        tables.add(&Slots::table(pages, &slots)?);
        for rope in model.ropes {
            tables.add(&Turns::table(rope, &positions));
        }
        unplaced.tables(|table| tables.add(table));

        let form = Form {
            pages: pages.number(),
            attention: unplaced.form(),
            parts: tables.parts,
        };
        let largest_token = batch.tokens.iter().max().map_or(0, |token| *token as usize);
        let fits = |plan: &&Arc<BatchPlan>| {
            plan.form == form && largest_token < plan.embedded.load(Ordering::Relaxed)
        };
        if let Some(plan) = self.plan.as_ref().filter(fits) {
            gpu.write(&plan.tables, &tables.words)?;
            self.again = true;
            return Ok(Arc::clone(plan));
        }
        self.again = false;
        self.pass = None;
        let all = gpu.upload_words(&tables.words)?;
        let mut parts = form.parts.iter();
        let mut next = || {
            let (start, words) = parts.next().copied().unwrap_or_default();
            all.part(start, words)
        };
        let plan = Arc::new(BatchPlan {
            tokens: (next(), count),
            outputs: (next(), outputs.len()),
            slots: Slots::placed(count, next()),
            turns: model
                .ropes
                .iter()
                .map(|rope| Turns::placed(rope, count, next()))
                .collect(),
            attention: unplaced.place(|_| Ok(next()))?,
            largest_token,
            embedded: AtomicUsize::new(0),
            tables: all.clone(),
            form,
        });
        self.plan = Some(Arc::clone(&plan));
        Ok(plan)
    }

    /// Runs a pass over the batch that was planned last, or plays what was kept of the one before.
    pub(crate) fn run(
        &mut self,
        gpu: &Gpu,
        plan: &BatchPlan,
        repeats: bool,
        mut pass: impl FnMut() -> Result<(), GpuError> + Send,
    ) -> Result<(), GpuError> {
        if !repeats || plan.tokens.1 > MOST_KEPT {
            self.plan = None;
            self.pass = None;
            return gpu.alone(pass)?;
        }
        if !self.again || self.refused {
            return gpu.alone(pass)?;
        }
        if let Some(kept) = &self.pass {
            // SAFETY: what the pass reads is held by the rows, pages and weights that it was
            // recorded with, which are those of this plan's form; what it writes in between lies on
            // pages of memory that CubeCL holds for the recording; and all of it is touched on this
            // stream alone.
            let played = guard("a pass", || unsafe { kept.replay() })
                .and_then(|played| played.map_err(|error| GpuError::Failed(error.to_string())));
            if played.is_err() {
                self.pass = None;
            }
            return played;
        }
        match gpu.recording(|| record(gpu, &mut pass))?? {
            Recorded::Kept(kept) => self.pass = Some(kept),
            Recorded::Refused => self.refused = true,
            Recorded::Failed => {
                self.failures += 1;
                self.refused = self.failures == MOST_FAILURES;
            }
        }
        Ok(())
    }
}

/// What became of a recording. The pass was run in any case.
enum Recorded {
    Kept(Graph),
    /// The device does not keep passes.
    Refused,
    /// Not this time.
    Failed,
}

/// Runs a pass and records it.
fn record(
    gpu: &Gpu,
    pass: &mut impl FnMut() -> Result<(), GpuError>,
) -> Result<Recorded, GpuError> {
    const WHAT: &str = "keeping a pass";
    let client = gpu.client();
    let prepared = guard(WHAT, || client.graph_prepare());
    // What it takes is there afterwards: nothing is allocated while it is recorded. A panic must not
    // leave the device recording.
    let ran = guard(WHAT, &mut *pass).and_then(|ran| ran);
    if !matches!(prepared, Ok(Ok(()))) {
        return ran.map(|()| Recorded::Refused);
    }
    let begun = matches!(guard(WHAT, || client.start_capture()), Ok(Ok(())));
    let recorded = match begun && ran.is_ok() {
        true => guard(WHAT, &mut *pass).and_then(|ran| ran),
        false => Ok(()),
    };
    // Closes what was prepared, whatever became of it.
    let kept = guard(WHAT, || client.stop_capture());
    ran?;
    match (begun, recorded, kept) {
        (true, Ok(()), Ok(Ok(kept))) => return Ok(Recorded::Kept(kept)),
        // What a part of a pass holds is given back before the pass is run again.
        (_, _, kept) => drop(kept),
    }
    // What was not recorded whole is taken for not computed.
    pass()?;
    Ok(match begun {
        true => Recorded::Failed,
        false => Recorded::Refused,
    })
}
