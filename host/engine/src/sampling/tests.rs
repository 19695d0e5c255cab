//! The sampler against its definition, against transformers' processors, and by statistics.

use super::*;
use proptest::prelude::*;

const VOCABULARY: usize = 700;

fn sampling(temperature: f32) -> Sampling {
    Sampling {
        temperature,
        ..Sampling::GREEDY
    }
}

/// Random logits: normal enough, of the given spread, without equal ones if `distinct`.
fn random_logits(seed: u64, spread: f32, distinct: bool) -> Vec<f32> {
    let number = |token: usize, n: u64| random::uniform(seed, n, token as u32);
    let sum = |token: usize| (0..6).map(|n| number(token, n)).sum::<f64>() - 3.0;
    let logits = (0..VOCABULARY).map(|token| {
        let logit = sum(token) as f32 * spread;
        if distinct { logit } else { logit.round() }
    });
    logits.collect()
}

/// From the definition: everything sorted, everything in double precision.
fn slow(
    s: &Sampling,
    prompt: &[u32],
    written: &[u32],
    logits: &[f32],
    mask: Option<TokenMask<'_>>,
) -> Vec<(u32, f64)> {
    let mut all: Vec<(u32, f32)> = (0..).zip(logits.iter().copied()).collect();
    for (token, logit) in &mut all {
        for (biased, bias) in &s.logit_bias {
            if biased == token {
                *logit += bias;
            }
        }
        let count = written.iter().filter(|t| *t == token).count();
        if count > 0 || prompt.contains(token) {
            *logit = match *logit > 0.0 {
                true => *logit / s.repetition_penalty,
                false => *logit * s.repetition_penalty,
            };
        }
        if count > 0 {
            *logit -= s.presence_penalty + s.frequency_penalty * count as f32;
        }
    }
    all.retain(|(token, _)| mask.is_none_or(|mask| mask.allows(*token)));
    all.sort_by(|a, b| b.1.partial_cmp(&a.1).unwrap().then(a.0.cmp(&b.0)));
    if s.temperature <= 0.0 {
        return vec![(all[0].0, 1.0)];
    }
    if s.top_k > 0 {
        all.truncate(s.top_k);
    }
    let most = all[0].1;
    let weight = |logit: f32| (f64::from(logit - most) / f64::from(s.temperature)).exp();
    let total: f64 = all.iter().map(|(_, logit)| weight(*logit)).sum();
    let mut kept = Vec::new();
    let mut sum = 0.0;
    for (token, logit) in all {
        if s.top_p == 1.0 || kept.is_empty() || sum < f64::from(s.top_p) * total {
            kept.push((token, weight(logit)));
            sum += weight(logit);
        }
    }
    kept.retain(|(_, weight)| *weight >= f64::from(s.min_p));
    let total: f64 = kept.iter().map(|(_, weight)| weight).sum();
    kept.sort_by_key(|(token, _)| *token);
    kept.iter()
        .map(|(token, weight)| (*token, weight / total))
        .collect()
}

fn agree(got: &Distribution, want: &[(u32, f64)], close: f64) {
    // Below this a weight of 32 bits may be none.
    const NOTHING: f64 = 1e-30;
    for (token, _) in got.probabilities() {
        assert!(want.iter().any(|(known, _)| known == token), "{token}");
    }
    for (token, want) in want {
        let got = got.probability(*token);
        let margin = NOTHING.max(close * want);
        assert!((got - want).abs() <= margin, "{token}: {got} {want}");
    }
}

