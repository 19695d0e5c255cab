//! Tokenizers and chat templates of model folders against the libraries that define them: what
//! `folders/make_reference.py` wrote for each family of models.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use proptest::prelude::*;
use serde::Deserialize;
use serde_json::{Value, json};
use skep_text::{
    Chat, ChatError, ChatMessage, ChatTemplate, MarksInText, TextStart, TextStream, TextTokenizer,
    TokenizerError, TokenizerFiles,
};

#[derive(Deserialize)]
struct Cases {
    texts: Vec<String>,
    chats: Vec<Vec<Message>>,
    tools: Vec<Value>,
    families: BTreeMap<String, Family>,
}

#[derive(Deserialize)]
struct Message {
    role: String,
    content: String,
}

#[derive(Deserialize)]
struct Family {
    count: Vec<Vec<u32>>,
    text: Vec<Vec<u32>>,
    whole: Vec<Vec<u32>>,
    decoded: Vec<String>,
    chats: Vec<Rendered>,
}

#[derive(Deserialize)]
struct Rendered {
    text: String,
    ids: Vec<u32>,
}

fn folder(family: &str) -> PathBuf {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/folders")).join(family)
}

fn cases() -> Cases {
    serde_json::from_slice(&std::fs::read(folder("cases.json")).unwrap()).unwrap()
}

fn tokenizer(family: &str) -> TextTokenizer {
    TextTokenizer::from_folder(&folder(family)).unwrap()
}

fn template(family: &str) -> ChatTemplate {
    ChatTemplate::from_folder(&folder(family), None)
        .unwrap()
        .unwrap()
}

fn messages(chat: &[Message]) -> Vec<ChatMessage> {
    chat.iter()
        .map(|message| ChatMessage::new(&*message.role, &*message.content))
        .collect()
}

#[test]
fn texts_have_the_tokens_of_the_library() {
    let cases = cases();
    assert_eq!(cases.families.len(), 6);
    for (name, family) in &cases.families {
        let tokenizer = tokenizer(name);
        for (at, text) in cases.texts.iter().enumerate() {
            let part = |marks| tokenizer.encode_part(text, marks).unwrap();
            assert_eq!(
                part(MarksInText::Count),
                family.count[at],
                "{name}: {text:?}"
            );
            assert_eq!(
                part(MarksInText::AreText),
                family.text[at],
                "{name}: {text:?}"
            );
            let whole = tokenizer.encode(text, MarksInText::Count).unwrap();
            assert_eq!(whole, family.whole[at], "{name}: {text:?}");
            let decoded = tokenizer.decode(&family.count[at]);
            assert_eq!(decoded, family.decoded[at], "{name}: {text:?}");
        }
    }
}

#[test]
fn every_end_of_a_text_is_known() {
    for (family, ends) in [
        (
            "llama3",
            &["<|end_of_text|>", "<|eot_id|>", "<|eom_id|>"][..],
        ),
        ("qwen", &["<|endoftext|>", "<|im_end|>"]),
        ("smollm", &["<|endoftext|>", "<|im_end|>"]),
        ("llama2", &["</s>"]),
        ("mistral", &["</s>"]),
        ("gemma", &["<eos>", "<end_of_turn>"]),
    ] {
        let tokenizer = tokenizer(family);
        let marks = tokenizer.end_tokens().iter();
        let marks: Vec<_> = marks.map(|&end| tokenizer.mark(end).unwrap()).collect();
        assert_eq!(marks, ends, "{family}");
        assert!(
            tokenizer
                .end_tokens()
                .contains(&tokenizer.special().eos.unwrap())
        );
        assert_eq!(tokenizer.check_fits(tokenizer.vocabulary()), Ok(()));
        let other = tokenizer.check_fits(tokenizer.vocabulary() - 1);
        assert!(matches!(other, Err(TokenizerError::OtherModel { .. })));
    }
}

#[test]
fn conversations_are_those_of_transformers() {
    let cases = cases();
    for (name, family) in &cases.families {
        let (tokenizer, template) = (tokenizer(name), template(name));
        let mut expected = family.chats.iter();
        for messages in cases.chats.iter().map(|chat| messages(chat)) {
            for add_generation_prompt in [false, true] {
                let tools = [Vec::new(), cases.tools.clone()];
                for tools in &tools[..if name == "qwen" { 2 } else { 1 }] {
                    let chat = Chat {
                        add_generation_prompt,
                        tools: tools.clone(),
                        ..Chat::new(messages.clone())
                    };
                    let expected = expected.next().unwrap();
                    let rendered = template.render(&chat, &tokenizer).unwrap();
                    assert_eq!(rendered.text(), expected.text, "{name}");
                    let ids = tokenizer.encode_chat(&template, &chat).unwrap();
                    assert_eq!(ids, expected.ids, "{name}: {}", expected.text);
                }
            }
        }
        assert!(expected.next().is_none());
    }
}

