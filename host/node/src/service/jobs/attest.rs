//! Quotes of hardware: made here when a requester asks, and asked for where a job goes only to nodes
//! that show one.
//!
//! A quote is for one account and one question. What is sealed to that account afterwards can be
//! opened by whoever has its key, which is why that key belongs into the machine that is attested.

use std::path::Path;
use std::process::Stdio;
use std::sync::Arc;
use std::time::{Duration, Instant};

use skep_attest::{Quote as _, QuoteError, SnpQuote, Unmet, binding};
use skep_evidence::AccountId;
use skep_market::{Answer, Ask, Quotation};
use skep_swarm::{ProviderAddr, Swarm};
use tokio::process::Command;

use super::around::Quotes;
use super::talk::{TalkError, hear};
use super::{now, random};
use crate::config::Attestation;
use crate::failure::{Failure, FailureKind};
use crate::service::Service;

/// How long making a report may take.
const MAKING: Duration = Duration::from_secs(30);
/// How long a quote that held is believed.
const BELIEVED: Duration = Duration::from_secs(10 * 60);
/// The most bytes of a file that the program leaves.
const MOST: u64 = 8 << 10;

/// Why a node does not count as attested.
#[derive(Debug, thiserror::Error)]
pub enum NotAttested {
    /// Its quote does not hold.
    #[error("what it shows of its hardware does not hold: {0}")]
    Quote(#[from] QuoteError),
    /// It holds, and says something else than was asked for.
    #[error("its hardware is not what is asked for: {0}")]
    Unmet(#[from] Unmet),
}

/// Has the processor sign the bytes that are for this account and this question.
pub async fn make(
    attestation: &Attestation,
    account: AccountId,
    challenge: &[u8; 32],
) -> Result<Vec<u8>, Failure> {
    let failed = |reason: String| Failure::new(FailureKind::Failed, reason);
    let Some((program, arguments)) = attestation.command.split_first() else {
        let reason = "this node has no hardware that it could show";
        return Err(Failure::new(FailureKind::NotFound, reason));
    };
    let folder = tempfile::tempdir()
        .map_err(|error| failed(format!("cannot make a folder for a report: {error}")))?;
    let request = binding(account.as_bytes(), challenge);
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
        .map_err(|_| failed(format!("{} took too long", program.display())))?
        .map_err(|error| failed(format!("cannot run {}: {error}", program.display())))?;
    if !ended.success() {
        return Err(failed(format!(
            "{} made no report: {ended}",
            program.display()
        )));
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

/// Of those that would take a shard, only who shows hardware that is believed here. The others'
/// answers become why not.
pub async fn attested(service: &Arc<Service>, swarm: &Swarm, quotes: Quotes) -> Quotes {
    let mut checking = tokio::task::JoinSet::new();
    for (node, quote) in quotes {
        let (service, swarm) = (Arc::clone(service), swarm.clone());
        checking.spawn(async move {
            let quote = match quote {
                Ok(quotation) => check(&service, &swarm, &node, &quotation)
                    .await
                    .map(|()| quotation),
                Err(error) => Err(error),
            };
            (node, quote)
        });
    }
    checking.join_all().await
}

async fn check(
    service: &Service,
    swarm: &Swarm,
    node: &ProviderAddr,
    quotation: &Quotation,
) -> Result<(), TalkError> {
    let account = AccountId::from_bytes(quotation.account);
    let since = service.jobs.attested().get(&account).copied();
    if since.is_some_and(|since: Instant| since.elapsed() < BELIEVED) {
        return Ok(());
    }
    let challenge = random().map_err(|_| TalkError::Broken)?;
    let mut channel = swarm.converse(node).await?;
    channel.say(&Ask::Attest { challenge }.encode()?).await?;
    let quote = loop {
        match hear(&mut channel).await? {
            Answer::Working { .. } => {}
            Answer::Attested { quote } => break quote,
            _ => return Err(TalkError::OutOfTurn),
        }
    };
    let believed = || -> Result<(), NotAttested> {
        let attestation = &service.config.attestation;
        let claims = SnpQuote::decode(&quote)?.check(&attestation.trusted(), now() / 1000)?;
        let bound = binding(account.as_bytes(), &challenge);
        Ok(attestation.requirement().admit(&claims, &bound)?)
    };
    believed()?;
    service.jobs.attested().insert(account, Instant::now());
    Ok(())
}
