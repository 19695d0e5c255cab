//! Doing once more what another node shows of what it did, and judging what comes of it.
//!
//! What must never be done here: believe anything of what is shown that is not held against what
//! was committed to, or leave the trainer other than it was.

#[cfg(test)]
mod last_turn;
mod stepwise;

use std::collections::HashMap;

use skep_together::audit::{Commitment, Deed, Digest, Unlike, Window, agree, digest_of};
use skep_together::message::Shown;
use skep_together::{Diloco, Turn};
use skep_train::{Made, TrainError, Trainer};

pub use stepwise::StepCase;

/// Everything that a node has said of one of its events.
pub struct Case {
    pub turn: Turn,
    /// Its contribution, as it was sent.
    pub contribution: Vec<u8>,
    pub commitment: Commitment,
    pub window: Window,
    /// Which event was drawn; the first of none if there was nothing to draw.
    pub event: usize,
    /// What it could not say of the fragment before, as it committed to it.
    pub unsaid: Digest,
    /// What all agreed on in the turn that the event took over, if it is such a one.
    pub agreed: Option<Vec<f32>>,
    /// The digests of the windows that it committed to before.
    pub committed: HashMap<Turn, Digest>,
    pub shown: Shown,
}

/// What came of an audit.
#[derive(Debug, thiserror::Error)]
pub enum Doubt {
    /// It does not hold.
    #[error(transparent)]
    Unlike(#[from] Unlike),
    /// This node could not do it again, which says nothing of the other.
    #[error("it could not be done again here: {0}")]
    Ours(TrainError),
}

/// What a broken record is called.
const STEP: &str = "a step";
const TAKEN: &str = "taking over what all agreed on";
const BACK: &str = "going back to where it was before";
const CONTRIBUTION: &str = "the contribution";

impl Case {
    /// Judges it. The trainer is of the same training, and is left as it was.
    ///
    /// # Errors
    /// When what was shown is not what was said, or comes to something else.
    pub fn judge(&self, part: &Diloco, trainer: &mut Trainer) -> Result<(), Doubt> {
        self.check_digests()?;
        let own = trainer.state().map_err(Doubt::Ours)?;
        let judged = self.do_again(part, trainer);
        trainer.restore(&own).map_err(Doubt::Ours)?;
        judged
    }

    /// Whether it has done nothing since its contribution before.
    fn is_of_nothing(&self) -> bool {
        self.event == 0 && self.window.events.is_empty()
    }

    /// What is shown is what was committed to.
    fn check_digests(&self) -> Result<(), Unlike> {
        let shown = &self.shown;
        let hash = |bytes: &[u8]| *blake3::hash(bytes).as_bytes();
        let same = |what, got: Digest, want: Digest| match got == want {
            true => Ok(()),
            false => Err(Unlike::Shown { what }),
        };
        same(
            "where it was at its contribution",
            hash(&shown.at_contribution),
            self.commitment.state,
        )?;
        same("what was unsaid", digest_of(&shown.unsaid), self.unsaid)?;
        if self.is_of_nothing() {
            return Ok(());
        }
        let event = self.window.events.get(self.event).ok_or(Unlike::Window)?;
        let before = self.window.before_event(self.event);
        same(
            "where it began",
            hash(&shown.before),
            before.ok_or(Unlike::Window)?,
        )?;
        same("where it came to", hash(&shown.after), event.after)?;
        match event.deed {
            Deed::Step { of } => same("its examples", hash(&shown.made), of),
            Deed::Took { .. } | Deed::TookWhole { .. } => Ok(()),
            Deed::WentBack => self.check_place(event.after),
        }
    }

    /// It was there before, by this window or by one that it committed to before this.
    fn check_place(&self, place: Digest) -> Result<(), Unlike> {
        if self.window.was_at(place, self.event) {
            return Ok(());
        }
        let what = BACK;
        let shown = postcard::from_bytes::<(Turn, Window)>(&self.shown.made);
        let (turn, window) = shown.map_err(|_| Unlike::Shown { what })?;
        let is_committed = self.committed.get(&turn) == Some(&window.digest());
        match is_committed && window.was_at(place, window.events.len()) {
            true => Ok(()),
            false => Err(Unlike::Shown { what }),
        }
    }

