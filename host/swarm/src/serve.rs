//! Answering `skep/releases/1`: see `wire` for the protocol.

use std::sync::Arc;
use std::time::Duration;

use iroh::endpoint::{Connection, RecvStream, SendStream};
use iroh::protocol::{AcceptError, ProtocolHandler};
use skep_registry::PublisherId;
use tokio::task::JoinSet;

use crate::config::Limits;
use crate::places::{Place, Places};
use crate::releases::Releases;
use crate::wire::{
    MAX_ANSWER, MAX_ITEMS, MAX_REQUEST, Refusal, Reply, Request, WireError, encode, read_frame,
    write_frame,
};

/// Questions of one connection that are answered at one moment.
const PER_CONNECTION: usize = 8;

/// Answers the questions of other nodes.
#[derive(Clone, Debug)]
pub(crate) struct Answers {
    releases: Arc<Releases>,
    places: Places,
    connections: Places,
    deadline: Duration,
}

impl Answers {
    pub(crate) fn new(releases: Arc<Releases>, limits: &Limits) -> Self {
        Self {
            releases,
            places: Places::new(limits.answers),
            connections: Places::new(limits.connections),
            deadline: limits.request,
        }
    }

    /// Answers one question, all of it before the deadline, if there is a place for it.
    async fn answer(self, place: Option<Place>, mut send: SendStream, mut recv: RecvStream) {
        let Some(_place) = place else {
            let busy = write_frame(&mut send, &Reply::Refused(Refusal::Busy));
            let _ = tokio::time::timeout(self.deadline, busy).await;
            let _ = send.finish();
            return;
        };
        let answered =
            tokio::time::timeout(self.deadline, self.converse(&mut send, &mut recv)).await;
        match answered {
            Ok(Ok(())) => {
                let _ = send.finish();
            }
            Ok(Err(e)) => {
                tracing::debug!("a question was not answered: {e}");
                let _ = send.reset(1_u32.into());
            }
            Err(_) => {
                let _ = send.reset(2_u32.into());
            }
        }
    }

    async fn converse(
        &self,
        send: &mut SendStream,
        recv: &mut RecvStream,
    ) -> Result<(), WireError> {
        let replies = match read_frame(recv, MAX_REQUEST).await {
            Ok(Some((request, _))) => self.replies(request),
            Ok(None) | Err(WireError::Malformed | WireError::TooLong { .. }) => {
                vec![Reply::Refused(Refusal::Malformed)]
            }
            Err(e) => return Err(e),
        };
        for reply in bounded(replies)? {
            send.write_all(&reply)
                .await
                .map_err(|e| WireError::Connection(crate::fault::explain(&e)))?;
        }
        Ok(())
    }

    fn replies(&self, request: Request) -> Vec<Reply> {
        let end = Reply::End { cut: false };
        match request {
            Request::History { publisher, name } => {
                let (Ok(publisher), Ok(name)) = (PublisherId::from_bytes(&publisher), name.parse())
                else {
                    return vec![Reply::Refused(Refusal::Malformed)];
                };
                let Some(history) = self.releases.history(&publisher, &name) else {
                    return vec![Reply::Refused(Refusal::Unknown)];
                };
                let releases = history
                    .releases()
                    .iter()
                    .map(|release| self.release(release));
                releases.chain([end]).collect()
            }
            Request::Release { digest } => match self.releases.by_digest(&digest) {
                Some(release) => vec![self.release(&release), end],
                None => vec![Reply::Refused(Refusal::Unknown)],
            },
            Request::List { limit, after } => {
                let after = match after {
                    None => None,
                    Some((publisher, name)) => {
                        match (PublisherId::from_bytes(&publisher), name.parse()) {
                            (Ok(publisher), Ok(name)) => Some((publisher, name)),
                            _ => return vec![Reply::Refused(Refusal::Malformed)],
                        }
                    }
                };
                let limit = usize::from(limit).min(MAX_ITEMS);
                let (offers, cut) = self.releases.offers(after.as_ref(), limit);
                let offers = offers.into_iter().map(|offer| Reply::Offer {
                    publisher: *offer.publisher.as_bytes(),
                    name: offer.name.to_string(),
                    newest: offer.newest,
                    version: offer.version,
                });
                offers.chain([Reply::End { cut }]).collect()
            }
        }
    }

    fn release(&self, release: &skep_registry::SignedRelease) -> Reply {
        Reply::Release {
            signed: release.encode().to_vec(),
            complete: self.releases.is_complete(&release.digest()),
        }
    }
}

/// The frames of the replies, cut before the first that would exceed a limit.
fn bounded(replies: Vec<Reply>) -> Result<Vec<Vec<u8>>, WireError> {
    let mut frames = Vec::new();
    let mut bytes = 0;
    for reply in replies {
        let frame = encode(&reply)?;
        bytes += frame.len();
        if bytes > MAX_ANSWER || frames.len() > MAX_ITEMS {
            frames.push(encode(&Reply::End { cut: true })?);
            break;
        }
        frames.push(frame);
    }
    Ok(frames)
}

impl ProtocolHandler for Answers {
    async fn accept(&self, connection: Connection) -> Result<(), AcceptError> {
        let peer = connection.remote_id().into();
        let Some(_place) = self.connections.take(peer) else {
            connection.close(1_u32.into(), b"busy");
            return Ok(());
        };
        let mut answering = JoinSet::new();
        loop {
            // An answer may still be on its way when nothing is left to do for it here. After so long
            // nobody waits for it any more.
            let asked = tokio::time::timeout(self.deadline, connection.accept_bi());
            tokio::select! {
                asked = asked, if answering.len() < PER_CONNECTION => match asked {
                    Ok(Ok((send, recv))) => {
                        let place = self.places.take(peer);
                        answering.spawn(self.clone().answer(place, send, recv));
                    }
                    // The other side has all its answers, or is gone.
                    Ok(Err(_)) => return Ok(()),
                    Err(_) if answering.is_empty() => {
                        connection.close(1_u32.into(), b"nothing was asked");
                        return Ok(());
                    }
                    Err(_) => {}
                },
                Some(_) = answering.join_next(), if !answering.is_empty() => {}
            }
        }
    }
}
