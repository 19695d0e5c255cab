//! The tokenizer of the project's own small language model, read from its GGUF file, gives the ids
//! that the `tokenizers` library gives (`models/lm_gguf.py`).
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use std::path::{Path, PathBuf};

use skep_text::{MarksInText, TextTokenizer};
use skep_weights::Gguf;

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models/skep-mini-lm")
}

#[test]
fn texts_are_cut_as_when_the_model_learned() {
    let file = Gguf::open(&folder().join("skep-mini-lm.gguf")).unwrap();
    let description = file.tokenizer().unwrap().unwrap();
    assert!(description.chat_template.is_some());
    let tokenizer = TextTokenizer::new(&description).unwrap();
    let cases = std::fs::read(folder().join("reference.json")).unwrap();
    let cases: Vec<serde_json::Value> = serde_json::from_slice(&cases).unwrap();
    assert!(!cases.is_empty());
    for case in cases {
        let text = case["text"].as_str().unwrap();
        let ids: Vec<u64> = serde_json::from_value(case["ids"].clone()).unwrap();
        let own = tokenizer.encode(text, MarksInText::Count).unwrap();
        assert!(own.iter().map(|id| u64::from(*id)).eq(ids), "{text:?}");
        assert!(text.starts_with("<|") || tokenizer.decode(&own) == text);
    }
}
