//! A component that is ready to run: checked, compiled, linked.

use std::time::Duration;

use skep_registry::{Digest, Grants};

use crate::bindings::async_task::AsyncTaskPre;
use crate::bindings::classifier::BatchClassifierPre;
use crate::bindings::fine_tune::FineTunePre;
use crate::bindings::renderer::NpcRendererPre;
use crate::bindings::task::TaskPre;
use crate::bindings::verifier::VerifierPre;
use crate::bindings::village::VillagePre;
use crate::engine::EngineKind;
use crate::error::RunError;
use crate::grants::{self, Refusal};
use crate::inspect::Inspection;
use crate::repeatable;
use crate::state::State;

/// Where the compiled form came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// The compile cache had it.
    Cache,
    /// It was compiled now.
    Compiled,
    /// It was compiled now because the cache's file was corrupt.
    Rebuilt,
}

/// A component that is ready to run. Runs share it.
pub struct Program {
    pub(crate) inspection: Inspection,
    pub(crate) kind: EngineKind,
    pub(crate) task: Option<TaskPre<State>>,
    pub(crate) async_task: Option<AsyncTaskPre<State>>,
    pub(crate) classifier: Option<BatchClassifierPre<State>>,
    pub(crate) recipe: Option<FineTunePre<State>>,
    pub(crate) village: Option<VillagePre<State>>,
    pub(crate) renderer: Option<NpcRendererPre<State>>,
    pub(crate) verifier: Option<VerifierPre<State>>,
    pub(crate) digest: Digest,
    pub(crate) origin: Origin,
    pub(crate) load_time: Duration,
}

/// A task of either world.
pub(crate) enum TaskKind<'a> {
    /// Of the world `task`.
    Sync(&'a TaskPre<State>),
    /// Of the world `async-task`.
    Async(&'a AsyncTaskPre<State>),
}

impl Program {
    /// The BLAKE3 of the component.
    pub fn digest(&self) -> Digest {
        self.digest
    }

    /// The names of what it imports, in its own order.
    pub fn imports(&self) -> &[String] {
        &self.inspection.imports
    }

    /// The names of what it exports, in its own order.
    pub fn exports(&self) -> &[String] {
        &self.inspection.exports
    }

    /// The world that it implements, as `skep.toml` names it; none if it is none of skep's.
    pub fn world(&self) -> Option<&'static str> {
        if self.classifier.is_some() {
            Some("batch-classifier")
        } else if self.task.is_some() {
            Some("task")
        } else if self.async_task.is_some() {
            Some("async-task")
        } else if self.recipe.is_some() {
            Some("fine-tune")
        } else if self.village.is_some() {
            Some("village")
        } else if self.renderer.is_some() {
            Some("npc-renderer")
        } else if self.verifier.is_some() {
            Some("verifier")
        } else {
            None
        }
    }

    /// Whether a run of it can be repeated by somebody else, and gives the same bytes on all
    /// machines of one kind, if it has a seed.
    pub fn is_repeatable(&self) -> bool {
        self.kind == EngineKind::Plain && repeatable::can_be(self.imports())
    }

    /// Whether somebody on a machine of another kind can repeat a run of it by following its texts:
    /// nothing else that it is given differs there.
    pub fn can_be_followed(&self) -> bool {
        self.is_repeatable() && repeatable::but_for_texts(self.imports())
    }

    /// The engine that it runs on.
    pub fn engine(&self) -> EngineKind {
        self.kind
    }

    /// Where its compiled form came from.
    pub fn origin(&self) -> Origin {
        self.origin
    }

    /// How long loading it took.
    pub fn load_time(&self) -> Duration {
        self.load_time
    }

    /// Checks its imports against grants.
    ///
    /// # Errors
    /// [`Refusal`], with every import that is not granted.
    pub fn check(&self, grants: &Grants) -> Result<(), Refusal> {
        grants::check(self.imports(), grants)
    }

    pub(crate) fn as_task(&self) -> Result<TaskKind<'_>, RunError> {
        match (&self.task, &self.async_task) {
            (Some(task), _) => Ok(TaskKind::Sync(task)),
            (None, Some(task)) => Ok(TaskKind::Async(task)),
            (None, None) => Err(self.wrong("task", "run")),
        }
    }

    pub(crate) fn as_classifier(&self) -> Result<&BatchClassifierPre<State>, RunError> {
        self.classifier
            .as_ref()
            .ok_or_else(|| self.wrong("batch-classifier", "skep:workload/classifier@0.1.0"))
    }

    pub(crate) fn as_recipe(&self) -> Result<&FineTunePre<State>, RunError> {
        self.recipe
            .as_ref()
            .ok_or_else(|| self.wrong("fine-tune", "skep:workload/recipe@0.1.0"))
    }

    pub(crate) fn as_village(&self) -> Result<&VillagePre<State>, RunError> {
        self.village
            .as_ref()
            .ok_or_else(|| self.wrong("village", "skep:workload/villages@0.1.0"))
    }

    pub(crate) fn as_renderer(&self) -> Result<&NpcRendererPre<State>, RunError> {
        self.renderer
            .as_ref()
            .ok_or_else(|| self.wrong("npc-renderer", "skep:workload/renderer@0.1.0"))
    }

    pub(crate) fn as_verifier(&self) -> Result<&VerifierPre<State>, RunError> {
        self.verifier
            .as_ref()
            .ok_or_else(|| self.wrong("verifier", "skep:verify/verdicts@0.1.0"))
    }

    fn wrong(&self, wanted: &'static str, export: &str) -> RunError {
        let exports = self.exports();
        let reason = if exports.iter().any(|name| name == export) {
            format!("its export `{export}` is of another type than the contract's")
        } else if exports.is_empty() {
            "it exports nothing".to_owned()
        } else {
            format!("it does not export `{export}`, only {}", exports.join(", "))
        };
        RunError::WrongWorld { wanted, reason }
    }
}

impl std::fmt::Debug for Program {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Program")
            .field("digest", &self.digest)
            .field("world", &self.world())
            .field("engine", &self.kind)
            .field("origin", &self.origin)
            .finish_non_exhaustive()
    }
}
