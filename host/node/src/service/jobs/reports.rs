//! Reports that this node's own processor makes: for those who ask, and for the owner to see that it can.
//!
//! Anybody may ask, and every question takes a report of its own: one that was made for another question
//! shows nothing. So they are counted, by who asks and in all.
//!
//! # What it must never do
//!
//! - Have a report made for another account than this node's.
//! - Let strangers keep the processor, or the program, at it without end.

use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use skep_attest::{Attested, Quote as _, Requirement, SnpQuote, binding};
use skep_evidence::AccountId;
use skep_market::Refusal;
use skep_swarm::NodeId;
use tokio::process::Command;

use super::attest::line_of;
use super::found::{AGAIN, BELIEVED};
use super::{money, now, random};
use crate::config::Attestation;
use crate::failure::{Failure, FailureKind};
use crate::requests::hardware::{AttestedLine, Hardware};
use crate::service::Service;

/// How long making a report may take.
const MAKING: Duration = Duration::from_secs(30);
/// How long the owner waits for one, behind others who ask.
const OWN: Duration = Duration::from_secs(60);
/// The most bytes of a file that the program leaves.
const MOST: u64 = 8 << 10;
/// The time in which reports are counted: for so long whoever asked need not ask again.
const COUNTED: Duration = BELIEVED;
/// How many one node gets in that time. A requester that finds no quote to hold asks once a minute.
const EACH: usize = 12;
/// How many all together get.
const ALL: usize = 120;

/// The reports of this node.
#[derive(Default)]
pub struct Reports {
    /// One at a time: it takes a processor a while.
    making: tokio::sync::Mutex<()>,
    lately: Mutex<Lately>,
    /// What its owner was last told, and when that was found.
    own: tokio::sync::Mutex<Option<(Instant, Hardware)>>,
}

impl Reports {
    /// A quote for a node that asks with this challenge.
    pub async fn for_peer(
        &self,
        attestation: &Attestation,
        account: AccountId,
        challenge: &[u8; 32],
        peer: NodeId,
    ) -> Result<Vec<u8>, Refusal> {
        if !attestation.command.is_empty() {
            let mut lately = self.lately.lock().unwrap_or_else(PoisonError::into_inner);
            if !lately.admit(peer, Instant::now()) {
                return Err(Refusal::Busy);
            }
        }
        let made = self.make(attestation, account, challenge).await;
        made.map_err(|failure| Refusal::NoHardware(failure.message))
    }

    /// What this node runs on as others find it who trust the same roots and ask for nothing else. It is
    /// looked at anew when that was a while ago.
    pub async fn own(&self, service: &Service) -> Hardware {
        if service.config.attestation.command.is_empty() {
            return Hardware::default();
        }
        let mut own = self.own.lock().await;
        if let Some((at, hardware)) = &*own {
            let lasts = match hardware.attested {
                Some(_) => BELIEVED,
                None => AGAIN,
            };
            if at.elapsed() < lasts {
                return hardware.clone();
            }
        }
        let (attested, not_attested) = match tokio::time::timeout(OWN, self.show(service)).await {
            Ok(Ok(line)) => (Some(line), None),
            Ok(Err(failure)) => (None, Some(failure.message)),
            Err(_) => (
                None,
                Some("its processor is kept busy by others".to_owned()),
            ),
        };
        let hardware = Hardware {
            attested,
            not_attested,
        };
        *own = Some((Instant::now(), hardware.clone()));
        hardware
    }

    async fn show(&self, service: &Service) -> Result<AttestedLine, Failure> {
        let attestation = &service.config.attestation;
        let (account, challenge) = (money::account(service)?.id(), random()?);
        let quote = self.make(attestation, account, &challenge).await?;
        let attested = Attested::of::<SnpQuote>(
            &quote,
            &attestation.trusted(),
            // What its owner asks of others is not asked of it.
            &Requirement::default(),
            &binding(account.as_bytes(), &challenge),
            now() / 1000,
        );
        let attested = attested.map_err(|error| Failure::of(FailureKind::Refused, &error))?;
        Ok(line_of(&attested))
    }

    /// Has the processor sign the bytes that are for this account and this question.
    async fn make(
        &self,
        attestation: &Attestation,
        account: AccountId,
        challenge: &[u8; 32],
    ) -> Result<Vec<u8>, Failure> {
        let Some((program, arguments)) = attestation.command.split_first() else {
            let reason = "this node has no hardware that it could show";
            return Err(Failure::new(FailureKind::NotFound, reason));
        };
        let _alone = self.making.lock().await;
        let request = binding(account.as_bytes(), challenge);
        run(program, arguments, &request).await
    }
}

