//! Honest nodes: publishing, finding, fetching, installing, serving on.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use common::{
    Endless, content, file_ref, gossiping, limits, node, node_with, offer, publish, visible,
};
use skep_registry::{Digest, PackageRef, PublisherKey};
use skep_swarm::{
    BlobError, Capability, ExportError, FetchError, Limits, Need, OpenError, PackageError,
    PackageTicket, Presence, ProviderFault, ResolveError, Swarm, SwarmConfig, TicketDiscovery,
    Want,
};

#[tokio::test]
async fn whoever_installed_a_package_serves_it_when_the_publisher_is_gone() {
    let dir = tempfile::tempdir().unwrap();
    let key = PublisherKey::generate().unwrap();
    let (weights, readme) = (content(1, 3_000_000), content(2, 500));
    let files: &[(&str, &[u8])] = &[
        ("model.safetensors", &weights),
        ("docs/README.md", &readme),
        ("docs/copy.md", &readme),
        ("empty", b""),
    ];

    let a = node(&dir.path().join("a")).await;
    publish(
        &a,
        &key,
        "encoder",
        "1.0.0",
        &[("model.safetensors", &readme)],
    )
    .await;
    let release = publish(&a, &key, "encoder", "1.1.0", files).await;

    // B knows only a ticket.
    let b = node(&dir.path().join("b")).await;
    let ticket = PackageTicket {
        node: a.addr(),
        publisher: key.id(),
        name: "encoder".parse().unwrap(),
        release: None,
    };
    let ticket: PackageTicket = ticket.to_string().parse().unwrap();
    b.add_discovery(Arc::new(TicketDiscovery::from(ticket.clone())));
    let want = Want::Package {
        publisher: ticket.publisher,
        name: ticket.name.clone(),
    };
    let found = b.find(&want).await;
    let resolved = b
        .resolve(&ticket.publisher, &ticket.name, None, &found)
        .await
        .unwrap();
    assert_eq!(resolved.release, release);
    assert_eq!(resolved.history.releases().len(), 2);
    let (installed, report) = b
        .install(&release, &resolved.providers, None)
        .await
        .unwrap();
    assert_eq!(
        report.bytes_fetched, 3_000_500,
        "the same file twice is fetched once"
    );
    assert_eq!(report.files, 3);
    assert_eq!(report.chunks_verified, 3_000_000_u64.div_ceil(16384) + 1);
    assert_eq!(report.providers.get(&a.id()), Some(&3_000_500));
    for (path, content) in files {
        assert_eq!(
            std::fs::read(installed.path(path).unwrap()).unwrap(),
            *content,
            "{path}"
        );
    }
    assert_eq!(visible(&b), [release.digest().to_string()]);

    // A stops, and is really gone.
    let a_addr = a.addr();
    a.shutdown().await;
    drop(a);

    let c = node_with(
        &dir.path().join("c"),
        Limits {
            connect: std::time::Duration::from_millis(500),
            ..limits()
        },
    )
    .await;
    let providers = [a_addr.clone(), b.addr()];
    let resolved = c
        .resolve(&key.id(), release.name(), None, &providers)
        .await
        .unwrap();
    assert_eq!(resolved.providers, [b.addr()]);
    assert_eq!(resolved.faults.len(), 1, "{:?}", resolved.faults);
    let (installed, report) = c
        .install(&resolved.release, &providers, None)
        .await
        .unwrap();
    assert_eq!(
        report.providers.keys().copied().collect::<Vec<_>>(),
        [b.id()]
    );
    assert_eq!(
        std::fs::read(installed.path("model.safetensors").unwrap()).unwrap(),
        weights
    );

    // And after a restart B still serves it, and knows it without asking anybody.
    let b_dir = b.dir().to_owned();
    b.shutdown().await;
    drop(b);
    let b = node(&b_dir).await;
    assert_eq!(b.list_installed().unwrap().len(), 1);
    assert_eq!(
        b.resolve_digest(&release.digest(), &[])
            .await
            .unwrap()
            .release,
        release
    );
    let d = node(&dir.path().join("d")).await;
    d.install(&release, &[b.addr()], None).await.unwrap();
    for node in [b, c, d] {
        node.shutdown().await;
    }
}

