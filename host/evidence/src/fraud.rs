//! Fraud: signed statements that contradict each other, and accusations of it.
//!
//! Evidence is made of statements alone. Whoever judges it needs nothing else: no history, no
//! trust in the accuser, no run of the work. The same holds for an accusation that is false:
//! it is signed, with its evidence inside, so that anyone can see that it proves nothing.
//!
//! It must never find anyone guilty whose own signatures do not show it.

mod least;
mod panel;

use minicbor::Decoder;
use skep_registry::Digest;

use crate::account::AccountId;
use crate::audit::{AuditSecret, Candidates, MAX_PANEL};
use crate::following::{Observation, Transcript};
use crate::handover::Handover;
use crate::lease::Lease;
use crate::receipt::Receipt;
use crate::result::ResultCommitment;
use crate::signature::Keys;
use crate::statement::{Agreed, Signed, Statement, StatementError};
use crate::wire::{
    Out, Part, Written, encoded_struct, expect_length, malformed, read_bytes, written,
};

/// Statements of which not all can be true.
#[derive(Clone, Debug, PartialEq)]
pub enum Evidence {
    /// A worker bound itself to two results of one lease.
    TwoResults(Signed<ResultCommitment>, Signed<ResultCommitment>),
    /// A provider billed one lease twice.
    TwoReceipts(Signed<Receipt>, Signed<Receipt>),
    /// A receipt breaks the lease that its provider had accepted: another price, another package,
    /// more than was allowed.
    ReceiptAgainstLease(Agreed<Lease>, Signed<Receipt>),
    /// A receipt names another result than its provider had bound itself to, bills what that did not
    /// take, or names a result of another lease.
    ReceiptAgainstResult(Signed<ResultCommitment>, Signed<Receipt>),
    /// A provider handed over a receipt of another lease, or of somebody else, as that of this one.
    HandoverAgainstReceipt(Signed<Handover>, Signed<Receipt>),
    /// A panel did the same work, which gives the same bytes and takes the same whoever does it, and
    /// some got other bytes than its majority, or say that it took something else.
    Divergence {
        /// The lease, of work in the deterministic profile.
        lease: Agreed<Lease>,
        /// What the requester had bound itself to, by which the result is audited.
        secret: AuditSecret,
        /// Those of whom the auditors were drawn.
        candidates: Candidates,
        /// What the provider bound itself to.
        result: Signed<ResultCommitment>,
        /// What the auditors did, in the order of the draw; some may be missing.
        audits: Vec<Audit>,
    },
    /// A panel followed the texts of a result, and some say otherwise than its majority whether these
    /// are what the model writes, the output is what becomes of them, and the work took what it took.
    Unfollowed {
        /// The lease, of work whose texts are followed.
        lease: Agreed<Lease>,
        /// What the requester had bound itself to, by which the result is audited.
        secret: AuditSecret,
        /// Those of whom the auditors were drawn.
        candidates: Candidates,
        /// What the provider bound itself to.
        result: Signed<ResultCommitment>,
        /// What it showed of its texts.
        transcript: Transcript,
        /// What the auditors did, in the order of the draw; some may be missing.
        audits: Vec<FollowedAudit>,
    },
}

/// What an auditor bound itself to that followed the texts of a result, and what it saw.
#[derive(Clone, Debug, PartialEq)]
pub struct FollowedAudit {
    /// The auditor's own lease.
    pub lease: Agreed<Lease>,
    /// Its result.
    pub result: Signed<ResultCommitment>,
    /// What it saw.
    pub seen: Observation,
}

/// What an auditor bound itself to, and the lease under which it did: one of the same shard and
/// the same work, which looks like any other, so that who audits does not know it.
#[derive(Clone, Debug, PartialEq)]
pub struct Audit {
    /// The auditor's own lease.
    pub lease: Agreed<Lease>,
    /// Its result.
    pub result: Signed<ResultCommitment>,
}

