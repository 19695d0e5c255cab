//! What is answered about receipts: written to a file, added up, settled.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// The answer about receipts that were written.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct WroteReceipts {
    /// The file.
    pub wrote: ReceiptsLine,
}

/// A file of receipts of one node.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ReceiptsLine {
    /// Where it is.
    pub file: PathBuf,
    /// How many receipts are in it.
    pub receipts: u64,
    /// How many of them are of the node's own work.
    pub worked: u64,
    /// How many are of others' work for it.
    pub ordered: u64,
}

/// What receipts come to.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Recomputed {
    /// Everybody in them, by account.
    pub balances: Vec<BalanceLine>,
    /// How many receipts were counted.
    pub receipts: u64,
    /// How many more there were that are the same as one of these.
    pub repeated: u64,
}

/// What receipts come to for one account.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BalanceLine {
    /// The account.
    pub account: String,
    /// What it got, in micro-credits: prices of its work, and shares of those of others' work.
    pub earned_micro: u64,
    /// The prices of what was done for it.
    pub spent_micro: u64,
    /// What it gained; less than zero is what it owes.
    pub balance_micro: i64,
}

/// The answer about receipts that were settled.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct SettledAnswer {
    /// The batch.
    pub settled: SettledBatch,
}

/// A batch of receipts that is settled in this node's ledger.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct SettledBatch {
    /// The root of the batch, against which a proof that a receipt was counted can be checked.
    pub root: String,
    /// The entry of the ledger that settled it.
    pub entry: u64,
    /// How many receipts are in it.
    pub receipts: u64,
    /// How many more there were that are the same as one that was read.
    pub repeated: u64,
    /// How many were left out, because they were settled or paid here before.
    pub left_out: u64,
    /// What each account gets or owes, by account; of those with whom it comes out even, nothing.
    pub positions: Vec<PositionLine>,
    /// What was moved for it.
    pub transfers: Vec<TransferLine>,
}

/// What an account gets out of a batch.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PositionLine {
    /// The account.
    pub account: String,
    /// How much, in micro-credits; less than zero is what it paid.
    pub micro: i64,
}

/// What one account paid another.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TransferLine {
    /// Who paid.
    pub from: String,
    /// Who got it.
    pub to: String,
    /// How much, in micro-credits.
    pub micro: u64,
}
