//! Fetches a package from the swarm, verifies it and puts it in place.

use std::sync::Arc;

use skep_registry::PackageRef;
use skep_swarm::{
    FetchError, FetchReport, InstallError, Installed as OnDisk, NodeTicket, ProviderAddr,
    ResolveError, Ticket, Want,
};

use super::{ProgressSender, Service, inspect};
use crate::failure::{Failure, FailureKind};
use crate::requests::{Installed, Progress, Response, Unit};

/// Installs and says what moved and what was verified.
pub async fn install(
    service: &Service,
    package: &str,
    from: &[String],
    progress: ProgressSender,
) -> Result<Response, Failure> {
    let (installed, report) = fetch(service, package, from, progress).await?;
    Ok(Response::Installed(Installed {
        installed: inspect::line_of(&installed.release),
        files: report.files as u64,
        bytes_fetched: report.bytes_fetched,
        bytes_present: report.bytes_present,
        chunks_verified: report.chunks_verified,
        seconds: report.seconds,
        providers: report.providers.keys().map(ToString::to_string).collect(),
    }))
}

/// Fetches what a ticket, a name or a digest means.
pub async fn fetch(
    service: &Service,
    package: &str,
    from: &[String],
    progress: ProgressSender,
) -> Result<(OnDisk, FetchReport), Failure> {
    let swarm = service.swarm().await?;
    let mut providers = nodes_of(from)?;
    let (reference, in_ticket) = reference_of(package)?;
    providers.extend(in_ticket);
    if providers.is_empty() {
        let want = match &reference {
            PackageRef::Digest(digest) => Want::Release(*digest),
            PackageRef::Named {
                publisher: Some(publisher),
                name,
                ..
            } => Want::Package {
                publisher: *publisher,
                name: name.clone(),
            },
            // Whose package of that name is meant comes out when nodes say what they offer.
            PackageRef::Named { .. } => Want::Anything,
        };
        providers = swarm.find(&want).await;
    }
    let resolved = swarm
        .resolve_ref(&reference, &providers)
        .await
        .map_err(|error| Failure::of(kind_of_resolve(&error), &error))?;
    // Those that say they are complete come first; the others may have what those lose.
    let mut sources: Vec<ProviderAddr> = resolved.providers;
    for provider in providers {
        if !sources.iter().any(|source| source.id == provider.id) {
            sources.push(provider);
        }
    }
    let stage = format!("fetching {}", resolved.release.name());
    let report = Arc::new(move |step: &skep_swarm::Progress| {
        // A full channel means that nobody can keep up with watching; the next step will do.
        let _ = progress.try_send(Progress {
            stage: stage.clone(),
            done: step.bytes_done,
            total: Some(step.bytes_total),
            unit: Unit::Bytes,
            training: None,
            shard: None,
        });
    });
    swarm
        .install(&resolved.release, &sources, Some(report))
        .await
        .map_err(|error| Failure::of(kind_of_install(&error), &error))
}

/// The nodes that tickets name.
pub fn nodes_of(tickets: &[String]) -> Result<Vec<ProviderAddr>, Failure> {
    let node = |ticket: &String| {
        let parsed: Result<NodeTicket, _> = ticket.parse();
        parsed.map(|ticket| ticket.node).map_err(|error| {
            Failure::new(
                FailureKind::Usage,
                format!(
                    "{ticket:?} is not the ticket of a node, as `skep node` prints it: {error}"
                ),
            )
        })
    };
    tickets.iter().map(node).collect()
}

fn reference_of(package: &str) -> Result<(PackageRef, Vec<ProviderAddr>), Failure> {
    if let Ok(ticket) = package.parse::<Ticket>() {
        let node = ticket.node().clone();
        let Ticket::Package(ticket) = ticket else {
            return Err(Failure::new(
                FailureKind::Usage,
                "this ticket is of a node, not of a package; say what to install, and give the \
                 ticket with --from",
            ));
        };
        let reference = match ticket.release {
            Some(digest) => PackageRef::Digest(digest),
            None => PackageRef::Named {
                publisher: Some(ticket.publisher),
                name: ticket.name,
                version: None,
            },
        };
        return Ok((reference, vec![node]));
    }
    let reference: Result<PackageRef, _> = package.parse();
    // What begins like a ticket and is no name either was one.
    if let (Err(_), Err(error)) = (&reference, package.parse::<Ticket>())
        && package.starts_with("skep1")
    {
        return Err(Failure::of(FailureKind::Usage, &error));
    }
    let reference = reference.map_err(|error| Failure::of(FailureKind::Usage, &error))?;
    Ok((reference, Vec::new()))
}

/// What a caller can do about a package that was not resolved.
pub fn kind_of_resolve(error: &ResolveError) -> FailureKind {
    match error {
        ResolveError::NoProviders { .. }
        | ResolveError::NotFound { .. }
        | ResolveError::NoVersion { .. } => FailureKind::NotFound,
        ResolveError::Ambiguous { .. } => FailureKind::Usage,
        ResolveError::Disk { .. } => FailureKind::Failed,
        // Whatever else there is was shown and does not hold.
        _ => FailureKind::Refused,
    }
}

fn kind_of_install(error: &InstallError) -> FailureKind {
    match error {
        InstallError::Fetch(FetchError::NoProviders { .. } | FetchError::Exhausted { .. }) => {
            FailureKind::NotFound
        }
        InstallError::Fetch(FetchError::TooLarge { .. } | FetchError::Size { .. }) => {
            FailureKind::Refused
        }
        _ => FailureKind::Failed,
    }
}
