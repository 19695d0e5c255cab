//! The labels that a classifier is to learn: a JSON file with names, descriptions and examples.

use std::collections::HashSet;

use serde::{Deserialize, Serialize};

/// The labels of a task, at least two, each with another name.
///
/// ```
/// let labels = skep_records::Labels::parse(br#"{"labels": [
///     {"name": "billing", "examples": ["I was charged twice"]},
///     {"name": "bug", "description": "Something does not work"}
/// ]}"#)?;
/// assert_eq!(labels.labels[0].name, "billing");
/// # Ok::<(), skep_records::LabelsError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Labels {
    /// The labels, in the order in which the classifier counts them.
    pub labels: Vec<Label>,
}

/// A label, and what is known of it: a description, examples, or both.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Label {
    /// What is written in the output.
    pub name: String,
    /// What the label means, in words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    /// Texts that carry this label.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub examples: Vec<String>,
}

impl Labels {
    /// Reads a file of labels and checks it.
    ///
    /// # Errors
    ///
    /// When it is not such a file, with its line and column, or when a classifier could learn
    /// nothing from it.
    pub fn parse(file: &[u8]) -> Result<Self, LabelsError> {
        let file = file.strip_prefix(b"\xef\xbb\xbf").unwrap_or(file);
        let labels: Self = serde_json::from_slice(file).map_err(|error| {
            let text = error.to_string();
            LabelsError::Json {
                line: error.line(),
                column: error.column(),
                reason: text.split(" at line ").next().unwrap_or(&text).to_owned(),
            }
        })?;
        labels.check()?;
        Ok(labels)
    }

    /// Checks labels from elsewhere by the same rules.
    ///
    /// # Errors
    ///
    /// When a classifier could learn nothing from them.
    pub fn check(&self) -> Result<(), LabelsError> {
        if self.labels.len() < 2 {
            return Err(LabelsError::TooFew {
                found: self.labels.len(),
            });
        }
        let mut names = HashSet::new();
        for (index, label) in self.labels.iter().enumerate() {
            if label.name.trim().is_empty() {
                return Err(LabelsError::NoName {
                    position: index + 1,
                });
            }
            if !names.insert(label.name.as_str()) {
                return Err(LabelsError::Twice {
                    name: label.name.clone(),
                });
            }
            let described = label
                .description
                .as_ref()
                .is_some_and(|text| !text.trim().is_empty());
            if !described && label.examples.is_empty() {
                return Err(LabelsError::NothingKnown {
                    name: label.name.clone(),
                });
            }
        }
        Ok(())
    }
}

/// Why a file has no labels to learn.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LabelsError {
    /// It is not JSON of the right form.
    #[error(
        "line {line}, column {column}: {reason}; the form is \
         {{\"labels\": [{{\"name\": \"…\", \"description\": \"…\", \"examples\": [\"…\"]}}, …]}}"
    )]
    Json {
        /// The line, from 1.
        line: usize,
        /// The column, in bytes from 1.
        column: usize,
        /// What is wrong there.
        reason: String,
    },
    /// There is nothing to choose between.
    #[error("there have to be at least two labels to choose between, and there are {found}")]
    TooFew {
        /// How many there are.
        found: usize,
    },
    /// A name is empty.
    #[error("label number {position} has an empty name")]
    NoName {
        /// Which one, from 1.
        position: usize,
    },
    /// Two labels have one name.
    #[error("there are two labels `{name}`; put their examples together, or rename one")]
    Twice {
        /// The name.
        name: String,
    },
    /// A label could not be learnt.
    #[error("label `{name}` has neither a description nor examples; add at least one of them")]
    NothingKnown {
        /// Its name.
        name: String,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(file: &str) -> String {
        Labels::parse(file.as_bytes()).unwrap_err().to_string()
    }

    #[test]
    fn labels_are_read_and_written_alike() {
        let file =
            r#"{"labels":[{"name":"a","examples":["x","y"]},{"name":"b","description":"z"}]}"#;
        let labels = Labels::parse(file.as_bytes()).unwrap();
        assert_eq!(labels.labels[0].examples, ["x", "y"]);
        assert_eq!(labels.labels[1].description.as_deref(), Some("z"));
        assert_eq!(serde_json::to_string(&labels).unwrap(), file);
    }

    #[test]
    fn the_errors_say_what_to_do() {
        insta::assert_snapshot!(error("{\n  \"label\": []\n}"), @r#"line 2, column 9: unknown field `label`, expected `labels`; the form is {"labels": [{"name": "…", "description": "…", "examples": ["…"]}, …]}"#);
        insta::assert_snapshot!(error(r#"{"labels": [{"name": "a", "example": []}]}"#), @r#"line 1, column 35: unknown field `example`, expected one of `name`, `description`, `examples`; the form is {"labels": [{"name": "…", "description": "…", "examples": ["…"]}, …]}"#);
        insta::assert_snapshot!(error(r#"{"labels": [{"name": "a", "examples": ["x"]}]}"#), @"there have to be at least two labels to choose between, and there are 1");
        insta::assert_snapshot!(error(r#"{"labels": [{"name": "", "examples": ["x"]}, {"name": "b"}]}"#), @"label number 1 has an empty name");
        insta::assert_snapshot!(error(r#"{"labels": [{"name": "a", "examples": ["x"]}, {"name": "a", "examples": ["x"]}]}"#), @"there are two labels `a`; put their examples together, or rename one");
        insta::assert_snapshot!(error(r#"{"labels": [{"name": "a", "examples": ["x"]}, {"name": "b", "description": " "}]}"#), @"label `b` has neither a description nor examples; add at least one of them");
    }
}
