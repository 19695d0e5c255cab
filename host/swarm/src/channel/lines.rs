//! Connections that several conversations share, and those to other nodes that are kept a while
//! after the last one.
//!
//! # What it must never do
//!
//! - Give a conversation to a connection on which another has just found nobody: who was away and is
//!   back is connected to anew.
//! - Keep a connection longer than the other side would: that ends one on which nothing is said for
//!   ten seconds.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use iroh::endpoint::{Connection, ConnectionError, RecvStream, SendStream};

use super::ChannelError;
use crate::ids::ProviderAddr;

/// How long after a conversation was begun a connection is used for another, where none goes on.
const LINGER: Duration = Duration::from_secs(3);

/// A connection, which ends with the last conversation that has it.
#[derive(Debug)]
pub(super) struct Line {
    connection: Connection,
    /// Whether a conversation on it broke off.
    is_broken: AtomicBool,
}

impl Line {
    pub(super) fn of(connection: Connection) -> Self {
        Self {
            connection,
            is_broken: AtomicBool::new(false),
        }
    }

    pub(super) async fn open(&self) -> Result<(SendStream, RecvStream), ConnectionError> {
        self.connection.open_bi().await
    }

    pub(super) async fn accept(&self) -> Result<(SendStream, RecvStream), ConnectionError> {
        self.connection.accept_bi().await
    }

    /// Returns once the connection has ended.
    pub(super) async fn closed(&self) {
        self.connection.closed().await;
    }

    pub(super) fn close(&self, reason: &[u8]) {
        self.connection.close(1_u32.into(), reason);
    }

    /// What came of saying or hearing something on it.
    pub(super) fn tried<T>(&self, done: Result<T, ChannelError>) -> Result<T, ChannelError> {
        if done.is_err() {
            self.set_broken();
        }
        done
    }

    /// No conversation is begun on it any more.
    pub(super) fn set_broken(&self) {
        self.is_broken.store(true, Ordering::Relaxed);
    }

    fn is_good(&self) -> bool {
        !self.is_broken.load(Ordering::Relaxed) && self.connection.close_reason().is_none()
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        // What was finished before has arrived.
        self.connection.close(0_u32.into(), b"done");
    }
}

/// A connection that may be used again, and when it last was.
#[derive(Debug)]
struct Kept {
    line: Arc<Line>,
    used: Instant,
}

impl Kept {
    fn is_good(&self) -> bool {
        let in_use = Arc::strong_count(&self.line) > 1;
        self.line.is_good() && (in_use || self.used.elapsed() < LINGER)
    }
}

/// The connections of a node to others, by where these are: one that has moved is another.
#[derive(Clone, Debug, Default)]
pub(crate) struct Lines(Arc<Mutex<HashMap<ProviderAddr, Kept>>>);

impl Lines {
    /// A connection to this node that can be used again.
    pub(super) fn to(&self, node: &ProviderAddr) -> Option<Arc<Line>> {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        kept.retain(|_, kept| kept.is_good());
        let kept = kept.get_mut(node)?;
        kept.used = Instant::now();
        Some(Arc::clone(&kept.line))
    }

    /// Keeps a connection for the next conversation. Of two that were begun at once one is kept.
    pub(super) fn keep(&self, node: &ProviderAddr, line: &Arc<Line>) {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        kept.insert(
            node.clone(),
            Kept {
                line: Arc::clone(line),
                used: Instant::now(),
            },
        );
    }

    /// Lets all of them go.
    pub(crate) fn clear(&self) {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        kept.clear();
    }
}

#[cfg(test)]
mod tests {
    use n0_future::boxed::BoxFuture;

    use super::super::{Answerer, Channel};
    use super::*;
    use crate::config::SwarmConfig;
    use crate::node::Swarm;

    /// Listens until the other side has gone.
    #[derive(Debug)]
    struct Listens;

    impl Answerer for Listens {
        fn answer(&self, channel: Channel) -> BoxFuture<()> {
            Box::pin(async move { channel.gone().await })
        }
    }

    #[tokio::test]
    async fn a_connection_that_was_given_up_has_no_further_conversation() {
        let dir = tempfile::tempdir().unwrap();
        let open = |name: &str| Swarm::open(SwarmConfig::loopback(dir.path().join(name)));
        let provider = open("provider").await.unwrap();
        let requester = open("requester").await.unwrap();
        provider.answer_with(Arc::new(Listens));
        let at = provider.addr();
        let first = requester.converse(&at).await.unwrap();
        let second = requester.converse(&at).await.unwrap();
        assert!(Arc::ptr_eq(&first.line, &second.line));
        first.abandon();
        let third = requester.converse(&at).await.unwrap();
        assert!(!Arc::ptr_eq(&first.line, &third.line));
        // Those that follow have what was connected anew.
        let fourth = requester.converse(&at).await.unwrap();
        assert!(Arc::ptr_eq(&third.line, &fourth.line));
        requester.shutdown().await;
        provider.shutdown().await;
    }
}
