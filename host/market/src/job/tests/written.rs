//! What earlier versions of skep wrote into journals is still read, so that a job goes on after its node was updated.
//!
//! `tests/journals/` has a file for each version that wrote something otherwise, which is never changed: in each line
//! an event, in hexadecimal digits. With `SKEP_KEEP_WRITTEN` set, the last test writes one for the present version.

use std::fs;
use std::path::{Path, PathBuf};

use super::*;

/// A job of which the first shard is paid, the second is audited, and the third was called off.
fn events() -> Vec<Event> {
    let at = |shard, attempt| AttemptId { shard, attempt };
    let leased = |id: AttemptId, provider, audits| Event::Leased {
        id,
        at: 1_000,
        provider: account(provider),
        limit: credits(100),
        lease: Digest::of(&[id.shard as u8, id.attempt as u8]),
        audits,
        encoding: b"a lease".to_vec(),
    };
    let delivered = |id, auditors: &[u8]| Event::Delivered {
        id,
        at: 1_100,
        output: Digest::of(b"output"),
        claim: Digest::of(b"claim"),
        bytes: 6,
        price: credits(40),
        auditors: auditors.iter().map(|seed| account(*seed)).collect(),
        only_if_odd: false,
        receipt: b"a receipt".to_vec(),
    };
    let audited = |id| Event::Audited {
        id,
        at: 1_200,
        finding: Finding::Passed,
    };
    vec![
        leased(at(0, 0), 2, None),
        leased(at(1, 0), 3, None),
        leased(at(2, 0), 4, None),
        delivered(at(0, 0), &[3, 4]),
        leased(at(0, 1), 3, Some(0)),
        delivered(at(0, 1), &[]),
        audited(at(0, 1)),
        audited(at(0, 0)),
        Event::Paid {
            id: at(0, 0),
            at: 1_300,
        },
        Event::Assembled {
            shard: 0,
            at: 1_301,
        },
        delivered(at(1, 0), &[2, 4]),
        Event::Failed {
            id: at(2, 0),
            at: 1_400,
        },
        leased(at(2, 1), 2, None),
        Event::Withdrawn {
            id: at(2, 1),
            at: 1_500,
        },
    ]
}

/// The end of another.
fn end() -> Event {
    Event::GaveUp {
        at: 1_600,
        why: GaveUp::Attempts { shard: 2 },
    }
}

fn written_now() -> Vec<Vec<u8>> {
    let events = events().into_iter().chain([end()]);
    events.map(|event| event.encode()).collect()
}

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/journals")
}

/// What each version wrote.
fn written_before() -> Vec<Vec<Vec<u8>>> {
    let entries = fs::read_dir(folder()).unwrap();
    let byte = |two: &[u8]| u8::from_str_radix(std::str::from_utf8(two).unwrap(), 16).unwrap();
    let read = |file: PathBuf| {
        let text = fs::read_to_string(file).unwrap();
        let lines = text.lines();
        lines
            .map(|line| line.as_bytes().chunks(2).map(byte).collect())
            .collect()
    };
    entries.map(|entry| read(entry.unwrap().path())).collect()
}

#[test]
fn a_job_goes_on_from_what_was_written_of_it() {
    let all = written_before();
    assert!(!all.is_empty());
    for written in all {
        let read = written.iter().map(|event| Event::decode(event).unwrap());
        let mut events: Vec<Event> = read.collect();
        for (event, written) in events.iter().zip(&written) {
            assert_eq!(event.encode(), *written);
        }
        assert_eq!(events.pop(), Some(end()));
        let plan = plan(3, 1);
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("journal.redb");
        let (mut journal, _) = Journal::open(&path, plan.job).unwrap();
        journal.append(&events).unwrap();
        drop(journal);
        let (_journal, read) = Journal::open(&path, plan.job).unwrap();
        assert_eq!(read, events);
        let job = Job::resume(plan, &read).unwrap();
        assert_eq!((job.finished(), job.assembled()), (1, 1));
        // The auditor of the first shard is still to be paid, and the second is looked at.
        let id = AttemptId {
            shard: 0,
            attempt: 1,
        };
        let is_its = |outstanding: &Outstanding<'_>| matches!(outstanding, Outstanding::Pay { id: its, .. } if *its == id);
        assert!(job.outstanding().iter().any(is_its));
        assert_eq!((job.spent(), job.reserved()), (credits(80), credits(40)));
    }
}

/// Where it is not, what was written before has to be read all the same: this version gets a file of its own.
#[test]
fn what_is_written_now_is_written_as_one_of_them() {
    let now = written_now();
    if std::env::var_os("SKEP_KEEP_WRITTEN").is_some() {
        let line = |event: &Vec<u8>| {
            let digits = event.iter().map(|byte| format!("{byte:02x}"));
            digits.collect::<String>() + "\n"
        };
        let file = folder().join(format!("{}.txt", env!("CARGO_PKG_VERSION")));
        assert!(!file.exists(), "{} is never changed", file.display());
        fs::write(file, now.iter().map(line).collect::<String>()).unwrap();
    }
    assert!(
        written_before().contains(&now),
        "keep the files that are there, and run this once with SKEP_KEEP_WRITTEN set"
    );
}
