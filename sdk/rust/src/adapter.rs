//! Adapters of the node's language models.

use crate::Result;
use crate::bindings::imports::skep::adapter::adapters as wit;

pub use wit::Residency;

/// An adapter, open for use: a small change to a language model, trained for one purpose.
///
/// A request names the adapter that it wants. One that is open stays at hand, and in the version
/// that was opened, even when a newer one takes its name.
pub struct Adapter(wit::Adapter);

/// What an [`Adapter`] is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AdapterInfo {
    /// The name under which the node knows it.
    pub name: String,
    /// The digest of the adapter's manifest: 64 lower-case hexadecimal digits.
    pub digest: String,
    /// The digest of the model that it changes.
    pub base: String,
    /// The rank of its matrices; the largest, if they differ.
    pub rank: u32,
    /// Its size in bytes, as it is kept for use.
    pub size: u64,
}

impl Adapter {
    /// Opens an adapter by name or digest.
    ///
    /// # Errors
    /// [`Error::Denied`](crate::Error::Denied) without a grant for the adapter.
    pub fn open(name: &str) -> Result<Self> {
        Ok(Adapter(wit::Adapter::open(name)?))
    }

    /// What this adapter is.
    pub fn info(&self) -> AdapterInfo {
        let info = self.0.info();
        AdapterInfo {
            name: info.name,
            digest: info.digest,
            base: info.base,
            rank: info.rank,
            size: info.size,
        }
    }

    /// Where it is at the moment.
    pub fn residency(&self) -> Residency {
        self.0.residency()
    }
}
