//! What a guest can make the node fetch is bounded, and ends with the run.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod common;

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant};

use common::{load, run, spec, tight};
use skep_registry::{Digest, Limits, SwarmRead};
use skep_sandbox::{
    Allowance, BlobError, Blobs, Cancel, Pending, Quota, ReadBlob, RunError, RunSpec, Sandbox,
    WriteBlob,
};

static SANDBOX: LazyLock<Sandbox> = LazyLock::new(common::sandbox);

/// Peers that have everything, and each blob of the same size.
struct Peers {
    size: u64,
    fails: bool,
    fetched: Arc<AtomicU64>,
}

struct Content(u64);

impl ReadBlob for Content {
    fn size(&self) -> u64 {
        self.0
    }

    fn read(&self, _: u64, length: u32) -> Pending<bytes::Bytes> {
        Box::pin(async move { Ok(vec![0; length as usize].into()) })
    }
}

impl Blobs for Peers {
    fn open(&self, _: Digest, allowance: Arc<Allowance>) -> Pending<Arc<dyn ReadBlob>> {
        let (size, fails, fetched) = (self.size, self.fails, Arc::clone(&self.fetched));
        Box::pin(async move {
            allowance.take(size)?;
            fetched.fetch_add(size, Ordering::Relaxed);
            match fails {
                true => Err(BlobError::Failed("the provider left".to_owned())),
                false => Ok(Arc::new(Content(size)) as Arc<dyn ReadBlob>),
            }
        })
    }

    fn create(&self) -> Pending<Box<dyn WriteBlob>> {
        Box::pin(async { Err(BlobError::Failed("only for reading".to_owned())) })
    }
}

fn with(blobs: impl Blobs, limits: Limits) -> RunSpec {
    RunSpec {
        blobs: Some(Arc::new(blobs)),
        ..spec(limits)
    }
}

#[test]
fn fetched_bytes_count_towards_the_limit_on_storage() {
    let fetched = Arc::new(AtomicU64::new(0));
    let peers = Peers {
        size: 300_000,
        fails: false,
        fetched: Arc::clone(&fetched),
    };
    let program = load(&SANDBOX, "fetch_flood");
    let failed = run(&SANDBOX, &program, &with(peers, tight())).unwrap_err();
    // Three times 300,000 bytes fit into 1 MiB, and a fourth does not.
    assert!(
        matches!(&failed.error, RunError::Quota(e)
            if e.quota == Quota::Storage && e.limit == 1 << 20 && e.asked == 1_200_000),
        "{failed}"
    );
    assert_eq!(fetched.load(Ordering::Relaxed), 900_000);
    assert_eq!(failed.report.stored_bytes, 900_000);
}

#[test]
fn content_larger_than_the_limit_is_refused_before_it_is_fetched() {
    let fetched = Arc::new(AtomicU64::new(0));
    let peers = Peers {
        size: 1 << 40,
        fails: false,
        fetched: Arc::clone(&fetched),
    };
    let program = load(&SANDBOX, "fetch_flood");
    let failed = run(&SANDBOX, &program, &with(peers, tight())).unwrap_err();
    assert_eq!(failed.error.limit(), Some("storage"), "{failed}");
    assert_eq!(fetched.load(Ordering::Relaxed), 0);
    assert_eq!(failed.report.stored_bytes, 0);
}

#[test]
fn a_fetch_that_failed_counts_too() {
    let peers = Peers {
        size: 300_000,
        fails: true,
        fetched: Arc::default(),
    };
    let program = load(&SANDBOX, "fetch_flood");
    let failed = run(&SANDBOX, &program, &with(peers, tight())).unwrap_err();
    assert!(failed.to_string().contains("the provider left"), "{failed}");
    assert_eq!(failed.report.stored_bytes, 300_000);
}

