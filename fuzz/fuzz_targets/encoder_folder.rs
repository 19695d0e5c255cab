//! A model's folder from a stranger: loading ends in an error or in an encoder that embeds.
//!
//! The first byte chooses the file that the rest becomes; the others are those of a sound, tiny
//! model, so that the fuzzer gets past the first file.

#![no_main]

mod tiny_encoder;

use std::sync::OnceLock;

use libfuzzer_sys::fuzz_target;
use skep_model::{EncodeError, Encoder};
use skep_tensor::{Account, Device};

fuzz_target!(|bytes: &[u8]| {
    static FOLDER: OnceLock<tempfile::TempDir> = OnceLock::new();
    let folder = FOLDER.get_or_init(|| {
        // The tokenizer library panics over some files, which the loader catches and reports. A
        // panic that nobody catches still ends the run.
        std::panic::set_hook(Box::new(|_| {}));
        tempfile::tempdir().expect("a temporary folder")
    });
    let Some((&which, content)) = bytes.split_first() else {
        return;
    };
    let sound = tiny_encoder::weights();
    let mut files = tiny_encoder::files(&sound);
    files[usize::from(which) % 6].1 = content;
    tiny_encoder::write(folder.path(), &files);
    match Encoder::load(folder.path(), &Device::cpu()) {
        Ok(encoder) => {
            let texts = ["a".to_owned(), "aa b a a a a a".to_owned(), String::new()];
            match encoder.embed(&texts, &Account::unlimited()) {
                Ok(tensor) => {
                    let rows = tensor.to_f32().expect("a finished tensor can be read");
                    assert!(rows.iter().all(|x| x.is_finite()));
                }
                Err(error) => assert!(!matches!(error, EncodeError::Internal(_)), "{error}"),
            }
        }
        Err(error) => {
            let _ = error.to_string();
        }
    }
});
