//! What earlier versions of skep wrote is still read, and means the same: what was signed is kept by both sides of a
//! job, and evidence goes from hand to hand. (Of what a job wrote down, `job/tests/written.rs` says the same.)
//!
//! `written/` has a file for each version that wrote something otherwise, which is never changed: in each line a name and
//! what was written, in hexadecimal digits. With `SKEP_KEEP_WRITTEN` set, the last test writes one for the present
//! version.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use skep_evidence::activations::{Committer, Observer, States};
use skep_evidence::following::{
    Observation, Script, SeenAnswer, SeenText, Shortfall, Transcript, WrittenAnswer, WrittenText,
};
use skep_evidence::{
    AccountKey, Accusation, Agreed, Agreement, Audit, AuditSecret, AuditTerms, Candidate,
    Candidates, Credits, Evidence, FollowedAudit, Handover, Keys, Lease, Meter, Receipt,
    ResultCommitment, Share, Signed, Split, Statement, Tariff, Verdict, Work, judge,
};
use skep_market::hand_over;
use skep_registry::Digest;

fn key(seed: u8) -> AccountKey {
    AccountKey::from_seed(&[seed; 32])
}

fn candidates() -> Candidates {
    let five = (1..=5).map(|seed| Candidate {
        account: key(seed).id(),
        stake: Credits::from_micro(1_000 * u64::from(seed)),
    });
    Candidates::new(five.collect()).unwrap()
}

fn secret() -> AuditSecret {
    AuditSecret::from_bytes([5; 32])
}

/// A lease of one shard; of its texts nobody follows any, or it is the provider's or an auditor's of some that are
/// followed.
fn lease(attempt: u32, provider: u8, followed: bool, follows: Option<Digest>) -> Agreed<Lease> {
    let lease = Lease {
        job: Digest::of(b"job"),
        shard: 0,
        attempt,
        requester: key(1).id(),
        provider: key(provider).id(),
        work: Work {
            package: Digest::of(b"package"),
            model: Some(Digest::of(b"model")),
            adapter: Some(Digest::of(b"adapter")),
            input: Digest::of(b"input"),
            seed: 7,
        },
        tariff: Tariff {
            tokens: 1_000_000,
            flops: 1_000,
            bytes: 10_000,
            residency: 10_000,
        },
        allowance: Meter {
            tokens: 100,
            flops: 1 << 60,
            bytes: 1 << 20,
            residency: 3_600,
        },
        limit: Credits::from_micro(20_000),
        split: Split::new(vec![Share {
            account: key(9).id(),
            parts: 50_000,
        }])
        .unwrap(),
        issued: 1_700_000_000_000,
        deadline: 1_700_003_600_000,
        audit: AuditTerms {
            secret: match follows {
                None => secret().commitment(),
                Some(_) => Digest::of(&[provider]),
            },
            candidates: candidates().digest(),
            rate: 1_000_000,
            panel: 3,
            exact: true,
            followed,
            follows,
        },
    };
    let lease = lease.sign(&key(1)).unwrap();
    lease.accept(&key(provider)).unwrap()
}

fn result(
    lease: &Agreed<Lease>,
    worker: u8,
    output: &[u8],
    shown: Option<Digest>,
) -> Signed<ResultCommitment> {
    let result = ResultCommitment {
        lease: lease.digest(),
        work: lease.work.digest(),
        worker: key(worker).id(),
        output: Digest::of(output),
        meter: Meter {
            tokens: 80,
            flops: 2_000_000_000,
            bytes: 900,
            residency: 3_600,
        },
        activations: shown,
        nonce: [worker; 32],
    };
    result.sign(&key(worker)).unwrap()
}

fn receipt(
    lease: &Agreed<Lease>,
    result: &Signed<ResultCommitment>,
    worker: u8,
) -> Agreed<Receipt> {
    let receipt = Receipt {
        lease: lease.digest(),
        job: lease.job,
        shard: lease.shard,
        sequence: 11,
        provider: lease.provider,
        requester: lease.requester,
        work: lease.work,
        commitment: result.digest(),
        output: result.output,
        meter: result.meter,
        price: lease.tariff.price(&result.meter).unwrap(),
        split: lease.split.clone(),
        started: 1_700_000_001_000,
        finished: 1_700_000_002_000,
    };
    let receipt = receipt.sign(&key(worker)).unwrap();
    receipt.accept(&key(1)).unwrap()
}

/// The states behind a text of so many tokens after a prompt of five; `kind` makes them those of another model.
fn states(tokens: usize, kind: f32) -> Vec<f32> {
    let place = |place: usize| ((place * 37 + 11) % 997) as f32 / 10.0 - 50.0;
    let number = |at| place(at) * if at % 3 == 0 { kind } else { 1.0 };
    (0..(5 + tokens - 1) * 64).map(number).collect()
}

