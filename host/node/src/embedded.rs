//! What comes with the binary, so that a first run needs no download and a first training no
//! compiler: a sentence encoder, a language model, its adapters for the voices of a village, and the
//! recipe that trains adapters.
//!
//! It is written out to the home folder, because what loads models maps files into memory, and a
//! recipe is found there like any other.

use std::fs;
use std::io;
use std::path::PathBuf;
use std::sync::OnceLock;

use skep_registry::Digest;

use crate::home::{Home, make_private};

macro_rules! file {
    ($name:literal, $($path:tt)*) => {
        (
            $name,
            include_bytes!(concat!("../../../", $($path)*)).as_slice(),
        )
    };
}

macro_rules! files {
    ($folder:literal: $($path:literal),* $(,)?) => {
        &[$(($path, include_bytes!(concat!("../../../", $folder, "/", $path)).as_slice())),*]
    };
}

/// The sentence encoder.
pub static ENCODER: Embedded = Embedded {
    name: "skep-mini-embed",
    files: files![
        "models/skep-mini-embed":
        "config.json",
        "tokenizer.json",
        "model.safetensors",
        "modules.json",
        "sentence_bert_config.json",
        "1_Pooling/config.json",
    ],
    digest: OnceLock::new(),
};

/// The language model.
pub static LANGUAGE: Embedded = Embedded {
    name: "skep-mini-lm",
    files: files!["models/skep-mini-lm": "skep-mini-lm.gguf"],
    digest: OnceLock::new(),
};

macro_rules! voices {
    ($($voice:literal),* $(,)?) => {
        [$(Embedded {
            name: concat!("voice-", $voice),
            files: &[
                file!("adapter_config.json", "models/voices/", $voice, "/adapter_config.json"),
                file!(
                    "adapter_model.safetensors",
                    "models/voices/", $voice, "/adapter_model.safetensors"
                ),
            ],
            digest: OnceLock::new(),
        }),*]
    };
}

/// Adapters of the language model, one for each voice that the people of a village have.
/// `models/train_voices.py` trains them.
pub static VOICES: [Embedded; 8] = voices![
    "brisk", "devout", "dreamy", "grand", "gruff", "shy", "warm", "wry",
];

/// The recipe that fine-tunes when none is named. `cargo xtask guests --keep-recipe` builds it.
pub static RECIPE: Embedded = Embedded {
    name: "fine-tune",
    files: &[
        file!("skep.toml", "guests/fine-tune/skep.toml"),
        file!("README.md", "guests/fine-tune/README.md"),
        file!("fine-tune.wasm", "guests/fine-tune/built/fine-tune.wasm"),
    ],
    digest: OnceLock::new(),
};

/// A model or a package that comes with the binary.
pub struct Embedded {
    /// Its name.
    pub name: &'static str,
    /// The paths and contents of its files, as far as running it takes them.
    files: &'static [(&'static str, &'static [u8])],
    /// Known once somebody asked.
    digest: OnceLock<Digest>,
}

impl Embedded {
    /// Its digest. Of a single file it is the file's own, which is what the same file
    /// would be known by if somebody named it; of several it covers their paths and digests.
    pub fn digest(&self) -> Digest {
        *self.digest.get_or_init(|| self.hash())
    }

    fn hash(&self) -> Digest {
        if let [(_, content)] = self.files {
            return Digest::of(content);
        }
        let mut whole = Vec::new();
        for (path, content) in self.files {
            whole.extend_from_slice(path.as_bytes());
            whole.push(0);
            whole.extend_from_slice(Digest::of(content).as_bytes());
        }
        Digest::of(&whole)
    }

    /// The folder that it is in, written out unless it is there. The folder appears whole:
    /// it is written beside its place and then renamed.
    pub fn folder(&self, home: &Home) -> io::Result<PathBuf> {
        let place = home.embedded().join(self.digest().to_string());
        if place.is_dir() {
            return Ok(place);
        }
        make_private(&home.embedded())?;
        // Neither another process nor another thread of this one writes there.
        let draft = tempfile::Builder::new()
            .prefix(".writing-")
            .tempdir_in(home.embedded())?;
        for (path, content) in self.files {
            let path = draft.path().join(path);
            if let Some(parent) = path.parent() {
                make_private(parent)?;
            }
            fs::write(path, content)?;
        }
        match fs::rename(draft.path(), &place) {
            // Somebody was faster; their folder has the same content.
            Err(_) if place.is_dir() => {}
            result => {
                result?;
                // There is nothing at the old place to be cleaned up.
                let _ = draft.keep();
            }
        }
        Ok(place)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
mod tests {
    use super::*;

    #[test]
    fn each_is_written_out_whole_and_once() {
        let folder = tempfile::tempdir().unwrap();
        let home = Home::open(Some(folder.path().to_path_buf())).unwrap();
        let voices = VOICES.iter();
        for model in [&ENCODER, &LANGUAGE, &RECIPE].into_iter().chain(voices) {
            let place = model.folder(&home).unwrap();
            for (path, content) in model.files {
                assert_eq!(fs::read(place.join(path)).unwrap(), *content);
            }
            let marker = place.join("marker");
            fs::write(&marker, "").unwrap();
            assert_eq!(model.folder(&home).unwrap(), place);
            assert!(marker.is_file(), "it was written out again");
        }
        let entries = fs::read_dir(home.embedded()).unwrap();
        assert_eq!(entries.count(), 11, "a draft was left behind");
    }

    #[test]
    fn models_are_told_apart_and_a_file_keeps_its_own_digest() {
        assert_ne!(ENCODER.digest(), LANGUAGE.digest());
        assert_eq!(LANGUAGE.digest(), Digest::of(LANGUAGE.files[0].1));
    }
}
