//! What happens to a job, and its encoding in the journal.
//!
//! ```text
//! event = [kind, shard, attempt, at, …]     what follows depends on the kind
//! ```

use minicbor::data::Type;
use minicbor::{Decoder, Encoder};
use skep_evidence::{AccountId, Credits, MAX_PANEL};
use skep_registry::Digest;

/// One lease of one shard.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AttemptId {
    /// Which shard.
    pub shard: u32,
    /// Which lease of it, from 0.
    pub attempt: u32,
}

/// Why a job ends without its result.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum GaveUp {
    /// Time ran out.
    #[error("the deadline passed before all shards were done; allow more time, or more nodes")]
    Deadline,
    /// Credits ran out.
    #[error("the budget is spent before all shards were done; allow a higher price")]
    Budget,
    /// One shard failed wherever it went.
    #[error("shard {shard} failed on every node that tried it; look at its records")]
    Attempts {
        /// Which.
        shard: u32,
    },
    /// The requester stopped it.
    #[error("the job was cancelled")]
    Cancelled,
}

/// What an audit found of one result.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Finding {
    /// It is what others got as well.
    Passed,
    /// Most of the panel got something else.
    Wrong,
    /// Others got something else, and no output has the majority of the panel; or there was
    /// nobody to look at it. It does not count, and nobody is charged.
    Undecided,
}

/// Something that happened. Times are in milliseconds since 1970.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A lease was made out. It is written before it is sent, so that after a crash the same one
    /// is sent again.
    Leased {
        /// Of which shard.
        id: AttemptId,
        /// When.
        at: u64,
        /// To whom.
        provider: AccountId,
        /// What it may cost at most.
        limit: Credits,
        /// The lease's digest, under which it is paid.
        lease: Digest,
        /// Which lease's result it audits, if it is made out for that. The lease does not say so.
        audits: Option<u32>,
        /// The signed lease, to be sent.
        encoding: Vec<u8>,
    },
    /// The provider did not take it, could not do it, or did not answer.
    Failed {
        /// Which.
        id: AttemptId,
        /// When.
        at: u64,
    },
    /// It took too long, or is not needed any more. What comes of it later is not looked at.
    Withdrawn {
        /// Which.
        id: AttemptId,
        /// When.
        at: u64,
    },
    /// A result came whose bytes are those of its commitment and whose receipt keeps the lease.
    Delivered {
        /// Which.
        id: AttemptId,
        /// When.
        at: u64,
        /// The output, in plain.
        output: Digest,
        /// [`skep_evidence::ResultCommitment::claim`]
        claim: Digest,
        /// How long the output is.
        bytes: u64,
        /// What it costs.
        price: Credits,
        /// Who may audit it, in the order of the draw; if there is anybody, it counts only once that
        /// is over.
        auditors: Vec<AccountId>,
        /// Whether it was not drawn, so that they look at it only if enough others got something else.
        only_if_odd: bool,
        /// The receipt, as the provider signed it.
        receipt: Vec<u8>,
    },
    /// An audit is over.
    Audited {
        /// Of which result: an audited one, or that of an auditor.
        id: AttemptId,
        /// When.
        at: u64,
        /// What was found of it.
        finding: Finding,
    },
    /// A receipt was countersigned and posted.
    Paid {
        /// Whose.
        id: AttemptId,
        /// When.
        at: u64,
    },
    /// The output of the next shard was put behind that of the one before.
    Assembled {
        /// Which shard.
        shard: u32,
        /// When.
        at: u64,
    },
    /// The job ended without its result.
    GaveUp {
        /// When.
        at: u64,
        /// Why.
        why: GaveUp,
    },
}

impl Event {
    /// When it happened.
    #[must_use]
    pub fn at(&self) -> u64 {
        match self {
            Self::Leased { at, .. }
            | Self::Failed { at, .. }
            | Self::Withdrawn { at, .. }
            | Self::Delivered { at, .. }
            | Self::Audited { at, .. }
            | Self::Paid { at, .. }
            | Self::Assembled { at, .. }
            | Self::GaveUp { at, .. } => *at,
        }
    }

