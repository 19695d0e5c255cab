//! Disks that lose bits, and releases that say what their files are not.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use std::time::Duration;

use common::hostile::{Hostile, Sends};
use common::{
    Two, content, data_file, draft, file_ref, flip, limits, node, node_with, publish, visible,
};
use skep_registry::{Digest, PublisherKey};
use skep_swarm::{
    BlobError, ExportError, FetchError, InstallError, Limits, PackageError, Presence,
    ProviderFault, PublishError,
};

#[tokio::test]
async fn a_flipped_bit_is_reported_and_never_served_and_a_fetch_mends_it() {
    let dir = tempfile::tempdir().unwrap();
    let key = PublisherKey::generate().unwrap();
    let data = content(6, 1_000_000);
    let small = content(7, 900);
    let a = node(&dir.path().join("a")).await;
    let b = node(&dir.path().join("b")).await;
    let release = publish(
        &a,
        &key,
        "encoder",
        "1.0.0",
        &[("big", &data), ("small", &small)],
    )
    .await;
    b.fetch(&release, &[a.addr()], None).await.unwrap();
    let (big, little) = (Digest::of(&data), Digest::of(&small));

    flip(&data_file(&b, &big), 500_000);
    flip(&data_file(&b, &little), 10);
    let blob = b.open_blob(&big).await.unwrap();
    assert_eq!(
        blob.read_at(0, 1000).await.unwrap()[..],
        data[..1000],
        "what is whole is read"
    );
    match blob.read_at(499_000, 2000).await {
        Err(BlobError::Corrupt { digest, offset }) => {
            assert_eq!((digest, offset), (big, 500_000 / 16384 * 16384));
        }
        other => panic!("{other:?}"),
    }
    match b.export(&big, &dir.path().join("out")).await {
        Err(e @ ExportError::Blob(BlobError::Corrupt { .. })) => {
            assert!(e.to_string().contains("fetch it again"), "{e}");
        }
        other => panic!("{other:?}"),
    }
    assert!(!dir.path().join("out").exists());
    assert!(matches!(
        b.verify(&little).await,
        Err(BlobError::Corrupt { offset: 0, .. })
    ));

    // Nobody gets the damaged part, even though B offers it.
    b.share(&big).await.unwrap();
    let c = node(&dir.path().join("c")).await;
    match c.fetch_files(&[file_ref(&data)], &[b.addr()], None).await {
        Err(FetchError::Exhausted { faults, .. }) => {
            assert!(
                matches!(
                    faults[0].fault,
                    ProviderFault::Truncated { .. } | ProviderFault::NotThere { .. }
                ),
                "{faults:?}"
            );
        }
        other => panic!("{other:?}"),
    }

    // It is remembered over a restart, and mended by a fetch that moves the damaged groups only.
    let b_dir = b.dir().to_owned();
    b.shutdown().await;
    drop((b, blob));
    let b = node(&b_dir).await;
    assert!(matches!(
        b.install(&release, &[], None).await,
        Err(InstallError::Fetch(FetchError::NoProviders { .. }))
    ));
    let (installed, report) = b.install(&release, &[a.addr()], None).await.unwrap();
    assert_eq!(report.bytes_fetched, 16384 + 900);
    assert_eq!(report.mended.len(), 2);
    assert_eq!(std::fs::read(installed.path("big").unwrap()).unwrap(), data);
    b.verify(&big).await.unwrap();
    b.verify(&little).await.unwrap();
    // C goes on from what it has (a reset may have taken what was still on its way), with B alone.
    b.share(&big).await.unwrap();
    let report = c
        .fetch_files(&[file_ref(&data)], &[b.addr()], None)
        .await
        .unwrap();
    assert_eq!(report.bytes_present + report.bytes_fetched, 1_000_000);
    c.verify(&big).await.unwrap();
    for node in [a, b, c] {
        node.shutdown().await;
    }
}

#[tokio::test]
async fn damage_that_nobody_has_noticed_is_mended_while_installing() {
    let dir = tempfile::tempdir().unwrap();
    let key = PublisherKey::generate().unwrap();
    let data = content(8, 300_000);
    let a = node(&dir.path().join("a")).await;
    let b = node(&dir.path().join("b")).await;
    let release = publish(&a, &key, "encoder", "1.0.0", &[("big", &data)]).await;
    b.fetch(&release, &[a.addr()], None).await.unwrap();
    let file = data_file(&b, &Digest::of(&data));
    flip(&file, 0);
    // The end is gone too.
    std::fs::OpenOptions::new()
        .write(true)
        .open(&file)
        .unwrap()
        .set_len(290_000)
        .unwrap();
    let (installed, report) = b.install(&release, &[a.addr()], None).await.unwrap();
    assert_eq!(report.mended, [Digest::of(&data)]);
    assert_eq!(std::fs::read(installed.path("big").unwrap()).unwrap(), data);
    // An installed file is a copy: changing it changes neither the store nor goes unnoticed.
    let path = installed.path("big").unwrap();
    let mut permissions = std::fs::metadata(&path).unwrap().permissions();
    assert!(permissions.readonly());
    #[cfg(unix)]
    std::os::unix::fs::PermissionsExt::set_mode(&mut permissions, 0o644);
    std::fs::set_permissions(&path, permissions).unwrap();
    flip(&path, 5);
    b.verify(&Digest::of(&data)).await.unwrap();
    assert!(matches!(
        b.check_installed(&release.digest()).await,
        Err(PackageError::Damaged { .. })
    ));
    a.shutdown().await;
    b.shutdown().await;
}

