//! Judges what several nodes made of the same work, by comparing it. See [`judge`] for how. What
//! has not the form that it was asked for it reports besides.

#![cfg_attr(not(target_family = "wasm"), allow(dead_code))]

mod bindings;
pub mod judge;

use std::collections::BTreeSet;

use bindings::exports::skep::verify::verdicts::{Claim, Finding, Guest, Verdict, Work};
use bindings::skep::types::types::Error;
use bindings::skep::verify::contents::Content;
use bindings::skep::verify::reports;
use judge::{Asked, Bytes, Found};

impl Bytes for Content {
    type Error = Error;

    fn digest(&self) -> String {
        Content::digest(self)
    }

    fn read(&self, offset: u64, length: u32) -> Result<Vec<u8>, Error> {
        Content::read(self, offset, length)
    }
}

struct Verifier;

impl Guest for Verifier {
    fn verify(work: Work, input: Content, claims: Vec<Claim>) -> Result<Vec<Verdict>, Error> {
        let outputs: Vec<Content> = claims.into_iter().map(|claim| claim.output).collect();
        let asked = Asked {
            exact: work.exact,
            is_classifier: work.world == "batch-classifier",
            has_lines: work.format == "jsonl",
            labels: work.labels.as_ref(),
        };
        let found = judge::judge(&asked, &input, &outputs)?;
        report(&outputs, &found);
        let verdict = |found| {
            let (finding, evidence) = match found {
                Found::Right(why) => (Finding::Right, why),
                Found::Wrong(why) | Found::Malformed(why) => (Finding::Wrong, why),
                Found::Undecided(why) => (Finding::Undecided, why),
            };
            Verdict { finding, evidence }
        };
        Ok(found.into_iter().map(verdict).collect())
    }
}

/// Reports each output that breaks its form, once however many delivered it. That needs no other
/// output to compare it with, so that whoever holds it sees the same.
fn report(outputs: &[Content], found: &[Found]) {
    let mut reported = BTreeSet::new();
    for (output, found) in outputs.iter().zip(found) {
        let Found::Malformed(why) = found else {
            continue;
        };
        let digest = output.digest();
        if reported.insert(digest.clone()) {
            // The verdict says the same, and is given whether or not there is room for a report.
            let _ = reports::report(&digest, why);
        }
    }
}

#[cfg(target_family = "wasm")]
bindings::export!(Verifier with_types_in bindings);
