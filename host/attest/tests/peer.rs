//! Quotes beside AMD's own verifier, the crate `sev`: a report of a real processor and the real
//! chains of certificates that it is published with, read from where cargo has put that crate.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::path::PathBuf;
use std::process::Command;
use std::sync::LazyLock;

use data_encoding::BASE64;
use proptest::prelude::*;
use sev::certs::snp::{Chain, Verifiable as _};
use sev::firmware::guest::AttestationReport;
use sev::parser::ByteParser as _;
use skep_attest::{
    Attested, Claims, Endorsement, NotAttested, Quote as _, QuoteError, REPORT_BYTES, Requirement,
    Roots, SnpQuote, Unmet, binding,
};

/// In 2025: within the time of every certificate here.
const NOW: u64 = 1_750_000_000;

/// The folder of the peer's sources, at the version that the lock file names.
fn published(name: &str) -> Vec<u8> {
    static FOLDER: LazyLock<PathBuf> = LazyLock::new(|| {
        let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
        let version = Command::new("rustc").arg("-vV").output().unwrap();
        let version = String::from_utf8(version.stdout).unwrap();
        let host = version.lines().find_map(|line| line.strip_prefix("host: "));
        // Of this platform alone: of others not everything need be there.
        let output = Command::new(cargo)
            .args(["metadata", "--format-version=1", "--locked"])
            .args(["--filter-platform", host.unwrap()])
            .args([
                "--manifest-path",
                concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml"),
            ])
            .output()
            .unwrap();
        let complaint = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{complaint}");
        let said: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        let packages = said["packages"].as_array().unwrap();
        let peer = packages.iter().find(|package| package["name"] == "sev");
        let manifest = PathBuf::from(peer.unwrap()["manifest_path"].as_str().unwrap());
        manifest.parent().unwrap().to_path_buf()
    });
    let path = FOLDER.join(name);
    std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// What is between the lines of a text's certificates, in their order.
fn der_of(pem: &[u8]) -> Vec<Vec<u8>> {
    let text = std::str::from_utf8(pem).unwrap();
    let bodies = text.split("-----BEGIN CERTIFICATE-----").skip(1);
    let body = |part: &str| {
        let body = part.split("-----END").next().unwrap();
        BASE64
            .decode(body.split_whitespace().collect::<String>().as_bytes())
            .unwrap()
    };
    bodies.map(body).collect()
}

/// Processor first, root last.
fn chain(product: &str) -> [Vec<u8>; 3] {
    let authorities = published(&format!("tests/certs_data/cert_chain_{product}"));
    let [intermediate, root] = der_of(&authorities).try_into().unwrap();
    let processor = published(&format!("tests/certs_data/vcek_{product}.der"));
    [processor, intermediate, root]
}

fn report() -> Vec<u8> {
    let text = published("tests/certs_data/report_milan.hex");
    let text = std::str::from_utf8(&text).unwrap().trim();
    let byte = |at: usize| u8::from_str_radix(&text[at..at + 2], 16).unwrap();
    (0..text.len()).step_by(2).map(byte).collect()
}

static MILAN: LazyLock<[Vec<u8>; 3]> = LazyLock::new(|| chain("milan"));
static REPORT: LazyLock<Vec<u8>> = LazyLock::new(report);

fn ours(report: &[u8], chain: &[Vec<u8>; 3]) -> Result<Claims, QuoteError> {
    SnpQuote::new(report, chain.clone())?.check(&Roots::amd(), NOW)
}

fn theirs(report: &[u8], chain: &[Vec<u8>; 3]) -> Option<AttestationReport> {
    let [processor, intermediate, root] = chain;
    let chain = Chain::from_der(root, intermediate, processor).ok()?;
    let report = AttestationReport::from_bytes(report).ok()?;
    (&chain, &report).verify().ok()?;
    Some(report)
}

#[test]
fn a_real_report_says_what_the_peer_reads_in_it() {
    let claims = ours(&REPORT, &MILAN).unwrap();
    let peer = theirs(&REPORT, &MILAN).unwrap();
    assert_eq!(claims.measurement[..], peer.measurement[..]);
    assert_eq!(claims.bound[..], peer.report_data[..]);
    assert_eq!(claims.privilege, peer.vmpl);
    assert_eq!(claims.debugged, peer.policy.debug_allowed());
    assert_eq!(claims.migratable, peer.policy.migrate_ma_allowed());
    assert_eq!(claims.firmware.boot_loader, peer.reported_tcb.bootloader);
    assert_eq!(claims.firmware.tee, peer.reported_tcb.tee);
    assert_eq!(claims.firmware.snp, peer.reported_tcb.snp);
    assert_eq!(claims.firmware.microcode, peer.reported_tcb.microcode);
    assert_eq!(claims.firmware.fmc, peer.reported_tcb.fmc);
    assert!(claims.product.starts_with("Milan"), "{}", claims.product);
    // And it was made for whoever asked for it then, and for nobody else.
    let asked = Requirement::default();
    assert_eq!(
        asked.admit(&claims, &binding(&[1; 32], &[2; 32])),
        Err(Unmet::Bound)
    );
}

#[test]
fn the_roots_that_are_trusted_are_those_that_amd_publishes() {
    for product in ["milan", "genoa", "turin"] {
        let folder = format!("src/certs/snp/builtin/{product}");
        let [root] = der_of(&published(&format!("{folder}/ark.pem")))
            .try_into()
            .unwrap();
        let [ask] = der_of(&published(&format!("{folder}/ask.pem")))
            .try_into()
            .unwrap();
        // The chain holds as far as its two authorities go: neither is a processor.
        let found = Endorsement::of([&ask, &ask, &root], &Roots::amd(), NOW);
        assert!(
            matches!(
                found,
                Err(QuoteError::Certificate {
                    whose: "the processor (VCEK)",
                    ..
                })
            ),
            "{product}: {found:?}"
        );
        let nobody = Endorsement::of([&ask, &ask, &root], &Roots::of([]), NOW);
        assert!(matches!(nobody, Err(QuoteError::UnknownRoot { .. })));
    }
}

#[test]
fn processors_of_two_generations_are_endorsed() {
    let refs = |chain: &[Vec<u8>; 3]| {
        Endorsement::of(chain.each_ref().map(Vec::as_slice), &Roots::amd(), NOW)
    };
    let milan = refs(&MILAN).unwrap();
    assert_eq!((milan.hardware.len(), milan.firmware.fmc), (64, None));
    let turin = refs(&chain("turin")).unwrap();
    assert!(turin.product.starts_with("Turin"), "{}", turin.product);
    assert_eq!(turin.hardware.len(), 8);
    assert!(turin.firmware.fmc.is_some());
    // A processor of one generation under the authorities of another.
    let [processor, ..] = MILAN.clone();
    let [_, intermediate, root] = chain("turin");
    assert!(refs(&[processor, intermediate, root]).is_err());
}

#[test]
fn certificates_count_from_their_first_second_to_their_last() {
    let quote = SnpQuote::new(&REPORT, MILAN.clone()).unwrap();
    for (now, counts) in [(0, false), (NOW, true), (1 << 40, false), (u64::MAX, false)] {
        let found = quote.check(&Roots::amd(), now);
        assert_eq!(found.is_ok(), counts, "{now}: {found:?}");
    }
}

#[test]
fn a_changed_bit_anywhere_in_what_is_signed_is_found() {
    const SIGNED: usize = 0x2A0;
    for byte in 0..SIGNED + 2 * 72 {
        let mut changed = REPORT.clone();
        changed[byte] ^= 1 << (byte % 8);
        assert!(ours(&changed, &MILAN).is_err(), "byte {byte:#x}");
    }
    assert!(ours(&REPORT, &MILAN).is_ok());
}

#[test]
fn quotes_are_read_as_they_were_written_and_their_parts_are_not() {
    let quote = SnpQuote::new(&REPORT, MILAN.clone()).unwrap();
    let bytes = quote.encode();
    let read = SnpQuote::decode(&bytes).unwrap();
    assert_eq!(read.encode(), bytes);
    assert_eq!(
        read.check(&Roots::amd(), NOW),
        quote.check(&Roots::amd(), NOW)
    );
    for length in 0..bytes.len() {
        assert!(SnpQuote::decode(&bytes[..length]).is_err(), "{length}");
    }
    let longer = [&bytes[..], &[0]].concat();
    assert!(SnpQuote::decode(&longer).is_err());
    let huge = vec![0; skep_attest::MAX_QUOTE + 1];
    assert!(matches!(
        SnpQuote::decode(&huge),
        Err(QuoteError::TooLong { .. })
    ));
}

#[test]
fn a_real_quote_labels_whom_it_was_made_for_and_nobody_else() {
    let quote = SnpQuote::new(&REPORT, MILAN.clone()).unwrap().encode();
    // Whoever had it made chose these: they stand for the account and the question of then.
    let bound: [u8; 64] = theirs(&REPORT, &MILAN).unwrap().report_data[..]
        .try_into()
        .unwrap();
    let label = |asked: &Requirement, bound: &[u8; 64], now| {
        Attested::of::<SnpQuote>(&quote, &Roots::amd(), asked, bound, now)
    };
    let any = Requirement::default();
    let attested = label(&any, &bound, NOW).unwrap();
    assert_eq!(attested.format, "AMD SEV-SNP");
    assert_eq!(attested.claims, ours(&REPORT, &MILAN).unwrap());

    // Of another account, and of the same at another question, it says nothing.
    for (account, challenge) in [([1; 32], [2; 32]), ([1; 32], [3; 32]), ([4; 32], [2; 32])] {
        let found = label(&any, &binding(&account, &challenge), NOW);
        assert_eq!(found, Err(NotAttested::Unmet(Unmet::Bound)));
    }
    // Its processor's certificate is the first of the chain that expires: in April 2030.
    let until = attested.claims.until;
    assert_eq!(until, 1_901_474_623);
    assert_eq!(label(&any, &bound, until), Ok(attested.clone()));
    assert!(matches!(
        label(&any, &bound, until + 1),
        Err(NotAttested::Quote(QuoteError::Certificate { whose, .. })) if whose.contains("VCEK")
    ));
    // Where software is named, it has to be one of those.
    let measurement = attested.claims.measurement;
    let naming = |measurements: &[[u8; 48]]| Requirement {
        measurements: measurements.iter().copied().collect(),
        ..any.clone()
    };
    assert_eq!(
        label(&naming(&[[0; 48], measurement]), &bound, NOW),
        Ok(attested)
    );
    let unknown = Unmet::Measurement(Box::new(measurement));
    assert_eq!(
        label(&naming(&[[0; 48]]), &bound, NOW),
        Err(NotAttested::Unmet(unknown))
    );
    // Whom nobody here trusts labels nobody.
    let untrusted = Attested::of::<SnpQuote>(&quote, &Roots::of([]), &any, &bound, NOW);
    assert!(matches!(
        untrusted,
        Err(NotAttested::Quote(QuoteError::UnknownRoot { .. }))
    ));
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(64) })]

    /// Whatever is done to a certificate, what the peer refuses is refused here.
    #[test]
    fn what_the_peer_refuses_is_refused(which in 0..3_usize, at in any::<proptest::sample::Index>(), with in 1..=255_u8) {
        let mut chain = MILAN.clone();
        let place = at.index(chain[which].len());
        chain[which][place] ^= with;
        if ours(&REPORT, &chain).is_ok() {
            prop_assert!(theirs(&REPORT, &chain).is_some());
        }
    }

    #[test]
    fn bytes_of_strangers_are_refused_and_nothing_else(bytes in proptest::collection::vec(any::<u8>(), 0..4096), keep in any::<bool>()) {
        let real = SnpQuote::new(&REPORT, MILAN.clone()).unwrap().encode();
        let bytes = match keep {
            true => [&real[..REPORT_BYTES], &bytes].concat(),
            false => bytes,
        };
        if let Ok(quote) = SnpQuote::decode(&bytes) {
            prop_assert!(quote.check(&Roots::amd(), NOW).is_err());
        }
    }
}
