//! A constraint in the form that the library compiles.

use llguidance::api::TopLevelGrammar;
use serde_json::{Value, json};

use super::{CHOICES_LIMIT, Constraint, GrammarError, SOURCE_LIMIT};

/// The library's form of a constraint.
pub(super) fn of(constraint: &Constraint) -> Result<TopLevelGrammar, GrammarError> {
    let bytes = match constraint {
        Constraint::Choices(choices) => choices.iter().map(String::len).sum(),
        Constraint::Regex(text) | Constraint::JsonSchema(text) | Constraint::Lark(text) => {
            text.len()
        }
    };
    check("bytes", bytes, SOURCE_LIMIT)?;
    match constraint {
        Constraint::Choices(choices) => {
            check("choices", choices.len(), CHOICES_LIMIT)?;
            if choices.is_empty() {
                return Err(GrammarError::Invalid("it has no choices".to_owned()));
            }
            Ok(TopLevelGrammar::from_lark(lark_of(choices)))
        }
        Constraint::Regex(expression) => Ok(TopLevelGrammar::from_regex(expression)),
        Constraint::JsonSchema(schema) => schema_of(schema).map(TopLevelGrammar::from_json_schema),
        Constraint::Lark(grammar) => Ok(TopLevelGrammar::from_lark(grammar.clone())),
    }
}

fn check(what: &'static str, is: usize, limit: usize) -> Result<(), GrammarError> {
    match is > limit {
        true => Err(GrammarError::TooLarge { what, is, limit }),
        false => Ok(()),
    }
}

/// A grammar of one lexeme, which is any of the choices.
fn lark_of(choices: &[String]) -> String {
    let mut texts: Vec<&str> = choices.iter().map(String::as_str).collect();
    texts.sort_unstable();
    texts.dedup();
    let written: Vec<String> = texts
        .iter()
        .filter(|text| !text.is_empty())
        .map(|text| Value::from(*text).to_string())
        .collect();
    match (written.is_empty(), texts.first() == Some(&"")) {
        (true, _) => "start: \"\"".to_owned(),
        (false, empty) => {
            let optional = if empty { "?" } else { "" };
            format!("start: CHOICE{optional}\nCHOICE: {}\n", written.join(" | "))
        }
    }
}

/// A schema, with white space bounded where it does not say otherwise: a model that may write
/// any may never stop.
fn schema_of(schema: &str) -> Result<Value, GrammarError> {
    let mut schema: Value = serde_json::from_str(schema)
        .map_err(|error| GrammarError::Invalid(format!("the JSON schema is no JSON: {error}")))?;
    if schema == Value::Bool(true) {
        schema = json!({});
    }
    let Some(object) = schema.as_object_mut() else {
        return Err(GrammarError::Invalid(
            "the JSON schema is neither an object nor true".to_owned(),
        ));
    };
    object.entry("x-guidance").or_insert_with(
        || json!({"item_separator": ", ?", "key_separator": ": ?", "whitespace_flexible": false}),
    );
    Ok(schema)
}
