//! A ledger whose process is killed in the middle of posting: what is there afterwards is a
//! beginning of what was posted, and has all that was acknowledged.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::io::{BufRead as _, BufReader, Write as _};
use std::path::Path;
use std::process::{Command, Stdio};

use skep_evidence::{AccountId, Credits};
use skep_market::{Ledger, Operation, Posted, Terms};
use skep_registry::Digest;

const TERMS: Terms = Terms {
    supply: Credits::from_micro(1_000_000_000_000),
    fine: Credits::from_micro(500),
    reward: 0,
};

const FOLDER: &str = "SKEP_TEST_LEDGER";

/// Every three follow from each other, so that none is refused: operation `n` is entry `n`.
fn operation(number: u64) -> Operation<'static> {
    let who = (number / 3 % 7) as u8;
    let account = AccountId::from_bytes([who; 32]);
    let amount = Credits::from_micro(1 + number % 100);
    let id = Digest::of(&number.to_le_bytes());
    match number % 3 {
        0 => Operation::Deposit {
            id,
            account,
            amount: Credits::from_micro(1_000),
        },
        1 => Operation::Stake {
            id,
            account,
            amount,
        },
        _ => Operation::Escrow {
            id,
            job: Digest::of(&[who]),
            requester: account,
            amount,
        },
    }
}

/// Posts for ever, three at a time, and says each time how many are done.
#[test]
fn post_until_killed() {
    let Some(folder) = std::env::var_os(FOLDER) else {
        // Only the test below runs this for its effect.
        return;
    };
    let mut ledger = Ledger::open(&Path::new(&folder).join("ledger"), TERMS).unwrap();
    let mut output = std::io::stderr();
    loop {
        let first = ledger.len();
        let batch: Vec<_> = (first..first + 3).map(operation).collect();
        for (sequence, outcome) in (first..).zip(ledger.post(&batch).unwrap()) {
            assert_eq!(outcome, Ok(Posted::New { sequence }));
        }
        writeln!(output, "posted {}", ledger.len()).unwrap();
    }
}

#[test]
fn what_was_acknowledged_survives_a_kill() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("ledger");
    let mut known = 0;
    for round in 0..6 {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "post_until_killed", "--nocapture"])
            .env(FOLDER, folder.path())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let mut acknowledged = known;
        let mut heard = 0;
        for line in lines.by_ref() {
            let line = line.unwrap();
            if let Some(rest) = line.strip_prefix("posted ") {
                acknowledged = rest.parse().unwrap();
                heard += 1;
            }
            // Another point of its work each time.
            if heard == 3 + 4 * round {
                break;
            }
        }
        // SIGKILL, while the next batch is being written.
        child.kill().unwrap();
        child.wait().unwrap();
        let ledger = Ledger::open(&path, TERMS).unwrap();
        assert!(
            ledger.len() >= acknowledged,
            "{} of {acknowledged}",
            ledger.len()
        );
        assert_eq!(ledger.total(), u128::from(TERMS.supply.micro()));
        // A beginning of the operations, each whole, in order: the same that a ledger has that
        // nobody killed.
        let calm = tempfile::tempdir().unwrap();
        let mut expected = Ledger::open(&calm.path().join("ledger"), TERMS).unwrap();
        let operations: Vec<_> = (0..ledger.len()).map(operation).collect();
        expected.post(&operations).unwrap();
        assert_eq!(ledger.head(), expected.head());
        known = ledger.len();
    }
    assert!(known > 100);
}
