//! Verifiers in the sandbox: the one that comes with skep judges outputs by comparing them, and one
//! that means harm gets nowhere.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::fs;
use std::sync::Arc;
use std::time::Duration;

use skep_registry::{Digest, Limits};
use skep_sandbox::{
    CallError, CallLimits, Cancel, Content, Finding, Reported, RunError, RunReport, RunSpec,
    Sandbox, SandboxConfig, Verdict, VerifiedWork, Verifier,
};
use skep_tests::Built;

fn open(name: &str, limits: Limits, call: CallLimits) -> Verifier {
    let sandbox = Sandbox::new(SandboxConfig::default()).unwrap();
    let bytes = fs::read(Built::component(name)).unwrap_or_else(|error| {
        panic!("{name} is not built ({error}); `cargo xtask guests` builds it")
    });
    let program = Arc::new(sandbox.load(bytes).unwrap());
    assert_eq!(program.world(), Some("verifier"));
    assert!(program.is_repeatable());
    // The same arguments are to give the same verdicts.
    let spec = RunSpec {
        limits,
        seed: Some(1),
        ..RunSpec::default()
    };
    sandbox
        .open_verifier(&program, &spec, call, &Cancel::new())
        .unwrap()
}

fn roomy() -> Limits {
    Limits {
        memory: Some(64 << 20),
        cpu_time: Some(Duration::from_secs(60)),
        time: Some(Duration::from_secs(120)),
        call_bytes: Some(4 << 20),
        handles: Some(100),
        ..Limits::default()
    }
}

/// Little processor time for each call.
const SHORT: CallLimits = CallLimits {
    cpu: Duration::from_millis(200),
    wall: Duration::from_secs(60),
};

fn work(world: &str, exact: bool) -> VerifiedWork {
    VerifiedWork {
        package: Digest::of(b"package"),
        world: world.to_owned(),
        model: None,
        adapter: None,
        seed: 0,
        exact,
        format: "jsonl".to_owned(),
        labels: None,
        arguments: Vec::new(),
    }
}

fn judged(
    verifier: &mut Verifier,
    work: VerifiedWork,
    input: &[u8],
    outputs: &[&[u8]],
) -> Result<Vec<Verdict>, CallError> {
    let outputs = outputs.iter().zip(["a", "b", "c", "d"]);
    let outputs = outputs.map(|(output, worker)| (worker.to_owned(), output.to_vec().into()));
    verifier.verify(work, Content::from(input.to_vec()), outputs.collect())
}

/// The output of a classifier for so many records.
fn output(records: usize) -> Vec<u8> {
    let line = |n: usize| format!("{{\"id\":\"{n}\",\"label\":\"a\",\"score\":0.5}}\n");
    (0..records).flat_map(|n| line(n).into_bytes()).collect()
}

#[test]
fn what_most_got_is_right_and_who_made_something_up_is_named() {
    let mut verifier = open("verifier", roomy(), CallLimits::default());
    let input: Vec<u8> = (0..20_000)
        .flat_map(|n| format!("{n}\n").into_bytes())
        .collect();
    let right = output(20_000);
    let mut wrong = right.clone();
    let place = right.len() / 2;
    let digit = right[place..]
        .iter()
        .position(u8::is_ascii_digit)
        .map(|after| place + after)
        .unwrap();
    wrong[digit] = if right[digit] == b'1' { b'2' } else { b'1' };
    let outputs: [&[u8]; 3] = [&right, &wrong, &right];
    let work = || work("batch-classifier", true);
    let found = judged(&mut verifier, work(), &input, &outputs).unwrap();
    let findings: Vec<Finding> = found.iter().map(|verdict| verdict.finding).collect();
    assert_eq!(findings, [Finding::Right, Finding::Wrong, Finding::Right]);
    let evidence = &found[1].evidence;
    let place = format!("first in byte {digit},");
    assert!(evidence.contains(&place), "{evidence}");
    // Again the same, in the same guest.
    assert_eq!(
        judged(&mut verifier, work(), &input, &outputs).unwrap(),
        found
    );
    let short = judged(&mut verifier, work(), &input, &[&output(1)]).unwrap();
    assert_eq!(short[0].finding, Finding::Wrong);
    assert_eq!(
        short[0].evidence,
        "it has 1 lines, and the input has 20000 records"
    );
    let labels = b"{\"labels\":[{\"name\":\"b\",\"examples\":[]}]}".to_vec();
    let labelled = VerifiedWork {
        labels: Some(labels.into()),
        ..work()
    };
    let other = judged(&mut verifier, labelled, b"1\n", &[&output(1)]).unwrap();
    assert_eq!(other[0].finding, Finding::Wrong);
    assert_eq!(
        other[0].evidence,
        "line 1 has a label that was not asked for"
    );
    // Who merely lost against others is not reported, and who broke the form is.
    let short = reported(&output(1), &short[0]);
    let other = reported(&output(1), &other[0]);
    let report = verifier.close().unwrap();
    assert_eq!(report.reports, [short, other]);
}

/// The report of an output that goes with a verdict on it.
fn reported(output: &[u8], verdict: &Verdict) -> Reported {
    Reported {
        output: Digest::of(output).to_string(),
        evidence: verdict.evidence.clone(),
    }
}

