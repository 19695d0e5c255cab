//! Small packages for the tests of this crate, those within it and those in `tests/`.

use skep_registry::{Content, Digest, Draft, FileEntry, Model, PublisherKey};

/// A publisher's key, the same for the same seed within one test process.
pub(crate) fn key(seed: u8) -> &'static PublisherKey {
    use std::collections::HashMap;
    use std::sync::Mutex;
    static KEYS: Mutex<Option<HashMap<u8, &'static PublisherKey>>> = Mutex::new(None);
    let mut keys = KEYS.lock().unwrap();
    keys.get_or_insert_default()
        .entry(seed)
        .or_insert_with(|| Box::leak(Box::new(PublisherKey::generate().unwrap())))
}

/// A draft of a package with these files, or with one that is in no store.
pub(crate) fn draft(name: &str, version: &str, files: &[(&str, &[u8])]) -> Draft {
    let files: &[(&str, &[u8])] = if files.is_empty() {
        &[("a", b"absent")]
    } else {
        files
    };
    Draft {
        name: name.parse().unwrap(),
        version: version.parse().unwrap(),
        description: None,
        license: None,
        readme: None,
        content: Content::Model(Model {
            task: "sentence-encoder".parse().unwrap(),
        }),
        files: files
            .iter()
            .map(|(path, content)| FileEntry {
                path: path.parse().unwrap(),
                digest: Digest::of(content),
                size: content.len() as u64,
            })
            .collect(),
    }
}