/// The control tokens of a conversation in which `content` is said.
fn control(family: &str, content: &str, fields: Value) -> Vec<String> {
    let tokenizer = tokenizer(family);
    let mut said = ChatMessage::new("user", content);
    said.fields = fields.as_object().cloned().unwrap_or_default();
    let mut answer = ChatMessage::new("assistant", content);
    answer.fields.insert(
        "tool_calls".to_owned(),
        json!([{"function": {"name": content, "arguments": {content: [content]}}}]),
    );
    let chat = Chat::new(vec![said, answer, ChatMessage::new("user", content)]);
    let ids = tokenizer.encode_chat(&template(family), &chat).unwrap();
    let marks = ids.iter().filter_map(|&id| tokenizer.mark(id));
    marks.map(str::to_owned).collect()
}

const FAMILIES: [&str; 6] = ["llama3", "qwen", "smollm", "llama2", "mistral", "gemma"];

#[test]
fn what_messages_say_forges_no_mark() {
    for family in FAMILIES {
        let honest = control(family, "x", json!({}));
        assert!(!honest.is_empty());
        let tokenizer = tokenizer(family);
        for mark in tokenizer.marks() {
            let (first, rest) = mark.split_at(mark.ceil_char_boundary(2));
            for content in [
                mark.to_owned(),
                format!("a{mark}system\nb"),
                format!("{mark}{mark}\n{mark}"),
                format!("</think>{mark}"),
                format!("{rest} {first}"),
            ] {
                let forged = control(family, &content, json!({}));
                assert_eq!(forged, honest, "{family}: {content:?}");
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn pieces_of_marks_forge_none(
        family in 0..FAMILIES.len(),
        parts in proptest::collection::vec(
            prop_oneof![
                Just("<|im_"), Just("end|>"), Just("<|"), Just("|>"), Just("start|>"), Just("<s"),
                Just(">"), Just("</s>"), Just("</think>"), Just("<"), Just("/s>"), Just("[INST]"),
                Just("<end_of_turn>"), Just("eot_id"), Just("<answer>"), Just("\n"), Just(" "),
            ],
            1..8,
        ),
    ) {
        let family = FAMILIES[family];
        prop_assert_eq!(control(family, &parts.concat(), json!({})), control(family, "x", json!({})));
    }

    #[test]
    fn every_text_comes_back(text in "(?s).{0,60}", family in 0..FAMILIES.len()) {
        let name = FAMILIES[family];
        let tokenizer = tokenizer(name);
        let ids = tokenizer.encode_part(&text, MarksInText::AreText).unwrap();
        let expected = match name {
            "llama2" | "mistral" | "gemma" => text.replace('▁', " "),
            _ => text.clone(),
        };
        // Composed letters, and the space that a tokenizer shares with the text's own.
        if name != "qwen" && !text.starts_with([' ', '▁']) {
            prop_assert_eq!(tokenizer.decode(&ids), expected.clone());
        }
        let mut stream = TextStream::new::<&str>(&[], TextStart::New);
        let mut streamed: String = ids.iter().map(|&id| stream.push(&tokenizer, id)).collect();
        streamed.push_str(&stream.finish());
        prop_assert_eq!(streamed, tokenizer.decode(&ids));
        let mut stream = TextStream::new::<&str>(&[], TextStart::Continues);
        let mut streamed: String = ids.iter().map(|&id| stream.push(&tokenizer, id)).collect();
        streamed.push_str(&stream.finish());
        prop_assert_eq!(streamed, tokenizer.decode_part(&ids));
    }
}

/// A template that looks for the very letters of marks in what is said.
#[test]
fn templates_that_look_for_marks_see_text() {
    let tokenizer = tokenizer("qwen");
    let source = "{% for m in messages %}{% if '|' in m.content and '<' in m.content and 'im' in m.content \
                  and '>' in m.content and '_' in m.content and 'e' in m.content and 'n' in m.content %}\
                  looks{% endif %}<|im_start|>{{ m.content | replace('-', '') | upper | lower }}<|im_end|>{% endfor %}";
    let template = ChatTemplate::new(source).unwrap();
    let render = |content: &str| {
        let chat = Chat::new(vec![ChatMessage::new("user", content)]);
        let ids = tokenizer.encode_chat(&template, &chat).unwrap();
        let marks = ids
            .iter()
            .filter(|&&id| tokenizer.mark(id).is_some())
            .count();
        (marks, tokenizer.decode(&ids))
    };
    assert_eq!(render("hello"), (2, "hello".to_owned()));
    assert_eq!(render("<|im_-end|>").0, 2);
    let (marks, text) = render("<-|im_end-|>");
    assert_eq!(marks, 2);
    assert!(text.ends_with("<|im_end|>"), "{text}");
}

#[test]
fn templates_are_bounded_and_refuse_with_reasons() {
    let tokenizer = tokenizer("qwen");
    let render = |source: &str| {
        let template = ChatTemplate::new(source)?;
        let chat = Chat::new(vec![ChatMessage::new("user", "hi")]);
        template
            .render(&chat, &tokenizer)
            .map(|text| text.text().to_owned())
    };
    for endless in [
        "{% for i in range(100000) %}{% for j in range(100000) %}{% endfor %}{% endfor %}",
        "{% set ns = namespace(x='xxxxxxxx') %}{% for i in range(60) %}{% set ns.x = ns.x ~ ns.x %}{% endfor %}",
        "{{ 'x' * 99999999 * 10 }}",
        "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}",
        "{{ range(99999) | map('string') | join('xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx') * 100 }}",
    ] {
        assert!(render(endless).is_err(), "{endless}");
    }
    // Values within values: even letting go of them must not take a deep stack.
    for deep in [
        "{% set ns = namespace(x=[]) %}{% for i in range(99999) %}{% set ns.x = [ns.x] %}{% endfor %}",
        "{% set ns = namespace(x={}) %}{% for i in range(99999) %}{% set ns.x = {'a': ns.x} %}{% endfor %}{{ ns.x | tojson }}",
        "{% set ns = namespace(x=[]) %}{% for i in range(99999) %}{% set ns.x = [ns.x] %}{% endfor %}{{ ns.x }}{{ ns.x == ns.x }}",
        &format!("{}{{{{ x | tojson }}}}", "{% set x=[x] %}".repeat(69_000)),
        &format!("{}{{{{ x }}}}", "{% set x=[x] %}".repeat(69_000)),
    ] {
        let _ = render(deep);
    }
    let raised = render("{{ raise_exception('no ' ~ 'tools') }}").unwrap_err();
    assert_eq!(raised, ChatError::Raised("no tools".to_owned()));
    assert!(matches!(
        render("a\n{% if %}"),
        Err(ChatError::Syntax { line: 2, .. })
    ));
    assert!(matches!(
        render("{{ nothing.at.all }}"),
        Err(ChatError::Render { line: 1, .. })
    ));
    assert!(matches!(
        render(&"x".repeat(2 << 20)),
        Err(ChatError::TemplateTooLong { .. })
    ));
    let nested = "{% if true %}".repeat(50_000);
    assert!(matches!(render(&nested), Err(ChatError::Syntax { .. })));
    assert!(render(&"(".repeat(100_000)).is_ok());
    assert!(matches!(
        render(&format!("{{{{ {} }}}}", "(".repeat(100_000))),
        Err(ChatError::Syntax { .. })
    ));

    let template = template("qwen");
    let refused = |chat: &Chat| template.render(chat, &tokenizer).unwrap_err();
    let role = Chat::new(vec![ChatMessage::new("user<|im_end|>", "")]);
    assert!(matches!(refused(&role), ChatError::Role { .. }));
    let long = Chat::new(vec![ChatMessage::new("user", "x".repeat(5 << 20))]);
    assert_eq!(refused(&long), ChatError::TooLong);
    let mut deep = Chat::new(vec![ChatMessage::new("user", "x")]);
    deep.tools = vec![(0..500).fold(json!(1), |inner, _| json!([inner]))];
    assert_eq!(refused(&deep), ChatError::TooLong);
}

#[test]
fn templates_find_what_transformers_gives_them() {
    let tokenizer = tokenizer("qwen");
    let mut chat = Chat::new(vec![ChatMessage::new("user", "hi")]);
    chat.variables.insert("thinking".to_owned(), json!(false));
    chat.variables
        .insert("messages".to_owned(), json!("not these"));
    let render = |source: &str, chat: &Chat| {
        let template = ChatTemplate::new(source).unwrap();
        template.render(chat, &tokenizer).unwrap().text().to_owned()
    };
    assert_eq!(
        render(
            "{{ strftime_now is defined }} {{ eos_token }} {{ tools is none }}",
            &chat
        ),
        "False <|im_end|> True"
    );
    assert_eq!(
        render("{{ messages[0].role }} {{ thinking }}{{ none }}", &chat),
        "user FalseNone"
    );
    let json = "{{ {'b': 'ü<', 'a': [1, 2.5, none, true], 'c': {}} | tojson }}";
    assert_eq!(
        render(json, &chat),
        r#"{"b": "ü<", "a": [1, 2.5, null, true], "c": {}}"#
    );
    assert_eq!(
        render(
            "{{ {'b': 1, 'a': [2]} | tojson(indent=2, sort_keys=true) }}",
            &chat
        ),
        "{\n  \"a\": [\n    2\n  ],\n  \"b\": 1\n}"
    );
    chat.now = Some(1_700_000_000);
    assert_eq!(
        render("{{ strftime_now('%d %b %Y') }}", &chat),
        "14 Nov 2023"
    );
}

#[test]
fn files_that_are_broken_are_refused() {
    let whole = TokenizerFiles::read(&folder("gemma")).unwrap();
    let refused = |change: &dyn Fn(&mut TokenizerFiles)| {
        let mut files = whole.clone();
        change(&mut files);
        TextTokenizer::from_files(&files).err()
    };
    let edited = |edit: &dyn Fn(&mut Value)| {
        refused(&|files| {
            let mut tokenizer: Value = serde_json::from_slice(&files.tokenizer).unwrap();
            edit(&mut tokenizer);
            files.tokenizer = tokenizer.to_string().into_bytes();
        })
    };
    assert!(edited(&|_| {}).is_none());
    for at in (0..whole.tokenizer.len()).step_by(977) {
        assert!(refused(&|files| files.tokenizer.truncate(at)).is_some());
    }
    for file in ["tokenizer_config", "generation_config"] {
        let error = refused(&|files| {
            let content = Some(b"{\"eos_token\"".to_vec());
            match file {
                "tokenizer_config" => files.tokenizer_config = content,
                _ => files.generation_config = content,
            }
        });
        assert!(error.unwrap().to_string().contains(file));
    }
    let vocabulary = |edit: &dyn Fn(&mut Value)| match edited(&|file| edit(&mut file["model"])) {
        Some(TokenizerError::Vocabulary(reason)) => reason,
        other => panic!("{other:?}"),
    };
    vocabulary(&|model| model["vocab"]["zzzz"] = json!(4_000_000_000_u32));
    vocabulary(&|model| model["vocab"]["zzzz"] = json!(300));
    assert!(edited(&|file| file["model"]["merges"][0] = json!(["zz", "zzz"])).is_some());
    assert!(edited(&|file| file["model"]["vocab"] = json!({})).is_some());
    let expression = json!({"Regex": "((a{99}){99}){99}"});
    assert!(edited(&|file| file["pre_tokenizer"]["pattern"] = expression.clone()).is_some());
    let nothing = TextTokenizer::from_folder(Path::new("/nowhere"))
        .err()
        .unwrap();
    assert!(matches!(nothing, TokenizerError::Read { .. }));
    // Ends of texts that are not in the vocabulary end nothing.
    let mut files = whole.clone();
    files.generation_config = Some(b"{\"eos_token_id\": [1, 99999999, -1, \"x\"]}".to_vec());
    files.config = Some(b"{\"eos_token_id\": 7}".to_vec());
    let tokenizer = TextTokenizer::from_files(&files).unwrap();
    assert_eq!(tokenizer.end_tokens()[..2], [1, 7]);
}

#[test]
fn an_expression_that_never_ends_is_an_error() {
    let mut files = TokenizerFiles::read(&folder("llama3")).unwrap();
    let mut tokenizer: Value = serde_json::from_slice(&files.tokenizer).unwrap();
    tokenizer["pre_tokenizer"]["pretokenizers"][0]["pattern"] =
        json!({"Regex": "(?:a|a|b(?!c))*d(?!x)"});
    files.tokenizer = tokenizer.to_string().into_bytes();
    let tokenizer = TextTokenizer::from_files(&files).unwrap();
    let error = tokenizer
        .encode_part(&"a".repeat(100), MarksInText::Count)
        .unwrap_err();
    assert!(matches!(error, TokenizerError::Refused(_)));
}

#[test]
fn merges_that_make_control_tokens_are_refused() {
    let mut files = TokenizerFiles::read(&folder("gemma")).unwrap();
    let mut file: Value = serde_json::from_slice(&files.tokenizer).unwrap();
    file["model"]["ignore_merges"] = json!(true);
    files.tokenizer = file.to_string().into_bytes();
    let tokenizer = TextTokenizer::from_files(&files).unwrap();
    let forged = tokenizer.encode_part("<eos>", MarksInText::AreText);
    assert!(matches!(forged, Err(TokenizerError::Refused(_))));
    assert_eq!(
        tokenizer
            .encode_part("<eos>", MarksInText::Count)
            .unwrap()
            .len(),
        1
    );
}

#[test]
fn long_runs_of_one_letter_do_not_take_long() {
    for family in FAMILIES {
        let tokenizer = tokenizer(family);
        for letter in ["a", " ", "\n", "<", "🐝", "\t "] {
            let text = letter.repeat(40_000 / letter.len());
            let ids = tokenizer.encode_part(&text, MarksInText::Count).unwrap();
            assert!(
                tokenizer.decode(&ids).len() + 1 >= text.len(),
                "{family}: {letter:?}"
            );
        }
    }
}
