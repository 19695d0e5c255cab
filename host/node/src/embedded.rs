//! The small sentence encoder that comes with the binary, so that a first run needs no download.

use std::fs;
use std::io;
use std::path::PathBuf;

use skep_registry::Digest;

use crate::home::{Home, make_private};

/// The name of the embedded encoder.
pub const NAME: &str = "skep-mini-embed";

macro_rules! files {
    ($($path:literal),* $(,)?) => {
        [$(($path, include_bytes!(concat!("../../../models/skep-mini-embed/", $path)).as_slice())),*]
    };
}

/// The files of the encoder that running it takes.
const FILES: [(&str, &[u8]); 6] = files![
    "config.json",
    "tokenizer.json",
    "model.safetensors",
    "modules.json",
    "sentence_bert_config.json",
    "1_Pooling/config.json",
];

/// The digest of the embedded encoder: of its files' paths and digests, one behind the other.
pub fn digest() -> Digest {
    let mut whole = Vec::new();
    for (path, content) in FILES {
        whole.extend_from_slice(path.as_bytes());
        whole.push(0);
        whole.extend_from_slice(Digest::of(content).as_bytes());
    }
    Digest::of(&whole)
}

/// The folder of the encoder, written out unless it is there. The folder appears whole: it is
/// written beside its place and then renamed.
pub fn folder(home: &Home) -> io::Result<PathBuf> {
    let place = home.embedded().join(digest().to_string());
    if place.is_dir() {
        return Ok(place);
    }
    make_private(&home.embedded())?;
    let draft = home
        .embedded()
        .join(format!(".writing-{}", std::process::id()));
    for (path, content) in FILES {
        let path = draft.join(path);
        if let Some(parent) = path.parent() {
            make_private(parent)?;
        }
        fs::write(path, content)?;
    }
    match fs::rename(&draft, &place) {
        // Another process was faster; its folder has the same content.
        Err(_) if place.is_dir() => fs::remove_dir_all(&draft)?,
        result => result?,
    }
    Ok(place)
}
