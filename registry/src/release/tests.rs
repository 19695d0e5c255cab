//! Releases survive encoding, and nothing else passes for one.

use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;
use crate::grants::{JobsGrant, ModelGrant, SwarmRead};
use crate::limits::tests::any_limits;
use crate::units;

pub(crate) fn key(seed: u8) -> PublisherKey {
    PublisherKey::from_seed(&[seed; 32])
}

fn file(path: &str) -> FileEntry {
    FileEntry {
        path: path.parse().unwrap(),
        digest: Digest::of(path.as_bytes()),
        size: path.len() as u64,
    }
}

/// A component with everything that a release can say.
pub(crate) fn draft(version: &str) -> Draft {
    Draft {
        name: "tool".parse().unwrap(),
        version: version.parse().unwrap(),
        description: Some("A tool".to_owned()),
        license: Some("MIT".to_owned()),
        readme: Some("README.md".parse().unwrap()),
        content: Content::Component(Component {
            world: "task".parse().unwrap(),
            entry: "tool.wasm".parse().unwrap(),
            grants: Grants {
                tensor: true,
                ..Grants::default()
            },
            limits: Limits {
                memory: Some(1 << 20),
                ..Limits::default()
            },
            imports: vec!["skep:tensor/tensors@0.1.0".to_owned()],
        }),
        files: vec![file("tool.wasm"), file("README.md")],
    }
}

fn signed(draft: Draft) -> SignedRelease {
    draft.sign(&key(1), None).unwrap()
}

/// The release of a draft before any rule was checked.
fn unchecked(draft: Draft) -> Release {
    Release {
        publisher: key(1).id(),
        sequence: 0,
        previous: None,
        name: draft.name,
        version: draft.version,
        description: draft.description,
        license: draft.license,
        readme: draft.readme,
        content: draft.content,
        files: draft.files,
    }
}

/// What a publisher who breaks the rules could send: any body, correctly signed.
fn decode_body(body: &[u8]) -> Result<SignedRelease, ReleaseError> {
    SignedRelease::decode(&wire::seal(body, &key(1).sign(&signed_message(body))))
}

#[test]
fn a_release_says_what_its_draft_said() {
    let (first, second) = (signed(draft("1.0.0")), draft("1.1.0"));
    let second = second.sign(&key(1), Some(&first)).unwrap();
    assert_eq!((first.sequence(), first.previous()), (0, None));
    assert_eq!(
        (second.sequence(), second.previous()),
        (1, Some(first.digest()))
    );
    assert_eq!(second.publisher(), key(1).id());
    assert_eq!(second.name().as_str(), "tool");
    assert_eq!(second.description(), Some("A tool"));
    assert_eq!(second.license(), Some("MIT"));
    assert_eq!(second.content(), &draft("1.1.0").content);
    let paths: Vec<_> = second
        .files()
        .iter()
        .map(|file| file.path.as_str())
        .collect();
    assert_eq!(paths, ["README.md", "tool.wasm"]);
    assert_eq!(second.file("tool.wasm"), Some(&file("tool.wasm")));
    assert_eq!(second.file("tool"), None);
    assert_eq!(second.total_size(), 18);
    assert_eq!(second.digest(), Digest::of(second.encode()));
}

/// The format is a promise: what was signed once must verify for ever.
#[test]
fn the_encoding_does_not_change() {
    insta::assert_snapshot!(signed(draft("1.0.0")).digest(), @"efe8bf119f039c3ca2f9ea1b7a86e6b2dc431d22db6b89720b0796b2f958d093");
}

#[test]
fn a_draft_cannot_follow_what_it_does_not_follow() {
    let first = signed(draft("1.0.0"));
    let error = |draft: Draft, seed| draft.sign(&key(seed), Some(&first)).unwrap_err();
    insta::assert_snapshot!(error(draft("1.0.0"), 1), @"version 1.0.0 is not above 1.0.0, the latest that was published; raise the version in skep.toml");
    insta::assert_snapshot!(error(draft("1.0.0-rc.1"), 1), @"version 1.0.0-rc.1 is not above 1.0.0, the latest that was published; raise the version in skep.toml");
    assert!(matches!(
        error(draft("2.0.0"), 2),
        ReleaseError::OtherPackage { .. }
    ));
    let renamed = Draft {
        name: "other".parse().unwrap(),
        ..draft("2.0.0")
    };
    assert!(matches!(
        error(renamed, 1),
        ReleaseError::OtherPackage { .. }
    ));
}

