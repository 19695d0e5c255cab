//! The side of the node whose training it is: it invites others, hands out examples, and decides
//! in every turn whose contribution counts.
//!
//! It learns from examples itself. In a turn it waits for each of the others until its patience is
//! over. Whoever has gone, says nothing or says what the protocol does not have is let go, and told
//! of at the end; whoever sends numbers that cannot be used is left out of the turn, and let go
//! after three. The rest go on. In between rounds whoever has gone is asked to come back.
//!
//! Now and then it has one of them show a step that it says it has made, and makes it again. Whoever
//! made another is let go for good.
//!
//! [`diloco`] decides turns between steps of its own, [`stepwise`] makes every step with the others.

mod diloco;
mod stepwise;

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use skep_sandbox::{Meeting, Others, SharedTrainer, StepTogether};
use skep_swarm::{ProviderAddr, Swarm};
use skep_together::audit::{self, Commitment, Digest, Window};
use skep_together::message::{Invitation, Shown, StepWith, ToMember};
use skep_together::{
    Contribution, Diloco, Guard, Judgement, Method, Stepwise, TogetherError, Turn, Unsound,
};
use tokio::runtime::Handle;
use tokio::sync::Mutex;
use tokio::time::Instant;

use super::Broken;
use super::audit::Doubt;
use super::hook::{Hook, Side};
use super::seat::{Said, Seat, ask};
use super::stepwise::NotMade;
use crate::failure::{Failure, FailureKind};
use crate::requests::TogetherReport;

pub use super::seat::{Order, STEPS_MADE};

/// What is left for a node to say what it has said already, when others have used up the time.
const MOMENT: Duration = Duration::from_secs(2);

/// A training that this node leads.
pub struct Lead {
    method: Method,
    leading: Arc<Mutex<Leading>>,
    runtime: Handle,
}

struct Leading {
    method: Method,
    patience: Duration,
    /// In how many of a million turns somebody is audited.
    audit: u32,
    swarm: Swarm,
    /// To what those are invited who come back.
    invitation: Invitation,
    /// Steps that were made before the training was interrupted.
    kept: u64,
    /// This node's part, once it has begun: one of these.
    diloco: Option<Diloco>,
    stepwise: Option<Stepwise>,
    /// Where all are after the last step that they have made together.
    at: Option<Digest>,
    guard: Guard,
    seats: Vec<Seat>,
    /// What this node has sent in turns that have not come to an end.
    under_way: VecDeque<(Turn, Vec<u8>)>,
    /// What all agreed on in the last turns.
    recent: VecDeque<(Turn, Vec<f32>)>,
    /// Bytes of where a training is.
    state_bytes: usize,
    turns: u64,
    /// When the first batch was begun, and how long no step was computed since then.
    since: Option<Instant>,
    lasted: Duration,
    waited: Duration,
    /// Bytes of this node's own contributions.
    contributed: u64,
    /// Bytes of all that it has sent, examples included.
    sent: u64,
}

/// Whom to invite, and to what.
pub struct Guests {
    /// Where they are, in the order in which they are asked.
    pub nodes: Vec<ProviderAddr>,
    /// What each learns from; the first is this node's own.
    pub parts: Vec<Vec<u8>>,
    /// To what, but for whom it is and how much it learns.
    pub invitation: Invitation,
    /// How long each turn may wait for a node.
    pub patience: Duration,
    /// Steps that were made before the training was interrupted, which the recipe is told of.
    pub kept: u64,
    /// In how many of a million turns somebody is audited.
    pub audit: u32,
    /// Finds out what the steps on such examples have to be made of.
    pub rehearse: Box<dyn Fn(Arc<Vec<u8>>) -> Order + Send + Sync>,
}

