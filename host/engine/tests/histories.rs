//! The scheduler against one text at a time: whatever arrives, forks, is taken back or has to
//! begin anew for want of pages, each request gets what it would get alone, and no page is lost.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod common;

use std::collections::HashMap;
use std::sync::{Arc, LazyLock};

use common::backend::{IS_DEVICE, tie};
use common::world::{MODEL, TWIN, Told, World, options, take, text};
use common::{ADAPTERS, Alone, drafted};
use proptest::prelude::*;
use skep_accounts::{Account, Limits};
use skep_engine::Tally;
use skep_engine::scheduler::{Options, Task};
use skep_engine::{Caller, LanguageModel, Priority, Request, Sampling, ScoreRequest};
use skep_kernels::kv::KvFormat;

/// With a draft model whose guesses are hardly ever right.
static STRANGER: LazyLock<Arc<LanguageModel>> = LazyLock::new(|| drafted("smollm"));

/// Something that happens.
#[derive(Debug, Clone)]
enum Happening {
    Write {
        owner: u64,
        priority: Priority,
        prompt: Vec<u32>,
        tokens: usize,
        samples: usize,
        /// Drawn with this seed, or the likeliest.
        seed: Option<u64>,
        /// The name of an adapter.
        adapter: Option<usize>,
    },
    Judge {
        owner: u64,
        prompt: Vec<u32>,
        choices: Vec<Vec<u32>>,
    },
    Embed {
        owner: u64,
        tokens: Vec<u32>,
    },
    Cancel(prop::sample::Index),
    /// The first name is given to the adapter of the second.
    Replace(usize, usize),
    Step,
}

fn texts() -> impl Strategy<Value = Vec<u32>> {
    (0..3_u32, 1..90_usize).prop_map(|(family, length)| text(family, length))
}

fn happenings() -> impl Strategy<Value = Vec<Happening>> {
    let priority = prop_oneof![
        Just(Priority::Background),
        Just(Priority::Normal),
        Just(Priority::Interactive)
    ];
    let write = (
        (0..3_u64, priority, texts(), 1..20_usize, 1..4_usize),
        prop::option::of(any::<u64>()),
        prop::option::of(0..ADAPTERS.len()),
    )
        .prop_map(
            |((owner, priority, prompt, tokens, samples), seed, adapter)| Happening::Write {
                owner,
                priority,
                prompt,
                tokens,
                samples,
                seed,
                adapter,
            },
        );
    let judge = (
        0..3_u64,
        texts(),
        prop::collection::vec((0..9_u32, 1..20_usize), 1..4),
    )
        .prop_map(|(owner, prompt, choices)| Happening::Judge {
            owner,
            prompt,
            choices: choices.iter().map(|(f, n)| text(*f, *n)).collect(),
        });
    let embed = (0..3_u64, texts()).prop_map(|(owner, tokens)| Happening::Embed { owner, tokens });
    let one = prop_oneof![
        4 => write,
        1 => judge,
        1 => embed,
        1 => any::<prop::sample::Index>().prop_map(Happening::Cancel),
        1 => (0..ADAPTERS.len(), 0..ADAPTERS.len()).prop_map(|(a, b)| Happening::Replace(a, b)),
        6 => Just(Happening::Step),
    ];
    prop::collection::vec(one, 1..40)
}

/// How tokens are drawn where they are.
fn sampling(seed: Option<u64>) -> Sampling {
    match seed {
        None => Sampling::GREEDY,
        Some(seed) => Sampling {
            temperature: 1.1,
            top_k: 40,
            min_p: 0.01,
            frequency_penalty: 0.2,
            seed,
            // So that it can be said by how little a device's choice misses the processor's.
            shared_noise: IS_DEVICE,
            ..Sampling::GREEDY
        },
    }
}

/// `version` is the adapter that the request's name stood for.
fn check(told: &Told, (asked, version): (&Happening, Option<&str>), format: KvFormat) {
    let mut alone = Alone::new(&MODEL, format);
    if let Some(version) = version {
        alone = alone.with(version);
    }
    match asked {
        Happening::Write {
            prompt,
            tokens,
            samples,
            seed,
            ..
        } => {
            assert_eq!(told.written.len(), *samples);
            for (sample, written) in &told.written {
                if IS_DEVICE {
                    assert_eq!(written.len(), *tokens);
                    let short = alone.shortfall(prompt, written, &sampling(*seed), *sample);
                    assert!(short <= tie(format), "{format:?}: {short}");
                    continue;
                }
                let expected = match seed {
                    None => alone.write(prompt, *tokens),
                    Some(_) => alone.draw(prompt, *tokens, &sampling(*seed), *sample),
                };
                assert_eq!(written, &expected);
            }
        }
        Happening::Judge {
            prompt, choices, ..
        } => {
            assert_eq!(told.scores.len(), choices.len());
            for (choice, score) in &told.scores {
                let expected = alone.judge(prompt, &choices[*choice]);
                let off = 1e-3 + tie(format) * choices[*choice].len() as f64;
                assert!(
                    (f64::from(*score) - expected).abs() < off,
                    "{score} {expected}"
                );
            }
        }
        Happening::Embed { tokens, .. } => {
            let expected = alone.embed(tokens);
            for (a, b) in told.mean.as_ref().unwrap().iter().zip(expected) {
                assert!(f64::from((a - b).abs()) < 1e-4 + tie(format));
            }
        }
        Happening::Cancel(_) | Happening::Replace(..) | Happening::Step => {}
    }
}

