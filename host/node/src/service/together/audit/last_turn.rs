//! Audits of what is said at the end of a training: a recipe may have gone back by then, and what all
//! agreed on is taken over whole where nothing was computed meanwhile.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::{BTreeMap, HashMap};

use skep_together::audit::{Deed, Unlike, digest_of};
use skep_together::message::LAST_ROUND;
use skep_together::{Diloco, DilocoConfig, Turn};
use skep_train::Trainer;

use super::super::journal::Journal;
use super::tests::{made, trainer};
use super::{BACK, Case, Doubt, TAKEN};

const FIRST: Turn = Turn {
    round: 0,
    fragment: 0,
};
const LAST: Turn = Turn {
    round: LAST_ROUND,
    fragment: 0,
};

/// A member that has made four steps and said so, with what all agreed on then.
struct Member {
    own: Trainer,
    part: Diloco,
    leader: Diloco,
    journal: Journal,
    committed: HashMap<Turn, [u8; 32]>,
    unsaid: [u8; 32],
    agreed: Vec<f32>,
}

impl Member {
    fn new(own: Trainer) -> Self {
        let how = DilocoConfig {
            every: 4,
            overlap: 1,
            ..DilocoConfig::default()
        };
        let leader = Diloco::new(how, own.weights()).unwrap();
        let mut journal = Journal::default();
        journal.begin(own.state().unwrap());
        Self {
            part: leader.clone(),
            leader,
            own,
            journal,
            committed: HashMap::new(),
            unsaid: [0; 32],
            agreed: Vec::new(),
        }
    }

    fn steps(&mut self, numbers: std::ops::Range<u32>) {
        for number in numbers {
            let of = made(number);
            self.own.make(&of).unwrap();
            self.journal.stepped(&of, &self.own);
        }
    }

    /// Says what it has moved by, and gives what it said and committed to.
    fn contribute(&mut self, turn: Turn) -> (Vec<u8>, skep_together::audit::Commitment) {
        let before = self.part.lost().to_vec();
        let weights = self.own.weights().to_vec();
        let said = self.part.contribute(turn, &weights).unwrap();
        let state = self.own.state().unwrap();
        let commitment = self
            .journal
            .contributed(turn, state, before, self.part.lost());
        (said, commitment.unwrap())
    }

    /// The first turn, up to what is decided of it.
    fn first_turn(&mut self) {
        let (said, commitment) = self.contribute(FIRST);
        self.committed.insert(FIRST, commitment.window);
        self.unsaid = commitment.unsaid;
        let contribution = self.leader.read(FIRST, &said).unwrap();
        let accepted = BTreeMap::from([(1, contribution)]);
        let mut leaders = self.own.weights().to_vec();
        self.leader.step(FIRST, &accepted, &mut leaders).unwrap();
        self.agreed = self.leader.agreed().to_vec();
        let mut weights = self.own.weights().to_vec();
        self.part.step(FIRST, &accepted, &mut weights).unwrap();
        self.take(Deed::Took { turn: FIRST }, &weights);
        self.journal.decided(FIRST);
    }

    fn take(&mut self, deed: Deed, weights: &[f32]) {
        self.own.set_weights(weights).unwrap();
        self.journal.took(deed, weights, &self.own.state().unwrap());
    }

    /// What a leader makes of an event before what was said last, whose state is shown for real.
    fn judged(mut self, event: usize, change: impl Fn(&mut Case)) -> Result<(), Doubt> {
        let (contribution, commitment) = self.contribute(LAST);
        let shown = self.journal.show(LAST, event, &mut trainer()).unwrap();
        let mut case = Case {
            turn: LAST,
            contribution,
            commitment,
            window: self.journal.window(LAST).unwrap(),
            event,
            unsaid: self.unsaid,
            agreed: Some(self.agreed),
            committed: self.committed,
            shown,
        };
        change(&mut case);
        assert_eq!(case.window.digest(), case.commitment.window);
        case.judge(&self.leader, &mut trainer())
    }
}

/// One that goes back to a checkpoint of after so many steps.
fn went_back(to: u32) -> Member {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("best.checkpoint");
    let mut member = Member::new(trainer());
    if to == 0 {
        member.own.checkpoint(&path, &[]).unwrap();
    }
    for step in 0..6 {
        member.steps(step..step + 1);
        if step == 3 {
            member.first_turn();
        }
        if step + 1 == to {
            member.own.checkpoint(&path, &[]).unwrap();
        }
    }
    member.own.resume(&path).unwrap();
    member.journal.went_back(&member.own);
    member
}

