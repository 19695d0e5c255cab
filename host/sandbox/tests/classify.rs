//! Classification record by record: every line has its outcome, in order, and a guest that
//! breaks its contract is found out.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod common;

use std::sync::{Arc, LazyLock};
use std::time::Duration;

use common::{classifier, spec, tight};
use skep_records::{Format, Label, Reader};
use skep_registry::Limits;
use skep_sandbox::{Cancel, FailedRun, Program, Progress, Quota, RunError, RunReport, Sandbox};

static SANDBOX: LazyLock<Sandbox> = LazyLock::new(common::sandbox);
static PROGRAM: LazyLock<Arc<Program>> =
    LazyLock::new(|| Arc::new(SANDBOX.load(classifier("by_first_letter")).unwrap()));

fn labels(number: usize) -> Vec<Label> {
    (0..number)
        .map(|n| Label {
            name: format!("label {n}"),
            description: Some("d".to_owned()),
            examples: vec!["e".to_owned()],
        })
        .collect()
}

fn classify(input: &str, limits: Limits) -> (Result<RunReport, FailedRun>, String, Vec<Progress>) {
    let mut output = Vec::new();
    let mut steps = Vec::new();
    let result = SANDBOX.classify(
        &PROGRAM,
        &spec(limits),
        &labels(3),
        Reader::new(input.as_bytes(), Format::Jsonl),
        &mut output,
        &mut |step| steps.push(step),
        &Cancel::new(),
    );
    (result, String::from_utf8(output).unwrap(), steps)
}

fn line(text: &str) -> String {
    format!("{{\"text\": \"{text}\"}}\n")
}

#[test]
fn every_line_has_its_outcome_in_order() {
    let input = format!("{}{{oops\n{}\n{}", line("2 a"), line("e b"), line("0 c"));
    let (result, output, steps) = classify(&input, tight());
    let report = result.unwrap();
    let lines: Vec<serde_json::Value> = output
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert_eq!(lines[0]["label"], "label 2");
    assert_eq!(lines[0]["score"], 0.5);
    assert_eq!(lines[1]["line"], 2);
    assert!(
        lines[1]["error"].as_str().unwrap().contains("JSON"),
        "{output}"
    );
    assert_eq!(lines[2]["error"], "not today");
    assert_eq!(lines[2]["line"], 3);
    assert_eq!(lines.last().unwrap()["label"], "label 0");
    assert_eq!(report.records, lines.len() as u64);
    assert_eq!(
        report.errors,
        lines
            .iter()
            .filter(|line| line["error"].is_string())
            .count() as u64
    );
    assert_eq!(report.output_bytes, output.len() as u64);
    assert_eq!(steps.last().unwrap().done, report.records);
}

#[test]
fn any_number_of_records_in_bounded_memory() {
    // A bad line after each twentieth record, and at both ends.
    let mut input = "bad\n".to_owned();
    for n in 0..20_000 {
        input += &line(&format!("{} {}", n % 3, "x".repeat(n % 200)));
        if n % 20 == 0 {
            input += "bad\n";
        }
    }
    let limits = Limits {
        output: Some(1 << 30),
        time: Some(Duration::from_secs(60)),
        cpu_time: Some(Duration::from_secs(60)),
        ..tight()
    };
    let (result, output, steps) = classify(&input, limits);
    let report = result.unwrap();
    assert_eq!(report.records, 21_001);
    assert_eq!(report.errors, 1_001);
    assert_eq!(output.lines().count(), 21_001);
    assert!(steps.windows(2).all(|pair| pair[0].done < pair[1].done));
    // The guest's own memory is what it began with: 64 pages.
    assert_eq!(report.peak_memory_bytes, 64 * 65536);
}

#[test]
fn nothing_but_bad_lines_and_nothing_at_all() {
    let (result, output, _) = classify(&"bad\n".repeat(3_000), tight());
    assert_eq!(result.unwrap().errors, 3_000);
    assert_eq!(output.lines().count(), 3_000);
    let (result, output, _) = classify("", tight());
    assert_eq!(result.unwrap().records, 0);
    assert_eq!(output, "");
}

#[test]
fn labels_that_cannot_be_learned_are_the_guests_to_refuse() {
    let failed = SANDBOX
        .classify(
            &PROGRAM,
            &spec(tight()),
            &labels(1),
            Reader::new(line("0").as_bytes(), Format::Jsonl),
            &mut std::io::sink(),
            &mut |_| {},
            &Cancel::new(),
        )
        .unwrap_err();
    assert!(
        matches!(&failed.error, RunError::Guest(text) if text == "not today"),
        "{failed}"
    );
}

#[test]
fn what_was_done_before_a_crash_is_written() {
    let good: String = (0..300).map(|_| line("1")).collect();
    let (result, output, _) = classify(&format!("{good}{}", line("x")), tight());
    let failed = result.unwrap_err();
    assert!(matches!(failed.error, RunError::Trapped { .. }), "{failed}");
    assert_eq!(output.lines().count() as u64, failed.report.records);
    assert!(
        failed.report.records >= 64,
        "the first batch: {:?}",
        failed.report
    );
}

#[test]
fn a_guest_that_never_answers() {
    // On a busy machine the other kind of time would be over first.
    let patient = Limits {
        time: Some(Duration::from_secs(60)),
        ..tight()
    };
    let (result, ..) = classify(&line("l"), patient);
    assert_eq!(result.unwrap_err().error.limit(), Some("cpu-time"));
}

#[test]
fn a_guest_that_loses_an_answer_or_makes_up_a_label() {
    for text in ["n", "9"] {
        let (result, output, _) = classify(&line(text), tight());
        let failed = result.unwrap_err();
        assert!(matches!(failed.error, RunError::Contract(_)), "{failed}");
        assert_eq!(output, "");
    }
}

#[test]
fn a_flood_of_reasons_is_cut_and_output_is_limited() {
    let (result, output, _) = classify(&line("f"), tight());
    result.unwrap();
    assert!(output.len() < 3_000, "{}", output.len());
    let limits = Limits {
        output: Some(1_000),
        ..tight()
    };
    let many: String = (0..1_000).map(|_| line("1")).collect();
    let (result, output, _) = classify(&many, limits);
    let failed = result.unwrap_err();
    assert!(
        matches!(&failed.error, RunError::Quota(e) if e.quota == Quota::Output && e.limit == 1_000),
        "{failed}"
    );
    assert!(output.len() <= 1_000 && output.ends_with('\n'));
    assert!(failed.report.output_truncated);
}

#[test]
fn a_run_can_be_called_off() {
    let cancel = Cancel::new();
    let endless = std::iter::repeat_with(|| line("1"))
        .enumerate()
        .map(|(n, line)| {
            Reader::new(line.as_bytes(), Format::Jsonl)
                .next()
                .map(|mut line| {
                    line.number = n as u64 + 1;
                    line
                })
                .unwrap()
        });
    let failed = SANDBOX
        .classify(
            &PROGRAM,
            &spec(Limits {
                output: Some(u64::MAX),
                ..tight()
            }),
            &labels(2),
            endless,
            &mut std::io::sink(),
            &mut |step| {
                if step.done > 1_000 {
                    cancel.cancel();
                }
            },
            &cancel,
        )
        .unwrap_err();
    assert!(matches!(failed.error, RunError::Cancelled), "{failed}");
}
