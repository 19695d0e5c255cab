//! `skep.toml`: what the author of a package says of it.
//!
//! The reader refuses every key that it does not know, because a grant that is misspelt must not
//! silently be none. Every error says where it is, which key it is about, and what to write.

use semver::Version;

use crate::grants::{Grants, JobsGrant, ModelGrant, SwarmRead};
use crate::kind::{ModelTask, World};
use crate::limits::Limits;
use crate::name::PackageName;
use crate::path::PackagePath;
use crate::release::check::{self, MAX_DESCRIPTION, MAX_LICENSE};
use crate::release::{Adapter, Base, Component, Content, Draft, FileEntry, Model};
use crate::units;

mod error;
mod table;
#[cfg(test)]
mod tests;

pub use error::{ManifestError, Problem};
use table::{Document, Item, Table};

/// A package's `skep.toml`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Manifest {
    /// The package's name under its publisher.
    pub name: PackageName,
    /// Its version.
    pub version: Version,
    /// What it is, in at most 280 characters.
    pub description: Option<String>,
    /// Its licence, as an SPDX expression.
    pub license: Option<String>,
    /// A file to publish along, for people to read first.
    pub readme: Option<PackagePath>,
    /// What is published.
    pub source: Source,
}

/// What a package is made from. Paths are relative to the manifest.
#[expect(
    clippy::large_enum_variant,
    reason = "there is one per package, and boxes would be in every reader's way"
)]
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// A component.
    Component {
        /// The world it is made for.
        world: World,
        /// The component's file.
        path: PackagePath,
        /// What it may touch.
        grants: Grants,
        /// What it asks to use up at most.
        limits: Limits,
    },
    /// A model.
    Model {
        /// The folder whose files are the model.
        path: PackagePath,
        /// What it does.
        task: ModelTask,
    },
    /// An adapter.
    Adapter {
        /// The PEFT folder.
        path: PackagePath,
        /// The model that it changes.
        base: Base,
    },
}

impl Manifest {
    /// The greatest length of a manifest, in bytes.
    pub const MAX_BYTES: usize = 256 << 10;

    /// Reads a manifest.
    ///
    /// # Errors
    ///
    /// At the first mistake, with its place, its key and what to write instead. Unknown keys are
    /// reported before anything else, because they explain missing ones.
    pub fn parse(text: &str) -> Result<Self, ManifestError> {
        if text.len() > Self::MAX_BYTES {
            return Err(ManifestError::whole(Problem::TooLong {
                size: text.len(),
                max: Self::MAX_BYTES,
            }));
        }
        let document = Document::parse(text)?;
        let root = document.root();
        root.only(&[
            "package",
            "component",
            "grants",
            "limits",
            "model",
            "adapter",
        ])?;
        let package = root
            .table("package")?
            .ok_or_else(|| root.missing("package", "[package] with name, version and kind"))?;
        package.only(&[
            "name",
            "version",
            "description",
            "license",
            "kind",
            "readme",
        ])?;
        // Every table's keys are known to be good before any value is looked at.
        let [component, grants, limits, model, adapter] =
            ["component", "grants", "limits", "model", "adapter"].map(|key| root.table(key));
        let (component, grants, limits) = (component?, grants?, limits?);
        let (model, adapter) = (model?, adapter?);
        only_in(&component, &["world", "path"])?;
        only_in(&grants, &GRANTS)?;
        let jobs = grants.as_ref().map(|grants| grants.table("jobs"));
        only_in(&jobs.transpose()?.flatten(), &["max-price"])?;
        only_in(&limits, &Limits::keys().collect::<Vec<_>>())?;
        only_in(&model, &["path", "task"])?;
        only_in(&adapter, &["path", "base", "base-digest"])?;

        let name = package
            .required("name", "name = \"batch-classifier\"")?
            .parse()?;
        let version = read_version(&package)?;
        let description = read_text(&package, "description", MAX_DESCRIPTION)?;
        let license = read_text(&package, "license", MAX_LICENSE)?;
        let readme = package.get("readme").map(|item| item.parse()).transpose()?;
        let kind = package.required("kind", "kind = \"component\", \"model\" or \"adapter\"")?;
        let source = match kind.string()? {
            "component" => {
                refuse(&model, &kind, "component")?;
                refuse(&adapter, &kind, "component")?;
                let component = component
                    .ok_or_else(|| root.missing("component", "[component] with world and path"))?;
                Source::Component {
                    world: component
                        .required("world", "world = \"batch-classifier\"")?
                        .parse()?,
                    path: component
                        .required("path", "path = \"component.wasm\"")?
                        .parse()?,
                    grants: grants
                        .map_or_else(|| Ok(Grants::default()), |table| read_grants(&table))?,
                    limits: limits
                        .map_or_else(|| Ok(Limits::default()), |table| read_limits(&table))?,
                }
            }
            "model" => {
                for table in [&component, &grants, &limits, &adapter] {
                    refuse(table, &kind, "model")?;
                }
                let model =
                    model.ok_or_else(|| root.missing("model", "[model] with path and task"))?;
                Source::Model {
                    path: model.required("path", "path = \"folder\"")?.parse()?,
                    task: model
                        .required("task", "task = \"sentence-encoder\"")?
                        .parse()?,
                }
            }
            "adapter" => {
                for table in [&component, &grants, &limits, &model] {
                    refuse(table, &kind, "adapter")?;
                }
                let adapter = adapter.ok_or_else(|| {
                    root.missing("adapter", "[adapter] with path, base and base-digest")
                })?;
                Source::Adapter {
                    path: adapter.required("path", "path = \"folder\"")?.parse()?,
                    base: Base {
                        name: adapter
                            .required("base", "base = \"the-model's-name\"")?
                            .parse()?,
                        digest: adapter
                            .required(
                                "base-digest",
                                "base-digest = \"<digest>\", as `skep inspect` shows it of the model",
                            )?
                            .parse()?,
                    },
                }
            }
            other => {
                return Err(kind.invalid(format!(
                    "`{other}` is not a kind of package; write \"component\", \"model\" or \
                     \"adapter\""
                )));
            }
        };
        Ok(Self {
            name,
            version,
            description,
            license,
            readme,
            source,
        })
    }

