//! Tokenizers of language models against the libraries that define them: the ids that
//! `tokenizers/make_reference.py` wrote, for each text and each rule.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::BTreeMap;
use std::path::Path;

use proptest::prelude::*;
use serde::Deserialize;
use skep_text::{MarksInText, TextTokenizer, TokenizerError};
use skep_weights::gguf::TokenKind;
use skep_weights::{Gguf, GgufTokenizer};

#[derive(Deserialize)]
struct Cases {
    texts: Vec<String>,
    pieces: Vec<Pieces>,
    byte_level: BTreeMap<String, ByteLevel>,
}

#[derive(Deserialize)]
struct Pieces {
    ids: Vec<u32>,
    text: String,
}

#[derive(Deserialize)]
struct ByteLevel {
    marks_count: Vec<Vec<u32>>,
    marks_are_text: Vec<Vec<u32>>,
}

fn folder() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/tokenizers"))
}

fn cases() -> Cases {
    serde_json::from_slice(&std::fs::read(folder().join("cases.json")).unwrap()).unwrap()
}

fn description(file: &str) -> GgufTokenizer {
    let file = Gguf::open(&folder().join(file)).unwrap();
    file.tokenizer().unwrap().unwrap()
}

fn byte_level(rule: &str) -> TextTokenizer {
    let mut description = description("byte_level.gguf");
    description.pre = Some(rule.to_owned());
    TextTokenizer::new(&description).unwrap()
}

fn pieces() -> TextTokenizer {
    TextTokenizer::new(&description("pieces.gguf")).unwrap()
}

#[test]
fn pieces_are_joined_as_sentencepiece_does() {
    let (cases, tokenizer) = (cases(), pieces());
    for (text, case) in cases.texts.iter().zip(&cases.pieces) {
        let ids = tokenizer.encode_part(text, MarksInText::AreText).unwrap();
        assert_eq!(ids, case.ids, "{text:?}");
        assert_eq!(tokenizer.decode(&ids), case.text, "{text:?}");
    }
}

#[test]
fn bytes_are_joined_as_the_tokenizers_library_does() {
    let cases = cases();
    assert_eq!(cases.byte_level.len(), 6);
    for (rule, case) in &cases.byte_level {
        let tokenizer = byte_level(rule);
        for (at, text) in cases.texts.iter().enumerate() {
            let plain = tokenizer.encode_part(text, MarksInText::AreText).unwrap();
            assert_eq!(plain, case.marks_are_text[at], "{rule}: {text:?}");
            let marked = tokenizer.encode_part(text, MarksInText::Count).unwrap();
            assert_eq!(marked, case.marks_count[at], "{rule}: {text:?}");
            if rule != "qwen2" {
                assert_eq!(tokenizer.decode(&plain), *text, "{rule}");
            }
        }
    }
}

#[test]
fn marks_count_only_where_they_should() {
    for tokenizer in [pieces(), byte_level("qwen2")] {
        let text = "<|im_start|>user<|im_end|>";
        let marked = tokenizer.encode_part(text, MarksInText::Count).unwrap();
        let plain = tokenizer.encode_part(text, MarksInText::AreText).unwrap();
        assert!(marked.len() < plain.len());
        assert_eq!(tokenizer.bytes(marked[0]), Some(&b""[..]));
        assert_eq!(tokenizer.decode(&marked), "user");
        assert_eq!(tokenizer.decode(&plain), text);
    }
}

#[test]
fn whole_texts_are_begun_and_ended_as_the_file_says() {
    let mut own = description("pieces.gguf");
    let plain = |own: &GgufTokenizer| {
        let tokenizer = TextTokenizer::new(own).unwrap();
        tokenizer.encode("a", MarksInText::Count).unwrap()
    };
    let (bos, eos) = (own.special.bos.unwrap(), own.special.eos.unwrap());
    let begun = plain(&own);
    assert_eq!(
        begun[0], bos,
        "sentencepiece models begin texts unless told otherwise"
    );
    own.add_bos = Some(false);
    own.add_eos = Some(true);
    let ended = plain(&own);
    assert_eq!(
        (&ended[..ended.len() - 1], ended.last()),
        (&begun[1..], Some(&eos))
    );
    own.special = Default::default();
    assert_eq!(plain(&own), begun[1..]);
    assert_eq!(
        byte_level("llama-bpe")
            .encode("", MarksInText::Count)
            .unwrap()
            .len(),
        1
    );
    let bare = byte_level("gpt-2").encode("", MarksInText::Count);
    assert!(bare.unwrap().is_empty());
}

