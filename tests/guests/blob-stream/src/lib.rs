//! A guest of the world `async-task`, for the tests of streams. Its arguments are what to do and
//! the digest of a blob:
//!
//! - `hash`: streams the blob, and prints its length and BLAKE3;
//! - `two`: the same through two streams at once, each of one half, read in turns;
//! - `leave`: reads a little, drops the stream, and prints what the future says;
//! - `unread`: opens a stream, never reads it, and waits for its end;
//! - `hoard`: opens streams and keeps them until it is told no.

wit_bindgen::generate!({
    path: "../../../wit",
    world: "skep:workload/async-task",
    generate_all,
});

use skep::swarm::blob_streams::read_via_stream;
use skep::swarm::blobs::Blob;
use skep::workload::io::write;
use wit_bindgen::{StreamReader, StreamResult};

struct Component;

export!(Component);

impl Guest for Component {
    async fn run(arguments: Vec<String>) -> Result<(), Error> {
        let [what, digest] = arguments.as_slice() else {
            return Err(Error::Invalid("give two arguments".to_owned()));
        };
        let blob = Blob::open(digest)?;
        match what.as_str() {
            "hash" => hash(blob).await,
            "two" => two(&blob).await,
            "leave" => leave(&blob).await,
            "unread" => {
                let (_unread, ended) = read_via_stream(&blob, 0)?;
                ended.await
            }
            "hoard" => {
                let mut hoard = Vec::new();
                loop {
                    hoard.push(read_via_stream(&blob, 0)?);
                }
            }
            _ => Err(Error::Invalid(format!("cannot do {what}"))),
        }
    }
}

/// The next bytes; none at the end.
async fn next(stream: &mut StreamReader<u8>, most: usize) -> Vec<u8> {
    loop {
        let (result, bytes) = stream.read(Vec::with_capacity(most)).await;
        if !bytes.is_empty() || !matches!(result, StreamResult::Complete(_)) {
            return bytes;
        }
    }
}

async fn hash(blob: Blob) -> Result<(), Error> {
    let (mut stream, ended) = read_via_stream(&blob, 0)?;
    // The stream goes on without the handle.
    drop(blob);
    let (mut hasher, mut length) = (blake3::Hasher::new(), 0);
    loop {
        let bytes = next(&mut stream, 100_000).await;
        if bytes.is_empty() {
            break;
        }
        length += bytes.len();
        hasher.update(&bytes);
    }
    ended.await?;
    write(format!("{length} {}", hasher.finalize()).as_bytes())
}

async fn two(blob: &Blob) -> Result<(), Error> {
    let middle = blob.size() / 2;
    let (mut low, _) = read_via_stream(blob, 0)?;
    let (mut high, ended) = read_via_stream(blob, middle)?;
    let (mut first, mut second) = (Vec::new(), Vec::new());
    let half = middle as usize;
    loop {
        let want = (half - first.len()).min(70_000);
        if want > 0 {
            first.extend(next(&mut low, want).await);
        }
        let bytes = next(&mut high, 50_000).await;
        if bytes.is_empty() && first.len() == half {
            break;
        }
        second.extend(bytes);
    }
    ended.await?;
    let mut hasher = blake3::Hasher::new();
    hasher.update(&first).update(&second);
    let length = first.len() + second.len();
    write(format!("{length} {}", hasher.finalize()).as_bytes())
}

async fn leave(blob: &Blob) -> Result<(), Error> {
    let (mut stream, ended) = read_via_stream(blob, 3)?;
    let bytes = next(&mut stream, 10).await;
    drop(stream);
    let told = match ended.await {
        Ok(()) => "fine".to_owned(),
        Err(error) => format!("{error:?}"),
    };
    write(format!("{} {told}", bytes.len()).as_bytes())
}