#[test]
fn a_blob_without_the_grant_is_denied_before_anybody_is_asked() {
    let fetched = Arc::new(AtomicU64::new(0));
    let peers = Peers {
        size: 1,
        fails: false,
        fetched: Arc::clone(&fetched),
    };
    let mut spec = with(peers, tight());
    // A grant for another blob admits the interface, and not this one.
    spec.grants.swarm_read = SwarmRead::Only([Digest::of(b"another")].into());
    let failed = run(&SANDBOX, &load(&SANDBOX, "fetch_flood"), &spec).unwrap_err();
    assert!(failed.to_string().contains("grants.swarm-read"), "{failed}");
    assert_eq!(fetched.load(Ordering::Relaxed), 0);
}

#[test]
fn streams_count_as_handles_and_go_with_the_run() {
    let content = Arc::new(Content(1 << 40));
    struct One(Arc<Content>);
    impl Blobs for One {
        fn open(&self, _: Digest, _: Arc<Allowance>) -> Pending<Arc<dyn ReadBlob>> {
            let content: Arc<dyn ReadBlob> = Arc::clone(&self.0) as Arc<dyn ReadBlob>;
            Box::pin(async move { Ok(content) })
        }

        fn create(&self) -> Pending<Box<dyn WriteBlob>> {
            Box::pin(async { Err(BlobError::Failed("only for reading".to_owned())) })
        }
    }
    let program = load(&SANDBOX, "stream_bomb");
    let spec = with(One(Arc::clone(&content)), tight());
    let failed = run(&SANDBOX, &program, &spec).unwrap_err();
    assert!(
        matches!(&failed.error, RunError::Quota(e)
            if e.quota == Quota::Handles && e.limit == 1000 && e.asked == 1002),
        "{failed}"
    );
    // Each of the 500 streams had its hold on the content.
    drop(spec);
    assert_eq!(Arc::strong_count(&content), 1);
}

/// A fetch that never ends, and says when it was stopped.
struct Endless {
    began: Arc<AtomicBool>,
    stopped: Arc<AtomicBool>,
}

struct Stopped(Arc<AtomicBool>);

impl Drop for Stopped {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

impl Blobs for Endless {
    fn open(&self, _: Digest, _: Arc<Allowance>) -> Pending<Arc<dyn ReadBlob>> {
        self.began.store(true, Ordering::SeqCst);
        let stopped = Stopped(Arc::clone(&self.stopped));
        Box::pin(async move {
            let _stopped = stopped;
            std::future::pending().await
        })
    }

    fn create(&self) -> Pending<Box<dyn WriteBlob>> {
        Box::pin(async { Err(BlobError::Failed("only for reading".to_owned())) })
    }
}

#[test]
fn the_deadline_of_the_run_stops_the_transfer() {
    let stopped = Arc::new(AtomicBool::new(false));
    let peers = Endless {
        began: Arc::default(),
        stopped: Arc::clone(&stopped),
    };
    let began = Instant::now();
    let failed = run(
        &SANDBOX,
        &load(&SANDBOX, "fetch_flood"),
        &with(peers, tight()),
    )
    .unwrap_err();
    assert!(began.elapsed() < Duration::from_secs(3));
    assert_eq!(failed.error.limit(), Some("time"), "{failed}");
    assert!(stopped.load(Ordering::SeqCst));
}

#[test]
fn cancelling_the_run_stops_the_transfer() {
    let (began, stopped) = (Arc::new(AtomicBool::new(false)), Arc::default());
    let peers = Endless {
        began: Arc::clone(&began),
        stopped: Arc::clone(&stopped),
    };
    let limits = Limits {
        time: Some(Duration::from_secs(60)),
        ..tight()
    };
    let (program, spec) = (load(&SANDBOX, "fetch_flood"), with(peers, limits));
    let cancel = Cancel::new();
    std::thread::scope(|scope| {
        let running = scope.spawn(|| {
            SANDBOX.run_task(
                &program,
                &spec,
                &[],
                std::io::empty(),
                std::io::sink(),
                &cancel,
            )
        });
        while !began.load(Ordering::SeqCst) {
            std::thread::yield_now();
        }
        cancel.cancel();
        let failed = running.join().unwrap().unwrap_err();
        assert!(matches!(failed.error, RunError::Cancelled), "{failed}");
        assert!(stopped.load(Ordering::SeqCst));
    });
}
