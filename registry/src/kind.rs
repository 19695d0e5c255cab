//! What packages are made for, as far as this version of skep knows.
//!
//! A release may name a world or a task that is newer than this code: then it is listed and
//! passed on, and only running it is refused. A manifest may not, because its author is here.

use std::fmt;
use std::str::FromStr;

use crate::name::Identifier;
use crate::text::{listed, nearest};

macro_rules! known_words {
    ($(#[$doc:meta])* $name:ident, $what:literal, $error:ident: $($(#[$variant_doc:meta])* $variant:ident = $text:literal),+ $(,)?) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum $name {
            $($(#[$variant_doc])* $variant,)+
        }

        impl $name {
            /// Every one there is.
            pub const ALL: &'static [Self] = &[$(Self::$variant),+];

            /// How it is written.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self {
                    $(Self::$variant => $text,)+
                }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(self.as_str())
            }
        }

        impl From<$name> for Identifier {
            fn from(word: $name) -> Self {
                Self::known(word.as_str())
            }
        }

        impl FromStr for $name {
            type Err = $error;

            fn from_str(text: &str) -> Result<Self, Self::Err> {
                Self::ALL.iter().copied().find(|word| word.as_str() == text).ok_or_else(|| $error {
                    text: text.chars().take(80).collect(),
                })
            }
        }

        #[doc = concat!("A text is not a ", $what, " that this version of skep knows.")]
        #[derive(Clone, Debug, PartialEq, Eq)]
        pub struct $error {
            text: String,
        }

        impl std::error::Error for $error {}

        impl fmt::Display for $error {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                let all = || $name::ALL.iter().map(|word| word.as_str());
                write!(f, concat!("`{}` is not a ", $what, " that this version of skep knows; "), self.text)?;
                match nearest(&self.text, all()) {
                    Some(word) => write!(f, "did you mean `{word}`?"),
                    None => write!(f, "it knows {}", listed(all())),
                }
            }
        }
    };
}

known_words! {
    /// The world that a component is made for.
    World, "world", UnknownWorld:
    /// Bytes in, bytes out.
    Task = "task",
    /// Bytes in, bytes out, waiting for several things at once.
    AsyncTask = "async-task",
    /// Labels records by meaning.
    BatchClassifier = "batch-classifier",
    /// Makes adapters of language models from examples.
    FineTune = "fine-tune",
    /// Gives the people of a village their words.
    NpcRenderer = "npc-renderer",
    /// Owns the facts of a village.
    Village = "village",
    /// Judges what others made of some work.
    Verifier = "verifier",
}

known_words! {
    /// What a model does.
    ModelTask, "model task", UnknownModelTask:
    /// Turns a text into a vector whose direction is its meaning.
    SentenceEncoder = "sentence-encoder",
    /// Goes on with a text.
    LanguageModel = "language-model",
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_known_is_an_identifier_too() {
        for world in World::ALL {
            assert_eq!(world.as_str().parse(), Ok(*world));
            assert_eq!(world.as_str().parse(), Ok(Identifier::from(*world)));
        }
        for task in ModelTask::ALL {
            assert_eq!(task.as_str().parse(), Ok(*task));
            assert_eq!(task.as_str().parse(), Ok(Identifier::from(*task)));
        }
    }

    #[test]
    fn the_errors_say_what_is_known() {
        insta::assert_snapshot!("batch-clasifier".parse::<World>().unwrap_err(), @"`batch-clasifier` is not a world that this version of skep knows; did you mean `batch-classifier`?");
        insta::assert_snapshot!("space".parse::<World>().unwrap_err(), @"`space` is not a world that this version of skep knows; it knows `task`, `async-task`, `batch-classifier`, `fine-tune`, `npc-renderer`, `village` and `verifier`");
        insta::assert_snapshot!("poet".parse::<ModelTask>().unwrap_err(), @"`poet` is not a model task that this version of skep knows; it knows `sentence-encoder` and `language-model`");
    }
}
