//! A run whose texts a machine of one kind wrote, followed on another kind: an honest one agrees, with
//! the same output and the same meter, and what is not honest does not.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "language/cheaper.rs"]
mod cheaper;
#[path = "language/coarse.rs"]
mod coarse;
#[path = "language/served.rs"]
mod served;
#[path = "language/shown.rs"]
mod shown;

use std::fs;
use std::sync::Arc;

use served::Served;
use shown::{Asked, GENERATE, claiming, cuts_prompts, honest, machine};
use skep_evidence::Meter;
use skep_evidence::following::{Disagreement, Observation, Script, Transcript};
use skep_kernels::Isa;
use skep_tests::Built;

const LINES: &str = "I was charged twice for March.\nGood morning! What do you sell?\n\
                     It is a truth universally acknowledged, that\nWhat does \"honey\" mean?\n";
/// Texts of which most tokens are drawn.
const DRAWN: [&str; 2] = ["temperature=0.9", "max-tokens=40"];

fn asked<'a>(arguments: &'a [&'a str], seed: u64) -> Asked<'a> {
    Asked {
        lines: LINES.as_bytes(),
        arguments,
        seed,
    }
}

/// What a run shows, its output and its meter.
fn written(on: &Arc<Served>, arguments: &[&str], seed: u64) -> (Transcript, Vec<u8>, Meter) {
    shown::written(on, asked(arguments, seed))
}

fn followed(on: &Arc<Served>, arguments: &[&str], script: Script) -> (Observation, Vec<u8>, Meter) {
    shown::followed(on, asked(arguments, 7), script)
}

#[test]
fn an_honest_run_is_followed_on_every_kind_of_machine() {
    assert!(GENERATE.can_be_followed());
    let here = honest(Isa::best());
    for isa in Isa::available() {
        let there = honest(isa);
        for arguments in [
            &[][..],
            &DRAWN,
            &["json-schema={\"enum\":[\"red\",\"green\"]}"],
        ] {
            let (transcript, output, metered) = written(&there, arguments, 7);
            let (seen, same, meter) = followed(&here, arguments, transcript.script());
            assert_eq!(same, output, "{isa:?} {arguments:?}");
            assert_eq!(meter, metered, "{isa:?} {arguments:?}");
            assert_eq!(transcript.compare(&seen), Ok(()), "{isa:?} {arguments:?}");
            // Whoever writes on a machine of this kind gets the same, bit for bit.
            let (again, ..) = written(&there, arguments, 7);
            assert_eq!(again, transcript);
        }
    }
}

#[test]
fn pieces_that_a_guest_asks_for_one_by_one_are_followed_as_well() {
    let arguments = ["stream", "temperature=0.9"];
    let (transcript, output, metered) = written(&honest(Isa::Portable), &arguments, 7);
    let (seen, same, meter) = followed(&honest(Isa::best()), &arguments, transcript.script());
    assert_eq!((same, meter), (output, metered));
    assert_eq!(transcript.compare(&seen), Ok(()));
}

#[test]
fn what_was_not_done_as_asked_is_seen_on_another_kind_of_machine() {
    let (here, there) = (honest(Isa::best()), honest(Isa::Portable));
    let (right, ..) = written(&there, &DRAWN, 7);
    let told = |transcript: &Transcript, arguments: &[&str]| {
        let (seen, ..) = followed(&here, arguments, transcript.script());
        transcript.compare(&seen).unwrap_err()
    };
    // A coarser model.
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("coarse.gguf");
    let model = fs::read(Built::language_model()).unwrap();
    fs::write(&path, coarse::weights(&model)).unwrap();
    let (coarser, ..) = written(&machine(&path, Isa::Portable), &DRAWN, 7);
    let found = told(&coarser, &DRAWN);
    assert!(matches!(found, Disagreement::States { .. }), "{found}");

    // Three quarters of the prompt, a layer fewer, four bits instead of eight. What was asked for is no other.
    let machine_of = |name: &str, file: Vec<u8>| {
        let path = folder.path().join(name);
        fs::write(&path, file).unwrap();
        machine(&path, Isa::Portable)
    };
    let shallow = machine_of("shallow.gguf", cheaper::one_layer_fewer(&model));
    for cheat in [cuts_prompts(Isa::Portable), shallow] {
        let (other, ..) = written(&cheat, &DRAWN, 7);
        let found = told(&other, &DRAWN);
        assert!(matches!(found, Disagreement::States { .. }), "{found}");
    }
    let narrow = machine_of("narrow.gguf", cheaper::in_four_bits(&model));
    let (other, ..) = written(&narrow, &DRAWN, 7);
    let found = told(&other, &DRAWN);
    // Some token may fall far short before any states do.
    assert!(
        matches!(
            found,
            Disagreement::States { .. } | Disagreement::Fit { .. }
        ),
        "{found}"
    );

    // Other sampling: another temperature, another seed, the likeliest always.
    for arguments in [
        &["temperature=1.6", DRAWN[1]][..],
        &["temperature=0", DRAWN[1]],
    ] {
        let (other, ..) = written(&there, arguments, 7);
        let found = told(&other, &DRAWN);
        assert!(matches!(found, Disagreement::Request { .. }), "{found}");
        let found = told(&claiming(other, &right), &DRAWN);
        // Too many tokens are others, or one is far from what would have come.
        assert!(
            matches!(
                found,
                Disagreement::Tokens { .. } | Disagreement::Fit { .. }
            ),
            "{arguments:?}: {found}"
        );
    }
    let (other, ..) = written(&there, &DRAWN, 8);
    let found = told(&claiming(other, &right), &DRAWN);
    assert!(
        matches!(
            found,
            Disagreement::Tokens { .. } | Disagreement::Fit { .. }
        ),
        "{found}"
    );

    // A text that ends early, one that is left out, one that is another's, and none at all.
    let mut short = right.clone();
    let first = &mut short.0[0].texts[0];
    first.tokens.truncate(2);
    first.commitments.truncate(2);
    assert_eq!(told(&short, &DRAWN), Disagreement::Fit { request: 0 });
    let mut fewer = right.clone();
    fewer.0.pop();
    assert!(matches!(
        told(&fewer, &DRAWN),
        Disagreement::Requests { .. }
    ));
    let mut swapped = right.clone();
    swapped.0.swap(0, 1);
    assert!(matches!(
        told(&swapped, &DRAWN),
        Disagreement::Request { .. }
    ));
    let found = told(&claiming(swapped, &right), &DRAWN);
    assert!(
        matches!(
            found,
            Disagreement::States { .. } | Disagreement::Fit { .. }
        ),
        "{found}"
    );
    let mut none = right.clone();
    none.0[2].texts.clear();
    assert_eq!(told(&none, &DRAWN), Disagreement::Fit { request: 2 });
    // A token that there is not cannot be gone over, and ends nothing.
    let mut odd = right.clone();
    odd.0[1].texts[0].tokens[0] = u32::MAX;
    assert_eq!(told(&odd, &DRAWN), Disagreement::Fit { request: 1 });

    // Whoever does not run the model cannot know what was committed to.
    assert!(right.compare(&Observation::default()).is_err());
    let (coarse_eyes, ..) = followed(&machine(&path, Isa::best()), &DRAWN, right.script());
    assert!(right.compare(&coarse_eyes).is_err());
}
