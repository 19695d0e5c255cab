//! The adapter that a job runs with: which one is meant, and what its family gets of every price.
//!
//! The requester reads the family from what is here, and puts its shares into each lease. The provider
//! reads it from the signed releases and lineages of the same adapters, and takes no lease with other
//! shares; whoever has a receipt can read them once more.
//!
//! # What it must never do
//!
//! - Believe what is said of an adapter but by its signed release.
//! - Take in more of an ancestor than its lineage: its weights are of no use here. At a provider that is read and
//!   not kept, but for what the family asks for.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};

use skep_evidence::Split;
use skep_evidence::lineage::{FILE, Family, Found, Lineage, MAX_BYTES, MAX_GENERATIONS};
use skep_market::Refusal;
use skep_registry::{Digest, SignedRelease};
use skep_swarm::{InUse, ProviderAddr, Swarm};

use super::failed;
use super::provide::{Room, Stop, bring, release, unavailable};
use crate::embedded;
use crate::failure::{Failure, FailureKind};
use crate::service::adapters::has_to_change;
use crate::service::locate::{self, Located};
use crate::service::{ProgressSender, Service, inspect, lineage, publish};

/// An adapter that was chosen for a job.
pub struct Chosen {
    /// Its release.
    pub release: Digest,
    /// What it is called.
    pub reference: String,
    /// What its family gets.
    pub split: Split,
}

/// The adapter that a person means: one that is installed, by its name, digest or ticket, or a PEFT
/// folder, which is published first so that others can fetch it.
pub async fn chosen(
    service: &Service,
    adapter: &str,
    imports: &[String],
    progress: &ProgressSender,
) -> Result<Chosen, Failure> {
    let usage = |reason: String| Failure::new(FailureKind::Usage, reason);
    let installed = match Path::new(adapter).is_dir() {
        true => {
            let release = publish::unless_published(service, Path::new(adapter)).await?;
            locate::installed(service, &release.to_string()).await?
        }
        false => match locate::locate(service, adapter, progress).await? {
            Located::Installed(installed) => *installed,
            Located::Folder { .. } | Located::File(_) => {
                return Err(usage(format!("{adapter} is no adapter")));
            }
        },
    };
    fits(&installed.release).map_err(usage)?;
    let (encoder, language) = (embedded::ENCODER.digest(), embedded::LANGUAGE.digest());
    has_to_change(&installed.release, imports, &encoder, &language)?;
    let family = lineage::family_of(service, &installed).await?;
    let family = family.map_err(|error| Failure::of(FailureKind::Refused, &error))?;
    let split = family.split();
    Ok(Chosen {
        release: installed.release.digest(),
        reference: inspect::reference_of(&installed.release),
        split: split.map_err(|error| Failure::of(FailureKind::Refused, &error))?,
    })
}

/// Jobs run with the models that come with skep, so that their adapters are of those.
fn fits(release: &SignedRelease) -> Result<(), String> {
    let name = release.name();
    let models = [&embedded::LANGUAGE, &embedded::ENCODER];
    match release.adapter() {
        None => Err(format!("{name} is no adapter")),
        Some(adapter) if models.iter().all(|own| adapter.base.digest != own.digest()) => {
            let [writes, embeds] = models.map(|own| own.name);
            Err(format!(
                "the adapter {name} changes {}, and jobs write with {writes} and embed with {embeds}, \
                 which come with skep",
                adapter.base
            ))
        }
        Some(_) => Ok(()),
    }
}

/// What the families of adapters ask for that were asked about lately. A release never changes, and so
/// neither does this: its ancestors need not be found anew for every lease.
#[derive(Default)]
pub struct Families(Mutex<BTreeMap<Digest, Split>>);

impl Families {
    /// Of so many adapters it is known.
    const MOST: usize = 256;

    fn known(&self) -> MutexGuard<'_, BTreeMap<Digest, Split>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What the family of this adapter asks for, if that is known.
    fn split(&self, adapter: &Digest) -> Option<Split> {
        self.known().get(adapter).cloned()
    }

