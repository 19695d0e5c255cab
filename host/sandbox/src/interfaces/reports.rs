//! `skep:verify/reports`: what a guest reports of others' outputs, for whoever started the run.

use skep_registry::Digest;

use super::types::HostError;
use crate::bindings::verifier::skep::verify::reports::Host;
use crate::run::report::Reported;
use crate::state::State;

/// The most reports of one run that nobody has taken yet.
const REPORTS: usize = 64;
/// The most bytes of one report's evidence.
const EVIDENCE: usize = 4096;

impl Host for State {
    fn report(&mut self, output: String, evidence: String) -> Result<(), HostError> {
        self.host_calls += 1;
        if output.parse::<Digest>().is_err() {
            return Err(HostError::invalid(
                "a digest is 64 lower-case hexadecimal digits",
            ));
        }
        if evidence.len() > EVIDENCE || self.reports.len() >= REPORTS {
            return Err(HostError::invalid(
                "at most 64 reports of a run wait to be taken, and the evidence of each has at most \
                 4,096 bytes",
            ));
        }
        let letters = evidence.chars();
        let plain = letters.map(|letter| match letter.is_control() {
            true => char::REPLACEMENT_CHARACTER,
            false => letter,
        });
        let evidence = plain.collect();
        self.reports.push(Reported { output, evidence });
        Ok(())
    }
}
