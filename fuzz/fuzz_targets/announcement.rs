//! What a node says of itself, as others pass it on: the first eight bytes are the time at which it
//! comes. Nobody signs by chance, so all that is before the signature is looked at, and nothing is
//! accepted.

#![no_main]

use libfuzzer_sys::fuzz_target;
use skep_swarm::Announcement;

fuzz_target!(|bytes: &[u8]| {
    let Some((now, bytes)) = bytes.split_first_chunk::<8>() else {
        return;
    };
    match Announcement::decode(bytes, u64::from_be_bytes(*now)) {
        Ok(announcement) => panic!("a forged announcement of {}", announcement.node()),
        Err(error) => assert!(error.to_string().len() < 256),
    }
});