#[tokio::test]
async fn references_are_resolved_in_every_form() {
    let dir = tempfile::tempdir().unwrap();
    let key = PublisherKey::generate().unwrap();
    let a = node(&dir.path().join("a")).await;
    let b = node(&dir.path().join("b")).await;
    let first = publish(&a, &key, "tool", "1.0.0", &[("f", b"one")]).await;
    let second = publish(&a, &key, "tool", "1.1.0", &[("f", b"two")]).await;
    let third = publish(&a, &key, "tool", "2.0.0", &[("f", b"three")]).await;
    let providers = [a.addr()];
    let id = key.id();
    for (text, expected) in [
        (format!("{id}/tool"), &third),
        (format!("{id}/tool@1"), &second),
        (format!("{id}/tool@1.0.0"), &first),
        ("tool@1.0.0".to_owned(), &first),
        (second.digest().to_string(), &second),
    ] {
        let reference: PackageRef = text.parse().unwrap();
        let resolved = b.resolve_ref(&reference, &providers).await.unwrap();
        assert_eq!(&resolved.release, expected, "{text}");
        assert_eq!(resolved.providers, providers, "{text}");
    }
    let reference = "tool@9".parse().unwrap();
    match b.resolve_ref(&reference, &providers).await {
        Err(e @ ResolveError::NoVersion { .. }) => {
            assert!(
                e.to_string().ends_with("there are 1.0.0, 1.1.0, 2.0.0"),
                "{e}"
            );
        }
        other => panic!("{other:?}"),
    }
    let unknown = "nothing".parse().unwrap();
    assert!(matches!(
        b.resolve_ref(&unknown, &providers).await,
        Err(ResolveError::NotFound { .. })
    ));
    assert!(matches!(
        b.resolve_ref(&unknown, &[]).await,
        Err(ResolveError::NoProviders { .. })
    ));
    // Two publishers, one name.
    let other = PublisherKey::generate().unwrap();
    publish(&a, &other, "tool", "0.1.0", &[("f", b"four")]).await;
    assert!(matches!(
        b.resolve_ref(&"tool".parse().unwrap(), &providers).await,
        Err(ResolveError::Ambiguous { .. })
    ));
    let (offers, more) = b.ask_offers(&a.addr(), 10).await.unwrap();
    assert_eq!((offers.len(), more), (2, false));
    assert!(
        offers
            .iter()
            .any(|o| o.publisher == id && o.version == "2.0.0")
    );
    assert_eq!(b.ask_offers(&a.addr(), 1).await.unwrap().0.len(), 1);
    a.shutdown().await;
    b.shutdown().await;
}

#[tokio::test]
async fn two_fetches_of_one_thing_move_it_once() {
    let dir = tempfile::tempdir().unwrap();
    let data = content(3, 8_000_000);
    let file = file_ref(&data);
    let a = node(&dir.path().join("a")).await;
    offer(&a, &data).await;
    let b = node(&dir.path().join("b")).await;
    let providers = [a.addr()];
    let files = [file.clone()];
    let (one, two) = tokio::join!(
        b.fetch_files(&files, &providers, None),
        b.fetch_files(&files, &providers, None)
    );
    let (one, two) = (one.unwrap(), two.unwrap());
    assert_eq!(one.bytes_fetched + two.bytes_fetched, file.size);
    assert_eq!(one.bytes_present + two.bytes_present, file.size);
    b.verify(&file.digest).await.unwrap();
    a.shutdown().await;
    b.shutdown().await;
}

