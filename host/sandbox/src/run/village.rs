//! Sessions of the world `village`: one village in play, in a guest of its own.

use std::sync::Arc;

use wasmtime::Store;
use wasmtime::component::ResourceAny;

use super::Ending;
use super::cancel::Cancel;
use super::report::{Reported, RunReport};
use super::session::{CallError, CallLimits, Resident, Session, Work};
use super::spec::RunSpec;
use crate::bindings::village::Village as Bindings;
use crate::bindings::village::exports::skep::workload::villages::GuestVillage;
use crate::program::Program;
use crate::records::{Deed, Event, Outcome, Scene, View, Violation};
use crate::sandbox::Sandbox;
use crate::state::State;

/// The instance, and the village in it once one has begun.
pub(crate) struct Guest {
    bindings: Bindings,
    village: Option<ResourceAny>,
}

impl Resident for Guest {
    async fn instantiate(store: &mut Store<State>, program: &Program) -> Result<Self, Ending> {
        Ok(Guest {
            bindings: program.as_village()?.instantiate_async(store).await?,
            village: None,
        })
    }

    fn work(work: Work<Self>) -> super::Work {
        super::Work::Village(work)
    }
}

impl Guest {
    fn parts(&self) -> Result<(GuestVillage<'_>, ResourceAny), Ending> {
        let nothing = || Ending::Trap(wasmtime::format_err!("no village has begun"));
        let interface = self.bindings.skep_workload_villages();
        Ok((interface.village(), self.village.ok_or_else(nothing)?))
    }
}

/// How a village begins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Beginning {
    /// From a seed, before anything happened.
    Seed(u64),
    /// After all that a log holds.
    Log(Vec<u8>),
}

/// A village in play. What is so in it is in the guest's memory alone; what it says is held to
/// the contract and believed no further.
///
/// Every function is one call of the guest, and fails with [`CallError::Refused`] if the village
/// says no, and with [`CallError::Over`] once the session is over.
pub struct Village(Session<Guest>);

/// One call of the village in play, whose result is no `result` of the contract.
macro_rules! plain {
    ($call:ident) => {
        |store, guest| {
            Box::pin(async move {
                let (calls, village) = guest.parts()?;
                Ok(Ok(calls.$call(store, village).await?))
            })
        }
    };
}

impl Sandbox {
    /// Begins a session of the world `village`, with a village in it.
    ///
    /// # Errors
    /// [`CallError`]: the guest is none, was refused, or did not take the log.
    pub fn open_village(
        &self,
        program: &Arc<Program>,
        spec: &RunSpec,
        limits: CallLimits,
        beginning: Beginning,
        cancel: &Cancel,
    ) -> Result<Village, CallError> {
        program.as_village()?;
        let mut session: Session<Guest> = Session::open(self, program, spec, limits, cancel)?;
        session.call(move |store, guest| {
            Box::pin(async move {
                let villages = guest.bindings.skep_workload_villages().village();
                let begun = match beginning {
                    Beginning::Seed(seed) => Ok(villages.call_begin(store, seed).await?),
                    Beginning::Log(log) => villages.call_resume(store, &log).await?,
                };
                Ok(begun.map(|village| guest.village = Some(village)))
            })
        })?;
        Ok(Village(session))
    }
}

impl Village {
    /// What the visitor sees.
    ///
    /// # Errors
    /// [`CallError`], as with every function here.
    pub fn look(&mut self) -> Result<View, CallError> {
        self.0.call(plain!(call_look))
    }

    /// The visitor does something.
    ///
    /// # Errors
    /// [`CallError`].
    pub fn act(&mut self, deed: Deed) -> Result<Vec<Event>, CallError> {
        self.0.call(move |store, guest| {
            Box::pin(async move {
                let (calls, village) = guest.parts()?;
                Ok(calls.call_act(store, village, &deed).await?)
            })
        })
    }

    /// The visitor speaks to somebody: the scene that a renderer is to be shown.
    ///
    /// # Errors
    /// [`CallError`].
    pub fn talk(&mut self, person: &str, words: &str) -> Result<Scene, CallError> {
        let (person, words) = (person.to_owned(), words.to_owned());
        self.0.call(move |store, guest| {
            Box::pin(async move {
                let (calls, village) = guest.parts()?;
                Ok(calls.call_talk(store, village, &person, &words).await?)
            })
        })
    }

    /// Answers the talk with a renderer's text. `producer` is the node that produced it.
    ///
    /// # Errors
    /// [`CallError`].
    pub fn commit(&mut self, text: &str, producer: &str) -> Result<Outcome, CallError> {
        let (text, producer) = (text.to_owned(), producer.to_owned());
        self.0.call(move |store, guest| {
            Box::pin(async move {
                let (calls, village) = guest.parts()?;
                Ok(calls.call_commit(store, village, &text, &producer).await?)
            })
        })
    }

    /// The hash of the village's state, as the village says.
    ///
    /// # Errors
    /// [`CallError`].
    pub fn hash(&mut self) -> Result<String, CallError> {
        self.0.call(plain!(call_hash))
    }

    /// The canonical bytes of the village's state, as the village says.
    ///
    /// # Errors
    /// [`CallError`].
    pub fn state(&mut self) -> Result<Vec<u8>, CallError> {
        self.0.call(plain!(call_state))
    }

    /// All that happened: what [`Beginning::Log`] takes.
    ///
    /// # Errors
    /// [`CallError`].
    pub fn log(&mut self) -> Result<Vec<u8>, CallError> {
        self.0.call(plain!(call_log))
    }

    /// Talks that were answered.
    ///
    /// # Errors
    /// [`CallError`].
    pub fn talks(&mut self) -> Result<u32, CallError> {
        self.0.call(plain!(call_talks))
    }

    /// The replies that did not stand.
    ///
    /// # Errors
    /// [`CallError`].
    pub fn violations(&mut self) -> Result<Vec<Violation>, CallError> {
        self.0.call(plain!(call_violations))
    }

    /// Takes what the village has reported of others' outputs since this was last asked for, at most
    /// 64 reports: its word, and no more.
    ///
    /// # Errors
    /// [`CallError`].
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