#[test]
fn who_goes_back_can_show_that_it_was_there() {
    // In the turn before, where it began, after what it took over, and since then.
    for to in [2, 0, 4, 5] {
        for event in 0..4 {
            went_back(to).judged(event, |_| {}).unwrap();
        }
    }
}

#[test]
fn who_goes_where_it_never_was_is_found_out() {
    let mut member = went_back(2);
    member.steps(6..7);
    // It says that it goes on to somewhere else.
    let far: Vec<f32> = member.own.weights().iter().map(|x| x + 0.1).collect();
    member.own.set_weights(&far).unwrap();
    member.journal.went_back(&member.own);
    let window = {
        let mut other = Member::new(trainer());
        other.own.set_weights(&far).unwrap();
        other.journal.went_back(&other.own);
        other.contribute(LAST);
        other.journal.window(LAST).unwrap()
    };
    let (contribution, commitment) = member.contribute(LAST);
    let own = member.journal.window(LAST).unwrap();
    let honest = member.journal.show(LAST, 4, &mut trainer()).unwrap();
    let state = member.own.state().unwrap();
    // With nothing, with a window that it never committed to, and with one in which it was not.
    let first = (FIRST, skep_together::audit::Window::new([0; 32]));
    for place in [Vec::new(), encoded(&(LAST, window)), encoded(&first)] {
        let mut shown = honest.clone();
        shown.before = shown.after.clone();
        shown.after.clone_from(&state);
        shown.made = place;
        let case = Case {
            turn: LAST,
            contribution: contribution.clone(),
            commitment,
            window: own.clone(),
            event: 5,
            unsaid: member.unsaid,
            agreed: None,
            committed: member.committed.clone(),
            shown,
        };
        let judged = case.judge(&member.leader, &mut trainer());
        assert!(
            matches!(judged, Err(Doubt::Unlike(Unlike::Shown { what })) if what == BACK),
            "{judged:?}"
        );
    }
}

fn encoded<T: serde::Serialize>(value: &T) -> Vec<u8> {
    postcard::to_allocvec(value).unwrap()
}

#[test]
fn who_has_computed_nothing_meanwhile_takes_it_whole() {
    let ended = |whole: &dyn Fn(&Diloco, &mut Vec<f32>)| {
        let mut member = Member::new(trainer());
        member.steps(0..4);
        member.first_turn();
        let mut weights = member.own.weights().to_vec();
        whole(&member.part, &mut weights);
        member.take(Deed::TookWhole { turn: FIRST }, &weights);
        member
    };
    let honest: &dyn Fn(&Diloco, &mut Vec<f32>) =
        &|part, weights| part.take_whole(0, weights).unwrap();
    for event in 0..2 {
        ended(honest).judged(event, |_| {}).unwrap();
    }
    // Whoever keeps something of its own is found out there, and who is asked for the other passes.
    let keeps: &dyn Fn(&Diloco, &mut Vec<f32>) = &|_, _| {};
    ended(keeps).judged(0, |_| {}).unwrap();
    let judged = ended(keeps).judged(1, |_| {});
    assert!(
        matches!(judged, Err(Doubt::Unlike(Unlike::Shown { what })) if what == TAKEN),
        "{judged:?}"
    );
}

#[test]
fn what_is_said_last_has_to_follow_from_where_the_node_is() {
    for event in 0..4 {
        let judged = went_back(2).judged(event, |case| case.contribution[40] ^= 1);
        assert!(judged.is_err(), "{event}");
        let judged = went_back(2).judged(event, |case| case.unsaid = digest_of(&[1.0]));
        assert!(judged.is_err(), "{event}");
    }
}

/// Of a second fragment, that is said at the same moment as the first.
#[test]
fn who_has_done_nothing_since_shows_where_it_is() {
    let again = || {
        let mut member = went_back(2);
        let (_, commitment) = member.contribute(LAST);
        member.unsaid = commitment.unsaid;
        member.journal.decided(LAST);
        member
    };
    again().judged(0, |_| {}).unwrap();
    let changes: [fn(&mut Case); 3] = [
        |case| case.contribution[40] ^= 1,
        |case| case.shown.at_contribution[200] ^= 1,
        |case| case.shown.unsaid[0] += 1.0,
    ];
    for change in changes {
        let judged = again().judged(0, change);
        assert!(
            matches!(judged, Err(Doubt::Unlike(Unlike::Shown { .. }))),
            "{judged:?}"
        );
    }
}