#[tokio::test]
async fn while_what_the_disk_lost_is_waited_for_something_else_is_installed() {
    // Whoever is to send it does not, and is waited for.
    let patient = Limits {
        stall: Duration::from_secs(3600),
        ..limits()
    };
    let two = Two::with(patient).await;
    let Two { a, b, key, .. } = &two;
    let data = content(10, 300_000);
    let damaged = publish(a, key, "damaged", "1.0.0", &[("f", &data)]).await;
    let whole = publish(a, key, "whole", "1.0.0", &[("f", b"whole")]).await;
    let from = two.sources();
    b.fetch(&damaged, &from, None).await.unwrap();
    flip(&data_file(b, &Digest::of(&data)), 0);
    let silent = Hostile::sending(Sends::Stall(0), &data).await;
    let (asked, silently) = (silent.asked(), [silent.addr.clone()]);
    let mending = b.install(&damaged, &silently, None);
    let installed = async {
        asked.notified().await;
        b.install(&whole, &from, None).await.unwrap()
    };
    tokio::select! {
        ended = mending => panic!("it is not whole again: {ended:?}"),
        installed = tokio::time::timeout(Duration::from_secs(30), installed) => {
            let (installed, _) = installed.expect("it waits for the other");
            assert_eq!(installed.release, whole);
        }
    }
    silent.stop().await;
    two.stop().await;
}

#[tokio::test]
async fn a_release_that_says_what_its_files_are_not_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let key = PublisherKey::generate().unwrap();
    let data = content(9, 200_000);
    let a = node(&dir.path().join("a")).await;
    let b = node(&dir.path().join("b")).await;
    a.import_bytes(data.clone()).await.unwrap();

    let mut wrong_size = draft("tool", "1.0.0", &[("f", &data)]);
    wrong_size.files[0].size -= 1;
    let wrong_size = wrong_size.sign(&key, None).unwrap();
    assert!(matches!(
        a.publish_release(&wrong_size).await,
        Err(PublishError::Size {
            signed: 199_999,
            actual: 200_000,
            ..
        })
    ));
    let absent = draft("tool", "1.0.0", &[("f", b"never imported")])
        .sign(&key, None)
        .unwrap();
    assert!(matches!(
        a.publish_release(&absent).await,
        Err(PublishError::Missing { .. })
    ));

    // From a peer that does not check: the size does not fit, so nothing at all is stored.
    a.share(&Digest::of(&data)).await.unwrap();
    match b.install(&wrong_size, &[a.addr()], None).await {
        Err(InstallError::Fetch(FetchError::Exhausted { faults, .. })) => assert_eq!(
            faults[0].fault,
            ProviderFault::WrongSize {
                digest: Digest::of(&data),
                claimed: 200_000,
                signed: 199_999
            }
        ),
        other => panic!("{other:?}"),
    }
    assert_eq!(
        b.presence(&Digest::of(&data)).await.unwrap(),
        Presence::Absent
    );
    // The digest is one that nobody has.
    match b.install(&absent, &[a.addr()], None).await {
        Err(e @ InstallError::Fetch(FetchError::Exhausted { .. })) => {
            assert!(
                e.to_string()
                    .contains(&Digest::of(b"never imported").to_string()),
                "{e}"
            );
        }
        other => panic!("{other:?}"),
    }
    // The blob is here and has another size than the one signed.
    b.import_bytes(data.clone()).await.unwrap();
    assert!(matches!(
        b.install(&wrong_size, &[a.addr()], None).await,
        Err(InstallError::Fetch(FetchError::Size {
            actual: 200_000,
            ..
        }))
    ));
    assert!(visible(&b).is_empty());
    // And a release larger than this node accepts.
    let c = node_with(
        &dir.path().join("c"),
        Limits {
            release_bytes: 1000,
            ..limits()
        },
    )
    .await;
    assert!(matches!(
        c.fetch_files(&[file_ref(&data)], &[a.addr()], None).await,
        Err(FetchError::TooLarge {
            size: 200_000,
            limit: 1000
        })
    ));
    for node in [a, b, c] {
        node.shutdown().await;
    }
}
