//! Takes an adapter away from this node: what was installed and what was published here.
//!
//! The history of a package stays, because it is what a publisher said; publishing goes on from it.

use skep_swarm::PackageError;

use super::{Service, inspect, locate};
use crate::failure::{Failure, FailureKind};
use crate::requests::{Removed, Response};

/// Removes every release of the adapter's package. Runs that have one open keep it.
pub async fn adapter(service: &Service, package: &str) -> Result<Response, Failure> {
    let installed = locate::installed(service, package).await?;
    let meant = installed.release;
    if meant.adapter().is_none() {
        let kind = inspect::kind_of(meant.content());
        return Err(Failure::new(
            FailureKind::Usage,
            format!("{package} is a package of kind {kind}, and this removes adapters"),
        ));
    }
    let swarm = service.swarm().await?;
    let mut removed = Vec::new();
    let mut releases = locate::releases(swarm)?;
    releases.extend(swarm.published());
    releases.sort_by_key(|release| release.sequence());
    for release in releases {
        if (release.publisher(), release.name()) != (meant.publisher(), meant.name()) {
            continue;
        }
        let digest = release.digest();
        let taken_back = swarm.unpublish(&digest).await.map_err(failed)?;
        let uninstalled = match swarm.remove(&digest).await {
            Ok(()) => true,
            Err(PackageError::NotInstalled { .. }) => false,
            Err(error) => return Err(failed(error)),
        };
        if taken_back || uninstalled {
            removed.push(inspect::line_of(&release));
        }
    }
    service.models.adapters.forget(&meant);
    Ok(Response::Removed(Removed { removed }))
}

fn failed(error: PackageError) -> Failure {
    Failure::of(FailureKind::Failed, &error)
}
