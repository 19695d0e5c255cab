//! Sessions of the world `verifier`: who judges what others made of some work.

use std::sync::Arc;

use skep_registry::Digest;
use wasmtime::Store;
use wasmtime::component::Resource;

use super::cancel::Cancel;
use super::report::{Reported, RunReport};
use super::session::{CallError, CallLimits, Resident, Session, Work};
use super::spec::RunSpec;
use super::{Ending, explain};
use crate::bindings::verifier::Verifier as Bindings;
use crate::bindings::verifier::exports::skep::verify::verdicts as contract;
use crate::error::RunError;
use crate::interfaces::contents::OpenContent;
use crate::program::Program;
use crate::sandbox::Sandbox;
use crate::state::State;

/// The instance.
pub(crate) struct Guest(Bindings);

impl Resident for Guest {
    async fn instantiate(store: &mut Store<State>, program: &Program) -> Result<Self, Ending> {
        let bindings = program.as_verifier()?.instantiate_async(store).await?;
        Ok(Guest(bindings))
    }

    fn work(work: Work<Self>) -> super::Work {
        super::Work::Verify(work)
    }
}

/// Bytes that a verifier looks at.
#[derive(Clone, Debug)]
pub struct Content {
    /// Their digest.
    pub digest: Digest,
    /// All of them.
    pub bytes: Arc<[u8]>,
}

impl From<Vec<u8>> for Content {
    fn from(bytes: Vec<u8>) -> Self {
        Content {
            digest: Digest::of(&bytes),
            bytes: bytes.into(),
        }
    }
}

/// What was to be done.
#[derive(Clone, Debug)]
pub struct VerifiedWork {
    /// The release of the package.
    pub package: Digest,
    /// The world that it is made for.
    pub world: String,
    /// The model that it is given, if any.
    pub model: Option<Digest>,
    /// The adapter on that model, if any.
    pub adapter: Option<Digest>,
    /// What all randomness of the work grows from.
    pub seed: u64,
    /// Whether the same work has to give the same bytes, whoever does it.
    pub exact: bool,
    /// The form of the records of a batch classifier's input: `jsonl` or `csv`; empty for others.
    pub format: String,
    /// The labels file that a batch classifier was given.
    pub labels: Option<Content>,
    /// The arguments that a task was given.
    pub arguments: Vec<String>,
}

/// What a verifier finds of an output.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Finding {
    /// It is what the work gives, as far as it can tell.
    Right,
    /// It is not.
    Wrong,
    /// It cannot tell.
    Undecided,
}

/// What a verifier says of one output. It is the guest's word: held to the contract, and believed
/// by whoever believes in the verifier.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// What it finds.
    pub finding: Finding,
    /// Why, in the guest's words, cut and without what moves a cursor.
    pub evidence: String,
}

/// A verifier at work.
pub struct Verifier(Session<Guest>);

impl Sandbox {
    /// Begins a session of the world `verifier`.
    ///
    /// # Errors
    /// [`CallError::Over`]: the guest is none, or was refused.
    pub fn open_verifier(
        &self,
        program: &Arc<Program>,
        spec: &RunSpec,
        limits: CallLimits,
        cancel: &Cancel,
    ) -> Result<Verifier, CallError> {
        program.as_verifier()?;
        Session::open(self, program, spec, limits, cancel).map(Verifier)
    }
}

impl Verifier {
    /// Has outputs of one work judged, each with the name of who made it: as many verdicts as
    /// outputs, in their order.
    ///
    /// # Errors
    /// [`CallError::Refused`] if the verifier says no, [`CallError::Over`] once the session is over;
    /// a verifier with more or fewer verdicts than outputs ends it.
    pub fn verify(
        &mut self,
        work: VerifiedWork,
        input: Content,
        outputs: Vec<(String, Content)>,
    ) -> Result<Vec<Verdict>, CallError> {
        self.0.call(move |store, guest| {
            Box::pin(async move {
                let asked = outputs.len();
                let input = lend(store, input)?;
                let mut claims = Vec::with_capacity(asked);
                for (worker, output) in outputs {
                    let output = lend(store, output)?;
                    claims.push(contract::Claim { worker, output });
                }
                let labels = match work.labels {
                    Some(labels) => Some(lend(store, labels)?),
                    None => None,
                };
                let work = contract::Work {
                    package: work.package.to_string(),
                    world: work.world,
                    model: work.model.map(|model| model.to_string()),
                    adapter: work.adapter.map(|adapter| adapter.to_string()),
                    seed: work.seed,
                    exact: work.exact,
                    format: work.format,
                    labels,
                    arguments: work.arguments,
                };
                let verdicts = guest.0.skep_verify_verdicts();
                let answer = verdicts
                    .call_verify(&mut *store, &work, input, &claims)
                    .await?;
                let found = match answer {
                    Ok(found) => found,
                    Err(error) => return Ok(Err(error)),
                };
                if found.len() != asked {
                    return Err(Ending::Known(RunError::Contract(format!(
                        "`verify` judged {} of {asked} outputs",
                        found.len()
                    ))));
                }
                Ok(Ok(found.into_iter().map(verdict).collect()))
            })
        })
    }

    /// Takes what the verifier has reported of others' outputs since this was last asked for, at most
    /// 64 reports: its word, and no more.
    ///
    /// # Errors
    /// [`CallError::Over`] once the session is over.
    pub fn reports(&mut self) -> Result<Vec<Reported>, CallError> {
        self.0.reports()
    }

    /// Ends the session, and says what it used.
    ///
    /// # Errors
    /// [`CallError::Over`] if it was over before.
    pub fn close(self) -> Result<RunReport, CallError> {
        self.0.close()
    }
}

/// A handle that the guest gets, and has to drop.
fn lend(store: &mut Store<State>, content: Content) -> Result<Resource<OpenContent>, Ending> {
    let Content { digest, bytes } = content;
    let opened = OpenContent { digest, bytes };
    let handle = store.data_mut().table.push(opened);
    handle.map_err(|error| Ending::Trap(error.into()))
}

fn verdict(said: contract::Verdict) -> Verdict {
    let letters = said.evidence.chars();
    let plain = letters.map(|letter| if letter.is_control() { ' ' } else { letter });
    Verdict {
        finding: match said.finding {
            contract::Finding::Right => Finding::Right,
            contract::Finding::Wrong => Finding::Wrong,
            contract::Finding::Undecided => Finding::Undecided,
        },
        evidence: explain::clip(&plain.collect::<String>()),
    }
}
