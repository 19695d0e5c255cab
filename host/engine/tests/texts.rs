//! Texts in letters, by the project's own small language model: stops, constraints and chances, with
//! a draft model and without.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod common;

use std::sync::Arc;

use common::backend::start;
use common::{caller, mini_lm};
use skep_engine::{
    Completion, Constraint, Engine, Finish, LanguageModel, Options, Priority, Request, Sampling,
};

/// Two engines that must do the same: one guesses.
fn engines() -> [Engine; 2] {
    let models = [mini_lm(), mini_lm().with_draft(mini_lm()).unwrap()];
    models.map(|model| {
        let options = Options {
            pages: 256,
            model_drafts: 3,
            steady_drafts: true,
            ..Options::default()
        };
        start(Arc::new(model), options)
    })
}

fn one(engine: &Engine, request: &Request) -> Completion {
    let caller = caller(1, Priority::Normal);
    let answers = engine.generate(&caller, vec![request.clone()]).wait();
    answers.into_iter().next().unwrap().unwrap().remove(0)
}

fn request(model: &LanguageModel, prompt: &str, tokens: usize) -> Request {
    Request::greedy(model.encode_text(prompt).unwrap(), tokens)
}

#[test]
fn stops_end_texts_wherever_tokens_meet() {
    for engine in engines() {
        let model = engine.model();
        let open = request(model, "The package", 24);
        let whole = one(&engine, &open);
        let tokenizer = model.tokenizer().unwrap();
        let mut crossed = 0;
        let mut before = String::new();
        for pair in whole.tokens.windows(2) {
            let [left, right] = [pair[0], pair[1]].map(|token| tokenizer.decode_part(&[token]));
            before.push_str(&left);
            let (Some(last), Some(first)) = (left.chars().last(), right.chars().next()) else {
                continue;
            };
            let stop: String = [last, first].iter().collect();
            let at = whole.text.find(&stop).unwrap();
            let stopped = one(
                &engine,
                &Request {
                    stop: vec!["never said".to_owned(), stop],
                    ..open.clone()
                },
            );
            assert_eq!(
                (&*stopped.text, stopped.finish),
                (&whole.text[..at], Finish::Stop)
            );
            // The tokens of the stop are told, and none after them.
            assert!(whole.tokens.starts_with(&stopped.tokens));
            crossed += usize::from(at + last.len_utf8() == before.len());
        }
        assert!(crossed > 3, "hardly a stop lay across two tokens");
    }
}

#[test]
fn constraints_are_kept_and_end_texts() {
    let choices = ["nothing", "a lantern", "the whole net"];
    for engine in engines() {
        let model = engine.model();
        for (seed, temperature) in [(1, 0.0), (2, 1.0), (3, 1.5)] {
            let held = |constraint| Request {
                constraint: Some(constraint),
                sampling: Sampling {
                    temperature,
                    seed,
                    ..Sampling::GREEDY
                },
                ..request(model, "ticket: it is broken\nlabel:", 60)
            };
            let all = choices.map(str::to_owned).to_vec();
            let text = one(&engine, &held(Constraint::Choices(all)));
            assert!(choices.contains(&&*text.text), "{}", text.text);
            assert_eq!(text.finish, Finish::End);
            let expression = "(ab|c){2,5} [0-9]{3}".to_owned();
            let text = one(&engine, &held(Constraint::Regex(expression))).text;
            let (letters, digits) = text.split_once(' ').unwrap();
            assert!(letters.chars().all(|c| "abc".contains(c)), "{text}");
            assert!(digits.len() == 3 && digits.parse::<u32>().is_ok(), "{text}");
            let schema = r#"{"type": "object", "properties": {"label": {"enum": ["bug", "bill"]},
                "urgent": {"type": "boolean"}}, "required": ["label", "urgent"],
                "additionalProperties": false}"#;
            let text = one(&engine, &held(Constraint::JsonSchema(schema.to_owned()))).text;
            let json: serde_json::Value = serde_json::from_str(&text).unwrap();
            assert!(json["label"] == "bug" || json["label"] == "bill", "{json}");
            assert!(json["urgent"].is_boolean(), "{json}");
            // Brackets that are closed again, which no regular expression can say.
            let grammar = "start: \"<\" inner \">\"\ninner: \"(\" inner \")\" | \"x\"".to_owned();
            let text = one(&engine, &held(Constraint::Lark(grammar))).text;
            let inner = text.trim_start_matches('<').trim_end_matches('>');
            let deep = inner.find('x').unwrap();
            let expected = format!("{}x{}", "(".repeat(deep), ")".repeat(deep));
            assert_eq!(inner, expected);
        }
    }
}

#[test]
fn what_sampling_asks_for_is_what_is_written() {
    for engine in engines() {
        let model = engine.model();
        let open = request(model, "She had not expected", 12);
        let plain = one(&engine, &open);
        // A token is brought about, another is kept out, and the chances are the model's own.
        let unwanted = plain.tokens[0];
        let wanted = unwanted ^ 1;
        let biased = |logit_bias| Request {
            logprobs: Some(3),
            sampling: Sampling {
                logit_bias,
                ..Sampling::GREEDY
            },
            ..open.clone()
        };
        let always = one(&engine, &biased(vec![(wanted, 1e6)]));
        assert!(always.tokens.iter().all(|token| *token == wanted));
        assert!(always.logprobs.iter().all(|chance| chance.token == wanted));
        assert!(always.logprobs[0].logprob < always.logprobs[0].likeliest[0].1);
        assert_eq!(always.logprobs[0].likeliest[0].0, unwanted);
        let never = one(&engine, &biased(vec![(unwanted, -1e6)]));
        assert!(!never.tokens.contains(&unwanted));
        // With `min_p` at 1 only the likeliest is left, whatever the temperature is.
        let hot = Request {
            sampling: Sampling {
                temperature: 5.0,
                min_p: 1.0,
                seed: 9,
                ..Sampling::GREEDY
            },
            ..open.clone()
        };
        assert_eq!(one(&engine, &hot).tokens, plain.tokens);
        // What was said is not said again where that costs more than anything.
        let fresh = Request {
            sampling: Sampling {
                presence_penalty: 1e6,
                ..Sampling::GREEDY
            },
            ..open.clone()
        };
        let mut tokens = one(&engine, &fresh).tokens;
        tokens.sort_unstable();
        tokens.dedup();
        assert_eq!(tokens.len(), 12);
    }
}
