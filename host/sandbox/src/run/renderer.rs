//! Sessions of the world `npc-renderer`: who gives the people of a village their words.

use std::sync::Arc;

use wasmtime::Store;

use super::Ending;
use super::cancel::Cancel;
use super::report::RunReport;
use super::session::{CallError, CallLimits, Resident, Session, Work, said};
use super::spec::RunSpec;
use crate::bindings::renderer::NpcRenderer;
use crate::error::RunError;
use crate::program::Program;
use crate::records::{Manner, Reply, Scene};
use crate::sandbox::Sandbox;
use crate::state::State;

/// The instance.
pub(crate) struct Guest(NpcRenderer);

impl Resident for Guest {
    async fn instantiate(store: &mut Store<State>, program: &Program) -> Result<Self, Ending> {
        let bindings = program.as_renderer()?.instantiate_async(store).await?;
        Ok(Guest(bindings))
    }

    fn work(work: Work<Self>) -> super::Work {
        super::Work::Render(work)
    }
}

/// A renderer at work. What it proposes is for the village to judge.
pub struct Renderer(Session<Guest>);

/// What a renderer makes of one scene: a reply, or in words why there is none.
pub type Rendered = Result<Reply, String>;

impl Sandbox {
    /// Begins a session of the world `npc-renderer`.
    ///
    /// # Errors
    /// [`CallError::Over`]: the guest is none, or was refused.
    pub fn open_renderer(
        &self,
        program: &Arc<Program>,
        spec: &RunSpec,
        limits: CallLimits,
        cancel: &Cancel,
    ) -> Result<Renderer, CallError> {
        program.as_renderer()?;
        Session::open(self, program, spec, limits, cancel).map(Renderer)
    }
}

impl Renderer {
    /// Renders scenes, all in one call: as many answers as scenes, in their order.
    ///
    /// # Errors
    /// [`CallError::Refused`] if the renderer says no to all of them, [`CallError::Over`] once
    /// the session is over; a renderer with more or fewer answers than scenes ends it.
    pub fn render(
        &mut self,
        scenes: Vec<Scene>,
        manner: Manner,
    ) -> Result<Vec<Rendered>, CallError> {
        self.0.call(move |store, guest| {
            Box::pin(async move {
                let renderer = guest.0.skep_workload_renderer();
                let answers = match renderer.call_render(store, &scenes, manner).await? {
                    Ok(answers) => answers,
                    Err(error) => return Ok(Err(error)),
                };
                if answers.len() != scenes.len() {
                    return Err(Ending::Known(RunError::Contract(format!(
                        "`render` answered {} of {} scenes",
                        answers.len(),
                        scenes.len()
                    ))));
                }
                let answers = answers.into_iter().map(|answer| answer.map_err(said));
                Ok(Ok(answers.collect()))
            })
        })
    }

    /// Ends the session, and says what it used.
    ///
    /// # Errors
    /// [`CallError::Over`] if it was over before.
    pub fn close(self) -> Result<RunReport, CallError> {
        self.0.close()
    }
}
