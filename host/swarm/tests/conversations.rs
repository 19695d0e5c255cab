//! Conversations: who may have how many, and how long what is said in one may lie unread.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use std::sync::Arc;
use std::time::Duration;

use common::node;
use n0_future::boxed::BoxFuture;
use skep_swarm::{Answerer, Channel, ChannelError, MAX_FRAME};
use tokio::sync::{Semaphore, mpsc};

const PATIENCE: Duration = Duration::from_secs(30);

/// Says what it hears, and hears more until the other side has gone.
#[derive(Debug)]
struct Echo;

impl Answerer for Echo {
    fn answer(&self, mut channel: Channel) -> BoxFuture<()> {
        Box::pin(async move {
            while let Ok(frame) = channel.hear(16, Duration::from_secs(600)).await {
                if channel.say(&frame).await.is_err() {
                    return;
                }
            }
        })
    }
}

/// Hears one frame and says it again, and tells which it was once the other side has gone.
#[derive(Debug)]
struct Left(mpsc::UnboundedSender<Vec<u8>>);

impl Answerer for Left {
    fn answer(&self, mut channel: Channel) -> BoxFuture<()> {
        let left = self.0.clone();
        Box::pin(async move {
            let frame = channel.hear(16, PATIENCE).await.unwrap();
            channel.say(&frame).await.unwrap();
            channel.gone().await;
            left.send(frame).unwrap();
        })
    }
}

#[tokio::test]
async fn who_leaves_one_conversation_of_several_is_gone_from_that_one_only() {
    let dir = tempfile::tempdir().unwrap();
    let provider = node(&dir.path().join("provider")).await;
    let (sender, mut left) = mpsc::unbounded_channel();
    provider.answer_with(Arc::new(Left(sender)));
    let requester = node(&dir.path().join("requester")).await;
    let mut held = Vec::new();
    for name in [b"a", b"b", b"c"] {
        let mut channel = requester.converse(&provider.addr()).await.unwrap();
        channel.say(name).await.unwrap();
        assert_eq!(channel.hear(16, PATIENCE).await.unwrap(), name);
        held.push((name, channel));
    }
    while let Some((name, channel)) = held.pop() {
        drop(channel);
        let gone = tokio::time::timeout(PATIENCE, left.recv()).await.unwrap();
        assert_eq!(gone.unwrap(), name);
        assert!(left.try_recv().is_err(), "nobody else has gone");
    }
    // One that goes away as a whole is gone from all of them.
    let mut channel = requester.converse(&provider.addr()).await.unwrap();
    channel.say(b"d").await.unwrap();
    channel.hear(16, PATIENCE).await.unwrap();
    provider.shutdown().await;
    assert!(channel.hear(16, PATIENCE).await.is_err());
    requester.shutdown().await;
}

/// Reads nothing before it may, and then everything.
#[derive(Debug)]
struct ReadsLate {
    /// Closed once it may read.
    waits: Arc<Semaphore>,
}

impl Answerer for ReadsLate {
    fn answer(&self, mut channel: Channel) -> BoxFuture<()> {
        let waits = Arc::clone(&self.waits);
        Box::pin(async move {
            let _ = waits.acquire().await;
            while channel.hear(MAX_FRAME, PATIENCE).await.is_ok() {}
        })
    }
}

/// Says twice what may be on its way while nobody reads.
async fn say_much(channel: &mut Channel) -> Result<(), ChannelError> {
    for _ in 0..16 {
        channel.say(&[0; MAX_FRAME]).await?;
    }
    Ok(())
}

#[tokio::test]
async fn who_is_given_time_may_leave_unread_for_so_long_what_it_is_told() {
    let dir = tempfile::tempdir().unwrap();
    let provider = node(&dir.path().join("provider")).await;
    let waits = Arc::new(Semaphore::new(0));
    provider.answer_with(Arc::new(ReadsLate {
        waits: Arc::clone(&waits),
    }));
    let requester = node(&dir.path().join("requester")).await;
    let mut patient = requester.converse(&provider.addr()).await.unwrap();
    patient.give_time(Duration::from_secs(600));
    let patient = tokio::spawn(async move {
        let said = say_much(&mut patient).await;
        (said, patient)
    });
    let mut hurried = requester.converse(&provider.addr()).await.unwrap();
    let after = Duration::from_millis(100);
    hurried.give_time(after);
    let said = say_much(&mut hurried).await;
    assert_eq!(said, Err(ChannelError::Unread { after }));
    // The time is that of one conversation.
    assert!(!patient.is_finished(), "nobody has read what it says");
    waits.close();
    let (said, channel) = tokio::time::timeout(PATIENCE, patient)
        .await
        .unwrap()
        .unwrap();
    assert_eq!(said, Ok(()));
    drop((channel, hurried));
    provider.shutdown().await;
    requester.shutdown().await;
}

async fn echoes(channel: &mut Channel) -> bool {
    channel.say(b"hello").await.is_ok()
        && channel
            .hear(16, PATIENCE)
            .await
            .is_ok_and(|frame| frame == b"hello")
}

#[tokio::test]
async fn one_peer_cannot_take_the_places_of_all() {
    let dir = tempfile::tempdir().unwrap();
    let provider = node(&dir.path().join("provider")).await;
    provider.answer_with(Arc::new(Echo));
    let greedy = node(&dir.path().join("greedy")).await;
    let other = node(&dir.path().join("other")).await;
    let mut held = Vec::new();
    for _ in 0..64 {
        let mut channel = greedy.converse(&provider.addr()).await.unwrap();
        assert!(echoes(&mut channel).await);
        held.push(channel);
    }
    let more = greedy.converse(&provider.addr()).await;
    let answered = match more {
        Ok(mut channel) => echoes(&mut channel).await,
        Err(_) => false,
    };
    assert!(!answered, "it has all that it may have");
    let mut channel = other.converse(&provider.addr()).await.unwrap();
    assert!(echoes(&mut channel).await, "others are answered");
    // What it gives back it may have again, once the other side has noticed.
    drop(held.pop());
    let again = async {
        loop {
            if let Ok(mut channel) = greedy.converse(&provider.addr()).await
                && echoes(&mut channel).await
            {
                return;
            }
        }
    };
    tokio::time::timeout(PATIENCE, again).await.unwrap();
    for node in [provider, greedy, other] {
        node.shutdown().await;
    }
}
