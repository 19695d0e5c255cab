//! What can go wrong, one type for each operation.
//!
//! Every message says what happened and why; where there is something to do about it, it says
//! that too. Errors of the libraries below are carried as text, so that no other crate depends on
//! those libraries' types.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use skep_registry::{Digest, PackageName, PublisherId};

use crate::fault::{FaultOf, list};
use crate::ids::NodeId;

/// Why a node could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// A folder or file of the node cannot be made, read or written.
    #[error("cannot use {}: {source}; check that the path is writable and the disk not full", .path.display())]
    Folder {
        /// The path.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// Another process has the folder open.
    #[error("the folder {} is in use by {}; stop that process, or choose another folder", .dir.display(), describe_pid(*.pid))]
    Locked {
        /// The folder.
        dir: PathBuf,
        /// The process that has it, if it said.
        pid: Option<u32>,
    },
    /// The key file does not hold a key.
    #[error("{} does not hold a node key (64 hexadecimal digits); restore it, or remove it to give this node a new name", .path.display())]
    Key {
        /// The key file.
        path: PathBuf,
    },
    /// A file that remembers releases is damaged.
    #[error("{} is damaged ({reason}); restore it from a backup; removing it forgets which releases of the package were seen, so a rolled-back one would no longer be noticed", .path.display())]
    Memory {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The blob store does not open.
    #[error("the blob store in {} does not open: {reason}", .dir.display())]
    Store {
        /// The store's folder.
        dir: PathBuf,
        /// The store's reason.
        reason: String,
    },
    /// The address cannot be listened on.
    #[error("cannot listen on {addr}: {reason}; choose another address, or port 0 for a free one")]
    Bind {
        /// The address.
        addr: SocketAddr,
        /// The reason.
        reason: String,
    },
    /// Local discovery does not start.
    #[error(
        "local discovery (mDNS) does not start: {reason}; open the node without it, and use tickets"
    )]
    Mdns {
        /// The reason.
        reason: String,
    },
    /// The DHT cannot be joined.
    #[error(
        "the mainline DHT cannot be joined: {reason}; check its bootstrap nodes, or open the node \
         without it"
    )]
    Dht {
        /// The reason.
        reason: String,
    },
}

fn describe_pid(pid: Option<u32>) -> String {
    match pid {
        Some(pid) => format!("process {pid}"),
        None => "another process".to_owned(),
    }
}

/// Why something could not be imported.
#[derive(Debug, thiserror::Error)]
pub enum ImportError {
    /// The path names no regular file.
    #[error("{} is not a file", .path.display())]
    NotAFile {
        /// The path.
        path: PathBuf,
    },
    /// The file cannot be read.
    #[error("cannot read {}: {source}", .path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// The blob store failed.
    #[error("the blob store could not take the content: {reason}; check that the disk is not full")]
    Store {
        /// The store's reason.
        reason: String,
    },
    /// The same content is here already, and what is here is damaged.
    #[error(transparent)]
    Blob(#[from] BlobError),
}

/// Why a blob could not be read.
#[derive(Debug, thiserror::Error)]
pub enum BlobError {
    /// It is not here.
    #[error("blob {digest} is not here; fetch it first")]
    NotHere {
        /// The blob.
        digest: Digest,
    },
    /// Only a part of it is here.
    #[error(
        "blob {digest} is only partly here; fetch it again, which goes on where the last transfer ended"
    )]
    Partial {
        /// The blob.
        digest: Digest,
    },
    /// The range is not within the blob.
    #[error("bytes {offset} to {end} were asked of blob {digest}, which has {size}")]
    Range {
        /// The blob.
        digest: Digest,
        /// The first byte asked for.
        offset: u64,
        /// The byte after the last one asked for.
        end: u64,
        /// The size of the blob.
        size: u64,
    },
    /// What the disk holds is not what was stored.
    #[error(
        "blob {digest} is damaged on disk (first noticed at byte {offset}); fetch it again, which replaces the damaged parts; if this repeats, suspect the disk"
    )]
    Corrupt {
        /// The blob.
        digest: Digest,
        /// The first damaged byte that was noticed, in groups of 16 KiB.
        offset: u64,
    },
    /// The blob store failed.
    #[error("the blob store could not read blob {digest}: {reason}")]
    Store {
        /// The blob.
        digest: Digest,
        /// The store's reason.
        reason: String,
    },
}

