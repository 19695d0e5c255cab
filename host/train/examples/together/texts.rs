//! Lines as words, and batches of them.

use std::collections::HashMap;

use skep_train::Example;

/// What ends a line.
const END: u32 = 1;
/// One line of so many is held out.
const HELD_OUT: usize = 20;

/// Lines of words, for each node its own, and those that nobody learns from.
pub struct Texts {
    nodes: Vec<Vec<u32>>,
    held_out: Vec<u32>,
}

impl Texts {
    /// Knows the most frequent words; all others are one.
    pub fn new(text: &str, vocabulary: usize, nodes: usize) -> Self {
        let lines: Vec<Vec<String>> = text.lines().map(words).collect();
        let mut counts: HashMap<&str, usize> = HashMap::new();
        for word in lines.iter().flatten() {
            *counts.entry(word).or_default() += 1;
        }
        let mut known: Vec<(&str, usize)> = counts.into_iter().collect();
        known.sort_by_key(|(word, count)| (std::cmp::Reverse(*count), *word));
        known.truncate(vocabulary - 2);
        let numbers: HashMap<&str, u32> = known
            .iter()
            .zip(2..)
            .map(|((word, _), number)| (*word, number))
            .collect();
        let mut texts = Self {
            nodes: vec![Vec::new(); nodes],
            held_out: Vec::new(),
        };
        let learned = lines.len() - lines.len().div_ceil(HELD_OUT);
        let mut count = 0;
        for (at, line) in lines.iter().enumerate() {
            let tokens = line
                .iter()
                .map(|word| numbers.get(word.as_str()).copied().unwrap_or(0));
            // Each node has lines that stand together, so that what they learn differs.
            let own = match at % HELD_OUT == 0 {
                true => &mut texts.held_out,
                false => {
                    count += 1;
                    &mut texts.nodes[(count - 1) * nodes / learned.max(1)]
                }
            };
            own.extend(tokens);
            own.push(END);
        }
        texts
    }

    pub fn learned(&self) -> usize {
        self.nodes.iter().map(Vec::len).sum()
    }

    pub fn tested(&self) -> usize {
        self.held_out.len()
    }

    /// What a node learns from at a step.
    pub fn batch(&self, node: usize, step: usize, batch: usize, length: usize) -> Vec<Example> {
        let own = &self.nodes[node];
        let places = own.len() - length;
        let start = |text: usize| {
            // Looks random and is the same for every run.
            let at = (step * batch + text) as u64 * 0x9e37_79b9_7f4a_7c15;
            (at >> 16) as usize % places
        };
        (0..batch)
            .map(|text| example(&own[start(text)..][..length]))
            .collect()
    }

    /// What all are tested on.
    pub fn tests(&self, count: usize, length: usize) -> Vec<Example> {
        self.held_out
            .chunks_exact(length)
            .take(count)
            .map(example)
            .collect()
    }
}

fn example(tokens: &[u32]) -> Example {
    Example {
        tokens: tokens.to_vec(),
        ..Example::default()
    }
}

fn words(line: &str) -> Vec<String> {
    let lower = line.to_lowercase();
    let words = lower.split(|letter: char| !letter.is_alphanumeric());
    words
        .filter(|word| !word.is_empty())
        .map(str::to_owned)
        .collect()
}