proptest! {
    #[test]
    fn distributions_are_those_of_the_definition(
        seed in any::<u64>(),
        spread in 0.5_f32..8.0,
        temperature in prop_oneof![Just(0.0_f32), Just(1.0), 0.1_f32..3.0],
        top_k in prop_oneof![Just(0_usize), 1_usize..40, Just(5000)],
        top_p in prop_oneof![Just(1.0_f32), Just(0.0), 0.05_f32..0.99],
        min_p in prop_oneof![Just(0.0_f32), Just(1.0), 0.001_f32..0.5],
        penalties in prop_oneof![
            Just((1.0_f32, 0.0_f32, 0.0_f32)),
            (0.5_f32..2.0, -1.0_f32..1.0, -1.0_f32..1.0),
        ],
        bias in prop::collection::vec((0_u32..VOCABULARY as u32, -9.0_f32..9.0), 0..3),
        prompt in prop::collection::vec(0_u32..VOCABULARY as u32, 0..30),
        written in prop::collection::vec(0_u32..12, 0..20),
        mask in prop::option::of(prop::collection::vec(any::<u32>(), 1..25)),
    ) {
        let options = Sampling {
            temperature, top_k, top_p, min_p,
            repetition_penalty: penalties.0,
            presence_penalty: penalties.1,
            frequency_penalty: penalties.2,
            logit_bias: bias,
            seed,
            shared_noise: false,
        };
        let logits = random_logits(seed, spread, true);
        let mask = mask.as_deref().map(TokenMask::new);
        let mut sampler = Sampler::new(&options, &prompt, VOCABULARY).unwrap();
        for token in &written {
            sampler.accept(*token);
        }
        let mut scratch = Scratch::default();
        let got = sampler.distribution(&logits, mask, &mut scratch).unwrap();
        agree(&got, &slow(&options, &prompt, &written, &logits, mask), 1e-5);
        let chosen = sampler.choose(&logits, mask, None, &mut scratch).unwrap();
        prop_assert_eq!(Some(chosen.token), got.draw(sampler.uniform()));
    }

    #[test]
    fn of_equal_logits_the_first_are_kept(
        seed in any::<u64>(),
        spread in 0.2_f32..3.0,
        top_k in 0_usize..300,
        top_p in prop_oneof![Just(1.0_f32), 0.05_f32..0.99],
    ) {
        let options = Sampling { top_k, top_p, ..sampling(1.0) };
        let logits = random_logits(seed, spread, false);
        let sampler = Sampler::new(&options, &[], VOCABULARY).unwrap();
        let got = sampler.distribution(&logits, None, &mut Scratch::default()).unwrap();
        let want = slow(&options, &[], &[], &logits, None);
        // Where a sum meets `top_p` to the last bits, rounding may keep one more or one less.
        prop_assume!(got.probabilities().len() == want.len());
        agree(&got, &want, 1e-5);
    }

    #[test]
    fn whatever_the_logits_are_a_token_that_is_allowed_is_chosen_or_none(
        bits in prop::collection::vec(
            prop_oneof![
                any::<u32>(),
                Just(f32::NAN.to_bits()),
                Just(f32::INFINITY.to_bits()),
                Just(f32::NEG_INFINITY.to_bits()),
                Just(f32::MAX.to_bits()),
                Just(f32::MIN.to_bits()),
            ],
            1..80,
        ),
        mask in prop::option::of(prop::collection::vec(any::<u32>(), 0..3)),
        temperature in prop_oneof![Just(0.0_f32), Just(1.0), Just(1e-45), Just(1e38)],
        top_k in 0_usize..9,
        top_p in prop_oneof![Just(1.0_f32), Just(0.6)],
        min_p in prop_oneof![Just(0.0_f32), Just(0.3)],
        repetition_penalty in prop_oneof![Just(1.0_f32), Just(3e38)],
        seed in any::<u64>(),
    ) {
        let logits: Vec<f32> = bits.iter().map(|bits| f32::from_bits(*bits)).collect();
        let mask = mask.as_deref().map(TokenMask::new);
        let options = Sampling {
            temperature, top_k, top_p, min_p, repetition_penalty, seed, ..Sampling::GREEDY
        };
        let sampler = Sampler::new(&options, &[0, 1, 900], logits.len()).unwrap();
        let mut scratch = Scratch::default();
        match sampler.choose(&logits, mask, Some(3), &mut scratch) {
            Ok(Chosen { token, logprob }) => {
                prop_assert!(mask.is_none_or(|mask| mask.allows(token)));
                prop_assert!(logits[token as usize] > f32::NEG_INFINITY);
                prop_assert!(logprob.unwrap().logprob <= 1e-6);
                let all = sampler.distribution(&logits, mask, &mut scratch).unwrap();
                prop_assert!(all.probability(token) > 0.0);
                let total: f64 = all.probabilities().iter().map(|(_, p)| p).sum();
                prop_assert!((total - 1.0).abs() < 1e-9);
            }
            Err(error) => {
                prop_assert_eq!(error, SamplingError::NothingLeft);
                let penalised = repetition_penalty > 1.0;
                for (token, logit) in logits.iter().enumerate() {
                    let allowed = mask.is_none_or(|mask| mask.allows(token as u32));
                    let may = *logit > f32::NEG_INFINITY && !(penalised && token < 2);
                    prop_assert!(!(allowed && may), "token {token}");
                }
            }
        }
    }

    #[test]
    fn log_probabilities_are_those_of_the_definition(
        seed in any::<u64>(),
        spread in 0.5_f32..30.0,
        count in 0_usize..30,
    ) {
        let logits = random_logits(seed, spread, true);
        let options = Sampling { logit_bias: vec![(17, 1e9)], ..sampling(1.0) };
        let sampler = Sampler::new(&options, &[], VOCABULARY).unwrap();
        let chosen = sampler.choose(&logits, None, Some(count), &mut Scratch::default()).unwrap();
        let got = chosen.logprob.unwrap();
        let total: f64 = logits.iter().map(|x| f64::from(*x).exp()).sum();
        let want = |token: u32| f64::from(logits[token as usize]) - total.ln();
        let mut order: Vec<u32> = (0..VOCABULARY as u32).collect();
        order.sort_by(|a, b| logits[*b as usize].total_cmp(&logits[*a as usize]));
        let likeliest: Vec<u32> = got.likeliest.iter().map(|(token, _)| *token).collect();
        prop_assert_eq!((chosen.token, got.token), (17, 17));
        prop_assert_eq!(&likeliest, &order[..count]);
        let all = got.likeliest.iter().copied().chain([(17, got.logprob)]);
        for (token, logprob) in all {
            let want = want(token);
            prop_assert!((f64::from(logprob) - want).abs() < 1e-6 * (1.0 + want.abs()));
        }
    }
}

