//! What this node does between its contributions, so that it can show any of it.
//!
//! It keeps where it was at its last contribution, and what it did since; to show a place in
//! between it does all of that up to there once more. One stretch for each contribution that was
//! not decided yet is kept, and of what was before only the digests of where it was: a recipe may
//! go back there.

use std::collections::VecDeque;
use std::sync::Arc;

use skep_together::Turn;
use skep_together::audit::{Commitment, Deed, Digest, Event, Window, digest_of};
use skep_together::message::Shown;
use skep_train::{Made, TrainError, Trainer};

/// What was noted, and why nothing more is if it is so.
#[derive(Default)]
pub struct Journal {
    now: Option<Stretch>,
    said: VecDeque<Said>,
    past: Vec<(Turn, Window)>,
    failed: Option<String>,
}

/// Why something cannot be shown.
#[derive(Debug, thiserror::Error)]
pub enum JournalError {
    #[error("nothing is noted of this turn")]
    Unknown,
    #[error("what was done here could not be noted: {0}")]
    Failed(String),
    #[error(transparent)]
    Train(#[from] TrainError),
}

/// From one contribution on.
struct Stretch {
    start: Arc<Vec<u8>>,
    window: Window,
    done: Vec<Done>,
}

enum Done {
    /// What a step was made of.
    Step(Vec<u8>),
    /// The weights after something was taken over.
    Took(Vec<f32>),
    /// Where the recipe went back to.
    WentBack(Vec<u8>),
}

/// A stretch that a contribution has ended.
struct Said {
    turn: Turn,
    stretch: Stretch,
    end: Arc<Vec<u8>>,
    unsaid: Vec<f32>,
}

fn hash(bytes: &[u8]) -> Digest {
    *blake3::hash(bytes).as_bytes()
}

impl Stretch {
    fn new(start: Vec<u8>) -> Self {
        Self {
            window: Window::new(hash(&start)),
            start: Arc::new(start),
            done: Vec::new(),
        }
    }

    fn note(&mut self, deed: Deed, done: Done, state: &[u8]) {
        let after = hash(state);
        self.window.events.push(Event { deed, after });
        self.done.push(done);
    }
}

impl Journal {
    /// Begins with this state.
    pub fn begin(&mut self, state: Vec<u8>) {
        self.now = Some(Stretch::new(state));
    }

    /// Notes a step.
    pub fn stepped(&mut self, made: &Made, trainer: &Trainer) {
        let Some(now) = &mut self.now else { return };
        match (trainer.state(), postcard::to_allocvec(made)) {
            (Ok(state), Ok(made)) => {
                let of = hash(&made);
                now.note(Deed::Step { of }, Done::Step(made), &state);
            }
            (Err(error), _) => self.failed = Some(error.to_string()),
            (_, Err(error)) => self.failed = Some(error.to_string()),
        }
    }

    /// Notes that what all have agreed on in a turn was taken over, in one of two ways, which led to
    /// these weights and this state.
    pub fn took(&mut self, deed: Deed, weights: &[f32], state: &[u8]) {
        if let Some(now) = &mut self.now {
            now.note(deed, Done::Took(weights.to_vec()), state);
        }
    }

    /// Notes that the recipe went back to where it was before. If it went elsewhere before that, and has
    /// done nothing there, that is forgotten.
    pub fn went_back(&mut self, trainer: &Trainer) {
        let Some(now) = &mut self.now else { return };
        let state = match trainer.state() {
            Ok(state) => state,
            Err(error) => {
                self.failed = Some(error.to_string());
                return;
            }
        };
        if let Some(Done::WentBack(_)) = now.done.last() {
            now.done.pop();
            now.window.events.pop();
        }
        if now.window.after() != hash(&state) {
            now.note(Deed::WentBack, Done::WentBack(state.clone()), &state);
        }
    }