#[test]
fn an_output_that_breaks_its_form_is_reported_once_and_a_verdict_waits_for_no_report() {
    let mut verifier = open("verifier", roomy(), CallLimits::default());
    let input = b"1\n2\n";
    let (right, short, prose) = (output(2), output(1), b"Both are billing.\n.\n");
    let mut ask = |outputs: &[&[u8]]| {
        let work = work("batch-classifier", true);
        let found = judged(&mut verifier, work, input, outputs).unwrap();
        let findings: Vec<Finding> = found.iter().map(|verdict| verdict.finding).collect();
        (found, findings, verifier.reports().unwrap())
    };
    let (found, findings, reports) = ask(&[&short, &right, &short, prose]);
    assert_eq!(findings[0], Finding::Wrong);
    assert_ne!(findings[1], Finding::Wrong, "{found:?}");
    assert_eq!(findings[2..], [Finding::Wrong; 2]);
    let (of_short, of_prose) = (reported(&short, &found[0]), reported(prose, &found[3]));
    assert_eq!(
        of_short.evidence,
        "it has 1 lines, and the input has 2 records"
    );
    assert_eq!(of_prose.evidence, "line 1 is neither a label nor an error");
    assert_eq!(reports, [of_short, of_prose]);
    // They were taken, and nothing is wrong with those that have the form.
    let (_, findings, reports) = ask(&[&right, &right]);
    assert_eq!(findings, [Finding::Right; 2]);
    assert!(reports.is_empty(), "{reports:?}");
    // Work of another world has no such form.
    let task = work("task", true);
    judged(&mut verifier, task, input, &[prose]).unwrap();
    assert!(verifier.reports().unwrap().is_empty());

    // Nobody takes them any more: there are as many as a run may have, and verdicts without end.
    for _ in 0..70 {
        let work = work("batch-classifier", true);
        let found = judged(&mut verifier, work, input, &[&short]).unwrap();
        assert_eq!(found[0].finding, Finding::Wrong);
    }
    assert_eq!(verifier.close().unwrap().reports.len(), 64);
}

#[test]
fn without_a_majority_or_where_bytes_may_differ_nobody_is_wrong() {
    let mut verifier = open("verifier", roomy(), CallLimits::default());
    let cases: [(bool, &[&[u8]]); 4] = [
        (true, &[b"1", b"2"]),
        (true, &[b"1"]),
        (true, &[]),
        (false, &[b"1", b"1", b"2"]),
    ];
    for (exact, outputs) in cases {
        let found = judged(&mut verifier, work("task", exact), b"", outputs).unwrap();
        assert_eq!(found.len(), outputs.len());
        assert!(
            found
                .iter()
                .all(|verdict| verdict.finding == Finding::Undecided)
        );
    }
}

fn hostile(deed: &str) -> (Result<Vec<Verdict>, CallError>, Verifier) {
    let mut verifier = open("hostile-verifier", roomy(), SHORT);
    let found = judged(
        &mut verifier,
        work("task", true),
        deed.as_bytes(),
        &[b"1", b"2"],
    );
    (found, verifier)
}

/// What one that is still there said, and what its run came to.
fn said(deed: &str) -> (Vec<Verdict>, RunReport) {
    let (found, verifier) = hostile(deed);
    (found.unwrap(), verifier.close().unwrap())
}

#[test]
fn a_verifier_that_breaks_off_is_over_and_says_why() {
    let over = |deed| match hostile(deed).0 {
        Err(CallError::Over(failed)) => failed,
        other => panic!("{deed}: {other:?}"),
    };
    assert!(matches!(over("loop").error, RunError::CallCpuTime { .. }));
    assert!(matches!(over("trap").error, RunError::Trapped { .. }));
    assert!(matches!(over("fewer").error, RunError::Contract(_)));
    assert!(matches!(hostile("refuse").0, Err(CallError::Refused(_))));
}

#[test]
fn what_a_verifier_says_is_kept_short_and_cannot_move_a_cursor() {
    let (found, report) = said("escape");
    for verdict in found {
        assert_eq!(verdict.finding, Finding::Wrong);
        assert!(verdict.evidence.len() <= 2_000);
        assert!(!verdict.evidence.contains(char::is_control));
    }
    assert_eq!(report.reports[0].evidence, "\u{fffd}[2J\u{fffd}");
}

#[test]
fn a_verifier_reads_what_it_was_given_and_reports_within_bounds() {
    let (found, _) = said("beyond");
    assert_eq!(found[0].evidence, "0 and 6");
    let (found, report) = said("flood");
    assert_eq!(found[0].evidence, "true true 64");
    assert_eq!(report.reports.len(), 64);
    assert_eq!(report.reports[0].evidence, "x");
}

#[test]
fn handles_that_are_never_dropped_end_with_their_limit() {
    let mut verifier = open("hostile-verifier", roomy(), SHORT);
    let mut calls = 0;
    let ended = loop {
        match judged(&mut verifier, work("task", true), b"keep", &[b"1"]) {
            Ok(_) => calls += 1,
            Err(error) => break error,
        }
    };
    assert!((10..=100).contains(&calls), "{calls}");
    assert!(matches!(ended, CallError::Over(_)), "{ended}");
}
