//! A quote of hardware as a peer sends it. The first byte says which parts of a real form are kept: a
//! whole quote is beyond what chance writes.

#![no_main]

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use skep_attest::{Endorsement, Quote as _, REPORT_BYTES, Requirement, Roots, SnpQuote};

/// In 2026.
const NOW: u64 = 1_780_000_000;

static ROOTS: LazyLock<Roots> = LazyLock::new(Roots::amd);

fuzz_target!(|bytes: &[u8]| {
    let Some((kind, bytes)) = bytes.split_first() else {
        return;
    };
    if kind % 2 == 0 {
        // Three certificates, cut where the first two bytes say.
        let Some(([a, b], rest)) = bytes.split_first_chunk() else {
            return;
        };
        let first = (usize::from(*a) * 16).min(rest.len());
        let second = (first + usize::from(*b) * 16).min(rest.len());
        let chain = [&rest[..first], &rest[first..second], &rest[second..]];
        assert!(Endorsement::of(chain, &ROOTS, NOW).is_err());
        return;
    }
    match SnpQuote::decode(bytes) {
        Ok(quote) => {
            assert!(bytes.len() > REPORT_BYTES);
            assert_eq!(quote.encode(), bytes);
            if let Ok(claims) = quote.check(&ROOTS, NOW) {
                let _ = Requirement::default().admit(&claims, &[0; 64]);
            }
        }
        Err(error) => {
            let _ = error.to_string();
        }
    }
});
