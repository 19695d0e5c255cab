//! Why a command failed, in the few kinds that a caller can act on.
//!
//! Every error of a lower floor ends here with its kind, which decides the exit code, and its
//! text, which is for a person.

use serde::{Deserialize, Serialize};

/// The kind of a failure. `exit_code` documents what each means to a script.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FailureKind {
    /// Anything that is none of the others.
    Failed,
    /// The command line is wrong.
    Usage,
    /// A signature, a digest, a history or a grant does not hold.
    Refused,
    /// A limit of the run was reached.
    Limit,
    /// There is no such package, model, key or file, or no node is running.
    NotFound,
    /// Another process or the node's owner holds what is needed.
    Busy,
}

impl FailureKind {
    /// The process's exit code.
    pub fn exit_code(self) -> u8 {
        match self {
            Self::Failed => 1,
            Self::Usage => 2,
            Self::Refused => 3,
            Self::Limit => 4,
            Self::NotFound => 5,
            Self::Busy => 6,
        }
    }
}

/// A failed command: its kind, and what to tell the person.
#[derive(Debug, Clone, Serialize, Deserialize, thiserror::Error)]
#[error("{message}")]
pub struct Failure {
    /// What a caller can act on.
    pub kind: FailureKind,
    /// What happened, why, and what to do.
    pub message: String,
}

impl Failure {
    /// A failure of the given kind.
    pub fn new(kind: FailureKind, message: impl Into<String>) -> Self {
        Self {
            kind,
            message: message.into(),
        }
    }

    /// A failure of the given kind, told by an error and its causes.
    pub fn of(kind: FailureKind, error: &dyn std::error::Error) -> Self {
        let mut message = error.to_string();
        let mut cause = error.source();
        while let Some(inner) = cause {
            let text = inner.to_string();
            // Many errors already tell their cause; saying it twice helps nobody.
            if !message.contains(&text) {
                message.push_str(": ");
                message.push_str(&text);
            }
            cause = inner.source();
        }
        Self { kind, message }
    }
}
