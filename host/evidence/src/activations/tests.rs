//! Honest states are within the thresholds, others are not, and odd ones are refused.

use proptest::prelude::*;

use super::*;

/// Numbers that look like activations: most small, few large, none the same for two seeds.
fn states(seed: u64, count: usize) -> Vec<f32> {
    let mut stream = blake3::Hasher::new_derive_key("skep tests, activations")
        .update(&seed.to_le_bytes())
        .finalize_xof();
    (0..count)
        .map(|_| {
            let mut bytes = [0; 4];
            stream.fill(&mut bytes);
            let uniform = f64::from(u32::from_le_bytes(bytes)) / f64::from(u32::MAX) * 2.0 - 1.0;
            (uniform.powi(7) * 20.0) as f32
        })
        .collect()
}

/// What another machine gets: the last digits differ.
fn elsewhere(states: &[f32], seed: u64, relative: f32) -> Vec<f32> {
    let noise = self::states(seed ^ 0x5eed, states.len());
    let pairs = states.iter().zip(noise);
    pairs
        .map(|(state, noise)| state * (1.0 + relative * noise / 20.0))
        .collect()
}

#[test]
fn the_prover_itself_agrees_in_every_bit() {
    let states = states(1, 32 * 4096);
    let commitment = Commitment::of(States::F32(&states)).unwrap();
    let comparison = compare(&commitment, States::F32(&states)).unwrap();
    assert_eq!(
        comparison,
        Comparison {
            compared: 128,
            matches: 128,
            mantissa_sum: 0,
            mantissa_median_doubled: 0
        }
    );
    assert!(comparison.is_within(&Thresholds::default()));
    let halves: Vec<bf16> = states.iter().map(|state| bf16::from_f32(*state)).collect();
    assert_eq!(Commitment::of(States::Bf16(&halves)), Ok(commitment));
}

#[test]
fn other_last_digits_pass_and_other_states_do_not() {
    for seed in 0..20 {
        let mine = states(seed, 32 * 1024);
        let commitment = Commitment::of(States::F32(&mine)).unwrap();
        let near = elsewhere(&mine, seed, 0.01);
        let honest = compare(&commitment, States::F32(&near)).unwrap();
        assert!(honest.is_within(&Thresholds::default()), "{honest:?}");
        let far = elsewhere(&mine, seed, 2.0);
        let cheat = compare(&commitment, States::F32(&far)).unwrap();
        assert!(!cheat.is_within(&Thresholds::default()), "{cheat:?}");
        let other = states(seed + 1_000, 32 * 1024);
        let other = compare(&commitment, States::F32(&other)).unwrap();
        assert!(!other.is_within(&Thresholds::default()), "{other:?}");
    }
}

#[test]
fn a_chunk_with_few_activations_is_held_to_the_same_share() {
    let mine = states(3, 64);
    let commitment = Commitment::of(States::F32(&mine)).unwrap();
    let comparison = compare(&commitment, States::F32(&mine)).unwrap();
    assert_eq!((comparison.compared, comparison.matches), (64, 64));
    assert!(comparison.is_within(&Thresholds::default()));
    let half = Comparison {
        matches: 45,
        ..comparison
    };
    assert!(!half.is_within(&Thresholds::default()));
}

#[test]
fn what_is_not_finite_is_refused() {
    for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, f32::MAX] {
        let mut states = states(4, 1_000);
        // The largest number of 32 bits rounds to infinity.
        states[700] = bad;
        let refused = ActivationError::NotFinite { place: 700 };
        assert_eq!(Commitment::of(States::F32(&states)), Err(refused));
        let commitment = Commitment::of(States::F32(&states[..700])).unwrap();
        assert_eq!(compare(&commitment, States::F32(&states)), Err(refused));
    }
    assert_eq!(
        Commitment::of(States::F32(&[])),
        Err(ActivationError::Size { found: 0 })
    );
}

/// What an implementation makes that gives up: nothing but zeros.
#[test]
fn a_commitment_without_a_modulus_is_none() {
    assert!(Commitment::decode(&[0; BYTES]).is_err());
    assert!(Commitment::decode(&[0; BYTES - 1]).is_err());
    for (modulus, good) in [
        (32_768, false),
        (32_769, true),
        (65_497, true),
        (65_498, false),
    ] {
        let mut bytes = [0; BYTES];
        bytes[..2].copy_from_slice(&u16::to_be_bytes(modulus));
        assert_eq!(Commitment::decode(&bytes).is_ok(), good, "{modulus}");
    }
    let mut bytes = [0; BYTES];
    bytes[0] = 0xff;
    bytes[256..].copy_from_slice(&65_497_u16.to_be_bytes());
    assert!(Commitment::decode(&bytes).is_err());
    // Zeros under a modulus are read, and match nothing.
    bytes[256..].fill(0);
    let zeros = Commitment::decode(&bytes).unwrap();
    let comparison = compare(&zeros, States::F32(&states(5, 4_096))).unwrap();
    assert_eq!(comparison.matches, 0);
    assert!(!comparison.is_within(&Thresholds::default()));
}

