//! What a fetch is asked for, and what it says of itself.

use std::collections::BTreeMap;
use std::sync::Arc;

use skep_registry::Digest;

use crate::fault::FaultOf;
use crate::ids::NodeId;

/// A file that a release names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileRef {
    /// Its path within the package.
    pub path: String,
    /// Its digest.
    pub digest: Digest,
    /// Its signed size, in bytes.
    pub size: u64,
}

/// How far a fetch has come.
#[derive(Clone, Debug)]
pub struct Progress {
    /// Bytes that are here and verified, those included that were here before.
    pub bytes_done: u64,
    /// Bytes in all, each distinct file counted once.
    pub bytes_total: u64,
    /// The path of the file of which something arrived last.
    pub file: Arc<str>,
    /// From whom it arrived.
    pub provider: NodeId,
}

/// Hears how far a fetch has come; called from several threads, and must not block.
pub type ProgressFn = Arc<dyn Fn(&Progress) + Send + Sync>;

/// What a fetch did.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct FetchReport {
    /// Bytes of content that were fetched and verified.
    pub bytes_fetched: u64,
    /// Bytes that were here already.
    pub bytes_present: u64,
    /// Distinct files.
    pub files: usize,
    /// Groups of up to 16 KiB that arrived and were verified.
    pub chunks_verified: u64,
    /// How long it took.
    pub seconds: f64,
    /// Who sent how many bytes.
    pub providers: BTreeMap<NodeId, u64>,
    /// Providers that failed on the way, and how.
    pub faults: Vec<FaultOf>,
    /// Blobs that were damaged here and have been mended.
    pub mended: Vec<Digest>,
}