fn transcript() -> Transcript {
    let mut committer = Committer::new(64);
    let states = states(40, 1.0);
    let (prompt, rest) = states.split_at(5 * 64);
    committer.push_prompt(States::F32(prompt)).unwrap();
    committer.end_prompt().unwrap();
    for state in rest.chunks(64) {
        committer.push_token(States::F32(state)).unwrap();
    }
    let text = WrittenText {
        tokens: (0..40).map(|token| token * 1_000).collect(),
        commitments: committer.finish().unwrap(),
    };
    let answer = |number: u8, texts| WrittenAnswer {
        request: Digest::of(&[number]),
        texts,
    };
    Transcript(vec![answer(0, vec![text]), answer(1, Vec::new())])
}

/// What a machine sees of it that computes another model.
fn observation(kind: f32) -> Observation {
    let mut observer = Observer::new(64);
    let states = states(40, kind);
    let (prompt, rest) = states.split_at(5 * 64);
    observer.push_prompt(States::F32(prompt)).unwrap();
    observer.end_prompt().unwrap();
    for state in rest.chunks(64) {
        observer.push_token(States::F32(state)).unwrap();
    }
    let text = SeenText {
        peaks: observer.finish().unwrap(),
        shortfalls: vec![Shortfall {
            place: 3,
            gap: 0.25,
        }],
    };
    let answer = |number: u8, texts| SeenAnswer {
        request: Digest::of(&[number]),
        fits: true,
        texts,
    };
    Observation(vec![answer(0, vec![text]), answer(1, Vec::new())])
}

/// Those who audit a result, in the order of their draw.
fn drawn(result: &Signed<ResultCommitment>) -> Vec<u8> {
    let draw = secret().draw(result.digest());
    let drawn = draw.auditors(&candidates(), 2, &[key(1).id(), key(2).id()]);
    let seed = |account| (1..=5).find(|seed| key(*seed).id() == account).unwrap();
    drawn.into_iter().map(seed).collect()
}

fn divergence() -> Evidence {
    let own = lease(0, 2, false, None);
    let wrong = result(&own, 2, b"wrong", None);
    let audits = drawn(&wrong).into_iter().map(|auditor| {
        let lease = lease(u32::from(auditor), auditor, false, None);
        let result = result(&lease, auditor, b"right", None);
        Audit { lease, result }
    });
    Evidence::Divergence {
        secret: secret(),
        candidates: candidates(),
        audits: audits.collect(),
        result: wrong,
        lease: own,
    }
}

fn unfollowed() -> Evidence {
    let own = lease(0, 2, true, None);
    let transcript = transcript();
    let wrong = result(&own, 2, b"output", Some(transcript.digest()));
    let audits = drawn(&wrong).into_iter().map(|auditor| {
        let follows = Some(transcript.script().digest());
        let lease = lease(u32::from(auditor), auditor, true, follows);
        let seen = observation(7.0);
        FollowedAudit {
            result: result(&lease, auditor, b"output", Some(seen.digest())),
            lease,
            seen,
        }
    });
    Evidence::Unfollowed {
        secret: secret(),
        candidates: candidates(),
        audits: audits.collect(),
        result: wrong,
        transcript,
        lease: own,
    }
}

fn accusation(evidence: &Evidence) -> Signed<Accusation> {
    let accusation = Accusation::new(key(1).id(), key(2).id(), evidence);
    accusation.sign(&key(1)).unwrap()
}

/// All that a provider can be shown to have signed against itself.
fn accusations() -> BTreeMap<&'static str, Evidence> {
    let own = lease(0, 2, false, None);
    let (one, two) = (result(&own, 2, b"1", None), result(&own, 2, b"2", None));
    let (paid, twice) = (receipt(&own, &one, 2), receipt(&own, &two, 2));
    let mut dear = paid.body().clone();
    dear.price = Credits::from_micro(19_999);
    let dear = dear.sign(&key(2)).unwrap();
    let handover = Handover {
        lease: Digest::of(b"another lease"),
        provider: key(2).id(),
        commitment: one.digest(),
        receipt: paid.digest(),
    };
    let handover = handover.sign(&key(2)).unwrap();
    let paid = paid.signed().clone();
    BTreeMap::from([
        (
            "accusation of two results",
            Evidence::TwoResults(one.clone(), two),
        ),
        (
            "accusation of two receipts",
            Evidence::TwoReceipts(paid.clone(), twice.signed().clone()),
        ),
        (
            "accusation of a dear receipt",
            Evidence::ReceiptAgainstLease(own, dear),
        ),
        (
            "accusation of a receipt for another result",
            Evidence::ReceiptAgainstResult(one, twice.signed().clone()),
        ),
        (
            "accusation of an old receipt",
            Evidence::HandoverAgainstReceipt(handover, paid),
        ),
        ("accusation of a divergence", divergence()),
        ("accusation of texts", unfollowed()),
    ])
}

