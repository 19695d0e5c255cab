//! The tokenizer of a stranger's GGUF file: building it ends in an error or in a tokenizer whose
//! tokens are all in its vocabulary.
//!
//! The first two bytes say where the file ends; the rest is a text.

#![no_main]

use libfuzzer_sys::fuzz_target;
use skep_text::{ChatTemplate, MarksInText, TextTokenizer};
use skep_weights::Gguf;

fuzz_target!(|bytes: &[u8]| {
    let Some((&cut, content)) = bytes.split_first_chunk::<2>() else {
        return;
    };
    let cut = usize::from(u16::from_le_bytes(cut)).min(content.len());
    let (file, text) = content.split_at(cut);
    let Ok(file) = Gguf::from_parts(vec![file.to_vec()]) else {
        return;
    };
    let Ok(Some(description)) = file.tokenizer() else {
        return;
    };
    if let Some(source) = &description.chat_template
        && let Err(error) = ChatTemplate::new(source)
    {
        assert!(error.to_string().len() < 4096);
    }
    let Ok(tokenizer) = TextTokenizer::new(&description) else {
        return;
    };
    let text = String::from_utf8_lossy(text);
    for marks in [MarksInText::Count, MarksInText::AreText] {
        let Ok(ids) = tokenizer.encode(&text, marks) else {
            continue;
        };
        assert!(ids.iter().all(|&id| (id as usize) < tokenizer.vocabulary()));
        let _ = tokenizer.decode(&ids);
    }
    for &end in tokenizer.end_tokens() {
        assert!((end as usize) < tokenizer.vocabulary());
    }
});
