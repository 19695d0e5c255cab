//! Honest work on machines of all kinds, looked at by machines of all kinds: nobody says anything else of it, and no
//! accusation of anybody holds.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "language/coarse.rs"]
mod coarse;
#[path = "language/panel.rs"]
mod panel;
#[path = "language/served.rs"]
mod served;
#[path = "language/shown.rs"]
#[allow(dead_code, reason = "no cheat of these tests claims anything")]
mod shown;

use std::collections::BTreeSet;
use std::fs;
use std::ops::RangeInclusive;
use std::sync::Arc;

use panel::{Member, accuse, repeated};
use served::{Served, as_asked};
use shown::{Asked, followed, machine, machine_with, written};
use skep_accounts::Account;
use skep_engine::Options;
use skep_evidence::following::{Disagreement, Observation, Transcript};
use skep_evidence::{Evidence, Meter, NoFraud, Verdict};
use skep_kernels::Isa;
use skep_model::{Encoder, EncoderOptions, Workers};
use skep_tensor::Device;
use skep_tests::Built;

/// How machines go about it: on so many threads, so many texts at once.
const MANNERS: [(usize, usize); 3] = [(1, 1), (2, 7), (1, 64)];
/// Texts of a run: with two runs on each machine some two hundred texts with three sets of instructions, and some
/// three hundred with four. More are asked for by `SKEP_HONEST_TEXTS`, in whole rounds of all machines.
const TEXTS: usize = 12;
/// What each machine is asked for: the likeliest texts, and others.
const RUNS: [&[&str]; 2] = [
    &["max-tokens=16"],
    &["max-tokens=16", "temperature=0.9", "seed=7"],
];
/// Tokens of texts that end with a chunk of one to six states, and have no other but the prompt's.
const SHORT: RangeInclusive<usize> = 2..=7;
/// Auditors of a run.
const AUDITORS: usize = 2;
/// Of so many looks at most one may be a doubt, which accuses nobody.
const ONE_DOUBT_IN: usize = 1000;
/// Pages of keys and values, for all texts of a run at once.
const PAGES: usize = 256;

/// A machine of each kind and manner: those of one kind beside each other.
fn machines(kinds: &[Isa]) -> Vec<Arc<Served>> {
    let each = kinds
        .iter()
        .flat_map(|isa| MANNERS.map(|manner| (*isa, manner)));
    each.map(|(isa, (threads, texts))| {
        let options = Options {
            pages: PAGES,
            batch_texts: texts,
            ..Options::default()
        };
        machine_with(&Built::language_model(), isa, threads, options, as_asked)
    })
    .collect()
}

/// How often each machine has each run to make.
fn rounds(runs: usize) -> usize {
    let asked = std::env::var("SKEP_HONEST_TEXTS");
    let texts = asked.map_or(1, |texts| texts.parse().unwrap());
    usize::div_ceil(texts, runs * TEXTS).max(1)
}

/// The beginnings of so many messages for each run, all different.
fn prompts(runs: usize) -> Vec<String> {
    let tickets = skep_tickets::tickets(29, runs * TEXTS);
    let begun = tickets.chunks(TEXTS).map(|tickets| {
        let lines = tickets.iter().enumerate().map(|(number, ticket)| {
            let words: Vec<&str> = ticket.text.split_whitespace().take(4).collect();
            format!("{number} {}\n", words.join(" "))
        });
        lines.collect::<String>()
    });
    begun.collect()
}

fn member(machine: usize, output: Vec<u8>, meter: Meter) -> Member {
    Member {
        seed: u8::try_from(machine + 1).unwrap(),
        output,
        meter,
    }
}

/// A run on one of the machines, and what two others see of it.
fn looked_at(
    provider: (usize, &Arc<Served>),
    auditors: [(usize, &Arc<Served>); AUDITORS],
    asked: Asked<'_>,
) -> (Member, Transcript, Vec<(Member, Observation)>) {
    let (transcript, output, meter) = written(provider.1, asked);
    let seen = auditors.map(|(number, auditor)| {
        let (seen, output, meter) = followed(auditor, asked, transcript.script());
        (member(number, output, meter), seen)
    });
    let provider = member(provider.0, output, meter);
    (provider, transcript, seen.into_iter().collect())
}

