//! A game: a village, the log that led to its state, and the talk that waits for an answer.
//!
//! *Invariant*: everything that changes the state is in the log first-hand, so the log alone leads
//! to the same state again ([`Game::replay`]).

use npc_scene::dice::Dice;
use npc_scene::{Action, Claim, Names, Reply, Scene, script};

use crate::deed::{Deed, Event, Refusal, met, perform};
use crate::genesis::begin;
use crate::judge::{Fault, Moment};
use crate::stage::scene;
use crate::state::{PersonId, State};
use crate::talk::settle;
use crate::violation::Violation;
use crate::words::{Saying, bounded, understand};

/// A village in play.
#[derive(Debug, Clone)]
pub struct Game {
    state: State,
    names: Names,
    log: Vec<Entry>,
    pending: Option<Pending>,
}

/// Somebody was spoken to and has not answered yet.
#[derive(Debug, Clone)]
struct Pending {
    speaker: PersonId,
    words: String,
    saying: Saying,
}

/// Something that happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Entry {
    /// The visitor did something.
    Deed(Deed),
    /// The visitor spoke to somebody, and they answered.
    Talk {
        /// To whom.
        person: PersonId,
        /// The visitor's words.
        words: String,
        /// The answer that stood.
        reply: Reply,
        /// The answer that was refused before, if one was.
        violation: Option<Violation>,
    },
}

/// An answer that was given.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcome {
    /// What was said and done: what was proposed, or a fallback.
    pub reply: Reply,
    /// What the line claims.
    pub claims: Vec<Claim>,
    /// What came of it.
    pub events: Vec<Event>,
    /// Why the proposed answer was refused, if it was, and the evidence of it.
    pub refused: Option<(Fault, Violation)>,
}

/// Why there is nothing to answer, or a log does not lead anywhere.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum GameError {
    /// Nobody was spoken to.
    #[error("nobody was spoken to: begin a talk first")]
    Silent,
    /// A deed that cannot be done.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// A log holds an answer that does not stand.
    #[error("entry {entry} of the log holds an answer that does not stand: {fault}")]
    Answer {
        /// Which entry, from 0.
        entry: usize,
        /// Why.
        fault: Fault,
    },
    /// A log holds a deed that cannot be done.
    #[error("entry {entry} of the log cannot have happened: {refusal}")]
    Deed {
        /// Which entry, from 0.
        entry: usize,
        /// Why.
        refusal: Refusal,
    },
}

impl Game {
    /// The village of a seed, before anything happened.
    pub fn new(seed: u64) -> Self {
        let state = begin(seed);
        Self {
            names: state.names(),
            state,
            log: Vec::new(),
            pending: None,
        }
    }

    /// The village of a seed after all that its log holds. Every entry is judged anew.
    ///
    /// # Errors
    /// At the first entry that cannot have happened.
    pub fn replay(seed: u64, log: &[Entry]) -> Result<Self, GameError> {
        let mut game = Self::new(seed);
        for (number, entry) in log.iter().enumerate() {
            let refused = |refusal| GameError::Deed {
                entry: number,
                refusal,
            };
            match entry {
                Entry::Deed(deed) => {
                    game.perform(deed).map_err(refused)?;
                }
                Entry::Talk {
                    person,
                    words,
                    reply,
                    violation,
                } => {
                    game.talk(*person, words).map_err(refused)?;
                    game.stand(reply, violation.as_ref())
                        .map_err(|fault| GameError::Answer {
                            entry: number,
                            fault,
                        })?;
                }
            }
        }
        Ok(game)
    }

    /// What is so.
    pub fn state(&self) -> &State {
        &self.state
    }

    /// The replies that did not stand, in their order.
    pub fn violations(&self) -> impl Iterator<Item = &Violation> {
        self.log.iter().filter_map(|entry| match entry {
            Entry::Talk { violation, .. } => violation.as_ref(),
            Entry::Deed(_) => None,
        })
    }

