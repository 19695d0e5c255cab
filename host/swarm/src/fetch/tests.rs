//! What is known of a fetch before anybody is connected to, and of its pace while it goes on.

#![allow(clippy::unwrap_used)]

use std::fs::File;
use std::io::{Seek as _, SeekFrom, Write as _};
use std::slice::from_ref;

use bao_tree::{ChunkNum, ChunkRanges};

use super::*;
use crate::config::SwarmConfig;
use crate::error::BlobError;
use crate::node::Swarm;

#[tokio::test]
async fn what_is_damaged_is_found_before_anybody_is_connected_to() {
    let folder = tempfile::tempdir().unwrap();
    let open = |name: &str| Swarm::open(SwarmConfig::loopback(folder.path().join(name)));
    let (a, b) = (open("a").await.unwrap(), open("b").await.unwrap());
    let (digest, size) = a.import_bytes(vec![7_u8; 100_000]).await.unwrap();
    a.share(&digest).await.unwrap();
    let path = "file".to_owned();
    let file = FileRef { path, digest, size };
    let fetched = b.fetch_files(from_ref(&file), &[a.addr()], None).await;
    assert_eq!(fetched.unwrap().bytes_fetched, size);
    let (data, _) = b.inner.blobs.files(&digest);
    let mut data = File::options().write(true).open(data).unwrap();
    data.seek(SeekFrom::Start(40_000)).unwrap();
    data.write_all(&[8]).unwrap();
    drop(data);
    let found = b.verify(&digest).await;
    assert!(matches!(found, Err(BlobError::Corrupt { .. })));

    // What a fetch knows of a file when it has looked at the disk alone: which of the blob's chunks to ask for.
    let mut state = State::default();
    let planned = b.fetcher().plan(&file, SMALLEST_PIECE, &mut state).await;
    planned.unwrap();
    let damaged = state.damaged.iter();
    let damaged: Vec<_> = damaged
        .map(|piece| (piece.digest, piece.ranges.clone()))
        .collect();
    let third = ChunkRanges::from(ChunkNum(32)..ChunkNum(48));
    assert_eq!(damaged, [(digest, third)]);
    assert!(state.queue.is_empty());
    a.shutdown().await;
    b.shutdown().await;
}

#[tokio::test]
async fn the_pace_of_a_fetch_is_what_arrives_while_somebody_is_waited_for() {
    const HALF: u64 = SMALLEST_PIECE;
    let folder = tempfile::tempdir().unwrap();
    let node = Swarm::open(SwarmConfig::loopback(folder.path()));
    let node = node.await.unwrap();
    let file = FileRef {
        path: "file".to_owned(),
        digest: Digest::of(b"what nobody has"),
        size: 2 * HALF,
    };
    let (fetcher, mut state) = (node.fetcher(), State::default());
    fetcher.plan(&file, 2 * HALF, &mut state).await.unwrap();
    let job = Arc::new(Job {
        fetcher,
        total: file.size,
        names: HashMap::new(),
        progress: None,
        state: Mutex::new(state),
        changed: Notify::new(),
    });
    assert_eq!(job.pace(), (0, None), "nobody has been asked");
    let task = Task::take(&job, node.id());
    assert!(task.is_some());
    assert_eq!(job.pace(), (0, Some(2 * HALF)));
    job.arrived(&file.digest, node.id(), HALF);
    assert_eq!(job.pace(), (HALF, Some(HALF)));
    // Its provider has failed, and the rest waits for another.
    drop(task);
    assert_eq!(job.pace(), (HALF, None));
    node.shutdown().await;
}
