//! The models of one run: which it gets as `default`, and those that its grants name.

use std::path::{Path, PathBuf};

use skep_registry::{Base, Digest, Grants, ModelGrant, ModelTask};

use super::inspect::reference_of;
use super::kind::Found;
use super::{Service, inspect, locate};
use crate::embedded;
use crate::failure::{Failure, FailureKind};

/// A model that is the default of its kind.
pub struct Default {
    /// What to call it in the answer: a reference or a path.
    pub called: String,
    /// Its digest.
    pub digest: Digest,
}

/// The models that a run gets as `default`.
pub struct Defaults {
    /// The encoder: the chosen one, or the one that comes with skep.
    pub encoder: Default,
    /// The language model, if one was chosen; otherwise it is the one that comes with skep.
    pub language: Option<Default>,
}

/// Makes the models that the component gets as `default` known, and with them every installed
/// model that the grants name. Adapters are only looked for: they are opened when a guest asks.
pub async fn bind_models(
    service: &Service,
    chosen: &[String],
    grants: &Grants,
) -> Result<Defaults, Failure> {
    for grant in &grants.models {
        if *grant == ModelGrant::Default {
            continue;
        }
        let name = grant.to_string();
        let installed = locate::installed(service, &name).await?;
        let digest = installed.release.digest();
        let task = service.models.add(&name, digest, &installed.files)?;
        bind_draft(service, task, &name, &digest).await?;
    }
    for grant in &grants.adapters {
        let installed = locate::installed(service, &grant.to_string()).await?;
        if installed.release.adapter().is_none() {
            return Err(Failure::new(
                FailureKind::Refused,
                format!("grants.adapters names {grant}, and that is no adapter"),
            ));
        }
    }
    let (mut encoder, mut language) = (None, None);
    for model in chosen {
        let (task, bound) = bind(service, model).await?;
        let place = match task {
            ModelTask::SentenceEncoder => &mut encoder,
            ModelTask::LanguageModel => &mut language,
        };
        if let Some(Default { called, .. }) = place {
            return Err(Failure::new(
                FailureKind::Usage,
                format!("{called} and {model} are both a {task}, and one can be the default"),
            ));
        }
        *place = Some(bound);
    }
    let encoder = match encoder {
        Some(encoder) => encoder,
        None => embedded_encoder(service)?,
    };
    Ok(Defaults { encoder, language })
}

fn embedded_encoder(service: &Service) -> Result<Default, Failure> {
    let model = &embedded::ENCODER;
    let folder = model
        .folder(&service.home)
        .map_err(|error| Failure::of(FailureKind::Failed, &error))?;
    let digest = model.digest();
    service.models.add(model.name, digest, &folder)?;
    Ok(Default {
        called: model.name.to_owned(),
        digest,
    })
}

async fn bind(service: &Service, model: &str) -> Result<(ModelTask, Default), Failure> {
    let path = Path::new(model);
    if path.exists() {
        let digest = digest_of(&Found::at(path)?)?;
        let name = path.file_name().map_or_else(
            || "model".to_owned(),
            |name| name.to_string_lossy().into_owned(),
        );
        let task = service.models.add(&name, digest, path)?;
        bind_draft(service, task, &crate::model_name(path), &digest).await?;
        let called = model.to_owned();
        return Ok((task, Default { called, digest }));
    }
    let installed = locate::installed(service, model).await?;
    if installed.release.model().is_none() {
        let kind = inspect::kind_of(installed.release.content());
        return Err(Failure::new(
            FailureKind::Usage,
            format!("{model} is a package of kind {kind}, not a model"),
        ));
    }
    let digest = installed.release.digest();
    let name = installed.release.name().as_str();
    let task = service.models.add(name, digest, &installed.files)?;
    bind_draft(service, task, name, &digest).await?;
    let called = reference_of(&installed.release);
    Ok((task, Default { called, digest }))
}

