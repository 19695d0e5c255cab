//! Netting: receipts into positions, positions into transfers, all under one root.

use std::collections::BTreeMap;

use skep_evidence::{AccountId, Agreed, Credits, Receipt};
use skep_registry::Digest;

use crate::balance::{Debt, recompute};
use crate::merkle::{Inclusion, Tree};

/// What an account gets out of a batch, or owes to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Position {
    /// Whose.
    pub account: AccountId,
    /// Micro-credits; less than zero is owed. Never zero.
    pub amount: i64,
}

/// What one account pays another to settle a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Transfer {
    /// Who pays.
    pub from: AccountId,
    /// Who is paid.
    pub to: AccountId,
    /// How much, never nothing.
    pub amount: Credits,
}

/// Why receipts cannot be netted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NetError {
    /// Two receipts for one lease between the same two.
    #[error(
        "there are two different receipts for lease {lease}; they are evidence against whoever \
         signed both, and neither can be settled until that is judged"
    )]
    TwoReceipts {
        /// The lease.
        lease: Digest,
    },
    /// More than there can be.
    #[error("what {account} earned or spent is more than all credits there can be")]
    TooMuch {
        /// Whose.
        account: AccountId,
    },
}

/// Receipts that are settled together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Batch {
    /// What is owed and the receipt for it, in the order of the leases.
    receipts: Vec<(Debt, Digest)>,
    /// In the order of the accounts.
    positions: Vec<Position>,
    /// In the order of the accounts.
    workers: Vec<(AccountId, u64)>,
    root: Digest,
}

/// Nets receipts. A receipt that is given twice counts once, and the order makes no difference.
///
/// # Errors
///
/// When two receipts are for one lease between the same two, or a sum is too large.
pub fn net(receipts: &[Agreed<Receipt>]) -> Result<Batch, NetError> {
    let mut debts: BTreeMap<Debt, &Agreed<Receipt>> = BTreeMap::new();
    for receipt in receipts {
        let known = debts.entry(Debt::of(receipt)).or_insert(receipt);
        if known.digest() != receipt.digest() {
            return Err(NetError::TwoReceipts {
                lease: receipt.lease,
            });
        }
    }
    let mut positions = Vec::new();
    for (account, amount) in recompute(debts.values().copied()) {
        let amount = i64::try_from(amount).map_err(|_| NetError::TooMuch { account })?;
        if amount != 0 {
            positions.push(Position { account, amount });
        }
    }
    let mut workers: BTreeMap<AccountId, u64> = BTreeMap::new();
    for receipt in debts.values() {
        let last = workers.entry(receipt.provider).or_default();
        *last = receipt.finished.max(*last);
    }
    let receipts = debts
        .into_iter()
        .map(|(debt, receipt)| (debt, receipt.digest()))
        .collect();
    let mut batch = Batch {
        receipts,
        positions,
        workers: workers.into_iter().collect(),
        root: Digest::from_bytes([0; 32]),
    };
    batch.root = batch.compute_root();
    Ok(batch)
}

impl Batch {
    /// The digest of the whole: of both trees.
    #[must_use]
    pub fn root(&self) -> Digest {
        self.root
    }

    /// All that is settled, each with its receipt, in the order of the leases.
    #[must_use]
    pub fn receipts(&self) -> &[(Debt, Digest)] {
        &self.receipts
    }

    /// What each account gets or owes, in the order of the accounts. The sum is zero.
    #[must_use]
    pub fn positions(&self) -> &[Position] {
        &self.positions
    }

    /// Who did the work, in the order of the accounts, each with when the last of it ended, in milliseconds since 1970,
    /// as both sides say.
    #[must_use]
    pub fn workers(&self) -> &[(AccountId, u64)] {
        &self.workers
    }

    /// Few transfers that bring everyone to its position: fewer than there are positions.
    #[must_use]
    pub fn transfers(&self) -> Vec<Transfer> {
        let side = |owes: bool| {
            self.positions
                .iter()
                .filter(move |position| (position.amount < 0) == owes)
                .map(|position| (position.account, position.amount.unsigned_abs()))
        };
        let (mut debtors, mut creditors) = (side(true), side(false));
        let (mut debtor, mut creditor) = (debtors.next(), creditors.next());
        let mut transfers = Vec::new();
        while let (Some((from, owed)), Some((to, due))) = (debtor, creditor) {
            let amount = owed.min(due);
            transfers.push(Transfer {
                from,
                to,
                amount: Credits::from_micro(amount),
            });
            debtor = if owed > amount {
                Some((from, owed - amount))
            } else {
                debtors.next()
            };
            creditor = if due > amount {
                Some((to, due - amount))
            } else {
                creditors.next()
            };
        }
        transfers
    }

    /// The proof that what is owed for a lease was settled with a receipt. See
    /// [`BatchProof::holds_receipt`].
    #[must_use]
    pub fn prove_receipt(&self, debt: Debt) -> Option<BatchProof> {
        let place = self
            .receipts
            .binary_search_by_key(&debt, |(debt, _)| *debt)
            .ok()?;
        Some(BatchProof {
            inclusion: self.receipt_tree().prove(place as u64)?,
            other: self.position_tree().root(),
        })
    }

    /// The proof of what an account gets or owes. See [`BatchProof::holds_position`].
    #[must_use]
    pub fn prove_position(&self, account: AccountId) -> Option<BatchProof> {
        let place = self
            .positions
            .binary_search_by_key(&account, |position| position.account)
            .ok()?;
        Some(BatchProof {
            inclusion: self.position_tree().prove(place as u64)?,
            other: self.receipt_tree().root(),
        })
    }

    fn receipt_tree(&self) -> Tree {
        Tree::new(
            self.receipts
                .iter()
                .map(|(debt, receipt)| receipt_leaf(debt.lease, *receipt)),
        )
    }

    fn position_tree(&self) -> Tree {
        Tree::new(self.positions.iter().map(position_leaf))
    }

    fn compute_root(&self) -> Digest {
        join(self.receipt_tree().root(), self.position_tree().root())
    }
}

/// The proof that something is in a batch, for whoever knows only the batch's root.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BatchProof {
    /// The proof within the tree of receipts or of positions.
    pub inclusion: Inclusion,
    /// The root of that tree's sibling.
    pub other: Digest,
}

impl BatchProof {
    /// Whether the batch with this root settled a lease with a receipt.
    #[must_use]
    pub fn holds_receipt(&self, root: Digest, lease: Digest, receipt: Digest) -> bool {
        let leaf = receipt_leaf(lease, receipt);
        self.inclusion
            .root_of(&leaf)
            .is_some_and(|receipts| join(receipts, self.other) == root)
    }

    /// Whether the batch with this root has a position.
    #[must_use]
    pub fn holds_position(&self, root: Digest, position: &Position) -> bool {
        let leaf = position_leaf(position);
        self.inclusion
            .root_of(&leaf)
            .is_some_and(|positions| join(self.other, positions) == root)
    }
}

fn receipt_leaf(lease: Digest, receipt: Digest) -> Vec<u8> {
    [*lease.as_bytes(), *receipt.as_bytes()].concat()
}

fn position_leaf(position: &Position) -> Vec<u8> {
    let mut bytes = position.account.as_bytes().to_vec();
    bytes.extend(position.amount.to_be_bytes());
    bytes
}

fn join(receipts: Digest, positions: Digest) -> Digest {
    let both = [*receipts.as_bytes(), *positions.as_bytes()].concat();
    Digest::from_bytes(blake3::derive_key("skep settlement batch v1", &both))
}
