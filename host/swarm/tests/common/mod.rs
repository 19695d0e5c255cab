//! What the tests share: nodes on the loopback interface, packages, and content.

#![allow(dead_code, reason = "each test file uses some of it")]

pub mod able;
pub mod hostile;
#[path = "../../src/testing.rs"]
mod testing;

use std::path::Path;
use std::time::Duration;

use n0_future::boxed::BoxStream;
use n0_future::{StreamExt, stream};
use skep_registry::{Digest, PublisherKey, SignedRelease};
use skep_swarm::{Discovery, FileRef, Limits, ProviderAddr, Swarm, SwarmConfig, Want};
use tempfile::TempDir;
pub(crate) use testing::draft;

/// Content that is the same for the same seed, and does not compress.
pub fn content(seed: u64, len: usize) -> Vec<u8> {
    let mut out = vec![0; len];
    blake3::Hasher::new_derive_key("skep swarm test content")
        .update(&seed.to_le_bytes())
        .finalize_xof()
        .fill(&mut out);
    out
}

/// Patience that is short where a test waits for it, and long where a slow machine might.
pub fn limits() -> Limits {
    Limits {
        connect: Duration::from_secs(5),
        request: Duration::from_secs(10),
        stall: Duration::from_secs(10),
        discovery: Duration::from_millis(200),
        // No piece is fetched twice because a machine is slow.
        hedge: Duration::from_secs(60),
        ..Limits::default()
    }
}

pub async fn node(dir: &Path) -> Swarm {
    node_with(dir, limits()).await
}

pub async fn node_with(dir: &Path, limits: Limits) -> Swarm {
    open(dir, limits, false).await
}

/// A node that tells others what is here, and remembers what they tell.
pub async fn gossiping(dir: &Path, limits: Limits) -> Swarm {
    open(dir, limits, true).await
}

async fn open(dir: &Path, limits: Limits, gossip: bool) -> Swarm {
    let config = SwarmConfig {
        gossip,
        limits,
        ..SwarmConfig::loopback(dir)
    };
    Swarm::open(config).await.unwrap()
}

/// A node that has things, one that has nothing yet, and a publisher.
pub struct Two {
    dir: TempDir,
    pub key: PublisherKey,
    pub a: Swarm,
    pub b: Swarm,
}

impl Two {
    pub async fn start() -> Self {
        Self::with(limits()).await
    }

    /// With these limits for the second.
    pub async fn with(limits: Limits) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let a = node(&dir.path().join("a")).await;
        let b = node_with(&dir.path().join("b"), limits).await;
        let key = PublisherKey::generate().unwrap();
        Self { dir, key, a, b }
    }

    /// Whom the second fetches from.
    pub fn sources(&self) -> [ProviderAddr; 1] {
        [self.a.addr()]
    }

    /// The second starts anew, with the usual limits.
    pub async fn restarted(self) -> Self {
        let Self { dir, key, a, b } = self;
        b.shutdown().await;
        // Its folder is another's only then.
        drop(b);
        let b = node(&dir.path().join("b")).await;
        Self { dir, key, a, b }
    }

    pub async fn stop(self) {
        self.a.shutdown().await;
        self.b.shutdown().await;
    }
}

/// Suggests these nodes at once and then says nothing for ever, as mDNS does.
#[derive(Debug)]
pub struct Endless(pub Vec<ProviderAddr>);

impl Discovery for Endless {
    fn name(&self) -> &'static str {
        "endless"
    }

    fn providers(&self, _want: &Want) -> BoxStream<ProviderAddr> {
        stream::iter(self.0.clone())
            .chain(stream::pending())
            .boxed()
    }
}

/// Puts a blob on a node and serves it.
pub async fn offer(node: &Swarm, blob: &[u8]) -> Digest {
    let (digest, _) = node.import_bytes(blob.to_vec()).await.unwrap();
    node.share(&digest).await.unwrap();
    digest
}

/// Imports the files into `node` and publishes them from it as the next release.
pub async fn publish(
    node: &Swarm,
    key: &PublisherKey,
    name: &str,
    version: &str,
    files: &[(&str, &[u8])],
) -> SignedRelease {
    for (_, content) in files {
        node.import_bytes(content.to_vec()).await.unwrap();
    }
    let history = node.history(&key.id(), &name.parse().unwrap());
    let release = draft(name, version, files)
        .sign(key, history.as_ref().map(|h| h.head()))
        .unwrap();
    node.publish_release(&release).await.unwrap();
    release
}

pub fn file_ref(content: &[u8]) -> FileRef {
    FileRef {
        path: "file".to_owned(),
        digest: Digest::of(content),
        size: content.len() as u64,
    }
}

/// The names in the folder of packages: what anybody who looks there sees.
pub fn visible(node: &Swarm) -> Vec<String> {
    let mut names: Vec<_> = std::fs::read_dir(node.dir().join("packages"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned())
        .collect();
    names.sort();
    names
}

/// The store's data file of a blob.
pub fn data_file(node: &Swarm, digest: &Digest) -> std::path::PathBuf {
    node.dir().join(format!("blobs/data/{digest}.data"))
}

/// Flips one bit of a file.
pub fn flip(path: &Path, at: u64) {
    use std::io::{Read, Seek, SeekFrom, Write};
    let mut file = std::fs::OpenOptions::new()
        .read(true)
        .write(true)
        .open(path)
        .unwrap();
    let mut byte = [0];
    file.seek(SeekFrom::Start(at)).unwrap();
    file.read_exact(&mut byte).unwrap();
    file.seek(SeekFrom::Start(at)).unwrap();
    file.write_all(&[byte[0] ^ 4]).unwrap();
}
