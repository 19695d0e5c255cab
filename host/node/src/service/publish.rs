//! Signs a package and offers it: a component with its manifest, a model, or an adapter.

use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};

use skep_engine::Options;
use skep_engine::scheduler::store_options;
use skep_evidence::lineage;
use skep_model::{Encoder, EncoderAdapter};
use skep_registry::{
    Digest, Draft, FileEntry, Grants, Manifest, ModelTask, PackageName, PackagePath, PublisherKey,
    SignedRelease, Source,
};
use skep_swarm::{PackageTicket, PublishError, Swarm};
use skep_tensor::Device;

use super::defaults::{self, BaseModel};
use super::finetune::CARD;
use super::kind::Found;
use super::{Service, inspect};
use crate::building;
use crate::failure::{Failure, FailureKind};
use crate::keys;
use crate::requests::{AdapterLine, Published, Response};

/// Bytes of an adapter's configuration that are looked at.
const CONFIG: u64 = 1 << 20;
/// The key that a command signs with unless it names another.
const USUAL_KEY: &str = "default";
/// Files of a model's folder that are no part of the model.
const LEFT_OUT: &str = ".";

/// Publishes the package in a folder.
pub async fn package(service: &Service, folder: &Path, key: &str) -> Result<Response, Failure> {
    let manifest = building::manifest_of(folder)?;
    let key = keys::load(&service.home, key)?;
    let mut files: Vec<(PackagePath, PathBuf)> = Vec::new();
    if let Some(readme) = &manifest.readme {
        files.push((readme.clone(), folder.join(readme.as_str())));
    }
    let imports = match &manifest.source {
        Source::Component {
            path,
            grants,
            world,
            ..
        } => {
            let component = folder.join(path.as_str());
            files.push((path.clone(), component.clone()));
            check_component(service, component, grants.clone(), &world.to_string()).await?
        }
        Source::Model { path, .. } => {
            for (name, file) in files_below(&folder.join(path.as_str()))? {
                files.push((name, file));
            }
            Vec::new()
        }
        Source::Adapter { path, base } => {
            let folder = folder.join(path.as_str());
            let model = defaults::any_base(service, &base.digest.to_string()).await?;
            try_adapter(&folder, model).await?;
            files.extend(adapter_files(&folder)?);
            Vec::new()
        }
    };
    let published = release(service, &key, &manifest, files, imports).await?;
    Ok(Response::Published(published))
}

/// Publishes an adapter: a PEFT folder. It has to fit its base.
pub async fn adapter(
    service: &Service,
    folder: &Path,
    base: Option<&str>,
    name: &str,
    version: &str,
    key: &str,
) -> Result<Response, Failure> {
    let key = keys::load(&service.home, key)?;
    let base = match base {
        Some(base) => base.to_owned(),
        None => named_base(folder)?,
    };
    let model = defaults::any_base(service, &base).await?;
    let manifest = Manifest::parse(&format!(
        "[package]\nname = {name:?}\nversion = {version:?}\nkind = \"adapter\"\n\
         [adapter]\npath = \"adapter\"\nbase = \"{}\"\nbase-digest = \"{}\"\n",
        model.base.name, model.base.digest
    ))
    .map_err(|error| Failure::of(FailureKind::Usage, &error))?;
    let line = try_adapter(folder, model).await?;
    let files = adapter_files(folder)?;
    let mut published = release(service, &key, &manifest, files, Vec::new()).await?;
    published.adapter = Some(line);
    Ok(Response::Published(published))
}

/// The release of the adapter in a PEFT folder: the newest of its name that is published here under
/// the usual key if it has these files, and otherwise a next one that is published now.
pub async fn unless_published(service: &Service, folder: &Path) -> Result<Digest, Failure> {
    let key = keys::load(&service.home, USUAL_KEY)?;
    let name = crate::model_name(folder);
    let package: PackageName = name
        .parse()
        .map_err(|error| Failure::of(FailureKind::Usage, &error))?;
    let swarm = service.swarm().await?;
    let history = swarm.history(&key.id(), &package);
    if let Some(head) = history.as_ref().map(|history| history.head()) {
        let mut is_same = true;
        for (path, file) in adapter_files(folder)? {
            let imported = swarm.import_path(&file).await;
            let (digest, _) = imported.map_err(|error| Failure::of(FailureKind::Failed, &error))?;
            let before = head.file(path.as_str());
            is_same &= before.is_some_and(|before| before.digest == digest);
        }
        if is_same {
            return Ok(head.digest());
        }
    }
    let version = next_version(swarm, &key, &package);
    adapter(service, folder, None, &name, &version, USUAL_KEY).await?;
    let history = swarm.history(&key.id(), &package);
    let release = history.map(|history| history.head().digest());
    release.ok_or_else(|| Failure::new(FailureKind::Failed, "what was published is gone again"))
}

/// The version that comes after the newest of a name.
fn next_version(swarm: &Swarm, key: &PublisherKey, name: &PackageName) -> String {
    swarm.history(&key.id(), name).map_or_else(
        || "0.1.0".to_owned(),
        |history| {
            let before = history.head().version();
            format!("{}.{}.{}", before.major, before.minor, before.patch + 1)
        },
    )
}