    /// Ends the stretch with a contribution, made with so much unsaid of the fragment before it and
    /// this much after it.
    ///
    /// # Errors
    /// When something could not be noted.
    pub fn contributed(
        &mut self,
        turn: Turn,
        state: Vec<u8>,
        unsaid: Vec<f32>,
        still_unsaid: &[f32],
    ) -> Result<Commitment, JournalError> {
        if let Some(failed) = &self.failed {
            return Err(JournalError::Failed(failed.clone()));
        }
        let end = Arc::new(state);
        let next = Stretch {
            window: Window::new(hash(&end)),
            start: Arc::clone(&end),
            done: Vec::new(),
        };
        let stretch = self.now.replace(next).ok_or(JournalError::Unknown)?;
        let commitment = Commitment {
            window: stretch.window.digest(),
            state: hash(&end),
            unsaid: digest_of(still_unsaid),
        };
        self.said.push_back(Said {
            turn,
            stretch,
            end,
            unsaid,
        });
        Ok(commitment)
    }

    /// What was done before the contribution to a turn.
    ///
    /// # Errors
    /// When nothing is known of it.
    pub fn window(&self, turn: Turn) -> Result<Window, JournalError> {
        Ok(self.said(turn)?.stretch.window.clone())
    }

    /// Shows one of the events, by a trainer which is left as it was. Where there were none since the
    /// contribution before, only what this one was made from is shown.
    ///
    /// # Errors
    /// When nothing is known of it, or it cannot be done once more.
    pub fn show(
        &self,
        turn: Turn,
        event: usize,
        trainer: &mut Trainer,
    ) -> Result<Shown, JournalError> {
        let said = self.said(turn)?;
        if event == 0 && said.stretch.done.is_empty() {
            return Ok(said.shown(Vec::new(), Vec::new(), Vec::new()));
        }
        if event >= said.stretch.done.len() {
            return Err(JournalError::Unknown);
        }
        let own = trainer.state()?;
        let shown = said.show(event, trainer);
        trainer.restore(&own)?;
        let mut shown = shown?;
        if let Some(Done::WentBack(to)) = said.stretch.done.get(event) {
            shown.made = self.place(turn, &said.stretch.window, event, hash(to))?;
        }
        Ok(shown)
    }

    /// Where the node was at a place before, if that is not in this window: what `made` is of going
    /// back.
    fn place(
        &self,
        turn: Turn,
        now: &Window,
        event: usize,
        at: Digest,
    ) -> Result<Vec<u8>, JournalError> {
        if now.was_at(at, event) {
            return Ok(Vec::new());
        }
        let decided = self.past.iter().map(|(turn, window)| (turn, window));
        // What was said later is not committed to yet where this is looked at.
        let under_way = self.said.iter().take_while(|said| said.turn != turn);
        let under_way = under_way.map(|said| (&said.turn, &said.stretch.window));
        let mut before = decided.chain(under_way);
        let place = before.find(|(_, window)| window.was_at(at, window.events.len()));
        let place = place.ok_or(JournalError::Unknown)?;
        postcard::to_allocvec(&place).map_err(|error| JournalError::Failed(error.to_string()))
    }

    /// Forgets what belongs to a turn that was decided, but for where the node was.
    pub fn decided(&mut self, turn: Turn) {
        let all = std::mem::take(&mut self.said);
        for said in all {
            match said.turn == turn {
                true => self.past.push((turn, said.stretch.window)),
                false => self.said.push_back(said),
            }
        }
    }

    fn said(&self, turn: Turn) -> Result<&Said, JournalError> {
        let known = self.said.iter().find(|said| said.turn == turn);
        known.ok_or(JournalError::Unknown)
    }
}

impl Said {
    fn show(&self, event: usize, trainer: &mut Trainer) -> Result<Shown, JournalError> {
        trainer.restore(&self.stretch.start)?;
        let mut before = Vec::new();
        let mut made = Vec::new();
        for (number, done) in self.stretch.done.iter().enumerate().take(event + 1) {
            if number == event {
                before = trainer.state()?;
            }
            match done {
                Done::Step(of) => {
                    if number == event {
                        made.clone_from(of);
                    }
                    let of: Made = postcard::from_bytes(of)
                        .map_err(|error| JournalError::Failed(error.to_string()))?;
                    trainer.make(&of)?;
                }
                Done::Took(weights) => trainer.set_weights(weights)?,
                Done::WentBack(state) => trainer.restore(state)?,
            }
        }
        Ok(self.shown(before, made, trainer.state()?))
    }

    fn shown(&self, before: Vec<u8>, made: Vec<u8>, after: Vec<u8>) -> Shown {
        Shown {
            before,
            made,
            after,
            at_contribution: self.end.to_vec(),
            unsaid: self.unsaid.clone(),
        }
    }
}
