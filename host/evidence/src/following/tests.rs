//! Honest runs agree across machines, others do not, and odd bytes are refused.

use proptest::prelude::*;

use super::*;
use crate::account::AccountId;
use crate::activations::{Committer, LARGEST, Observer, States};
use crate::meter::Meter;

const WIDTH: usize = 64;

/// Numbers that look like activations, which on another machine differ by so much.
fn states(seed: u8, tokens: usize, relative: f32) -> Vec<f32> {
    let stream = |purpose: &str, seed: u8| {
        let mut hash = blake3::Hasher::new_derive_key(purpose);
        let mut bytes = vec![0; 4 * tokens * WIDTH];
        hash.update(&[seed]).finalize_xof().fill(&mut bytes);
        let numbers = bytes.chunks_exact(4).map(|bytes| {
            let number = u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
            (f64::from(number) / f64::from(u32::MAX) * 2.0 - 1.0) as f32
        });
        numbers.collect::<Vec<f32>>()
    };
    let noise = stream("skep tests, noise of another machine", seed);
    let numbers = stream("skep tests, states of a run", seed);
    let pairs = numbers.into_iter().zip(noise);
    pairs
        .map(|(number, noise)| number.powi(7) * 20.0 * (1.0 + relative * noise))
        .collect()
}

/// A text of so many tokens after a prompt of five, as who wrote it shows it.
fn text(seed: u8, tokens: usize) -> WrittenText {
    let mut committer = Committer::new(WIDTH);
    let states = states(seed, 5 + tokens - 1, 0.0);
    let (prompt, rest) = states.split_at(5 * WIDTH);
    committer.push_prompt(States::F32(prompt)).unwrap();
    committer.end_prompt().unwrap();
    for state in rest.chunks(WIDTH) {
        committer.push_token(States::F32(state)).unwrap();
    }
    WrittenText {
        tokens: (0..tokens as u32)
            .map(|n| n * 7 + u32::from(seed))
            .collect(),
        commitments: committer.finish().unwrap(),
    }
}

/// The same as who followed it sees it, with other last digits.
fn seen_text(seed: u8, tokens: usize, relative: f32) -> SeenText {
    seen_apart(seed, tokens, [relative; 2])
}

/// The same with others in the prompt than in what follows it.
fn seen_apart(seed: u8, tokens: usize, relative: [f32; 2]) -> SeenText {
    let mut observer = Observer::new(WIDTH);
    let [prompt, rest] = relative.map(|relative| states(seed, 5 + tokens - 1, relative));
    let (prompt, rest) = (&prompt[..5 * WIDTH], &rest[5 * WIDTH..]);
    observer.push_prompt(States::F32(prompt)).unwrap();
    observer.end_prompt().unwrap();
    for state in rest.chunks(WIDTH) {
        observer.push_token(States::F32(state)).unwrap();
    }
    SeenText {
        peaks: observer.finish().unwrap(),
        shortfalls: vec![Shortfall {
            place: 0,
            gap: 0.01,
        }],
    }
}

fn request(number: u8) -> Digest {
    Digest::of(&[number])
}

const LENGTHS: [usize; 3] = [1, 33, 70];

/// A run of three requests, the last of which has two texts, and one that the model refused.
pub(crate) fn transcript() -> Transcript {
    let answer = |number, texts| WrittenAnswer {
        request: request(number),
        texts,
    };
    Transcript(vec![
        answer(0, vec![text(0, LENGTHS[0])]),
        answer(1, Vec::new()),
        answer(2, vec![text(1, LENGTHS[1]), text(2, LENGTHS[2])]),
    ])
}

/// What a follower sees of it.
pub(crate) fn observation(relative: f32) -> Observation {
    let answer = |number, texts| SeenAnswer {
        request: request(number),
        fits: true,
        texts,
    };
    let text = |seed: u8| seen_text(seed, LENGTHS[usize::from(seed)], relative);
    Observation(vec![
        answer(0, vec![text(0)]),
        answer(1, Vec::new()),
        answer(2, vec![text(1), text(2)]),
    ])
}