#[tokio::test]
async fn progress_rises_to_the_whole() {
    let dir = tempfile::tempdir().unwrap();
    let data = content(4, 40_000_000);
    let file = file_ref(&data);
    let a = node(&dir.path().join("a")).await;
    let a2 = node(&dir.path().join("a2")).await;
    for node in [&a, &a2] {
        offer(node, &data).await;
    }
    let b = node(&dir.path().join("b")).await;
    let seen = Arc::new(Mutex::new(Vec::new()));
    let last = Arc::new(AtomicU64::new(0));
    let progress = {
        let (seen, last) = (seen.clone(), last.clone());
        move |p: &skep_swarm::Progress| {
            last.fetch_max(p.bytes_done, Ordering::Relaxed);
            assert_eq!(p.bytes_total, 40_000_000);
            assert_eq!(&*p.file, "file");
            seen.lock().unwrap().push(p.provider);
        }
    };
    let report = b
        .fetch_files(&[file], &[a.addr(), a2.addr()], Some(Arc::new(progress)))
        .await
        .unwrap();
    assert_eq!(last.load(Ordering::Relaxed), 40_000_000);
    assert!(seen.lock().unwrap().len() >= 30);
    assert_eq!(report.providers.values().sum::<u64>(), 40_000_000);
    for node in [a, a2, b] {
        node.shutdown().await;
    }
}

#[tokio::test]
async fn what_is_not_offered_is_not_served() {
    let dir = tempfile::tempdir().unwrap();
    let data = content(5, 100_000);
    let file = file_ref(&data);
    let a = node(&dir.path().join("a")).await;
    a.import_bytes(data).await.unwrap();
    assert!(!a.serves(&file.digest));
    let b = node(&dir.path().join("b")).await;
    match b
        .fetch_files(std::slice::from_ref(&file), &[a.addr()], None)
        .await
    {
        Err(FetchError::Exhausted { missing, faults }) => {
            assert_eq!(missing, file.size);
            assert_eq!(
                faults[0].fault,
                ProviderFault::NotOffered {
                    digest: file.digest
                }
            );
        }
        other => panic!("{other:?}"),
    }
    assert_eq!(b.presence(&file.digest).await.unwrap(), Presence::Absent);
    a.share(&file.digest).await.unwrap();
    assert!(a.serves(&file.digest));
    b.fetch_files(std::slice::from_ref(&file), &[a.addr()], None)
        .await
        .unwrap();
    assert!(!b.serves(&file.digest), "what is fetched is not offered");
    a.unshare(&file.digest);
    assert!(!a.serves(&file.digest));
    let c = node(&dir.path().join("c")).await;
    assert!(c.fetch_files(&[file], &[a.addr()], None).await.is_err());
    for node in [a, b, c] {
        node.shutdown().await;
    }
}

#[tokio::test]
async fn a_removed_package_is_gone_and_no_longer_served() {
    let dir = tempfile::tempdir().unwrap();
    let key = PublisherKey::generate().unwrap();
    let a = node(&dir.path().join("a")).await;
    let b = node(&dir.path().join("b")).await;
    let release = publish(&a, &key, "tool", "1.0.0", &[("f", b"content")]).await;
    b.resolve(&key.id(), release.name(), None, &[a.addr()])
        .await
        .unwrap();
    b.install(&release, &[a.addr()], None).await.unwrap();
    assert_eq!(b.offers().len(), 1);
    b.remove(&release.digest()).await.unwrap();
    assert!(visible(&b).is_empty());
    assert!(b.offers().is_empty());
    assert!(matches!(
        b.remove(&release.digest()).await,
        Err(PackageError::NotInstalled { .. })
    ));
    let c = node(&dir.path().join("c")).await;
    assert!(c.install(&release, &[b.addr()], None).await.is_err());
    // It is still known, and says that it has not got the files.
    let resolved = c
        .resolve(&key.id(), release.name(), None, &[b.addr()])
        .await
        .unwrap();
    assert!(resolved.providers.is_empty());
    for node in [a, b, c] {
        node.shutdown().await;
    }
}

#[tokio::test]
async fn a_folder_is_opened_once_and_cleaned_of_what_was_left() {
    let dir = tempfile::tempdir().unwrap();
    let a = node(dir.path()).await;
    let id = a.id();
    match Swarm::open(SwarmConfig::loopback(dir.path())).await {
        Err(e @ OpenError::Locked { .. }) => {
            assert!(
                e.to_string().contains(&std::process::id().to_string()),
                "{e}"
            );
        }
        other => panic!("{other:?}"),
    }
    a.shutdown().await;
    drop(a);
    let left = dir.path().join("packages/.tmp-left");
    std::fs::create_dir_all(left.join("files")).unwrap();
    std::fs::write(left.join("files/half"), "half").unwrap();
    let a = node(dir.path()).await;
    assert_eq!(a.id(), id, "a node keeps its name");
    assert!(visible(&a).is_empty());
    a.shutdown().await;
}

