//! One lease from its offer to its receipt: what the provider checks and signs, and what the
//! requester checks of what comes back. Functions of their arguments, so that both sides, and
//! tests, come to the same answer.

use skep_evidence::following::{Observation, Script, Transcript};
use skep_evidence::{
    AccountKey, Agreed, Credits, Evidence, Handover, Keys, Lease, Meter, Receipt, ResultCommitment,
    Share, Signed, Split, Statement as _, StatementError, Tariff,
};
use skep_registry::Digest;

use crate::message::{Refusal, Undertaking};
use crate::policy::Policy;

/// Checks a lease that is offered, and accepts it. Whether its package may run is for
/// [`Policy::admit`].
///
/// # Errors
///
/// What keeps the provider from it.
pub fn examine(
    offer: &Undertaking,
    policy: &Policy,
    account: &AccountKey,
    keys: &mut Keys,
) -> Result<Agreed<Lease>, Refusal> {
    let wrong = |reason: &str| Refusal::Lease(reason.to_owned());
    let lease = Signed::<Lease>::decode(&offer.lease, keys)
        .map_err(|error| Refusal::Lease(error.to_string()))?;
    if lease.provider != account.id() {
        return Err(wrong("it is made out to another account"));
    }
    if lease.tariff != policy.tariff {
        return Err(wrong(
            "its prices are not those that this node asks for now",
        ));
    }
    policy.keep(lease.allowance.residency)?;
    if offer.input_bytes > policy.largest_input {
        return Err(Refusal::InputTooLarge {
            bytes: offer.input_bytes,
            limit: policy.largest_input,
        });
    }
    if lease.audit.follows.is_some() != (offer.script_bytes > 0) {
        return Err(wrong("what it has to follow does not come with it"));
    }
    if offer.script_bytes > Script::MAX_BYTES as u64 {
        return Err(wrong("what it has to follow is longer than any run"));
    }
    // Every token takes operations, so that who is paid for these need not count the others first.
    if lease.allowance.tokens < lease.allowance.flops {
        return Err(wrong("it does not allow for the tokens of its operations"));
    }
    if lease.allowance.bytes < offer.input_bytes {
        return Err(wrong("it does not allow for the bytes of its own input"));
    }
    lease
        .accept(account)
        .map_err(|error| Refusal::Lease(error.to_string()))
}

/// How the price of a lease is divided: `family` is what the authors of its adapter and of its
/// ancestors ask for, and `operator` who takes a part for operating the provider. What is left is
/// the provider's.
///
/// # Errors
///
/// When all of that together is more than the whole.
pub fn division(family: &Split, operator: Option<Share>) -> Result<Split, StatementError> {
    match operator {
        None => Ok(family.clone()),
        Some(share) => family.with(share),
    }
}

/// Checks that a lease divides its price as it should: whoever makes it out could give a part of
/// what the provider earns back to itself, or leave an author out.
///
/// # Errors
///
/// What keeps the provider from it.
pub fn divides(lease: &Lease, family: &Split, operator: Option<Share>) -> Result<(), Refusal> {
    let asked = division(family, operator).map_err(|error| Refusal::Lease(error.to_string()))?;
    match asked == lease.split {
        true => Ok(()),
        false => Err(Refusal::Lease(
            "it divides the price otherwise than the authors of its adapter and this node's operator \
             ask for"
                .to_owned(),
        )),
    }
}

/// How many floating-point operations a lease pays for, what it says of bytes and of residency being
/// paid first.
#[must_use]
pub fn affordable(lease: &Lease) -> u64 {
    let first = Meter {
        bytes: lease.allowance.bytes,
        residency: lease.allowance.residency,
        ..Meter::default()
    };
    let left = lease
        .tariff
        .price(&first)
        .and_then(|price| lease.limit.checked_sub(price))
        .unwrap_or(Credits::ZERO);
    if lease.tariff.flops == 0 {
        return lease.allowance.flops;
    }
    let flops = u128::from(left.micro()) * 1_000_000_000_000 / u128::from(lease.tariff.flops);
    lease
        .allowance
        .flops
        .min(u64::try_from(flops).unwrap_or(u64::MAX))
}