#[test]
fn an_honest_run_agrees_with_itself_and_with_other_last_digits() {
    for relative in [0.0, 0.004] {
        assert_eq!(transcript().compare(&observation(relative)), Ok(()));
    }
}

#[test]
fn whatever_is_not_the_same_honest_run_is_told_apart() {
    let told = |change: &dyn Fn(&mut Transcript, &mut Observation)| {
        let (mut written, mut seen) = (transcript(), observation(0.004));
        change(&mut written, &mut seen);
        written.compare(&seen).unwrap_err()
    };
    let gap = |place, gap| Shortfall { place, gap };
    assert_eq!(
        told(&|_, seen| drop(seen.0.pop())),
        Disagreement::Requests {
            seen: 2,
            written: 3
        }
    );
    assert_eq!(
        told(&|written, _| written.0[1].request = request(9)),
        Disagreement::Request { request: 1 }
    );
    assert_eq!(
        told(&|_, seen| seen.0[2].fits = false),
        Disagreement::Fit { request: 2 }
    );
    assert_eq!(
        told(&|_, seen| drop(seen.0[2].texts.pop())),
        Disagreement::Fit { request: 2 }
    );
    // Somebody who has not run the model cannot say what its states are.
    assert_eq!(
        told(&|_, seen| seen.0[2].texts[1] = seen_text(3, LENGTHS[2], 0.0)),
        Disagreement::States { request: 2 }
    );
    assert_eq!(
        told(&|_, seen| drop(seen.0[2].texts[0].peaks.pop())),
        Disagreement::States { request: 2 }
    );
    // A coarser model.
    let (coarse, fine) = (observation(1.5), transcript());
    assert!(matches!(
        fine.compare(&coarse),
        Err(Disagreement::States { .. })
    ));
    // Other sampling: of 104 tokens two may be others.
    assert_eq!(transcript().compare(&drawn_otherwise(2)), Ok(()));
    assert_eq!(
        transcript().compare(&drawn_otherwise(3)),
        Err(Disagreement::Tokens {
            different: 3,
            tokens: 104
        })
    );
    assert_eq!(
        told(&|_, seen| seen.0[0].texts[0].shortfalls = vec![gap(0, f32::INFINITY)]),
        Disagreement::Fit { request: 0 }
    );
    assert_eq!(
        told(&|_, seen| seen.0[0].texts[0].shortfalls = vec![gap(1, 0.0)]),
        Disagreement::Fit { request: 0 }
    );
}

/// What is seen of the run if so many of its tokens are not those that the model draws.
fn drawn_otherwise(count: u32) -> Observation {
    let mut seen = observation(0.0);
    let others = (0..count).map(|place| Shortfall { place, gap: 0.3 });
    seen.0[2].texts[1].shortfalls = others.collect();
    seen
}

/// A follower's vote on the run, whose output and meter are the same.
fn vote(seen: &Observation) -> Digest {
    transcript().vote(&result(), &result(), seen)
}

fn result() -> ResultCommitment {
    ResultCommitment {
        lease: Digest::of(b"lease"),
        work: Digest::of(b"work"),
        worker: AccountId::from_bytes([1; 32]),
        output: Digest::of(b"output"),
        meter: Meter::default(),
        activations: None,
        nonce: [0; 32],
    }
}

#[test]
fn what_lies_between_near_and_far_is_doubt_and_beyond_it_no_agreement() {
    let (agrees, differs) = (result().claim(), vote(&Observation::default()));
    assert_ne!(differs, doubt());
    for (others, expected) in [
        (2, agrees),
        (3, doubt()),
        (5, doubt()),
        (6, differs),
        (70, differs),
    ] {
        assert_eq!(vote(&drawn_otherwise(others)), expected, "{others}");
    }
    // One token alone: by how much it falls short.
    for (gap, expected) in [
        (0.5, agrees),
        (0.6, doubt()),
        (2.0, doubt()),
        (2.1, differs),
    ] {
        let mut seen = observation(0.0);
        seen.0[2].texts[1].shortfalls = vec![Shortfall { place: 0, gap }];
        assert_eq!(vote(&seen), expected, "{gap}");
    }
}

