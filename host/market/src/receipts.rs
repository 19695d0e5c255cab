//! Files of receipts: for whoever adds up what others earned and spent, without anybody's ledger.
//!
//! ```text
//! file    = "skep receipts 1", a line feed, receipt*
//! receipt = length (4 bytes, the highest first), that many bytes as both sides signed them
//! ```
//!
//! # What it must never do
//!
//! - Count a receipt of which not both signatures hold, or one lease twice between the same two.
//! - Take memory for more than the receipts that hold, whatever a file says.

use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use skep_evidence::{
    Agreed, Keys, Receipt, Statement as _, StatementError, Unverified, verify_agreed,
};
use skep_registry::Digest;

use crate::balance::Debt;

const HEAD: [u8; 16] = *b"skep receipts 1\n";
/// Of so many the signatures are checked together.
const TOGETHER: usize = 1024;
/// The most receipts that are added up at once; they take about 700 bytes each.
pub const MAX_RECEIPTS: usize = 1_000_000;

/// Why a file of receipts is not counted.
#[derive(Debug, thiserror::Error)]
pub enum ReceiptsError {
    /// It cannot be read.
    #[error("cannot read {}: {error}", file.display())]
    Read {
        /// The file.
        file: PathBuf,
        /// What the system says.
        error: io::Error,
    },
    /// It is of another kind.
    #[error("{} is no file of receipts; `skep account receipts` writes one", file.display())]
    OtherFile {
        /// The file.
        file: PathBuf,
    },
    /// Its end is missing.
    #[error(
        "{} ends in the middle of receipt {number}, so that it is not all that was written; ask for it again",
        file.display()
    )]
    CutOff {
        /// The file.
        file: PathBuf,
        /// Which receipt, from 1.
        number: u64,
    },
    /// A receipt in it does not hold.
    #[error("receipt {number} in {} does not hold, so nothing is counted: {error}", file.display())]
    Wrong {
        /// The file.
        file: PathBuf,
        /// Which receipt, from 1.
        number: u64,
        /// What is wrong with it.
        error: Box<StatementError>,
    },
    /// Both sides signed two receipts for one lease.
    #[error(
        "receipt {number} in {} and receipt {first_number} in {} are for one lease, {lease}, and say different things: \
         whoever signed both has cheated, and neither counts until that is judged; leave one of the files out",
        file.display(),
        first_file.display()
    )]
    TwoReceipts {
        /// The lease.
        lease: Digest,
        /// Where the first is.
        first_file: PathBuf,
        /// Which receipt there, from 1.
        first_number: u64,
        /// Where the other is.
        file: PathBuf,
        /// Which receipt there, from 1.
        number: u64,
    },
    /// More than are added up at once.
    #[error("with {} there are more than {MAX_RECEIPTS} receipts; give fewer files at once", file.display())]
    TooMany {
        /// The file in which there was one too many.
        file: PathBuf,
    },
}

/// Writes a file of receipts.
///
/// # Errors
///
/// When it cannot be written.
pub fn write_receipts<'a>(
    out: &mut impl Write,
    receipts: impl IntoIterator<Item = &'a Agreed<Receipt>>,
) -> io::Result<()> {
    out.write_all(&HEAD)?;
    for receipt in receipts {
        let encoding = receipt.encode();
        // No receipt has more than 4,096 bytes.
        let length = u32::try_from(encoding.len()).unwrap_or(u32::MAX);
        out.write_all(&length.to_be_bytes())?;
        out.write_all(&encoding)?;
    }
    Ok(())
}

/// The receipts of some files, each counted once however often it is there.
#[derive(Debug, Default)]
pub struct ReceiptFiles {
    files: Vec<PathBuf>,
    /// Of all that is owed its receipt, and where that was.
    debts: BTreeMap<Debt, (Digest, Place)>,
    receipts: Vec<Agreed<Receipt>>,
    repeated: u64,
    keys: Keys,
}

/// Where a receipt was.
#[derive(Clone, Copy, Debug)]
struct Place {
    /// In which of the files.
    file: usize,
    /// Which one there, from 1.
    number: u64,
}

/// Why there is no next receipt.
enum Fault {
    Read(io::Error),
    CutOff,
    Wrong(StatementError),
}

impl ReceiptFiles {
    /// Counts the receipts of one more file, which may be anybody's.
    ///
    /// # Errors
    ///
    /// When anything in it does not hold, with the first place where. Then what is here is of no use any more.
    pub fn add(&mut self, file: &Path, mut input: impl Read) -> Result<(), ReceiptsError> {
        let mut head = [0; HEAD.len()];
        let filled = fill(&mut input, &mut head).map_err(|error| fault(file, 0, error.into()))?;
        if filled < HEAD.len() || head != HEAD {
            let file = file.to_owned();
            return Err(ReceiptsError::OtherFile { file });
        }
        let place = self.files.len();
        self.files.push(file.to_owned());
        let mut before = 0;
        loop {
            let mut read = Vec::new();
            let mut ended = None;
            while ended.is_none() && read.len() < TOGETHER {
                match next(&mut input) {
                    Ok(Some(receipt)) => read.push(receipt),
                    Ok(None) => ended = Some(Ok(())),
                    Err(fault) => ended = Some(Err(fault)),
                }
            }
            let after = before + read.len() as u64;
            // What comes before the fault is looked at first, so that the first one is named.
            self.count(file, place, before, read)?;
            match ended {
                Some(Ok(())) => return Ok(()),
                Some(Err(why)) => return Err(fault(file, after + 1, why)),
                None => before = after,
            }
        }
    }