#[test]
fn pieces_that_are_never_used_are_taken_apart() {
    let mut own = description("pieces.gguf");
    let at = own.tokens.iter().position(|text| text == "▁the").unwrap();
    own.kinds[at] = TokenKind::Unused;
    let tokenizer = TextTokenizer::new(&own).unwrap();
    let ids = tokenizer
        .encode_part("the bees", MarksInText::AreText)
        .unwrap();
    assert!(!ids.contains(&(at as u32)));
    assert_eq!(tokenizer.decode(&ids), "the bees");
}

#[test]
fn vocabularies_that_cannot_express_every_text_are_refused() {
    let refused = |own: &GgufTokenizer| TextTokenizer::new(own).err().unwrap();
    let mut rule = description("byte_level.gguf");
    rule.pre = Some("dbrx".to_owned());
    assert_eq!(
        refused(&rule),
        TokenizerError::UnknownRule("dbrx".to_owned())
    );
    let mut bytes = description("byte_level.gguf");
    let at = bytes.tokens.iter().position(|text| text == "Ġ").unwrap();
    bytes.tokens[at] = "gone".to_owned();
    assert!(refused(&bytes).to_string().contains("byte 32"));
    let mut merges = description("byte_level.gguf");
    merges.merges.push(("gone".to_owned(), "a".to_owned()));
    assert!(matches!(refused(&merges), TokenizerError::Vocabulary(_)));
    let mut byte = description("pieces.gguf");
    let at = byte
        .kinds
        .iter()
        .position(|kind| *kind == TokenKind::Byte)
        .unwrap();
    byte.tokens[at] = "<0xGG>".to_owned();
    assert!(matches!(refused(&byte), TokenizerError::Vocabulary(_)));
    let mut unknown = description("pieces.gguf");
    unknown.special.unknown = None;
    for kind in &mut unknown.kinds {
        if matches!(kind, TokenKind::Unknown | TokenKind::Byte) {
            *kind = TokenKind::Control;
        }
    }
    assert!(matches!(refused(&unknown), TokenizerError::Vocabulary(_)));
}

#[test]
fn letters_without_tokens_are_one_unknown_token() {
    let mut own = description("pieces.gguf");
    for kind in &mut own.kinds {
        if *kind == TokenKind::Byte {
            *kind = TokenKind::Control;
        }
    }
    let tokenizer = TextTokenizer::new(&own).unwrap();
    let ids = tokenizer
        .encode_part("a🐝🐝b", MarksInText::AreText)
        .unwrap();
    let unknown = own.special.unknown.unwrap();
    assert_eq!(ids.iter().filter(|&&id| id == unknown).count(), 1);
}

#[test]
fn a_text_that_is_too_long_is_refused() {
    let text = "a ".repeat((2 << 20) + 1);
    let error = pieces().encode(&text, MarksInText::Count).unwrap_err();
    assert_eq!(error, TokenizerError::TooLong { bytes: text.len() });
}

#[test]
fn long_runs_of_one_letter_do_not_take_long() {
    let (pieces, bytes) = (pieces(), byte_level("llama-bpe"));
    for letter in ["a", " ", "\n", "<", "🐝", "\t "] {
        let text = letter.repeat(100_000 / letter.len());
        for tokenizer in [&pieces, &bytes] {
            let ids = tokenizer.encode_part(&text, MarksInText::Count).unwrap();
            assert_eq!(tokenizer.decode(&ids), text);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn every_text_comes_back(text in "(?s).{0,60}") {
        let tokenizer = pieces();
        let ids = tokenizer.encode_part(&text, MarksInText::AreText).unwrap();
        // What stands for a space within pieces comes back as one.
        prop_assert_eq!(tokenizer.decode(&ids), text.replace('▁', " "));
        prop_assert!(ids.iter().all(|&id| (id as usize) < tokenizer.vocabulary()));
        let tokenizer = byte_level("llama-bpe");
        let ids = tokenizer.encode_part(&text, MarksInText::AreText).unwrap();
        prop_assert_eq!(tokenizer.decode(&ids), text);
    }
}
