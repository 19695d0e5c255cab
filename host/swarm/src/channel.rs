//! Conversations between two nodes over `skep/jobs/7` and `skep/training/4`: frames in both
//! directions, whose meaning is for whoever talks.
//!
//! One conversation for each bidirectional QUIC stream. Those about jobs that one node begins with
//! another share a connection as long as they follow each other ([`lines`]): a handshake costs more
//! than a small shard. A frame is its length as a big-endian `u32` and that many bytes. The one who
//! asks opens it, and dropping either end tells the other side.
//!
//! # What it must never do
//!
//! - Allocate what a length says: whoever reads says how long a frame may be, which is never more
//!   than [`MAX_FRAME`].
//! - Serve conversations while nobody here answers them, or more at once than its limit, or leave no
//!   place for others because one peer, or a handful of them, takes them all.
//! - Have a connection on which no conversation goes on keep its place for anything else that is sent on it.

mod lines;

use std::fmt;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use iroh::endpoint::{ConnectOptions, Connection, ReadExactError, RecvStream, SendStream};
use iroh::protocol::{AcceptError, ProtocolHandler};
use n0_future::boxed::BoxFuture;
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::config::conversation_transport;
use crate::fault::explain;
use crate::ids::{NodeId, ProviderAddr};
use crate::node::Swarm;
use crate::places::{Place, Places};

use lines::Line;
pub(crate) use lines::Lines;

/// The protocols' names in the TLS handshake: of jobs, and of trainings by several nodes.
pub(crate) const ALPN: &[u8] = b"skep/jobs/7";
pub(crate) const TRAINING_ALPN: &[u8] = b"skep/training/4";
/// The longest frame, in bytes.
pub const MAX_FRAME: usize = 128 << 10;
/// Conversations that are answered at one moment.
pub const CONVERSATIONS: usize = 256;
/// Those of them that one peer may have.
pub const FOR_ONE: usize = CONVERSATIONS / 4;

/// How long whoever has connected may take to begin a conversation. A connection on which none was
/// held for so long ends.
const BEGINNING: Duration = Duration::from_secs(10);
/// How long the other side may leave a frame where it is, if nothing else is said. One that reads takes
/// it at once; one that keeps its connection alive and never reads would hold this side for ever.
const TAKING: Duration = Duration::from_secs(10);

/// Why a conversation cannot begin or go on.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ChannelError {
    /// No connection.
    #[error("no connection: {reason}")]
    Unreachable {
        /// The reason.
        reason: String,
    },
    /// The other side has gone, or ended the conversation.
    #[error("the connection ended: {reason}")]
    Closed {
        /// The reason.
        reason: String,
    },
    /// A frame that is longer than the protocol has them.
    #[error("a frame of {length} bytes was announced, and at most {limit} are allowed")]
    TooLong {
        /// How long it is said to be.
        length: usize,
        /// How long it may be.
        limit: usize,
    },
    /// Nothing came for so long.
    #[error("nothing came for {} s", after.as_secs())]
    Silent {
        /// How long.
        after: Duration,
    },
    /// The other side does not read what it is sent.
    #[error("what was sent was not read for {} s", after.as_secs())]
    Unread {
        /// How long.
        after: Duration,
    },
}

/// One end of a conversation.
#[derive(Debug)]
pub struct Channel {
    peer: NodeId,
    line: Arc<Line>,
    send: SendStream,
    recv: RecvStream,
    taking: Duration,
}

impl Channel {
    /// Lets the other side leave a frame where it is for so long: for one that reads only now and
    /// then, and computes in between.
    pub fn give_time(&mut self, taking: Duration) {
        self.taking = taking;
    }

    /// Who is at the other end: it has proved that it holds that key.
    #[must_use]
    pub fn peer(&self) -> NodeId {
        self.peer
    }

    /// Sends a frame.
    ///
    /// # Errors
    ///
    /// When it is too long, or the other side has gone or does not read.
    pub async fn say(&mut self, frame: &[u8]) -> Result<(), ChannelError> {
        let too_long = ChannelError::TooLong {
            length: frame.len(),
            limit: MAX_FRAME,
        };
        let length = match u32::try_from(frame.len()) {
            Ok(length) if frame.len() <= MAX_FRAME => length,
            _ => return Err(too_long),
        };
        let send = &mut self.send;
        let written = async {
            send.write_all(&length.to_be_bytes()).await?;
            send.write_all(frame).await
        };
        let said = match tokio::time::timeout(self.taking, written).await {
            Ok(written) => written.map_err(|e| ChannelError::Closed {
                reason: explain(&e),
            }),
            Err(_) => Err(ChannelError::Unread { after: self.taking }),
        };
        self.line.tried(said)
    }

