//! The tokenizer of a stranger's folder: loading ends in an error or in a tokenizer whose tokens
//! are all in its vocabulary, and in which a stranger's text makes no control token.
//!
//! The first four bytes say where `tokenizer.json` and `tokenizer_config.json` end; the rest is a
//! text.

#![no_main]

use libfuzzer_sys::fuzz_target;
use skep_text::{ChatTemplate, MarksInText, TextTokenizer, TokenizerFiles};

fuzz_target!(|bytes: &[u8]| {
    let Some((lengths, content)) = bytes.split_first_chunk::<4>() else {
        return;
    };
    let first = usize::from(u16::from_le_bytes([lengths[0], lengths[1]])).min(content.len());
    let (tokenizer, content) = content.split_at(first);
    let second = usize::from(u16::from_le_bytes([lengths[2], lengths[3]])).min(content.len());
    let (config, text) = content.split_at(second);
    let text = String::from_utf8_lossy(text);
    if let Err(error) = ChatTemplate::from_config(config, None) {
        assert!(error.to_string().len() < 4096);
    }
    let files = TokenizerFiles {
        tokenizer: tokenizer.to_vec(),
        tokenizer_config: Some(config.to_vec()),
        generation_config: Some(config.to_vec()),
        ..TokenizerFiles::default()
    };
    let tokenizer = match TextTokenizer::from_files(&files) {
        Ok(tokenizer) => tokenizer,
        Err(error) => {
            let _ = error.to_string();
            return;
        }
    };
    for &end in tokenizer.end_tokens() {
        assert!((end as usize) < tokenizer.vocabulary());
    }
    for marks in [MarksInText::Count, MarksInText::AreText] {
        let Ok(ids) = tokenizer.encode_part(&text, marks) else {
            continue;
        };
        let _ = tokenizer.decode(&ids);
        for id in ids {
            assert!((id as usize) < tokenizer.vocabulary());
            // The token of unknown text is a control token that any text may make.
            let unknown = tokenizer.special().unknown == Some(id)
                || tokenizer.mark(id).is_some_and(|mark| mark.contains("unk"));
            assert!(marks == MarksInText::Count || unknown || tokenizer.mark(id).is_none());
        }
    }
});