#[test]
fn a_text_that_ends_with_one_state_may_be_seen_from_further_off() {
    let voted = |tokens: usize, relative: [f32; 2]| {
        let written = Transcript(vec![WrittenAnswer {
            request: request(0),
            texts: vec![text(5, tokens)],
        }]);
        let seen = Observation(vec![SeenAnswer {
            request: request(0),
            fits: true,
            texts: vec![seen_apart(5, tokens, relative)],
        }]);
        written.vote(&result(), &result(), &seen)
    };
    // Mantissas that differ by some three of 128, in the mean and in the median.
    let (same, other) = (0.0, 0.034);
    assert_eq!(voted(2, [same, other]), result().claim());
    for tokens in [3, 7, 8, 33, 34] {
        assert_eq!(voted(tokens, [same, other]), doubt(), "{tokens}");
    }
    // The states behind the prompt are held to what they always are.
    for tokens in [2, 7, 40] {
        assert_eq!(voted(tokens, [other, same]), doubt(), "{tokens}");
    }
}

#[test]
fn each_state_behind_a_text_is_in_one_of_its_chunks() {
    for tokens in 1..=100 {
        let states = (0..chunks(tokens)).map(|chunk| states_in(tokens, chunk));
        let states: Vec<Option<usize>> = states.collect();
        assert_eq!(states[0], None, "{tokens}");
        let behind: Vec<usize> = states[1..].iter().flatten().copied().collect();
        assert_eq!(behind.len(), states.len() - 1, "{tokens}");
        assert_eq!(behind.iter().sum::<usize>(), tokens - 1);
        if let Some((last, whole)) = behind.split_last() {
            assert!((1..=CHUNK).contains(last), "{tokens}");
            assert!(whole.iter().all(|states| *states == CHUNK), "{tokens}");
        }
    }
    assert_eq!(states_in(2, 1), Some(1));
    assert_eq!(
        [1, 2].map(|chunk| states_in(40, chunk)),
        [Some(32), Some(7)]
    );
    // There are no more of them, whatever is asked.
    assert_eq!(states_in(40, usize::MAX), Some(0));
}

/// Where many prompts begin alike, one of their states may be known to somebody who has not run the model on the rest.
#[test]
fn who_knows_one_state_of_each_chunk_and_names_it_again_and_again_does_not_agree() {
    let Observation(mut answers) = observation(0.0);
    for text in answers.iter_mut().flat_map(|answer| &mut answer.texts) {
        text.shortfalls.clear();
        for peaks in &mut text.peaks {
            let known = peaks.encode();
            let place = u32::from_be_bytes([known[0], known[1], known[2], known[3]]);
            let named = (0..LARGEST as u32).flat_map(|n| {
                // All commitments to chunks as short as these have the largest modulus.
                let place = (place + n * 65_497).to_be_bytes();
                place.into_iter().chain([known[4], known[5]])
            });
            *peaks = Peaks::decode(&named.collect::<Vec<u8>>()).unwrap();
        }
    }
    let idle = Observation(answers);
    assert_eq!(
        transcript().compare(&idle),
        Err(Disagreement::States { request: 0 })
    );
    assert_eq!(vote(&idle), vote(&Observation::default()));
    assert_ne!(vote(&idle), result().claim());
}

#[test]
fn all_read_as_they_were_written_and_no_other_way() {
    let (written, seen) = (transcript(), observation(0.0));
    let script = written.script();
    assert_eq!(script.0.len(), 3);
    assert_eq!(script.0[2][1], written.0[2].texts[1].tokens);
    let (a, b, c) = (written.encode(), script.encode(), seen.encode());
    assert_eq!(Transcript::decode(&a), Ok(written.clone()));
    assert_eq!(Script::decode(&b), Ok(script));
    assert_eq!(Observation::decode(&c), Ok(seen.clone()));
    for bytes in [&a, &b, &c] {
        let one_more = [&bytes[..], &[0]].concat();
        for wrong in [&bytes[..bytes.len() - 1], &one_more[..]] {
            assert!(Transcript::decode(wrong).is_err());
            assert!(Script::decode(wrong).is_err());
            assert!(Observation::decode(wrong).is_err());
        }
    }
    assert!(Transcript::decode(&vec![0; Transcript::MAX_BYTES + 1]).is_err());

    // A text without its commitments, with one more, or without tokens is none.
    let refused = |change: &dyn Fn(&mut WrittenText)| {
        let mut wrong = written.clone();
        change(&mut wrong.0[2].texts[0]);
        assert!(Transcript::decode(&wrong.encode()).is_err());
    };
    refused(&|text| {
        text.commitments.pop();
    });
    refused(&|text| text.commitments.push(text.commitments[0]));
    refused(&|text| text.tokens.clear());
    for (place, gap) in [(3, 0.1), (4, f32::NAN), (4, -0.1), (4, -0.0)] {
        let mut wrong = seen.clone();
        wrong.0[2].texts[0].shortfalls =
            vec![Shortfall { place: 3, gap: 0.1 }, Shortfall { place, gap }];
        assert!(Observation::decode(&wrong.encode()).is_err());
    }
}

