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
        written(output, worked.iter().chain(&ordered)).map_err(|error| {
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

/// The file is there whole, or as it was before.
fn written<'a>(
    output: &Path,
    receipts: impl Iterator<Item = &'a Agreed<Receipt>>,
) -> io::Result<()> {
    let folder = match output.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    let mut builder = tempfile::Builder::new();
    // As any other file that the person makes: their umask decides who may read it.
    #[cfg(unix)]
    builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666));
    let mut file = builder.tempfile_in(folder)?;
    let mut out = BufWriter::new(file.as_file_mut());
    write_receipts(&mut out, receipts)?;
    out.flush()?;
    drop(out);
    file.as_file().sync_all()?;
    file.persist(output).map_err(|error| error.error)?;
    Ok(())
}

/// The receipts of files, all of them or none.
fn read(files: &[PathBuf]) -> Result<ReceiptFiles, Failure> {
    let mut receipts = ReceiptFiles::default();
    for file in files {
        let about = fs::metadata(file).map_err(|error| run::cannot_read(file, &error))?;
        // What is no file may never end, or never begin.
        if !about.is_file() {
            let reason = format!(
                "{} is no file; name files that `skep account receipts` wrote",
                file.display()
            );
            return Err(Failure::new(FailureKind::Usage, reason));
        }
        let opened = File::open(file).map_err(|error| run::cannot_read(file, &error))?;
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
