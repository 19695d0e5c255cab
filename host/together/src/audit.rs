//! What a node commits to with each contribution, and what it shows of it when it is asked.
//!
//! Between two contributions a node makes steps of its own and takes over what all have agreed on.
//! It keeps a list of these [`Event`]s with the digest of where it was after each, and sends the
//! list's digest with the contribution, before it can know what will be asked for. Whoever audits
//! has the list shown, draws one event, and is shown where the node was before it and what it did:
//! then it does the same and has to come to the same place.
//!
//! What is checked here are the links: that the list is the one that was committed to, that it
//! begins where the last one ended and has as many steps as there have to be, and that what is
//! shown is what the list says. To do an event again takes a trainer, which is not here.

use std::collections::HashSet;

use serde::{Deserialize, Serialize};

use crate::diloco::Turn;

/// BLAKE3 of something.
pub type Digest = [u8; 32];

/// What a node has done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Deed {
    /// A step of its own.
    Step {
        /// The digest of what it was made of.
        of: Digest,
    },
    /// It took over what all have agreed on in a turn.
    Took {
        /// Which.
        turn: Turn,
    },
    /// It took over the same whole, and nothing of its own stayed.
    TookWhole {
        /// Which.
        turn: Turn,
    },
    /// Its recipe went back to where it was before.
    WentBack,
}

/// What the steps before a contribution have to be made of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Order {
    /// The digest of what each is made of.
    pub steps: Vec<Digest>,
    /// Whether this is at the end of the training. A recipe may end where it likes, so they may be fewer;
    /// it may go back to a checkpoint, and others may make many turns after that.
    pub may_end: bool,
}

/// Something that a node has done, and where it was then.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// What.
    pub deed: Deed,
    /// The digest of its training's state afterwards.
    pub after: Digest,
}

/// What a node has done since its last contribution.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Window {
    /// The digest of where it was at that contribution.
    pub before: Digest,
    /// What came then.
    pub events: Vec<Event>,
}

/// What is sent with a contribution.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Commitment {
    /// The digest of the window that ends with it.
    pub window: Digest,
    /// That of where the node is.
    pub state: Digest,
    /// That of what the contribution leaves unsaid of its fragment.
    pub unsaid: Digest,
}

/// Why what a node shows is not what it has said.
#[derive(Debug, Clone, Copy, PartialEq, thiserror::Error)]
pub enum Unlike {
    /// Another list.
    #[error("it shows another list of what it did than it committed to")]
    Window,
    /// A list that begins elsewhere.
    #[error("what it did does not begin where its last contribution ended")]
    Beginning,
    /// Steps too many or too few.
    #[error("it shows {got} steps since its last contribution where there have to be {want}")]
    Steps {
        /// How many it shows.
        got: usize,
        /// How many there have to be.
        want: usize,
    },
    /// Something twice that is done once at most, or that is nothing: whatever is drawn of such a list
    /// is seldom a step.
    #[error("event {event} of what it did is done once at most, or is nothing")]
    Idle {
        /// Which, counted from 0.
        event: usize,
    },
    /// Other examples, or in another order.
    #[error("step {step} was not made of the examples whose turn it was")]
    Order {
        /// Which, counted from 0.
        step: usize,
    },
    /// Something else than the list says.
    #[error("what it shows of {what} is not what it committed to")]
    Shown {
        /// Of what.
        what: &'static str,
    },
    /// Done again, it comes to something else.
    #[error(
        "{what}, done again here, comes to something else: {error:.1e} of the change, where at most \
         {most:.0e} is rounding"
    )]
    Redone {
        /// What.
        what: &'static str,
        /// The norm of the difference over that of the change.
        error: f64,
        /// How much is believed.
        most: f64,
    },
}

/// How much of a change may differ: what other instructions of other processors round otherwise.
pub const ROUNDING: f64 = 0.02;