/// Why statements are no evidence of fraud.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoFraud {
    /// The evidence cannot be read, or a signature in it does not hold.
    #[error("the evidence does not hold: {0}")]
    Unsound(#[from] StatementError),
    /// The statements do not contradict each other.
    #[error("the statements do not contradict each other: {0}")]
    NoContradiction(&'static str),
    /// They show a fraud, and it was not the accused's.
    #[error("the evidence is against others than whom it was brought against")]
    Another,
}

/// What statements show.
struct Finding {
    offenders: Vec<AccountId>,
    lease: Digest,
    /// Those of a panel who are its majority; nobody where an offender's own signatures show it.
    majority: Vec<AccountId>,
}

impl Finding {
    /// What somebody shows by its own signatures.
    fn of(offender: AccountId, lease: Digest) -> Self {
        Self {
            offenders: vec![offender],
            lease,
            majority: Vec::new(),
        }
    }
}

impl Evidence {
    /// Who is shown to have cheated, at least one, and under which lease.
    ///
    /// # Errors
    ///
    /// When the statements show no such thing.
    pub fn offenders(&self) -> Result<(Vec<AccountId>, Digest), NoFraud> {
        let Finding {
            offenders, lease, ..
        } = self.finding()?;
        Ok((offenders, lease))
    }

    /// By whose word the offenders are convicted: those of a panel who are its majority, each once and none of them an
    /// offender. It is nobody's where the offender's own signatures contradict each other.
    ///
    /// Signatures show that they said it, and the draw that they were next among the candidates. That the candidates
    /// are anybody else than friends of whoever made the list does not follow from the evidence.
    ///
    /// # Errors
    ///
    /// When the statements show no fraud.
    pub fn convicted_by(&self) -> Result<Vec<AccountId>, NoFraud> {
        Ok(self.finding()?.majority)
    }

    fn finding(&self) -> Result<Finding, NoFraud> {
        use NoFraud::NoContradiction;
        match self {
            Self::TwoResults(one, two) => {
                if (one.worker, one.lease) != (two.worker, two.lease) {
                    return Err(NoContradiction("they are of two workers or two leases"));
                }
                if one.digest() == two.digest() {
                    return Err(NoContradiction("they are the same"));
                }
                Ok(Finding::of(one.worker, one.lease))
            }
            Self::TwoReceipts(one, two) => {
                if (one.provider, one.lease) != (two.provider, two.lease) {
                    return Err(NoContradiction("they are of two providers or two leases"));
                }
                if one.digest() == two.digest() {
                    return Err(NoContradiction("they are the same"));
                }
                Ok(Finding::of(one.provider, one.lease))
            }
            Self::ReceiptAgainstLease(lease, receipt) => {
                if (receipt.lease, receipt.provider) != (lease.digest(), lease.provider) {
                    return Err(NoContradiction("the receipt is for another lease"));
                }
                match receipt.breach_of(lease) {
                    Some(_) => Ok(Finding::of(receipt.provider, receipt.lease)),
                    None => Err(NoContradiction("the receipt keeps the lease")),
                }
            }
            Self::ReceiptAgainstResult(result, receipt) => {
                let names = receipt.commitment == result.digest();
                if receipt.provider != result.worker || (receipt.lease != result.lease && !names) {
                    return Err(NoContradiction("they are of two workers or two leases"));
                }
                let bills = (receipt.output, receipt.meter) == (result.output, result.meter);
                if names && bills && receipt.lease == result.lease {
                    return Err(NoContradiction("the receipt names the result"));
                }
                Ok(Finding::of(receipt.provider, receipt.lease))
            }
            Self::HandoverAgainstReceipt(handover, receipt) => {
                if handover.receipt != receipt.digest() {
                    return Err(NoContradiction("another receipt was handed over"));
                }
                if (handover.lease, handover.provider) == (receipt.lease, receipt.provider) {
                    return Err(NoContradiction("the receipt is that of the lease"));
                }
                Ok(Finding::of(handover.provider, handover.lease))
            }
            Self::Divergence {
                lease,
                secret,
                candidates,
                result,
                audits,
            } => {
                let votes = panel::repeated(lease, audits)?;
                panel::found(lease, secret, candidates, result, &votes)
            }
            Self::Unfollowed {
                lease,
                secret,
                candidates,
                result,
                transcript,
                audits,
            } => {
                let votes = panel::followed(lease, result, transcript, audits)?;
                panel::found(lease, secret, candidates, result, &votes)
            }
        }
    }

    /// The evidence as bytes, for an [`Accusation`].
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        written(|out| match self {
            Self::TwoResults(one, two) => write(out, 1, &[one.encode(), two.encode()]),
            Self::TwoReceipts(one, two) => write(out, 2, &[one.encode(), two.encode()]),
            Self::ReceiptAgainstLease(lease, receipt) => {
                write(out, 3, &[lease.encode(), receipt.encode()])
            }
            Self::ReceiptAgainstResult(result, receipt) => {
                write(out, 4, &[result.encode(), receipt.encode()])
            }
            Self::HandoverAgainstReceipt(handover, receipt) => {
                write(out, 6, &[handover.encode(), receipt.encode()])
            }
            Self::Divergence {
                lease,
                secret,
                candidates,
                result,
                audits,
            } => {
                let mut parts = vec![
                    lease.encode(),
                    secret.as_bytes().to_vec(),
                    candidates.encode(),
                    result.encode(),
                ];
                let audits = audits.iter();
                parts
                    .extend(audits.flat_map(|audit| [audit.lease.encode(), audit.result.encode()]));
                write(out, 5, &parts)
            }
            Self::Unfollowed {
                lease,
                secret,
                candidates,
                result,
                transcript,
                audits,
            } => {
                let mut parts = vec![
                    lease.encode(),
                    secret.as_bytes().to_vec(),
                    candidates.encode(),
                    result.encode(),
                    transcript.encode(),
                ];
                parts.extend(audits.iter().flat_map(|audit| {
                    [
                        audit.lease.encode(),
                        audit.result.encode(),
                        audit.seen.encode(),
                    ]
                }));
                write(out, 7, &parts)
            }
        })
    }

    /// Reads evidence and checks every signature in it.
    ///
    /// # Errors
    ///
    /// When anything is wrong with a statement in it. Whether it shows a fraud is for
    /// [`Self::offenders`] to say.
    pub fn decode(encoding: &[u8], keys: &mut Keys) -> Result<Self, StatementError> {
        let mut input = Decoder::new(encoding);
        let length = input.array()?.ok_or(StatementError::NotCanonical)?;
        let kind = input.u64()?;
        let most = u64::from(MAX_PANEL) - 1;
        let (audits, parts) = match kind {
            5 => {
                let audits = (length.saturating_sub(5) / 2).clamp(1, most);
                (audits, 4 + 2 * audits)
            }
            7 => {
                let audits = (length.saturating_sub(6) / 3).clamp(1, most);
                (audits, 5 + 3 * audits)
            }
            _ => (0, 2),
        };
        expect_length(Some(length), 1 + parts, "this kind of evidence")?;
        let evidence = match kind {
            1 => Self::TwoResults(signed(&mut input, keys)?, signed(&mut input, keys)?),
            2 => Self::TwoReceipts(signed(&mut input, keys)?, signed(&mut input, keys)?),
            3 => Self::ReceiptAgainstLease(
                Agreed::decode(input.bytes()?, keys)?,
                signed(&mut input, keys)?,
            ),
            4 => Self::ReceiptAgainstResult(signed(&mut input, keys)?, signed(&mut input, keys)?),
            6 => Self::HandoverAgainstReceipt(signed(&mut input, keys)?, signed(&mut input, keys)?),
            5 => Self::Divergence {
                lease: Agreed::decode(input.bytes()?, keys)?,
                secret: AuditSecret::from_bytes(Part::read(&mut input)?),
                candidates: Candidates::decode(input.bytes()?)?,
                result: signed(&mut input, keys)?,
                audits: (0..audits)
                    .map(|_| {
                        Ok(Audit {
                            lease: Agreed::decode(input.bytes()?, keys)?,
                            result: signed(&mut input, keys)?,
                        })
                    })
                    .collect::<Result<_, StatementError>>()?,
            },
            7 => Self::Unfollowed {
                lease: Agreed::decode(input.bytes()?, keys)?,
                secret: AuditSecret::from_bytes(Part::read(&mut input)?),
                candidates: Candidates::decode(input.bytes()?)?,
                result: signed(&mut input, keys)?,
                transcript: Transcript::decode(input.bytes()?)?,
                audits: (0..audits)
                    .map(|_| {
                        Ok(FollowedAudit {
                            lease: Agreed::decode(input.bytes()?, keys)?,
                            result: signed(&mut input, keys)?,
                            seen: Observation::decode(input.bytes()?)?,
                        })
                    })
                    .collect::<Result<_, StatementError>>()?,
            },
            _ => return Err(malformed(format!("evidence of an unknown kind, {kind}"))),
        };
        match evidence.encode() == encoding {
            true => Ok(evidence),
            false => Err(StatementError::NotCanonical),
        }
    }
}