/// When reports were made lately, and for whom.
#[derive(Debug, Default)]
struct Lately(VecDeque<(Instant, NodeId)>);

impl Lately {
    /// Whether one more may be made for this node, which is counted then.
    fn admit(&mut self, peer: NodeId, now: Instant) -> bool {
        let is_past = |at: &Instant| now.duration_since(*at) >= COUNTED;
        while self.0.front().is_some_and(|(at, _)| is_past(at)) {
            self.0.pop_front();
        }
        let its = self.0.iter().filter(|(_, who)| *who == peer).count();
        let admits = self.0.len() < ALL && its < EACH;
        if admits {
            self.0.push_back((now, peer));
        }
        admits
    }
}

/// Runs the program that makes a report, in a folder of its own, and returns the quote that it left.
async fn run(program: &Path, arguments: &[PathBuf], request: &[u8]) -> Result<Vec<u8>, Failure> {
    let failed = |reason: String| Failure::new(FailureKind::Failed, reason);
    // Whoever asked hears this too, and where the program and its folder are is nothing to them.
    let called = program.file_name().unwrap_or(program.as_os_str());
    let called = Path::new(called).display();
    let folder = tempfile::tempdir().map_err(|error| {
        let kind = error.kind();
        failed(format!("cannot make a folder for a report: {kind}"))
    })?;
    std::fs::write(folder.path().join("request"), request)
        .map_err(|error| failed(format!("cannot write the request for a report: {error}")))?;
    let made = Command::new(program)
        .args(arguments)
        .current_dir(folder.path())
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .status();
    let ended = tokio::time::timeout(MAKING, made)
        .await
        .map_err(|_| failed(format!("{called} took too long")))?
        .map_err(|error| failed(format!("cannot run {called}: {error}")))?;
    if !ended.success() {
        return Err(failed(format!("{called} made no report: {ended}")));
    }
    let report = file(folder.path(), "report")?;
    let chain = [
        file(folder.path(), "vcek.der")?,
        file(folder.path(), "ask.der")?,
        file(folder.path(), "ark.der")?,
    ];
    let quote = SnpQuote::new(&report, chain).map_err(|error| failed(error.to_string()))?;
    Ok(quote.encode())
}

fn file(folder: &Path, name: &str) -> Result<Vec<u8>, Failure> {
    let path = folder.join(name);
    let wrong = |reason: String| {
        let reason = format!("the program for reports left no {name} that can be used: {reason}");
        Failure::new(FailureKind::Failed, reason)
    };
    let length = std::fs::metadata(&path)
        .map_err(|error| wrong(error.to_string()))?
        .len();
    if length > MOST {
        return Err(wrong(format!("it has {length} bytes")));
    }
    std::fs::read(&path).map_err(|error| wrong(error.to_string()))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use skep_evidence::AccountKey;

    use super::*;

    fn node(number: u64) -> NodeId {
        let mut seed = [0; 32];
        seed[..8].copy_from_slice(&number.to_le_bytes());
        let key = AccountKey::from_seed(&seed);
        NodeId::from_bytes(key.id().as_bytes()).unwrap()
    }

    #[test]
    fn one_stranger_gets_so_many_reports_and_all_together_so_many() {
        let (mut lately, start) = (Lately::default(), Instant::now());
        let admitted = (0..100).filter(|_| lately.admit(node(0), start)).count();
        assert_eq!(admitted, EACH);
        assert!(
            lately.admit(node(1), start),
            "another is not kept out by it"
        );
        // Names of nodes are free, so there is an end for all of them too.
        let late = start + Duration::from_secs(1);
        let admitted = (2..1000).filter(|n| lately.admit(node(*n), late)).count();
        assert_eq!(admitted, ALL - EACH - 1);
        assert_eq!(lately.0.len(), ALL);
        // Room comes back as time passes.
        let before = start + COUNTED - Duration::from_millis(1);
        assert!(!lately.admit(node(0), before));
        assert!(lately.admit(node(0), start + COUNTED));
        let admitted = (2..1000).filter(|n| lately.admit(node(*n), start + COUNTED));
        assert_eq!(admitted.count(), EACH);
        assert!(lately.0.len() <= ALL);
    }
}