    /// The release that this manifest describes, ready to be signed.
    ///
    /// `files` are all that is published: for a component its file under the manifest's path,
    /// for a model or an adapter the files of its folder under their paths within it, and the
    /// readme.
    /// `imports` are the interfaces that the component imports in fact.
    #[must_use]
    pub fn draft(&self, files: Vec<FileEntry>, imports: Vec<String>) -> Draft {
        let content = match &self.source {
            Source::Component {
                world,
                path,
                grants,
                limits,
            } => Content::Component(Component {
                world: (*world).into(),
                entry: path.clone(),
                grants: grants.clone(),
                limits: limits.clone(),
                imports,
            }),
            Source::Model { task, .. } => Content::Model(Model {
                task: (*task).into(),
            }),
            Source::Adapter { base, .. } => Content::Adapter(Adapter { base: base.clone() }),
        };
        Draft {
            name: self.name.clone(),
            version: self.version.clone(),
            description: self.description.clone(),
            license: self.license.clone(),
            readme: self.readme.clone(),
            content,
            files,
        }
    }
}

/// The keys of `[grants]`.
const GRANTS: [&str; 6] = [
    "tensor",
    "models",
    "adapters",
    "swarm-read",
    "swarm-write",
    "jobs",
];

fn only_in(table: &Option<Table<'_>>, known: &[&'static str]) -> Result<(), ManifestError> {
    table.as_ref().map_or(Ok(()), |table| table.only(known))
}

/// Refuses a table that another kind of package has.
fn refuse(table: &Option<Table<'_>>, kind: &Item<'_>, name: &str) -> Result<(), ManifestError> {
    table.as_ref().map_or(Ok(()), |table| {
        Err(table.invalid(format!(
            "a package of kind \"{name}\" (line {}) has no [{}]; remove it, or change the kind",
            kind.line(),
            table.name(),
        )))
    })
}

fn read_version(package: &Table<'_>) -> Result<Version, ManifestError> {
    let item = package.required("version", "version = \"0.1.0\"")?;
    let text = item.string()?;
    let version = Version::parse(text).map_err(|error| {
        item.invalid(format!(
            "`{text}` is not a version: {error}; write for example \"0.1.0\""
        ))
    })?;
    check::check_version(&version).map_err(|reason| item.invalid(reason))?;
    Ok(version)
}

fn read_text(
    package: &Table<'_>,
    key: &'static str,
    max: usize,
) -> Result<Option<String>, ManifestError> {
    let Some(item) = package.get(key) else {
        return Ok(None);
    };
    let text = item.string()?;
    check::check_text(text, max).map_err(|reason| item.invalid(reason))?;
    Ok(Some(text.to_owned()))
}

fn read_grants(table: &Table<'_>) -> Result<Grants, ManifestError> {
    let mut grants = Grants {
        tensor: table.flag("tensor")?,
        swarm_write: table.flag("swarm-write")?,
        jobs: table
            .table("jobs")?
            .map(|jobs| read_jobs(&jobs))
            .transpose()?,
        ..Grants::default()
    };
    for model in table.list("models")? {
        if !grants.models.insert(model.parse()?) {
            return Err(model.invalid("this model is granted already; remove one of the two"));
        }
    }
    for adapter in table.list("adapters")? {
        let grant = adapter.parse()?;
        if grant == ModelGrant::Default {
            return Err(adapter
                .invalid("there is no default adapter; write a name, publisher/name or a digest"));
        }
        if !grants.adapters.insert(grant) {
            return Err(adapter.invalid("this adapter is granted already; remove one of the two"));
        }
    }
    let mut digests = std::collections::BTreeSet::new();
    let mut everything = false;
    for blob in table.list("swarm-read")? {
        if blob.string()? == "*" {
            everything = true;
        } else if !digests.insert(blob.parse()?) {
            return Err(blob.invalid("this digest is granted already; remove one of the two"));
        }
    }
    grants.swarm_read = if everything {
        SwarmRead::Everything
    } else {
        SwarmRead::Only(digests)
    };
    Ok(grants)
}

fn read_jobs(table: &Table<'_>) -> Result<JobsGrant, ManifestError> {
    let max_price = table.required("max-price", "max-price = \"0.5\", in credits")?;
    let micro = units::parse_credits(max_price.string()?);
    Ok(JobsGrant {
        max_price: micro.map_err(|error| max_price.invalid(error.to_string()))?,
    })
}

fn read_limits(table: &Table<'_>) -> Result<Limits, ManifestError> {
    let mut limits = Limits::default();
    for key in Limits::keys() {
        if let Some(item) = table.get(key) {
            let text = if Limits::is_count(key) {
                item.count()?.to_string()
            } else {
                item.string()?.to_owned()
            };
            limits
                .set(key, &text)
                .map_err(|error| item.invalid(error.reason()))?;
        }
    }
    Ok(limits)
}
