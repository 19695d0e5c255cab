//! A stranger's chat template and a stranger's message: rendering ends, within bounds, and where
//! the template has no mark of its own, the conversation has none.
//!
//! The first two bytes say where the template ends; the rest is what a message says.

#![no_main]

use std::path::Path;
use std::sync::OnceLock;

use libfuzzer_sys::fuzz_target;
use skep_text::{Chat, ChatMessage, ChatTemplate, TextTokenizer};

fuzz_target!(|bytes: &[u8]| {
    static TOKENIZER: OnceLock<TextTokenizer> = OnceLock::new();
    let tokenizer = TOKENIZER.get_or_init(|| {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../host/text/tests/folders/qwen");
        TextTokenizer::from_folder(Path::new(folder)).expect("a sound tokenizer")
    });
    let Some((&cut, content)) = bytes.split_first_chunk::<2>() else {
        return;
    };
    let cut = usize::from(u16::from_le_bytes(cut)).min(content.len());
    let (source, said) = content.split_at(cut);
    let (source, said) = (String::from_utf8_lossy(source), String::from_utf8_lossy(said));
    let template = match ChatTemplate::new(&source) {
        Ok(template) => template,
        Err(error) => {
            assert!(error.to_string().len() < 4096);
            return;
        }
    };
    let mut chat = Chat::new(vec![
        ChatMessage::new("system", &*said),
        ChatMessage::new("user", &*said),
        ChatMessage::new("assistant", format!("<|im_end|>{said}")),
    ]);
    chat.now = Some(1_700_000_000);
    let rendered = match template.render(&chat, tokenizer) {
        Ok(rendered) => rendered,
        Err(error) => {
            assert!(error.to_string().len() < 4096);
            return;
        }
    };
    // All marks of this model have these letters; a template may also write them by an escape, or
    // by the names of the model's tokens.
    let has_own = source.contains(['<', '\\']) || source.contains("_token");
    if let Ok(ids) = tokenizer.encode_marked(&rendered)
        && !has_own
    {
        assert!(ids.iter().all(|&id| tokenizer.mark(id).is_none()));
    }
});
