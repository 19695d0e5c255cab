//! What a person types for a package, and every other name: whatever is read prints as text that
//! reads as the same.

#![no_main]

use libfuzzer_sys::fuzz_target;
use skep_registry::{Digest, ModelGrant, PackagePath, PackageRef, PublisherId, units};

fuzz_target!(|text: &str| {
    if let Ok(reference) = text.parse::<PackageRef>() {
        assert_eq!(reference.to_string().parse(), Ok(reference));
    }
    if let Ok(digest) = text.parse::<Digest>() {
        assert_eq!(digest.to_string(), text);
    }
    if let Ok(publisher) = text.parse::<PublisherId>() {
        assert_eq!(publisher.to_string(), text);
    }
    if let Ok(path) = text.parse::<PackagePath>() {
        assert!(
            path.as_str()
                .split('/')
                .all(|part| !part.is_empty() && part != "." && part != "..")
        );
    }
    if let Ok(model) = text.parse::<ModelGrant>() {
        assert_eq!(model.to_string(), text);
    }
    if let Ok(bytes) = units::parse_bytes(text) {
        assert_eq!(units::parse_bytes(&units::format_bytes(bytes)), Ok(bytes));
    }
    if let Ok(work) = units::parse_work(text) {
        assert_eq!(units::parse_work(&units::format_work(work)), Ok(work));
    }
    if let Ok(duration) = units::parse_duration(text) {
        assert_eq!(
            units::parse_duration(&units::format_duration(duration)),
            Ok(duration)
        );
    }
});
