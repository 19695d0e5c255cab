//! TOML with places: tables and values that know where in the file they stand, so that whatever
//! is wrong with them can be shown there.

use std::fmt::Display;
use std::ops::Range;
use std::str::FromStr;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::error::{ManifestError, Problem};
use crate::text::nearest;

/// A parsed file.
pub(super) struct Document<'t> {
    text: &'t str,
    table: Spanned<DeTable<'t>>,
}

impl<'t> Document<'t> {
    pub(super) fn parse(text: &'t str) -> Result<Self, ManifestError> {
        let table = DeTable::parse(text).map_err(|error| {
            let span = error.span().unwrap_or(0..0);
            ManifestError::at(
                text,
                span,
                None,
                Problem::Syntax(error.message().to_owned()),
            )
        })?;
        Ok(Self { text, table })
    }

    pub(super) fn root(&self) -> Table<'_> {
        Table {
            text: self.text,
            path: String::new(),
            span: 0..0,
            entries: self.table.get_ref(),
        }
    }
}

/// A table, and where it is.
pub(super) struct Table<'d> {
    text: &'d str,
    path: String,
    span: Range<usize>,
    entries: &'d DeTable<'d>,
}

impl<'d> Table<'d> {
    /// The table's own name; empty for the root.
    pub(super) fn name(&self) -> &str {
        &self.path
    }

    /// Refuses every key but these.
    pub(super) fn only(&self, known: &[&'static str]) -> Result<(), ManifestError> {
        let unknown = self
            .entries
            .keys()
            .filter(|key| !known.contains(&key.get_ref().as_ref()));
        // The first in the file, whatever its name.
        let Some(key) = unknown.min_by_key(|key| key.span().start) else {
            return Ok(());
        };
        let problem = Problem::UnknownKey {
            nearest: nearest(key.get_ref(), known.iter().copied()).map(str::to_owned),
            known: known.to_vec(),
        };
        Err(ManifestError::at(
            self.text,
            key.span(),
            Some(self.path_of(key.get_ref())),
            problem,
        ))
    }

    pub(super) fn get(&self, key: &'static str) -> Option<Item<'d>> {
        let value = self.entries.get(key)?;
        Some(Item {
            text: self.text,
            path: self.path_of(key),
            value,
        })
    }

    pub(super) fn required(
        &self,
        key: &'static str,
        example: &'static str,
    ) -> Result<Item<'d>, ManifestError> {
        self.get(key).ok_or_else(|| self.missing(key, example))
    }

    pub(super) fn table(&self, key: &'static str) -> Result<Option<Table<'d>>, ManifestError> {
        let Some(item) = self.get(key) else {
            return Ok(None);
        };
        match item.value.get_ref() {
            DeValue::Table(entries) => Ok(Some(Table {
                text: self.text,
                path: item.path.clone(),
                span: item.value.span(),
                entries,
            })),
            _ => Err(item.wrong_type("a table")),
        }
    }

    /// A truth value; one that is absent is false.
    pub(super) fn flag(&self, key: &'static str) -> Result<bool, ManifestError> {
        match self.get(key) {
            None => Ok(false),
            Some(item) => match item.value.get_ref() {
                DeValue::Boolean(value) => Ok(*value),
                _ => Err(item.wrong_type("true or false")),
            },
        }
    }

    /// The items of a list; one that is absent is empty.
    pub(super) fn list(&self, key: &'static str) -> Result<Vec<Item<'d>>, ManifestError> {
        let Some(item) = self.get(key) else {
            return Ok(Vec::new());
        };
        match item.value.get_ref() {
            DeValue::Array(values) => Ok(values
                .iter()
                .map(|value| Item {
                    text: self.text,
                    path: item.path.clone(),
                    value,
                })
                .collect()),
            _ => Err(item.wrong_type("a list, in square brackets")),
        }
    }

    pub(super) fn missing(&self, key: &str, example: &'static str) -> ManifestError {
        ManifestError::at(
            self.text,
            self.span.clone(),
            Some(self.path_of(key)),
            Problem::Missing { example },
        )
    }

    pub(super) fn invalid(&self, reason: impl Into<String>) -> ManifestError {
        let problem = Problem::Invalid(reason.into());
        ManifestError::at(
            self.text,
            self.span.clone(),
            Some(self.path.clone()),
            problem,
        )
    }

    fn path_of(&self, key: &str) -> String {
        // A hostile key may be as long as the file.
        let key: String = key.chars().take(80).collect();
        if self.path.is_empty() {
            key
        } else {
            format!("{}.{key}", self.path)
        }
    }
}

/// A value, its key, and where it is.
pub(super) struct Item<'d> {
    text: &'d str,
    path: String,
    value: &'d Spanned<DeValue<'d>>,
}

impl<'d> Item<'d> {
    pub(super) fn line(&self) -> usize {
        self.text[..self.value.span().start.min(self.text.len())]
            .matches('\n')
            .count()
            + 1
    }

    pub(super) fn string(&self) -> Result<&'d str, ManifestError> {
        match self.value.get_ref() {
            DeValue::String(text) => Ok(text),
            _ => Err(self.wrong_type("text, in quotes")),
        }
    }

    pub(super) fn count(&self) -> Result<u64, ManifestError> {
        match self.value.get_ref() {
            DeValue::Integer(number) => u64::from_str_radix(number.as_str(), number.radix())
                .map_err(|_| {
                    self.invalid(format!(
                        "{number} is not a whole number from 0 to {}",
                        u64::MAX
                    ))
                }),
            _ => Err(self.wrong_type("a whole number, without quotes")),
        }
    }

    /// A string that is the text of something.
    pub(super) fn parse<T: FromStr<Err: Display>>(&self) -> Result<T, ManifestError> {
        self.string()?
            .parse()
            .map_err(|error: T::Err| self.invalid(error.to_string()))
    }

    pub(super) fn invalid(&self, reason: impl Into<String>) -> ManifestError {
        self.error(Problem::Invalid(reason.into()))
    }

    fn wrong_type(&self, expected: &'static str) -> ManifestError {
        let found = match self.value.get_ref() {
            DeValue::String(_) => "text",
            DeValue::Integer(_) => "a whole number",
            DeValue::Float(_) => "a number with a point",
            DeValue::Boolean(_) => "true or false",
            DeValue::Datetime(_) => "a date",
            DeValue::Array(_) => "a list",
            DeValue::Table(_) => "a table",
        };
        self.error(Problem::WrongType { expected, found })
    }

    fn error(&self, problem: Problem) -> ManifestError {
        ManifestError::at(
            self.text,
            self.value.span(),
            Some(self.path.clone()),
            problem,
        )
    }
}