/// What a provider did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Done {
    /// The output.
    pub output: Digest,
    /// What it used.
    pub meter: Meter,
    /// The digest of what it shows of its texts, if the lease has them followed.
    pub shown: Option<Digest>,
    /// How many receipts the provider had signed before.
    pub sequence: u64,
    /// 32 random bytes.
    pub nonce: [u8; 32],
    /// When it began, in milliseconds since 1970.
    pub started: u64,
    /// When it ended.
    pub finished: u64,
}

/// The commitment and the receipt for work that is done.
///
/// # Errors
///
/// When it used more than the lease pays for, so that no receipt would keep it.
pub fn conclude(
    lease: &Signed<Lease>,
    done: &Done,
    account: &AccountKey,
) -> Result<(Signed<ResultCommitment>, Signed<Receipt>), Refusal> {
    let failed = |error: StatementError| Refusal::Failed(error.to_string());
    let commitment = ResultCommitment {
        lease: lease.digest(),
        work: lease.work.digest(),
        worker: account.id(),
        output: done.output,
        meter: done.meter,
        activations: done.shown,
        nonce: done.nonce,
    };
    let commitment = commitment.sign(account).map_err(failed)?;
    let price = lease
        .tariff
        .price(&done.meter)
        .ok_or_else(|| Refusal::Failed("it costs more than there can be".to_owned()))?;
    let receipt = Receipt {
        lease: lease.digest(),
        job: lease.job,
        shard: lease.shard,
        sequence: done.sequence,
        provider: lease.provider,
        requester: lease.requester,
        work: lease.work,
        commitment: commitment.digest(),
        output: done.output,
        meter: done.meter,
        price,
        split: lease.split.clone(),
        started: done.started,
        finished: done.finished.max(done.started),
    };
    if let Some(breach) = receipt.breach_of(lease) {
        return Err(Refusal::Failed(format!(
            "the work does not fit its lease: {breach}"
        )));
    }
    let receipt = receipt.sign(account).map_err(failed)?;
    Ok((commitment, receipt))
}

/// Says that these are what is delivered under this lease. Whatever they are, it is signed once more
/// where a lease is asked for again.
///
/// # Errors
///
/// When `account` is not the provider's.
pub fn hand_over(
    lease: &Signed<Lease>,
    commitment: Digest,
    receipt: Digest,
    account: &AccountKey,
) -> Result<Signed<Handover>, StatementError> {
    let handover = Handover {
        lease: lease.digest(),
        provider: lease.provider,
        commitment,
        receipt,
    };
    handover.sign(account)
}

/// A result that keeps its lease.
#[derive(Clone, Debug)]
pub struct Delivery {
    /// What the provider bound itself to, by which it is drawn whether the result is audited.
    pub commitment: Signed<ResultCommitment>,
    /// The receipt, to be countersigned.
    pub receipt: Signed<Receipt>,
}

/// Why what came back is no result.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum BadDelivery {
    /// A statement that does not hold.
    #[error(transparent)]
    Statement(#[from] StatementError),
    /// Statements that do not fit the lease or each other.
    #[error("what the node signed does not fit: {0}")]
    Breach(&'static str),
    /// Statements that no honest node signs, as every third node can see.
    #[error("what the node signed contradicts itself: {what}")]
    Fraud {
        /// How.
        what: &'static str,
        /// What shows it.
        evidence: Box<Evidence>,
    },
    /// Bytes of something else than what was signed.
    #[error("the output has the digest {found}, and the node signed {signed}")]
    Output {
        /// What came.
        found: Digest,
        /// What was promised.
        signed: Digest,
    },
}

/// What a provider sends back, each statement in its encoding.
#[derive(Clone, Copy, Debug)]
pub struct Sent<'a> {
    /// The commitment to the result.
    pub commitment: &'a [u8],
    /// The receipt.
    pub receipt: &'a [u8],
    /// Which says that these two are for this lease.
    pub handover: &'a [u8],
    /// What is shown of the texts; nothing if the lease does not have them followed.
    pub shown: &'a [u8],
}

