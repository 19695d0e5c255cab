//! A verifier that asks for more than the one that comes with skep: each record has to have a label.
//! To that one a line that says why a record has none is as good as a label.

use bindings::exports::skep::verify::verdicts::{Claim, Finding, Guest, Verdict, Work};
use bindings::skep::types::types::Error;
use bindings::skep::verify::contents::Content;
use serde_json::Value;

mod bindings {
    //! What `wit-bindgen` makes of the world `verifier`.
    #![allow(missing_docs, clippy::all, clippy::pedantic)]

    wit_bindgen::generate!({
        path: "../../../wit",
        world: "skep:workload/verifier",
        generate_all,
    });
}

/// What is read at once.
const PIECE: u32 = 64 << 10;

struct Verifier;

impl Guest for Verifier {
    fn verify(_: Work, _: Content, claims: Vec<Claim>) -> Result<Vec<Verdict>, Error> {
        let verdict = |claim: Claim| {
            let text = read(&claim.output)?;
            let (finding, evidence) = match given_up(&text) {
                Some(why) => (Finding::Wrong, why),
                None => (Finding::Right, "each record has a label".to_owned()),
            };
            Ok(Verdict { finding, evidence })
        };
        claims.into_iter().map(verdict).collect()
    }
}

fn read(content: &Content) -> Result<String, Error> {
    let mut bytes = Vec::new();
    loop {
        let piece = content.read(bytes.len() as u64, PIECE)?;
        if piece.is_empty() {
            return Ok(String::from_utf8_lossy(&bytes).into_owned());
        }
        bytes.extend(piece);
    }
}

/// The first record that has no label, and what is said of it.
fn given_up(text: &str) -> Option<String> {
    text.lines().enumerate().find_map(|(number, line)| {
        let line: Value = serde_json::from_str(line).unwrap_or_default();
        let number = number + 1;
        match line["label"].is_string() {
            true => None,
            false => Some(format!(
                "line {number} gives its record up: {}",
                line["error"]
            )),
        }
    })
}

bindings::export!(Verifier with_types_in bindings);
