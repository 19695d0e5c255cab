//! What other nodes show of their hardware: asked for, and held against what this node itself trusts.
//!
//! A quote is for one account and one question. What is sealed to that account afterwards can be
//! opened by whoever has its key, which is why that key belongs into the machine that is attested.
//! Jobs that are for attested nodes alone ask before a shard goes anywhere; all others ask those who
//! work on them, beside the work, and only show what was found.
//!
//! # What it must never do
//!
//! - Take a node's word for what it runs on.

use std::sync::Arc;
use std::time::{Duration, Instant};

use skep_attest::{Attested, Firmware, NotAttested, SnpQuote, binding};
use skep_evidence::AccountId;
use skep_market::{Answer, Ask, said};
use skep_swarm::{ProviderAddr, Swarm};

use super::around::Quotes;
use super::found::Finding;
use super::talk::{TalkError, hear};
use super::{now, random};
use crate::requests::hardware::{AttestedLine, FirmwareLine};
use crate::service::Service;

/// How long a node may take to show a quote, whoever else asks it at the time.
const SHOWING: Duration = Duration::from_secs(60);

/// Of those that would take a shard, only who shows hardware that is believed here. The others'
/// answers become why not.
pub async fn attested(service: &Arc<Service>, swarm: &Swarm, quotes: Quotes) -> Quotes {
    let mut checking = tokio::task::JoinSet::new();
    for (node, quote) in quotes {
        let (service, swarm) = (Arc::clone(service), swarm.clone());
        checking.spawn(async move {
            let Ok(quotation) = quote else {
                return (node, quote);
            };
            let account = AccountId::from_bytes(quotation.account);
            let quote = match find(&service, &swarm, &node, account).await {
                Finding::Attested(_) => Ok(quotation),
                Finding::Refuted(why) | Finding::Nothing(why) => Err(TalkError::NotAttested(why)),
            };
            (node, quote)
        });
    }
    checking.join_all().await
}

/// What a node runs on that says that this account is its own: as it was found lately, or as its quote
/// now shows.
pub async fn find(
    service: &Service,
    swarm: &Swarm,
    node: &ProviderAddr,
    account: AccountId,
) -> Finding {
    let who = (node.id, account);
    let found = &service.jobs.found;
    if let Some(finding) = found.recall(who, Instant::now()) {
        return finding;
    }
    let asked = tokio::time::timeout(SHOWING, ask(service, swarm, node, account));
    let finding = match asked.await {
        Ok(Ok(Ok(attested))) => Finding::Attested(line_of(&attested)),
        Ok(Ok(Err(why))) => Finding::Refuted(why.to_string()),
        // Who is not there may be the next moment.
        Ok(Err(TalkError::Channel(error))) => return Finding::Nothing(error.to_string()),
        Ok(Err(error)) => Finding::Nothing(error.to_string()),
        Err(_) => Finding::Nothing("it takes too long to show what it runs on".to_owned()),
    };
    found.keep(who, finding.clone(), Instant::now());
    finding
}

/// Has a node show a quote, and holds it against what is trusted here.
async fn ask(
    service: &Service,
    swarm: &Swarm,
    node: &ProviderAddr,
    account: AccountId,
) -> Result<Result<Attested, NotAttested>, TalkError> {
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
    let attestation = &service.config.attestation;
    Ok(Attested::of::<SnpQuote>(
        &quote,
        &attestation.trusted(),
        &attestation.requirement(),
        &binding(account.as_bytes(), &challenge),
        now() / 1000,
    ))
}

/// A label as it is answered, of a quote that was checked just now.
pub(super) fn line_of(attested: &Attested) -> AttestedLine {
    let claims = &attested.claims;
    let Firmware {
        fmc,
        boot_loader,
        tee,
        snp,
        microcode,
    } = claims.firmware;
    AttestedLine {
        format: attested.format.to_owned(),
        product: said(&claims.product),
        measurement: hex::encode(claims.measurement),
        firmware: FirmwareLine {
            fmc,
            boot_loader,
            tee,
            snp,
            microcode,
        },
        checked_ms: now(),
        certified_until_ms: claims.until.saturating_mul(1000),
    }
}