fn write(out: &mut Out, kind: u64, parts: &[Vec<u8>]) -> Written {
    out.array(1 + parts.len() as u64)?.u64(kind)?;
    parts.iter().try_for_each(|part| out.bytes(part)?.ok())
}

fn signed<T: Statement>(
    input: &mut Decoder<'_>,
    keys: &mut Keys,
) -> Result<Signed<T>, StatementError> {
    Signed::decode(input.bytes()?, keys)
}

encoded_struct! {
    /// "This one cheated, and here is the proof." The evidence is kept as bytes, so that an
    /// accuser answers for whatever it signed, nonsense included.
    #[derive(Clone, Debug, PartialEq, Eq)]
    pub struct Accusation {
        /// Who says so, and signs.
        pub accuser: AccountId,
        /// Who is said to have cheated.
        pub accused: AccountId,
        /// [`Evidence::encode`]
        pub evidence: EvidenceBytes,
    }
}

/// The bytes of evidence that an accusation rests on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EvidenceBytes(pub Vec<u8>);

/// The most bytes of evidence. Nobody can show so much that what convicts it is more (`least`).
const MAX_EVIDENCE: usize = 40 << 20;

impl Part for EvidenceBytes {
    fn write(&self, out: &mut Out) -> Written {
        out.bytes(&self.0)?.ok()
    }