    /// Notes what it asks for. Where there is no room for one more, one of the others is forgotten.
    fn note(&self, adapter: Digest, split: Split) {
        let mut known = self.known();
        if known.len() >= Self::MOST && !known.contains_key(&adapter) {
            known.pop_first();
        }
        known.insert(adapter, split);
    }
}

/// The adapter of a lease at its provider, brought here beside its package if it is not, and what its family
/// asks for.
pub(super) async fn obtained(
    swarm: &Swarm,
    package: &SignedRelease,
    adapter: Digest,
    sources: &[ProviderAddr],
    room: &Room,
) -> Result<(InUse, Split), Stop> {
    let release = release(swarm, adapter, sources).await?;
    fits(&release).map_err(Refusal::Unavailable)?;
    if swarm.installed(&adapter).is_err() {
        // The package is in use for as long as the adapter is wanted, and makes no room for it.
        room.holds(swarm, [package, &release])?;
    }
    let brought = bring(swarm, &release, sources, room).await?;
    if let Some(asked) = room.families.split(&adapter) {
        return Ok((brought, asked));
    }
    let family = family(swarm, &release, sources, room).await?;
    let asked = family.split().map_err(|error| unavailable(&error))?;
    room.families.note(adapter, asked.clone());
    Ok((brought, asked))
}

/// The family of an adapter by its members' own signed releases, of which the lineages are fetched.
async fn family(
    swarm: &Swarm,
    adapter: &SignedRelease,
    sources: &[ProviderAddr],
    room: &Room,
) -> Result<Family, Stop> {
    let mut ancestors: BTreeMap<Digest, (SignedRelease, Vec<u8>)> = BTreeMap::new();
    let mut last = adapter.clone();
    let mut bytes = lineage_of(swarm, &last, sources, room).await?;
    let own = (last.clone(), bytes.clone());
    for _ in 0..=MAX_GENERATIONS {
        let said = Lineage::of(&last, || Ok(bytes)).map_err(|error| unavailable(&error))?;
        let Some(parent) = said.and_then(|said| said.parent) else {
            break;
        };
        if ancestors.contains_key(&parent) {
            break;
        }
        last = release(swarm, parent, sources).await?;
        bytes = lineage_of(swarm, &last, sources, room).await?;
        ancestors.insert(parent, (last.clone(), bytes.clone()));
    }
    let found = |(release, bytes): (SignedRelease, Vec<u8>)| Found {
        release,
        read: move || Ok(bytes),
    };
    let find = |digest: &Digest| ancestors.get(digest).cloned().map(found);
    Family::of(found(own), find).map_err(|error| unavailable(&error))
}

/// The bytes of a release's lineage; none if it has none.
async fn lineage_of(
    swarm: &Swarm,
    release: &SignedRelease,
    sources: &[ProviderAddr],
    room: &Room,
) -> Result<Vec<u8>, Stop> {
    let Some(entry) = release.file(FILE).filter(|entry| entry.size <= MAX_BYTES) else {
        return Ok(Vec::new());
    };
    room.glance(swarm, &entry.digest, entry.size, sources).await
}

/// A division as it is written down.
pub fn written(split: &Split) -> Vec<(String, u32)> {
    let shares = split.shares().iter();
    shares
        .map(|share| (share.account.to_string(), share.parts))
        .collect()
}

/// The same read again.
pub fn read(shares: &[(String, u32)]) -> Result<Split, Failure> {
    let shares = shares.iter().map(|(account, parts)| {
        let account = account.parse().map_err(failed)?;
        Ok(skep_evidence::Share {
            account,
            parts: *parts,
        })
    });
    Split::new(shares.collect::<Result<_, Failure>>()?).map_err(failed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_families_ask_for_is_known_of_the_last_and_of_so_many_others() {
        let families = Families::default();
        let adapter = |number: u32| Digest::of(&number.to_be_bytes());
        for number in 0..1000 {
            assert_eq!(families.split(&adapter(number)), None);
            families.note(adapter(number), Split::default());
            assert_eq!(families.split(&adapter(number)), Some(Split::default()));
        }
        assert_eq!(families.known().len(), Families::MOST);
    }
}
