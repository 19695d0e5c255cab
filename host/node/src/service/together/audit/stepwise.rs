//! Computing once more what another node says at a step that all make together.
//!
//! Its weights were this node's, so its examples and where it was are all that it takes. What is
//! shown is held against what was committed to, as in every audit.

use skep_together::audit::{Deed, Unlike, Window};
use skep_together::message::Shown;
use skep_together::{Position, Stepwise};
use skep_train::{Made, TrainError, Trainer};

use super::{Doubt, STEP};

/// Everything that a node has said of a step.
pub struct StepCase {
    /// Which.
    pub step: u32,
    /// Its contribution, as it was sent.
    pub contribution: Vec<u8>,
    /// What it committed to, which was checked.
    pub window: Window,
    pub shown: Shown,
}

/// What a broken record is called.
const BEFORE: &str = "where it began";
const AFTER: &str = "where it came to";

impl StepCase {
    /// Judges it, with a trainer whose weights are those of the step and which has no gradients. It
    /// is left as it was.
    ///
    /// # Errors
    /// When what was shown is not what was said, or comes to something else.
    pub fn judge(&self, part: &Stepwise, trainer: &mut Trainer) -> Result<(), Doubt> {
        let shown = &self.shown;
        let [event] = self.window.events.as_slice() else {
            return Err(Unlike::Window.into());
        };
        let Deed::Step { of } = event.deed else {
            return Err(Unlike::Window.into());
        };
        let wrong = |what| Doubt::from(Unlike::Shown { what });
        for (what, bytes, want) in [
            (BEFORE, &shown.before, self.window.before),
            (AFTER, &shown.after, event.after),
            ("its examples", &shown.made, of),
        ] {
            if *blake3::hash(bytes).as_bytes() != want {
                return Err(wrong(what));
            }
        }
        let before = Position::from_bytes(&shown.before).ok_or_else(|| wrong(BEFORE))?;
        let after = Position::from_bytes(&shown.after).ok_or_else(|| wrong(AFTER))?;
        let made: Made = postcard::from_bytes(&shown.made).map_err(|_| wrong(STEP))?;
        let passed = before.batches.checked_add(made.batches.len() as u64);
        if passed != Some(after.batches) {
            return Err(wrong(AFTER));
        }
        let gradients = match trainer.gradients_of(&made, before.batches) {
            Ok(gradients) => gradients,
            Err(error @ TrainError::Quota(_)) => return Err(Doubt::Ours(error)),
            Err(_) => return Err(wrong(STEP)),
        };
        let unsaid = (before.unsaid.as_slice(), after.unsaid.as_slice());
        let rate = made.hyper.learning_rate;
        part.check(self.step, &self.contribution, unsaid, &gradients, rate)?;
        Ok(())
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
mod tests {
    use skep_together::{DemoConfig, Method};

    use super::super::super::stepwise::{self, SaidStep};
    use super::super::tests::{made, trainer};
    use super::*;

    fn methods() -> [Method; 2] {
        [Method::Demo(DemoConfig::default()), Method::AllReduce]
    }

    /// A node that has said something at three steps, the last of which is of these examples and
    /// turned around or not; and the order that is known of it.
    fn case(method: &Method, last: u32, turned: bool) -> (StepCase, Stepwise, SaidStep) {
        let mut own = trainer();
        let mut part = stepwise::part(method, &own).unwrap();
        let leader = part.clone();
        let mut said = None;
        for round in 0..3 {
            let of = made(if round == 2 { last } else { round });
            for (examples, loss, divisor) in &of.batches {
                own.forward_backward(examples, *loss, *divisor).unwrap();
            }
            let (mut gradients, _) = own.take_clipped(&of.hyper).unwrap();
            if turned && round == 2 {
                gradients.iter_mut().for_each(|x| *x = -*x);
            }
            said = Some(SaidStep::new(&mut part, round, (&gradients, &of), &own).unwrap());
        }
        let said = said.unwrap();
        let case = StepCase {
            step: 2,
            contribution: said.bytes.clone(),
            window: said.window(),
            shown: said.shown(),
        };
        (case, leader, said)
    }

    fn order(number: u32) -> skep_together::audit::Order {
        let made = postcard::to_allocvec(&made(number)).unwrap();
        skep_together::audit::Order {
            steps: vec![*blake3::hash(&made).as_bytes()],
            may_end: false,
        }
    }

    #[test]
    fn an_honest_node_passes() {
        for method in methods() {
            let (case, part, said) = case(&method, 2, false);
            let checked = case.window.check(&said.commitment(), None, &order(2));
            assert_eq!(checked, Ok(()));
            let mut leader = trainer();
            let before = leader.state().unwrap();
            case.judge(&part, &mut leader).unwrap();
            assert_eq!(leader.state().unwrap(), before);
        }
    }

    #[test]
    fn other_examples_and_other_gradients_are_found_out() {
        for method in methods() {
            let (other, _, said) = case(&method, 7, false);
            let checked = other.window.check(&said.commitment(), None, &order(2));
            assert_eq!(checked, Err(Unlike::Order { step: 0 }));
            let (turned, part, said) = case(&method, 2, true);
            let checked = turned.window.check(&said.commitment(), None, &order(2));
            assert_eq!(checked, Ok(()));
            let judged = turned.judge(&part, &mut trainer());
            assert!(
                matches!(judged, Err(Doubt::Unlike(Unlike::Redone { .. }))),
                "{judged:?}"
            );
        }
    }

    #[test]
    fn whatever_is_changed_of_what_is_shown_shows() {
        let changes: [fn(&mut Shown); 4] = [
            |shown| shown.before[0] ^= 1,
            |shown| shown.after.push(0),
            |shown| shown.after.clear(),
            |shown| shown.made[2] ^= 1,
        ];
        for method in methods() {
            for change in changes {
                let (mut case, part, _) = case(&method, 2, false);
                change(&mut case.shown);
                let judged = case.judge(&part, &mut trainer());
                assert!(
                    matches!(judged, Err(Doubt::Unlike(Unlike::Shown { .. }))),
                    "{judged:?}"
                );
            }
        }
    }
}
