//! From what a person wrote to the package that is meant: a folder, a file, a name, a digest or
//! a ticket.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use skep_registry::{Digest, Manifest, PackageRef, SignedRelease};
use skep_swarm::{InUse, Installed, ResolveError, Swarm, Ticket};

use super::{ProgressSender, Service, install};
use crate::building;
use crate::failure::{Failure, FailureKind};

/// A package that was found on this machine.
pub enum Located {
    /// Sources with a manifest, not yet signed.
    Folder {
        /// Where they are.
        folder: PathBuf,
        /// What the manifest says.
        manifest: Box<Manifest>,
    },
    /// A component without a manifest.
    File(PathBuf),
    /// A release of which every file is here and was verified.
    Installed(Box<Installed>),
}

/// Finds a package. A ticket is installed first; a name or a digest has to be here already.
pub async fn locate(
    service: &Service,
    package: &str,
    progress: &ProgressSender,
) -> Result<Located, Failure> {
    let path = Path::new(package);
    if path.is_dir() {
        return Ok(Located::Folder {
            folder: path.to_path_buf(),
            manifest: Box::new(building::manifest_of(path)?),
        });
    }
    if path.is_file() {
        return Ok(Located::File(path.to_path_buf()));
    }
    if package.parse::<Ticket>().is_ok() {
        let (installed, _) = install::fetch(service, package, &[], progress.clone()).await?;
        return Ok(Located::Installed(Box::new(installed)));
    }
    installed(service, package)
        .await
        .map(|installed| Located::Installed(Box::new(installed)))
}

/// Finds a package that other nodes can fetch from this one; none if what is meant is a folder or a file. A ticket is
/// installed first. A name stands for what is installed, whatever a folder here is called.
pub async fn published(
    service: &Service,
    package: &str,
    progress: &ProgressSender,
) -> Result<Option<Installed>, Failure> {
    if package.parse::<Ticket>().is_err() && package.parse::<PackageRef>().is_ok() {
        return installed(service, package).await.map(Some);
    }
    Ok(match locate(service, package, progress).await? {
        Located::Installed(installed) => Some(*installed),
        Located::Folder { .. } | Located::File(_) => None,
    })
}

/// The installed release that a name or a digest means.
pub async fn installed(service: &Service, package: &str) -> Result<Installed, Failure> {
    installed_in(service.swarm().await?, package).await
}

/// The same, in this swarm's packages.
pub async fn installed_in(swarm: &Swarm, package: &str) -> Result<Installed, Failure> {
    let reference: PackageRef = package.parse().map_err(|error| {
        let kind = match package.contains(['/', '\\', '.']) {
            true => FailureKind::NotFound,
            false => FailureKind::Usage,
        };
        Failure::new(
            kind,
            format!("{package:?} is no file or folder here, and no package's name either: {error}"),
        )
    })?;
    // What jobs have brought is here without its history.
    if let PackageRef::Digest(digest) = &reference
        && let Ok(installed) = swarm.installed(digest)
    {
        return Ok(installed);
    }
    let resolved = swarm
        .resolve_ref(&reference, &[])
        .await
        .map_err(|error| not_here(package, &error))?;
    let digest = resolved.release.digest();
    if let Ok(installed) = swarm.installed(&digest) {
        return Ok(installed);
    }
    let not_installed = |reason: String| {
        Failure::new(
            FailureKind::NotFound,
            format!(
                "{package} is known here but not installed; `skep install {package}` fetches it\
                 {reason}"
            ),
        )
    };
    if !swarm.is_offered(&digest) {
        return Err(not_installed(String::new()));
    }
    // What was published here is complete in the blob store, and only has to be put in place.
    match swarm.install(&resolved.release, &[], None).await {
        Ok((installed, _)) => Ok(installed),
        Err(error) => Err(not_installed(format!(" ({error})"))),
    }
}

/// Keeps those of these packages here that jobs have brought, for as long as what comes back is there: they are in use,
/// and make no room for others. What is not installed is left out.
pub async fn hold(swarm: &Swarm, releases: &[Digest]) -> Vec<InUse> {
    let mut held = Vec::new();
    for release in releases {
        match swarm.hold(release).await {
            Ok(in_use) => held.push(in_use),
            Err(error) => tracing::debug!(%error, "a package that is in use is not kept here"),
        }
    }
    held
}

fn not_here(package: &str, error: &ResolveError) -> Failure {
    match error {
        ResolveError::NoProviders { .. } | ResolveError::NotFound { .. } => Failure::new(
            FailureKind::NotFound,
            format!(
                "{package} is not installed here; `skep list` shows what is, and `skep install` \
                 with a ticket or a name fetches more"
            ),
        ),
        other => Failure::of(install::kind_of_resolve(other), other),
    }
}

/// Every release of which all files are here, by reference: what was installed, and the newest
/// of what was published.
pub fn releases(swarm: &Swarm) -> Result<Vec<SignedRelease>, Failure> {
    let installed = swarm
        .list_installed()
        .map_err(|error| Failure::of(FailureKind::Failed, &error))?;
    let offered = swarm
        .offers()
        .into_iter()
        .filter_map(|offer| swarm.release(&offer.newest));
    let all: BTreeMap<_, _> = installed
        .into_iter()
        .map(|installed| installed.release)
        .chain(offered)
        .map(|release| {
            let key = (
                release.publisher(),
                release.name().clone(),
                release.sequence(),
            );
            (key, release)
        })
        .collect();
    Ok(all.into_values().collect())
}