impl Lead {
    /// Invites as many as there are parts for, and hands those out.
    ///
    /// # Errors
    /// When too few take part.
    pub async fn invite(swarm: &Swarm, guests: Guests) -> Result<Self, Failure> {
        let mut seats: Vec<Seat> = Vec::new();
        let mut refused = Vec::new();
        let mut parts = guests.parts.into_iter().skip(1).map(Arc::new);
        let mut part = parts.next();
        let mut sent = 0;
        for node in &guests.nodes {
            let Some(examples) = &part else { break };
            // Not more than the most nodes, of which the request was checked.
            let number = seats.len() as u16 + 1;
            let invitation = Invitation {
                member: number,
                examples: examples.len() as u64,
                ..guests.invitation.clone()
            };
            match ask(swarm, node, invitation, examples).await {
                Ok((channel, bytes)) => {
                    sent += bytes as u64;
                    let order = (guests.audit > 0).then(|| (guests.rehearse)(Arc::clone(examples)));
                    let examples = Arc::clone(examples);
                    seats.push(Seat::new(number, node.clone(), channel, examples, order));
                    part = parts.next();
                }
                Err(why) => refused.push(format!("{}: {why}", node.id)),
            }
        }
        if part.is_some() {
            let mut text = format!(
                "{} other nodes take part, and --nodes asks for more; name them with --provider, \
                 and let them have `[trainings] accept = true` in their configuration",
                seats.len()
            );
            for why in refused {
                text.push_str("\n  ");
                text.push_str(&why);
            }
            return Err(Failure::new(FailureKind::NotFound, text));
        }
        let method = guests.invitation.how;
        Ok(Self {
            method,
            leading: Arc::new(Mutex::new(Leading {
                method,
                patience: guests.patience,
                audit: guests.audit,
                swarm: swarm.clone(),
                invitation: guests.invitation,
                kept: guests.kept,
                diloco: None,
                stepwise: None,
                at: None,
                guard: method.guard(),
                seats,
                under_way: VecDeque::new(),
                recent: VecDeque::new(),
                state_bytes: 0,
                turns: 0,
                since: None,
                lasted: Duration::ZERO,
                waited: Duration::ZERO,
                contributed: 0,
                sent,
            })),
            runtime: Handle::current(),
        })
    }

    /// What a run is given of it.
    pub fn others(&self) -> Arc<dyn Others> {
        Arc::new(Hook {
            method: self.method,
            side: Arc::clone(&self.leading),
            journal: None,
            runtime: self.runtime.clone(),
        })
    }

    /// What came of it.
    pub async fn report(&self) -> TogetherReport {
        let leading = self.leading.lock().await;
        TogetherReport {
            method: leading.method.name().to_owned(),
            turns: leading.turns,
            seconds: leading.lasted.as_secs_f64(),
            waited_seconds: leading.waited.as_secs_f64(),
            contributed_bytes: leading.contributed,
            sent_bytes: leading.sent,
            nodes: leading.seats.iter().map(|seat| seat.told.clone()).collect(),
        }
    }
}