#[test]
fn the_rules_hold_for_drafts_and_for_what_others_signed() {
    type Breakage = (&'static str, fn(&mut Draft));
    let broken: [Breakage; 14] = [
        ("version", |d| d.version = "1.0.0+build".parse().unwrap()),
        ("version", |d| {
            d.version = format!("1.0.0-{}", "a".repeat(59)).parse().unwrap()
        }),
        ("description", |d| d.description = Some("é".repeat(281))),
        ("description", |d| d.description = Some(" ".to_owned())),
        ("description", |d| {
            d.description = Some("a\u{202e}b".to_owned())
        }),
        ("license", |d| d.license = Some("MIT\n".to_owned())),
        ("files", |d| d.files.clear()),
        ("files", |d| d.files.push(file("TOOL.wasm"))),
        ("files", |d| d.files.push(file("tool.wasm/inner"))),
        ("files", |d| d.files.push(file("tool.wasm"))),
        ("files", |d| d.files[0].size = u64::MAX),
        ("readme", |d| d.readme = Some("other.md".parse().unwrap())),
        ("component", |d| {
            d.files.retain(|f| f.path.as_str() != "tool.wasm")
        }),
        ("imports", |d| {
            if let Content::Component(component) = &mut d.content {
                component.imports.push("a\u{1b}b".to_owned());
            }
        }),
    ];
    for (expected, breakage) in broken {
        let mut broken = draft("1.0.0");
        breakage(&mut broken);
        match broken.sign(&key(1), None) {
            Err(ReleaseError::Invalid { field, .. }) => assert_eq!(field, expected),
            // A version's length is bounded before it is even read.
            Err(ReleaseError::Malformed { .. }) if expected == "version" => {}
            other => panic!("{expected}: {other:?}"),
        }
    }
    // What `sign` puts in order, another publisher's tool may not have.
    let mut unsorted = unchecked(draft("1.0.0"));
    unsorted.files = vec![file("tool.wasm"), file("README.md")];
    assert!(matches!(
        decode_body(&wire::encode(&unsorted)),
        Err(ReleaseError::Invalid { field: "files", .. })
    ));
    let mut orphan = unchecked(draft("1.0.0"));
    orphan.files.reverse();
    assert!(decode_body(&wire::encode(&orphan)).is_ok());
    orphan.sequence = 1;
    assert!(matches!(
        decode_body(&wire::encode(&orphan)),
        Err(ReleaseError::Invalid {
            field: "previous",
            ..
        })
    ));
}

#[test]
fn a_signature_by_anyone_else_is_refused() {
    let mut release = unchecked(draft("1.0.0"));
    release.files.reverse();
    let body = wire::encode(&release);
    let forged = wire::seal(&body, &key(2).sign(&signed_message(&body)));
    assert_eq!(
        SignedRelease::decode(&forged),
        Err(ReleaseError::BadSignature {
            publisher: key(1).id()
        })
    );
    // Nor is a signature over the same bytes that was meant for something else.
    let undomained = wire::seal(&body, &key(1).sign(&body));
    assert_eq!(
        SignedRelease::decode(&undomained),
        Err(ReleaseError::BadSignature {
            publisher: key(1).id()
        })
    );
}

#[test]
fn another_spelling_is_refused_though_it_is_signed() {
    let mut release = unchecked(draft("1.0.0"));
    release.files.reverse();
    let body = wire::encode(&release);
    // The map's and the format's heads, each one byte, written longer than need be.
    assert_eq!((body[0], body[2]), (0xaa, 1));
    let long_map = [&[0xb8, 10], &body[1..]].concat();
    let long_format = [&body[..2], &[0x18, 1], &body[3..]].concat();
    let endless_map = [&[0xbf], &body[1..], &[0xff]].concat();
    let trailing = [&body[..], &[0]].concat();
    for spelling in [long_map, long_format, endless_map, trailing] {
        assert_eq!(decode_body(&spelling), Err(ReleaseError::NotCanonical));
    }
    assert!(decode_body(&body).is_ok());
}

#[test]
fn an_unknown_field_or_format_is_refused() {
    let mut release = unchecked(draft("1.0.0"));
    release.files.reverse();
    let body = wire::encode(&release);
    let more = [&[0xab], &body[1..], &[13, 0]].concat();
    insta::assert_snapshot!(decode_body(&more).unwrap_err(), @"this is not a release: the release has a field 13, which format 1 does not");
    let newer = [&body[..2], &[2], &body[3..]].concat();
    insta::assert_snapshot!(decode_body(&newer).unwrap_err(), @"this release is written in format 2, and this version of skep reads format 1; update skep");
}

#[test]
fn lengths_are_not_believed() {
    // A list of 2^40 files in a body of some bytes.
    let body = [0xa2, 1, 1, 10, 0x9b, 0, 0, 1, 0, 0, 0, 0, 0];
    insta::assert_snapshot!(decode_body(&body).unwrap_err(), @"this is not a release: a list of 1099511627776, where at most 4096 are allowed");
    // A text of 2^40 bytes.
    let body = [0xa2, 1, 1, 3, 0x7b, 0, 0, 1, 0, 0, 0, 0, 0];
    assert!(matches!(
        decode_body(&body),
        Err(ReleaseError::Malformed { .. })
    ));
    let size = SignedRelease::MAX_BYTES + 1;
    assert_eq!(
        SignedRelease::decode(&vec![0; size]),
        Err(ReleaseError::TooLarge { size })
    );
}

#[test]
fn nobody_grants_more_credits_than_there_can_be() {
    let spending = |max_price| {
        let mut draft = draft("1.0.0");
        if let Content::Component(component) = &mut draft.content {
            component.grants.jobs = Some(JobsGrant { max_price });
        }
        let mut release = unchecked(draft);
        release.files.reverse();
        decode_body(&wire::encode(&release))
    };
    assert!(spending(units::MAX_CREDITS).is_ok());
    insta::assert_snapshot!(spending(units::MAX_CREDITS + 1).unwrap_err(), @"this is not a release: it would spend more credits than there can be");
}

#[test]
fn the_errors_say_what_to_do() {
    let publisher = key(1).id();
    insta::assert_snapshot!(ReleaseError::BadSignature { publisher }, @"the signature is not that of publisher rkeohxlubhyzl7ks3mwtzos5olfgocn7dwkbeg7toseadnapn5obw3un: the release was altered or forged; do not use it, and get it from another node");
    insta::assert_snapshot!(ReleaseError::NotCanonical, @"this release is not written in its one canonical form; it was altered, or made by something else than skep");
    insta::assert_snapshot!(SignedRelease::decode(b"").unwrap_err(), @"this is not a release: end of input bytes");
    insta::assert_snapshot!(ReleaseError::TooLarge { size: 2_000_000 }, @"this is not a release: it has 2000000 bytes, and a release has at most 1048576");
    insta::assert_snapshot!(
        Draft { files: vec![file("a"), file("a/b"), file("tool.wasm"), file("README.md")], ..draft("1.0.0") }.sign(&key(1), None).unwrap_err(),
        @"files: `a` is a file and also the folder of `a/b`"
    );
}

fn any_digest() -> impl Strategy<Value = Digest> {
    any::<[u8; 32]>().prop_map(Digest::from_bytes)
}

fn any_path() -> impl Strategy<Value = PackagePath> {
    "[a-z]{1,8}(/[a-z0-9_-]{1,8}){0,2}\\.[a-z]{2,4}"
        .prop_filter_map("a device of Windows", |text| text.parse().ok())
}

fn any_grants() -> impl Strategy<Value = Grants> {
    let model = prop_oneof![
        Just(ModelGrant::Default),
        any_digest().prop_map(ModelGrant::Digest),
        ("[a-e]{1,9}", proptest::option::of(any::<u8>())).prop_map(|(name, seed)| {
            ModelGrant::Named {
                publisher: seed.map(|seed| key(seed).id()),
                name: name.parse().unwrap(),
            }
        }),
    ];
    let adapters = model
        .clone()
        .prop_filter("no adapter is the default", |grant| {
            *grant != ModelGrant::Default
        });
    let read = prop_oneof![
        Just(SwarmRead::Everything),
        proptest::collection::btree_set(any_digest(), 0..4).prop_map(SwarmRead::Only),
    ];
    (
        any::<bool>(),
        proptest::collection::btree_set(model, 0..4),
        proptest::collection::btree_set(adapters, 0..3),
        read,
        any::<bool>(),
        proptest::option::of(0..=units::MAX_CREDITS),
    )
        .prop_map(
            |(tensor, models, adapters, swarm_read, swarm_write, jobs)| Grants {
                tensor,
                models,
                adapters,
                swarm_read,
                swarm_write,
                jobs: jobs.map(|max_price| JobsGrant { max_price }),
            },
        )
}

fn any_content() -> impl Strategy<Value = Content> {
    let import = "[a-z]{1,5}:[a-z]{1,5}/[a-z]{1,5}@[0-9]\\.[0-9]\\.[0-9]";
    let component = (
        any_grants(),
        any_limits(),
        proptest::collection::btree_set(import, 0..4),
    )
        .prop_map(|(grants, limits, imports)| {
            Content::Component(Component {
                world: "task".parse().unwrap(),
                entry: "entry.wasm".parse().unwrap(),
                grants,
                limits,
                imports: imports.into_iter().collect(),
            })
        });
    let model = "[a-z][a-z0-9-]{0,20}".prop_map(|task| {
        Content::Model(Model {
            task: task.parse().unwrap(),
        })
    });
    let adapter = ("[a-e]{1,63}", any_digest()).prop_map(|(name, digest)| {
        Content::Adapter(Adapter {
            base: Base {
                name: name.parse().unwrap(),
                digest,
            },
        })
    });
    prop_oneof![component, model, adapter]
}

/// Drafts of every kind that keep all rules.
pub(crate) fn any_draft() -> impl Strategy<Value = Draft> {
    let texts = (
        "[a-e]{1,63}",
        (0..5_u64, 0..5_u64, 0..5_u64),
        proptest::option::of("[^\\pC\\p{Zl}\\p{Zp}]{0,100}[a-z]"),
        proptest::option::of("[A-Za-z0-9.() -]{0,50}[a-z]"),
    );
    let files =
        proptest::collection::btree_map(any_path(), (any_digest(), 0..u64::from(u32::MAX)), 1..8);
    (texts, any_content(), files, any::<bool>()).prop_map(|(texts, content, files, readme)| {
        let (name, (major, minor, patch), description, license) = texts;
        let mut files: Vec<_> = files
            .into_iter()
            .map(|(path, (digest, size))| FileEntry { path, digest, size })
            .collect();
        // Random paths end in an extension, so that no one of them is the folder of another.
        let extra = if readme {
            vec![file("entry.wasm"), file("README.md")]
        } else {
            vec![file("entry.wasm")]
        };
        files.retain(|file| file.path.as_str() != "entry.wasm");
        files.extend(extra);
        Draft {
            name: name.parse().unwrap(),
            version: Version::new(major, minor, patch),
            description,
            license,
            readme: readme.then(|| "README.md".parse().unwrap()),
            content,
            files,
        }
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn what_is_signed_is_read_back(draft in any_draft(), seed in any::<u8>()) {
        let signed = draft.clone().sign(&key(seed), None).unwrap();
        let read = SignedRelease::decode(signed.encode()).unwrap();
        prop_assert_eq!(read.release(), signed.release());
        prop_assert_eq!(read.encode(), signed.encode());
        prop_assert_eq!(read.digest(), signed.digest());
        prop_assert_eq!(read.publisher(), key(seed).id());
        prop_assert_eq!(&read.name, &draft.name);
        prop_assert_eq!(&read.content, &draft.content);
        prop_assert_eq!(&read.description, &draft.description);
        prop_assert_eq!(read.files.len(), draft.files.len());
        let files: BTreeSet<_> = read.files.iter().map(|f| (f.path.clone(), f.digest, f.size)).collect();
        prop_assert!(draft.files.iter().all(|f| files.contains(&(f.path.clone(), f.digest, f.size))));
    }

    #[test]
    fn a_flipped_bit_is_refused(draft in any_draft(), position in any::<proptest::sample::Index>(), bit in 0..8) {
        let mut encoding = draft.sign(&key(1), None).unwrap().encode().to_vec();
        let position = position.index(encoding.len());
        encoding[position] ^= 1_u8 << bit;
        prop_assert!(SignedRelease::decode(&encoding).is_err());
    }

    #[test]
    fn a_cut_or_lengthened_encoding_is_refused(draft in any_draft(), cut in any::<proptest::sample::Index>(), tail in any::<u8>()) {
        let encoding = draft.sign(&key(1), None).unwrap().encode().to_vec();
        prop_assert!(SignedRelease::decode(&encoding[..cut.index(encoding.len())]).is_err());
        prop_assert!(SignedRelease::decode(&[&encoding[..], &[tail]].concat()).is_err());
    }

    #[test]
    fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        let _ = SignedRelease::decode(&bytes);
        let _ = decode_body(&bytes);
    }
}

/// Every bit of one release, not only those that chance picks.
#[test]
fn no_bit_of_a_release_can_be_flipped() {
    let encoding = signed(draft("1.0.0")).encode().to_vec();
    for position in 0..encoding.len() {
        for bit in 0..8 {
            let mut flipped = encoding.clone();
            flipped[position] ^= 1_u8 << bit;
            assert!(
                SignedRelease::decode(&flipped).is_err(),
                "byte {position}, bit {bit}"
            );
        }
    }
}
