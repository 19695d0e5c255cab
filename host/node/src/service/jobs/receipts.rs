//! Receipts in files: written for whoever wants to check what this node says of its credits, added up without any ledger,
//! and settled in this node's own.
//!
//! # What it must never do
//!
//! - Believe a file: all of them are strangers'.
//! - Move anything of a batch of which not all can be paid.

use std::fs::{self, File};
use std::io::{self, BufReader, BufWriter, Write as _};
use std::path::{Path, PathBuf};

use skep_evidence::{Agreed, Credits, Keys, Receipt, Unverified, verify_agreed};
use skep_market::{
    Batch, Book, EmbeddedSettlement, Ledger, NetError, PostError, ReceiptFiles, ReceiptsError,
    SettleError, Settled, Settlement as _, net, turnover, write_receipts,
};

use super::{failed, money};
use crate::beside;
use crate::failure::{Failure, FailureKind};
use crate::requests::receipts::{
    BalanceLine, PositionLine, ReceiptsLine, Recomputed, SettledBatch, TransferLine,
};
use crate::service::{Service, run};

/// Writes every receipt that this node has with both signatures, in place of what is there.
pub fn write(service: &Service, output: &Path) -> Result<ReceiptsLine, Failure> {
    let (earnings, dealings) = (money::earnings(service)?, money::dealings(service)?);
    tokio::task::block_in_place(|| {
        let worked = earnings.receipts().map_err(failed)?;
        let ordered = dealings.receipts().map_err(failed)?;
        let ordered = ordered.iter();
        let ordered: Result<Vec<_>, _> = ordered
            .map(|receipt| Unverified::<Receipt>::decode_agreed(receipt))
            .collect();
        let ordered = verify_agreed(ordered.map_err(failed)?, &mut Keys::default());
        let ordered = ordered.map_err(|(_, error)| failed(error))?;
        let written = beside::write(output, |file| {
            let mut out = BufWriter::new(file);
            write_receipts(&mut out, worked.iter().chain(&ordered))?;
            out.flush()
        });
        written.map_err(|error| {
            let reason = format!(
                "cannot write the receipts to {}: {error}; name another file with --output",
                output.display()
            );
            Failure::new(FailureKind::Failed, reason)
        })?;
        Ok(ReceiptsLine {
            file: output.to_owned(),
            receipts: (worked.len() + ordered.len()) as u64,
            worked: worked.len() as u64,
            ordered: ordered.len() as u64,
        })
    })
}

/// Opens a file that somebody handed over; `hint` says what else to name. What is no file may never end, or never begin.
pub(super) fn opened(file: &Path, hint: &str) -> Result<File, Failure> {
    let cannot = |error: io::Error| run::cannot_read(file, &error);
    if !fs::metadata(file).map_err(cannot)?.is_file() {
        let reason = format!("{} is no file; {hint}", file.display());
        return Err(Failure::new(FailureKind::Usage, reason));
    }
    File::open(file).map_err(cannot)
}

/// The receipts of files, all of them or none.
fn read(files: &[PathBuf]) -> Result<ReceiptFiles, Failure> {
    let mut receipts = ReceiptFiles::default();
    for file in files {
        let opened = opened(file, "name files that `skep account receipts` wrote")?;
        receipts
            .add(file, BufReader::new(opened))
            .map_err(|error| Failure::of(kind_of(&error), &error))?;
    }
    Ok(receipts)
}

fn kind_of(error: &ReceiptsError) -> FailureKind {
    match error {
        ReceiptsError::Read { .. } => FailureKind::Failed,
        ReceiptsError::TooMany { .. } => FailureKind::Limit,
        ReceiptsError::OtherFile { .. }
        | ReceiptsError::CutOff { .. }
        | ReceiptsError::Wrong { .. }
        | ReceiptsError::TwoReceipts { .. } => FailureKind::Refused,
    }
}

/// What the receipts in files come to for everybody in them.
pub fn recomputed(files: &[PathBuf]) -> Result<Recomputed, Failure> {
    tokio::task::block_in_place(|| {
        let read = read(files)?;
        let lines = turnover(read.receipts()).into_iter();
        let lines = lines.map(|(account, turnover)| {
            let too_much = |_| Failure::of(FailureKind::Refused, &NetError::TooMuch { account });
            Ok(BalanceLine {
                account: account.to_string(),
                earned_micro: u64::try_from(turnover.earned).map_err(too_much)?,
                spent_micro: u64::try_from(turnover.spent).map_err(too_much)?,
                balance_micro: i64::try_from(turnover.gained()).map_err(too_much)?,
            })
        });
        Ok(Recomputed {
            balances: lines.collect::<Result<_, Failure>>()?,
            receipts: read.receipts().len() as u64,
            repeated: read.repeated(),
        })
    })
}