/// Why a blob could not be written out to a file.
#[derive(Debug, thiserror::Error)]
pub enum ExportError {
    /// The blob cannot be read.
    #[error(transparent)]
    Blob(#[from] BlobError),
    /// Something is at the path already.
    #[error("{} exists already; choose another path, or remove it", .path.display())]
    Exists {
        /// The path.
        path: PathBuf,
    },
    /// The file cannot be written.
    #[error("cannot write {}: {source}", .path.display())]
    Write {
        /// The path.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
}

/// Why a release could not be published from this node.
#[derive(Debug, thiserror::Error)]
pub enum PublishError {
    /// The release names a blob that is not wholly here.
    #[error("the release names {path} as {digest}, which is not here; import the file first")]
    Missing {
        /// The file's path in the package.
        path: String,
        /// Its digest.
        digest: Digest,
    },
    /// The release names a size that the blob does not have.
    #[error("the release says that {path} has {signed} bytes, and blob {digest} has {actual}")]
    Size {
        /// The file's path in the package.
        path: String,
        /// Its digest.
        digest: Digest,
        /// The size in the release, in bytes.
        signed: u64,
        /// The blob's size, in bytes.
        actual: u64,
    },
    /// The release does not go on from what this node knows of the package.
    #[error("release refused: {0}")]
    Chain(#[from] skep_registry::HistoryError),
    /// It could not be written down.
    #[error("the release could not be written down: {0}")]
    Disk(#[from] io::Error),
    /// The blob store failed.
    #[error("the blob store failed: {reason}")]
    Store {
        /// The store's reason.
        reason: String,
    },
}

/// Why a package could not be resolved to a release.
#[derive(Debug, thiserror::Error)]
pub enum ResolveError {
    /// No provider is known.
    #[error(
        "no node is known that might have {name}; give a ticket, or check that both nodes are on the same network"
    )]
    NoProviders {
        /// The package, or the release.
        name: String,
    },
    /// None of the providers has it.
    #[error("none of the nodes asked has {name}: {}", list(.faults))]
    NotFound {
        /// The package, or the release.
        name: String,
        /// What each of them said or did.
        faults: Vec<FaultOf>,
    },
    /// Every provider that has it shows a false history.
    #[error("every history of {name} that was shown is false: {}", list(.faults))]
    False {
        /// The package.
        name: String,
        /// What each of them did.
        faults: Vec<FaultOf>,
    },
    /// What is offered is older than what this node has seen, or splits from it.
    #[error("{name} is refused: {source}; shown by {}", .shown_by.fmt_short())]
    Refused {
        /// The package.
        name: String,
        /// Rolled back, or forked: the registry's finding.
        source: skep_registry::HistoryError,
        /// Who showed it.
        shown_by: NodeId,
    },
    /// Two providers show histories that contradict each other, both signed by the publisher.
    #[error("the publisher of {name} has signed two histories that contradict each other, shown by {} and {}: {reason}; ask the publisher", .first.fmt_short(), .second.fmt_short())]
    Fork {
        /// The package.
        name: String,
        /// Who showed the one.
        first: NodeId,
        /// Who showed the other.
        second: NodeId,
        /// Where they part.
        reason: String,
    },
    /// No publisher was named, and several offer a package of that name.
    #[error("several publishers offer a package {name}; say which one is meant, as publisher/{name}: {}", join(.publishers))]
    Ambiguous {
        /// The package.
        name: String,
        /// Their ids.
        publishers: Vec<String>,
    },
    /// No release satisfies the requirement.
    #[error("{name} has no release that satisfies {wanted}; there are {}", join(.versions))]
    NoVersion {
        /// The package.
        name: String,
        /// The requirement.
        wanted: String,
        /// The versions there are, oldest first.
        versions: Vec<String>,
    },
    /// The remembered head could not be written down.
    #[error("what was seen of {name} could not be written down: {source}")]
    Disk {
        /// The package.
        name: String,
        /// The system's reason.
        source: io::Error,
    },
}

fn join(versions: &[String]) -> String {
    if versions.is_empty() {
        "none at all".to_owned()
    } else {
        versions.join(", ")
    }
}

/// Why a blob was not found.
#[derive(Debug, thiserror::Error)]
#[error("no node that was asked has blob {digest}: {}", list(.faults))]
pub struct FindError {
    /// The blob.
    pub digest: Digest,
    /// What each of them said or did.
    pub faults: Vec<FaultOf>,
}

/// Why a release could not be fetched.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    /// Nobody to fetch from.
    #[error(
        "{missing} bytes are missing here, and no provider is given; give a ticket, or check that both nodes are on the same network"
    )]
    NoProviders {
        /// The bytes that are not here.
        missing: u64,
    },
    /// Every provider failed.
    #[error("{missing} bytes are still missing and every provider failed: {}; what arrived is kept, and the next fetch goes on from it", list(.faults))]
    Exhausted {
        /// The bytes that are not here.
        missing: u64,
        /// What each provider did.
        faults: Vec<FaultOf>,
    },
    /// Hardly anything arrived.
    #[error("{missing} bytes are still missing, and in {} s less than 1 MiB has arrived; what arrived is kept, and the next fetch goes on from it", after.as_secs())]
    Crawls {
        /// The bytes that are not here.
        missing: u64,
        /// In how long hardly anything arrived.
        after: Duration,
    },
    /// The release is larger than this node accepts.
    #[error(
        "the release has {size} bytes, and this node accepts {limit}; raise the limit if you trust the publisher"
    )]
    TooLarge {
        /// The release's size, in bytes.
        size: u64,
        /// The limit, in bytes.
        limit: u64,
    },
    /// A blob that is here has another size than the one signed.
    #[error(
        "the release says that {path} has {signed} bytes, and blob {digest}, which is here and verified, has {actual}: the release is wrong"
    )]
    Size {
        /// The file's path in the package.
        path: String,
        /// Its digest.
        digest: Digest,
        /// The signed size, in bytes.
        signed: u64,
        /// The blob's size, in bytes.
        actual: u64,
    },
    /// The blob store failed.
    #[error("the blob store failed: {reason}; check that the disk is not full")]
    Store {
        /// The store's reason.
        reason: String,
    },
    /// A damaged blob could not be mended.
    #[error(transparent)]
    Blob(#[from] BlobError),
}