#[tokio::test]
async fn blobs_come_back_as_they_went_in() {
    let dir = tempfile::tempdir().unwrap();
    let a = node(&dir.path().join("a")).await;
    for len in [0, 1, 1024, 16_384, 16_385, 70_000] {
        let data = content(10, len);
        let path = dir.path().join("in");
        std::fs::write(&path, &data).unwrap();
        let (digest, size) = a.import_path(&path).await.unwrap();
        assert_eq!((digest, size), (Digest::of(&data), len as u64));
        assert_eq!(a.import_bytes(data.clone()).await.unwrap(), (digest, size));
        let blob = a.open_blob(&digest).await.unwrap();
        assert_eq!(blob.read_at(0, len).await.unwrap()[..], data[..]);
        let middle = len / 3..len / 2;
        let read = blob
            .read_at(middle.start as u64, middle.len())
            .await
            .unwrap();
        assert_eq!(read[..], data[middle]);
        assert!(matches!(
            blob.read_at(len as u64, 1).await,
            Err(BlobError::Range { .. })
        ));
        let out = dir.path().join(format!("out-{len}"));
        assert_eq!(a.export(&digest, &out).await.unwrap(), size);
        assert_eq!(std::fs::read(&out).unwrap(), data);
        assert!(matches!(
            a.export(&digest, &out).await,
            Err(ExportError::Exists { .. })
        ));
    }
    assert!(matches!(
        a.open_blob(&Digest::of(b"absent")).await,
        Err(BlobError::NotHere { .. })
    ));
    assert!(a.import_path(&dir.path().join("absent")).await.is_err());
    assert!(a.import_path(dir.path()).await.is_err());
    a.shutdown().await;
}

#[tokio::test]
async fn any_discovery_service_will_do() {
    let dir = tempfile::tempdir().unwrap();
    let key = PublisherKey::generate().unwrap();
    let a = node(&dir.path().join("a")).await;
    let release = publish(&a, &key, "tool", "1.0.0", &[("f", b"content")]).await;
    let b = node(&dir.path().join("b")).await;
    b.add_discovery(Arc::new(Endless(vec![b.addr(), a.addr()])));
    let found = b.find(&Want::Release(release.digest())).await;
    assert_eq!(found, [a.addr()], "a node does not find itself");
    let resolved = b.resolve_digest(&release.digest(), &found).await.unwrap();
    b.install(&resolved.release, &resolved.providers, None)
        .await
        .unwrap();
    a.shutdown().await;
    b.shutdown().await;
}

#[tokio::test]
async fn who_is_able_is_looked_for_as_long_as_whoever_asks_will_wait() {
    let dir = tempfile::tempdir().unwrap();
    let able = gossiping(&dir.path().join("able"), limits()).await;
    able.announce(Some(Capability {
        device: "cuda:0".to_owned(),
        memory: 1 << 30,
        slots: 1,
        tariff: [0; 4],
    }));
    // Nobody is asked and answers in no time at all.
    let hasty = Limits {
        discovery: Duration::ZERO,
        ..limits()
    };
    let asking = gossiping(&dir.path().join("asking"), hasty).await;
    asking.add_discovery(Arc::new(TicketDiscovery::from(able.ticket())));
    let need = |device: &str| Need {
        device: Some(device.to_owned()),
        ..Need::default()
    };
    let (there, nowhere) = (need("cuda:0"), need("vulkan"));
    let found = asking.find_able_within(&there, Duration::from_secs(60));
    let found = found.await;
    assert_eq!(found.len(), 1);
    assert_eq!(found[0].node(), able.id());

    // A way that never ends ends with the time.
    asking.add_discovery(Arc::new(Endless(Vec::new())));
    let found = asking.find_able_within(&nowhere, Duration::from_millis(300));
    let found = tokio::time::timeout(Duration::from_secs(60), found).await;
    assert!(found.expect("it ends in time").is_empty());
    able.shutdown().await;
    asking.shutdown().await;
}
