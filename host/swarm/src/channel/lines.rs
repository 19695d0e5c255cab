//! Connections that several conversations share, and those to other nodes that are kept a while
//! after the last one.
//!
//! # What it must never do
//!
//! - Give a conversation to a connection on which another has just found nobody, or on which nobody
//!   answers any more: who was away and is back is connected to anew. Nothing has been said by then, so
//!   nothing is asked for twice.
//! - End a conversation because its other side is slow to answer.
//! - Keep a connection longer than the other side would: that ends one on which nothing is said for
//!   ten seconds.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use iroh::endpoint::{Connection, ConnectionError, RecvStream, SendStream};

use super::ChannelError;
use crate::ids::ProviderAddr;

/// How long after a conversation was begun a connection is used for another, where none goes on.
const LINGER: Duration = Duration::from_secs(3);
/// Who was heard so lately is not asked whether it is there: those who talk all the time do not wait for an
/// answer at each beginning, and no node is ended and back in so little: the quickest took some 20 ms.
const LATELY: Duration = Duration::from_millis(8);
/// How long the other side's system may take to answer whether it is there. Who is there and takes longer is
/// connected to once more, which costs a handshake; what goes on on the other connection goes on.
const ANSWER: Duration = Duration::from_secs(1);
/// How often it is looked whether it has answered.
const LOOK: Duration = Duration::from_millis(5);

/// Whether who was heard for the last time so long ago is taken to be there still.
fn is_lately(ago: Duration) -> bool {
    ago < LATELY
}

/// A connection, which ends with the last conversation that has it.
#[derive(Debug)]
pub(super) struct Line {
    connection: Connection,
    /// When something was last heard on it.
    heard: Mutex<Instant>,
    /// Whether a conversation on it broke off.
    is_broken: AtomicBool,
}

