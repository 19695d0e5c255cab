//! Texts with drafts against texts without.

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