/// In what those of a panel that followed do not agree with what they followed.
fn others(evidence: &Evidence) -> Vec<Disagreement> {
    let Evidence::Unfollowed {
        result,
        transcript,
        audits,
        ..
    } = evidence
    else {
        panic!("nobody followed");
    };
    let others = audits.iter().filter_map(|audit| {
        let agrees = transcript.agrees(result, &audit.result, &audit.seen);
        agrees.err()
    });
    others.collect()
}

/// Whoever of them is accused, the accusation is false.
fn assert_nobody_cheated(evidence: &Evidence, seeds: impl Iterator<Item = u8>) {
    for seed in seeds {
        let verdict = accuse(evidence, seed);
        let is_false = matches!(verdict, Verdict::FalseAccusation { .. });
        assert!(is_false, "{verdict:?}");
    }
}

/// Whoever of them is accused, the accusation is false, and for no other reason than that all say the same.
fn assert_all_agree(evidence: &Evidence, seeds: impl Iterator<Item = u8>) {
    for seed in seeds {
        let verdict = accuse(evidence, seed);
        let is_same = matches!(
            verdict,
            Verdict::FalseAccusation {
                reason: NoFraud::NoContradiction("all outputs are the same"),
                ..
            }
        );
        assert!(is_same, "{verdict:?}");
    }
}

/// By what 10,000 honest texts have shown (`docs/benchmarks.md`) one token in some 4,000 is another by more than last
/// digits explain, and of a run one in 40 may be: of the near two hundred tokens of a run here four. That one of these
/// runs has five would be seen once in millions of such tests. Their states differ more than those of longer texts where
/// few of them are in a chunk, as behind a text of two tokens. For that the near limits have room as well: somebody who
/// cannot tell convicts nobody, but has others look for nothing. Of many thousand looks a few may end so; an accusation
/// none.
#[test]
fn no_kind_of_machine_doubts_or_accuses_another_that_is_honest() {
    let kinds = Isa::available();
    assert!(kinds.len() > 1, "this machine is of one kind alone");
    let machines = machines(&kinds);
    let runs = RUNS.len() * machines.len();
    let prompts = prompts(runs * rounds(runs));
    let (mut texts, mut tokens, mut short) = (0, 0, 0);
    let (mut looks, mut doubts) = (0, Vec::new());
    let mut across = BTreeSet::new();
    for (number, lines) in prompts.iter().enumerate() {
        let (round, number) = (number / runs, number % runs);
        let (provider, run) = (number / RUNS.len(), number % RUNS.len());
        let (kind, manner) = (provider / MANNERS.len(), provider % MANNERS.len());
        let asked = Asked {
            lines: lines.as_bytes(),
            arguments: RUNS[run],
            seed: 0,
        };
        // Those who look are each of the next kind, and of another manner than who wrote.
        let auditors = [0, 1].map(|place| {
            let of = (kind + AUDITORS * run + place + round) % kinds.len();
            across.insert((kind, of));
            let manner = (manner + 1 + place) % MANNERS.len();
            let auditor = of * MANNERS.len() + manner;
            (auditor, &machines[auditor])
        });
        let provider = (provider, &machines[provider]);
        let (written, transcript, seen) = looked_at(provider, auditors, asked);
        for answer in &transcript.0 {
            texts += answer.texts.len();
            let lengths = answer.texts.iter().map(|text| text.tokens.len());
            tokens += lengths.clone().sum::<usize>();
            short += lengths.filter(|tokens| SHORT.contains(tokens)).count();
        }
        let seeds: Vec<u8> = seen.iter().map(|(auditor, _)| auditor.seed).collect();
        let evidence = panel::followed((&written, transcript), &seen);
        let seeds = seeds.into_iter().chain([written.seed]);
        let others = others(&evidence);
        match others.is_empty() {
            true => assert_all_agree(&evidence, seeds),
            false => assert_nobody_cheated(&evidence, seeds),
        }
        looks += AUDITORS * TEXTS;
        doubts.extend(others.into_iter().map(|why| (kind, manner, run, why)));
    }
    assert_eq!(texts, TEXTS * prompts.len());
    println!(
        "{texts} texts of {tokens} tokens on {} kinds, {short} of them short; {looks} looks, doubts: {doubts:?}",
        kinds.len()
    );
    assert!(doubts.len() <= looks / ONE_DOUBT_IN, "{doubts:?}");
    assert!(short > 0, "no text ends with few states");
    // Each kind has written for each, and looked at each.
    assert_eq!(across.len(), kinds.len() * kinds.len(), "{across:?}");

    // A panel that is made up in this way finds out who does cheat.
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("coarse.gguf");
    let model = fs::read(Built::language_model()).unwrap();
    fs::write(&path, coarse::weights(&model)).unwrap();
    let cheat = machine(&path, Isa::best());
    let asked = Asked {
        lines: prompts[0].as_bytes(),
        arguments: RUNS[0],
        seed: 0,
    };
    let (first, last) = (0, machines.len() - 1);
    let auditors = [first, last].map(|number| (number, &machines[number]));
    let (written, transcript, seen) = looked_at((machines.len(), &cheat), auditors, asked);
    let evidence = panel::followed((&written, transcript), &seen);
    assert_eq!(others(&evidence).len(), AUDITORS);
    let verdict = accuse(&evidence, written.seed);
    assert!(matches!(verdict, Verdict::Guilty { .. }), "{verdict:?}");
    let verdict = accuse(&evidence, seen[0].0.seed);
    let is_another = matches!(
        verdict,
        Verdict::FalseAccusation {
            reason: NoFraud::Another,
            ..
        }
    );
    assert!(is_another, "{verdict:?}");
}

