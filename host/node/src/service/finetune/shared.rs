//! A training that several nodes share: what this one has of it, whether it leads or takes part.
//!
//! Either way the recipe runs as it does alone, on a part of the examples; it does not know that
//! there are others.

use std::io::{self, Cursor};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use skep_registry::Digest;
use skep_sandbox::{Cancel, Others, Program};
use skep_together::message::Invitation;
use skep_together::{DemoConfig, DilocoConfig, Method};
use tokio::sync::mpsc;

use super::rehearsal::Rehearsals;
use super::room::{Begun, Room};
use super::{recipe, spec};
use crate::failure::{Failure, FailureKind};
use crate::requests::{FineTuneRequest, TogetherMethod, TogetherRequest, usual_fragments};
use crate::service::defaults::{BaseModel, any_base};
use crate::service::run::{self, Subject};
use crate::service::together::lead::{Guests, Lead, STEPS_MADE};
use crate::service::together::split::split;
use crate::service::{Service, install};

/// The setting that names an adapter to begin from. Other nodes begin from this one's weights.
const FROM: &str = "from";

/// Invites others, if the training is not this node's alone, and gives what is left to learn here. One
/// that was interrupted after so many steps goes on after as many everywhere.
pub async fn lead(
    service: &Service,
    request: &FineTuneRequest,
    base: &BaseModel,
    (subject, program): (&Subject, &Arc<Program>),
    kept: u64,
) -> Result<Option<(Arc<Lead>, Vec<u8>)>, Failure> {
    let Some(together) = &request.together else {
        return Ok(None);
    };
    if request.settings.iter().any(|(name, _)| name == STEPS_MADE) {
        return Err(Failure::new(
            FailureKind::Usage,
            format!("with --nodes, `{STEPS_MADE}` is told to whoever comes back; leave it out"),
        ));
    }
    let recipe = match &request.recipe {
        None => None,
        Some(recipe) if recipe.parse::<Digest>().is_ok() => Some(recipe.clone()),
        Some(_) => {
            return Err(Failure::new(
                FailureKind::Usage,
                "with --nodes, the recipe is the one that comes with skep, or an installed one by \
                 its digest: other nodes have no others",
            ));
        }
    };
    let mut tickets = together.providers.clone();
    tickets.extend(service.config.network.peers.iter().cloned());
    let nodes = install::nodes_of(&tickets)?;
    let parts = split(&request.data, usize::from(together.nodes))
        .map_err(|error| run::cannot_read(&request.data, &error))?;
    if parts.iter().any(Vec::is_empty) {
        return Err(Failure::new(
            FailureKind::Refused,
            format!(
                "{} has fewer examples than there are nodes",
                request.data.display()
            ),
        ));
    }
    let own = parts.first().cloned().unwrap_or_default();
    let settings = request.settings.iter().filter(|(name, _)| name != FROM);
    let mut settings: Vec<(String, String)> = settings.cloned().collect();
    // Others' recipes may not know the setting, and begin their schedule anew.
    let kept = if recipe.is_none() { kept } else { 0 };
    if kept > 0 {
        settings.push((STEPS_MADE.to_owned(), kept.to_string()));
    }
    let invitation = Invitation {
        member: 0,
        base: base.base.digest.to_string(),
        base_name: base.base.name.to_string(),
        recipe,
        component: program.digest().to_string(),
        settings,
        examples: 0,
        how: method(together),
        audited: together.audit > 0,
    };
    let runs = Rehearsals::new(service, subject.clone(), program, base, &invitation).await?;
    let guests = Guests {
        audit: together.audit,
        rehearse: Box::new(move |examples| runs.begin(examples)),
        nodes,
        parts,
        at_least: together.at_least.unwrap_or(together.nodes),
        invitation,
        patience: Duration::from_secs(together.patience),
        kept,
    };
    let lead = Lead::invite(service.swarm().await?, guests).await?;
    Ok(Some((Arc::new(lead), own)))
}

/// With DiLoCo in 4 bits and in fragments, all at once where there are few steps. Each fragment is under way
/// for a tenth of the steps between two of its turns if nothing else is said, and never when the next
/// one's turn comes.
fn method(together: &TogetherRequest) -> Method {
    let every = together.every;
    match together.method {
        TogetherMethod::Diloco => {
            let usual = DilocoConfig::default();
            let fragments = together.fragments.unwrap_or(usual_fragments(every));
            let most = (every / u32::from(fragments.max(1))).saturating_sub(1);
            Method::Diloco(DilocoConfig {
                every,
                fragments,
                overlap: together.overlap.unwrap_or(every / 10).min(most),
                rate: together.outer_rate.unwrap_or(usual.rate),
                momentum: together.outer_momentum.unwrap_or(usual.momentum),
                ..usual
            })
        }
        TogetherMethod::Demo => Method::Demo(DemoConfig::default()),
        TogetherMethod::AllReduce => Method::AllReduce,
    }
}

