//! Texts with drafts against texts without, and the rule of two distributions by statistics.

use super::*;
use crate::request::Sampling;
use crate::speculation::{DraftOptions, NgramDraft};
use proptest::prelude::*;

const VOCABULARY: usize = 6;

/// A small model: its logits follow from the last two tokens.
fn model(text: &[u32]) -> Vec<f32> {
    let [.., a, b] = [&[0, 0], text].concat()[..] else {
        unreachable!("there are two")
    };
    let logit = |token: u32| ((a * 7 + b * 13 + token * 29) % 17) as f32 / 4.0;
    (0..VOCABULARY as u32).map(logit).collect()
}

/// What is written, up to a length; every third token may be forbidden.
struct Text {
    written: Vec<u32>,
    until: usize,
    masked: bool,
    words: [u32; 1],
}

impl Follow for Text {
    fn mask(&mut self) -> Option<TokenMask<'_>> {
        self.words = [if self.written.len() % 3 == 1 {
            0b110101
        } else {
            !0
        }];
        self.masked.then_some(TokenMask::new(&self.words))
    }

    fn take(&mut self, token: u32, _: Option<TokenLogprob>) -> bool {
        self.written.push(token);
        self.written.len() < self.until
    }
}

/// Writes `until` tokens after `prompt`, and says in how many passes.
fn write(
    options: &Sampling,
    prompt: &[u32],
    until: usize,
    masked: bool,
    drafts: bool,
) -> (Vec<u32>, usize) {
    let mut sampler = Sampler::new(options, prompt, VOCABULARY).unwrap();
    let mut ngrams = NgramDraft::new(DraftOptions::default(), prompt);
    let mut text = Text {
        written: Vec::new(),
        until,
        masked,
        words: [0],
    };
    let (mut draft, mut scratch, mut passes) = (Vec::new(), Scratch::default(), 0);
    while text.written.len() < until {
        if drafts {
            ngrams.draft(5, &mut draft);
        }
        let before = text.written.len();
        let so_far = [prompt, &text.written].concat();
        let logits: Vec<f32> = (0..=draft.len())
            .flat_map(|n| model(&[&so_far, &draft[..n]].concat()))
            .collect();
        let kept = verify(&mut sampler, &draft, &logits, None, &mut text, &mut scratch).unwrap();
        let new = &text.written[before..];
        assert!(new.len() == kept + 1 || text.written.len() == until);
        assert_eq!(new[..kept], draft[..kept]);
        ngrams.learn(draft.len(), kept);
        new.iter().for_each(|token| ngrams.push(*token));
        passes += 1;
    }
    (text.written, passes)
}

proptest! {
    #[test]
    fn a_seed_writes_the_same_with_drafts_and_without(
        seed in any::<u64>(),
        temperature in prop_oneof![Just(0.0_f32), 0.1_f32..1.5],
        top_k in 0_usize..5,
        frequency_penalty in prop_oneof![Just(0.0_f32), Just(0.2)],
        prompt in prop::collection::vec(0_u32..VOCABULARY as u32, 1..30),
        until in 1_usize..50,
        masked in any::<bool>(),
    ) {
        let options = Sampling { temperature, top_k, frequency_penalty, seed, ..Sampling::GREEDY };
        let (with, fewer) = write(&options, &prompt, until, masked, true);
        let (without, passes) = write(&options, &prompt, until, masked, false);
        prop_assert_eq!(with, without);
        prop_assert!(fewer <= passes && passes == until);
    }
}

#[test]
fn a_text_that_repeats_itself_takes_fewer_passes() {
    let (_, passes) = write(&Sampling::GREEDY, &[1, 2], 200, false, true);
    assert!(passes < 70, "{passes}");
}

#[test]
fn kept_and_replaced_tokens_together_have_the_target_s_distribution() {
    let target = Distribution::new([(0, 4.0), (1, 1.0), (3, 2.0), (5, 3.0)].into_iter());
    for proposal in [
        Distribution::new([(0, 1.0), (1, 3.0), (2, 2.0), (3, 2.0), (5, 0.5)].into_iter()),
        Distribution::point(3),
        Distribution::point(4),
        target.clone(),
    ] {
        let draws = 20_000_u32;
        let mut counts = [0.0_f64; VOCABULARY];
        let mut kept = 0.0;
        let options = Sampling {
            seed: 5,
            ..Sampling::GREEDY
        };
        let mut sampler = Sampler::new(&options, &[], VOCABULARY).unwrap();
        for _ in 0..draws {
            let drafted = proposal.draw(sampler.uniform(Purpose::Draw)).unwrap();
            let token = match sampler.judge(&target, &proposal, drafted) {
                Verdict::Kept => {
                    kept += 1.0;
                    drafted
                }
                Verdict::Instead(token) => token,
            };
            counts[token as usize] += 1.0;
            sampler.accept(token);
        }
        let draws = f64::from(draws);
        let mut squares = 0.0;
        let mut overlap = 0.0;
        for (token, count) in (0..).zip(counts) {
            let p = target.probability(token);
            overlap += p.min(proposal.probability(token));
            if p == 0.0 {
                assert_eq!(count, 0.0);
            } else {
                squares += (count - p * draws).powi(2) / (p * draws);
            }
        }
        // 3 degrees of freedom: chance passes this once in a thousand seeds.
        assert!(squares < 16.3, "{squares}");
        // As many are kept as the two have in common, within four standard deviations.
        assert!((kept / draws - overlap).abs() < 4.0 * (0.25 / draws).sqrt());
    }
}

#[test]
fn logits_that_are_not_enough_are_refused() {
    let mut sampler = Sampler::new(&Sampling::GREEDY, &[], VOCABULARY).unwrap();
    let mut text = Text {
        written: Vec::new(),
        until: 9,
        masked: false,
        words: [0],
    };
    let mut scratch = Scratch::default();
    let got = verify(
        &mut sampler,
        &[1],
        &[0.0; VOCABULARY],
        None,
        &mut text,
        &mut scratch,
    );
    assert!(matches!(got, Err(SamplingError::Logits { .. })));
    assert!(text.written.is_empty());
}