    fn do_again(&self, part: &Diloco, trainer: &mut Trainer) -> Result<(), Doubt> {
        let shown = &self.shown;
        restore(trainer, &shown.at_contribution, CONTRIBUTION)?;
        let said = part.would_say(self.turn, trainer.weights(), &shown.unsaid);
        let what = CONTRIBUTION;
        let (said, unsaid) = said.map_err(|_| Unlike::Shown { what })?;
        if said != self.contribution || digest_of(&unsaid) != self.commitment.unsaid {
            return Err(Unlike::Shown { what }.into());
        }
        match self.window.events.get(self.event).map(|event| event.deed) {
            Some(Deed::Step { .. }) => self.step(trainer),
            Some(Deed::Took { turn }) => self.taking(trainer, |agreed, before| {
                part.taken_over(turn.fragment, agreed, before)
            }),
            Some(Deed::TookWhole { turn }) => self.taking(trainer, |agreed, before| {
                part.taken_whole(turn.fragment, agreed, before)
            }),
            // Where it came to is where it was.
            Some(Deed::WentBack) => Ok(()),
            None if self.is_of_nothing() => Ok(()),
            None => Err(Unlike::Window.into()),
        }
    }

    fn taking(
        &self,
        trainer: &mut Trainer,
        take: impl Fn(&[f32], &[f32]) -> Vec<f32>,
    ) -> Result<(), Doubt> {
        let shown = &self.shown;
        restore(trainer, &shown.before, TAKEN)?;
        let before = trainer.weights().to_vec();
        let agreed = self.agreed.as_deref();
        let agreed = agreed.ok_or(Unlike::Shown { what: TAKEN })?;
        let ours = trainer.state_with(&take(agreed, &before));
        // Sums of two products are the same everywhere.
        match ours.map_err(Doubt::Ours)? == shown.after {
            true => Ok(()),
            false => Err(Unlike::Shown { what: TAKEN }.into()),
        }
    }

