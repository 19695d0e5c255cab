//! A verifier that does what it must not, for the tests of the sandbox. The input is what it does:
//!
//! - `loop`: computes for ever;
//! - `trap`: traps;
//! - `fewer`: leaves an output without a verdict;
//! - `escape`: writes what a terminal would obey, and a megabyte of it, and reports it too;
//! - `beyond`: reads where nothing is, and all at once;
//! - `flood`: reports without end, and what is no digest;
//! - `keep`: drops no handle;
//! - `refuse`: says no;
//! - anything else: finds all outputs wrong.

use bindings::exports::skep::verify::verdicts::{Claim, Finding, Guest, Verdict, Work};
use bindings::skep::types::types::Error;
use bindings::skep::verify::contents::Content;
use bindings::skep::verify::reports;

mod bindings {
    //! What `wit-bindgen` makes of the world `verifier`.
    #![allow(missing_docs, clippy::all, clippy::pedantic)]

    wit_bindgen::generate!({
        path: "../../../wit",
        world: "skep:workload/verifier",
        generate_all,
    });
}

struct Verifier;

impl Guest for Verifier {
    fn verify(_: Work, input: Content, claims: Vec<Claim>) -> Result<Vec<Verdict>, Error> {
        let deed = input.read(0, 64)?;
        let all = |evidence: &str| {
            let verdict = |_: &Claim| Verdict {
                finding: Finding::Wrong,
                evidence: evidence.to_owned(),
            };
            claims.iter().map(verdict).collect::<Vec<_>>()
        };
        Ok(match deed.as_slice() {
            b"loop" => {
                let mut number = 1_u64;
                loop {
                    number = std::hint::black_box(number.wrapping_mul(3));
                }
            }
            b"trap" => unreachable!("a verifier that traps"),
            b"fewer" => all("")[1..].to_vec(),
            b"escape" => {
                reports::report(&"0".repeat(64), "\u{1b}[2J\u{7}")?;
                all(&"\u{1b}[2J\u{7}".repeat(1 << 17))
            }
            b"beyond" => {
                let beyond = input.read(u64::MAX, u32::MAX)?;
                let whole = input.read(0, u32::MAX)?;
                all(&format!("{} and {}", beyond.len(), whole.len()))
            }
            b"flood" => {
                let nobody = reports::report("nobody", "").is_err();
                let long = reports::report(&"0".repeat(64), &"x".repeat(5_000)).is_err();
                let made = (0..1_000).take_while(|_| reports::report(&"0".repeat(64), "x").is_ok());
                all(&format!("{nobody} {long} {}", made.count()))
            }
            b"keep" => {
                let verdicts = all("kept");
                std::mem::forget(claims);
                std::mem::forget(input);
                return Ok(verdicts);
            }
            b"refuse" => return Err(Error::Busy),
            _ => all("because"),
        })
    }
}

bindings::export!(Verifier with_types_in bindings);