/// Another node's training that this one takes part in.
pub struct Visit {
    subject: Subject,
    program: Arc<Program>,
    base: BaseModel,
    settings: Vec<(String, String)>,
}

impl Visit {
    /// Finds the base and the recipe, by their digests.
    pub async fn find(service: &Service, base: &str, by: Option<String>) -> Result<Self, Failure> {
        let base = any_base(service, base).await?;
        let (progress, _) = mpsc::channel(1);
        let request = FineTuneRequest {
            data: PathBuf::new(),
            base: None,
            recipe: by,
            from: None,
            share: 0,
            name: String::new(),
            fresh: true,
            key: String::new(),
            limits: Vec::new(),
            settings: Vec::new(),
            together: None,
        };
        let (subject, _) = recipe(service, &request, &progress).await?;
        let program = run::load(service, subject.component.clone()).await?;
        Ok(Self {
            subject,
            program,
            base,
            settings: Vec::new(),
        })
    }

    /// The same with the recipe's settings.
    pub fn with(self, settings: Vec<(String, String)>) -> Self {
        Self { settings, ..self }
    }

    /// The digest of the recipe's component.
    pub fn component(&self) -> String {
        self.program.digest().to_string()
    }
}

/// Trains on these examples, in a room that goes afterwards.
pub async fn visit(
    service: &Service,
    visit: Visit,
    others: Arc<dyn Others>,
    examples: Cursor<Vec<u8>>,
    cancel: Cancel,
) -> Result<(), Failure> {
    let failed = |error: io::Error| Failure::of(FailureKind::Failed, &error);
    let folder = tempfile::Builder::new()
        .prefix("visit-")
        .tempdir_in(service.home.path())
        .map_err(failed)?;
    let begun = Begun {
        base: visit.base.base.digest.to_string(),
        data: Digest::of(examples.get_ref()).to_string(),
        recipe: visit.component(),
    };
    let (progress, _) = mpsc::channel(1);
    let place = folder.path().join("room");
    let mut room = Room::open(place, begun, true, Arc::default(), progress)?;
    room.others = Some(others);
    let room = Arc::new(room);
    let spec = spec(service, visit.subject, &visit.base, room, false).await?;
    let sandbox = service.sandbox()?;
    let ran = tokio::task::spawn_blocking(move || {
        sandbox.train(
            &visit.program,
            &spec,
            &visit.settings,
            examples,
            io::sink(),
            &cancel,
        )
    });
    let ran = ran
        .await
        .map_err(|error| Failure::of(FailureKind::Failed, &error))?;
    ran.map(drop).map_err(run::explain)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic)]
mod tests {
    use super::*;

    fn asked(method: TogetherMethod) -> TogetherRequest {
        TogetherRequest {
            nodes: 2,
            at_least: None,
            providers: Vec::new(),
            method,
            every: 40,
            fragments: None,
            overlap: None,
            outer_rate: None,
            outer_momentum: None,
            patience: 1,
            audit: 0,
        }
    }

    #[test]
    fn nodes_are_told_of_the_turns_and_outer_steps_that_were_asked_for() {
        let usual = DilocoConfig::default();
        let all = method(&asked(TogetherMethod::Diloco));
        let want = DilocoConfig {
            every: 40,
            fragments: 4,
            overlap: 4,
            ..usual
        };
        assert_eq!(all, Method::Diloco(want));
        let other = TogetherRequest {
            every: 7,
            overlap: Some(3),
            outer_rate: Some(0.7),
            outer_momentum: Some(0.9),
            ..asked(TogetherMethod::Diloco)
        };
        let want = DilocoConfig {
            every: 7,
            fragments: 1,
            overlap: 3,
            rate: 0.7,
            momentum: 0.9,
            ..usual
        };
        assert_eq!(method(&other), Method::Diloco(want));
        assert_eq!(method(&asked(TogetherMethod::AllReduce)), Method::AllReduce);
        // Of many parts, one has arrived before the next one's turn.
        let many = TogetherRequest {
            fragments: Some(16),
            ..asked(TogetherMethod::Diloco)
        };
        let want = DilocoConfig {
            every: 40,
            fragments: 16,
            overlap: 1,
            ..usual
        };
        assert_eq!(method(&many), Method::Diloco(want));
    }
}