#[test]
fn places_apart_by_the_prime_get_a_smaller_modulus() {
    let mut states = vec![0.0_f32; 2 * 65_497 + 10];
    (states[5], states[5 + 65_497]) = (3.0, 2.0);
    // 126 more, so that only these count.
    states[200..326].fill(1.0);
    let commitment = Commitment::of(States::F32(&states)).unwrap();
    assert_eq!(commitment.modulus, 65_496);
    let same = compare(&commitment, States::F32(&states)).unwrap();
    assert_eq!((same.matches, same.mantissa_sum), (128, 0));
}

/// The places of one chunk are too few to meet at every modulus if no two are the same, so that two are here.
#[test]
fn where_no_modulus_keeps_places_apart_nothing_is_committed_to() {
    let entry = |place, bits| Entry { place, bits };
    let (one, two) = (entry(70_000, 0x3f80), entry(3, 0x4000));
    let refused = ActivationError::NoModulus;
    assert_eq!(modulus_of(&[one, two]), Some(65_497));
    assert_eq!(modulus_of(&[one, two, one]), None);
    assert_eq!(Commitment::of_largest(&[one, two, one]), Err(refused));
    // Nothing that would pass for a commitment takes the place of the one that a text lacks.
    let mut committer = Committer::new(48);
    let prompt = states(6, 2 * 48);
    committer.push_prompt(States::F32(&prompt)).unwrap();
    committer.end_prompt().unwrap();
    assert_eq!(committer.commit(&[one, one]), Err(refused));
    let of_prompt = Commitment::of(States::F32(&prompt)).unwrap();
    assert_eq!(committer.finish(), Ok(vec![of_prompt]));
}

/// Peaks as a stranger sends them: places with the bits there.
fn peaks(entries: impl IntoIterator<Item = (u32, u16)>) -> Peaks {
    let bytes = entries.into_iter().flat_map(|(place, bits)| {
        let (place, bits) = (place.to_be_bytes(), bits.to_be_bytes());
        place.into_iter().chain(bits)
    });
    Peaks::decode(&bytes.collect::<Vec<u8>>()).unwrap()
}

/// Otherwise it would be enough to know one activation, of a prompt's beginning for one.
#[test]
fn who_names_one_activation_many_times_has_found_one() {
    let states = states(1, 32 * 1024);
    let commitment = Commitment::of(States::F32(&states)).unwrap();
    let modulus = u32::from(commitment.modulus);
    let mut largest = Largest::default();
    largest.push(States::F32(&states)).unwrap();
    let known = largest.finish().unwrap();
    let named = |known: &[Entry], times: u32| {
        let again = (0..times).flat_map(|n| {
            let places = known.iter();
            places.map(move |entry| (entry.place + n * modulus, entry.bits))
        });
        peaks(again).compare(&commitment)
    };
    // One alone, two, and half of them.
    for (count, times) in [(1, 128), (2, 64), (64, 2)] {
        let found = named(&known[..count], times);
        assert_eq!((found.compared, found.matches), (128, count as u32));
        assert!(!found.is_within(&Thresholds::default()), "{found:?}");
    }
    let place = known[0].place;
    let guesses = (0..128).map(|n| (place + n * modulus, known[0].bits ^ (n as u16)));
    let found = peaks(guesses).compare(&commitment);
    assert_eq!((found.compared, found.matches), (128, 1));
    // Somebody honest has all of them, each once.
    let found = named(&known[..], 1);
    assert_eq!((found.compared, found.matches), (128, 128));
    assert!(found.is_within(&Thresholds::default()), "{found:?}");
}

/// On another machine another place may be among the largest, that comes to the same as one of them.
#[test]
fn an_honest_place_that_coincides_with_another_costs_one_match() {
    const PRIME: usize = field::PRIME as usize;
    let mut states = vec![0.0_f32; 2 * PRIME];
    for place in 200..328 {
        states[PRIME + place] = place as f32;
    }
    let commitment = Commitment::of(States::F32(&states)).unwrap();
    assert_eq!(usize::from(commitment.modulus), PRIME);
    // The last one is small there, and one is large that comes to the place of another, or of none.
    for (place, state) in [(201, 201.0), (201, -201.0), (100, 300.0)] {
        let mut there = states.clone();
        (there[PRIME + 327], there[place]) = (0.5, state);
        let found = compare(&commitment, States::F32(&there)).unwrap();
        let expected = Comparison {
            compared: 128,
            matches: 127,
            mantissa_sum: 0,
            mantissa_median_doubled: 0,
        };
        assert_eq!(found, expected, "{place} {state}");
    }
}

