//! The protocol `skep/releases/1`: asking a node what it offers.
//!
//! # On the wire
//!
//! One request for each bidirectional QUIC stream. The asker writes one frame and finishes its
//! side; the answerer writes reply frames, the last of which is [`Reply::End`] or
//! [`Reply::Refused`], and finishes its side. A frame is its length as a big-endian `u32` and
//! that many bytes of [postcard](https://postcard.jamesmunns.com/wire-format): a [`Request`] or a
//! [`Reply`]. New kinds of request get new variants at the end of the enum; anything that an older
//! node would misunderstand gets a new protocol name.
//!
//! # Limits
//!
//! | what | limit |
//! |---|---|
//! | a request frame | [`MAX_REQUEST`] bytes |
//! | a reply frame | [`MAX_REPLY`] bytes |
//! | items in one answer | [`MAX_ITEMS`] |
//! | bytes in one answer | [`MAX_ANSWER`] |
//!
//! A length above the limit ends the stream before anything is allocated. What a reply says is
//! never believed: the asker checks every signature and the chain itself.

use iroh::endpoint::{ReadExactError, RecvStream, SendStream};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use skep_registry::Digest;

/// The protocol's name in the TLS handshake.
pub(crate) const ALPN: &[u8] = b"skep/releases/1";

/// The longest request, in bytes.
pub(crate) const MAX_REQUEST: usize = 1024;
/// The surroundings of a signed release in its frame, in bytes.
pub(crate) const AROUND: usize = 64;
/// The longest reply frame, in bytes: one signed release with its surroundings.
pub(crate) const MAX_REPLY: usize = skep_registry::SignedRelease::MAX_BYTES + AROUND;
/// The most items in one answer.
pub(crate) const MAX_ITEMS: usize = 4096;
/// The most bytes in one answer. Sixteen may be read at once.
pub(crate) const MAX_ANSWER: usize = 8 << 20;

/// What one node asks another.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Request {
    /// Every release of a package, oldest first.
    History {
        /// The publisher's public key.
        publisher: [u8; 32],
        /// The package's name.
        name: String,
    },
    /// One release by its digest.
    Release {
        /// The release's digest.
        digest: Digest,
    },
    /// What the node offers, ordered by publisher and name.
    List {
        /// At most this many.
        limit: u16,
        /// Only what comes after this one in the order.
        after: Option<([u8; 32], String)>,
    },
}

/// One frame of the answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Reply {
    /// A signed release, as its publisher encoded it.
    Release {
        /// The encoded signed release.
        signed: Vec<u8>,
        /// Whether this node has all of its files and serves them.
        complete: bool,
    },
    /// A package of which this node offers at least one release.
    Offer {
        /// The publisher's public key.
        publisher: [u8; 32],
        /// The package's name.
        name: String,
        /// The newest release that is complete here.
        newest: Digest,
        /// The version of that release.
        version: String,
    },
    /// The answer is whole, or was cut at a limit.
    End {
        /// Whether there would have been more.
        cut: bool,
    },
    /// There is no answer.
    Refused(Refusal),
}

/// Why a node does not answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Refusal {
    /// It knows nothing of that.
    Unknown,
    /// It is answering as many requests as it may.
    Busy,
    /// It does not understand the request.
    Malformed,
}

/// Why a frame could not be read or written.
#[derive(Debug, thiserror::Error)]
pub(crate) enum WireError {
    #[error("a frame of {length} bytes was announced, and at most {limit} are allowed")]
    TooLong { length: usize, limit: usize },
    #[error("the stream ended in the middle of a frame")]
    Truncated,
    #[error("a frame does not decode")]
    Malformed,
    #[error("{0}")]
    Connection(String),
}

/// Reads one frame of at most `limit` bytes; returns what is in it and its length in bytes.
/// `None` when the stream ended before it.
pub(crate) async fn read_frame<T: DeserializeOwned>(
    stream: &mut RecvStream,
    limit: usize,
) -> Result<Option<(T, usize)>, WireError> {
    let mut length = [0; 4];
    match stream.read_exact(&mut length).await {
        Ok(()) => {}
        Err(ReadExactError::FinishedEarly(0)) => return Ok(None),
        Err(ReadExactError::FinishedEarly(_)) => return Err(WireError::Truncated),
        Err(ReadExactError::ReadError(e)) => {
            return Err(WireError::Connection(crate::fault::explain(&e)));
        }
    }
    let length = usize::try_from(u32::from_be_bytes(length)).unwrap_or(usize::MAX);
    if length > limit {
        return Err(WireError::TooLong { length, limit });
    }
    let mut body = vec![0; length];
    match stream.read_exact(&mut body).await {
        Ok(()) => {}
        Err(ReadExactError::FinishedEarly(_)) => return Err(WireError::Truncated),
        Err(ReadExactError::ReadError(e)) => {
            return Err(WireError::Connection(crate::fault::explain(&e)));
        }
    }
    Ok(Some((decode(&body)?, length)))
}

/// Writes one frame.
pub(crate) async fn write_frame<T: Serialize>(
    stream: &mut SendStream,
    message: &T,
) -> Result<(), WireError> {
    let frame = encode(message)?;
    stream
        .write_all(&frame)
        .await
        .map_err(|e| WireError::Connection(crate::fault::explain(&e)))
}

/// The frame of a message, its length included.
pub(crate) fn encode<T: Serialize>(message: &T) -> Result<Vec<u8>, WireError> {
    let body = postcard::to_stdvec(message).map_err(|_| WireError::Malformed)?;
    let length = u32::try_from(body.len()).map_err(|_| WireError::TooLong {
        length: body.len(),
        limit: MAX_REPLY,
    })?;
    let mut frame = length.to_be_bytes().to_vec();
    frame.extend_from_slice(&body);
    Ok(frame)
}

/// The message in the body of a frame; every byte must belong to it.
fn decode<T: DeserializeOwned>(body: &[u8]) -> Result<T, WireError> {
    match postcard::take_from_bytes(body) {
        Ok((message, [])) => Ok(message),
        Ok(_) | Err(_) => Err(WireError::Malformed),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn any_bytes_decode_or_are_refused(body in prop::collection::vec(any::<u8>(), 0..300)) {
            if let Ok(request) = decode::<Request>(&body) {
                prop_assert_eq!(decode::<Request>(&encode(&request).unwrap()[4..]).unwrap(), request);
            }
            if let Ok(reply) = decode::<Reply>(&body) {
                prop_assert_eq!(decode::<Reply>(&encode(&reply).unwrap()[4..]).unwrap(), reply);
            }
        }

        #[test]
        fn a_cut_or_longer_message_is_refused(name in "[a-z]{1,40}", cut in 1_usize..40) {
            let request = Request::History { publisher: [7; 32], name };
            let frame = encode(&request).unwrap();
            let body = &frame[4..];
            prop_assert_eq!(decode::<Request>(body).unwrap(), request);
            prop_assert!(decode::<Request>(&body[..body.len().saturating_sub(cut)]).is_err());
            let longer = [body, &[0][..]].concat();
            prop_assert!(decode::<Request>(&longer).is_err());
        }
    }

    #[test]
    fn a_claimed_length_allocates_nothing() {
        // A release whose vector claims 2^60 bytes.
        let mut body = vec![0];
        body.extend_from_slice(&[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x0f]);
        assert!(matches!(decode::<Reply>(&body), Err(WireError::Malformed)));
    }
}
