//! What is wrong with a manifest, and where.

use std::fmt;
use std::ops::Range;

/// A mistake in a manifest.
///
/// `Display` is one line; [`ManifestError::excerpt`] is the line of the file with a mark under
/// the place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ManifestError {
    place: Option<Place>,
    key: Option<String>,
    problem: Problem,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Place {
    line: usize,
    column: usize,
    width: usize,
    source: String,
}

/// The kinds of mistakes.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Problem {
    /// The file is longer than any manifest.
    #[error("a manifest has at most {max} bytes, and this has {size}")]
    TooLong {
        /// Its size in bytes.
        size: usize,
        /// The greatest size.
        max: usize,
    },
    /// It is not TOML.
    #[error("this is not TOML: {0}")]
    Syntax(String),
    /// A key that means nothing.
    #[error("unknown key; {}", hint(nearest.as_deref(), known))]
    UnknownKey {
        /// The key that was probably meant.
        nearest: Option<String>,
        /// The keys that there are.
        known: Vec<&'static str>,
    },
    /// Something that has to be there is not.
    #[error("this is missing; add {example}")]
    Missing {
        /// What to write.
        example: &'static str,
    },
    /// A value of another type.
    #[error("expected {expected}, found {found}")]
    WrongType {
        /// What it has to be.
        expected: &'static str,
        /// What it is.
        found: &'static str,
    },
    /// A value that does not do.
    #[error("{0}")]
    Invalid(String),
}

fn hint(nearest: Option<&str>, known: &[&str]) -> String {
    match nearest {
        Some(key) => format!("did you mean `{key}`?"),
        None => format!("the keys here are {}", known.join(", ")),
    }
}

impl ManifestError {
    /// A mistake that has no one place.
    pub(super) fn whole(problem: Problem) -> Self {
        Self {
            place: None,
            key: None,
            problem,
        }
    }

    /// A mistake at a range of bytes of the text.
    pub(super) fn at(
        text: &str,
        span: Range<usize>,
        key: Option<String>,
        problem: Problem,
    ) -> Self {
        Self {
            place: Some(Place::find(text, span)),
            key,
            problem,
        }
    }

    /// The line of the file, from 1, when the mistake has a place.
    #[must_use]
    pub fn line(&self) -> Option<usize> {
        self.place.as_ref().map(|place| place.line)
    }

    /// The column, in characters from 1, when the mistake has a place.
    #[must_use]
    pub fn column(&self) -> Option<usize> {
        self.place.as_ref().map(|place| place.column)
    }

    /// The key with its tables, such as `package.name`, when the mistake is about one.
    #[must_use]
    pub fn key(&self) -> Option<&str> {
        self.key.as_deref()
    }

    /// What is wrong.
    #[must_use]
    pub fn problem(&self) -> &Problem {
        &self.problem
    }

    /// The line of the file with the place marked, to print under the error; empty when the
    /// mistake has no place.
    #[must_use]
    pub fn excerpt(&self) -> String {
        let Some(place) = &self.place else {
            return String::new();
        };
        let number = place.line.to_string();
        let margin = " ".repeat(number.len());
        // Tabs stay tabs, so that the mark stays under its place.
        let before: String = place
            .source
            .chars()
            .take(place.column - 1)
            .map(|c| if c == '\t' { c } else { ' ' })
            .collect();
        let mark = "^".repeat(place.width);
        format!(
            "{margin} |\n{number} | {}\n{margin} | {before}{mark}",
            place.source
        )
    }
}

impl Place {
    fn find(text: &str, span: Range<usize>) -> Self {
        let start = floor_boundary(text, span.start);
        let line_start = text[..start].rfind('\n').map_or(0, |newline| newline + 1);
        let line_end = text[start..]
            .find('\n')
            .map_or(text.len(), |newline| start + newline);
        let end = floor_boundary(text, span.end).clamp(start, line_end);
        let source = text[line_start..line_end].trim_end_matches('\r');
        Self {
            line: text[..start].matches('\n').count() + 1,
            column: text[line_start..start].chars().count() + 1,
            width: text[start..end].chars().count().clamp(1, 120),
            source: source.chars().take(240).collect(),
        }
    }
}

/// The last character boundary at or before `index`.
fn floor_boundary(text: &str, index: usize) -> usize {
    let index = index.min(text.len());
    (0..=index)
        .rev()
        .find(|index| text.is_char_boundary(*index))
        .unwrap_or(0)
}

impl std::error::Error for ManifestError {}

impl fmt::Display for ManifestError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(place) = &self.place {
            write!(f, "line {}, column {}: ", place.line, place.column)?;
        }
        if let Some(key) = &self.key {
            write!(f, "`{key}`: ")?;
        }
        self.problem.fmt(f)
    }
}
