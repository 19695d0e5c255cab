//! One JSON object per line.

use std::fmt;

use serde::de::{Deserialize, Deserializer, Error as _, IgnoredAny, MapAccess, SeqAccess, Visitor};

use crate::error::RecordError;
use crate::reader::Record;

/// Reads the record in a line.
pub(crate) fn parse(line: &[u8], number: u64, labels: bool) -> Result<Record, RecordError> {
    let line = std::str::from_utf8(line).map_err(|_| RecordError::NotUtf8)?;
    let object: Object = serde_json::from_str(line).map_err(|error| {
        let text = error.to_string();
        // The line number within the one line says nothing.
        let reason = text.split(" at line ").next().unwrap_or(&text).to_owned();
        RecordError::Json {
            column: error.column(),
            reason,
        }
    })?;
    let text = match object.text {
        Some(Scalar::Text(text)) => text,
        Some(other) => return Err(wrong_type("text", "a text", &other)),
        None => return Err(RecordError::MissingField { field: "text" }),
    };
    let id = object
        .id
        .map(|id| id.into_text("id"))
        .transpose()?
        .flatten();
    let label = if labels {
        object
            .label
            .map(|label| label.into_text("label"))
            .transpose()?
            .flatten()
    } else {
        None
    };
    Ok(Record {
        id: id.unwrap_or_else(|| number.to_string()),
        text,
        label,
    })
}

/// The fields of an object that matter; the others are skipped without being kept.
#[derive(Default)]
struct Object {
    id: Option<Scalar>,
    text: Option<Scalar>,
    label: Option<Scalar>,
}

enum Scalar {
    Text(String),
    Number(String),
    Null,
    Other(&'static str),
}

impl Scalar {
    /// The text of an identifier or a label, or nothing where it is null.
    fn into_text(self, field: &'static str) -> Result<Option<String>, RecordError> {
        match self {
            Self::Text(text) | Self::Number(text) => Ok(Some(text)),
            Self::Null => Ok(None),
            other @ Self::Other(_) => Err(wrong_type(field, "a text or a whole number", &other)),
        }
    }
}

fn wrong_type(field: &'static str, expected: &'static str, found: &Scalar) -> RecordError {
    let found = match found {
        Scalar::Text(_) => "a text",
        Scalar::Number(_) => "a number",
        Scalar::Null => "null",
        Scalar::Other(what) => what,
    };
    RecordError::WrongType {
        field,
        expected,
        found,
    }
}

impl<'de> Deserialize<'de> for Object {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ObjectVisitor)
    }
}

struct ObjectVisitor;

impl<'de> Visitor<'de> for ObjectVisitor {
    type Value = Object;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object such as {\"text\": \"…\"}")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Object, A::Error> {
        let mut object = Object::default();
        while let Some(key) = map.next_key::<Key>()? {
            let (slot, name) = match key {
                Key::Id => (&mut object.id, "id"),
                Key::Text => (&mut object.text, "text"),
                Key::Label => (&mut object.label, "label"),
                Key::Other => {
                    map.next_value::<IgnoredAny>()?;
                    continue;
                }
            };
            if slot.replace(map.next_value()?).is_some() {
                return Err(A::Error::custom(format_args!(
                    "the field `{name}` is there twice"
                )));
            }
        }
        Ok(object)
    }
}

enum Key {
    Id,
    Text,
    Label,
    Other,
}

impl<'de> Deserialize<'de> for Key {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct KeyVisitor;
        impl Visitor<'_> for KeyVisitor {
            type Value = Key;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a key")
            }

            fn visit_str<E>(self, key: &str) -> Result<Key, E> {
                Ok(match key {
                    "id" => Key::Id,
                    "text" => Key::Text,
                    "label" => Key::Label,
                    _ => Key::Other,
                })
            }
        }
        deserializer.deserialize_str(KeyVisitor)
    }
}

impl<'de> Deserialize<'de> for Scalar {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ScalarVisitor)
    }
}

struct ScalarVisitor;

impl<'de> Visitor<'de> for ScalarVisitor {
    type Value = Scalar;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_str<E>(self, text: &str) -> Result<Scalar, E> {
        Ok(Scalar::Text(text.to_owned()))
    }