#[test]
fn distributions_are_those_of_transformers() {
    let cases = include_str!("../../tests/sampling/cases.json");
    let cases: Vec<serde_json::Value> = serde_json::from_str(cases).unwrap();
    assert!(cases.len() > 50);
    for case in cases {
        let number = |name: &str| case[name].as_f64().unwrap();
        let list = |name: &str| {
            case[name]
                .as_array()
                .unwrap()
                .iter()
                .map(|x| x.as_f64().unwrap())
        };
        let options = Sampling {
            temperature: number("temperature") as f32,
            top_k: number("top_k") as usize,
            top_p: number("top_p") as f32,
            min_p: number("min_p") as f32,
            repetition_penalty: number("repetition_penalty") as f32,
            ..Sampling::GREEDY
        };
        let logits: Vec<f32> = list("logits").map(|x| x as f32).collect();
        let prompt: Vec<u32> = list("prompt").map(|x| x as u32).collect();
        let sampler = Sampler::new(&options, &prompt, logits.len()).unwrap();
        let got = sampler
            .distribution(&logits, None, &mut Scratch::default())
            .unwrap();
        let want = case["probabilities"].as_object().unwrap();
        assert_eq!(got.probabilities().len(), want.len(), "{options:?}");
        for (token, want) in want {
            let got = got.probability(token.parse().unwrap());
            assert!((got - want.as_f64().unwrap()).abs() < 1e-6, "{options:?}");
        }
    }
}

#[test]
fn draws_are_as_frequent_as_they_are_probable() {
    // 20 tokens, and many that have nothing: so that blocks are passed by.
    let mut logits = vec![-30.0; 3000];
    for n in 0..20 {
        logits[n * 149] = (n % 7) as f32 * 0.4;
    }
    for options in [
        sampling(0.8),
        Sampling {
            top_k: 20,
            top_p: 0.9,
            ..sampling(1.0)
        },
        Sampling {
            shared_noise: true,
            ..sampling(0.8)
        },
        Sampling {
            shared_noise: true,
            top_k: 20,
            top_p: 0.9,
            ..sampling(1.0)
        },
    ] {
        let mut sampler = Sampler::new(&options, &[], logits.len()).unwrap();
        let mut scratch = Scratch::default();
        let want = sampler.distribution(&logits, None, &mut scratch).unwrap();
        let draws = 20_000;
        let mut counts = BTreeMap::new();
        for _ in 0..draws {
            let token = sampler
                .choose(&logits, None, None, &mut scratch)
                .unwrap()
                .token;
            *counts.entry(token).or_insert(0_u32) += 1;
            sampler.accept(token);
        }
        let expected = want.probabilities().iter().filter(|(_, p)| *p > 1e-3);
        let squares: f64 = expected
            .map(|(token, p)| {
                let expected = p * f64::from(draws);
                let got = f64::from(counts.get(token).copied().unwrap_or(0));
                (got - expected).powi(2) / expected
            })
            .sum();
        // 19 degrees of freedom at most: chance alone passes this once in a thousand seeds, and
        // this is one seed.
        assert!(squares < 43.8, "{squares}");
        assert!(counts.keys().all(|token| want.probability(*token) > 0.0));
    }
}

