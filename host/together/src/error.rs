//! What can go wrong with a node's own part. What is wrong with others' is
//! [`Unsound`](crate::Unsound).

/// Why nothing was done. Nothing has changed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TogetherError {
    /// A setting is none that it may be.
    #[error("{what} is {got}; it must be {want}")]
    Setting {
        /// The setting.
        what: &'static str,
        /// Its value.
        got: String,
        /// What it may be.
        want: &'static str,
    },
    /// There are more or fewer numbers than there should be.
    #[error("{what} are {got} numbers and should be {want}")]
    Length {
        /// What they are.
        what: &'static str,
        /// How many there are.
        got: usize,
        /// How many there should be.
        want: usize,
    },
    /// A number is NaN or infinite, or so large that it does not fit in what is sent.
    #[error(
        "{what} are not finite: the training has diverged here. Go back to what all agreed on last \
         and use a smaller learning rate"
    )]
    NotFinite {
        /// What they are.
        what: &'static str,
    },
}

pub(crate) fn check_length(
    what: &'static str,
    got: usize,
    want: usize,
) -> Result<(), TogetherError> {
    match got == want {
        true => Ok(()),
        false => Err(TogetherError::Length { what, got, want }),
    }
}