    /// Waits for the next frame, of at most `limit` bytes and no longer than `patience`. It is
    /// lost if this is dropped in the middle of one.
    ///
    /// # Errors
    ///
    /// When none comes, the other side has gone, or the frame is too long.
    pub async fn hear(
        &mut self,
        limit: usize,
        patience: Duration,
    ) -> Result<Vec<u8>, ChannelError> {
        let read = tokio::time::timeout(patience, self.read(limit.min(MAX_FRAME))).await;
        let heard = read.unwrap_or(Err(ChannelError::Silent { after: patience }));
        self.line.heard(heard)
    }

    async fn read(&mut self, limit: usize) -> Result<Vec<u8>, ChannelError> {
        let mut length = [0; 4];
        self.recv.read_exact(&mut length).await.map_err(ended)?;
        let length = usize::try_from(u32::from_be_bytes(length)).unwrap_or(usize::MAX);
        if length > limit {
            return Err(ChannelError::TooLong { length, limit });
        }
        let mut frame = vec![0; length];
        self.recv.read_exact(&mut frame).await.map_err(ended)?;
        Ok(frame)
    }

    /// Sends more than fits into a frame: its length in 4 bytes, and then as many frames as it
    /// takes.
    ///
    /// # Errors
    ///
    /// When it is longer than 4 bytes say, or as [`Channel::say`].
    pub async fn say_whole(&mut self, whole: &[u8]) -> Result<(), ChannelError> {
        let length = u32::try_from(whole.len()).map_err(|_| ChannelError::TooLong {
            length: whole.len(),
            limit: u32::MAX as usize,
        })?;
        self.say(&length.to_be_bytes()).await?;
        for part in whole.chunks(MAX_FRAME) {
            self.say(part).await?;
        }
        Ok(())
    }

    /// Waits for what was sent by [`Channel::say_whole`], of at most `limit` bytes, and no longer
    /// than `patience` for each frame. It grows as frames come, whatever length was announced.
    ///
    /// # Errors
    ///
    /// As [`Channel::hear`], or when frames are not what was announced.
    pub async fn hear_whole(
        &mut self,
        limit: usize,
        patience: Duration,
    ) -> Result<Vec<u8>, ChannelError> {
        let announced = self.hear(4, patience).await?;
        let Ok(announced) = <[u8; 4]>::try_from(announced) else {
            let reason = "something else was said than how much would follow".to_owned();
            return Err(ChannelError::Closed { reason });
        };
        let length = usize::try_from(u32::from_be_bytes(announced)).unwrap_or(usize::MAX);
        if length > limit {
            return Err(ChannelError::TooLong { length, limit });
        }
        let mut whole = Vec::new();
        while whole.len() < length {
            let part = self.hear(length - whole.len(), patience).await?;
            // Frames of nothing would keep this going for ever.
            if part.is_empty() {
                let reason = "nothing was sent, again and again".to_owned();
                return Err(ChannelError::Closed { reason });
            }
            whole.extend_from_slice(&part);
        }
        Ok(whole)
    }

    /// Returns once the other side has gone or given up this conversation, for whoever works on its
    /// behalf and says nothing.
    pub async fn gone(&self) {
        tokio::select! {
            _ = self.line.closed() => {}
            // Nobody has all of what is not finished, so that this is the end of who listened.
            _ = self.send.stopped() => {}
        }
    }

    /// Gives up the connection that this conversation is on: whoever was at its other end is there no more,
    /// as is known from elsewhere. The next conversation with the same node connects anew.
    pub fn abandon(&self) {
        self.line.set_broken();
    }

    /// Ends this side's half, and waits until the other side has all of it.
    ///
    /// # Errors
    ///
    /// When it has gone before.
    pub async fn finish(mut self, patience: Duration) -> Result<(), ChannelError> {
        let closed = |reason: String| ChannelError::Closed { reason };
        self.send.finish().map_err(|e| closed(explain(&e)))?;
        match tokio::time::timeout(patience, self.send.stopped()).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(e)) => Err(closed(explain(&e))),
            Err(_) => Err(ChannelError::Silent { after: patience }),
        }
    }
}

