//! The models that a node has.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use skep_registry::Digest;
use skep_tensor::Device;

use crate::encoder::{Encoder, EncoderOptions};
use crate::error::LoadError;

/// The name of a model, such as `skep-mini-embed` or `alice/all-MiniLM-L6-v2@1.0.0`: letters,
/// digits and `-_./@`, at most 128 of them, starting with a letter or digit; no empty part and
/// no `..` between slashes.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ModelName(String);

impl ModelName {
    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for ModelName {
    type Err = LoadError;

    fn from_str(name: &str) -> Result<Self, LoadError> {
        let refuse = |reason| {
            Err(LoadError::BadName {
                // Enough to recognise it by; names come from guests.
                name: name.chars().take(160).collect(),
                reason,
            })
        };
        if name.is_empty() || name.len() > 128 {
            return refuse("names have 1 to 128 characters");
        }
        if !name.starts_with(|c: char| c.is_ascii_alphanumeric()) {
            return refuse("names start with a letter or a digit");
        }
        if !name
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || "-_./@".contains(c))
        {
            return refuse("names are made of letters, digits, and the characters - _ . / @");
        }
        if name
            .split('/')
            .any(|part| part.is_empty() || part == "." || part == "..")
        {
            return refuse("a part between slashes is empty or made of dots");
        }
        Ok(Self(name.to_owned()))
    }
}

impl fmt::Display for ModelName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// One model of a catalog.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CatalogEntry {
    /// Its name.
    pub name: ModelName,
    /// The digest of its manifest.
    pub digest: Digest,
    /// The folder that it is loaded from.
    pub folder: PathBuf,
    /// Whether it is loaded.
    pub loaded: bool,
}

/// The models that a node has, by name and by digest. A model is loaded when it is first opened,
/// once however many open it at the same time, and shared from then on.
///
/// Opening one model does not wait for the loading of another. A failed load is tried again by
/// the next who opens the model.
#[derive(Debug)]
pub struct Catalog {
    device: Device,
    models: RwLock<BTreeMap<ModelName, Arc<Slot>>>,
}

#[derive(Debug)]
struct Slot {
    digest: Digest,
    folder: PathBuf,
    /// Locked while loading, so that others wait for the result.
    encoder: Mutex<Option<Encoder>>,
}

impl Catalog {
    /// An empty catalog whose models put their results on `device`.
    pub fn new(device: Device) -> Self {
        Self {
            device,
            models: RwLock::default(),
        }
    }

    /// Adds a model, or replaces the one of that name; who has that one open keeps it.
    pub fn add(&self, name: ModelName, digest: Digest, folder: PathBuf) {
        let slot = Arc::new(Slot {
            digest,
            folder,
            encoder: Mutex::default(),
        });
        let mut models = self.models.write().unwrap_or_else(PoisonError::into_inner);
        models.insert(name, slot);
    }

    /// Takes a model out; who has it open keeps it. Whether it was there.
    pub fn remove(&self, name: &ModelName) -> bool {
        let mut models = self.models.write().unwrap_or_else(PoisonError::into_inner);
        models.remove(name).is_some()
    }

    /// The entry of a model by its name or by its digest in hexadecimal, without loading it.
    ///
    /// # Errors
    /// [`LoadError::Unknown`] if there is none, [`LoadError::BadName`] if it is neither.
    pub fn find(&self, name_or_digest: &str) -> Result<CatalogEntry, LoadError> {
        let (name, slot) = self.slot(name_or_digest)?;
        Ok(slot.entry(name))
    }

    /// Opens a model by its name or by its digest in hexadecimal.
    ///
    /// # Errors
    /// As [`Catalog::find`], and as [`Encoder::load`].
    pub fn open(&self, name_or_digest: &str) -> Result<(ModelName, Encoder), LoadError> {
        let (name, slot) = self.slot(name_or_digest)?;
        let mut place = slot.encoder.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(encoder) = place.as_ref() {
            return Ok((name, encoder.clone()));
        }
        let encoder = Encoder::load_with(&slot.folder, &self.device, EncoderOptions::default())?;
        Ok((name, place.insert(encoder).clone()))
    }

    /// All models, by name.
    pub fn list(&self) -> Vec<CatalogEntry> {
        let models = self.models.read().unwrap_or_else(PoisonError::into_inner);
        let entries = models.iter().map(|(name, slot)| slot.entry(name.clone()));
        entries.collect()
    }

    fn slot(&self, name_or_digest: &str) -> Result<(ModelName, Arc<Slot>), LoadError> {
        let models = self.models.read().unwrap_or_else(PoisonError::into_inner);
        if let Ok(digest) = name_or_digest.parse::<Digest>() {
            let found = models.iter().find(|(_, slot)| slot.digest == digest);
            if let Some((name, slot)) = found {
                return Ok((name.clone(), Arc::clone(slot)));
            }
        }
        let name: ModelName = name_or_digest.parse()?;
        match models.get(&name) {
            Some(slot) => Ok((name, Arc::clone(slot))),
            None => Err(LoadError::Unknown(name.0)),
        }
    }
}

impl Slot {
    fn entry(&self, name: ModelName) -> CatalogEntry {
        CatalogEntry {
            name,
            digest: self.digest,
            folder: self.folder.clone(),
            // A slot that is locked is being loaded.
            loaded: self.encoder.try_lock().is_ok_and(|place| place.is_some()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_checked() {
        for good in [
            "a",
            "skep-mini-embed",
            "alice/all-MiniLM-L6-v2@1.0.0",
            "0x",
            "a/b/c",
        ] {
            assert_eq!(good.parse::<ModelName>().unwrap().as_str(), good);
        }
        let long = "a".repeat(129);
        for bad in [
            "", ".", "../x", "a/../b", "a//b", "a/", "/a", "-a", "a b", "ä", "a\0", &long,
        ] {
            let refused = bad.parse::<ModelName>();
            assert!(matches!(refused, Err(LoadError::BadName { .. })), "{bad:?}");
        }
    }

    #[test]
    fn unknown_models_and_broken_folders_are_told_apart() {
        let catalog = Catalog::new(Device::cpu());
        assert!(matches!(
            catalog.open("nothing"),
            Err(LoadError::Unknown(_))
        ));
        assert!(matches!(catalog.open(".."), Err(LoadError::BadName { .. })));
        let digest = Digest::of(b"model");
        catalog.add(
            "here".parse().unwrap(),
            digest,
            "/nonexistent/folder".into(),
        );
        assert!(matches!(catalog.open("here"), Err(LoadError::Io { .. })));
        assert!(matches!(
            catalog.open(&digest.to_string()),
            Err(LoadError::Io { .. })
        ));
        let entry = catalog.find(&digest.to_string()).unwrap();
        assert_eq!((entry.name.as_str(), entry.loaded), ("here", false));
        assert_eq!(catalog.list(), std::slice::from_ref(&entry));
        assert!(catalog.remove(&entry.name) && !catalog.remove(&entry.name));
        assert!(catalog.list().is_empty());
    }
}