/// All that this version writes, by name.
fn written_now() -> BTreeMap<String, Vec<u8>> {
    let mut written = BTreeMap::new();
    let mut put = |name: &str, bytes: Vec<u8>| written.insert(name.to_owned(), bytes);
    let (plain, followed) = (lease(0, 2, false, None), lease(0, 2, true, None));
    let follows = lease(1, 3, true, Some(transcript().script().digest()));
    put("lease", plain.encode());
    put("lease whose texts are followed", followed.encode());
    put("lease to follow texts", follows.encode());
    let made = result(&plain, 2, b"output", None);
    put("commitment", made.encode());
    let paid = receipt(&plain, &made, 2);
    let handover = hand_over(&plain, made.digest(), paid.digest(), &key(2));
    put("handover", handover.unwrap().encode());
    put("receipt", paid.encode());
    put("candidates", candidates().encode());
    put("transcript", transcript().encode());
    put("script", transcript().script().encode());
    put("observation", observation(7.0).encode());
    for (name, evidence) in accusations() {
        put(name, accusation(&evidence).encode());
    }
    written
}

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/written")
}

fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn bytes(hexadecimal: &str) -> Vec<u8> {
    let digits: Vec<char> = hexadecimal.chars().collect();
    let byte = |two: &[char]| u8::from_str_radix(&two.iter().collect::<String>(), 16).unwrap();
    digits.chunks(2).map(byte).collect()
}

/// What each version wrote, by name.
fn written_before() -> Vec<BTreeMap<String, Vec<u8>>> {
    let files = fs::read_dir(folder())
        .unwrap()
        .map(|entry| entry.unwrap().path());
    let read = |file: PathBuf| {
        let text = fs::read_to_string(file).unwrap();
        let line = |line: &str| {
            let (name, written) = line.split_once(": ").unwrap();
            (name.to_owned(), bytes(written))
        };
        text.lines().map(line).collect()
    };
    files.map(read).collect()
}

/// Reads a statement, and holds that it is written as it was.
fn reads<T: Statement>(written: &[u8]) -> Signed<T> {
    let read = Signed::<T>::decode(written, &mut Keys::default()).unwrap();
    assert_eq!(read.encode(), written);
    read
}

fn reads_agreed<T: Agreement>(written: &[u8]) -> Agreed<T> {
    let read = Agreed::<T>::decode(written, &mut Keys::default()).unwrap();
    assert_eq!(read.encode(), written);
    read
}

#[test]
fn what_was_signed_is_still_what_was_signed() {
    let all = written_before();
    assert!(!all.is_empty());
    for written in all {
        let lease = reads_agreed::<Lease>(&written["lease"]);
        let commitment = reads::<ResultCommitment>(&written["commitment"]);
        let handover = reads::<Handover>(&written["handover"]);
        let receipt = reads_agreed::<Receipt>(&written["receipt"]);
        assert!(commitment.is_under(&lease));
        assert_eq!(receipt.breach_of(&lease), None);
        assert_eq!(receipt.commitment, commitment.digest());
        assert_eq!(
            (handover.lease, handover.receipt),
            (lease.digest(), receipt.digest())
        );
        assert!(
            reads_agreed::<Lease>(&written["lease whose texts are followed"])
                .audit
                .followed
        );
        let follows = reads_agreed::<Lease>(&written["lease to follow texts"]);
        let script = Script::decode(&written["script"]).unwrap();
        assert_eq!(follows.audit.follows, Some(script.digest()));
        let candidates = Candidates::decode(&written["candidates"]).unwrap();
        assert_eq!(candidates.digest(), lease.audit.candidates);
        let transcript = Transcript::decode(&written["transcript"]).unwrap();
        assert_eq!(transcript.script(), script);
        let seen = Observation::decode(&written["observation"]).unwrap();
        assert!(transcript.compare(&seen).is_err());
    }
}

#[test]
fn whoever_was_accused_is_still_found_guilty() {
    for written in written_before() {
        let accusations = written
            .iter()
            .filter(|(name, _)| name.starts_with("accusation"));
        let mut count = 0;
        for (name, written) in accusations {
            let accusation = reads::<Accusation>(written);
            let verdict = judge(&accusation, &mut Keys::default());
            let is_guilty =
                matches!(verdict, Verdict::Guilty { offender, .. } if offender == key(2).id());
            assert!(is_guilty, "{name}: {verdict:?}");
            count += 1;
        }
        assert_eq!(count, self::accusations().len());
    }
}

/// Where it is not, what was written before has to be read all the same: this version gets a file of its own.
#[test]
fn what_is_written_now_is_written_as_one_of_them() {
    let now = written_now();
    if std::env::var_os("SKEP_KEEP_WRITTEN").is_some() {
        let lines = now.iter();
        let lines = lines.map(|(name, written)| format!("{name}: {}\n", hexadecimal(written)));
        let file = folder().join(format!("{}.txt", env!("CARGO_PKG_VERSION")));
        assert!(!file.exists(), "{} is never changed", file.display());
        fs::write(file, lines.collect::<String>()).unwrap();
    }
    let same = written_before().into_iter().any(|written| written == now);
    assert!(
        same,
        "keep the files that are there, and run this once with SKEP_KEEP_WRITTEN set"
    );
}