    /// What it changes of the leases of this shard, as of a job that has no other.
    pub(super) fn of_shard(&self, shard: u32) -> Option<Self> {
        match self {
            Self::Leased { id, .. }
            | Self::Failed { id, .. }
            | Self::Withdrawn { id, .. }
            | Self::Delivered { id, .. }
            | Self::Audited { id, .. } => {
                if id.shard != shard {
                    return None;
                }
            }
            Self::GaveUp { .. } => {}
            Self::Paid { .. } | Self::Assembled { .. } => return None,
        }
        let mut event = self.clone();
        if let Self::Leased { id, .. }
        | Self::Failed { id, .. }
        | Self::Withdrawn { id, .. }
        | Self::Delivered { id, .. }
        | Self::Audited { id, .. } = &mut event
        {
            id.shard = 0;
        }
        Some(event)
    }

    pub(super) fn encode(&self) -> Vec<u8> {
        let mut out = Encoder::new(Vec::new());
        // Writing to memory has no error: its type is uninhabited.
        let _ = self.write(&mut out);
        out.into_writer()
    }

    fn write(
        &self,
        out: &mut Encoder<Vec<u8>>,
    ) -> Result<(), minicbor::encode::Error<std::convert::Infallible>> {
        let head = |out: &mut Encoder<Vec<u8>>, kind: u8, more: u64, id: AttemptId, at: u64| {
            out.array(4 + more)?
                .u8(kind)?
                .u32(id.shard)?
                .u32(id.attempt)?
                .u64(at)?
                .ok()
        };
        let none = AttemptId {
            shard: 0,
            attempt: 0,
        };
        match self {
            Self::Leased {
                id,
                at,
                provider,
                limit,
                lease,
                audits,
                encoding,
            } => {
                head(out, 1, 5, *id, *at)?;
                out.bytes(provider.as_bytes())?.u64(limit.micro())?;
                out.bytes(lease.as_bytes())?;
                match audits {
                    Some(audited) => out.u32(*audited)?,
                    None => out.null()?,
                };
                out.bytes(encoding)?.ok()
            }
            Self::Failed { id, at } => head(out, 2, 0, *id, *at),
            Self::Withdrawn { id, at } => head(out, 3, 0, *id, *at),
            Self::Delivered {
                id,
                at,
                output,
                claim,
                bytes,
                price,
                auditors,
                only_if_odd,
                receipt,
            } => {
                // Nothing is said of it where it is not so, so that journals are written as they were.
                head(out, 4, 6 + u64::from(*only_if_odd), *id, *at)?;
                out.bytes(output.as_bytes())?
                    .bytes(claim.as_bytes())?
                    .u64(*bytes)?
                    .u64(price.micro())?;
                out.array(auditors.len() as u64)?;
                for auditor in auditors {
                    out.bytes(auditor.as_bytes())?;
                }
                out.bytes(receipt)?;
                match only_if_odd {
                    true => out.bool(true)?.ok(),
                    false => out.ok(),
                }
            }
            Self::Audited { id, at, finding } => {
                head(out, 5, 1, *id, *at)?;
                out.u8(match finding {
                    Finding::Passed => 0,
                    Finding::Wrong => 1,
                    Finding::Undecided => 2,
                })?
                .ok()
            }
            Self::Paid { id, at } => head(out, 6, 0, *id, *at),
            Self::Assembled { shard, at } => head(
                out,
                7,
                0,
                AttemptId {
                    shard: *shard,
                    ..none
                },
                *at,
            ),
            Self::GaveUp { at, why } => {
                let (code, shard) = match why {
                    GaveUp::Deadline => (0, 0),
                    GaveUp::Budget => (1, 0),
                    GaveUp::Attempts { shard } => (2, *shard),
                    GaveUp::Cancelled => (3, 0),
                };
                head(out, 8, 1, AttemptId { shard, ..none }, *at)?;
                out.u8(code)?.ok()
            }
        }
    }

    /// Reads an event; the reason why not.
    pub(super) fn decode(bytes: &[u8]) -> Result<Self, String> {
        read(bytes).map_err(|error| error.to_string())
    }
}