/// Finds the smaller model that the owner wants to guess for a language model of this name.
async fn bind_draft(
    service: &Service,
    task: ModelTask,
    name: &str,
    digest: &Digest,
) -> Result<(), Failure> {
    let draft = service.config.drafts.get(name);
    let Some(draft) = draft.filter(|_| task == ModelTask::LanguageModel) else {
        return Ok(());
    };
    let found = base_model(service, draft).await.map_err(|failure| {
        Failure::new(
            failure.kind,
            format!("[drafts] of config.toml, for {name}: {failure}"),
        )
    })?;
    let languages = &service.models.languages;
    languages.guess_with(digest, found.base.name.as_str(), &found.path);
    Ok(())
}

/// A model that an adapter can be made for: what it is called, its digest, what it does, and where
/// it lies.
pub struct BaseModel {
    /// The name and the digest.
    pub base: Base,
    /// What it does.
    pub task: ModelTask,
    /// Its folder or file.
    pub path: PathBuf,
}

/// The language model that a name, a digest, a folder or a file means: one that is installed, or
/// the one that comes with skep.
pub async fn base_model(service: &Service, model: &str) -> Result<BaseModel, Failure> {
    let found = any_base(service, model).await?;
    if found.task != ModelTask::LanguageModel {
        return Err(Failure::new(
            FailureKind::Usage,
            format!(
                "{model} is a {}, and what guesses for others are language models",
                found.task
            ),
        ));
    }
    Ok(found)
}

/// The same of a model of any kind: what an adapter may be of.
pub async fn any_base(service: &Service, model: &str) -> Result<BaseModel, Failure> {
    let own = [&embedded::LANGUAGE, &embedded::ENCODER]
        .into_iter()
        .find(|own| model == own.name || model == own.digest().to_string());
    let (name, digest, path) = if Path::new(model).exists() {
        let path = PathBuf::from(model);
        (
            crate::model_name(&path),
            digest_of(&Found::at(&path)?)?,
            path,
        )
    } else if let Some(embedded) = own {
        let folder = embedded
            .folder(&service.home)
            .map_err(|error| Failure::of(FailureKind::Failed, &error))?;
        (embedded.name.to_owned(), embedded.digest(), folder)
    } else {
        let installed = locate::installed(service, model).await?;
        let release = installed.release;
        (
            release.name().to_string(),
            release.digest(),
            installed.files,
        )
    };
    let found = Found::at(&path)?;
    let name = name
        .parse()
        .map_err(|error| Failure::of(FailureKind::Usage, &error))?;
    Ok(BaseModel {
        base: Base { name, digest },
        task: found.task,
        path: found.path,
    })
}

/// The identity of a model that is no package: of its weights, which are what matters.
fn digest_of(model: &Found) -> Result<Digest, Failure> {
    let weights: Vec<PathBuf> = match model.parts()? {
        Some(parts) => parts,
        None => safetensors_below(&model.path)?,
    };
    let mut hasher = blake3::Hasher::new();
    for file in &weights {
        hasher.update_mmap(file).map_err(|error| {
            Failure::new(
                FailureKind::NotFound,
                format!("cannot read {}: {error}", file.display()),
            )
        })?;
    }
    Ok(Digest::from_bytes(*hasher.finalize().as_bytes()))
}

/// The weights in a folder: one file, or all of its shards in order.
fn safetensors_below(folder: &Path) -> Result<Vec<PathBuf>, Failure> {
    let whole = folder.join("model.safetensors");
    let entries = match std::fs::read_dir(folder) {
        Ok(entries) if !whole.is_file() => entries,
        _ => return Ok(vec![whole]),
    };
    let mut shards: Vec<PathBuf> = entries
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| {
            path.extension()
                .is_some_and(|ending| ending == "safetensors")
        })
        .collect();
    shards.sort();
    match shards.is_empty() {
        true => Ok(vec![whole]),
        false => Ok(shards),
    }
}