#[test]
fn a_check_sees_how_far_a_token_is_from_the_one_that_is_chosen() {
    use skep_evidence::sampling::Agreement;

    let logits = random_logits(5, 1.0, true);
    let mut scratch = Scratch::default();
    for options in [
        sampling(0.0),
        sampling(0.8),
        Sampling {
            top_k: 12,
            ..sampling(1.2)
        },
        Sampling {
            min_p: 0.05,
            ..sampling(1.0)
        },
    ] {
        let options = Sampling {
            shared_noise: true,
            ..options
        };
        let mut sampler = Sampler::new(&options, &[], VOCABULARY).unwrap();
        for _ in 0..30 {
            let chosen = sampler.choose(&logits, None, None, &mut scratch).unwrap();
            let mut check =
                |token, tolerance| sampler.check(&logits, None, token, tolerance, &mut scratch);
            assert_eq!(check(chosen.token, 0.0), Ok(Agreement::Same));
            for token in (0..VOCABULARY as u32).filter(|token| *token != chosen.token) {
                let Ok(Agreement::Different { predicted, gap }) = check(token, 0.0) else {
                    panic!("{token} is not the one that is chosen");
                };
                assert!(predicted == chosen.token && gap > 0.0);
                assert_eq!(check(token, gap), Ok(Agreement::Tie { gap }));
            }
            assert!(matches!(
                check(VOCABULARY as u32, 1e9),
                Ok(Agreement::Different { gap, .. }) if gap.is_infinite()
            ));
            sampler.accept(chosen.token);
        }
    }
}

#[test]
fn a_draw_depends_on_seed_sample_and_place_alone() {
    let logits = random_logits(3, 1.0, true);
    let options = |seed| Sampling {
        seed,
        ..sampling(1.0)
    };
    let text = |sampler: &Sampler| -> Vec<u32> {
        let mut sampler = sampler.clone();
        let mut scratch = Scratch::default();
        let next = |_| {
            let token = sampler
                .choose(&logits, None, None, &mut scratch)
                .unwrap()
                .token;
            sampler.accept(token);
            token
        };
        (0..20).map(next).collect()
    };
    let first = Sampler::new(&options(1), &[], VOCABULARY).unwrap();
    let all = [
        text(&first),
        text(&first.fork(1)),
        text(&Sampler::new(&options(2), &[], VOCABULARY).unwrap()),
    ];
    assert_eq!(all[0], text(&first.fork(0)));
    assert!(all[0] != all[1] && all[0] != all[2] && all[1] != all[2]);
    // Other prompts and the order of choices change nothing.
    let other = Sampler::new(&options(1), &[4, 5], VOCABULARY).unwrap();
    assert_eq!(all[0], text(&other));
    // Fixed for good: a change here changes the text of every seed.
    assert_eq!(all[0][..6], [641, 624, 402, 21, 476, 209]);
}

#[test]
fn options_that_cannot_be_are_refused() {
    let new = |options: Sampling| Sampler::new(&options, &[], 10).map(|_| ());
    let base = Sampling::GREEDY;
    for (option, options) in [
        (
            "temperature",
            Sampling {
                temperature: f32::NAN,
                ..base.clone()
            },
        ),
        (
            "temperature",
            Sampling {
                temperature: f32::INFINITY,
                ..base.clone()
            },
        ),
        (
            "top_p",
            Sampling {
                top_p: 1.5,
                ..base.clone()
            },
        ),
        (
            "top_p",
            Sampling {
                top_p: f32::NAN,
                ..base.clone()
            },
        ),
        (
            "min_p",
            Sampling {
                min_p: -0.1,
                ..base.clone()
            },
        ),
        (
            "repetition_penalty",
            Sampling {
                repetition_penalty: 0.0,
                ..base.clone()
            },
        ),
        (
            "presence_penalty",
            Sampling {
                presence_penalty: f32::INFINITY,
                ..base.clone()
            },
        ),
        (
            "frequency_penalty",
            Sampling {
                frequency_penalty: f32::NAN,
                ..base.clone()
            },
        ),
        (
            "logit_bias",
            Sampling {
                logit_bias: vec![(1, f32::INFINITY)],
                ..base.clone()
            },
        ),
    ] {
        match new(options) {
            Err(SamplingError::Option { option: got, .. }) => assert_eq!(got, option),
            other => panic!("{option}: {other:?}"),
        }
    }
    let bias = Sampling {
        logit_bias: vec![(10, 1.0)],
        ..base.clone()
    };
    let want = SamplingError::BiasToken {
        token: 10,
        vocabulary: 10,
    };
    assert_eq!(new(bias), Err(want));
    assert_eq!(
        Sampler::new(&base, &[], 0).map(|_| ()),
        Err(SamplingError::NothingLeft)
    );
    let sampler = Sampler::new(&base, &[], 10).unwrap();
    let got = sampler.choose(&[0.0; 9], None, None, &mut Scratch::default());
    assert_eq!(
        got,
        Err(SamplingError::Logits {
            got: 9,
            vocabulary: 10
        })
    );
}