fn read(bytes: &[u8]) -> Result<Event, minicbor::decode::Error> {
    let unfit = minicbor::decode::Error::message;
    let mut input = Decoder::new(bytes);
    let length = input.array()?;
    let kind = input.u8()?;
    let id = AttemptId {
        shard: input.u32()?,
        attempt: input.u32()?,
    };
    let at = input.u64()?;
    let fixed = |input: &mut Decoder<'_>| -> Result<[u8; 32], minicbor::decode::Error> {
        let bytes = input.bytes()?;
        bytes
            .try_into()
            .map_err(|_| unfit("another length than 32 bytes"))
    };
    let event = match kind {
        1 => Event::Leased {
            id,
            at,
            provider: AccountId::from_bytes(fixed(&mut input)?),
            limit: Credits::from_micro(input.u64()?),
            lease: Digest::from_bytes(fixed(&mut input)?),
            audits: match input.datatype()? {
                Type::Null => {
                    input.null()?;
                    None
                }
                _ => Some(input.u32()?),
            },
            encoding: input.bytes()?.to_vec(),
        },
        2 => Event::Failed { id, at },
        3 => Event::Withdrawn { id, at },
        4 => Event::Delivered {
            id,
            at,
            output: Digest::from_bytes(fixed(&mut input)?),
            claim: Digest::from_bytes(fixed(&mut input)?),
            bytes: input.u64()?,
            price: Credits::from_micro(input.u64()?),
            auditors: {
                let count = input.array()?.unwrap_or(u64::MAX);
                if count > u64::from(MAX_PANEL) {
                    return Err(unfit("more auditors than a panel has"));
                }
                let read = (0..count).map(|_| fixed(&mut input).map(AccountId::from_bytes));
                read.collect::<Result<_, _>>()?
            },
            receipt: input.bytes()?.to_vec(),
            only_if_odd: length == Some(11) && input.bool()?,
        },
        5 => Event::Audited {
            id,
            at,
            finding: match input.u8()? {
                0 => Finding::Passed,
                1 => Finding::Wrong,
                2 => Finding::Undecided,
                _ => return Err(unfit("an unknown finding")),
            },
        },
        6 => Event::Paid { id, at },
        7 => Event::Assembled {
            shard: id.shard,
            at,
        },
        8 => Event::GaveUp {
            at,
            why: match input.u8()? {
                0 => GaveUp::Deadline,
                1 => GaveUp::Budget,
                2 => GaveUp::Attempts { shard: id.shard },
                3 => GaveUp::Cancelled,
                _ => return Err(unfit("an unknown reason")),
            },
        },
        _ => return Err(unfit("an unknown kind")),
    };
    let is_longer = matches!(
        event,
        Event::Delivered {
            only_if_odd: true,
            ..
        }
    );
    let expected = match kind {
        1 => 9,
        4 => 10 + u64::from(is_longer),
        5 | 8 => 5,
        _ => 4,
    };
    match length == Some(expected) && input.position() == bytes.len() {
        true => Ok(event),
        false => Err(unfit("another length than its kind has")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{account, credits, digest};

    #[test]
    fn every_kind_reads_as_it_was_written() {
        let id = AttemptId {
            shard: 70_000,
            attempt: 3,
        };
        let at = 1 << 41;
        let leased = |audits| Event::Leased {
            id,
            at,
            provider: account(1),
            limit: credits(77),
            lease: digest("lease", 1),
            audits,
            encoding: vec![1; 300],
        };
        let delivered = |only_if_odd| Event::Delivered {
            id,
            at,
            output: digest("output", 1),
            claim: digest("claim", 1),
            bytes: 12,
            price: credits(5),
            auditors: vec![account(3), account(2)],
            only_if_odd,
            receipt: vec![2; 400],
        };
        let events = [
            leased(None),
            leased(Some(2)),
            Event::Failed { id, at },
            Event::Withdrawn { id, at },
            delivered(false),
            delivered(true),
            Event::Audited {
                id,
                at,
                finding: Finding::Undecided,
            },
            Event::Audited {
                id,
                at,
                finding: Finding::Wrong,
            },
            Event::Paid { id, at },
            Event::Assembled { shard: 9, at },
            Event::GaveUp {
                at,
                why: GaveUp::Attempts { shard: 8 },
            },
            Event::GaveUp {
                at,
                why: GaveUp::Budget,
            },
        ];
        for event in events {
            let encoding = event.encode();
            assert_eq!(Event::decode(&encoding), Ok(event.clone()));
            assert!(Event::decode(&encoding[..encoding.len() - 1]).is_err());
            assert!(Event::decode(&[&encoding[..], &[0]].concat()).is_err());
            assert_eq!(event.at(), at);
        }
    }
}
