//! Where a model's folder keeps its chat templates.

use std::path::Path;

use serde_json::Value;

use super::ChatError;
use crate::tokenizer::{TokenizerError, read_file};

/// A longer template is refused; those of models have a few thousand bytes.
const SOURCE_LIMIT: usize = 1 << 20;

/// Templates by their names.
pub(super) type Sources = Vec<(String, String)>;

/// The templates of a folder.
pub(super) fn sources(folder: &Path) -> Result<Sources, ChatError> {
    if let Some(content) = read_file(&folder.join("chat_template.jinja"))? {
        let source = String::from_utf8(content).map_err(|_| {
            ChatError::Tokenizer(TokenizerError::Malformed {
                file: "chat_template.jinja",
                reason: "it is not UTF-8".to_owned(),
            })
        })?;
        return Ok(vec![("default".to_owned(), source)]);
    }
    match read_file(&folder.join("tokenizer_config.json"))? {
        Some(config) => sources_of_config(&config),
        None => Ok(Vec::new()),
    }
}

/// The templates in the content of a `tokenizer_config.json`: a text, or a list of named ones.
pub(super) fn sources_of_config(config: &[u8]) -> Result<Sources, ChatError> {
    let malformed = |reason: String| TokenizerError::Malformed {
        file: "tokenizer_config.json",
        reason,
    };
    let config: Value =
        serde_json::from_slice(config).map_err(|error| malformed(error.to_string()))?;
    match &config["chat_template"] {
        Value::Null => Ok(Vec::new()),
        Value::String(source) => Ok(vec![("default".to_owned(), source.clone())]),
        Value::Array(named) => {
            let named = named.iter().map(|entry| {
                let (name, source) = (entry["name"].as_str()?, entry["template"].as_str()?);
                Some((name.to_owned(), source.to_owned()))
            });
            named.collect::<Option<_>>().ok_or_else(|| {
                let reason = "a chat template has no name or no text".to_owned();
                ChatError::Tokenizer(malformed(reason))
            })
        }
        _ => Err(malformed("its chat template is no text".to_owned()))?,
    }
}

/// The template of a name, or nothing where there are none at all.
pub(super) fn select(sources: Sources, name: Option<&str>) -> Result<Option<String>, ChatError> {
    if sources.is_empty() {
        return Ok(None);
    }
    let wanted = name.unwrap_or("default");
    let names: Vec<String> = sources.iter().map(|(name, _)| name.clone()).collect();
    let found = sources.into_iter().find(|(name, _)| name == wanted);
    match found {
        Some((_, source)) => Ok(Some(source)),
        None => Err(ChatError::NoSuchTemplate {
            name: wanted.chars().take(64).collect(),
            available: names.join(", ").chars().take(200).collect(),
        }),
    }
}

/// A template as the engine takes it: `{% generation %}`, by which `transformers` finds what an
/// assistant said, is written as a condition that always holds.
pub(super) fn prepared(source: &str) -> Result<String, ChatError> {
    if source.len() > SOURCE_LIMIT {
        return Err(ChatError::TemplateTooLong {
            bytes: source.len(),
            limit: SOURCE_LIMIT,
        });
    }
    let mut out = String::with_capacity(source.len());
    let mut rest = source;
    while let Some(at) = rest.find("{%") {
        let (before, tag) = rest.split_at(at + 2);
        out.push_str(before);
        let Some(end) = tag.find("%}") else {
            rest = tag;
            break;
        };
        let inside = &tag[..end];
        let word = inside.trim_matches(|c: char| c.is_whitespace() || c == '-' || c == '+');
        match word {
            "generation" => out.push_str(&inside.replace(word, "if true")),
            "endgeneration" => out.push_str(&inside.replace(word, "endif")),
            _ => out.push_str(inside),
        }
        rest = &tag[end..];
    }
    out.push_str(rest);
    Ok(out)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_default_template_or_a_named_one_is_taken() {
        let config = json!({"chat_template": [
            {"name": "default", "template": "a"}, {"name": "tool_use", "template": "b"},
        ]});
        let named = |name| {
            let sources = sources_of_config(config.to_string().as_bytes()).unwrap();
            select(sources, name)
        };
        assert_eq!(named(None), Ok(Some("a".to_owned())));
        assert_eq!(named(Some("tool_use")), Ok(Some("b".to_owned())));
        let refused = named(Some("rag")).unwrap_err().to_string();
        assert!(refused.contains("default, tool_use"), "{refused}");
        assert_eq!(select(sources_of_config(b"{}").unwrap(), None), Ok(None));
        for bad in [
            "{",
            "[]7",
            r#"{"chat_template": 7}"#,
            r#"{"chat_template": [{}]}"#,
        ] {
            assert!(sources_of_config(bad.as_bytes()).is_err(), "{bad}");
        }
    }

    #[test]
    fn parts_for_training_are_written_like_others() {
        let source =
            "{%- generation -%}{{ x }}{% endgeneration %}{% if generation %}y{% endif %}{%";
        let expected = "{%- if true -%}{{ x }}{% endif %}{% if generation %}y{% endif %}{%";
        assert_eq!(prepared(source).unwrap(), expected);
        assert!(prepared(&"x".repeat((1 << 20) + 1)).is_err());
    }
}
