//! What a run that others repeat or follow sees of the node in its texts, and what it shows of them.

use std::sync::Arc;

use skep_evidence::following::{Observation, Script};
use skep_sandbox::{FailedRun, RunError, RunReport, RunSpec, Shown, Texts};

use super::scribe::{Pace, Scribe};
use super::{Asked, ask_by, roomy, sent_by, with};

#[test]
fn a_run_that_can_be_repeated_sees_nothing_of_the_node_in_its_texts() {
    let seeded = |scribe: &Arc<Scribe>, seed| RunSpec {
        seed: Some(seed),
        ..with(scribe, roomy())
    };
    // Drawn, and with no seed of their own.
    let drawn = || Asked {
        sampling: Some((1.0, 0, 1.0, 0.0, [1.0, 0.0, 0.0])),
        ..Asked::default()
    };
    let seeds = |seed| {
        let scribe = Scribe::new(Pace::AtOnce);
        ask_by(&scribe, &[drawn(), drawn()], &seeded(&scribe, seed)).unwrap();
        let asked = scribe.asked.lock().unwrap();
        assert!(
            asked.iter().all(|request| request.commit),
            "from the first token on"
        );
        asked.iter().map(|r| r.sampling.seed).collect::<Vec<_>>()
    };
    let first = seeds(7);
    assert_eq!(first, seeds(7));
    assert!(first[0] != first[1] && first != seeds(8));
    let scribe = Scribe::new(Pace::Full);
    let failed = ask_by(&scribe, &[drawn()], &seeded(&scribe, 7)).unwrap_err();
    assert!(matches!(failed.error, RunError::Unrepeatable), "{failed}");
}

/// A guest that takes whatever comes, on a model that goes on so.
fn shrugs(
    pace: Pace,
    seed: Option<u64>,
    texts: Texts,
    asked: Asked,
) -> Result<RunReport, FailedRun> {
    let scribe = Scribe::new(pace);
    let spec = RunSpec {
        seed,
        texts,
        ..with(&scribe, roomy())
    };
    sent_by("text_shrugs", &scribe, &[asked], &spec)
}

/// The guest would not have seen it elsewhere, and whoever compares would take it for a lie.
#[test]
fn what_fails_in_the_middle_of_a_run_that_others_repeat_is_no_answer_of_the_model() {
    let once = Asked::default;
    let script = |texts: Vec<Vec<u32>>| Texts::Followed(Arc::new(Script(vec![texts; 3])));
    let right = || script(vec![vec![97; 5]]);
    assert!(shrugs(Pace::Broken, None, Texts::Kept, once()).is_ok());
    for texts in [Texts::Kept, Texts::Written, right(), script(Vec::new())] {
        for pace in [Pace::Broken, Pace::Full] {
            let failed = shrugs(pace, Some(7), texts.clone(), once()).unwrap_err();
            assert!(matches!(failed.error, RunError::Unrepeatable), "{failed}");
        }
    }
    // What the model itself refuses is an answer, and whoever follows says whether it fits.
    let refused = shrugs(Pace::Refuses, Some(7), Texts::Written, once()).unwrap();
    let Some(Shown::Written(transcript)) = refused.shown else {
        panic!("it shows no transcript");
    };
    assert!(transcript.0.iter().all(|answer| answer.texts.is_empty()));
    for (texts, fits) in [(script(Vec::new()), true), (right(), false)] {
        let seen = shrugs(Pace::Refuses, Some(7), texts, once()).unwrap();
        assert!(seen_of(&seen).0.iter().all(|answer| answer.fits == fits));
    }
    // One of two texts is none, and at the other the device fails.
    let both = Asked {
        samples: 2,
        ..Asked::default()
    };
    let texts = script(vec![vec![97; 5]; 2]);
    let failed = shrugs(Pace::Refuses, Some(7), texts, both).unwrap_err();
    assert!(matches!(failed.error, RunError::Unrepeatable), "{failed}");
}

fn seen_of(report: &RunReport) -> Observation {
    let Some(Shown::Seen(seen)) = &report.shown else {
        panic!("it shows no observation");
    };
    let carried = Observation::decode(&seen.encode()).unwrap();
    assert_eq!(carried, *seen);
    carried
}

#[test]
fn who_writes_more_than_can_be_shown_has_no_result_and_who_follows_it_sees_that_it_does_not_fit() {
    // Of 33 chunks each, so that the second call of three is too much.
    let texts = |samples: usize| {
        let asked = Asked {
            samples: u32::try_from(samples).unwrap(),
            max_tokens: 1_000,
            ..Asked::default()
        };
        let script = Script(vec![vec![vec![97; 1_000]; samples]; 3]);
        (asked, Texts::Followed(Arc::new(script)))
    };
    let (many, script) = texts(40);
    let failed = shrugs(Pace::AtOnce, Some(7), Texts::Written, many.clone()).unwrap_err();
    assert!(matches!(failed.error, RunError::Unshown), "{failed}");
    let seen = seen_of(&shrugs(Pace::AtOnce, Some(7), script, many).unwrap());
    assert_eq!(seen.0.len(), 1, "what fitted, and no more");
    assert!(!seen.0[0].fits);
    // The first call alone is too much.
    let (many, script) = texts(70);
    let seen = seen_of(&shrugs(Pace::AtOnce, Some(7), script, many).unwrap());
    assert!(seen.0.len() == 1 && !seen.0[0].fits && seen.0[0].texts.is_empty());
    // As much as fits is nothing out of the ordinary.
    let (some, script) = texts(20);
    let written = shrugs(Pace::AtOnce, Some(7), Texts::Written, some.clone());
    assert!(written.is_ok(), "{written:?}");
    let seen = seen_of(&shrugs(Pace::AtOnce, Some(7), script, some).unwrap());
    assert!(seen.0.len() == 3 && seen.0.iter().all(|answer| answer.fits));
}
