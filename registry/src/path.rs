//! Where a file lies within a package.
//!
//! A path comes from a stranger and is joined to a folder of ours, so it can only ever point
//! inside that folder, on every system, and no two paths of a package may meet on any of them.

use std::fmt;
use std::str::FromStr;

use crate::text::serde_as_text;

/// The greatest length of a path, in bytes.
pub const MAX_PATH: usize = 240;

/// A relative path of printable ASCII, its parts joined by `/`, that names the same file on
/// every system: no empty part, no `.` or `..`, no drive, no backslash, no reserved character
/// or device name of Windows, no part that ends in a dot or a space.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PackagePath(Box<str>);

impl PackagePath {
    /// The text, its parts joined by `/`.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The last part.
    #[must_use]
    pub fn file_name(&self) -> &str {
        self.0.rsplit('/').next().unwrap_or(&self.0)
    }

    /// What the path is on a file system that does not tell upper from lower case.
    pub(crate) fn folded(&self) -> String {
        self.0.to_ascii_lowercase()
    }
}

impl FromStr for PackagePath {
    type Err = PathError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text.is_empty() || text.len() > MAX_PATH {
            return Err(PathError::Length { length: text.len() });
        }
        if text.starts_with('/') {
            return Err(PathError::Absolute);
        }
        if let Some(found) = text.chars().find(|c| {
            !matches!(c, ' '..='~') || matches!(c, '\\' | ':' | '<' | '>' | '"' | '|' | '?' | '*')
        }) {
            return Err(PathError::Character { found });
        }
        for part in text.split('/') {
            if part == "." || part == ".." {
                return Err(PathError::Dots);
            }
            if part.is_empty() || part.ends_with(['.', ' ']) || is_device(part) {
                return Err(PathError::Part {
                    part: part.to_owned(),
                });
            }
        }
        Ok(Self(text.into()))
    }
}

/// Whether Windows would open a device instead of a file: the name up to its first dot counts.
fn is_device(part: &str) -> bool {
    let stem = part
        .split('.')
        .next()
        .unwrap_or(part)
        .trim_end()
        .to_ascii_lowercase();
    matches!(stem.as_str(), "con" | "prn" | "aux" | "nul")
        || stem
            .strip_prefix("com")
            .or_else(|| stem.strip_prefix("lpt"))
            .is_some_and(|number| matches!(number.as_bytes(), [b'0'..=b'9']))
}

impl AsRef<str> for PackagePath {
    fn as_ref(&self) -> &str {
        self.as_str()
    }
}

impl fmt::Display for PackagePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl fmt::Debug for PackagePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PackagePath({})", self.as_str())
    }
}

serde_as_text!(PackagePath);

/// Why a text is not a path within a package.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PathError {
    /// Empty or too long.
    #[error("a path within a package has 1 to {MAX_PATH} characters, and this has {length}")]
    Length {
        /// How many bytes there are.
        length: usize,
    },
    /// It starts at the root.
    #[error("a path within a package is relative, and this starts with a slash")]
    Absolute,
    /// A part is `.` or `..`.
    #[error(
        "a path within a package stays inside it and is written plainly: no part may be `.` or `..`"
    )]
    Dots,
    /// A character that some system refuses or reads otherwise.
    #[error(
        "a path within a package must mean the same on every system, and {found:?} does not; rename the file"
    )]
    Character {
        /// The first such character.
        found: char,
    },
    /// A part that some system refuses or reads otherwise.
    #[error(
        "a path within a package must mean the same on every system, and the part `{part}` does not \
         (it is empty, ends in a dot or a space, or names a device on Windows); rename it"
    )]
    Part {
        /// The first such part.
        part: String,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(text: &str) -> PathError {
        text.parse::<PackagePath>().unwrap_err()
    }

    #[test]
    fn plain_paths_are_paths() {
        for text in [
            "a",
            "config.json",
            "1_Pooling/config.json",
            "a b/c-d_e.f",
            ".hidden",
            "com10",
            "console",
        ] {
            let path: PackagePath = text.parse().unwrap();
            assert_eq!(path.as_str(), text);
        }
        assert_eq!(
            "a/b/c.wasm".parse::<PackagePath>().unwrap().file_name(),
            "c.wasm"
        );
    }

    #[test]
    fn nothing_leaves_the_package() {
        for text in [
            "/etc/passwd",
            "//server/share",
            "../x",
            "a/../../x",
            "a/..",
            ".",
            "./a",
            "a//b",
            "a/",
            "",
            "c:/x",
            "..\\x",
            "a\\b",
        ] {
            refused(text);
        }
    }

    #[test]
    fn nothing_means_another_file_elsewhere() {
        for text in [
            "nul",
            "a/NUL.txt",
            "Aux",
            "COM1.log",
            "lpt9",
            "con .txt",
            "a./b",
            "a /b",
            "naïve",
            "a\0b",
            "a\nb",
            "a:b",
            "what?",
            "a*",
        ] {
            refused(text);
        }
    }

    #[test]
    fn the_errors_say_what_to_do() {
        insta::assert_snapshot!(refused("/a"), @"a path within a package is relative, and this starts with a slash");
        insta::assert_snapshot!(refused("../a"), @"a path within a package stays inside it and is written plainly: no part may be `.` or `..`");
        insta::assert_snapshot!(refused("a:b"), @"a path within a package must mean the same on every system, and ':' does not; rename the file");
        insta::assert_snapshot!(refused("a/nul"), @"a path within a package must mean the same on every system, and the part `nul` does not (it is empty, ends in a dot or a space, or names a device on Windows); rename it");
        insta::assert_snapshot!(refused(&"a".repeat(241)), @"a path within a package has 1 to 240 characters, and this has 241");
    }
}
