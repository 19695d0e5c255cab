//! What a run did and what it used.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::following::Shown;

/// What a guest says of an output of somebody else: its word, and no more.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Reported {
    /// The digest of the output.
    pub output: String,
    /// Why it is not what it should be, in the guest's words, without what moves a cursor.
    pub evidence: String,
}

/// What a run did and what it used.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct RunReport {
    /// Records that were given to the guest and answered. None for a task.
    pub records: u64,
    /// Records without a result: lines that were no records, and records that the guest could
    /// not do.
    pub errors: u64,
    /// Wall time in seconds.
    pub seconds: f64,
    /// Records of either kind by second.
    pub records_per_s: f64,
    /// Time that the guest itself computed, in milliseconds.
    pub cpu_ms: u64,
    /// The most bytes of linear memory that the guest had.
    pub peak_memory_bytes: u64,
    /// The most bytes that it had on the device at one moment: tensors, activations, keys and
    /// values together.
    pub device_bytes_peak: u64,
    /// The most of them at one moment that were keys and values of texts.
    pub kv_bytes_peak: u64,
    /// Bytes of the weights of all models that it opened. The node has them once for all runs,
    /// and no run is charged for them.
    pub weights_bytes: u64,
    /// Bytes of all adapters that it used, which are shared in the same way.
    pub adapter_bytes: u64,
    /// Who computed the language models that it opened, `processor` or a device's name, with the
    /// bytes that all runs together take of that device's own memory.
    pub devices: BTreeMap<String, u64>,
    /// Floating-point operations on the device.
    pub flops: u64,
    /// Tokens that language models computed for it, read and written ones.
    pub tokens: u64,
    /// Calls from the guest to skep's interfaces.
    pub host_calls: u64,
    /// Bytes of result.
    pub output_bytes: u64,
    /// Whether some output was refused because of its limit.
    pub output_truncated: bool,
    /// Bytes put on the node's disk: into the blob store, whether the guest wrote them or they were
    /// fetched for it, and what it gave to jobs.
    pub stored_bytes: u64,
    /// The names of the jobs that it began.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub jobs: Vec<String>,
    /// What the guest reported of others' outputs, but for what was taken between its calls.
    pub reports: Vec<Reported>,
    /// What the run shows of its texts, if it was to.
    #[serde(skip)]
    pub shown: Option<Shown>,
    /// What the guest printed, up to its limit.
    pub log: String,
    /// Whether it printed more.
    pub log_truncated: bool,
}