impl Line {
    pub(super) fn of(connection: Connection) -> Self {
        Self {
            connection,
            heard: Mutex::new(Instant::now()),
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

    /// Whether the other side is there still. When a process is killed, its end of a connection is gone, and
    /// another process in its place, at the same address and with the same key, says nothing about it.
    pub(super) async fn answers(&self) -> bool {
        if is_lately(self.last_heard().elapsed()) {
            return true;
        }
        let came = || self.connection.stats().udp_rx.datagrams;
        let before = came();
        // What is in it means nothing: its receipt has to be confirmed.
        let asked = self.connection.send_datagram(Bytes::from_static(b"?"));
        let answered = async {
            let mut look = tokio::time::interval(LOOK);
            while self.connection.close_reason().is_none() {
                if came() > before {
                    return true;
                }
                look.tick().await;
            }
            false
        };
        let answered = tokio::time::timeout(ANSWER, answered);
        let is_there = asked.is_ok() && answered.await.unwrap_or(false);
        match is_there {
            true => self.set_heard(),
            false => self.set_broken(),
        }
        is_there
    }

    /// Returns once the other side has asked whether this one is there, which the system has answered.
    pub(super) async fn asked(&self) -> Result<(), ConnectionError> {
        self.connection.read_datagram().await.map(drop)
    }

    fn last_heard(&self) -> Instant {
        *self.heard.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn set_heard(&self) {
        *self.heard.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
    }

    /// What came of hearing something on it.
    pub(super) fn heard<T>(&self, heard: Result<T, ChannelError>) -> Result<T, ChannelError> {
        if heard.is_ok() {
            self.set_heard();
        }
        self.tried(heard)
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
    use std::io::{BufRead, BufReader};
    use std::path::Path;
    use std::process::{Child, Command, Stdio};

    use n0_future::boxed::BoxFuture;

    use super::super::{Answerer, Channel};
    use super::*;
    use crate::config::SwarmConfig;
    use crate::node::Swarm;
    use crate::ticket::NodeTicket;

    const PATIENCE: Duration = Duration::from_secs(60);
    /// In so little a node was ended and back, at the same address and with the same key.
    const BACK: Duration = Duration::from_millis(20);

    /// Says what it hears, until the other side has gone.
    #[derive(Debug)]
    struct Echo;

    impl Answerer for Echo {
        fn answer(&self, mut channel: Channel) -> BoxFuture<()> {
            Box::pin(async move {
                while let Ok(frame) = channel.hear(16, PATIENCE).await {
                    if channel.say(&frame).await.is_err() {
                        return;
                    }
                }
            })
        }
    }

    async fn echoes(channel: &mut Channel) -> bool {
        channel.say(b"hello").await.is_ok()
            && channel
                .hear(16, PATIENCE)
                .await
                .is_ok_and(|frame| frame == b"hello")
    }

    /// Makes it so that nothing was heard on it for as long as its other side takes to be ended and back.
    fn set_quiet(line: &Line) {
        *line.heard.lock().unwrap() = Instant::now().checked_sub(BACK).unwrap();
    }

    #[test]
    fn who_may_have_been_ended_and_be_back_was_not_heard_lately() {
        let ago = [Duration::ZERO, BACK / 20, BACK / 2, BACK, PATIENCE];
        assert_eq!(ago.map(is_lately), [true, true, false, false, false]);
    }

    #[tokio::test]
    async fn a_connection_that_was_given_up_has_no_further_conversation() {
        let dir = tempfile::tempdir().unwrap();
        let open = |name: &str| Swarm::open(SwarmConfig::loopback(dir.path().join(name)));
        let provider = open("provider").await.unwrap();
        let requester = open("requester").await.unwrap();
        provider.answer_with(Arc::new(Echo));
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

    #[tokio::test]
    async fn a_quiet_connection_is_used_again_where_the_other_side_answers() {
        let dir = tempfile::tempdir().unwrap();
        let open = |name: &str| Swarm::open(SwarmConfig::loopback(dir.path().join(name)));
        let provider = open("provider").await.unwrap();
        let requester = open("requester").await.unwrap();
        provider.answer_with(Arc::new(Echo));
        let at = provider.addr();
        let mut first = requester.converse(&at).await.unwrap();
        for _ in 0..3 {
            set_quiet(&first.line);
            let mut next = requester.converse(&at).await.unwrap();
            assert!(Arc::ptr_eq(&first.line, &next.line));
            assert!(echoes(&mut next).await);
        }
        // To be asked takes no conversation away from who is asked.
        assert!(echoes(&mut first).await);
        requester.shutdown().await;
        provider.shutdown().await;
        // Who has said that it goes is not waited for.
        set_quiet(&first.line);
        assert!(!first.line.answers().await);
    }

    /// A node that is a process of its own, until this is dropped: then it is killed.
    struct Process(Child);

    impl Process {
        /// Starts it in this folder, and waits until it says where it is.
        async fn start(dir: &Path) -> (Self, ProviderAddr) {
            const NAME: &str = "channel::lines::tests::the_process_that_is_killed";
            let mut child = Command::new(std::env::current_exe().unwrap())
                .args(["--exact", NAME, "--nocapture"])
                .env("SKEP_TEST_KILLED", dir)
                .stdout(Stdio::piped())
                .spawn()
                .unwrap();
            let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
            let process = Self(child);
            let said = tokio::task::spawn_blocking(move || {
                lines.find_map(|line| line.unwrap().strip_prefix("HERE ").map(str::to_owned))
            });
            let said = said.await.unwrap();
            let ticket: NodeTicket = said.expect("it ended before").parse().unwrap();
            (process, ticket.node)
        }
    }

    impl Drop for Process {
        fn drop(&mut self) {
            self.0.kill().unwrap(); // SIGKILL
            self.0.wait().unwrap();
        }
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_node_that_was_killed_is_talked_to_as_soon_as_it_is_back() {
        let dir = tempfile::tempdir().unwrap();
        let requester = SwarmConfig::loopback(dir.path().join("requester"));
        let requester = Swarm::open(requester).await.unwrap();
        let provider = dir.path().join("provider");
        let (process, at) = Process::start(&provider).await;
        // It goes on for all that this side knows, so that its connection is one in use.
        let mut held = requester.converse(&at).await.unwrap();
        assert!(echoes(&mut held).await);
        drop(process);
        let (_process, again) = Process::start(&provider).await;
        assert_eq!(again, at, "it has the key and the port that it had");

        set_quiet(&held.line);
        let begun = Instant::now();
        let mut channel = requester.converse(&at).await.unwrap();
        assert!(echoes(&mut channel).await);
        // Much sooner than the connection of before is found to have ended.
        let took = begun.elapsed();
        assert!(took < Duration::from_secs(6), "{took:?}");
        assert!(!Arc::ptr_eq(&held.line, &channel.line));
        // Those that follow do not ask nobody once more.
        let next = requester.converse(&at).await.unwrap();
        assert!(Arc::ptr_eq(&channel.line, &next.line));
        requester.shutdown().await;
    }

    /// Not a test of its own: the process that the test above starts and kills.
    #[tokio::test(flavor = "multi_thread")]
    async fn the_process_that_is_killed() {
        let Some(dir) = std::env::var_os("SKEP_TEST_KILLED") else {
            return;
        };
        let node = Swarm::open(SwarmConfig::loopback(dir)).await.unwrap();
        node.answer_with(Arc::new(Echo));
        println!("\nHERE {}", node.ticket());
        std::future::pending::<()>().await;
    }
}
