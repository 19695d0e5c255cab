//! The names of packages and of what they are made for, and how a person refers to one.
//!
//! A name means something only under a publisher. A reference without one is a question that a
//! node answers from what it has installed; nothing here guesses.

use std::fmt;
use std::str::FromStr;

use semver::{Version, VersionReq};

use crate::digest::Digest;
use crate::publisher::{PublisherId, PublisherIdError};
use crate::text::serde_as_text;

/// The greatest length of an [`Identifier`] and of a [`PackageName`], in characters.
pub const MAX_NAME: usize = 64;

/// A plain word: 1 to 64 lower-case ASCII letters, digits and hyphens, the first a letter.
///
/// Worlds and model tasks are identifiers.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Identifier(Box<str>);

impl Identifier {
    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// A word of this crate's own, of which a test knows that it is an identifier.
    pub(crate) fn known(word: &'static str) -> Self {
        Self(word.into())
    }
}

impl FromStr for Identifier {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if let Some(found) = text
            .chars()
            .find(|c| !matches!(c, 'a'..='z' | '0'..='9' | '-'))
        {
            return Err(NameError::Character { found });
        }
        if text.is_empty() || text.len() > MAX_NAME {
            return Err(NameError::Length { length: text.len() });
        }
        if !text.starts_with(|c: char| c.is_ascii_lowercase()) {
            return Err(NameError::Start);
        }
        Ok(Self(text.into()))
    }
}

/// The name of a package under its publisher: an [`Identifier`] that reads as nothing else.
///
/// `default` is refused because it means the model that whoever starts a run chose, and 64
/// hexadecimal digits are refused because they are a digest.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PackageName(Identifier);

impl PackageName {
    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        self.0.as_str()
    }
}

impl FromStr for PackageName {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let identifier = text.parse::<Identifier>()?;
        if text == DEFAULT || text.parse::<Digest>().is_ok() {
            return Err(NameError::Reserved {
                name: text.to_owned(),
            });
        }
        Ok(Self(identifier))
    }
}

/// What a grant and a run call the model that whoever starts the run chose.
pub(crate) const DEFAULT: &str = "default";

macro_rules! text_traits {
    ($name:ident) => {
        impl AsRef<str> for $name {
            fn as_ref(&self) -> &str {
                self.as_str()
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(self.as_str())
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}({})", stringify!($name), self.as_str())
            }
        }

        serde_as_text!($name);
    };
}

text_traits!(Identifier);
text_traits!(PackageName);

/// Why a text is not a name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// A character that names do not have.
    #[error("a name has lower-case letters, digits and hyphens only, and this contains {found:?}")]
    Character {
        /// The first such character.
        found: char,
    },
    /// Empty or too long.
    #[error("a name has 1 to {MAX_NAME} characters, and this has {length}")]
    Length {
        /// How many characters there are.
        length: usize,
    },
    /// The first character is a digit or a hyphen.
    #[error("a name starts with a letter")]
    Start,
    /// It already means something else.
    #[error(
        "`{name}` cannot be a package's name, because it already means something else; choose another"
    )]
    Reserved {
        /// The name.
        name: String,
    },
}

/// How a person says which package they mean: `publisher/name@version`, where the publisher and
/// the version may be left out, or the digest of one release.
///
/// A whole version such as `@1.2.3` means exactly that release. Anything else is a requirement in
/// the way of Cargo: `@1.2` is any 1.x from 1.2.0 on, and `@>=1, <3` what it says.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum PackageRef {
    /// By name.
    Named {
        /// The publisher, when one is given.
        publisher: Option<PublisherId>,
        /// The package's name under the publisher.
        name: PackageName,
        /// What the version has to satisfy, when anything.
        version: Option<VersionReq>,
    },
    /// By the digest of one release.
    Digest(Digest),
}

/// Longer texts are no references; it bounds the work on a hostile one.
const MAX_REF: usize = 512;

impl FromStr for PackageRef {
    type Err = PackageRefError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text.len() > MAX_REF {
            return Err(PackageRefError::TooLong { length: text.len() });
        }
        if let Ok(digest) = text.parse::<Digest>() {
            return Ok(Self::Digest(digest));
        }
        let (package, version) = match text.split_once('@') {
            Some((package, version)) => (package, Some(parse_requirement(version)?)),
            None => (text, None),
        };
        let (publisher, name) = match package.split_once('/') {
            Some((publisher, name)) => (Some(publisher.parse()?), name),
            None => (None, package),
        };
        let name = name.parse().map_err(|source| PackageRefError::Name {
            name: name.to_owned(),
            source,
        })?;
        Ok(Self::Named {
            publisher,
            name,
            version,
        })
    }
}

fn parse_requirement(text: &str) -> Result<VersionReq, PackageRefError> {
    let exact = text.parse::<Version>().map(|version| format!("={version}"));
    let requirement = exact.as_deref().unwrap_or(text);
    VersionReq::parse(requirement).map_err(|error| PackageRefError::Version {
        version: text.to_owned(),
        reason: error.to_string(),
    })
}

impl fmt::Display for PackageRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Digest(digest) => digest.fmt(f),
            Self::Named {
                publisher,
                name,
                version,
            } => {
                if let Some(publisher) = publisher {
                    write!(f, "{publisher}/")?;
                }
                write!(f, "{name}")?;
                version
                    .as_ref()
                    .map_or(Ok(()), |version| write!(f, "@{version}"))
            }
        }
    }
}