/// Publishes an adapter that was trained here, with its card and its lineage, as the next version
/// of its name.
pub async fn trained(
    service: &Service,
    folder: &Path,
    model: BaseModel,
    name: &PackageName,
    key: &PublisherKey,
) -> Result<Published, Failure> {
    let version = next_version(service.swarm().await?, key, name);
    let manifest = Manifest::parse(&format!(
        "[package]\nname = \"{name}\"\nversion = \"{version}\"\nkind = \"adapter\"\n\
         readme = \"{CARD}\"\n\
         [adapter]\npath = \"adapter\"\nbase = \"{}\"\nbase-digest = \"{}\"\n",
        model.base.name, model.base.digest
    ))
    .map_err(|error| Failure::of(FailureKind::Usage, &error))?;
    let line = try_adapter(folder, model).await?;
    let mut files = adapter_files(folder)?;
    for file in [CARD, lineage::FILE] {
        files.push(named(folder.join(file))?);
    }
    let mut published = release(service, key, &manifest, files, Vec::new()).await?;
    published.adapter = Some(line);
    Ok(published)
}

/// Reads an adapter as the engine of its base would, or the encoder that it changes.
async fn try_adapter(folder: &Path, model: BaseModel) -> Result<AdapterLine, Failure> {
    let folder = folder.to_path_buf();
    let reading = tokio::task::spawn_blocking(move || {
        let refused = |error: &dyn std::error::Error| Failure::of(FailureKind::Refused, error);
        let BaseModel { base, task, path } = model;
        if task == ModelTask::SentenceEncoder {
            let encoder = Encoder::load(&path, &Device::cpu()).map_err(|error| refused(&error))?;
            let adapter =
                EncoderAdapter::load(&folder, &encoder).map_err(|error| refused(&error))?;
            return Ok(AdapterLine {
                base: base.name.to_string(),
                base_digest: base.digest.to_string(),
                rank: adapter.rank() as u64,
                bytes: adapter.bytes(),
            });
        }
        let model = skep_engine::LanguageModel::load(base.name.as_str(), &path)
            .map_err(|error| refused(&error))?;
        let options = store_options(&model, &Options::default());
        let weights =
            skep_engine::adapters::read(&options, &folder).map_err(|error| refused(&error))?;
        Ok(AdapterLine {
            base: base.name.to_string(),
            base_digest: base.digest.to_string(),
            rank: weights.adapter().rank() as u64,
            bytes: weights.adapter().bytes(),
        })
    });
    reading
        .await
        .map_err(|error| Failure::of(FailureKind::Failed, &error))?
}

/// The files of an adapter. Whatever else a training has left in the folder stays behind.
fn adapter_files(folder: &Path) -> Result<Vec<(PackagePath, PathBuf)>, Failure> {
    ["adapter_config.json", "adapter_model.safetensors"]
        .map(|file| named(folder.join(file)))
        .into_iter()
        .collect()
}

/// The model that an adapter's configuration names, as far as it is a name: of `someone/model` or
/// a path the last part.
fn named_base(folder: &Path) -> Result<String, Failure> {
    #[derive(serde::Deserialize)]
    struct Config {
        base_model_name_or_path: Option<String>,
    }
    let path = folder.join("adapter_config.json");
    let refused = |reason: String| {
        Failure::new(
            FailureKind::Refused,
            format!("{}: {reason}", path.display()),
        )
    };
    let file = fs::File::open(&path).map_err(|error| {
        Failure::new(
            FailureKind::NotFound,
            format!(
                "cannot read {}: {error}; an adapter is a PEFT folder, with adapter_config.json \
                 and adapter_model.safetensors",
                path.display()
            ),
        )
    })?;
    let mut text = Vec::new();
    file.take(CONFIG)
        .read_to_end(&mut text)
        .map_err(|error| refused(error.to_string()))?;
    let config: Config =
        serde_json::from_slice(&text).map_err(|error| refused(error.to_string()))?;
    config
        .base_model_name_or_path
        .map(|base| crate::package_name(base.rsplit(['/', '\\']).next().unwrap_or_default()))
        .filter(|base| !base.is_empty())
        .ok_or_else(|| {
            refused("it does not name its base; say which model it changes with --base".to_owned())
        })
}

/// Publishes a model: a Hugging Face folder or a GGUF file. It has to load, so that nobody fetches
/// what does not work.
pub async fn model(
    service: &Service,
    path: &Path,
    name: &str,
    version: &str,
    key: &str,
) -> Result<Response, Failure> {
    let key = keys::load(&service.home, key)?;
    let found = Found::at(path)?;
    let manifest = Manifest::parse(&format!(
        "[package]\nname = {name:?}\nversion = {version:?}\nkind = \"model\"\n\
         [model]\npath = \"model\"\ntask = \"{}\"\n",
        found.task
    ))
    .map_err(|error| Failure::of(FailureKind::Usage, &error))?;
    let (trial, device) = (found.clone(), service.models.device);
    let line = tokio::task::spawn_blocking(move || trial.try_load(&device))
        .await
        .map_err(|error| Failure::of(FailureKind::Failed, &error))??;
    let files = match found.parts()? {
        Some(parts) => parts.into_iter().map(named).collect::<Result<_, _>>()?,
        None => files_below(&found.path)?,
    };
    let mut published = release(service, &key, &manifest, files, Vec::new()).await?;
    published.model = Some(line);
    Ok(Response::Published(published))
}