    fn read(input: &mut Decoder<'_>) -> Result<Self, StatementError> {
        read_bytes(input, MAX_EVIDENCE).map(Self)
    }
}

impl Accusation {
    /// An accusation that rests on `evidence`, as far as that says something of the accused.
    #[must_use]
    pub fn new(accuser: AccountId, accused: AccountId, evidence: &Evidence) -> Self {
        Self {
            accuser,
            accused,
            evidence: EvidenceBytes(evidence.against(accused).encode()),
        }
    }
}

impl Statement for Accusation {
    const NAME: &'static str = "accusation";
    const CONTEXT: &'static str = "skep accusation v1";
    const MAX_BYTES: usize = MAX_EVIDENCE + 512;

    fn signer(&self) -> AccountId {
        self.accuser
    }

    fn check(&self) -> Result<(), StatementError> {
        match self.evidence.0.len() <= MAX_EVIDENCE {
            true => Ok(()),
            false => Err(malformed("the evidence is longer than 40 MiB")),
        }
    }
}

/// What comes of an accusation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It is true.
    Guilty {
        /// Who cheated.
        offender: AccountId,
        /// The lease under which, so that one fraud is punished once, however it is proven.
        lease: Digest,
    },
    /// It is false, and whoever brought it knew or could have known.
    FalseAccusation {
        /// Who brought it.
        accuser: AccountId,
        /// Why it is false.
        reason: NoFraud,
    },
}

/// Judges an accusation from what it contains. Everyone who does comes to the same verdict.
#[must_use]
pub fn judge(accusation: &Signed<Accusation>, keys: &mut Keys) -> Verdict {
    let found = Evidence::decode(&accusation.evidence.0, keys)
        .map_err(NoFraud::from)
        .and_then(|evidence| evidence.offenders());
    match found {
        Ok((offenders, lease)) if offenders.contains(&accusation.accused) => Verdict::Guilty {
            offender: accusation.accused,
            lease,
        },
        Ok(_) => Verdict::FalseAccusation {
            accuser: accusation.accuser,
            reason: NoFraud::Another,
        },
        Err(reason) => Verdict::FalseAccusation {
            accuser: accusation.accuser,
            reason,
        },
    }
}

#[cfg(test)]
mod tests;