/// As many chunks as a run may show, each as large as one can be: `odd` makes it another's.
pub(crate) fn largest(odd: u16) -> (Transcript, Observation) {
    let tokens = (MAX_CHUNKS - 1) * CHUNK + 1;
    let peaks: Vec<u8> = (0..LARGEST as u32)
        .flat_map(|place| {
            let bits = 0x4000 + odd;
            let place = (place * 7 + u32::from(odd)).to_be_bytes();
            place.into_iter().chain(bits.to_be_bytes())
        })
        .collect();
    let peaks = Peaks::decode(&peaks).unwrap();
    let shortfalls = (0..tokens as u32).map(|place| Shortfall { place, gap: 1.0 });
    let written = WrittenText {
        tokens: vec![u32::MAX; tokens],
        commitments: vec![text(0, 1).commitments[0]; MAX_CHUNKS],
    };
    let seen = SeenText {
        peaks: vec![peaks; MAX_CHUNKS],
        shortfalls: shortfalls.collect(),
    };
    (
        Transcript(vec![WrittenAnswer {
            request: request(0),
            texts: vec![written],
        }]),
        Observation(vec![SeenAnswer {
            request: request(0),
            fits: true,
            texts: vec![seen],
        }]),
    )
}

#[test]
fn nothing_shows_more_than_a_run_may() {
    let (written, seen) = largest(0);
    let script = written.script();
    assert_eq!(Transcript::decode(&written.encode()).as_ref(), Ok(&written));
    assert_eq!(Script::decode(&script.encode()).as_ref(), Ok(&script));
    assert_eq!(Observation::decode(&seen.encode()).as_ref(), Ok(&seen));
    // One request more, with or without a text, however short it is.
    let mut more = written.clone();
    more.0.push(WrittenAnswer {
        request: request(1),
        texts: Vec::new(),
    });
    assert!(Transcript::decode(&more.encode()).is_err());
    assert!(Script::decode(&more.script().encode()).is_err());
    let mut more = seen;
    more.0.push(SeenAnswer {
        request: request(1),
        fits: true,
        texts: Vec::new(),
    });
    assert!(Observation::decode(&more.encode()).is_err());
    let many = WrittenAnswer {
        request: request(0),
        texts: vec![text(0, 1); MAX_CHUNKS + 1],
    };
    assert!(Transcript::decode(&Transcript(vec![many]).encode()).is_err());
}

proptest! {
    #[test]
    fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let _ = Transcript::decode(&bytes);
        let _ = Script::decode(&bytes);
        let _ = Observation::decode(&bytes);
    }

    #[test]
    fn bytes_that_were_changed_are_refused_or_something_else(place: prop::sample::Index, by in 1..=255_u8) {
        let (written, seen) = (transcript(), observation(0.0));
        let mut bytes = written.encode();
        let at = place.index(bytes.len());
        bytes[at] ^= by;
        if let Ok(other) = Transcript::decode(&bytes) {
            prop_assert_ne!(&other, &written);
            prop_assert_eq!(other.encode(), bytes);
        }
        let mut bytes = seen.encode();
        let at = place.index(bytes.len());
        bytes[at] ^= by;
        if let Ok(other) = Observation::decode(&bytes) {
            prop_assert_ne!(&other, &seen);
            prop_assert_eq!(other.encode(), bytes);
        }
    }
}
