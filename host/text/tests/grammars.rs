//! Constrained texts against judges that know nothing of how they were made: random texts under
//! the mask are read by the `regex` crate, by a reader of JSON, or looked up among the choices.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::BTreeSet;
use std::path::Path;

use proptest::prelude::*;
use serde_json::Value;
use skep_text::{
    Constraint, Grammar, GrammarError, GrammarState, GrammarVocabulary, TextTokenizer,
};

/// A vocabulary of single bytes, of `more`, and of two tokens that end a text, with what each
/// token writes.
fn vocabulary(more: &[&str]) -> (GrammarVocabulary, Vec<Vec<u8>>, [u32; 2]) {
    let mut tokens: Vec<Vec<u8>> = (0..=u8::MAX).map(|byte| vec![byte]).collect();
    tokens.extend(more.iter().map(|token| token.as_bytes().to_vec()));
    let ends = [tokens.len() as u32, tokens.len() as u32 + 2];
    tokens.extend([b"<end>".to_vec(), Vec::new(), Vec::new()]);
    let vocabulary = GrammarVocabulary::from_tokens(tokens.clone(), &ends).unwrap();
    (vocabulary, tokens, ends)
}

/// Writes a random text of at most `most` tokens under the mask; nothing if it did not end.
fn walk(
    grammar: &Grammar,
    tokens: &[Vec<u8>],
    ends: [u32; 2],
    choices: &[u32],
    most: usize,
) -> Option<Vec<u8>> {
    let mut state = grammar.start();
    let mut text = Vec::new();
    for &choice in choices.iter().cycle().take(most) {
        let mask = state.mask().unwrap();
        let allowed: Vec<u32> = mask.iter().collect();
        assert_eq!(allowed.len(), mask.count());
        let token = allowed[choice as usize % allowed.len()];
        let may_end = state.may_end().unwrap();
        assert_eq!(mask.allows(ends[0]), may_end);
        assert_eq!(mask.allows(ends[1]), may_end);
        assert_eq!(state.admitted(&[token]), Ok(1));
        check_outsiders(&mut state, &allowed, tokens.len() as u32, choice);
        state.accept(token).unwrap();
        if ends.contains(&token) {
            assert!(state.must_end());
            return Some(text);
        }
        text.extend_from_slice(&tokens[token as usize]);
        if state.must_end() {
            assert_eq!(state.mask().unwrap().iter().collect::<Vec<_>>(), ends);
            return Some(text);
        }
    }
    None
}

/// Tokens that are not in the mask are refused, and change nothing.
fn check_outsiders(state: &mut GrammarState, allowed: &[u32], count: u32, from: u32) {
    for token in (from % 7..count + 3).step_by(37) {
        if allowed.binary_search(&token).is_err() {
            assert_eq!(
                state.accept(token),
                Err(GrammarError::NotAdmitted { token })
            );
        }
    }
}

fn texts() -> impl Strategy<Value = String> {
    prop_oneof![
        "[ab]{0,4}",
        "yes|no|maybe",
        "[a-c é\"\\\\\n/#]{0,5}",
        "🐝{1,2}"
    ]
}