/// Settles the receipts in files in this node's own ledger.
pub fn settled(service: &Service, files: &[PathBuf]) -> Result<SettledBatch, Failure> {
    let read = tokio::task::block_in_place(|| read(files))?;
    let all = read.receipts();
    let outcome = money::with_ledger(service, |ledger| match settle(ledger, all) {
        // Only who cannot use the ledger has to open it again.
        Err(SettleError::Ledger(error)) => Err(failed(error)),
        Err(error) => Ok(Err(refused(ledger, all, error))),
        Ok(done) => Ok(Ok(done)),
    })?;
    let (batch, settled) = outcome?;
    let positions = batch.positions().iter().map(|position| PositionLine {
        account: position.account.to_string(),
        micro: position.amount,
    });
    let transfers = batch.transfers().into_iter().map(|transfer| TransferLine {
        from: transfer.from.to_string(),
        to: transfer.to.to_string(),
        micro: transfer.amount.micro(),
    });
    let counted = batch.receipts().len();
    Ok(SettledBatch {
        root: settled.root.to_string(),
        entry: settled.at,
        receipts: counted as u64,
        repeated: read.repeated(),
        left_out: (all.len() - counted) as u64,
        positions: positions.collect(),
        transfers: transfers.collect(),
    })
}

/// Settles those of these receipts that nothing paid yet. If all were, they are answered for as the first time.
fn settle(
    ledger: &mut Ledger,
    receipts: &[Agreed<Receipt>],
) -> Result<(Batch, Settled), SettleError> {
    let mut settlement = EmbeddedSettlement(ledger);
    let unpaid = settlement.unpaid(receipts)?;
    let counted = match unpaid.is_empty() {
        true => receipts,
        false => &unpaid[..],
    };
    let batch = net(counted)?;
    let settled = settlement.settle(&batch, counted)?;
    Ok((batch, settled))
}

/// Why receipts are not settled, and what to do.
fn refused(ledger: &mut Ledger, receipts: &[Agreed<Receipt>], error: SettleError) -> Failure {
    let refused = |reason: String| Failure::new(FailureKind::Refused, reason);
    let unpaid = match EmbeddedSettlement(ledger).unpaid(receipts) {
        Ok(unpaid) => unpaid,
        Err(error) => return Failure::of(FailureKind::Refused, &error),
    };
    match error {
        SettleError::Empty => refused(
            "there is nothing to settle: no file has a receipt in it; `skep account receipts` writes those that a node \
             has"
                .to_owned(),
        ),
        SettleError::Refused(PostError::PaidOtherwise { .. }) if unpaid.is_empty() => {
            refused(format!(
                "there is nothing to settle: all {} receipts were settled or paid in this ledger before, though not in \
                 one batch",
                receipts.len()
            ))
        }
        SettleError::Refused(PostError::Short { .. }) => match net(&unpaid) {
            Ok(batch) => refused(short(ledger, &batch)),
            Err(error) => Failure::of(FailureKind::Refused, &error),
        },
        error => Failure::of(FailureKind::Refused, &error),
    }
}