/// A file under its own name in the package.
fn named(file: PathBuf) -> Result<(PackagePath, PathBuf), Failure> {
    let name = file.file_name().unwrap_or_default().to_string_lossy();
    let name = name
        .parse()
        .map_err(|error| Failure::of(FailureKind::Usage, &error))?;
    Ok((name, file))
}

/// Checks that a component is what its manifest says, and returns its imports.
async fn check_component(
    service: &Service,
    component: PathBuf,
    grants: Grants,
    world: &str,
) -> Result<Vec<String>, Failure> {
    let program = super::run::load(service, component.clone()).await?;
    program
        .check(&grants)
        .map_err(|error| Failure::of(FailureKind::Refused, &error))?;
    if program.world() != Some(world) {
        return Err(Failure::new(
            FailureKind::Refused,
            format!(
                "skep.toml says that {} is of the world {world}, but it is of {}",
                component.display(),
                program.world().unwrap_or("no world that this host knows"),
            ),
        ));
    }
    Ok(program.imports().to_vec())
}

async fn release(
    service: &Service,
    key: &PublisherKey,
    manifest: &Manifest,
    files: Vec<(PackagePath, PathBuf)>,
    mut imports: Vec<String>,
) -> Result<Published, Failure> {
    let swarm = service.swarm().await?;
    let mut entries = Vec::new();
    for (path, file) in files {
        let (digest, size) = swarm
            .import_path(&file)
            .await
            .map_err(|error| Failure::of(FailureKind::Failed, &error))?;
        entries.push(FileEntry { path, digest, size });
    }
    // In the order that a signed release has them, so that it can be compared with the newest.
    entries.sort_by(|a, b| a.path.cmp(&b.path));
    imports.sort_unstable();
    imports.dedup();
    let draft = manifest.draft(entries, imports);
    let history = swarm.history(&key.id(), &manifest.name);
    let head = history.as_ref().map(|history| history.head());
    if let Some(head) = head
        && is_same(&draft, head)
    {
        return Ok(answer(swarm, head, head.sequence() + 1));
    }
    let release = draft
        .sign(key, head)
        .map_err(|error| Failure::of(FailureKind::Refused, &error))?;
    swarm.publish_release(&release).await.map_err(|error| {
        let kind = match error {
            PublishError::Chain(_) => FailureKind::Refused,
            _ => FailureKind::Failed,
        };
        Failure::of(kind, &error)
    })?;
    Ok(answer(swarm, &release, release.sequence() + 1))
}

/// Whether publishing the draft would only repeat the newest release.
fn is_same(draft: &Draft, head: &SignedRelease) -> bool {
    draft.version == *head.version()
        && draft.files == head.files()
        && draft.content == *head.content()
        && draft.description.as_deref() == head.description()
        && draft.license.as_deref() == head.license()
        && draft.readme.as_ref() == head.readme()
}

fn answer(swarm: &Swarm, release: &SignedRelease, releases: u64) -> Published {
    let ticket = PackageTicket {
        node: swarm.addr(),
        publisher: release.publisher(),
        name: release.name().clone(),
        release: Some(release.digest()),
    };
    Published {
        published: inspect::line_of(release),
        releases,
        ticket: ticket.to_string(),
        model: None,
        adapter: None,
    }
}

/// Every regular file below a folder, by its path in the package. Hidden files stay behind, and
/// links are not followed.
fn files_below(folder: &Path) -> Result<Vec<(PackagePath, PathBuf)>, Failure> {
    let mut found = Vec::new();
    let mut open = vec![folder.to_path_buf()];
    while let Some(current) = open.pop() {
        let failed = |error: std::io::Error| {
            let kind = match error.kind() {
                std::io::ErrorKind::NotFound => FailureKind::NotFound,
                _ => FailureKind::Failed,
            };
            Failure::new(kind, format!("cannot read {}: {error}", current.display()))
        };
        for entry in fs::read_dir(&current).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            if entry.file_name().to_string_lossy().starts_with(LEFT_OUT) {
                continue;
            }
            let kind = entry.file_type().map_err(failed)?;
            if kind.is_dir() {
                open.push(entry.path());
            } else if kind.is_file() {
                let path = entry.path();
                let inside = path.strip_prefix(folder).unwrap_or(&path);
                let name = inside
                    .iter()
                    .map(|part| part.to_string_lossy())
                    .collect::<Vec<_>>()
                    .join("/");
                let name = name
                    .parse()
                    .map_err(|error| Failure::of(FailureKind::Usage, &error))?;
                found.push((name, path));
            }
        }
    }
    if found.is_empty() {
        return Err(Failure::new(
            FailureKind::NotFound,
            format!("{} holds no files", folder.display()),
        ));
    }
    Ok(found)
}
