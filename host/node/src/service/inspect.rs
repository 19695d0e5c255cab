//! Says what a package is, wants and imports, before anybody runs it.

use skep_registry::{Content, Digest, Grants, Limits, SignedRelease, Source, SwarmRead, units};

use super::locate::{Located, locate};
use super::{Service, lineage, run};
use crate::failure::{Failure, FailureKind};
use crate::requests::{FileLine, Inspected, PackageLine, Response};

/// A release in one line.
pub fn line_of(release: &SignedRelease) -> PackageLine {
    PackageLine {
        reference: reference_of(release),
        digest: release.digest().to_string(),
        kind: kind_of(release.content()).to_owned(),
        task: release.model().map(|model| model.task.to_string()),
        base: release.adapter().map(|adapter| adapter.base.to_string()),
        bytes: release.total_size(),
        description: release.description().map(str::to_owned),
    }
}

/// The kind of a package, as a manifest says it.
pub fn kind_of(content: &Content) -> &'static str {
    match content {
        Content::Component(_) => "component",
        Content::Model(_) => "model",
        Content::Adapter(_) => "adapter",
    }
}

/// `publisher/name@=version`: the text that means exactly this release.
pub fn reference_of(release: &SignedRelease) -> String {
    format!(
        "{}/{}@{}",
        release.publisher(),
        release.name(),
        release.version()
    )
}

/// What is granted, in the words of skep.toml.
pub fn grants_of(grants: &Grants) -> Vec<String> {
    let models = grants.models.iter().map(|model| format!("models: {model}"));
    let adapters = grants
        .adapters
        .iter()
        .map(|adapter| format!("adapters: {adapter}"));
    let reads = match &grants.swarm_read {
        SwarmRead::Everything => vec!["swarm-read: *".to_owned()],
        SwarmRead::Only(digests) => digests
            .iter()
            .map(|digest| format!("swarm-read: {digest}"))
            .collect(),
    };
    let flags = [
        ("tensor", grants.tensor),
        ("swarm-write", grants.swarm_write),
    ];
    let jobs = grants.jobs.map(|jobs| {
        let price = units::format_credits(jobs.max_price);
        format!("jobs: max-price {price}")
    });
    flags
        .into_iter()
        .filter(|(_, granted)| *granted)
        .map(|(name, _)| name.to_owned())
        .chain(models)
        .chain(adapters)
        .chain(reads)
        .chain(jobs)
        .collect()
}

/// The limits that are set, by their keys in skep.toml.
pub fn limits_of(limits: &Limits) -> serde_json::Value {
    limits
        .entries()
        .into_iter()
        .map(|(key, text)| (key.to_owned(), serde_json::Value::from(text)))
        .collect::<serde_json::Map<_, _>>()
        .into()
}

/// Inspects a folder, a file, a name, a digest or a ticket.
pub async fn inspect(service: &Service, package: &str) -> Result<Response, Failure> {
    let (progress, _) = tokio::sync::mpsc::channel(1);
    let inspected = match locate(service, package, &progress).await? {
        Located::Folder { folder, manifest } => {
            let mut inspected = empty("folder");
            inspected.package = Some(PackageLine {
                reference: format!("{}@{}", manifest.name, manifest.version),
                digest: String::new(),
                kind: match manifest.source {
                    Source::Component { .. } => "component",
                    Source::Model { .. } => "model",
                    Source::Adapter { .. } => "adapter",
                }
                .to_owned(),
                task: match &manifest.source {
                    Source::Model { task, .. } => Some(task.to_string()),
                    _ => None,
                },
                base: match &manifest.source {
                    Source::Adapter { base, .. } => Some(base.to_string()),
                    _ => None,
                },
                bytes: 0,
                description: manifest.description.clone(),
            });
            if let Source::Component {
                world,
                path,
                grants,
                limits,
            } = &manifest.source
            {
                inspected.world = Some(world.to_string());
                inspected.grants = grants_of(grants);
                inspected.limits = limits_of(limits);
                let component = folder.join(path.as_str());
                if component.is_file() {
                    describe(service, component, &mut inspected).await?;
                }
            }
            inspected
        }
        Located::File(path) => {
            let mut inspected = empty("component");
            describe(service, path, &mut inspected).await?;
            inspected
        }
        Located::Installed(installed) => {
            let release = &installed.release;
            let mut inspected = empty("installed");
            inspected.package = Some(line_of(release));
            inspected.files = release
                .files()
                .iter()
                .map(|file| FileLine {
                    path: file.path.to_string(),
                    bytes: file.size,
                    digest: file.digest.to_string(),
                })
                .collect();
            let swarm = service.swarm().await?;
            if let Some(history) = swarm.history(&release.publisher(), release.name()) {
                inspected.history = history
                    .releases()
                    .iter()
                    .rev()
                    .map(|release| format!("{} {}", release.version(), release.digest()))
                    .collect();
            }
            if release.adapter().is_some() {
                inspected.family = Some(lineage::tree_of(service, &installed).await?);
            }
            if let Some(component) = release.component() {
                inspected.world = Some(component.world.to_string());
                inspected.grants = grants_of(&component.grants);
                inspected.limits = limits_of(&component.limits);
                if let Some(path) = installed.path(component.entry.as_str()) {
                    describe(service, path, &mut inspected).await?;
                }
            }
            inspected
        }
    };
    Ok(Response::Inspected(Box::new(inspected)))
}

/// Fills in what the component itself says.
async fn describe(
    service: &Service,
    path: std::path::PathBuf,
    inspected: &mut Inspected,
) -> Result<(), Failure> {
    let size = std::fs::metadata(&path)
        .map_err(|error| Failure::of(FailureKind::NotFound, &error))?
        .len();
    let program = run::load(service, path).await?;
    let digest: Digest = program.digest();
    inspected.component = Some(digest.to_string());
    inspected.imports = program.imports().to_vec();
    inspected.exports = program.exports().to_vec();
    if inspected.world.is_none() {
        inspected.world = program.world().map(str::to_owned);
    }
    if let Some(package) = &mut inspected.package
        && package.bytes == 0
    {
        package.bytes = size;
    }
    Ok(())
}

fn empty(found: &str) -> Inspected {
    Inspected {
        found: found.to_owned(),
        package: None,
        component: None,
        world: None,
        imports: Vec::new(),
        exports: Vec::new(),
        grants: Vec::new(),
        limits: serde_json::Value::Null,
        files: Vec::new(),
        history: Vec::new(),
        family: None,
    }
}