    /// What happened.
    pub fn log(&self) -> &[Entry] {
        &self.log
    }

    /// Every name of the village.
    pub fn names(&self) -> &Names {
        &self.names
    }

    /// The visitor does something. A talk that waits for an answer is over.
    ///
    /// # Errors
    /// When it cannot be done; then nothing changed.
    pub fn perform(&mut self, deed: &Deed) -> Result<Vec<Event>, Refusal> {
        self.pending = None;
        let events = perform(&mut self.state, deed)?;
        self.log.push(Entry::Deed(deed.clone()));
        Ok(events)
    }

    /// The visitor speaks to somebody. Nothing changes until they answer.
    ///
    /// # Errors
    /// When they are not there.
    pub fn talk(&mut self, person: PersonId, words: &str) -> Result<Scene, Refusal> {
        self.pending = None;
        met(&self.state, person)?;
        let pending = Pending {
            speaker: person,
            words: bounded(words).to_owned(),
            saying: understand(&self.state, person, words),
        };
        let scene = scene(&pending.moment(&self.state), &pending.words);
        self.pending = Some(pending);
        Ok(scene)
    }

    /// The answer of whoever was spoken to, as somebody rendered it: `producer` is what they are
    /// called. If it does not stand, a fallback takes its place and the outcome says why.
    ///
    /// # Errors
    /// When nobody was spoken to.
    pub fn commit(&mut self, text: &str, producer: &str) -> Result<Outcome, GameError> {
        if self.pending.is_none() {
            return Err(GameError::Silent);
        }
        let stood = Reply::parse(text).map_err(Fault::from).and_then(|reply| {
            let (claims, events) = self.stand(&reply, None)?;
            Ok((reply, claims, events))
        });
        let fault = match stood {
            Ok((reply, claims, events)) => {
                return Ok(Outcome {
                    reply,
                    claims,
                    events,
                    refused: None,
                });
            }
            Err(fault) => fault,
        };
        let violation = Violation::new(&fault, producer, text);
        let reply = self.fallback();
        let (claims, events) =
            self.stand(&reply, Some(&violation))
                .map_err(|fault| GameError::Answer {
                    entry: self.log.len(),
                    fault,
                })?;
        Ok(Outcome {
            reply,
            claims,
            events,
            refused: Some((fault, violation)),
        })
    }

    /// What somebody says when what was rendered does not stand. They do nothing.
    fn fallback(&self) -> Reply {
        let Some(pending) = &self.pending else {
            return Reply {
                line: String::new(),
                action: Action::Nothing,
            };
        };
        let mut scene = scene(&pending.moment(&self.state), &pending.words);
        scene.actions = vec![Action::Nothing];
        let turn = u64::from(self.state.turns).rotate_left(32);
        let mut dice = Dice::new(self.state.seed ^ turn);
        script::reply(&scene, &mut dice)
    }

    /// Lets an answer stand, if it does.
    fn stand(
        &mut self,
        reply: &Reply,
        violation: Option<&Violation>,
    ) -> Result<(Vec<Claim>, Vec<Event>), Fault> {
        let Some(pending) = &self.pending else {
            return Ok((Vec::new(), Vec::new()));
        };
        let claims = pending.moment(&self.state).judge(reply, &self.names)?;
        let Some(pending) = self.pending.take() else {
            return Ok((claims, Vec::new()));
        };
        if violation.is_some() {
            self.state.violations = self.state.violations.saturating_add(1);
        }
        let events = settle(
            &mut self.state,
            pending.speaker,
            &pending.saying,
            &reply.action,
        );
        self.log.push(Entry::Talk {
            person: pending.speaker,
            words: pending.words,
            reply: reply.clone(),
            violation: violation.cloned(),
        });
        Ok((claims, events))
    }
}

impl Pending {
    fn moment<'a>(&'a self, state: &'a State) -> Moment<'a> {
        Moment {
            state,
            speaker: self.speaker,
            saying: &self.saying,
        }
    }
}
