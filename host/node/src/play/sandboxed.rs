//! The game itself: a village and a renderer, each a component in a session of the sandbox.
//!
//! The village owns the facts and is asked for them each time; nothing of it is kept here but the
//! log of what happened, which is the saved game. A component that fails costs the player the one
//! thing that they tried: a village is taken up again from its log, a renderer begins anew.

use std::path::PathBuf;
use std::sync::Arc;

use skep_sandbox::records::{Manner, Reply, Scene};
use skep_sandbox::{
    Beginning, CallError, CallLimits, Cancel, Program, Renderer, RunSpec, Sandbox, Village,
};

use super::evidence::{Evidence, KIND, Record};
use super::told;
use super::witness::{Seen, Witness};
use super::{Answer, Deed, Event, Game, PlayError, Snapshot, Tally, View, save};

/// Bytes of a renderer's text that are judged, and kept as evidence; no reply is nearly as long.
const OUTPUT: usize = 16 << 10;

/// A component that takes part.
pub struct Part {
    /// The component.
    pub program: Arc<Program>,
    /// What it may.
    pub spec: RunSpec,
}

/// What a game is played with.
pub struct Setting {
    /// Where the components run.
    pub sandbox: Arc<Sandbox>,
    /// The village.
    pub village: Part,
    /// The renderer.
    pub renderer: Part,
    /// Who looks on while the renderer asks its model.
    pub witness: Witness,
    /// How the village begins.
    pub beginning: Beginning,
    /// Whether the model may write only what a scene's grammar admits.
    pub constrained: bool,
    /// How freely the model chooses words.
    pub temperature: f32,
    /// What words are drawn by.
    pub seed: u64,
    /// What this node is called where blame is to be placed.
    pub node: String,
    /// Where the log is written after everything that happened.
    pub save: Option<PathBuf>,
    /// Where replies that did not stand are written down.
    pub evidence: Evidence,
}

/// A game in the sandbox.
pub struct Sandboxed {
    setting: Setting,
    village: Village,
    renderer: Option<Renderer>,
    log: Vec<u8>,
    cancel: Cancel,
}

impl Sandboxed {
    /// Begins a game, or takes one up.
    ///
    /// # Errors
    /// When a component is none, was refused, or did not take the log.
    pub fn open(setting: Setting) -> Result<Self, PlayError> {
        let cancel = Cancel::new();
        let failed = |error: CallError| PlayError::Failed(error.to_string());
        let beginning = setting.beginning.clone();
        let mut village =
            open_village(&setting.sandbox, &setting.village, beginning, &cancel).map_err(failed)?;
        let renderer = open_renderer(&setting, &cancel).map_err(failed)?;
        let log = village.log().map_err(failed)?;
        Ok(Self {
            setting,
            village,
            renderer: Some(renderer),
            log,
            cancel,
        })
    }

    /// Calls the village. If it fails, it is taken up again where it stood before the call.
    fn village<T>(
        &mut self,
        call: impl FnOnce(&mut Village) -> Result<T, CallError>,
    ) -> Result<T, PlayError> {
        let failed = match call(&mut self.village) {
            Ok(value) => return Ok(value),
            Err(CallError::Refused(reason)) => {
                return Err(PlayError::Refused(told::shown(&reason)));
            }
            Err(CallError::Over(failed)) => failed,
        };
        let beginning = Beginning::Log(self.log.clone());
        let Setting {
            sandbox, village, ..
        } = &self.setting;
        self.village =
            open_village(sandbox, village, beginning, &self.cancel).map_err(|error| {
                PlayError::Failed(format!(
                    "the village failed ({failed}), and could not be taken up again: {error}"
                ))
            })?;
        Err(PlayError::Refused(format!(
            "the village failed, and is as it was before: {failed}"
        )))
    }

    /// Keeps what happened, in memory and in the file for it.
    fn keep(&mut self) -> Result<(), PlayError> {
        self.log = self.village(Village::log)?;
        match &self.setting.save {
            Some(path) => save(path, &self.log).map_err(|error| {
                PlayError::Failed(format!("cannot write {}: {error}", path.display()))
            }),
            None => Ok(()),
        }
    }