serde_as_text!(PackageRef);

/// Why a text refers to no package.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PackageRefError {
    /// The name is none.
    #[error(
        "`{name}` is not a package's name: {source}; write publisher/name@version, name@version, name or a digest"
    )]
    Name {
        /// What stood for the name.
        name: String,
        /// What is wrong with it.
        source: NameError,
    },
    /// The publisher is none.
    #[error("what stands before the slash is not a publisher: {0}")]
    Publisher(#[from] PublisherIdError),
    /// The version requirement is none.
    #[error(
        "`{version}` is not a version or a version requirement: {reason}; write for example @1.2.3 or @1.2"
    )]
    Version {
        /// What stood for the version.
        version: String,
        /// What is wrong with it.
        reason: String,
    },
    /// Nothing of this length refers to a package.
    #[error("a reference to a package has at most {MAX_REF} characters, and this has {length}")]
    TooLong {
        /// How many bytes there are.
        length: usize,
    },
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::publisher::PublisherKey;

    fn parse(text: &str) -> Result<PackageRef, PackageRefError> {
        text.parse()
    }

    fn requirement(text: &str) -> VersionReq {
        match parse(text) {
            Ok(PackageRef::Named {
                version: Some(version),
                ..
            }) => version,
            other => panic!("{text}: {other:?}"),
        }
    }

    #[test]
    fn each_form_is_understood() {
        let publisher = PublisherKey::from_seed(&[1; 32]).id();
        let name: PackageName = "batch-classifier".parse().unwrap();
        assert_eq!(
            parse("batch-classifier"),
            Ok(PackageRef::Named {
                publisher: None,
                name: name.clone(),
                version: None
            })
        );
        assert_eq!(
            parse(&format!("{publisher}/batch-classifier")),
            Ok(PackageRef::Named {
                publisher: Some(publisher),
                name,
                version: None
            })
        );
        let digest = Digest::of(b"a release");
        assert_eq!(parse(&digest.to_string()), Ok(PackageRef::Digest(digest)));
    }

    #[test]
    fn a_whole_version_is_exact_and_a_partial_one_is_a_requirement() {
        let exact = requirement("x@1.2.3");
        assert!(exact.matches(&Version::new(1, 2, 3)));
        assert!(!exact.matches(&Version::new(1, 2, 4)));
        let partial = requirement("x@1.2");
        assert!(partial.matches(&Version::new(1, 9, 0)));
        assert!(!partial.matches(&Version::new(2, 0, 0)));
        let range = requirement("x@>=1, <3");
        assert!(range.matches(&Version::new(2, 0, 0)));
        assert!(!range.matches(&Version::new(3, 0, 0)));
    }

    #[test]
    fn a_name_that_reads_as_something_else_is_refused() {
        let hex = "a".repeat(64);
        assert!(matches!(
            hex.parse::<PackageName>(),
            Err(NameError::Reserved { .. })
        ));
        assert!(matches!(
            "default".parse::<PackageName>(),
            Err(NameError::Reserved { .. })
        ));
        assert!("default-2".parse::<PackageName>().is_ok());
    }

    #[test]
    fn the_errors_say_what_to_do() {
        insta::assert_snapshot!(parse("Batch").unwrap_err(), @"`Batch` is not a package's name: a name has lower-case letters, digits and hyphens only, and this contains 'B'; write publisher/name@version, name@version, name or a digest");
        insta::assert_snapshot!(parse("").unwrap_err(), @"`` is not a package's name: a name has 1 to 64 characters, and this has 0; write publisher/name@version, name@version, name or a digest");
        insta::assert_snapshot!(parse("2-fast").unwrap_err(), @"`2-fast` is not a package's name: a name starts with a letter; write publisher/name@version, name@version, name or a digest");
        insta::assert_snapshot!(parse("anna/tool").unwrap_err(), @"what stands before the slash is not a publisher: a publisher id has 56 characters, and this has 4; copy the whole id");
        insta::assert_snapshot!(parse("tool@new").unwrap_err(), @"`new` is not a version or a version requirement: unexpected character 'n' while parsing major version number; write for example @1.2.3 or @1.2");
        insta::assert_snapshot!(parse(&"a".repeat(600)).unwrap_err(), @"a reference to a package has at most 512 characters, and this has 600");
        insta::assert_snapshot!("default".parse::<PackageName>().unwrap_err(), @"`default` cannot be a package's name, because it already means something else; choose another");
    }

    proptest! {
        #[test]
        fn what_a_reference_prints_it_reads(
            name in "[a-z][a-z0-9-]{0,63}", seed in proptest::option::of(any::<[u8; 32]>()),
            version in proptest::option::of((any::<u64>(), any::<u64>(), any::<u64>())),
        ) {
            prop_assume!(name.parse::<PackageName>().is_ok());
            let reference = PackageRef::Named {
                publisher: seed.map(|seed| PublisherKey::from_seed(&seed).id()),
                name: name.parse().unwrap(),
                version: version.map(|(a, b, c)| VersionReq::parse(&format!("={a}.{b}.{c}")).unwrap()),
            };
            prop_assert_eq!(parse(&reference.to_string()), Ok(reference));
        }

        #[test]
        fn no_text_panics(text in "\\PC{0,80}") {
            let _ = parse(&text);
        }
    }
}