/// What a sentence encoder makes of texts, with these instructions, on so many threads and of so many texts at once.
fn embedded(isa: skep_model::Isa, (threads, at_once): (usize, usize), texts: &[String]) -> Vec<u8> {
    let folder = Built::root().join("models").join("skep-mini-embed");
    let mut options = EncoderOptions::default();
    options.isa = Some(isa);
    options.workers = Some(Workers::new(threads).unwrap());
    let encoder = Encoder::load_with(&folder, &Device::cpu(), options).unwrap();
    let account = Account::unlimited();
    let parts = texts.chunks(at_once);
    let rows = parts.map(|texts| encoder.embed(texts, &account).unwrap());
    rows.flat_map(|rows| rows.to_bytes().unwrap()).collect()
}

/// Who is to get the same bytes is on a machine of the same kind.
#[test]
fn no_encoder_of_a_kind_accuses_another_of_it_whatever_its_threads_and_batches() {
    let tickets = skep_tickets::tickets(31, 48);
    let texts: Vec<String> = tickets.into_iter().map(|ticket| ticket.text).collect();
    for isa in skep_model::Isa::available() {
        let made = (0..).zip(MANNERS).map(|(number, manner)| {
            member(number, embedded(isa, manner, &texts), Meter::default())
        });
        let mut made: Vec<Member> = made.collect();
        for provider in &made {
            let auditors = made.iter().filter(|other| other.seed != provider.seed);
            let auditors: Vec<&Member> = auditors.collect();
            let evidence = repeated(provider, &auditors);
            assert_all_agree(&evidence, made.iter().map(|member| member.seed));
        }
        // One last digit is enough.
        made[1].output[0] ^= 1;
        let evidence = repeated(&made[1], &[&made[0], &made[2]]);
        let verdict = accuse(&evidence, made[1].seed);
        assert!(matches!(verdict, Verdict::Guilty { .. }), "{verdict:?}");
        let evidence = repeated(&made[0], &[&made[1], &made[2]]);
        let verdict = accuse(&evidence, made[1].seed);
        assert!(matches!(verdict, Verdict::Guilty { .. }), "{verdict:?}");
    }
}
