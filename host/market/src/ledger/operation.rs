//! Operations: what may be posted, what identifies it, and what it moves.

use skep_evidence::{
    AccountId, Accusation, Agreed, Credits, Keys, Receipt, Signed, Verdict, judge,
};
use skep_registry::Digest;

use super::books::{Book, Books, Movement};
use super::entry::{Entry, EntryKind, PaidLease};
use super::error::PostError;
use super::{DISPUTE, Posted, Terms};
use crate::balance::Debt;
use crate::settlement::Batch;

/// Something to be posted.
#[derive(Clone, Copy, Debug)]
pub enum Operation<'a> {
    /// Gives credits out of the treasury, such as those that were bought.
    Deposit {
        /// What makes it one and the same.
        id: Digest,
        /// Whose.
        account: AccountId,
        /// How much.
        amount: Credits,
    },
    /// Takes credits back into the treasury.
    Withdraw {
        /// What makes it one and the same.
        id: Digest,
        /// Whose.
        account: AccountId,
        /// How much.
        amount: Credits,
    },
    /// Puts credits at stake.
    Stake {
        /// What makes it one and the same.
        id: Digest,
        /// Whose.
        account: AccountId,
        /// How much.
        amount: Credits,
    },
    /// Takes credits out of the stake, unless leases that the account worked under can still be disputed.
    Unstake {
        /// What makes it one and the same.
        id: Digest,
        /// Whose.
        account: AccountId,
        /// How much.
        amount: Credits,
        /// When that is, in milliseconds since 1970.
        at: u64,
    },
    /// An account is given leases of a job: until they cannot be disputed any more, all that it has at stake stays
    /// there. Posted before the first of them is; another for the same job and account says nothing new.
    Bind {
        /// Of which job.
        job: Digest,
        /// Who is given them.
        account: AccountId,
        /// Until when, in milliseconds since 1970: [`DISPUTE`] after the last deadline.
        until: u64,
    },
    /// Holds credits for a job; more may be added.
    Escrow {
        /// What makes it one and the same.
        id: Digest,
        /// For which job.
        job: Digest,
        /// Whose.
        requester: AccountId,
        /// How much.
        amount: Credits,
    },
    /// Pays a receipt out of what is held for its job: the provider, the shares of its lineage
    /// and what the operator takes.
    Release(&'a Agreed<Receipt>),
    /// Gives back what a job left over, and closes its escrow.
    Refund {
        /// What makes it one and the same.
        id: Digest,
        /// Of which job.
        job: Digest,
    },
    /// Judges an accusation, and fines whoever is in the wrong: the accused once for each lease,
    /// or else the accuser.
    Judge(&'a Signed<Accusation>),
    /// Pays a batch of receipts between nodes, each side what is left when all are added up. What those who did the
    /// work have at stake stays there for [`DISPUTE`] from the end of it.
    Settle(&'a Batch),
}

/// An entry that lacks its movements.
pub(super) struct Planned {
    pub(super) entry: Entry,
    /// What came of the accusation, if it is one.
    pub(super) verdict: Option<Verdict>,
}

/// The identifier of paying what is owed for a lease, however it is paid. Whoever signs a receipt that names the lease
/// of others pays under another one, and takes nothing from them.
pub(super) fn payment_of(debt: Debt) -> Digest {
    let parties = [*debt.provider.as_bytes(), *debt.requester.as_bytes()];
    let all = [*debt.lease.as_bytes(), parties[0], parties[1]].concat();
    Digest::from_bytes(blake3::derive_key(
        "skep ledger, payment of a lease between two v2",
        &all,
    ))
}

/// The same as earlier versions wrote it, for a lease whoever pays it. Nothing is written under it any more, and what
/// was is not paid again.
pub(super) fn earlier_payment_of(lease: Digest) -> Digest {
    Digest::from_bytes(blake3::derive_key(
        "skep ledger, payment of a lease v1",
        lease.as_bytes(),
    ))
}

impl Operation<'_> {
    /// The entry that it would be, before anyone looks at whether it can be.
    pub(super) fn plan(&self, keys: &mut Keys) -> Planned {
        let entry = |kind, id, content, escrow| Planned {
            entry: Entry {
                kind,
                id,
                content,
                movements: Vec::new(),
                escrow,
                settled: Vec::new(),
                bound: Vec::new(),
            },
            verdict: None,
        };
        let simple =
            |kind, id: Digest, account: AccountId, amount: Credits, job: Option<Digest>| {
                let mut said = account.as_bytes().to_vec();
                said.extend(amount.micro().to_be_bytes());
                said.extend(job.map(|job| *job.as_bytes()).unwrap_or_default());
                entry(kind, id, Digest::of(&said), job)
            };
        match *self {
            Self::Deposit {
                id,
                account,
                amount,
            } => simple(EntryKind::Deposit, id, account, amount, None),
            Self::Withdraw {
                id,
                account,
                amount,
            } => simple(EntryKind::Withdrawal, id, account, amount, None),
            Self::Stake {
                id,
                account,
                amount,
            } => simple(EntryKind::Stake, id, account, amount, None),
            Self::Unstake {
                id,
                account,
                amount,
                ..
            } => simple(EntryKind::Unstake, id, account, amount, None),
            Self::Bind {
                job,
                account,
                until,
            } => {
                let both = [*job.as_bytes(), *account.as_bytes()].concat();
                let id = blake3::derive_key("skep ledger, stake bound by a job v1", &both);
                let said = [&both[..], &until.to_be_bytes()].concat();
                let mut planned = entry(
                    EntryKind::Binding,
                    Digest::from_bytes(id),
                    Digest::of(&said),
                    None,
                );
                planned.entry.bound = vec![(account, until)];
                planned
            }
            Self::Escrow {
                id,
                job,
                requester,
                amount,
            } => simple(EntryKind::Escrow, id, requester, amount, Some(job)),
            Self::Refund { id, job } => entry(EntryKind::Refund, id, job, Some(job)),
            Self::Release(receipt) => entry(
                EntryKind::Release,
                payment_of(Debt::of(receipt)),
                receipt.digest(),
                Some(receipt.job),
            ),
            Self::Judge(accusation) => {
                let verdict = judge(accusation, keys);
                let id = match &verdict {
                    Verdict::Guilty { offender, lease } => {
                        let both = [*offender.as_bytes(), *lease.as_bytes()].concat();
                        blake3::derive_key("skep ledger, fine for a fraud v1", &both)
                    }
                    Verdict::FalseAccusation { .. } => blake3::derive_key(
                        "skep ledger, fine for a false accusation v1",
                        accusation.digest().as_bytes(),
                    ),
                };
                let id = Digest::from_bytes(id);
                Planned {
                    verdict: Some(verdict),
                    ..entry(EntryKind::Slash, id, accusation.digest(), None)
                }
            }
            Self::Settle(batch) => {
                let mut planned = entry(EntryKind::Settlement, batch.root(), batch.root(), None);
                let paid = batch.receipts().iter().map(|(debt, receipt)| PaidLease {
                    lease: debt.lease,
                    receipt: *receipt,
                    payment: payment_of(*debt),
                });
                planned.entry.settled = paid.collect();
                let workers = batch.workers().iter();
                let bound = workers.map(|(worker, ended)| (*worker, ended.saturating_add(DISPUTE)));
                planned.entry.bound = bound.collect();
                planned
            }
        }
    }

    /// All identifiers under which what its entry does may have been done before.
    pub(super) fn identifiers(&self, mine: &Entry) -> Vec<Digest> {
        let lease = match self {
            Self::Release(receipt) => Some(receipt.lease),
            _ => None,
        };
        let mut all = vec![mine.id];
        all.extend(lease.map(earlier_payment_of));
        for paid in &mine.settled {
            all.extend([paid.payment, earlier_payment_of(paid.lease)]);
        }
        all
    }

    /// What to answer if an identifier of its entry is that of an earlier one.
    pub(super) fn found(
        &self,
        mine: &Entry,
        earlier: Option<&Entry>,
        id: Digest,
        sequence: u64,
    ) -> Result<Posted, PostError> {
        let is_same = match self {
            // One fraud is fined once, whichever way it is proven.
            Self::Judge(_) => true,
            Self::Settle(_) => id == mine.id,
            // Alone or in a batch.
            Self::Release(receipt) => earlier.is_some_and(|earlier| {
                let receipt = receipt.digest();
                let mut settled = earlier.settled.iter();
                earlier.content == receipt || settled.any(|paid| paid.receipt == receipt)
            }),
            _ => earlier.is_some_and(|earlier| {
                (earlier.kind, earlier.content) == (mine.kind, mine.content)
            }),
        };
        if is_same {
            return Ok(Posted::Already { sequence });
        }
        let lease = match self {
            Self::Release(receipt) => Some(receipt.lease),
            _ => mine.settled.iter().find_map(|paid| {
                let is_its = paid.payment == id || earlier_payment_of(paid.lease) == id;
                is_its.then_some(paid.lease)
            }),
        };
        Err(match lease {
            Some(lease) => PostError::PaidOtherwise { lease, sequence },
            None => PostError::Conflict { id, sequence },
        })
    }

    /// What it moves, given what everyone has.
    pub(super) fn movements(
        &self,
        books: &Books,
        terms: &Terms,
        verdict: Option<&Verdict>,
    ) -> Result<Vec<Movement>, PostError> {
        let movement = |from, to, amount| {
            if amount == Credits::ZERO {
                return Err(PostError::Nothing);
            }
            Ok(vec![Movement { from, to, amount }])
        };
        match *self {
            Self::Deposit {
                account, amount, ..
            } => movement(Book::Treasury, Book::Available(account), amount),
            Self::Withdraw {
                account, amount, ..
            } => movement(Book::Available(account), Book::Treasury, amount),
            Self::Stake {
                account, amount, ..
            } => movement(Book::Available(account), Book::Staked(account), amount),
            Self::Unstake {
                account,
                amount,
                at,
                ..
            } => match books.bound.get(&account) {
                Some(until) if at < *until => Err(PostError::Bound {
                    account,
                    until: *until,
                }),
                _ => movement(Book::Staked(account), Book::Available(account), amount),
            },
            Self::Bind { .. } => Ok(Vec::new()),
            Self::Escrow {
                job,
                requester,
                amount,
                ..
            } => {
                check_payer(books, job, requester)?;
                movement(
                    Book::Available(requester),
                    Book::Escrowed(requester),
                    amount,
                )
            }
            Self::Refund { job, .. } => {
                let escrow = books.escrows.get(&job).ok_or(PostError::NoEscrow { job })?;
                Ok(paying(
                    Book::Escrowed(escrow.requester),
                    [(Book::Available(escrow.requester), escrow.left)],
                ))
            }
            Self::Release(receipt) => {
                let job = receipt.job;
                check_payer(books, job, receipt.requester)?;
                let escrow = books.escrows.get(&job).ok_or(PostError::NoEscrow { job })?;
                if escrow.left < receipt.price {
                    return Err(PostError::Short {
                        book: Book::Escrowed(receipt.requester),
                        has: escrow.left,
                        needs: receipt.price,
                    });
                }
                let payments = receipt.payments();
                Ok(paying(
                    Book::Escrowed(receipt.requester),
                    payments
                        .into_iter()
                        .map(|(account, part)| (Book::Available(account), part)),
                ))
            }
            Self::Judge(accusation) => {
                let (loser, winner) = match verdict {
                    Some(Verdict::Guilty { offender, .. }) => (*offender, accusation.accuser),
                    _ => (accusation.accuser, accusation.accused),
                };
                let fine = books.balance(Book::Staked(loser)).min(terms.fine);
                if fine == Credits::ZERO {
                    return Err(PostError::NothingAtStake { account: loser });
                }
                // Accusing oneself is no way to get a stake back.
                let reward = match loser == winner {
                    true => Credits::ZERO,
                    false => fine.millionths(terms.reward.min(1_000_000)),
                };
                let burned = fine.checked_sub(reward).unwrap_or_default();
                Ok(paying(
                    Book::Staked(loser),
                    [(Book::Available(winner), reward), (Book::Burned, burned)],
                ))
            }
            Self::Settle(batch) => Ok(batch
                .transfers()
                .into_iter()
                .map(|transfer| Movement {
                    from: Book::Available(transfer.from),
                    to: Book::Available(transfer.to),
                    amount: transfer.amount,
                })
                .collect()),
        }
    }
}

/// Movements out of one book into several; those of nothing are left out.
fn paying(from: Book, to: impl IntoIterator<Item = (Book, Credits)>) -> Vec<Movement> {
    to.into_iter()
        .filter(|(_, amount)| *amount != Credits::ZERO)
        .map(|(to, amount)| Movement { from, to, amount })
        .collect()
}

fn check_payer(books: &Books, job: Digest, payer: AccountId) -> Result<(), PostError> {
    match books.escrows.get(&job) {
        Some(escrow) if escrow.requester != payer => Err(PostError::OtherPayer {
            job,
            owner: escrow.requester,
            payer,
        }),
        _ => Ok(()),
    }
}