    /// What the renderer makes of a scene, and what was seen of the model meanwhile.
    fn render(&mut self, scene: Scene, talk: u32) -> Result<(Reply, Seen), PlayError> {
        let silent = |who: &str, why: &dyn std::fmt::Display| {
            PlayError::Refused(format!("{who} does not answer: {why}"))
        };
        let speaker = told::shown(&scene.speaker.name);
        let manner = Manner {
            constrained: self.setting.constrained,
            adapters: true,
            temperature: self.setting.temperature,
            // The same words at the same point of the same game, whenever it is played.
            seed: self.setting.seed.rotate_left(32) ^ u64::from(talk),
        };
        let mut renderer = match self.renderer.take() {
            Some(renderer) => renderer,
            None => open_renderer(&self.setting, &self.cancel)
                .map_err(|error| PlayError::Failed(error.to_string()))?,
        };
        self.setting.witness.take();
        let rendered = renderer.render(vec![scene], manner);
        let seen = self.setting.witness.take();
        match rendered {
            // One that is over is not kept: the next talk begins with a new one.
            Err(error @ CallError::Over(_)) => Err(silent(&speaker, &error)),
            Err(CallError::Refused(reason)) => {
                self.renderer = Some(renderer);
                Err(silent(&speaker, &told::shown(&reason)))
            }
            Ok(mut replies) => {
                self.renderer = Some(renderer);
                match replies.pop() {
                    Some(Ok(reply)) => Ok((reply, seen)),
                    Some(Err(reason)) => Err(silent(&speaker, &told::shown(&reason))),
                    None => Err(silent(&speaker, &"the renderer gave no reply")),
                }
            }
        }
    }
}

impl Game for Sandboxed {
    fn look(&mut self) -> Result<View, PlayError> {
        Ok(told::view(&self.village(Village::look)?))
    }

    fn act(&mut self, deed: &Deed) -> Result<Vec<Event>, PlayError> {
        let deed = told::deed(deed);
        let events = self.village(|village| village.act(deed))?;
        self.keep()?;
        Ok(told::events(&events))
    }

    fn say(&mut self, person: &str, words: &str) -> Result<Answer, PlayError> {
        let talk = self.village(Village::talks)?;
        let state = self.village(Village::hash)?;
        let scene = self.village(|village| village.talk(person, words))?;
        let (mut reply, seen) = self.render(scene, talk)?;
        reply.text.truncate(reply.text.floor_char_boundary(OUTPUT));
        let node = self.setting.node.clone();
        let outcome = self.village(|village| village.commit(&reply.text, &node))?;
        // Who signs a record signs what the village reported, of this output and no other.
        let output = blake3::hash(reply.text.as_bytes()).to_hex();
        let mut reports = self.village(Village::reports)?.into_iter();
        let report = reports.find(|report| report.output == output.as_str());
        if let (Some((violation, _)), Some(report)) = (&outcome.refused, report) {
            let record = Record {
                kind: KIND.to_owned(),
                fault: told::fault(violation.fault).to_owned(),
                reason: told::shown(&report.evidence),
                node,
                model: seen.model,
                adapter: reply.adapter,
                prompt: seen.prompts.into_iter().next(),
                constrained: self.setting.constrained,
                output: reply.text,
                written: seen.written.into_values().next(),
                renderer: self.setting.renderer.program.digest().to_string(),
                village: self.setting.village.program.digest().to_string(),
                person: person.to_owned(),
                words: words.to_owned(),
                state,
                log: blake3::hash(&self.log).to_hex().to_string(),
                talk,
            };
            self.setting.evidence.add(record, &self.log)?;
        }
        self.keep()?;
        Ok(told::answer(person, &outcome))
    }

    fn state(&mut self) -> Result<Snapshot, PlayError> {
        let bytes = self.village(Village::state)?;
        let digits = bytes.iter().map(|byte| format!("{byte:02x}"));
        Ok(Snapshot {
            hash: told::shown(&self.village(Village::hash)?),
            bytes: digits.collect(),
        })
    }

    fn tally(&mut self) -> Result<Tally, PlayError> {
        let violations = self.village(Village::violations)?.len();
        Ok(Tally {
            hash: told::shown(&self.village(Village::hash)?),
            talks: self.village(Village::talks)?,
            violations: u32::try_from(violations).unwrap_or(u32::MAX),
        })
    }
}

/// Opens a village.
///
/// # Errors
/// When the component is none, was refused, or did not take the log.
pub fn open_village(
    sandbox: &Sandbox,
    part: &Part,
    beginning: Beginning,
    cancel: &Cancel,
) -> Result<Village, CallError> {
    let Part { program, spec } = part;
    let limits = CallLimits::default();
    sandbox.open_village(program, spec, limits, beginning, cancel)
}

fn open_renderer(setting: &Setting, cancel: &Cancel) -> Result<Renderer, CallError> {
    let Part { program, spec } = &setting.renderer;
    let limits = CallLimits::default();
    setting.sandbox.open_renderer(program, spec, limits, cancel)
}
