//! The node: its endpoint, its store, and what it serves.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use iroh::Endpoint;
use iroh::protocol::Router;
use iroh_blobs::BlobsProtocol;
use iroh_blobs::api::TempTag;
use n0_future::task::AbortOnDropHandle;
use n0_future::{StreamExt, stream};
use skep_registry::Digest;

use crate::announcement::{Announcement, Capability, Need};
use crate::blobs::{Blobs, Presence};
use crate::brought::Brought;
use crate::busy::Busy;
use crate::channel::{self, Conversations, Lines};
use crate::config::{Limits, SwarmConfig};
use crate::dht::DhtDiscovery;
use crate::discovery::{Chance, Discovery, Want, collect};
use crate::disk::{DirLock, Layout, load_or_create_key};
use crate::error::{BlobError, ExportError, FetchError, ImportError, OpenError};
use crate::fault::explain;
use crate::fetch::Fetcher;
use crate::gate::Gate;
use crate::gossip::{self, Gossip, Services};
use crate::idle::Serving;
use crate::ids::{NodeId, ProviderAddr, to_hash};
use crate::listen::listen;
use crate::mdns::MdnsDiscovery;
use crate::own::Own;
use crate::releases::Releases;
use crate::report::{FetchReport, FileRef, ProgressFn};
use crate::serve::Answers;
use crate::ticket::NodeTicket;
use crate::wire;

/// How long closing a node may take. All of it is local, but for what peers are told in passing.
const CLOSING: Duration = Duration::from_secs(20);

/// The most nodes that one search yields.
pub(crate) const MAX_FOUND: usize = 64;

/// A node of the swarm: a store of blobs and packages that fetches from other nodes and serves
/// them. Cheap to clone; all clones are the same node.
#[derive(Clone, Debug)]
pub struct Swarm {
    pub(crate) inner: Arc<Inner>,
}

#[derive(Debug)]
pub(crate) struct Inner {
    pub(crate) layout: Layout,
    pub(crate) limits: Arc<Limits>,
    pub(crate) endpoint: Endpoint,
    pub(crate) blobs: Blobs,
    pub(crate) gate: Gate,
    pub(crate) releases: Arc<Releases>,
    pub(crate) brought: Brought,
    pub(crate) conversations: Conversations,
    pub(crate) trainings: Conversations,
    pub(crate) lines: Lines,
    busy: Arc<Busy>,
    router: Router,
    own: Arc<Own>,
    services: Services,
    pub(crate) gossip: Option<Gossip>,
    rounds: Mutex<Option<AbortOnDropHandle<()>>>,
    /// One installation or removal at a time.
    pub(crate) installing: tokio::sync::Mutex<()>,
    /// Given back last.
    _lock: DirLock,
}

impl Swarm {
    /// Opens the node in `config.dir`, making it on the first start.
    ///
    /// # Errors
    ///
    /// When another process has the folder, the disk fails or holds damaged state, or the address
    /// cannot be listened on.
    pub async fn open(config: SwarmConfig) -> Result<Self, OpenError> {
        let layout = Layout::create(&config.dir)?;
        let lock = DirLock::take(&layout)?;
        let key = load_or_create_key(&layout)?;
        let releases = Arc::new(Releases::open(&layout)?);
        let brought = Brought::open(&layout, config.limits.sweep)?;
        let blobs = Blobs::open(&layout, config.limits.sweep).await?;
        let (endpoint, bound) = listen(&layout, &key, config.bind).await?;
        let mut services: Vec<Arc<dyn Discovery>> = Vec::new();
        if config.mdns {
            let mdns = MdnsDiscovery::start(&endpoint)
                .await
                .map_err(|reason| OpenError::Mdns { reason })?;
            services.push(Arc::new(mdns));
        }
        let gate = Gate::default();
        let own = Arc::new(Own::new(
            key,
            endpoint.clone(),
            bound,
            gate.clone(),
            releases.clone(),
        ));
        if let Some(dht) = &config.dht {
            let dht = DhtDiscovery::start(own.clone(), &dht.bootstrap)
                .await
                .map_err(|reason| OpenError::Dht { reason })?;
            services.push(Arc::new(dht));
        }
        let services: Services = Arc::new(Mutex::new(services));
        let events = gate.guard();
        let limits = Arc::new(config.limits);
        let (conversations, trainings) = (Conversations::default(), Conversations::default());
        let gossip = config.gossip.then(|| {
            let (endpoint, limits) = (endpoint.clone(), limits.clone());
            Gossip::new(endpoint, limits, own.clone(), &services)
        });
        let protocol = BlobsProtocol::new(&blobs.store, Some(events));
        let mut router = Router::builder(endpoint.clone())
            .accept(iroh_blobs::ALPN, Serving::new(protocol, &limits))
            .accept(wire::ALPN, Answers::new(releases.clone(), &limits))
            .accept(channel::ALPN, conversations.clone())
            .accept(channel::TRAINING_ALPN, trainings.clone());
        if let Some(gossip) = &gossip {
            router = router.accept(gossip::ALPN, gossip.clone());
            let mut services = services.lock().unwrap_or_else(PoisonError::into_inner);
            services.push(Arc::new(gossip.clone()));
        }
        let router = router.spawn();
        let swarm = Self {
            inner: Arc::new(Inner {
                layout,
                limits,
                endpoint,
                blobs,
                gate,
                releases,
                brought,
                conversations,
                trainings,
                lines: Lines::default(),
                busy: Arc::default(),
                router,
                own,
                services,
                gossip,
                rounds: Mutex::default(),
                installing: tokio::sync::Mutex::default(),
                _lock: lock,
            }),
        };
        swarm.restore_packages().await?;
        Ok(swarm)
    }

