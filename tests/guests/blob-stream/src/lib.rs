//! A guest of the world `async-task`, for the tests of streams. Its arguments are what to do and
//! the digest of a blob:
//!
//! - `hash`: streams the blob, and prints its length and BLAKE3;
//! - `two`: the same through two streams at once, each of one half, read in turns;
//! - `leave`: a thousand times, reads a little and drops the stream;
//! - `unread`: opens a stream, never reads it, and waits for its end;
//! - `hoard`: opens streams and keeps them until it is told no.

use skep_sdk::bindings::async_task::skep::swarm::blob_streams::read_via_stream;
use skep_sdk::bindings::imports::skep::swarm::blobs::Blob as RawBlob;
use skep_sdk::{Blob, Error, Result, output};
use std::io::Write;

async fn stream(arguments: Vec<String>) -> Result<()> {
    let [what, digest] = arguments.as_slice() else {
        return Err(Error::invalid("give two arguments"));
    };
    match what.as_str() {
        "hash" => hash(digest).await,
        "two" => two(digest).await,
        "leave" => leave(digest).await,
        "unread" => {
            let (_unread, ended) = read_via_stream(&RawBlob::open(digest)?, 0)?;
            Ok(ended.await?)
        }
        "hoard" => {
            let blob = Blob::open(digest)?;
            let mut hoard = Vec::new();
            loop {
                hoard.push(blob.stream(0)?);
            }
        }
        _ => Err(Error::invalid("cannot do that")),
    }
}

skep_sdk::export_async_task!(stream);

async fn hash(digest: &str) -> Result<()> {
    // The stream goes on without the handle of the blob.
    let mut stream = Blob::open(digest)?.stream(0)?;
    let (mut hasher, mut length) = (blake3::Hasher::new(), 0);
    while let Some(bytes) = stream.next(100_000).await? {
        length += bytes.len();
        hasher.update(&bytes);
    }
    print(&format!("{length} {}", hasher.finalize()))
}

async fn two(digest: &str) -> Result<()> {
    let blob = Blob::open(digest)?;
    let half = blob.size() / 2;
    let (mut low, mut high) = (blob.stream(0)?, blob.stream(half)?);
    let (mut first, mut second) = (Vec::new(), Vec::new());
    loop {
        let missing = half as usize - first.len();
        if missing > 0 {
            first.extend(low.next(missing.min(70_000)).await?.unwrap_or_default());
        }
        match high.next(50_000).await? {
            Some(bytes) => second.extend(bytes),
            None if first.len() == half as usize => break,
            None => {}
        }
    }
    let mut hasher = blake3::Hasher::new();
    hasher.update(&first).update(&second);
    let length = first.len() + second.len();
    print(&format!("{length} {}", hasher.finalize()))
}

async fn leave(digest: &str) -> Result<()> {
    let blob = Blob::open(digest)?;
    let mut length = 0;
    for offset in 0..1000 {
        let bytes = blob.stream(offset)?.next(10).await?;
        length += bytes.map_or(0, |bytes| bytes.len());
    }
    print(&length.to_string())
}

fn print(text: &str) -> Result<()> {
    let mut output = output();
    output.write_all(text.as_bytes())?;
    output.finish()
}
