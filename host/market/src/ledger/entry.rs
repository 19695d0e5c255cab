//! Entries: what is written for each operation, and its encoding.
//!
//! ```text
//! entry = [kind, id: bytes, content: bytes, [[from, to, amount]…], escrow: bytes / null,
//!          [[lease: bytes, receipt: bytes, payment: bytes]…], [[account: bytes, until]…]]
//! ```
//!
//! The last part is left out where it is empty, and a payment where it is as in earlier versions, of the lease alone.
//! Books are written by their number. Once written, an entry never changes.

use minicbor::{Decoder, Encoder};
use skep_evidence::{AccountId, Credits};
use skep_registry::Digest;

use super::books::{Book, BookNumber, Books, Movement};
use super::operation::earlier_payment_of;

/// What an entry is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EntryKind {
    /// Credits given out.
    Deposit,
    /// Credits taken back.
    Withdrawal,
    /// Credits put at stake.
    Stake,
    /// Credits no longer at stake.
    Unstake,
    /// Credits held for a job.
    Escrow,
    /// A receipt paid out of what is held for its job.
    Release,
    /// What a job left over.
    Refund,
    /// A fine for what a party's own signatures prove.
    Slash,
    /// A batch of receipts between nodes, settled at once.
    Settlement,
    /// What keeps an account's stake where it is.
    Binding,
}

const KINDS: [EntryKind; 10] = [
    EntryKind::Deposit,
    EntryKind::Withdrawal,
    EntryKind::Stake,
    EntryKind::Unstake,
    EntryKind::Escrow,
    EntryKind::Release,
    EntryKind::Refund,
    EntryKind::Slash,
    EntryKind::Settlement,
    EntryKind::Binding,
];

/// A lease that an entry pays together with others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PaidLease {
    /// The lease.
    pub lease: Digest,
    /// The receipt that was paid.
    pub receipt: Digest,
    /// The identifier of the payment, under which nothing is paid again.
    pub payment: Digest,
}

/// One operation, as it was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// What it is for.
    pub kind: EntryKind,
    /// What makes it one and the same, however often it is posted.
    pub id: Digest,
    /// The digest of everything that it says, such as that of the receipt.
    pub content: Digest,
    /// What went where.
    pub movements: Vec<Movement>,
    /// The job whose escrow it is about.
    pub escrow: Option<Digest>,
    /// The leases that it pays beside, if it settles a batch.
    pub settled: Vec<PaidLease>,
    /// Accounts whose stake stays where it is, each with the time until which, in milliseconds since 1970.
    pub bound: Vec<(AccountId, u64)>,
}

impl Entry {
    pub(super) fn encode(&self, books: &mut Books) -> Vec<u8> {
        let mut out = Encoder::new(Vec::with_capacity(96 + 24 * self.movements.len()));
        // Writing to memory has no error: its type is uninhabited.
        let _ = self.write(&mut out, books);
        out.into_writer()
    }

    fn write(
        &self,
        out: &mut Encoder<Vec<u8>>,
        books: &mut Books,
    ) -> Result<(), minicbor::encode::Error<std::convert::Infallible>> {
        let kind = KINDS.iter().position(|kind| *kind == self.kind);
        out.array(6 + u64::from(!self.bound.is_empty()))?;
        out.u64(kind.unwrap_or_default() as u64)?;
        out.bytes(self.id.as_bytes())?;
        out.bytes(self.content.as_bytes())?;
        out.array(self.movements.len() as u64)?;
        for movement in &self.movements {
            out.array(3)?
                .u32(books.open(movement.from))?
                .u32(books.open(movement.to))?
                .u64(movement.amount.micro())?;
        }
        match &self.escrow {
            Some(job) => out.bytes(job.as_bytes())?.ok()?,
            None => out.null()?.ok()?,
        }
        out.array(self.settled.len() as u64)?;
        for paid in &self.settled {
            let is_earlier = paid.payment == earlier_payment_of(paid.lease);
            out.array(3 - u64::from(is_earlier))?
                .bytes(paid.lease.as_bytes())?
                .bytes(paid.receipt.as_bytes())?;
            if !is_earlier {
                out.bytes(paid.payment.as_bytes())?;
            }
        }
        if !self.bound.is_empty() {
            out.array(self.bound.len() as u64)?;
            for (account, until) in &self.bound {
                out.array(2)?.bytes(account.as_bytes())?.u64(*until)?;
            }
        }
        Ok(())
    }

    /// Reads an entry whose books are these; the reason why not.
    pub(super) fn decode(
        bytes: &[u8],
        book: impl Fn(BookNumber) -> Option<Book>,
    ) -> Result<Self, String> {
        read(bytes, book).map_err(|error| error.to_string())
    }
}

fn read(
    bytes: &[u8],
    book: impl Fn(BookNumber) -> Option<Book>,
) -> Result<Entry, minicbor::decode::Error> {
    let unknown = minicbor::decode::Error::message;
    let mut input = Decoder::new(bytes);
    let digest = |input: &mut Decoder<'_>| {
        let bytes = input.bytes()?.try_into();
        bytes
            .map(Digest::from_bytes)
            .map_err(|_| unknown("a digest of another length"))
    };
    let length = |input: &mut Decoder<'_>| {
        input
            .array()?
            .ok_or_else(|| unknown("a list of unknown length"))
    };
    let parts = length(&mut input)?;
    if !(6..=7).contains(&parts) {
        return Err(unknown("an entry has six parts, or seven"));
    }
    let kind = usize::try_from(input.u64()?).unwrap_or(usize::MAX);
    let kind = KINDS
        .get(kind)
        .ok_or_else(|| unknown("an entry of an unknown kind"))?;
    let (id, content) = (digest(&mut input)?, digest(&mut input)?);
    let mut movements = Vec::new();
    for _ in 0..length(&mut input)? {
        if length(&mut input)? != 3 {
            return Err(unknown("a movement has three parts"));
        }
        let mut side = || book(input.u32()?).ok_or_else(|| unknown("a book that was never opened"));
        let (from, to) = (side()?, side()?);
        movements.push(Movement {
            from,
            to,
            amount: Credits::from_micro(input.u64()?),
        });
    }
    let escrow = match input.datatype()? {
        minicbor::data::Type::Null => {
            input.null()?;
            None
        }
        _ => Some(digest(&mut input)?),
    };
    let mut settled = Vec::new();
    for _ in 0..length(&mut input)? {
        let parts = length(&mut input)?;
        if !(2..=3).contains(&parts) {
            return Err(unknown("a settled lease has two parts, or three"));
        }
        let (lease, receipt) = (digest(&mut input)?, digest(&mut input)?);
        let payment = match parts {
            2 => earlier_payment_of(lease),
            _ => digest(&mut input)?,
        };
        settled.push(PaidLease {
            lease,
            receipt,
            payment,
        });
    }
    let mut bound = Vec::new();
    if parts == 7 {
        for _ in 0..length(&mut input)? {
            if length(&mut input)? != 2 {
                return Err(unknown("a bound stake has two parts"));
            }
            let account = AccountId::from_bytes(*digest(&mut input)?.as_bytes());
            bound.push((account, input.u64()?));
        }
    }
    Ok(Entry {
        kind: *kind,
        id,
        content,
        movements,
        escrow,
        settled,
        bound,
    })
}
