//! Judges what several nodes made of the same work, by comparing it. See [`judge`] for how.

#![cfg_attr(not(target_family = "wasm"), allow(dead_code))]

mod bindings;
pub mod judge;

use bindings::exports::skep::verify::verdicts::{Claim, Finding, Guest, Verdict, Work};
use bindings::skep::types::types::Error;
use bindings::skep::verify::contents::Content;
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
        let verdict = |found| {
            let (finding, evidence) = match found {
                Found::Right(why) => (Finding::Right, why),
                Found::Wrong(why) => (Finding::Wrong, why),
                Found::Undecided(why) => (Finding::Undecided, why),
            };
            Verdict { finding, evidence }
        };
        Ok(found.into_iter().map(verdict).collect())
    }
}

#[cfg(target_family = "wasm")]
bindings::export!(Verifier with_types_in bindings);