fn ended(error: ReadExactError) -> ChannelError {
    ChannelError::Closed {
        reason: explain(&error),
    }
}

/// Who answers the conversations that others begin.
pub trait Answerer: Send + Sync + fmt::Debug {
    /// Holds one conversation to its end. Its future is dropped when the node shuts down.
    fn answer(&self, channel: Channel) -> BoxFuture<()>;
}

/// What the router calls: nobody at first.
#[derive(Clone, Debug)]
pub(crate) struct Conversations {
    answerer: Arc<OnceLock<Arc<dyn Answerer>>>,
    places: Places,
    /// [`BEGINNING`], but in tests.
    beginning: Duration,
}

impl Conversations {
    fn place(&self, peer: NodeId) -> Option<Place> {
        self.places.take(peer)
    }
}

impl Default for Conversations {
    fn default() -> Self {
        Self {
            answerer: Arc::default(),
            places: Places::new(CONVERSATIONS),
            beginning: BEGINNING,
        }
    }
}

impl ProtocolHandler for Conversations {
    async fn accept(&self, connection: Connection) -> Result<(), AcceptError> {
        let peer = connection.remote_id().into();
        // A connection on which nothing is said yet takes a place too.
        let (Some(answerer), Some(place)) = (self.answerer.get(), self.place(peer)) else {
            connection.close(1_u32.into(), b"nobody answers here");
            return Ok(());
        };
        let line = Arc::new(Line::of(connection));
        let mut room = Some(place);
        let mut held = JoinSet::new();
        // Who asks whether this side is there begins nothing by that, and has no more time for it.
        let mut until = Instant::now() + self.beginning;
        loop {
            let begun = tokio::select! {
                begun = tokio::time::timeout_at(until, line.accept()) => begun,
                Some(_) = held.join_next() => {
                    until = Instant::now() + self.beginning;
                    continue;
                }
                Ok(()) = line.asked() => continue,
            };
            let (send, recv) = match begun {
                Ok(Ok(streams)) => streams,
                // Whoever talked on it is told by its own half, and has an end to come to.
                Ok(Err(_)) => break,
                Err(_) if held.is_empty() => {
                    line.close(b"nothing was said");
                    break;
                }
                Err(_) => {
                    until = Instant::now() + self.beginning;
                    continue;
                }
            };
            // Who has no room for one more drops both its halves, which the other side sees.
            let Some(room) = room.take().or_else(|| self.place(peer)) else {
                continue;
            };
            let channel = Channel {
                peer,
                line: Arc::clone(&line),
                send,
                recv,
                taking: TAKING,
            };
            until = Instant::now() + self.beginning;
            let answerer = Arc::clone(answerer);
            held.spawn(async move {
                answerer.answer(channel).await;
                drop(room);
            });
        }
        while held.join_next().await.is_some() {}
        Ok(())
    }
}

impl Swarm {
    /// Answers the conversations that other nodes begin, from now on. The first answerer stays.
    pub fn answer_with(&self, answerer: Arc<dyn Answerer>) {
        let _ = self.inner.conversations.answerer.set(answerer);
    }

    /// The same of conversations about a training by several nodes.
    pub fn train_with(&self, answerer: Arc<dyn Answerer>) {
        let _ = self.inner.trainings.answerer.set(answerer);
    }

    /// Begins a conversation with another node. One that was ended and is back, where it was, is reached
    /// within about a second, whatever connection there was to it. A conversation ends when nothing has come
    /// from the other side's system for ten seconds.
    ///
    /// # Errors
    ///
    /// When it cannot be reached.
    pub async fn converse(&self, node: &ProviderAddr) -> Result<Channel, ChannelError> {
        let lines = &self.inner.lines;
        if let Some(line) = lines.to(node)
            && line.answers().await
            && let Ok(channel) = self.within(open(node.id, line)).await
        {
            return Ok(channel);
        }
        let channel = self.begin(node, ALPN).await?;
        lines.keep(node, &channel.line);
        Ok(channel)
    }

    /// Begins a conversation with another node about a training by several nodes. It ends when nothing
    /// has come from the other side's system for ten seconds.
    ///
    /// # Errors
    ///
    /// When it cannot be reached.
    pub async fn invite(&self, node: &ProviderAddr) -> Result<Channel, ChannelError> {
        self.begin(node, TRAINING_ALPN).await
    }

