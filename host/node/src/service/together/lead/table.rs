//! The others of a training that this node leads, as one table: hears them in a turn, judges whose
//! contributions count, tells everybody, and has one of them show what it did.
//!
//! Whoever uses it has it alone for a turn; turns follow each other.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use skep_swarm::Swarm;
use skep_together::audit::{self, Commitment, Digest, Window};
use skep_together::message::{Invitation, Shown, StepWith, ToMember};
use skep_together::{Contribution, Guard, Judgement, Method, Turn, Unsound};
use tokio::time::Instant;

use super::super::Broken;
use super::super::audit::Doubt;
use super::super::seat::{STEPS_MADE, Said, Seat};
use super::queue::Queue;

/// What is left for a node to say what it has said already, when others have used up the time.
const MOMENT: Duration = Duration::from_secs(2);

/// Everybody else, and what is known of them.
pub(super) struct Table {
    pub method: Method,
    pub patience: Duration,
    /// In how many of a million turns somebody is audited.
    pub audit: u32,
    pub swarm: Swarm,
    /// To what those are invited who come later, or come back.
    pub invitation: Invitation,
    /// Steps that were made before the training was interrupted.
    pub kept: u64,
    pub guard: Guard,
    pub seats: Vec<Seat>,
    /// Places that nobody has, and nodes that have none.
    pub queue: Queue,
    pub turns: u64,
    /// Bytes of all that this node has sent, examples included.
    pub sent: u64,
    /// Becomes true when somebody has come, or never will.
    pub is_back: Arc<AtomicBool>,
}

impl Table {
    /// Tells all who are ready where this node is.
    pub async fn begin(&mut self, state: &ToMember, weights: usize, begins: Digest) {
        for seat in &mut self.seats {
            self.sent += seat.begin(state, weights as u64, begins).await as u64;
        }
    }

    /// Takes those in who have come, with this as their first round.
    pub async fn take_in(&mut self, state: &ToMember, round: u32, begins: Digest) {
        for seat in self.seats.iter_mut().filter(|seat| seat.has_answered()) {
            self.sent += seat.take_in(state, round, begins).await as u64;
        }
    }

    /// Whether everybody is here that there are places for.
    pub fn is_full(&self) -> bool {
        self.queue.has_no_place() && self.seats.iter().all(Seat::is_here)
    }

    /// Asks those to come who are away, and others to take the places that nobody has, to go on after so
    /// many steps of this run.
    pub fn invite(&mut self, weights: usize, made: u64) {
        let now = Instant::now();
        self.queue.fill(&mut self.seats, self.patience, now);
        let mut invitation = self.invitation.clone();
        // Others' recipes may not know the setting, and begin their schedule anew.
        let made = if invitation.recipe.is_none() { made } else { 0 };
        if made > 0 {
            let told = (self.kept + made).to_string();
            invitation.settings.retain(|(name, _)| name != STEPS_MADE);
            invitation.settings.push((STEPS_MADE.to_owned(), told));
        }
        for seat in &mut self.seats {
            let invitation = (&invitation, self.patience);
            seat.invite(&self.swarm, invitation, weights as u64, made, &self.is_back);
        }
    }

    /// What the others say in a turn, of at most so many bytes, which they may take so much longer for
    /// than the patience with them.
    pub async fn hear(
        &mut self,
        turn: Turn,
        bytes: usize,
        longer: Duration,
    ) -> BTreeMap<u16, Said> {
        let patience = self.patience + longer;
        for seat in &mut self.seats {
            seat.give_time(patience);
        }
        let deadline = Instant::now() + patience;
        let mut came: BTreeMap<u16, Said> = BTreeMap::new();
        for seat in &mut self.seats {
            let left = deadline
                .saturating_duration_since(Instant::now())
                .max(MOMENT);
            if let Some(said) = seat.says(turn, bytes, left).await {
                came.insert(seat.place.number, said);
            }
        }
        came
    }

    /// Judges whose contributions count, this node's own among them.
    pub fn judge(
        &mut self,
        own: &[u8],
        came: &BTreeMap<u16, Said>,
        read: impl Fn(&[u8]) -> Result<Contribution, Unsound>,
    ) -> Judgement<u16> {
        let others = came
            .iter()
            .map(|(number, said)| (*number, said.bytes.as_slice()));
        let read = std::iter::once((0, own))
            .chain(others)
            .map(|(number, bytes)| (number, read(bytes)))
            .collect();
        self.guard.judge(read, Some(&0))
    }

