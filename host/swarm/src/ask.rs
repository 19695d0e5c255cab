//! Asking other nodes over `skep/releases/1`: see `wire` for the protocol.
//!
//! Nothing that a node says is believed here: releases come back decoded, which checks their
//! signatures, and whoever asked checks the history.

use std::time::Duration;

use iroh::Endpoint;
use skep_registry::{Digest, PackageName, PublisherId, SignedRelease};

use crate::config::Limits;
use crate::fault::{ProviderFault, explain};
use crate::ids::ProviderAddr;
use crate::releases::Offer;
use crate::wire::{
    ALPN, AROUND, MAX_ANSWER, MAX_ITEMS, MAX_REPLY, Refusal, Reply, Request, WireError, encode,
    read_frame,
};

/// A release as a node showed it.
#[derive(Clone, Debug)]
pub(crate) struct Shown {
    pub(crate) release: SignedRelease,
    /// Whether that node says that it has all the files.
    pub(crate) complete: bool,
}

/// How much of an answer is read.
#[derive(Clone, Copy, Debug)]
struct Most {
    /// Bytes of one frame.
    frame: usize,
    /// Items.
    items: usize,
    /// Bytes of all of them.
    bytes: usize,
}

/// As much as the protocol lets an answer have.
const WHOLE: Most = Most {
    frame: MAX_REPLY,
    items: MAX_ITEMS,
    bytes: MAX_ANSWER,
};

/// Every release of a package that `node` knows.
pub(crate) async fn history(
    endpoint: &Endpoint,
    limits: &Limits,
    node: &ProviderAddr,
    publisher: &PublisherId,
    name: &PackageName,
) -> Result<Vec<Shown>, ProviderFault> {
    let request = Request::History {
        publisher: *publisher.as_bytes(),
        name: name.to_string(),
    };
    let (replies, cut) = ask(endpoint, limits, node, &request, WHOLE).await?;
    if cut {
        return Err(protocol("its history is longer than an answer may be"));
    }
    replies.into_iter().map(shown).collect()
}

/// One release by its digest, of an encoding of at most `largest` bytes.
pub(crate) async fn release(
    endpoint: &Endpoint,
    limits: &Limits,
    node: &ProviderAddr,
    digest: &Digest,
    largest: usize,
) -> Result<Shown, ProviderFault> {
    let request = Request::Release { digest: *digest };
    let frame = MAX_REPLY.min(largest.saturating_add(AROUND));
    let most = Most {
        frame,
        items: 1,
        bytes: frame,
    };
    let answer = ask(endpoint, limits, node, &request, most).await;
    let (replies, _) = answer.map_err(|fault| match fault {
        ProviderFault::TooLong { .. } => ProviderFault::TooLong { most: largest },
        fault => fault,
    })?;
    match <[Reply; 1]>::try_from(replies) {
        Ok([reply]) => {
            let shown = shown(reply)?;
            if shown.release.digest() == *digest {
                Ok(shown)
            } else {
                Err(protocol("it answered with another release"))
            }
        }
        Err(_) => Err(protocol("it did not answer with one release")),
    }
}

/// What `node` offers, and whether it has more than it told.
pub(crate) async fn offers(
    endpoint: &Endpoint,
    limits: &Limits,
    node: &ProviderAddr,
    limit: u16,
) -> Result<(Vec<Offer>, bool), ProviderFault> {
    let request = Request::List { limit, after: None };
    let (replies, cut) = ask(endpoint, limits, node, &request, WHOLE).await?;
    let offers = replies
        .into_iter()
        .take(usize::from(limit))
        .map(|reply| match reply {
            Reply::Offer {
                publisher,
                name,
                newest,
                version,
            } => Ok(Offer {
                publisher: PublisherId::from_bytes(&publisher)
                    .map_err(|_| protocol("it named a publisher that is none"))?,
                name: name
                    .parse()
                    .map_err(|_| protocol("it named a package that is none"))?,
                newest,
                version: version.chars().take(64).collect(),
            }),
            _ => Err(protocol("it did not answer with offers")),
        });
    Ok((offers.collect::<Result<_, _>>()?, cut))
}

fn shown(reply: Reply) -> Result<Shown, ProviderFault> {
    match reply {
        Reply::Release { signed, complete } => match SignedRelease::decode(&signed) {
            Ok(release) => Ok(Shown { release, complete }),
            Err(e) => Err(ProviderFault::FalseHistory {
                reason: e.to_string(),
            }),
        },
        _ => Err(protocol("it did not answer with releases")),
    }
}

fn protocol(reason: impl Into<String>) -> ProviderFault {
    ProviderFault::Protocol {
        reason: reason.into(),
    }
}

/// Asks one question; the answer without its end, and whether it was cut.
async fn ask(
    endpoint: &Endpoint,
    limits: &Limits,
    node: &ProviderAddr,
    request: &Request,
    most: Most,
) -> Result<(Vec<Reply>, bool), ProviderFault> {
    let frame = encode(request).map_err(|e| protocol(e.to_string()))?;
    let connecting = endpoint.connect(node.to_endpoint_addr(), ALPN);
    let connection =
        within(limits.connect, connecting)
            .await?
            .map_err(|e| ProviderFault::Unreachable {
                reason: explain(&e),
            })?;
    let answer = within(limits.request, converse(&connection, &frame, most)).await;
    connection.close(0_u32.into(), b"done");
    answer?
}

async fn within<T>(limit: Duration, work: impl Future<Output = T>) -> Result<T, ProviderFault> {
    tokio::time::timeout(limit, work)
        .await
        .map_err(|_| ProviderFault::NoAnswer { after: limit })
}

async fn converse(
    connection: &iroh::endpoint::Connection,
    frame: &[u8],
    most: Most,
) -> Result<(Vec<Reply>, bool), ProviderFault> {
    let closed = |reason: String| ProviderFault::Closed { reason };
    let (mut send, mut recv) = connection
        .open_bi()
        .await
        .map_err(|e| closed(explain(&e)))?;
    send.write_all(frame)
        .await
        .map_err(|e| closed(explain(&e)))?;
    // A node may answer without reading to the end; what it answers decides.
    let _ = send.finish();
    let mut replies = Vec::new();
    let mut bytes = 0;
    loop {
        let before = bytes;
        let reply: Reply = match read_frame(&mut recv, most.frame).await {
            Ok(Some((reply, length))) => {
                bytes = before + length;
                reply
            }
            Ok(None) => return Err(protocol("its answer has no end")),
            Err(WireError::Connection(reason)) => return Err(closed(reason)),
            // The protocol lets it be so long, and this question does not.
            Err(WireError::TooLong { length, limit }) if length <= MAX_REPLY => {
                return Err(ProviderFault::TooLong { most: limit });
            }
            Err(e) => return Err(protocol(e.to_string())),
        };
        match reply {
            Reply::End { cut } => return Ok((replies, cut)),
            Reply::Refused(Refusal::Unknown) => return Err(ProviderFault::Unknown),
            Reply::Refused(Refusal::Busy) => return Err(ProviderFault::Busy),
            Reply::Refused(Refusal::Malformed) => {
                return Err(protocol("it did not understand the question"));
            }
            reply => replies.push(reply),
        }
        if bytes > most.bytes || replies.len() > most.items {
            return Err(protocol("its answer is longer than answers may be"));
        }
    }
}