/// The digest of numbers.
#[must_use]
pub fn digest_of(numbers: &[f32]) -> Digest {
    let mut hasher = blake3::Hasher::new();
    for chunk in numbers.chunks(1024) {
        let bytes: Vec<u8> = chunk.iter().flat_map(|x| x.to_le_bytes()).collect();
        hasher.update(&bytes);
    }
    *hasher.finalize().as_bytes()
}

fn turn_to(hasher: &mut blake3::Hasher, turn: Turn) -> &mut blake3::Hasher {
    hasher
        .update(&turn.round.to_le_bytes())
        .update(&turn.fragment.to_le_bytes())
}

impl Window {
    /// One that begins here.
    #[must_use]
    pub fn new(before: Digest) -> Self {
        Self {
            before,
            events: Vec::new(),
        }
    }

    /// Its digest.
    #[must_use]
    pub fn digest(&self) -> Digest {
        let mut hasher = blake3::Hasher::new();
        hasher.update(&self.before);
        for event in &self.events {
            match event.deed {
                Deed::Step { of } => hasher.update(&[0]).update(&of),
                Deed::Took { turn } => turn_to(hasher.update(&[1]), turn),
                Deed::TookWhole { turn } => turn_to(hasher.update(&[2]), turn),
                Deed::WentBack => hasher.update(&[3]),
            };
            hasher.update(&event.after);
        }
        *hasher.finalize().as_bytes()
    }

    /// Where the node is at its end.
    #[must_use]
    pub fn after(&self) -> Digest {
        self.events.last().map_or(self.before, |event| event.after)
    }

    /// Where it was before one of the events; none if there is no such event.
    #[must_use]
    pub fn before_event(&self, event: usize) -> Option<Digest> {
        match event.checked_sub(1) {
            _ if event >= self.events.len() => None,
            None => Some(self.before),
            Some(last) => self.events.get(last).map(|last| last.after),
        }
    }

    /// Whether the node was there before one of the events.
    #[must_use]
    pub fn was_at(&self, place: Digest, event: usize) -> bool {
        let mut earlier = self.events.iter().take(event);
        self.before == place || earlier.any(|event| event.after == place)
    }

    /// How many of its events before this one are steps.
    #[must_use]
    pub fn steps_before(&self, event: usize) -> usize {
        let earlier = self.events.iter().take(event);
        earlier
            .filter(|event| matches!(event.deed, Deed::Step { .. }))
            .count()
    }

    /// The first event that an honest list would not have: a turn that was taken over before, in the
    /// same way, or going back to where it is, or once more without a step in between. Between two
    /// turns one is taken over at most, mixed, and nobody goes back.
    fn idle(&self, may_end: bool) -> Option<usize> {
        let (mut taken, mut is_back) = (HashSet::new(), false);
        let mut at = self.before;
        self.events.iter().position(|event| {
            let before = std::mem::replace(&mut at, event.after);
            match event.deed {
                Deed::Step { .. } => {
                    is_back = false;
                    false
                }
                Deed::Took { turn } => {
                    (!may_end && !taken.is_empty()) || !taken.insert((turn, false))
                }
                Deed::TookWhole { turn } => !may_end || !taken.insert((turn, true)),
                Deed::WentBack => {
                    !may_end || std::mem::replace(&mut is_back, true) || before == event.after
                }
            }
        })
    }

    /// Holds it against what was committed to with the contribution at its end, where the window
    /// before ended, if that is known, and what the steps have to be made of.
    ///
    /// # Errors
    /// When it is another.
    pub fn check(
        &self,
        commitment: &Commitment,
        begins: Option<Digest>,
        order: &Order,
    ) -> Result<(), Unlike> {
        if self.digest() != commitment.window || self.after() != commitment.state {
            return Err(Unlike::Window);
        }
        if begins.is_some_and(|begins| begins != self.before) {
            return Err(Unlike::Beginning);
        }
        if let Some(event) = self.idle(order.may_end) {
            return Err(Unlike::Idle { event });
        }
        let (got, want) = (self.steps_before(self.events.len()), order.steps.len());
        if got > want || (got < want && !order.may_end) {
            return Err(Unlike::Steps { got, want });
        }
        let made = self.events.iter().filter_map(|event| match event.deed {
            Deed::Step { of } => Some(of),
            Deed::Took { .. } | Deed::TookWhole { .. } | Deed::WentBack => None,
        });
        match made
            .zip(&order.steps)
            .position(|(of, wanted)| of != *wanted)
        {
            Some(step) => Err(Unlike::Order { step }),
            None => Ok(()),
        }
    }
}