    /// Stops serving, closes every connection and writes everything down. Whatever else is called
    /// afterwards fails.
    pub async fn shutdown(&self) {
        let rounds = self.inner.rounds.lock();
        drop(rounds.unwrap_or_else(PoisonError::into_inner).take());
        let services = self.inner.services.lock();
        services.unwrap_or_else(PoisonError::into_inner).clear();
        self.inner.lines.clear();
        let closing = async {
            // This closes the store with the blob protocol, and the endpoint. To close the store
            // once more is not only in vain: a call that meets it while it ends can be left
            // without an answer for ever.
            if let Err(e) = self.inner.router.shutdown().await {
                tracing::warn!("the router did not stop cleanly: {e}");
                let _ = self.inner.blobs.store.shutdown().await;
                self.inner.endpoint.close().await;
            }
        };
        if tokio::time::timeout(CLOSING, closing).await.is_err() {
            tracing::warn!("the node was left without being closed in {CLOSING:?}");
        }
    }

    /// Makes everything that has happened so far survive the end of the process.
    ///
    /// # Errors
    ///
    /// When the store fails.
    pub async fn flush(&self) -> Result<(), ImportError> {
        self.inner
            .blobs
            .store
            .sync_db()
            .await
            .map_err(|e| ImportError::Store {
                reason: explain(&e),
            })
    }

