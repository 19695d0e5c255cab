//! What is learned from: one JSON object a line, in one of four forms.

use serde_json::{Map, Value};

/// What a line holds.
#[derive(Debug, Clone, PartialEq)]
pub enum Record {
    /// What is given, and what is to be written to it.
    Completion { prompt: String, completion: String },
    /// A conversation, as roles and what was said; what assistants say is to be learned.
    Chat(Vec<(String, String)>),
    /// A text, and the label that is to be written to it.
    Labelled { text: String, label: String },
    /// A text that is to be learned whole.
    Text(String),
}

/// What a line is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// To be learned from, or held out to see whether anything was learned.
    Learn,
    /// Never looked at before all is learned: to say then what it came to.
    Test,
}

/// A record, what it is for, and the number of its line, from 1.
#[derive(Debug, Clone, PartialEq)]
pub struct Numbered {
    pub line: usize,
    pub part: Part,
    pub record: Record,
}

/// Reads all lines. Empty ones count and hold nothing.
///
/// # Errors
/// At the first line that is none of the forms, with its number.
pub fn parse(bytes: &[u8]) -> Result<Vec<Numbered>, String> {
    let mut records = Vec::new();
    for (number, line) in bytes.split(|byte| *byte == b'\n').enumerate() {
        if line.trim_ascii().is_empty() {
            continue;
        }
        let number = number + 1;
        let value: Value = serde_json::from_slice(line)
            .map_err(|error| format!("line {number} is not JSON: {error}"))?;
        let wrong = |reason| format!("line {number}: {reason}");
        records.push(Numbered {
            line: number,
            part: part(&value).map_err(wrong)?,
            record: record(&value).map_err(wrong)?,
        });
    }
    if records.is_empty() {
        return Err(
            "there is nothing to learn from: the data have no line; write one JSON object a line, \
             such as {\"prompt\": \"…\", \"completion\": \"…\"}"
                .to_owned(),
        );
    }
    Ok(records)
}

fn part(value: &Value) -> Result<Part, String> {
    match value.get("split") {
        None => Ok(Part::Learn),
        Some(Value::String(name)) if name == "train" => Ok(Part::Learn),
        Some(Value::String(name)) if name == "test" => Ok(Part::Test),
        Some(other) => Err(format!(
            "`split` is {other}; it may be \"train\" or \"test\""
        )),
    }
}

fn record(value: &Value) -> Result<Record, String> {
    let Some(object) = value.as_object() else {
        return Err("it is no object".to_owned());
    };
    if object.contains_key("prompt") || object.contains_key("completion") {
        return Ok(Record::Completion {
            prompt: text(object, "prompt")?,
            completion: text_with_something(object, "completion")?,
        });
    }
    if let Some(messages) = object.get("messages") {
        return chat(messages);
    }
    if object.contains_key("label") {
        return Ok(Record::Labelled {
            text: text_with_something(object, "text")?,
            label: text_with_something(object, "label")?,
        });
    }
    if object.contains_key("text") {
        return Ok(Record::Text(text_with_something(object, "text")?));
    }
    Err(
        "it has neither `prompt` and `completion`, nor `messages`, nor `text` with or without \
         `label`"
            .to_owned(),
    )
}

fn chat(messages: &Value) -> Result<Record, String> {
    let list = messages.as_array().ok_or("`messages` is no list")?;
    let turn = |(place, turn): (usize, &Value)| {
        let turn = turn.as_object();
        let turn = turn.ok_or_else(|| format!("`messages[{place}]` is no object"))?;
        Ok((text(turn, "role")?, text(turn, "content")?))
    };
    let turns: Vec<_> = list
        .iter()
        .enumerate()
        .map(turn)
        .collect::<Result<_, String>>()?;
    // An answer comes to something that was said.
    if !turns.iter().skip(1).any(|(role, _)| role == "assistant") {
        return Err(
            "no turn of `messages` but the first is of the role `assistant`, whose words \
                    are learned"
                .to_owned(),
        );
    }
    Ok(Record::Chat(turns))
}

fn text(object: &Map<String, Value>, key: &str) -> Result<String, String> {
    match object.get(key) {
        Some(Value::String(text)) => Ok(text.clone()),
        Some(_) => Err(format!("`{key}` is no text")),
        None => Err(format!("it has no `{key}`")),
    }
}

fn text_with_something(object: &Map<String, Value>, key: &str) -> Result<String, String> {
    let text = text(object, key)?;
    match text.trim().is_empty() {
        true => Err(format!("`{key}` is empty")),
        false => Ok(text),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(line: &str) -> Result<Record, String> {
        parse(line.as_bytes()).map(|mut records| records.remove(0).record)
    }

    #[test]
    fn each_form_is_known_by_its_keys() {
        let completion = one(r#"{"prompt": "a", "completion": "b"}"#);
        let want = Record::Completion {
            prompt: "a".to_owned(),
            completion: "b".to_owned(),
        };
        assert_eq!(completion, Ok(want));
        let labelled = one(r#"{"text": "a", "label": "b", "id": 3}"#);
        assert!(matches!(labelled, Ok(Record::Labelled { .. })));
        assert_eq!(one(r#"{"text": "a"}"#), Ok(Record::Text("a".to_owned())));
        let chat = one(
            r#"{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}"#,
        );
        assert!(matches!(chat, Ok(Record::Chat(turns)) if turns.len() == 2));
    }

    #[test]
    fn what_is_wrong_is_told_with_its_line() {
        for (lines, says) in [
            (
                "{\"text\": \"a\"}\n\n{\"text\": \"b\"",
                "line 3 is not JSON",
            ),
            ("[1]", "line 1: it is no object"),
            ("{\"text\": 1}", "line 1: `text` is no text"),
            ("{\"text\": \" \"}", "`text` is empty"),
            ("{\"prompt\": \"a\"}", "no `completion`"),
            ("{\"words\": \"a\"}", "neither `prompt`"),
            (
                "{\"messages\": [{\"role\": \"assistant\", \"content\": \"a\"}]}",
                "no turn",
            ),
            (
                "{\"text\": \"a\", \"split\": \"dev\"}",
                "`split` is \"dev\"",
            ),
            ("{\"messages\": [3]}", "`messages[0]` is no object"),
            ("\u{0}", "line 1 is not JSON"),
            ("", "nothing to learn from"),
            ("\n \n", "nothing to learn from"),
        ] {
            let error = parse(lines.as_bytes());
            assert!(
                matches!(&error, Err(text) if text.contains(says)),
                "{error:?}"
            );
        }
    }
}