/// Whether two come to the same from the same beginning, but for rounding.
///
/// # Errors
/// When they do not, or their lengths differ.
pub fn agree(
    what: &'static str,
    before: &[f32],
    theirs: &[f32],
    ours: &[f32],
) -> Result<(), Unlike> {
    if before.len() != ours.len() || theirs.len() != ours.len() {
        return Err(Unlike::Shown { what });
    }
    let (mut change, mut difference) = (0.0_f64, 0.0_f64);
    for ((before, theirs), ours) in before.iter().zip(theirs).zip(ours) {
        change += (f64::from(*ours) - f64::from(*before)).powi(2);
        difference += (f64::from(*ours) - f64::from(*theirs)).powi(2);
    }
    let error = match difference == 0.0 {
        true => 0.0,
        false => (difference / change).sqrt(),
    };
    // A NaN is no agreement.
    match error <= ROUNDING {
        true => Ok(()),
        false => Err(Unlike::Redone {
            what,
            error,
            most: ROUNDING,
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn step(of: u8, after: u8) -> Event {
        Event {
            deed: Deed::Step { of: [of; 32] },
            after: [after; 32],
        }
    }

    fn took(round: u32, after: u8) -> Event {
        let turn = Turn { round, fragment: 1 };
        Event {
            deed: Deed::Took { turn },
            after: [after; 32],
        }
    }

    fn window() -> Window {
        Window {
            before: [9; 32],
            events: vec![step(1, 10), took(4, 11), step(2, 12)],
        }
    }

    fn commitment(window: &Window) -> Commitment {
        Commitment {
            window: window.digest(),
            state: window.after(),
            unsaid: [0; 32],
        }
    }

    #[test]
    fn a_window_is_what_was_committed_to() {
        let own = window();
        let order = |steps: &[u8], may_end| Order {
            steps: steps.iter().map(|of| [*of; 32]).collect(),
            may_end,
        };
        let (said, all) = (commitment(&own), order(&[1, 2], false));
        assert_eq!(own.check(&said, Some([9; 32]), &all), Ok(()));
        assert_eq!(own.check(&said, None, &all), Ok(()));
        assert_eq!(
            own.check(&said, Some([8; 32]), &all),
            Err(Unlike::Beginning)
        );
        for may_end in [false, true] {
            let wrong = own.check(&said, None, &order(&[1, 3], may_end));
            assert_eq!(wrong, Err(Unlike::Order { step: 1 }));
            let wrong = own.check(&said, None, &order(&[1], may_end));
            assert_eq!(wrong, Err(Unlike::Steps { got: 2, want: 1 }));
        }
        // Whoever may end has made fewer, and otherwise nobody has.
        assert_eq!(own.check(&said, None, &order(&[1, 2, 5], true)), Ok(()));
        let wrong = own.check(&said, None, &order(&[1, 2, 5], false));
        assert_eq!(wrong, Err(Unlike::Steps { got: 2, want: 3 }));
        // Any other list is another.
        for change in [
            |w: &mut Window| w.before = [8; 32],
            |w: &mut Window| w.events[0].after = [8; 32],
            |w: &mut Window| w.events[1] = took(5, 11),
            |w: &mut Window| {
                let turn = Turn {
                    round: 4,
                    fragment: 1,
                };
                w.events[1].deed = Deed::TookWhole { turn };
            },
            |w: &mut Window| w.events[1].deed = Deed::WentBack,
            |w: &mut Window| w.events.swap(0, 1),
            |w: &mut Window| w.events.truncate(2),
        ] {
            let mut other = window();
            change(&mut other);
            assert_eq!(other.check(&said, None, &all), Err(Unlike::Window));
        }
    }

    #[test]
    fn a_list_has_nothing_in_it_that_makes_steps_rare() {
        let back = |after: u8| Event {
            deed: Deed::WentBack,
            after: [after; 32],
        };
        let whole = |round: u32, after: u8| {
            let turn = Turn { round, fragment: 1 };
            Event {
                deed: Deed::TookWhole { turn },
                after: [after; 32],
            }
        };
        let checked = |may_end: bool, events: Vec<Event>| {
            let window = Window {
                before: [9; 32],
                events,
            };
            let order = Order {
                steps: vec![[1; 32]; window.steps_before(9)],
                may_end,
            };
            window.check(&commitment(&window), None, &order)
        };
        let idle = |event| Err(Unlike::Idle { event });
        let many = vec![took(1, 3), took(2, 4), back(5), whole(2, 6)];
        assert_eq!(checked(true, many), Ok(()));
        assert_eq!(checked(true, vec![back(5), step(1, 6), back(5)]), Ok(()));
        assert_eq!(checked(true, vec![took(1, 3), took(1, 3)]), idle(1));
        assert_eq!(checked(true, vec![whole(1, 3), whole(1, 3)]), idle(1));
        assert_eq!(checked(true, vec![back(9)]), idle(0));
        assert_eq!(checked(true, vec![back(5), took(1, 3), back(5)]), idle(2));
        // Between two turns.
        let usual = vec![step(1, 2), took(1, 3), step(1, 4)];
        assert_eq!(checked(false, usual), Ok(()));
        assert_eq!(checked(false, vec![took(1, 3), took(2, 4)]), idle(1));
        assert_eq!(checked(false, vec![took(1, 3), whole(1, 4)]), idle(1));
        assert_eq!(checked(false, vec![step(1, 3), back(5)]), idle(1));
    }

    #[test]
    fn events_begin_where_the_ones_before_them_end() {
        let own = window();
        let before: Vec<_> = (0..4).map(|event| own.before_event(event)).collect();
        assert_eq!(
            before,
            [Some([9; 32]), Some([10; 32]), Some([11; 32]), None]
        );
        assert_eq!([0, 1, 2, 3].map(|n| own.steps_before(n)), [0, 1, 1, 2]);
        assert_eq!(Window::new([3; 32]).after(), [3; 32]);
        // It was where it began, and where each event before led to.
        let was = |place: u8, event| own.was_at([place; 32], event);
        assert!(was(9, 0) && was(10, 1) && was(11, 3));
        assert!(!was(10, 0) && !was(12, 2) && !was(7, 3));
    }

    #[test]
    fn rounding_is_forgiven_and_nothing_else() {
        let before = [0.0, 1.0, 2.0];
        let ours = [0.1, 1.1, 1.9];
        assert_eq!(agree("a step", &before, &ours, &ours), Ok(()));
        assert_eq!(agree("a step", &before, &[0.1001, 1.1, 1.9], &ours), Ok(()));
        // Nothing was done, the other way around, half of it, no numbers, other lengths.
        for theirs in [
            &before[..],
            &[-0.1, 0.9, 2.1],
            &[0.05, 1.05, 1.95],
            &[f32::NAN; 3],
            &ours[..2],
        ] {
            assert!(
                agree("a step", &before, theirs, &ours).is_err(),
                "{theirs:?}"
            );
        }
        assert_eq!(agree("a step", &before, &before, &before), Ok(()));
        assert!(agree("a step", &before, &ours, &before).is_err());
    }

    #[test]
    fn a_digest_is_of_all_numbers_and_their_order() {
        let numbers: Vec<f32> = (0..3000).map(|n| n as f32).collect();
        let bytes: Vec<u8> = numbers.iter().flat_map(|x| x.to_le_bytes()).collect();
        assert_eq!(digest_of(&numbers), *blake3::hash(&bytes).as_bytes());
        let mut other = numbers.clone();
        other.swap(1, 2900);
        assert_ne!(digest_of(&numbers), digest_of(&other));
    }
}
