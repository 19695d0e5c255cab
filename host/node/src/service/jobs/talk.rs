//! The requester's side of the conversations about a shard: see `skep_market`'s `message` for what
//! is said, and in which order.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use skep_evidence::{
    AccountKey, Agreed, Keys, Lease, Receipt, ResultCommitment, Signed, StatementError,
};
use skep_market::{
    Answer, Ask, BadDelivery, Gathered, MAX_MESSAGE, MAX_SEALED, MessageError, Quotation, Refusal,
    SealError, SealSecret, Sent, Undertaking, most_shown, receive,
};
use skep_registry::Digest;
use skep_swarm::{Channel, ChannelError, ProviderAddr, Swarm};
use zeroize::Zeroizing;

use super::around::Wanted;

/// How long a provider may say nothing. One that works says so every second.
pub const SILENCE: Duration = Duration::from_secs(10);

/// Bytes of a length within a message, at most.
const LENGTH: usize = 5;

/// Why nothing came of a conversation.
#[derive(Debug, thiserror::Error)]
pub enum TalkError {
    /// It did not go on to its end.
    #[error(transparent)]
    Channel(#[from] ChannelError),
    /// The provider says something else than the protocol has.
    #[error(transparent)]
    Message(#[from] MessageError),
    /// The provider says something else than would follow.
    #[error("it does not answer what it was asked")]
    OutOfTurn,
    /// What it sent does not open, or its key is none.
    #[error(transparent)]
    Seal(#[from] SealError),
    /// A statement that does not hold.
    #[error(transparent)]
    Statement(#[from] StatementError),
    /// The lease that it accepted is another.
    #[error("it accepted another lease than it was offered")]
    OtherLease,
    /// More than the lease allows.
    #[error("its output, or what it shows of it, has {bytes} bytes, and {limit} are the most")]
    TooMuch {
        /// How many it says.
        bytes: u64,
        /// How many there may be.
        limit: u64,
    },
    /// What came is not what was signed.
    #[error(transparent)]
    Delivery(#[from] BadDelivery),
    /// It does not show hardware that is believed, and why.
    #[error("{0}")]
    NotAttested(String),
    /// The provider was ended in the middle of the work and is there again, as it says itself.
    #[error("its node was ended in the middle of the work, and says so now that it is back")]
    Interrupted,
    /// A fault of this side's own, which is in its log.
    #[error("the conversation broke off by a fault here; the log of this node says which")]
    Broken,
    /// It will not, or could not.
    #[error("{0}")]
    Refused(#[from] Refusal),
}

impl TalkError {
    /// Whether the provider has no place for it now, and may have one later.
    pub fn is_busy(&self) -> bool {
        matches!(self, Self::Refused(Refusal::Busy))
    }
}

/// What came of a lease.
pub struct Delivered {
    /// The lease, with both signatures.
    pub lease: Agreed<Lease>,
    /// What the provider bound itself to.
    pub commitment: Signed<ResultCommitment>,
    /// The receipt that the provider signed.
    pub receipt: Signed<Receipt>,
    /// The output.
    pub output: Vec<u8>,
    /// What is shown of its texts, if the lease has them followed.
    pub shown: Vec<u8>,
}

pub(super) async fn hear(channel: &mut Channel) -> Result<Answer, TalkError> {
    let frame = channel.hear(MAX_MESSAGE, SILENCE).await?;
    match Answer::decode(&frame)? {
        Answer::Refused(refusal) => Err(refusal.into()),
        answer => Ok(answer),
    }
}

/// Asks a node whether it would take a shard, and for how much.
pub async fn quote(
    swarm: &Swarm,
    node: &ProviderAddr,
    wanted: Wanted,
    input_bytes: u64,
    sources: Vec<String>,
) -> Result<Quotation, TalkError> {
    let ask = Ask::Quote {
        package: wanted.package,
        adapter: wanted.adapter,
        input_bytes,
        residency: wanted.residency,
        sources,
    };
    let mut channel = swarm.converse(node).await?;
    channel.say(&ask.encode()?).await?;
    match hear(&mut channel).await? {
        Answer::Quote(quotation) => Ok(quotation),
        _ => Err(TalkError::OutOfTurn),
    }
}

/// A lease that is to be offered.
pub struct Begun<'a> {
    /// The lease.
    pub lease: &'a Signed<Lease>,
    /// Its input.
    pub input: &'a [u8],
    /// The script that its work follows, if it follows one.
    pub script: &'a [u8],
    /// The keys of those who signed something before.
    pub keys: Keys,
}

/// Offers a lease, hands over its input, and waits for what comes of it, unless the provider says meanwhile
/// that it `failed`.
pub async fn perform(
    swarm: &Swarm,
    node: &ProviderAddr,
    account: &AccountKey,
    begun: Begun<'_>,
    sources: Vec<String>,
    records: &AtomicU64,
    failed: impl Future<Output = ()>,
) -> Result<Delivered, TalkError> {
    let mut channel = swarm.converse(node).await?;
    let performing = perform_over(&mut channel, account, begun, sources, records);
    let came = tokio::select! {
        // What has come counts.
        biased;
        came = performing => Some(came),
        () = failed => None,
    };
    came.unwrap_or_else(|| {
        // The process at the other end is gone, which its connection need not know.
        channel.abandon();
        Err(TalkError::Interrupted)
    })
}

async fn perform_over(
    channel: &mut Channel,
    account: &AccountKey,
    begun: Begun<'_>,
    sources: Vec<String>,
    records: &AtomicU64,
) -> Result<Delivered, TalkError> {
    let Begun {
        lease,
        input,
        script,
        mut keys,
    } = begun;
    let secret = SealSecret::generate()?;
    let signed = secret.signed(lease.digest(), account);
    let key = signed.ok_or(TalkError::OtherLease)?.encode();
    let offer = Ask::Offer(Undertaking {
        lease: lease.encode(),
        key,
        input_bytes: input.len() as u64,
        script_bytes: script.len() as u64,
        sources,
    });
    channel.say(&offer.encode()?).await?;
    let (accepted, their_key) = loop {
        match hear(channel).await? {
            Answer::Working { .. } => {}
            Answer::Accepted { lease, key } => break (lease, key),
            _ => return Err(TalkError::OutOfTurn),
        }
    };
    let accepted = Agreed::<Lease>::decode(&accepted, &mut keys)?;
    if accepted.digest() != lease.digest() {
        return Err(TalkError::OtherLease);
    }
    let sealed = secret.agree(lease.digest(), lease.provider, &their_key, false, &mut keys)?;
    let sent = Zeroizing::new([input, script].concat());
    for chunk in sealed.sealer.chunks(&sent) {
        channel.say(&chunk?).await?;
    }
    drop(sent);
    let (commitment, receipt, handover, output_bytes, shown_bytes) = loop {
        match hear(channel).await? {
            Answer::Working { done } => records.store(done, Ordering::Relaxed),
            Answer::Done {
                commitment,
                receipt,
                handover,
                output_bytes,
                shown_bytes,
            } => break (commitment, receipt, handover, output_bytes, shown_bytes),
            _ => return Err(TalkError::OutOfTurn),
        }
    };
    let limit = lease.allowance.bytes.saturating_sub(input.len() as u64);
    if output_bytes > limit {
        return Err(TalkError::TooMuch {
            bytes: output_bytes,
            limit,
        });
    }
    // What is larger could not be shown to others if it were wrong.
    let limit = most_shown(&accepted);
    if shown_bytes > limit {
        return Err(TalkError::TooMuch {
            bytes: shown_bytes,
            limit,
        });
    }
    let mut gathered = Gathered::new(sealed.opener, output_bytes.saturating_add(shown_bytes));
    while !gathered.add(channel.hear(MAX_SEALED, SILENCE).await?)? {}
    let mut output = gathered.into_bytes().to_vec();
    let length = usize::try_from(output_bytes).unwrap_or(usize::MAX);
    let shown = output.split_off(length.min(output.len()));
    let moved = (input.len() as u64).saturating_add(output_bytes);
    let sent = Sent {
        commitment: &commitment,
        receipt: &receipt,
        handover: &handover,
        shown: &shown,
    };
    // An output, and what is shown of it, may be megabytes.
    let delivery = tokio::task::block_in_place(|| {
        receive(&accepted, &sent, Digest::of(&output), moved, &mut keys)
    })?;
    Ok(Delivered {
        lease: accepted,
        commitment: delivery.commitment,
        receipt: delivery.receipt,
        output,
        shown,
    })
}

/// How many of these receipts one message has room for, at least one.
pub fn together(receipts: &[Agreed<Receipt>]) -> usize {
    let mut bytes = 0;
    let lengths = receipts
        .iter()
        .map(|receipt| receipt.encode().len() + LENGTH);
    let fit = lengths.take_while(|length| {
        bytes += length;
        bytes < MAX_MESSAGE - LENGTH
    });
    fit.count().max(1)
}

/// Hands over receipts that both have signed, as many as one message has room for.
pub async fn settle(
    swarm: &Swarm,
    node: &ProviderAddr,
    receipts: &[Agreed<Receipt>],
) -> Result<(), TalkError> {
    let ask = Ask::Settle {
        receipts: receipts.iter().map(|receipt| receipt.encode()).collect(),
    };
    let mut channel = swarm.converse(node).await?;
    channel.say(&ask.encode()?).await?;
    match hear(&mut channel).await? {
        Answer::Settled => Ok(()),
        _ => Err(TalkError::OutOfTurn),
    }
}