    async fn begin(&self, node: &ProviderAddr, alpn: &[u8]) -> Result<Channel, ChannelError> {
        let opening = async {
            let (endpoint, address) = (&self.inner.endpoint, node.to_endpoint_addr());
            let options = ConnectOptions::new().with_transport_config(conversation_transport());
            let connecting = endpoint.connect_with_opts(address, alpn, options).await;
            let connecting = connecting.map_err(|e| unreachable(explain(&e)))?;
            let connection = connecting.await.map_err(|e| unreachable(explain(&e)))?;
            open(node.id, Arc::new(Line::of(connection))).await
        };
        self.within(opening).await
    }

    /// Whoever lets nobody open a stream answers as little as one that is not there.
    async fn within(
        &self,
        opening: impl Future<Output = Result<Channel, ChannelError>>,
    ) -> Result<Channel, ChannelError> {
        let opened = tokio::time::timeout(self.inner.limits.connect, opening).await;
        opened.unwrap_or_else(|_| Err(unreachable("it does not answer".to_owned())))
    }
}

async fn open(peer: NodeId, line: Arc<Line>) -> Result<Channel, ChannelError> {
    let opened = line.open().await;
    let (send, recv) = opened.map_err(|e| unreachable(explain(&e)))?;
    Ok(Channel {
        peer,
        line,
        send,
        recv,
        taking: TAKING,
    })
}

fn unreachable(reason: String) -> ChannelError {
    ChannelError::Unreachable { reason }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use iroh::endpoint::presets;
    use iroh::{Endpoint, RelayMode};

    use super::*;

    const PATIENCE: Duration = Duration::from_secs(60);

    /// Hears what is said to it until the other side has gone.
    #[derive(Debug)]
    struct Hears;

    impl Answerer for Hears {
        fn answer(&self, mut channel: Channel) -> BoxFuture<()> {
            Box::pin(async move { while channel.hear(16, PATIENCE).await.is_ok() {} })
        }
    }

    /// An endpoint on loopback.
    async fn endpoint() -> Endpoint {
        let builder = Endpoint::builder(presets::Minimal)
            .relay_mode(RelayMode::Disabled)
            .alpns(vec![ALPN.to_vec()])
            .clear_ip_transports();
        let builder = builder.bind_addr("127.0.0.1:0").unwrap();
        builder.bind().await.unwrap()
    }

    /// Asks again and again whether the other side is there, until it ends the connection.
    async fn only_asks(connection: &Connection) {
        let mut often = tokio::time::interval(Duration::from_millis(50));
        while connection.send_datagram(Bytes::from_static(b"?")).is_ok() {
            often.tick().await;
        }
    }

    #[tokio::test]
    async fn who_only_asks_whether_anybody_is_there_keeps_no_place() {
        let (near, far) = (endpoint().await, endpoint().await);
        let beginning = Duration::from_millis(500);
        let conversations = Conversations {
            beginning,
            ..Conversations::default()
        };
        conversations.answerer.set(Arc::new(Hears)).unwrap();
        let at = ProviderAddr {
            id: far.id().into(),
            addrs: far.bound_sockets(),
        };
        let (connection, accepted) =
            tokio::join!(near.connect(at.to_endpoint_addr(), ALPN), async {
                far.accept().await.unwrap().await
            });
        let (connection, accepted) = (connection.unwrap(), accepted.unwrap());
        let serving = conversations.clone();
        let served = tokio::spawn(async move { serving.accept(accepted).await });
        // While a conversation goes on it may ask as long as it likes.
        let (mut send, recv) = connection.open_bi().await.unwrap();
        send.write_all(&[0, 0, 0, 1, b'a']).await.unwrap();
        let asking = tokio::time::timeout(3 * beginning, only_asks(&connection)).await;
        assert!(asking.is_err(), "it was let go in the middle");
        // And then as long as anybody who begins none.
        drop((send, recv));
        let asking = tokio::time::timeout(PATIENCE, only_asks(&connection)).await;
        assert!(asking.is_ok(), "it keeps its connection");
        served.await.unwrap().unwrap();
        assert!(conversations.places.are_free());
        near.close().await;
        far.close().await;
    }
}