    fn visit_string<E>(self, text: String) -> Result<Scalar, E> {
        Ok(Scalar::Text(text))
    }

    fn visit_u64<E>(self, number: u64) -> Result<Scalar, E> {
        Ok(Scalar::Number(number.to_string()))
    }

    fn visit_i64<E>(self, number: i64) -> Result<Scalar, E> {
        Ok(Scalar::Number(number.to_string()))
    }

    fn visit_f64<E>(self, _: f64) -> Result<Scalar, E> {
        // Two long numbers may be the same as floating-point ones, so this is no identifier.
        Ok(Scalar::Other(
            "a number that is not whole, or too large (write it in quotes)",
        ))
    }

    fn visit_bool<E>(self, _: bool) -> Result<Scalar, E> {
        Ok(Scalar::Other("true or false"))
    }

    fn visit_unit<E>(self) -> Result<Scalar, E> {
        Ok(Scalar::Null)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Scalar, A::Error> {
        while seq.next_element::<IgnoredAny>()?.is_some() {}
        Ok(Scalar::Other("a list"))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Scalar, A::Error> {
        while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
        Ok(Scalar::Other("an object"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(line: &str) -> Record {
        parse(line.as_bytes(), 9, true).unwrap()
    }

    fn error(line: &str) -> String {
        parse(line.as_bytes(), 9, true).unwrap_err().to_string()
    }

    #[test]
    fn the_fields_that_matter_are_read() {
        let record = read(
            r#"{"id": "a\"b", "extra": {"text": [1, {}]}, "text": "Gr\u00fc\u00df", "label": "x"}"#,
        );
        assert_eq!(
            record,
            Record {
                id: "a\"b".into(),
                text: "Grüß".into(),
                label: Some("x".into())
            }
        );
        assert_eq!(read(r#"{"id": -5, "text": ""}"#).id, "-5");
        assert_eq!(
            read(r#"{"id": 18446744073709551615, "text": ""}"#).id,
            "18446744073709551615"
        );
        assert_eq!(read(r#"{"text": "no identifier"}"#).id, "9");
        assert_eq!(
            read(r#"{"id": null, "text": "", "label": null}"#),
            Record {
                id: "9".into(),
                text: String::new(),
                label: None
            }
        );
    }

    #[test]
    fn a_label_is_read_only_when_it_is_asked_for() {
        let line = br#"{"text": "", "label": ["not", "a", "label"]}"#;
        assert_eq!(parse(line, 1, false).unwrap().label, None);
        assert!(parse(line, 1, true).is_err());
    }

    #[test]
    fn the_errors_say_what_is_wrong() {
        insta::assert_snapshot!(error("{"), @"this is not a JSON object (column 1): EOF while parsing an object");
        insta::assert_snapshot!(error("[1]"), @r#"this is not a JSON object (column 1): invalid type: sequence, expected an object such as {"text": "…"}"#);
        insta::assert_snapshot!(error(r#"{"text": "a"} {"text": "b"}"#), @"this is not a JSON object (column 15): trailing characters");
        insta::assert_snapshot!(error("{}"), @"there is no field `text`");
        insta::assert_snapshot!(error(r#"{"text": 5}"#), @"the field `text` has to be a text, and is a number");
        insta::assert_snapshot!(error(r#"{"text": null}"#), @"the field `text` has to be a text, and is null");
        insta::assert_snapshot!(error(r#"{"text": "a", "text": "b"}"#), @"this is not a JSON object (column 26): the field `text` is there twice");
        insta::assert_snapshot!(error(r#"{"text": "a", "id": 1.5}"#), @"the field `id` has to be a text or a whole number, and is a number that is not whole, or too large (write it in quotes)");
        insta::assert_snapshot!(error(r#"{"text": "a", "id": {}}"#), @"the field `id` has to be a text or a whole number, and is an object");
        insta::assert_snapshot!(parse(b"{\"text\": \"\xff\"}", 1, false).unwrap_err(), @"the text is not UTF-8; convert the file, for example with `iconv -t UTF-8`");
    }

    #[test]
    fn deep_nesting_is_an_error_and_no_stack_overflow() {
        let deep = format!("{{\"extra\": {}", "[".repeat(100_000));
        assert!(parse(deep.as_bytes(), 1, false).is_err());
    }
}
