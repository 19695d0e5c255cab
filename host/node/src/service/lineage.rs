//! The families of adapters that are here: who goes on from whom, and what each asks for.
//!
//! What this module must never do: believe a lineage that contradicts a signed release.

use std::collections::BTreeMap;
use std::io;

use skep_evidence::lineage::{FILE, Family, Found, Lineage, LineageError, MAX_GENERATIONS};
use skep_registry::Digest;
use skep_swarm::Installed;

use super::inspect::reference_of;
use super::{Service, locate};
use crate::failure::Failure;
use crate::requests::{FamilyLine, FamilyTree, ShareLine};

/// The family of an adapter, as far as its members are here.
///
/// # Errors
/// [`LineageError`], and what keeps this node from looking.
pub async fn family_of(
    service: &Service,
    adapter: &Installed,
) -> Result<Result<Family, LineageError>, Failure> {
    // Known to be here are those that somebody installed; what was published here only has to be
    // put in place.
    let mut here: BTreeMap<Digest, Installed> = BTreeMap::new();
    let mut last = adapter.clone();
    for _ in 0..=MAX_GENERATIONS {
        let Some(parent) = parent_of(&last) else {
            break;
        };
        if here.contains_key(&parent) {
            break;
        }
        let Ok(found) = locate::installed(service, &parent.to_string()).await else {
            break;
        };
        here.insert(parent, found.clone());
        last = found;
    }
    Ok(Family::of(found(adapter), |digest| {
        here.get(digest).map(found)
    }))
}

/// The adapter that one says that it went on from.
fn parent_of(adapter: &Installed) -> Option<Digest> {
    let Found { release, read } = found(adapter);
    Lineage::of(&release, read).ok()??.parent
}

fn found(installed: &Installed) -> Found<impl FnOnce() -> io::Result<Vec<u8>> + use<>> {
    let path = installed.path(FILE);
    Found {
        release: installed.release.clone(),
        read: move || match path {
            Some(path) => std::fs::read(path),
            None => Err(io::ErrorKind::NotFound.into()),
        },
    }
}

/// The family of an adapter, to be looked at: what cannot be believed is said, not left out.
pub async fn tree_of(service: &Service, adapter: &Installed) -> Result<FamilyTree, Failure> {
    let mut tree = FamilyTree {
        base: match adapter.release.adapter() {
            Some(adapter) => adapter.base.to_string(),
            None => String::new(),
        },
        children: children_of(service, adapter).await?,
        ..FamilyTree::default()
    };
    let family = match family_of(service, adapter).await? {
        Ok(family) => family,
        Err(error) => {
            tree.refused = Some(error.to_string());
            return Ok(tree);
        }
    };
    tree.missing = family.missing.map(|digest| digest.to_string());
    for member in family.members.iter().rev() {
        let lineage = member.lineage.as_ref();
        tree.members.push(FamilyLine {
            reference: format!("{}/{}@{}", member.publisher, member.name, member.version),
            digest: member.release.to_string(),
            percent: lineage.map_or(0.0, |lineage| percent(lineage.share)),
            data: lineage.map(|lineage| lineage.data.to_string()),
            recipe: lineage.map(|lineage| lineage.recipe.to_string()),
            steps: lineage.map(|lineage| lineage.steps),
        });
    }
    match family.split() {
        Ok(split) => {
            let shares = split.shares().iter().map(|share| ShareLine {
                account: share.account.to_string(),
                percent: percent(share.parts),
            });
            tree.shares = shares.collect();
        }
        // That one is missing is said already.
        Err(LineageError::Missing { .. }) => {}
        Err(error) => tree.refused = Some(error.to_string()),
    }
    Ok(tree)
}

fn percent(millionths: u32) -> f64 {
    f64::from(millionths) / 1e4
}

/// The adapters here that say that they went on from this one.
async fn children_of(service: &Service, adapter: &Installed) -> Result<Vec<String>, Failure> {
    let swarm = service.swarm().await?;
    let digest = adapter.release.digest();
    let mut children = Vec::new();
    for release in locate::releases(swarm)? {
        let Ok(installed) = swarm.installed(&release.digest()) else {
            continue;
        };
        if release.adapter().is_some() && parent_of(&installed) == Some(digest) {
            children.push(reference_of(&release));
        }
    }
    Ok(children)
}
