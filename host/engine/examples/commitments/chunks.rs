//! How far chunks of many states and of few are from the model's own, and how many are beyond the limits of audits.

use skep_engine::Checked;
use skep_evidence::activations::{CHUNK, Comparison, LARGEST, Thresholds};
use skep_evidence::following::{FAR, Limits, NEAR, states_in};

/// Chunks that are told apart, by the fewest and the most states in them: of a text of 40 tokens the last has seven.
const SIZES: [(usize, usize); 5] = [(1, 1), (2, 3), (4, 6), (7, CHUNK - 1), (CHUNK, CHUNK)];

/// The furthest from the model's own that some chunks were, in each figure by itself.
#[derive(Clone, Copy)]
pub struct Furthest {
    /// The fewest matches, of one that is compared.
    pub matches: f64,
    /// The largest mean difference between mantissas.
    pub mean: f64,
    /// The largest median.
    pub median: f64,
}

impl Default for Furthest {
    fn default() -> Self {
        Self {
            matches: 1.0,
            mean: 0.0,
            median: 0.0,
        }
    }
}

impl Furthest {
    /// That of these chunks.
    pub fn of<'a>(chunks: impl IntoIterator<Item = &'a Comparison>) -> Self {
        let mut furthest = Self::default();
        for chunk in chunks {
            let share = f64::from(chunk.matches) / f64::from(chunk.compared);
            furthest.matches = furthest.matches.min(share);
            if chunk.matches > 0 {
                let mean = f64::from(chunk.mantissa_sum) / f64::from(chunk.matches);
                furthest.mean = furthest.mean.max(mean);
            }
            let median = f64::from(chunk.mantissa_median_doubled) / 2.0;
            furthest.median = furthest.median.max(median);
        }
        furthest
    }

    /// Twice as far.
    pub fn twice(&self) -> Thresholds {
        let missing = 1.0 - self.matches;
        Thresholds {
            matches: (LARGEST as f64 * (1.0 - 2.0 * missing)).max(0.0) as u32,
            mantissa_mean: (2.0 * self.mean).ceil().max(1.0) as u32,
            mantissa_median: (2.0 * self.median).ceil().max(1.0) as u32,
        }
    }
}

/// All tokens of a text.
pub fn tokens_of(checked: &Checked) -> usize {
    checked.same + checked.ties + checked.different
}

/// Whether a text would be further than this, were it all of a run.
fn is_beyond(limits: &Limits, checked: &Checked) -> bool {
    let tokens = tokens_of(checked);
    let mut chunks = checked.chunks.iter().enumerate();
    !checked.is_whole
        || !limits.forgive(checked.different, tokens)
        || !limits.bear_gap(checked.widest as f32)
        || !chunks.all(|(place, chunk)| limits.bear_states(chunk, states_in(tokens, place)))
}

/// The head of the table that [`print`] goes on with.
pub fn print_head() {
    println!(
        "| who wrote | chunks | beyond the near limits of audits | beyond the far ones | of | \
         fewest matches | largest mean | largest median | twice as far: matches, mean, median |"
    );
    println!("|---|---|---|---|---|---|---|---|---|");
}

/// A row for each size that chunks of these texts have, one for those of the prompts, and one for the texts.
pub fn print(what: &str, texts: &[&Checked]) {
    let chunks = texts.iter().flat_map(|text| {
        let tokens = tokens_of(text);
        let chunks = text.chunks.iter().enumerate();
        chunks.map(move |(place, chunk)| (states_in(tokens, place), chunk))
    });
    let chunks: Vec<(Option<usize>, &Comparison)> = chunks.collect();
    let some = |name: &str, is_one: &dyn Fn(Option<usize>) -> bool| {
        let some = chunks.iter().filter(|(states, _)| is_one(*states));
        let some: Vec<&(Option<usize>, &Comparison)> = some.collect();
        if some.is_empty() {
            return;
        }
        let [near, far] = [NEAR, FAR].map(|limits| {
            let is_beyond = |(states, chunk): &&&(Option<usize>, &Comparison)| {
                !limits.bear_states(chunk, *states)
            };
            some.iter().filter(is_beyond).count()
        });
        let furthest = Furthest::of(some.iter().map(|(_, chunk)| *chunk));
        let twice = furthest.twice();
        println!(
            "| {what} | {name} | {near} | {far} | {} | {:.1} % | {:.2} | {:.1} | {}, {}, {} |",
            some.len(),
            100.0 * furthest.matches,
            furthest.mean,
            furthest.median,
            twice.matches,
            twice.mantissa_mean,
            twice.mantissa_median,
        );
    };
    some("the prompt", &|states| states.is_none());
    for (fewest, most) in SIZES {
        let name = match fewest == most {
            true => format!("states: {fewest}"),
            false => format!("states: {fewest} to {most}"),
        };
        some(&name, &|states| {
            states.is_some_and(|states| (fewest..=most).contains(&states))
        });
    }
    let [near, far] = [NEAR, FAR].map(|limits| {
        let beyond = texts.iter().filter(|text| is_beyond(&limits, text));
        beyond.count()
    });
    println!(
        "| {what} | whole texts, tokens too | {near} | {far} | {} | | | | |",
        texts.len()
    );
}