/// Checks what a provider sends back: that its commitment and its receipt hold, keep the lease and
/// speak of each other, that the output is the one that they name, and that they bill the bytes that
/// were `moved`: those of the input and the output.
///
/// # Errors
///
/// The first thing that is wrong. Where the provider's own signatures show it, this comes with the
/// evidence.
pub fn receive(
    lease: &Agreed<Lease>,
    sent: &Sent<'_>,
    output: Digest,
    moved: u64,
    keys: &mut Keys,
) -> Result<Delivery, BadDelivery> {
    let commitment = Signed::<ResultCommitment>::decode(sent.commitment, keys)?;
    let receipt = Signed::<Receipt>::decode(sent.receipt, keys)?;
    let handover = Signed::<Handover>::decode(sent.handover, keys)?;
    let both = (handover.commitment, handover.receipt);
    if (handover.lease, handover.provider) != (lease.digest(), lease.provider)
        || both != (commitment.digest(), receipt.digest())
    {
        return Err(BadDelivery::Breach(
            "it hands over other statements than it sends, or under another lease",
        ));
    }
    let fraud = |what, evidence| {
        let evidence = Box::new(evidence);
        Err(BadDelivery::Fraud { what, evidence })
    };
    if (receipt.lease, receipt.provider) != (handover.lease, handover.provider) {
        let evidence = Evidence::HandoverAgainstReceipt(handover, receipt);
        return fraud("the receipt is of another lease or another node", evidence);
    }
    if let Some(breach) = receipt.breach_of(lease) {
        let evidence = Evidence::ReceiptAgainstLease(lease.clone(), receipt);
        return fraud(breach, evidence);
    }
    let named = (receipt.commitment, receipt.output, receipt.meter);
    if named != (commitment.digest(), commitment.output, commitment.meter)
        && commitment.worker == lease.provider
    {
        let what = "the receipt names another result than the commitment";
        let evidence = Evidence::ReceiptAgainstResult(commitment, receipt);
        return match evidence.offenders() {
            Ok(_) => fraud(what, evidence),
            Err(_) => Err(BadDelivery::Breach(what)),
        };
    }
    if commitment.worker != lease.provider || !commitment.is_under(lease) {
        return Err(BadDelivery::Breach(
            "the commitment is for other work, or by another account",
        ));
    }
    if receipt.meter.bytes != moved {
        return Err(BadDelivery::Breach(
            "the receipt bills other bytes than were moved",
        ));
    }
    if receipt.output != output {
        return Err(BadDelivery::Output {
            found: output,
            signed: receipt.output,
        });
    }
    shows(lease, &commitment, sent.shown)?;
    Ok(Delivery {
        commitment,
        receipt,
    })
}

/// The most bytes that a provider may show of its texts under a lease.
#[must_use]
pub fn most_shown(lease: &Lease) -> u64 {
    let most = match (lease.audit.followed, lease.audit.follows) {
        (false, _) => 0,
        (true, None) => Transcript::MAX_BYTES,
        (true, Some(_)) => Observation::MAX_BYTES,
    };
    most as u64
}

/// Whether what is shown of the texts is what the provider bound itself to.
fn shows(lease: &Lease, commitment: &ResultCommitment, shown: &[u8]) -> Result<(), BadDelivery> {
    if !lease.audit.followed {
        return match shown.is_empty() {
            true => Ok(()),
            false => Err(BadDelivery::Breach("it shows texts that nobody asked for")),
        };
    }
    match lease.audit.follows {
        None => drop(Transcript::decode(shown)?),
        Some(_) => drop(Observation::decode(shown)?),
    }
    match commitment.activations == Some(Digest::of(shown)) {
        true => Ok(()),
        false => Err(BadDelivery::Breach(
            "what it shows of its texts is not what it bound itself to",
        )),
    }
}

/// The most tokens that 10¹² operations read and write: of the smallest language model that comes with skep,
/// which takes ten million for one.
const TOKENS: u64 = 100_000;

/// A price for a provider that is to be compared with others: of moving the bytes of a shard, of
/// 10¹² operations, of which nobody knows beforehand how many it takes, of the tokens that these could be
/// for, and of so many seconds of residency.
pub fn typical(tariff: &Tariff, bytes: u64, residency: u64) -> Credits {
    let meter = Meter {
        tokens: TOKENS,
        flops: 1_000_000_000_000,
        bytes,
        residency,
    };
    tariff.price(&meter).unwrap_or(Credits::MAX)
}

#[cfg(test)]
mod tests;