/// Who lacks how much of what it owes.
fn short(ledger: &Ledger, batch: &Batch) -> String {
    let debtors = batch.positions().iter().filter(|debtor| debtor.amount < 0);
    let lacking = debtors.filter_map(|debtor| {
        let (account, owes) = (
            debtor.account,
            Credits::from_micro(debtor.amount.unsigned_abs()),
        );
        let has = ledger.balance(Book::Available(account));
        let lacks = owes.checked_sub(has).filter(|lacks| *lacks > Credits::ZERO)?;
        Some(format!(
            "{account} owes {owes} credits and has {has} (`skep account add {lacks} --account {account}`)"
        ))
    });
    let lacking: Vec<String> = lacking.collect();
    format!(
        "nothing is settled, since not everybody can pay in this ledger: {}. Put in what is missing for whoever gave you \
         that much for it elsewhere, or leave out the files with the receipts of whoever did not, and settle again",
        lacking.join(", ")
    )
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use skep_evidence::AccountId;
    use skep_market::{Operation, Terms};
    use skep_registry::Digest;

    use super::super::testing::{bill, key};
    use super::*;

    /// A receipt of a provider for a requester, of so many micro-credits.
    fn receipt(lease: u8, provider: u8, requester: u8, price: u64) -> Agreed<Receipt> {
        let signed = bill(lease, provider, requester, price);
        signed.accept(&key(requester)).unwrap()
    }

    /// A ledger, and what puts credits in it.
    fn ledger(folder: &tempfile::TempDir) -> Ledger {
        let terms = Terms {
            supply: Credits::from_micro(1_000_000_000),
            fine: Credits::from_micro(1),
            reward: 0,
        };
        Ledger::open(&folder.path().join("ledger"), terms).unwrap()
    }

    fn add(ledger: &mut Ledger, account: AccountId, credits: &str) {
        let id = Digest::of(&ledger.len().to_be_bytes());
        let amount = credits.parse().unwrap();
        let deposit = Operation::Deposit {
            id,
            account,
            amount,
        };
        ledger.post(&[deposit]).unwrap().remove(0).unwrap();
    }

    /// What somebody is told whose receipts are not settled.
    fn told(ledger: &mut Ledger, receipts: &[Agreed<Receipt>]) -> String {
        let error = settle(ledger, receipts).unwrap_err();
        let failure = refused(ledger, receipts, error);
        assert_eq!(failure.kind, FailureKind::Refused);
        failure.message
    }

    #[test]
    fn who_cannot_pay_is_named_with_what_it_owes_and_has_and_with_what_puts_in_the_rest() {
        let folder = tempfile::tempdir().unwrap();
        let mut ledger = ledger(&folder);
        let receipts = [
            receipt(1, 1, 2, 5_000_000),
            receipt(2, 1, 3, 250_000),
            receipt(3, 1, 4, 1_000_000),
            // What the third earned of the second is taken off.
            receipt(4, 3, 2, 50_000),
        ];
        add(&mut ledger, key(2).id(), "1.5");
        add(&mut ledger, key(4).id(), "1");
        // The fourth has all that it owes, and is not named.
        let mut short = [
            (key(2).id(), "5.05", "1.5", "3.55"),
            (key(3).id(), "0.2", "0", "0.2"),
        ];
        short.sort_by_key(|(account, ..)| *account);
        let [one, two] = short.map(|(account, owes, has, lacks)| {
            format!(
                "{account} owes {owes} credits and has {has} (`skep account add {lacks} --account {account}`)"
            )
        });
        let expected = format!(
            "nothing is settled, since not everybody can pay in this ledger: {one}, {two}. Put in what is missing for \
             whoever gave you that much for it elsewhere, or leave out the files with the receipts of whoever did not, \
             and settle again"
        );
        assert_eq!(told(&mut ledger, &receipts), expected);
        // Who does what it says of one is told of the other alone, and then it is settled.
        let (account, _, _, lacks) = short[0];
        add(&mut ledger, account, lacks);
        let next = told(&mut ledger, &receipts);
        assert!(next.contains(&two) && !next.contains(&one), "{next}");
        let (account, _, _, lacks) = short[1];
        add(&mut ledger, account, lacks);
        settle(&mut ledger, &receipts).unwrap();
        for (account, ..) in short {
            assert_eq!(ledger.balance(Book::Available(account)), Credits::ZERO);
        }
    }

    #[test]
    fn where_there_is_nothing_to_settle_it_is_said_why() {
        let folder = tempfile::tempdir().unwrap();
        let mut ledger = ledger(&folder);
        let none = told(&mut ledger, &[]);
        assert!(none.contains("no file has a receipt in it"), "{none}");
        add(&mut ledger, key(2).id(), "1");
        let receipts = [receipt(1, 1, 2, 300), receipt(2, 1, 2, 400)];
        for one in receipts.chunks(1) {
            settle(&mut ledger, one).unwrap();
        }
        let all = told(&mut ledger, &receipts);
        assert!(
            all.contains("all 2 receipts were settled or paid in this ledger before"),
            "{all}"
        );
    }

    #[test]
    fn what_is_no_file_is_not_read() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("file");
        let missing = opened(&file, "name another").unwrap_err();
        assert_eq!(missing.kind, FailureKind::NotFound);
        fs::write(&file, b"here").unwrap();
        assert!(opened(&file, "name another").is_ok());
        let mut others = vec![folder.path().to_owned()];
        if cfg!(unix) {
            // It has no end.
            others.push("/dev/zero".into());
        }
        for other in others {
            let refused = opened(&other, "name another").unwrap_err();
            assert_eq!(refused.kind, FailureKind::Usage);
            assert!(refused.message.contains("is no file; name another"));
        }
    }
}