fn expression() -> impl Strategy<Value = String> {
    let leaf = prop_oneof![
        Just("a".to_owned()),
        Just("bc".to_owned()),
        Just("é".to_owned()),
        Just("[a-d]".to_owned()),
        Just("[^ab]".to_owned()),
        Just("\\d".to_owned()),
        Just("\\/".to_owned()),
        Just("\\\\".to_owned()),
        Just(".".to_owned()),
        Just("\"".to_owned()),
    ];
    leaf.prop_recursive(3, 12, 3, |inner| {
        prop_oneof![
            (inner.clone(), inner.clone()).prop_map(|(a, b)| a + &b),
            (inner.clone(), inner.clone()).prop_map(|(a, b)| format!("(?:{a}|{b})")),
            inner.clone().prop_map(|a| format!("(?:{a})?")),
            inner.clone().prop_map(|a| format!("(?:{a})*")),
            inner.prop_map(|a| format!("(?:{a}){{1,3}}")),
        ]
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn choices_are_written_whole_and_all_can_be(
        choices in proptest::collection::vec(texts(), 1..6),
        random in proptest::collection::vec(any::<u32>(), 1..20),
    ) {
        let more: Vec<&str> = choices.iter().map(String::as_str).filter(|text| text.len() > 1).collect();
        let (vocabulary, tokens, ends) = vocabulary(&more);
        let grammar = vocabulary.compile(&Constraint::Choices(choices.clone())).unwrap();
        let text = walk(&grammar, &tokens, ends, &random, 200).unwrap();
        let text = String::from_utf8(text).unwrap();
        prop_assert!(choices.contains(&text), "{:?}", text);
        // Each choice byte by byte, and at once where it is a token.
        for choice in &choices {
            let bytes: Vec<u32> = choice.bytes().map(u32::from).collect();
            let mut draft = bytes.clone();
            draft.push(ends[0]);
            let mut state = grammar.start();
            prop_assert_eq!(state.admitted(&draft), Ok(draft.len()));
            for token in bytes {
                state.accept(token).unwrap();
            }
            prop_assert!(state.may_end().unwrap());
            if let Some(whole) = more.iter().position(|token| token == choice) {
                let mut state = grammar.start();
                state.accept(256 + whole as u32).unwrap();
                prop_assert!(state.may_end().unwrap());
            }
        }
    }

    #[test]
    fn texts_match_their_expression(
        expression in expression(),
        random in proptest::collection::vec(any::<u32>(), 1..40),
    ) {
        let (vocabulary, tokens, ends) = vocabulary(&["ab", "bc", "a\"", "éé", "aa", "12"]);
        let grammar = vocabulary.compile(&Constraint::Regex(expression.clone())).unwrap();
        let judge = regex::Regex::new(&format!("^(?:{expression})$")).unwrap();
        if let Some(text) = walk(&grammar, &tokens, ends, &random, 60) {
            let text = String::from_utf8(text).unwrap();
            prop_assert!(judge.is_match(&text), "{:?} is not {}", text, expression);
        }
    }

    #[test]
    fn what_an_expression_matches_is_admitted(expression in expression(), text in "[abcdé1/\\\\\"\n]{0,6}") {
        let (vocabulary, _, ends) = vocabulary(&[]);
        let grammar = vocabulary.compile(&Constraint::Regex(expression.clone())).unwrap();
        let judge = regex::Regex::new(&format!("^(?:{expression})$")).unwrap();
        let mut draft: Vec<u32> = text.bytes().map(u32::from).collect();
        draft.push(ends[1]);
        let whole = grammar.start().admitted(&draft).unwrap() == draft.len();
        prop_assert_eq!(whole, judge.is_match(&text), "{} and {:?}", expression, text);
    }
}

const SCHEMA: &str = r#"{
    "type": "object",
    "properties": {
        "name": {"type": "string", "minLength": 1, "maxLength": 5},
        "bees": {"type": "integer", "minimum": 3, "maximum": 120},
        "kind": {"enum": ["lime", "heather", 7]},
        "frames": {"type": "array", "items": {"type": "boolean"}, "minItems": 1, "maxItems": 3},
        "queen": {"type": ["null", "number"], "minimum": -99, "maximum": 99}
    },
    "required": ["name", "bees", "kind", "frames"],
    "additionalProperties": false
}"#;

/// Whether JSON is what `SCHEMA` says, read by hand.
fn is_hive(text: &str) -> bool {
    let Ok(Value::Object(hive)) = serde_json::from_str::<Value>(text) else {
        return false;
    };
    let name = hive["name"]
        .as_str()
        .is_some_and(|name| (1..=5).contains(&name.chars().count()));
    let bees = hive["bees"]
        .as_i64()
        .is_some_and(|bees| (3..=120).contains(&bees));
    let kind =
        [Value::from("lime"), Value::from("heather"), Value::from(7)].contains(&hive["kind"]);
    let frames = hive["frames"].as_array().is_some_and(|frames| {
        (1..=3).contains(&frames.len()) && frames.iter().all(Value::is_boolean)
    });
    let queen = hive.get("queen").is_none_or(|queen| {
        queen.is_null()
            || queen
                .as_f64()
                .is_some_and(|queen| (-99.0..=99.0).contains(&queen))
    });
    let known = ["name", "bees", "kind", "frames", "queen"];
    name && bees && kind && frames && queen && hive.keys().all(|key| known.contains(&&**key))
}

#[test]
fn json_keeps_to_its_schema() {
    let (vocabulary, tokens, ends) =
        vocabulary(&["{\"", "\": ", "name", "true", "\", \"", "1", "\"}", ", "]);
    let grammar = vocabulary
        .compile(&Constraint::JsonSchema(SCHEMA.to_owned()))
        .unwrap();
    let mut finished = 0;
    let mut random = 7_u32;
    for _ in 0..60 {
        let choices: Vec<u32> = (0..150)
            .map(|_| {
                random = random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                random >> 8
            })
            .collect();
        if let Some(text) = walk(&grammar, &tokens, ends, &choices, 150) {
            let text = String::from_utf8(text).unwrap();
            assert!(is_hive(&text), "{text}");
            finished += 1;
        }
    }
    assert!(finished > 10, "{finished} texts came to their end");
    let good = r#"{"name": "Aé","bees":77, "kind": 7,"frames":[true, false], "queen": -1.5}"#;
    assert!(is_hive(good));
    let admitted = |text: &str| {
        let draft: Vec<u32> = text.bytes().map(u32::from).chain([ends[0]]).collect();
        grammar.start().admitted(&draft).unwrap() == draft.len()
    };
    assert!(admitted(good));
    for bad in [
        &good.replace("77", "2"),
        &good.replace("77", "121"),
        &good.replace("[true, false]", "[]"),
        &good.replace("Aé", "Abcdef"),
    ] {
        assert!(!is_hive(bad) && !admitted(bad), "{bad}");
    }
}

#[test]
fn grammars_are_shared_by_threads() {
    fn shared<T: Send + Sync>() {}
    shared::<(GrammarVocabulary, Grammar, GrammarState)>();
}

#[test]
fn rules_may_call_themselves() {
    let (vocabulary, tokens, ends) = vocabulary(&["((", "))", "()"]);
    let grammar = vocabulary
        .compile(&Constraint::Lark(
            "start: pair+\npair: \"(\" pair* \")\"".to_owned(),
        ))
        .unwrap();
    let mut seen = BTreeSet::new();
    for seed in 0..40_u32 {
        let choices: Vec<u32> = (0..40)
            .map(|at| seed.wrapping_mul(2_654_435_761).rotate_left(at))
            .collect();
        if let Some(text) = walk(&grammar, &tokens, ends, &choices, 40) {
            let depth = text.iter().try_fold(0_i32, |depth, &byte| {
                let depth = depth + if byte == b'(' { 1 } else { -1 };
                (depth >= 0).then_some(depth)
            });
            assert_eq!(depth, Some(0), "{text:?}");
            seen.insert(text);
        }
    }
    assert!(seen.len() > 5, "{}", seen.len());
}

#[test]
fn drafts_are_judged_without_a_trace_and_forks_go_their_own_way() {
    let (vocabulary, _, ends) = vocabulary(&["ye", "s"]);
    let grammar = vocabulary
        .compile(&Constraint::Choices(vec![
            "yes".to_owned(),
            "yesterday".to_owned(),
        ]))
        .unwrap();
    let mut state = grammar.start();
    let yes = [256, 257];
    assert_eq!(state.admitted(&[256, 257, ends[0], ends[1], 97]), Ok(4));
    assert_eq!(state.admitted(&[256, ends[0]]), Ok(1));
    assert_eq!(state.admitted(&[256, 99_999]), Ok(1));
    assert_eq!(state.admitted(&[]), Ok(0));
    assert_eq!(state.forced(), b"yes");
    let before = state.mask().unwrap();
    for token in yes {
        state.accept(token).unwrap();
    }
    let mut fork = state.clone();
    fork.accept(ends[1]).unwrap();
    assert!(fork.must_end() && !state.must_end());
    for byte in b"terday" {
        state.accept(u32::from(*byte)).unwrap();
    }
    assert!(state.must_end());
    assert_eq!(
        state.accept(97),
        Err(GrammarError::NotAdmitted { token: 97 })
    );
    assert_eq!(state.admitted(&[ends[0]]), Ok(1));
    assert_eq!(grammar.start().mask().unwrap(), before);
}

#[test]
fn a_vocabulary_that_cannot_say_it_comes_to_a_dead_end() {
    let tokens = vec![b"a".to_vec(), b"b".to_vec(), Vec::new()];
    let vocabulary = GrammarVocabulary::from_tokens(tokens, &[2]).unwrap();
    let grammar = vocabulary
        .compile(&Constraint::Regex("abc".to_owned()))
        .unwrap();
    let mut state = grammar.start();
    state.accept(0).unwrap();
    state.accept(1).unwrap();
    assert_eq!(state.mask(), Err(GrammarError::DeadEnd));
    assert!(GrammarVocabulary::from_tokens(Vec::new(), &[]).is_err());
    let endless = GrammarVocabulary::from_tokens(vec![b"a".to_vec()], &[]).unwrap();
    let mut state = endless
        .compile(&Constraint::Regex("a+".to_owned()))
        .unwrap()
        .start();
    assert_eq!(state.mask().unwrap().iter().collect::<Vec<_>>(), [0]);
    let long =
        GrammarVocabulary::from_tokens(vec![vec![b'a'; 100_000], b"a".to_vec()], &[]).unwrap();
    let mut state = long
        .compile(&Constraint::Regex("a+".to_owned()))
        .unwrap()
        .start();
    assert_eq!(state.mask().unwrap().iter().collect::<Vec<_>>(), [1]);
}

#[test]
fn the_vocabularies_of_tokenizers_are_theirs() {
    for family in ["llama2", "llama3"] {
        let folder = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/folders")).join(family);
        let tokenizer = TextTokenizer::from_folder(&folder).unwrap();
        let vocabulary = GrammarVocabulary::new(&tokenizer).unwrap();
        let choices = vec!["größer 🐝".to_owned(), "the hive".to_owned()];
        let grammar = vocabulary
            .compile(&Constraint::Choices(choices.clone()))
            .unwrap();
        let mut written = BTreeSet::new();
        for seed in 0..20 {
            let mut state = grammar.start();
            let mut tokens = Vec::new();
            while !state.must_end() {
                let allowed: Vec<u32> = state.mask().unwrap().iter().collect();
                let token = allowed[(seed * 31 + tokens.len() * 7) % allowed.len()];
                state.accept(token).unwrap();
                tokens.push(token);
            }
            written.insert(tokenizer.decode_part(&tokens));
        }
        assert_eq!(written, choices.into_iter().collect(), "{family}");
    }
}

#[test]
fn hostile_constraints_are_errors_or_bounded() {
    let (vocabulary, _, _) = vocabulary(&["aaaa", "aaaaaaaa", "    "]);
    let nested = format!("{}a{}", "(".repeat(5_000), ")".repeat(5_000));
    let schema = (0..60).fold("{}".to_owned(), |inner, _| {
        format!("{{\"properties\": {{\"a\": {inner}}}}}")
    });
    // Three and more items of a rule for each: more than there may be.
    let many = (0..600)
        .map(|at| format!("\"{at}\": {{\"type\": \"string\"}}"))
        .collect::<Vec<_>>()
        .join(",");
    let ambiguous = "start: a\na: a a | \"a\" | \"aa\" | \"\"".to_owned();
    let alternatives = (0..200)
        .map(|at| format!("(a|b)*a(a|b){{{at}}}"))
        .collect::<Vec<_>>()
        .join("|");
    let long_rule = format!("start: {}", "\"a\"? ".repeat(20_000));
    for constraint in [
        Constraint::Regex(nested),
        Constraint::Regex("(((a{1000}){1000}){1000}){1000}".to_owned()),
        Constraint::Regex("((a?){500}){500}b".to_owned()),
        Constraint::Regex("(a|aa|aaa)*[^a](.*a.{200})*".to_owned()),
        Constraint::Regex(alternatives),
        Constraint::Regex("a\\b".to_owned()),
        Constraint::Regex("(?=a)b".to_owned()),
        Constraint::Regex("(".to_owned()),
        Constraint::Regex("x".repeat(300 << 10)),
        Constraint::Choices(Vec::new()),
        Constraint::Choices(vec!["a".to_owned(); 5_000]),
        Constraint::Choices((0..4_000).map(|at| format!("choice {at}")).collect()),
        Constraint::JsonSchema("{".to_owned()),
        Constraint::JsonSchema("[]".to_owned()),
        Constraint::JsonSchema("false".to_owned()),
        Constraint::JsonSchema("true".to_owned()),
        Constraint::JsonSchema(schema),
        Constraint::JsonSchema(format!(
            "{{\"type\": \"object\", \"properties\": {{{many}}}}}"
        )),
        Constraint::JsonSchema("{\"$ref\": \"#\"}".to_owned()),
        Constraint::JsonSchema("{\"$ref\": \"http://localhost/x\"}".to_owned()),
        Constraint::JsonSchema("{\"allOf\": [{\"$ref\": \"#\"}, {\"$ref\": \"#\"}]}".to_owned()),
        Constraint::JsonSchema(
            "{\"type\": \"array\", \"minItems\": 4000000000, \"items\": {}}".to_owned(),
        ),
        Constraint::JsonSchema("{\"type\": \"string\", \"maxLength\": 4000000000}".to_owned()),
        Constraint::JsonSchema(
            "{\"type\": \"string\", \"pattern\": \"((a{999}){999}){999}\"}".to_owned(),
        ),
        Constraint::Lark(ambiguous),
        Constraint::Lark(long_rule),
        Constraint::Lark("start: start".to_owned()),
        Constraint::Lark("start: \"a\" <[256-999999]> <end>".to_owned()),
        Constraint::Lark("start: a{1,100000000}\na: \"x\"".to_owned()),
        Constraint::Lark("%llguidance {\"no_forcing\": true}\nstart: /a/".to_owned()),
        Constraint::Lark("%import common.NOTHING".to_owned()),
        Constraint::Lark("start: @7".to_owned()),
        Constraint::Lark(String::new()),
    ] {
        // It comes to an end, which the runner of tests waits for.
        if let Err(error) = follow(&vocabulary, &constraint) {
            assert!(error.to_string().len() < 600);
        }
    }
}

/// Writes `a`s, or whatever comes first, for some steps.
fn follow(vocabulary: &GrammarVocabulary, constraint: &Constraint) -> Result<(), GrammarError> {
    let mut state = vocabulary.compile(constraint)?.start();
    for _ in 0..40 {
        if state.must_end() {
            return Ok(());
        }
        let mask = state.mask()?;
        let token = match mask.allows(u32::from(b'a')) {
            true => u32::from(b'a'),
            false => mask.iter().next().unwrap_or(0),
        };
        state.admitted(&[token; 8])?;
        state.accept(token)?;
    }
    Ok(())
}