    /// The folder of the node.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.inner.layout.root
    }

    /// The node's name.
    #[must_use]
    pub fn id(&self) -> NodeId {
        self.inner.endpoint.id().into()
    }

    /// How other nodes reach this one.
    #[must_use]
    pub fn addr(&self) -> ProviderAddr {
        self.inner.own.addr()
    }

    /// The ticket of this node.
    #[must_use]
    pub fn ticket(&self) -> NodeTicket {
        NodeTicket { node: self.addr() }
    }

    /// Adds a way to find nodes to those that [`find`](Self::find) asks.
    pub fn add_discovery(&self, service: Arc<dyn Discovery>) {
        let mut services = self
            .inner
            .services
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        services.push(service);
    }

    pub(crate) fn services(&self) -> Vec<Arc<dyn Discovery>> {
        let services = self.inner.services.lock();
        services.unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Tells others from now on what this node has, and asks them, until the node closes. Without
    /// gossip in the configuration this does nothing.
    pub fn gossip(&self) {
        if let Some(gossip) = &self.inner.gossip {
            let rounds = self.inner.rounds.lock();
            let mut rounds = rounds.unwrap_or_else(PoisonError::into_inner);
            rounds.get_or_insert_with(|| gossip.rounds());
        }
    }

    /// Announces the work that this node takes, or that it takes none. The packages, models and
    /// adapters that it offers are announced as ready for it.
    pub fn announce(&self, work: Option<Capability>) {
        self.inner.own.take_work(work);
    }

    /// What other nodes say of themselves, as far as gossip has brought it here. None of it is
    /// verified but who says it.
    #[must_use]
    pub fn acquaintances(&self) -> Vec<Announcement> {
        let gossip = self.inner.gossip.as_ref();
        gossip.map(Gossip::known).unwrap_or_default()
    }

    /// Forgets that a node was said to be at these addresses: it did not answer at any.
    pub(crate) fn is_gone(&self, tried: &ProviderAddr) {
        if let Some(gossip) = &self.inner.gossip {
            gossip.forget(tried);
        }
    }

    /// Nodes that may have `want`, from every discovery service, waiting no longer than the
    /// limit for discovery. The search ends early when every service has ended. With gossip, those
    /// come first that say so in a signed announcement, and those last that say otherwise; where more
    /// are found than a search yields, the last are left out.
    pub async fn find(&self, want: &Want) -> Vec<ProviderAddr> {
        self.find_within(want, self.inner.limits.discovery).await
    }

    /// As [`find`](Self::find), waiting no longer than this.
    pub async fn find_within(&self, want: &Want, wait: Duration) -> Vec<ProviderAddr> {
        self.search(want, wait.min(self.inner.limits.discovery))
            .await
    }

    async fn search(&self, want: &Want, wait: Duration) -> Vec<ProviderAddr> {
        let gossip = self.inner.gossip.as_ref();
        // Without gossip one is as good as another.
        let chance = |node: NodeId| gossip.map_or(Chance::Says, |gossip| gossip.chance(want, node));
        let (services, own) = (self.services(), self.id());
        let mut found = collect(&services, want, own, MAX_FOUND, wait, chance).await;
        self.put_in_order(want, &mut found);
        found
    }

    /// Of the nodes that [`find`](Self::find) yields for work those alone that sign that they meet the need: their
    /// announcements, in no order. By whatever way a node is found, mDNS and the DHT included, it is asked for its
    /// announcement; without gossip nobody is, and nobody is returned.
    pub async fn find_able(&self, need: &Need) -> Vec<Announcement> {
        self.find_able_within(need, self.inner.limits.discovery)
            .await
    }

    /// As [`find_able`](Self::find_able), waiting no longer than this, be it more than the limit for discovery.
    pub async fn find_able_within(&self, need: &Need, wait: Duration) -> Vec<Announcement> {
        let want = Want::Jobs(need.clone());
        let found = self.search(&want, wait).await;
        let mut able = self.acquaintances();
        able.retain(|said| said.has(&want) && found.iter().any(|node| node.id == said.node()));
        able
    }

    /// Puts those first that say in a signed announcement that they have `want`, and those last that
    /// say otherwise; of each kind they stay in their order. Without gossip all do.
    pub fn put_in_order(&self, want: &Want, nodes: &mut [ProviderAddr]) {
        if let Some(gossip) = &self.inner.gossip {
            gossip.put_in_order(want, nodes);
        }
    }

    /// Takes in a copy of a file; returns its digest and its size in bytes. It is kept until
    /// [`forget`](Self::forget), and served to others only when a release or
    /// [`share`](Self::share) offers it.
    ///
    /// # Errors
    ///
    /// When the file cannot be read or the store fails.
    pub async fn import_path(&self, path: &Path) -> Result<(Digest, u64), ImportError> {
        self.inner.blobs.import_path(path).await
    }

    /// As [`import_path`](Self::import_path), from memory.
    ///
    /// # Errors
    ///
    /// When the store fails.
    pub async fn import_bytes(
        &self,
        bytes: impl Into<Bytes>,
    ) -> Result<(Digest, u64), ImportError> {
        self.inner.blobs.import_bytes(bytes.into()).await
    }

    /// No longer keeps an imported or shared blob. It goes with the next sweep, unless a release
    /// needs it.
    ///
    /// # Errors
    ///
    /// When the store fails.
    pub async fn forget(&self, digest: &Digest) -> Result<(), ImportError> {
        let released = self.inner.blobs.release("import", digest).await;
        released.map_err(|reason| ImportError::Store { reason })
    }

    /// Serves a blob to whoever knows its digest, until the node closes or
    /// [`unshare`](Self::unshare) is called as often.
    ///
    /// # Errors
    ///
    /// When the blob is not wholly here.
    pub async fn share(&self, digest: &Digest) -> Result<(), BlobError> {
        self.inner.blobs.size(digest).await?;
        self.inner.gate.offer(to_hash(digest));
        Ok(())
    }

    /// Ends what [`share`](Self::share) began.
    pub fn unshare(&self, digest: &Digest) {
        self.inner.gate.withdraw(to_hash(digest));
    }

    /// Whether a blob is served to whoever knows its digest, because it is of a release that is offered
    /// or is [shared](Self::share).
    #[must_use]
    pub fn serves(&self, digest: &Digest) -> bool {
        self.inner.gate.allows(&to_hash(digest))
    }

    /// How much of a blob is here.
    ///
    /// # Errors
    ///
    /// When the store fails.
    pub async fn presence(&self, digest: &Digest) -> Result<Presence, BlobError> {
        self.inner.blobs.presence(digest).await
    }

    /// Opens a blob that is wholly here, for reading. No sweep takes it away while the handle, or
    /// a clone of it, is there.
    ///
    /// # Errors
    ///
    /// When it is not wholly here.
    pub async fn open_blob(&self, digest: &Digest) -> Result<Blob, BlobError> {
        let held = self.inner.blobs.hold(digest).await;
        let held = held.map_err(|reason| BlobError::Store {
            digest: *digest,
            reason,
        })?;
        let size = self.inner.blobs.size(digest).await?;
        Ok(self.blob(*digest, size, Arc::new(held)))
    }

    pub(crate) fn blob(&self, digest: Digest, size: u64, held: Arc<TempTag>) -> Blob {
        Blob {
            blobs: self.inner.blobs.clone(),
            digest,
            size,
            _held: held,
        }
    }

    /// Reads a whole blob and compares it with its digest.
    ///
    /// # Errors
    ///
    /// [`BlobError::Corrupt`] when it is damaged: then [`fetch_files`](Self::fetch_files) or
    /// `fetch` mends it.
    pub async fn verify(&self, digest: &Digest) -> Result<(), BlobError> {
        self.inner.blobs.recheck(digest).await
    }

    /// Writes a blob to a new file at `path` and checks what was written; returns its size. The
    /// file is a copy of its own: changing it does not change the store.
    ///
    /// # Errors
    ///
    /// When the blob is not here or damaged, something is at `path`, or the disk fails.
    pub async fn export(&self, digest: &Digest, path: &Path) -> Result<u64, ExportError> {
        self.inner.blobs.export(digest, path).await
    }

    /// Fetches files from `providers`, all at once; what is here is not fetched again. They are
    /// kept until [`forget`](Self::forget).
    ///
    /// # Errors
    ///
    /// When something is still missing and no provider is left; what arrived is kept, and the
    /// next fetch goes on from it.
    pub async fn fetch_files(
        &self,
        files: &[FileRef],
        providers: &[ProviderAddr],
        progress: Option<ProgressFn>,
    ) -> Result<FetchReport, FetchError> {
        for file in files {
            // Before anything arrives, so that no sweep takes a half-fetched blob away.
            let kept = self.inner.blobs.keep("import", &file.digest).await;
            kept.map_err(|reason| FetchError::Store { reason })?;
        }
        let nobody_else = stream::empty().boxed();
        self.fetcher()
            .fetch(files, providers, nobody_else, progress)
            .await
    }

    pub(crate) fn fetcher(&self) -> Fetcher {
        Fetcher {
            endpoint: self.inner.endpoint.clone(),
            blobs: self.inner.blobs.clone(),
            limits: self.inner.limits.clone(),
            busy: self.inner.busy.clone(),
            crawl: None,
        }
    }

    pub(crate) fn packages_dir(&self) -> PathBuf {
        self.inner.layout.packages.clone()
    }
}

/// A blob that is wholly here, open for reading.
#[derive(Clone, Debug)]
pub struct Blob {
    blobs: Blobs,
    digest: Digest,
    size: u64,
    _held: Arc<TempTag>,
}

impl Blob {
    /// Its digest.
    #[must_use]
    pub fn digest(&self) -> Digest {
        self.digest
    }

    /// Its size, in bytes.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Reads `len` bytes from `offset` on, verified. All of them are held in memory, so `len` is
    /// the caller's to bound.
    ///
    /// # Errors
    ///
    /// When the range is not within the blob, or the blob is damaged.
    pub async fn read_at(&self, offset: u64, len: usize) -> Result<Bytes, BlobError> {
        self.blobs
            .read_at(&self.digest, self.size, offset, len)
            .await
    }
}