    fn step(&self, trainer: &mut Trainer) -> Result<(), Doubt> {
        let shown = &self.shown;
        let what = STEP;
        let made: Made = postcard::from_bytes(&shown.made).map_err(|_| Unlike::Shown { what })?;
        restore(trainer, &shown.before, what)?;
        let before = trainer.weights().to_vec();
        make(trainer, &made)?;
        if trainer.state().map_err(Doubt::Ours)? == shown.after {
            return Ok(());
        }
        // Another kind of processor may round otherwise. The weights do not show all of a state, so
        // the step is made again from both.
        let ours = trainer.weights().to_vec();
        make(trainer, &made)?;
        let ours_next = trainer.weights().to_vec();
        restore(trainer, &shown.after, what)?;
        agree(what, &before, trainer.weights(), &ours)?;
        make(trainer, &made)?;
        agree(what, &ours, trainer.weights(), &ours_next)?;
        Ok(())
    }
}

/// Bytes that are no state of this training are the other node's fault.
fn restore(trainer: &mut Trainer, state: &[u8], what: &'static str) -> Result<(), Doubt> {
    let restored = trainer.restore(state);
    restored.map_err(|_| Unlike::Shown { what }.into())
}

/// So are examples that nobody can learn from; what this node has no room for is not.
fn make(trainer: &mut Trainer, made: &Made) -> Result<(), Doubt> {
    match trainer.make(made) {
        Ok(_) => Ok(()),
        Err(error @ TrainError::Quota(_)) => Err(Doubt::Ours(error)),
        Err(_) => Err(Unlike::Shown { what: STEP }.into()),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
pub(super) mod tests {
    use std::path::PathBuf;
    use std::sync::Arc;

    use skep_decoder::Decoder;
    use skep_together::DilocoConfig;
    use skep_together::audit::Order;
    use skep_train::{Base, Divisor, Example, HyperParameters, LoraConfig, Loss, TrainerOptions};

    use super::super::journal::Journal;
    use super::*;

    pub fn trainer() -> Trainer {
        let folder =
            PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../decoder/tests/models/llama");
        let base = Base::stored(Arc::new(Decoder::load(&folder).unwrap()));
        let lora = LoraConfig {
            rank: 2,
            ..LoraConfig::default()
        };
        Trainer::open(Arc::new(base), lora, &TrainerOptions::default()).unwrap()
    }

    pub fn made(number: u32) -> Made {
        let example = Example {
            tokens: (3..20)
                .map(|token| (token * (number + 3)) % 150 + 3)
                .collect(),
            ..Example::default()
        };
        Made {
            batches: vec![(vec![example], Loss::CrossEntropy, Divisor::Own)],
            hyper: HyperParameters::default(),
        }
    }

    /// How a member differs from an honest one.
    #[derive(Clone, Copy, PartialEq)]
    enum Lie {
        None,
        /// It makes half a step each time.
        Less,
        /// It learns from something else, and says so.
        OtherData,
        /// It does not take over what was agreed on.
        Keeps,
        /// It says that it has moved the other way.
        Turned,
    }

    /// A member that has made four steps and taken something over in the middle.
    fn case(lie: Lie, event: usize) -> (Case, Diloco, Order) {
        let how = DilocoConfig {
            every: 4,
            fragments: 2,
            overlap: 1,
            ..DilocoConfig::default()
        };
        let mut own = trainer();
        let mut leader = Diloco::new(how, own.weights()).unwrap();
        let mut part = leader.clone();
        let mut journal = Journal::default();
        journal.begin(own.state().unwrap());
        let first = Turn {
            round: 0,
            fragment: 0,
        };
        let (mut said, mut unsaid) = (Vec::new(), [0; 32]);
        let mut agreed = Vec::new();
        let mut order = Order {
            steps: Vec::new(),
            may_end: false,
        };
        let mut commitment = None;
        let mut turn = first;
        for step in 0..6 {
            let of = match lie == Lie::OtherData && step == 3 {
                true => made(77),
                false => made(step),
            };
            let before = own.weights().to_vec();
            own.make(&of).unwrap();
            if lie == Lie::Less {
                let half = before.iter().zip(own.weights());
                let half: Vec<f32> = half.map(|(x, y)| (x + y) / 2.0).collect();
                own.set_weights(&half).unwrap();
            }
            journal.stepped(&of, &own);
            let digest = |of: &Made| *blake3::hash(&postcard::to_allocvec(of).unwrap()).as_bytes();
            if step >= 2 {
                order.steps.push(digest(&made(step)));
            }
            if step == 1 || step == 5 {
                let weights = match lie == Lie::Turned && step == 5 {
                    true => part
                        .agreed()
                        .iter()
                        .zip(own.weights())
                        .map(|(x, y)| 2.0 * x - y)
                        .collect(),
                    false => own.weights().to_vec(),
                };
                let range = part.range(0);
                turn = Turn {
                    round: u32::from(step == 5),
                    fragment: 0,
                };
                let before = part.lost()[range.clone()].to_vec();
                unsaid = digest_of(&before);
                said = part.contribute(turn, &weights).unwrap();
                let still = &part.lost()[range];
                let state = own.state().unwrap();
                commitment = Some(journal.contributed(turn, state, before, still).unwrap());
            }
            if step == 2 {
                // What was said after the second step is decided one step later.
                let contribution = leader.read(first, &said).unwrap();
                let accepted = std::collections::BTreeMap::from([(1, contribution)]);
                let mut others = own.weights().to_vec();
                leader.step(first, &accepted, &mut others).unwrap();
                agreed = leader.agreed()[leader.range(0)].to_vec();
                let mut weights = own.weights().to_vec();
                part.step(first, &accepted, &mut weights).unwrap();
                if lie == Lie::Keeps {
                    weights = own.weights().to_vec();
                }
                own.set_weights(&weights).unwrap();
                let deed = Deed::Took { turn: first };
                journal.took(deed, &weights, &own.state().unwrap());
                journal.decided(first);
            }
        }
        let window = journal.window(turn).unwrap();
        // It shows what it has, whatever comes of doing it again.
        let mut shown = journal.show(turn, event, &mut trainer()).unwrap();
        if lie == Lie::Less {
            shown = less(&window, event, shown);
        }
        let case = Case {
            turn,
            contribution: said,
            commitment: commitment.unwrap(),
            window,
            event,
            unsaid,
            agreed: Some(agreed),
            committed: HashMap::new(),
            shown,
        };
        (case, leader, order)
    }

    /// What one who makes half steps kept of where it was: it has to show what it committed to.
    fn less(window: &Window, event: usize, shown: Shown) -> Shown {
        let hash = |bytes: &[u8]| *blake3::hash(bytes).as_bytes();
        let mut own = trainer();
        let mut states = vec![own.state().unwrap()];
        for step in 0..6 {
            let before = own.weights().to_vec();
            own.make(&made(step)).unwrap();
            let half = before.iter().zip(own.weights());
            let half: Vec<f32> = half.map(|(x, y)| (x + y) / 2.0).collect();
            own.set_weights(&half).unwrap();
            states.push(own.state().unwrap());
        }
        let find = |digest: Digest| states.iter().find(|state| hash(state) == digest).cloned();
        Shown {
            before: find(window.before_event(event).unwrap()).unwrap(),
            after: find(window.events[event].after).unwrap(),
            ..shown
        }
    }

    #[test]
    fn an_honest_member_passes_in_every_place() {
        // Four steps, and something taken over after the first.
        for event in 0..5 {
            let (case, part, order) = case(Lie::None, event);
            assert_eq!(case.window.check(&case.commitment, None, &order), Ok(()));
            let mut leader = trainer();
            leader.make(&made(9)).unwrap();
            let before = leader.state().unwrap();
            case.judge(&part, &mut leader).unwrap();
            assert_eq!(leader.state().unwrap(), before);
        }
    }

    #[test]
    fn a_step_that_was_not_made_is_found_out() {
        // Before it took something over: the states after that are not those of the helper above.
        let (case, part, order) = case(Lie::Less, 0);
        assert_eq!(case.window.check(&case.commitment, None, &order), Ok(()));
        let judged = case.judge(&part, &mut trainer());
        assert!(
            matches!(judged, Err(Doubt::Unlike(Unlike::Redone { error, .. })) if error > 0.3),
            "{judged:?}"
        );
    }

    #[test]
    fn other_examples_are_found_out() {
        let (case, _, order) = case(Lie::OtherData, 0);
        let checked = case.window.check(&case.commitment, None, &order);
        assert_eq!(checked, Err(Unlike::Order { step: 1 }));
    }

    #[test]
    fn who_takes_nothing_over_is_found_out_where_it_should_have() {
        let (case, part, _) = case(Lie::Keeps, 1);
        let judged = case.judge(&part, &mut trainer());
        let what = TAKEN;
        assert!(
            matches!(judged, Err(Doubt::Unlike(Unlike::Shown { what: got })) if got == what),
            "{judged:?}"
        );
    }

    #[test]
    fn a_contribution_that_does_not_follow_is_found_out_in_any_place() {
        for event in 0..5 {
            let (case, part, _) = case(Lie::Turned, event);
            let judged = case.judge(&part, &mut trainer());
            assert!(
                matches!(judged, Err(Doubt::Unlike(Unlike::Shown { what })) if what == CONTRIBUTION),
                "{judged:?}"
            );
        }
    }

    #[test]
    fn whatever_is_changed_of_what_is_shown_shows() {
        let changes: [fn(&mut Shown); 5] = [
            |shown| shown.before[200] ^= 1,
            |shown| shown.after.clear(),
            |shown| shown.at_contribution.push(0),
            |shown| shown.made[2] ^= 1,
            |shown| shown.unsaid[1] += 1.0,
        ];
        for change in changes {
            let (mut case, part, _) = case(Lie::None, 2);
            change(&mut case.shown);
            let judged = case.judge(&part, &mut trainer());
            assert!(
                matches!(judged, Err(Doubt::Unlike(Unlike::Shown { .. }))),
                "{judged:?}"
            );
        }
    }
}