/// Why a training cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum Ended {
    #[error(transparent)]
    Together(#[from] TogetherError),
    #[error(transparent)]
    NotMade(#[from] NotMade),
    #[error("the trainer cannot be used: {0}")]
    Trainer(String),
}

impl Side for Leading {
    type Error = Ended;

    async fn meet(
        &mut self,
        when: Meeting,
        mut weights: Vec<f32>,
        trainer: &SharedTrainer,
    ) -> Result<Vec<f32>, Ended> {
        let entered = Instant::now();
        match self.method {
            Method::Diloco(how) => {
                self.meet_for_turns(&how, when, &mut weights, trainer)
                    .await?;
            }
            Method::Demo(_) | Method::AllReduce => self.meet_for_steps(when, trainer).await?,
        }
        self.was_with_others(entered);
        Ok(weights)
    }

    async fn step(&mut self, step: StepTogether, trainer: &SharedTrainer) -> Result<u64, Ended> {
        let entered = Instant::now();
        let steps = self.step_with_all(step, trainer).await?;
        self.was_with_others(entered);
        Ok(steps)
    }
}

impl Leading {
    /// Notes that no step was computed since then. Time counts from the end of the first meeting, in
    /// which others load what they need.
    fn was_with_others(&mut self, entered: Instant) {
        let since = *self.since.get_or_insert_with(Instant::now);
        self.waited += entered.max(since).elapsed();
        self.lasted = since.elapsed();
    }

    /// Tells all who are ready where this node is.
    async fn begin(&mut self, state: &ToMember, weights: usize, begins: Digest) {
        for seat in &mut self.seats {
            self.sent += seat.begin(state, weights as u64, begins).await as u64;
        }
    }

    /// Takes those in who have come back, with this as their first round.
    async fn take_in(&mut self, state: &ToMember, round: u32, begins: Digest) {
        for seat in self.seats.iter_mut().filter(|seat| seat.has_come_back()) {
            self.sent += seat.take_in(state, round, begins).await as u64;
        }
    }

    /// Asks those back who are away, to go on after so many steps of this run.
    fn ask_back(&mut self, weights: usize, made: u64) {
        let mut invitation = self.invitation.clone();
        // Others' recipes may not know the setting, and begin their schedule anew.
        let made = if invitation.recipe.is_none() { made } else { 0 };
        if made > 0 {
            let told = (self.kept + made).to_string();
            invitation.settings.retain(|(name, _)| name != STEPS_MADE);
            invitation.settings.push((STEPS_MADE.to_owned(), told));
        }
        for seat in &mut self.seats {
            seat.invite_back(&self.swarm, &invitation, weights as u64, made);
        }
    }

    /// What the others say in a turn, of at most so many bytes.
    async fn hear(&mut self, turn: Turn, bytes: usize) -> BTreeMap<u16, Said> {
        let deadline = Instant::now() + self.patience;
        let mut came: BTreeMap<u16, Said> = BTreeMap::new();
        for seat in &mut self.seats {
            let left = deadline
                .saturating_duration_since(Instant::now())
                .max(MOMENT);
            if let Some(said) = seat.says(turn, bytes, left).await {
                came.insert(seat.number, said);
            }
        }
        came
    }

    /// Judges whose contributions count, this node's own among them.
    fn judge(
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
    async fn settle(
        &mut self,
        turn: Turn,
        own: Vec<u8>,
        mut came: BTreeMap<u16, Said>,
        mut judged: Judgement<u16>,
        with: Option<StepWith>,
    ) {
        self.turns += 1;
        for seat in &mut self.seats {
            if let Some(said) = came.get(&seat.number) {
                let accepted = judged.accepted.contains_key(&seat.number);
                seat.counted(&self.method, said, accepted);
            }
            if let Some(why) = judged.left_out.remove(&seat.number) {
                seat.strike(turn, why);
            }
        }
        came.retain(|number, _| judged.accepted.contains_key(number));
        let passed = came.into_iter().map(|(number, said)| (number, said.bytes));
        let round = ToMember::Round {
            turn,
            accepted: std::iter::once((0, own)).chain(passed).collect(),
            with,
        };
        for seat in &mut self.seats {
            self.sent += seat.tell(&round).await as u64;
        }
    }

    /// Draws whether somebody is audited in this turn, and whom.
    fn draw(&self, accepted: impl Fn(&u16) -> bool) -> Option<usize> {
        if drawn(1_000_000)? >= u64::from(self.audit) {
            return None;
        }
        let seats = self.seats.iter().enumerate();
        let candidates = seats.filter(|(_, seat)| seat.is_here() && accepted(&seat.number));
        let candidates: Vec<usize> = candidates.map(|(at, _)| at).collect();
        let which = drawn(candidates.len() as u64)?;
        candidates.get(usize::try_from(which).ok()?).copied()
    }

    /// Has a node show something that it did before a contribution, drawn by chance; none if it is
    /// not known what that has to be.
    async fn examine(
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
    fn conclude(
        &mut self,
        at: usize,
        turn: Turn,
        judged: Result<Result<(), Doubt>, String>,
    ) -> bool {
        let seat = &mut self.seats[at];
        let why = match judged {
            Ok(Ok(())) => {
                seat.told.audited += 1;
                return true;
            }
            Ok(Err(Doubt::Unlike(unlike))) => return self.doubt(at, turn, &unlike.into()),
            Ok(Err(Doubt::Ours(why))) => why.to_string(),
            Err(why) => why,
        };
        tracing::warn!(node = %seat.told.node, %why, "an audit was not made");
        true
    }

    /// Lets a node go whose contribution cannot be believed. Always false.
    fn doubt(&mut self, at: usize, turn: Turn, doubt: &Broken) -> bool {
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
struct Evidence {
    commitment: Commitment,
    window: Window,
    /// Which event was drawn.
    event: usize,
    shown: Shown,
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
    let event = drawn(window.events.len() as u64).and_then(|event| u32::try_from(event).ok());
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