    /// Notes what was decided of a turn, and tells everybody.
    pub async fn settle(
        &mut self,
        turn: Turn,
        own: &[u8],
        mut came: BTreeMap<u16, Said>,
        mut judged: Judgement<u16>,
        with: Option<StepWith>,
    ) {
        self.turns += 1;
        for seat in &mut self.seats {
            if let Some(said) = came.get(&seat.place.number) {
                let accepted = judged.accepted.contains_key(&seat.place.number);
                seat.counted(&self.method, said, accepted);
            }
            if let Some(why) = judged.left_out.remove(&seat.place.number) {
                seat.strike(turn, why);
            }
        }
        came.retain(|number, _| judged.accepted.contains_key(number));
        for seat in &mut self.seats {
            // What a node has said itself it knows.
            let passed = came
                .iter()
                .map(|(number, said)| match *number == seat.place.number {
                    true => (*number, Vec::new()),
                    false => (*number, said.bytes.clone()),
                });
            let round = ToMember::Round {
                turn,
                accepted: std::iter::once((0, own.to_vec())).chain(passed).collect(),
                with,
            };
            self.sent += seat.tell(&round).await as u64;
        }
    }

    /// Draws whether somebody is audited in this turn, and whom.
    pub fn draw(&self, accepted: impl Fn(&u16) -> bool) -> Option<usize> {
        if drawn(1_000_000)? >= u64::from(self.audit) {
            return None;
        }
        let seats = self.seats.iter().enumerate();
        let candidates = seats.filter(|(_, seat)| seat.is_here() && accepted(&seat.place.number));
        let candidates: Vec<usize> = candidates.map(|(at, _)| at).collect();
        let which = drawn(candidates.len() as u64)?;
        candidates.get(usize::try_from(which).ok()?).copied()
    }

    /// Has a node show something that it did before a contribution, drawn by chance; none if it is
    /// not known what that has to be.
    pub async fn examine(
        &mut self,
        at: usize,
        said: &Said,
        carried: usize,
    ) -> Option<Result<Evidence, Broken>> {
        let seat = &mut self.seats[at];
        let order = seat.order(&self.method, said.turn).await?;
        Some(evidence_of(seat, said, &order, carried, self.patience).await)
    }

    /// Notes what came of an audit. False if it does not hold.
    pub fn conclude(
        &mut self,
        at: usize,
        turn: Turn,
        judged: Result<Result<(), Doubt>, String>,
    ) -> bool {
        let seat = &mut self.seats[at];
        let why = match judged {
            Ok(Ok(())) => {
                seat.guest.told.audited += 1;
                return true;
            }
            Ok(Err(Doubt::Unlike(unlike))) => return self.doubt(at, turn, &unlike.into()),
            Ok(Err(Doubt::Ours(why))) => why.to_string(),
            Err(why) => why,
        };
        tracing::warn!(node = %seat.guest.told.node, %why, "an audit was not made");
        true
    }

    /// Lets a node go whose contribution cannot be believed. Always false.
    pub fn doubt(&mut self, at: usize, turn: Turn, doubt: &Broken) -> bool {
        let seat = &mut self.seats[at];
        seat.leave_out(turn, &doubt.to_string());
        match doubt {
            Broken::Unlike(_) => seat.ban(doubt),
            // A cable that breaks in the middle is no lie.
            _ => seat.let_go(doubt),
        }
        false
    }
}

/// What a node shows of what it did before a contribution.
pub(super) struct Evidence {
    pub commitment: Commitment,
    pub window: Window,
    /// Which event was drawn.
    pub event: usize,
    pub shown: Shown,
}

async fn evidence_of(
    seat: &mut Seat,
    said: &Said,
    order: &audit::Order,
    carried: usize,
    patience: Duration,
) -> Result<Evidence, Broken> {
    let commitment = said.commitment.ok_or(Broken::OutOfTurn)?;
    let window = seat.open(said.turn, order.steps.len(), patience).await?;
    window.check(&commitment, seat.begins, order)?;
    // Of no events, the contribution alone is shown.
    let events = window.events.len().max(1) as u64;
    let event = drawn(events).and_then(|event| u32::try_from(event).ok());
    let event = event.ok_or(Broken::OutOfTurn)?;
    let shown = seat.draw(said.turn, event, carried, patience).await?;
    Ok(Evidence {
        commitment,
        window,
        event: event as usize,
        shown,
    })
}

/// A number below this that nobody can foresee; none below 0, or where the system has none.
fn drawn(below: u64) -> Option<u64> {
    let mut bytes = [0; 8];
    getrandom::fill(&mut bytes).ok()?;
    u64::from_le_bytes(bytes).checked_rem(below)
}