#[test]
fn states_that_come_in_parts_give_the_same_commitments() {
    let width = 48;
    let (prompt, tokens) = (states(6, 7 * width), states(7, 75 * width));
    let mut committer = Committer::new(width);
    committer
        .push_prompt(States::F32(&prompt[..3 * width]))
        .unwrap();
    committer
        .push_prompt(States::F32(&prompt[3 * width..]))
        .unwrap();
    committer.end_prompt().unwrap();
    for token in tokens.chunks(width) {
        committer.push_token(States::F32(token)).unwrap();
    }
    let expected: Vec<Commitment> = std::iter::once(&prompt[..])
        .chain(tokens.chunks(CHUNK * width))
        .map(|chunk| Commitment::of(States::F32(chunk)).unwrap())
        .collect();
    let committed = committer.finish().unwrap();
    assert_eq!(committed, expected);
    let mut observer = Observer::new(width);
    observer
        .push_prompt(States::F32(&prompt[..4 * width]))
        .unwrap();
    observer
        .push_prompt(States::F32(&prompt[4 * width..]))
        .unwrap();
    observer.end_prompt().unwrap();
    for token in tokens.chunks(width) {
        observer.push_token(States::F32(token)).unwrap();
    }
    let peaks = observer.finish().unwrap();
    for chunk in &peaks {
        assert_eq!(Peaks::decode(&chunk.encode()).as_ref(), Ok(chunk));
    }
    let compared = |commitments: Vec<Commitment>| compare_all(&commitments, &peaks);
    let exact = compared(committed.clone()).unwrap();
    assert_eq!(exact.len(), 4);
    assert!(
        exact
            .iter()
            .all(|c| c.matches == 128 && c.mantissa_sum == 0)
    );
    for wrong in [
        &committed[..3],
        &[&committed[..], &committed[..1]].concat(),
        &[],
    ] {
        let refused = compared(wrong.to_vec());
        assert!(
            matches!(refused, Err(ActivationError::Count { .. })),
            "{refused:?}"
        );
    }
    let mut committer = Committer::new(width);
    assert!(
        committer
            .push_token(States::F32(&prompt[..2 * width]))
            .is_err()
    );
    assert!(committer.push_prompt(States::F32(&prompt[..5])).is_err());
    assert!(
        committer.end_prompt().is_err(),
        "an empty prompt has no states"
    );
}

proptest! {
    #[test]
    fn a_commitment_reads_as_it_was_written(seed: u64, count in 1..5_000_usize) {
        let commitment = Commitment::of(States::F32(&states(seed, count))).unwrap();
        prop_assert_eq!(Commitment::decode(&commitment.encode()), Ok(commitment));
    }

    #[test]
    fn strangers_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), BYTES)) {
        if let Ok(commitment) = Commitment::decode(&bytes) {
            prop_assert_eq!(&commitment.encode()[..], &bytes[..]);
            let _ = compare(&commitment, States::F32(&states(8, 500)));
        }
    }
}

/// Made by the authors' own implementation (`tests/make_activation_fixtures.py`): states, its
/// commitments to them, and how it compares them with states of somewhere else.
#[test]
fn commitments_are_those_of_the_reference() {
    let fixtures: serde_json::Value =
        serde_json::from_str(include_str!("../../tests/activation_fixtures.json")).unwrap();
    let cases = fixtures["cases"].as_array().unwrap();
    assert!(cases.len() >= 6);
    for case in cases {
        let number = |name: &str| case[name].as_u64().unwrap();
        let bits = |name: &str| -> Vec<bf16> {
            let hexadecimal = case[name].as_str().unwrap().as_bytes();
            hexadecimal
                .chunks(4)
                .map(|digits| std::str::from_utf8(digits).unwrap())
                .map(|digits| bf16::from_bits(u16::from_str_radix(digits, 16).unwrap()))
                .collect()
        };
        let sparse = |name: &str| {
            // Where nothing is said, there is a small number that is never among the largest.
            let mut states = vec![bf16::from_f32(0.001); number("states") as usize];
            let places = case["places"].as_array().unwrap();
            for (place, value) in places.iter().zip(bits(name)) {
                states[place.as_u64().unwrap() as usize] = value;
            }
            states
        };
        let (mine, theirs) = (sparse("prover"), sparse("verifier"));
        let commitment = Commitment::of(States::Bf16(&mine)).unwrap();
        let bytes: String = commitment
            .encode()
            .iter()
            .map(|b| format!("{b:02x}"))
            .collect();
        assert_eq!(bytes, case["commitment"].as_str().unwrap());
        let comparison = compare(&commitment, States::Bf16(&theirs)).unwrap();
        assert_eq!(u64::from(comparison.matches), number("matches"));
        assert_eq!(u64::from(comparison.mantissa_sum), number("mantissa_sum"));
        assert_eq!(
            u64::from(comparison.mantissa_median_doubled),
            number("mantissa_median_doubled")
        );
    }
}