fn run(happenings: &[Happening], model: &Arc<LanguageModel>, options: Options) -> Tally {
    let format = options.kv_format;
    let pages = options.pages;
    let mut world = World::of(model, options);
    let mut told: HashMap<u64, Told> = HashMap::new();
    let mut asked: Vec<(u64, &Happening, Option<&str>)> = Vec::new();
    let mut cancelled = Vec::new();
    let accounts: Vec<Account> = (0..3).map(|_| Account::new(Limits::UNLIMITED)).collect();
    let mut versions = ADAPTERS;
    for name in ADAPTERS {
        world.adapt(name, name);
    }
    let mut steps = 0;
    for happening in happenings {
        let (owner, priority, task) = match happening {
            Happening::Write {
                owner,
                priority,
                prompt,
                tokens,
                samples,
                seed,
                adapter,
            } => {
                let mut request = Request::greedy(prompt.clone(), *tokens);
                request.samples = *samples;
                request.sampling = sampling(*seed);
                request.adapter = adapter.map(|name| ADAPTERS[name].to_owned());
                (*owner, *priority, Task::Write(request))
            }
            Happening::Judge {
                owner,
                prompt,
                choices,
            } => {
                let request = ScoreRequest {
                    prompt: prompt.clone(),
                    choices: choices.clone(),
                    adapter: None,
                    whole: false,
                };
                (*owner, Priority::Normal, Task::Score(request))
            }
            Happening::Embed { owner, tokens } => {
                (*owner, Priority::Normal, Task::Embed(tokens.clone()))
            }
            Happening::Cancel(which) => {
                if !asked.is_empty() {
                    let (group, ..) = asked[which.index(asked.len())];
                    world.scheduler.cancel(group);
                    cancelled.push(group);
                }
                continue;
            }
            Happening::Replace(name, other) => {
                versions[*name] = ADAPTERS[*other];
                world.adapt(ADAPTERS[*name], versions[*name]);
                continue;
            }
            Happening::Step => {
                take(&mut told, world.scheduler.step());
                continue;
            }
        };
        let caller = Caller {
            account: accounts[owner as usize].clone(),
            owner,
            priority,
        };
        let version = match happening {
            Happening::Write { adapter, .. } => adapter.map(|name| versions[name]),
            _ => None,
        };
        let group = world.submit(caller, task).unwrap();
        told.insert(group, Told::default());
        asked.push((group, happening, version));
    }
    while !world.scheduler.is_idle() {
        take(&mut told, world.scheduler.step());
        steps += 1;
        assert!(steps < 20_000, "nothing comes to an end");
    }
    for (group, happening, version) in asked {
        let told = &told[&group];
        if told.over {
            check(told, (happening, version), format);
        } else {
            assert!(cancelled.contains(&group), "a request was forgotten");
        }
    }
    let (held, cached) = world.scheduler.held_pages();
    assert_eq!(held, 0, "pages are held for texts that are over");
    let adapters = world.scheduler.adapter_pages();
    assert_eq!(world.scheduler.pool().free() + cached + adapters, pages);
    for account in accounts {
        assert_eq!(account.usage().device_bytes, 0);
    }
    world.scheduler.tally()
}

fn formats() -> impl Strategy<Value = KvFormat> {
    prop::sample::select(vec![KvFormat::F32, KvFormat::F16, KvFormat::Int8])
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(if IS_DEVICE { 6 } else { 60 }))]

    /// With hardly more pages than the longest text and adapter need, so that texts and adapters
    /// push each other out.
    #[test]
    fn every_request_gets_what_it_would_get_alone(
        happenings in happenings(),
        pages in 24..40_usize,
        kv_format in formats(),
        prefix_cache: bool,
        drafts in 0..4_usize,
        adapter_bytes in prop::sample::select(vec![0_u64, 1 << 20]),
        (draft, model_drafts, steady_drafts) in (0..3_usize, 1..6_usize, any::<bool>()),
    ) {
        let options = Options {
            kv_format, prefix_cache, drafts, adapter_bytes, model_drafts, steady_drafts,
            ..options(pages)
        };
        let model = [&MODEL, &TWIN, &STRANGER][draft];
        run(&happenings, model, options);
    }

    /// A draft model that is the model itself is never wrong, unless what it knows of a text is:
    /// whatever was shared, copied, found again or begun anew.
    #[test]
    fn what_the_draft_model_knows_of_texts_is_true(
        happenings in happenings(),
        pages in 8..24_usize,
        kv_format in formats(),
        prefix_cache: bool,
        model_drafts in 1..6_usize,
    ) {
        let mut happenings = happenings;
        for happening in &mut happenings {
            if let Happening::Write { adapter, .. } = happening {
                *adapter = None;
            }
        }
        let options = Options {
            kv_format, prefix_cache, model_drafts, steady_drafts: true, ..options(pages)
        };
        let tally = run(&happenings, &TWIN, options);
        // On a device the two may have met a token in batches of another length.
        let wrong = tally.model_guessed - tally.model_right;
        let ties = if IS_DEVICE { tally.model_guessed / 50 } else { 0 };
        prop_assert!(wrong <= ties, "{tally:?}");
    }
}