/// Why a release could not be installed.
#[derive(Debug, thiserror::Error)]
pub enum InstallError {
    /// It could not be fetched.
    #[error(transparent)]
    Fetch(#[from] FetchError),
    /// A blob could not be read or written out.
    #[error(transparent)]
    Export(#[from] ExportError),
    /// The package could not be put in place.
    #[error("cannot install into {}: {source}", .path.display())]
    Disk {
        /// The path.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// The release could not be written down.
    #[error(transparent)]
    Publish(#[from] PublishError),
}

/// Why something could not be brought here for the work of others.
#[derive(Debug, thiserror::Error)]
pub enum BringError {
    /// It takes more of the disk than all of these together may.
    #[error(
        "it takes {bytes} bytes of the disk, and what the work of others brings may take {room}"
    )]
    TooLarge {
        /// How many bytes it takes.
        bytes: u64,
        /// How many there are for all.
        room: u64,
    },
    /// What would have to go is in use, or the disk is not rid of it yet.
    #[error("what the work of others has brought leaves no room for it now")]
    NoRoom,
    /// It could not be noted.
    #[error("cannot use {}: {source}", .path.display())]
    Disk {
        /// The path.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// It could not be installed.
    #[error(transparent)]
    Install(#[from] InstallError),
    /// What has to go could not be removed.
    #[error(transparent)]
    Package(#[from] PackageError),
    /// It could not be fetched.
    #[error(transparent)]
    Fetch(#[from] FetchError),
    /// It could not be read.
    #[error(transparent)]
    Blob(#[from] BlobError),
}

/// Why the installed packages could not be read or changed.
#[derive(Debug, thiserror::Error)]
pub enum PackageError {
    /// It is not installed.
    #[error("release {digest} is not installed; install it first")]
    NotInstalled {
        /// The release.
        digest: Digest,
    },
    /// A folder or file cannot be read or changed.
    #[error("cannot use {}: {source}", .path.display())]
    Disk {
        /// The path.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// The installed folder does not hold the release that its name says.
    #[error("{} does not hold the release that its name says ({reason}); remove it and install again", .path.display())]
    Damaged {
        /// The folder.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// The blob store failed.
    #[error("the blob store failed: {reason}")]
    Store {
        /// The store's reason.
        reason: String,
    },
}

/// A package's name for messages.
pub(crate) fn package(publisher: &PublisherId, name: &PackageName) -> String {
    format!("{}/{name}", publisher.fmt_short())
}
