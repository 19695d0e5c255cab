//! The requester's side of the conversations about a shard: see `skep_market`'s `message` for what
//! is said, and in which order.

use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use skep_evidence::{
    AccountKey, Agreed, Keys, Lease, Receipt, ResultCommitment, Signed, StatementError,
};
use skep_market::{
    Answer, Ask, BadDelivery, CHUNK, Gathered, MAX_MESSAGE, MAX_SEALED, MessageError, Opener,
    Quotation, Refusal, SealError, SealSecret, Sealer, Sent, Undertaking, Unproven, most_shown,
    receive,
};
use skep_swarm::{Channel, ChannelError, NodeId, ProviderAddr, Swarm};
use tokio::sync::OwnedSemaphorePermit;
use tokio::task::block_in_place;

use super::around::Wanted;
use super::bound::{Bound, Bounds};
use super::coming::{Coming, Room};
use super::folder::Input;
use super::random;
use super::spool::{INLINE, Output, Spool};

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
    /// It was not begun: the node was named, and not where it is.
    #[error(
        "this node has not heard where it is; `network.peers` in its configuration names nodes by their \
         tickets"
    )]
    Nowhere,
    /// The provider says something else than the protocol has.
    #[error(transparent)]
    Message(#[from] MessageError),
    /// The provider says something else than would follow.
    #[error("it does not answer what it was asked")]
    OutOfTurn,
    /// It quotes for an account that is not shown to be its own.
    #[error(transparent)]
    Unproven(#[from] Unproven),
    /// It quotes for an account that works at another node.
    #[error(
        "its account works at another node, `{}`, which answers too, and one works at one node",
        .0.fmt_short()
    )]
    Elsewhere(NodeId),
    /// What it sent does not open, or its key is none.
    #[error(transparent)]
    Seal(#[from] SealError),
    /// A statement that does not hold.
    #[error(transparent)]
    Statement(#[from] StatementError),
    /// The lease that it accepted is another.
    #[error("it accepted another lease than it was offered")]
    OtherLease,
    /// More than the lease allows, or than there ever is room for of one node.
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
    /// No lease can be made out for what it asks, and why.
    #[error("no lease can be made out to it: {0}")]
    Unsuitable(String),
    /// The input of the shard cannot be read here any more.
    #[error("the input of the shard cannot be read here: {0}")]
    Input(#[source] io::Error),
    /// What it sends cannot be written down here.
    #[error("what it sends cannot be kept here: {0}")]
    Output(#[source] io::Error),
    /// Too much of it, or of all, is coming at once, which is over at some time.
    #[error("more of what is sent was coming at once than the disk of this node has room for")]
    NoRoom,
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
    /// Whether the disk of this side is at fault, and the provider is not.
    pub fn is_of_this_disk(&self) -> bool {
        matches!(self, Self::Input(_) | Self::Output(_))
    }

    /// Whether the provider does not take it now, or there is no room here now for what it made of it, and both may be
    /// otherwise later: that is no failure of its.
    pub fn is_for_later(&self) -> bool {
        matches!(
            self,
            Self::NoRoom
                | Self::Refused(
                    Refusal::Busy | Refusal::InUse | Refusal::Hours(_) | Refusal::Unpaid { .. }
                )
        )
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
    pub output: Output,
    /// What is shown of its texts, if the lease has them followed.
    pub shown: Vec<u8>,
    /// The room for what of it is in memory.
    pub held: Option<OwnedSemaphorePermit>,
    /// The room for what of it has come into files.
    pub room: Room,
}

pub(super) async fn hear(channel: &mut Channel) -> Result<Answer, TalkError> {
    let frame = channel.hear(MAX_MESSAGE, SILENCE).await?;
    match Answer::decode(&frame)? {
        Answer::Refused(refusal) => Err(refusal.into()),
        answer => Ok(answer),
    }
}

/// Asks a node whether it would take a shard, and for how much. The account that it quotes for has signed
/// that, for this node and this question.
pub async fn quote(
    swarm: &Swarm,
    node: &ProviderAddr,
    wanted: Wanted,
    input_bytes: u64,
    sources: Vec<String>,
) -> Result<Quotation, TalkError> {
    let question = random().map_err(|_| TalkError::Broken)?;
    let ask = Ask::Quote {
        package: wanted.package,
        adapter: wanted.adapter,
        input_bytes,
        residency: wanted.residency,
        sources,
        question,
    };
    let mut channel = swarm.converse(node).await?;
    channel.say(&ask.encode()?).await?;
    let Answer::Quote { quotation, signed } = hear(&mut channel).await? else {
        return Err(TalkError::OutOfTurn);
    };
    let peer = *channel.peer().as_bytes();
    quotation.verify(&signed, peer, question, &mut Keys::default())?;
    Ok(quotation)
}

/// A lease that is to be offered.
pub struct Begun<'a> {
    /// The lease.
    pub lease: &'a Signed<Lease>,
    /// Its input.
    pub input: &'a Input,
    /// The script that its work follows, if it follows one.
    pub script: &'a [u8],
    /// The keys of those who signed something before.
    pub keys: Keys,
    /// The folder that large outputs come into.
    pub outputs: &'a Path,
    /// How much of all this may be in memory, and on its way to the disk.
    pub bounds: &'a Bounds,
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
    let speaks = (swarm.id(), account);
    let performing = perform_over(&mut channel, speaks, begun, sources, records);
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
    (own, account): (NodeId, &AccountKey),
    begun: Begun<'_>,
    sources: Vec<String>,
    records: &AtomicU64,
) -> Result<Delivered, TalkError> {
    let Begun {
        lease,
        input,
        script,
        mut keys,
        outputs,
        bounds,
    } = begun;
    let input_bytes = input.bytes();
    let secret = SealSecret::generate()?;
    let signed = secret.signed(lease.digest(), *own.as_bytes(), account);
    let key = signed.ok_or(TalkError::OtherLease)?.encode();
    let offer = Ask::Offer(Undertaking {
        lease: lease.encode(),
        key,
        input_bytes,
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
    // Whoever is at the other end is the node that the provider speaks from, and nobody in between.
    let (name, peer) = (lease.digest(), *channel.peer().as_bytes());
    let sealed = secret.agree(name, lease.provider, peer, &their_key, false, &mut keys)?;
    hand_in(channel, sealed.sealer, input, script, &bounds.inputs).await?;
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
    let limit = lease.allowance.bytes.saturating_sub(input_bytes);
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
    let both = (output_bytes, shown_bytes);
    let (spool, room) = take_out(channel, sealed.opener, outputs, &bounds.coming, both).await?;
    let held = bounds.results.take(spool.in_memory(shown_bytes)).await;
    let (output, shown) = writing(both, || spool.end())?;
    let moved = input_bytes.saturating_add(output_bytes);
    let sent = Sent {
        commitment: &commitment,
        receipt: &receipt,
        handover: &handover,
        shown: &shown,
    };
    // What is shown of texts may be megabytes.
    let delivery = block_in_place(|| receive(&accepted, &sent, output.digest, moved, &mut keys))?;
    Ok(Delivered {
        lease: accepted,
        commitment: delivery.commitment,
        receipt: delivery.receipt,
        output,
        shown,
        held,
        room,
    })
}

/// Sends the input and the script behind it. Of the input no more than a chunk is in memory, for no longer
/// than the provider may take to read one, so that one that reads slowly keeps others waiting for nothing.
async fn hand_in(
    channel: &mut Channel,
    mut sealer: Sealer,
    input: &Input,
    script: &[u8],
    bound: &Bound,
) -> Result<(), TalkError> {
    let total = input.bytes().saturating_add(script.len() as u64);
    let mut sent = 0;
    loop {
        let held = bound.take(CHUNK as u64).await;
        let read = block_in_place(|| input.read(sent, CHUNK));
        let mut piece = read.map_err(TalkError::Input)?;
        let behind = (sent + piece.len() as u64).saturating_sub(input.bytes());
        let behind = usize::try_from(behind).unwrap_or(usize::MAX);
        let rest = script.get(behind..).unwrap_or_default();
        let room = CHUNK - piece.len();
        piece.extend_from_slice(&rest[..rest.len().min(room)]);
        sent += piece.len() as u64;
        let is_last = sent >= total;
        channel.say(&sealer.seal(&piece, is_last)?).await?;
        drop(held);
        if is_last {
            return Ok(());
        }
    }
}

/// Takes in an output and what is shown of it, of so many bytes each, chunk by chunk, and room on the disk for
/// as much as has come.
async fn take_out(
    channel: &mut Channel,
    opener: Opener,
    folder: &Path,
    coming: &Coming,
    both: (u64, u64),
) -> Result<(Spool, Room), TalkError> {
    let (output_bytes, shown_bytes) = both;
    let is_in_files = output_bytes.max(shown_bytes) > INLINE;
    let bytes = output_bytes.saturating_add(shown_bytes);
    let limit = coming.most_of_one();
    // For so much there is never room.
    if is_in_files && bytes > limit {
        return Err(TalkError::TooMuch { bytes, limit });
    }
    let mut room = coming.room_for(channel.peer());
    let mut gathered = Gathered::new(opener, bytes);
    let mut spool = writing(both, || Spool::new(folder, output_bytes, shown_bytes))?;
    loop {
        let is_last = gathered.add(channel.hear(MAX_SEALED, SILENCE).await?)?;
        let piece = gathered.take();
        if is_in_files && !room.take(piece.len() as u64) {
            return Err(TalkError::NoRoom);
        }
        writing(both, || spool.add(&piece))?;
        if is_last {
            return Ok((spool, room));
        }
    }
}

/// Does what may take the disk for an output and what is shown of it, of so many bytes each. What is small
/// enough stays in memory.
fn writing<T>(
    (output_bytes, shown_bytes): (u64, u64),
    write: impl FnOnce() -> io::Result<T>,
) -> Result<T, TalkError> {
    let written = match output_bytes.max(shown_bytes) <= INLINE {
        true => write(),
        false => block_in_place(write),
    };
    written.map_err(TalkError::Output)
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

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic)]
mod tests;
