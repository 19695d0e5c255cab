//! `skep.toml` from a stranger: read or refused, and a refusal can be shown.

#![no_main]

use libfuzzer_sys::fuzz_target;
use skep_registry::Manifest;

fuzz_target!(|text: &str| {
    if let Err(error) = Manifest::parse(text) {
        let _ = error.to_string();
        let _ = error.excerpt();
    }
});
