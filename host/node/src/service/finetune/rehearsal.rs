//! Finding out which examples a recipe takes in which order, without learning anything.
//!
//! The recipe runs as it does on the node that has the examples, but for passes, which are not made.
//! What comes of it are the digests of what each of its steps has to be made of.

use std::io::{self, Cursor};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use skep_sandbox::{
    Cancel, Program, Rehearsal, RunSpec, Sandbox, SavedAdapter, TrainingProgress, TrainingRoom,
};
use skep_together::audit::Digest;
use skep_together::message::Invitation;
use skep_train::Made;

use super::spec;
use crate::failure::{Failure, FailureKind};
use crate::service::Service;
use crate::service::defaults::BaseModel;
use crate::service::run::{self, Subject};
use crate::service::together::lead::Order;

/// Rehearsals of one recipe with one base and the same settings, on any examples.
pub struct Rehearsals {
    sandbox: Arc<Sandbox>,
    program: Arc<Program>,
    spec: RunSpec,
    settings: Vec<(String, String)>,
    scratch: PathBuf,
}

impl Rehearsals {
    /// Of what others are invited to.
    pub async fn new(
        service: &Service,
        subject: Subject,
        program: &Arc<Program>,
        base: &BaseModel,
        invitation: &Invitation,
    ) -> Result<Self, Failure> {
        let scratch = service.home.path().to_owned();
        let nowhere = Arc::new(Stage::new(scratch.clone()));
        Ok(Self {
            sandbox: service.sandbox()?,
            program: Arc::clone(program),
            spec: spec(service, subject, base, nowhere, false).await?,
            settings: invitation.settings.clone(),
            scratch,
        })
    }

    /// Begins one.
    pub fn begin(&self, examples: Arc<Vec<u8>>) -> Order {
        let (sandbox, program) = (Arc::clone(&self.sandbox), Arc::clone(&self.program));
        let (settings, stage) = (
            self.settings.clone(),
            Arc::new(Stage::new(self.scratch.clone())),
        );
        let spec = RunSpec {
            training: Some(Arc::clone(&stage) as Arc<dyn TrainingRoom>),
            ..self.spec.clone()
        };
        tokio::spawn(async move {
            let cancel = Cancel::new();
            let ran = tokio::task::spawn_blocking(move || {
                let examples = Cursor::new(examples.to_vec());
                sandbox.train(&program, &spec, &settings, examples, io::sink(), &cancel)
            });
            let ran = ran
                .await
                .map_err(|error| Failure::of(FailureKind::Failed, &error))?;
            ran.map_err(run::explain)?;
            stage.steps()
        })
    }
}

/// Where nothing is kept.
struct Stage {
    folder: PathBuf,
    steps: Arc<Steps>,
}

/// The digests of steps, or why there are none.
struct Steps(Mutex<Result<Vec<Digest>, postcard::Error>>);

impl Stage {
    fn new(folder: PathBuf) -> Self {
        Self {
            folder,
            steps: Arc::new(Steps(Mutex::new(Ok(Vec::new())))),
        }
    }

    fn steps(&self) -> Result<Vec<Digest>, Failure> {
        let steps = self.steps.0.lock().unwrap_or_else(PoisonError::into_inner);
        steps
            .clone()
            .map_err(|error| Failure::of(FailureKind::Failed, &error))
    }
}

impl Rehearsal for Steps {
    fn step(&self, made: &Made) {
        let mut steps = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match (postcard::to_allocvec(made), &mut *steps) {
            (Ok(made), Ok(steps)) => steps.push(*blake3::hash(&made).as_bytes()),
            (Err(error), _) => *steps = Err(error),
            (Ok(_), Err(_)) => {}
        }
    }
}

impl TrainingRoom for Stage {
    // Nothing is written to it in a rehearsal.
    fn folder(&self) -> &Path {
        &self.folder
    }

    fn progress(&self, _: &TrainingProgress) {}

    fn is_to_stop(&self) -> bool {
        false
    }

    fn saved(&self, _: &SavedAdapter) -> io::Result<()> {
        Ok(())
    }

    fn rehearsal(&self) -> Option<Arc<dyn Rehearsal>> {
        Some(Arc::clone(&self.steps) as Arc<dyn Rehearsal>)
    }
}