    /// Counts receipts that come in a file after so many.
    fn count(
        &mut self,
        file: &Path,
        place: usize,
        before: u64,
        read: Vec<Unverified<Receipt>>,
    ) -> Result<(), ReceiptsError> {
        let agreed = verify_agreed(read, &mut self.keys)
            .map_err(|(at, error)| fault(file, before + 1 + at as u64, Fault::Wrong(error)))?;
        for (number, receipt) in (before + 1..).zip(agreed) {
            match self.debts.get(&Debt::of(&receipt)).copied() {
                Some((known, _)) if known == receipt.digest() => self.repeated += 1,
                Some((_, first)) => {
                    return Err(ReceiptsError::TwoReceipts {
                        lease: receipt.lease,
                        first_file: self.files.get(first.file).cloned().unwrap_or_default(),
                        first_number: first.number,
                        file: file.to_owned(),
                        number,
                    });
                }
                None if self.receipts.len() >= MAX_RECEIPTS => {
                    let file = file.to_owned();
                    return Err(ReceiptsError::TooMany { file });
                }
                None => {
                    let found = (
                        receipt.digest(),
                        Place {
                            file: place,
                            number,
                        },
                    );
                    self.debts.insert(Debt::of(&receipt), found);
                    self.receipts.push(receipt);
                }
            }
        }
        Ok(())
    }

    /// The receipts, each once.
    #[must_use]
    pub fn receipts(&self) -> &[Agreed<Receipt>] {
        &self.receipts
    }

    /// How many more there were that are the same as one of these.
    #[must_use]
    pub fn repeated(&self) -> u64 {
        self.repeated
    }
}

impl From<io::Error> for Fault {
    fn from(error: io::Error) -> Self {
        Self::Read(error)
    }
}

/// What is wrong with a file, at which receipt.
fn fault(file: &Path, number: u64, fault: Fault) -> ReceiptsError {
    let file = file.to_owned();
    match fault {
        Fault::Read(error) => ReceiptsError::Read { file, error },
        Fault::CutOff => ReceiptsError::CutOff { file, number },
        Fault::Wrong(error) => ReceiptsError::Wrong {
            file,
            number,
            error: Box::new(error),
        },
    }
}

/// The next receipt, whose signatures nobody has checked.
fn next(input: &mut impl Read) -> Result<Option<Unverified<Receipt>>, Fault> {
    let mut length = [0; 4];
    match fill(input, &mut length)? {
        0 => return Ok(None),
        4 => {}
        _ => return Err(Fault::CutOff),
    }
    let size = u32::from_be_bytes(length) as usize;
    if size > Receipt::MAX_BYTES {
        return Err(Fault::Wrong(StatementError::TooLarge {
            what: Receipt::NAME,
            size,
            limit: Receipt::MAX_BYTES,
        }));
    }
    let mut encoding = vec![0; size];
    if fill(input, &mut encoding)? < size {
        return Err(Fault::CutOff);
    }
    let receipt = Unverified::decode_agreed(&encoding);
    receipt.map(Some).map_err(Fault::Wrong)
}

