//! A release from a peer: whatever is accepted has exactly one encoding, the one that came.

#![no_main]

use libfuzzer_sys::fuzz_target;
use skep_registry::{Digest, SignedRelease};

fuzz_target!(|bytes: &[u8]| match SignedRelease::decode(bytes) {
    Ok(release) => {
        assert_eq!(release.encode(), bytes);
        assert_eq!(release.digest(), Digest::of(bytes));
    }
    Err(error) => {
        let _ = error.to_string();
    }
});
