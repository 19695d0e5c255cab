//! The label "attested": what a node carries whose quote holds for whoever asked for it.

use crate::error::QuoteError;
use crate::report::Claims;
use crate::requirement::{Requirement, Unmet};
use crate::{BOUND_BYTES, Quote};

/// Why a node that shows a quote does not carry the label.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotAttested {
    /// Its quote does not hold.
    #[error("what it shows of its hardware does not hold: {0}")]
    Quote(#[from] QuoteError),
    /// It holds, and says something else than was asked for.
    #[error("its hardware is not what is asked for: {0}")]
    Unmet(#[from] Unmet),
}

/// The label, and what it stands for.
///
/// It comes of a quote alone, by the roots, the requirement and the question of whoever asked. What a
/// node says of itself is no part of it, and what others found is not either.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attested {
    /// The format of the quote, as [`Quote::FORMAT`] has it.
    pub format: &'static str,
    /// What the quote says.
    pub claims: Claims,
}

impl Attested {
    /// The label of a node that answered a question with these bytes, at a time in seconds since 1970.
    /// `bound` is what the quote has to carry to be for that node's account and that question: see
    /// [`crate::binding`].
    ///
    /// # Errors
    ///
    /// Why it does not carry the label: the bytes are no quote, the quote does not hold under these
    /// roots at this time, or it is not what is required.
    pub fn of<Q: Quote>(
        quote: &[u8],
        roots: &Q::Roots,
        requirement: &Requirement,
        bound: &[u8; BOUND_BYTES],
        now: u64,
    ) -> Result<Self, NotAttested> {
        let claims = Q::decode(quote)?.check(roots, now)?;
        requirement.admit(&claims, bound)?;
        Ok(Self {
            format: Q::FORMAT,
            claims,
        })
    }
}