/// Reads until there is no room or nothing more; how many bytes came.
fn fill(input: &mut impl Read, buffer: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match input.read(&mut buffer[filled..]) {
            Ok(0) => break,
            Ok(more) => filled += more,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::balance::{recompute, turnover};
    use crate::testing::{account, receipt};

    fn written(receipts: &[Agreed<Receipt>]) -> Vec<u8> {
        let mut bytes = Vec::new();
        write_receipts(&mut bytes, receipts).unwrap();
        bytes
    }

    /// What the files with these bytes come to; they are called 0, 1 and so on.
    fn read(files: &[&[u8]]) -> Result<ReceiptFiles, ReceiptsError> {
        let mut read = ReceiptFiles::default();
        for (name, bytes) in files.iter().enumerate() {
            read.add(Path::new(&name.to_string()), *bytes)?;
        }
        Ok(read)
    }

    /// Where a receipt begins in a file with these, its length included.
    fn begins(receipts: &[Agreed<Receipt>], number: usize) -> usize {
        written(&receipts[..number]).len()
    }

    #[test]
    fn what_two_keep_of_the_same_counts_once_and_adds_up() {
        // Key 2 works for key 1, and key 1 for key 2 and key 3.
        let all = [
            receipt(1, 1, 2, 1, 1_000),
            receipt(1, 2, 2, 1, 200),
            receipt(2, 3, 1, 2, 500),
            receipt(3, 4, 1, 3, 40),
        ];
        let (one, two) = (written(&all), written(&all[..3]));
        let files = read(&[&one, &two, &two, &written(&[])]).unwrap();
        assert_eq!(files.receipts(), all);
        assert_eq!(files.repeated(), 6);
        let balances = turnover(files.receipts());
        let of = |seed| {
            let turnover = balances[&account(seed)];
            (turnover.earned, turnover.spent)
        };
        // The operator has a tenth of each price, and the author a twentieth.
        assert_eq!([of(1), of(2), of(3)], [(459, 1_200), (1_020, 500), (0, 40)]);
        assert_eq!([of(90), of(91)], [(174, 0), (87, 0)]);
        assert_eq!(recompute(&all)[&account(1)], 459 - 1_200);
        assert_eq!(recompute(&all).values().sum::<i128>(), 0);
    }

    #[test]
    fn who_names_the_lease_of_others_keeps_nobody_from_counting_theirs() {
        let honest = [receipt(1, 1, 2, 1, 1_000)];
        let planted = [receipt(9, 1, 4, 3, 10)];
        assert_eq!(honest[0].lease, planted[0].lease);
        // Whichever comes first.
        let (one, two) = (written(&honest), written(&planted));
        for files in [[&one[..], &two[..]], [&two[..], &one[..]]] {
            let files = read(&files).unwrap();
            let balances = recompute(files.receipts());
            let of = |seed| balances[&account(seed)];
            assert_eq!([1, 2, 3, 4].map(of), [-1_000, 850, -10, 9]);
        }
    }

    #[test]
    fn more_than_are_checked_together_are_read_and_the_first_that_is_forged_is_named() {
        let count = TOGETHER + 70;
        let all: Vec<_> = (0..count as u64)
            .map(|lease| receipt(1, lease, 2, 1, 10))
            .collect();
        let good = written(&all);
        assert_eq!(read(&[&good]).unwrap().receipts(), all);
        for number in [0, TOGETHER - 1, TOGETHER, count - 1] {
            let mut forged = good.clone();
            // The requester's signature ends the receipt.
            forged[begins(&all, number + 1) - 1] ^= 1;
            // Behind it the file is cut off, which is not the first thing that is wrong.
            forged.pop();
            let expected = number as u64 + 1;
            match read(&[&good, &forged]).unwrap_err() {
                ReceiptsError::Wrong {
                    file,
                    number,
                    error,
                } => {
                    assert_eq!((file, number), (PathBuf::from("1"), expected));
                    let is_forged = matches!(*error, StatementError::BadSignature { .. });
                    assert!(is_forged, "{error}");
                }
                ReceiptsError::CutOff { number, .. } => {
                    assert_eq!((number, expected), (count as u64, count as u64));
                }
                error => panic!("{error}"),
            }
        }
    }

    #[test]
    fn what_a_stranger_writes_is_refused_by_file_and_place() {
        let all = [receipt(1, 1, 2, 1, 10), receipt(1, 2, 2, 1, 20)];
        let good = written(&all);
        for other in [&b""[..], b"skep receipts", b"skep receipts 2\n", b"{}\n"] {
            let error = read(&[&good, other]).unwrap_err();
            assert!(
                matches!(&error, ReceiptsError::OtherFile { file } if file == Path::new("1")),
                "{error}"
            );
        }
        // It ends in a length, and in a receipt.
        for cut in [begins(&all, 1) + 3, good.len() - 1] {
            let error = read(&[&good[..cut]]).unwrap_err();
            assert!(
                matches!(error, ReceiptsError::CutOff { number: 2, .. }),
                "{error}"
            );
        }
        // A length of four gigabytes takes no memory, and a receipt that one side signed is none.
        let mut long = written(&all[..1]);
        long.extend([0xff; 4]);
        let error = read(&[&long]).unwrap_err();
        let is_too_large =
            |error: &StatementError| matches!(error, StatementError::TooLarge { .. });
        assert!(
            matches!(&error, ReceiptsError::Wrong { number: 2, error, .. } if is_too_large(error)),
            "{error}"
        );
        let half = all[1].signed().encode();
        let mut unsigned = written(&all[..1]);
        unsigned.extend(u32::try_from(half.len()).unwrap().to_be_bytes());
        unsigned.extend(half);
        let error = read(&[&unsigned]).unwrap_err();
        assert!(
            matches!(error, ReceiptsError::Wrong { number: 2, .. }),
            "{error}"
        );
        // Another receipt of the same two for a lease, though both signed it as well.
        let twice = written(&[receipt(1, 9, 2, 1, 5), receipt(1, 2, 2, 1, 21)]);
        match read(&[&good, &twice]).unwrap_err() {
            ReceiptsError::TwoReceipts {
                lease,
                first_file,
                first_number,
                file,
                number,
            } => {
                assert_eq!(lease, all[1].lease);
                let first = (first_file, first_number);
                assert_eq!(first, (PathBuf::from("0"), 2));
                assert_eq!((file, number), (PathBuf::from("1"), 2));
            }
            error => panic!("{error}"),
        }
    }
}
