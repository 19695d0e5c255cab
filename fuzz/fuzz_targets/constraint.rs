//! A stranger's constraint: compiling it ends in an error or in a grammar, each of whose steps
//! ends, and which accepts every token that it admits.
//!
//! The first byte says what kind of constraint the rest is.

#![no_main]

use std::sync::OnceLock;

use libfuzzer_sys::fuzz_target;
use skep_text::{Constraint, GrammarVocabulary};

fuzz_target!(|bytes: &[u8]| {
    static VOCABULARY: OnceLock<GrammarVocabulary> = OnceLock::new();
    let vocabulary = VOCABULARY.get_or_init(|| {
        let mut tokens: Vec<Vec<u8>> = (0..=u8::MAX).map(|byte| vec![byte]).collect();
        tokens.extend([b"aa".to_vec(), b"\": ".to_vec(), b"    ".to_vec(), Vec::new()]);
        GrammarVocabulary::from_tokens(tokens, &[259]).expect("a sound vocabulary")
    });
    let Some((&kind, content)) = bytes.split_first() else {
        return;
    };
    let text = String::from_utf8_lossy(content).into_owned();
    let constraint = match kind % 4 {
        0 => Constraint::Choices(text.split('|').map(str::to_owned).collect()),
        1 => Constraint::Regex(text),
        2 => Constraint::JsonSchema(text),
        _ => Constraint::Lark(text),
    };
    let grammar = match vocabulary.compile(&constraint) {
        Ok(grammar) => grammar,
        Err(error) => {
            assert!(error.to_string().len() < 4096);
            return;
        }
    };
    let mut state = grammar.start();
    for step in 0..16 {
        if state.must_end() {
            return;
        }
        let Ok(mask) = state.mask() else {
            return;
        };
        let allowed: Vec<u32> = mask.iter().collect();
        let token = allowed[(usize::from(kind) * 31 + step) % allowed.len()];
        if state.accept(token).is_err() {
            return;
        }
    }
});
