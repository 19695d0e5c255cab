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

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use skep_sandbox::{Meeting, Others, SharedTrainer};
use skep_swarm::{ProviderAddr, Swarm};
use skep_together::audit::{Deed, Digest};
use skep_together::message::{Invitation, LAST_ROUND, ToMember};
use skep_together::{Contribution, Diloco, DilocoConfig, Guard, TogetherError, Turn, Unsound};
use tokio::runtime::Handle;
use tokio::sync::Mutex;
use tokio::time::Instant;

use super::Broken;
use super::audit::{Case, Doubt};
use super::hook::{Hook, Side, with_trainer};
use super::seat::{Said, Seat, ask};
use crate::failure::{Failure, FailureKind};
use crate::requests::TogetherReport;

pub use super::seat::{Order, STEPS_MADE};

/// What is left for a node to say what it has said already, when others have used up the time.
const MOMENT: Duration = Duration::from_secs(2);

/// A training that this node leads.
pub struct Lead {
    how: DilocoConfig,
    leading: Arc<Mutex<Leading>>,
    runtime: Handle,
}

struct Leading {
    how: DilocoConfig,
    patience: Duration,
    /// In how many of a million turns somebody is audited.
    audit: u32,
    swarm: Swarm,
    /// To what those are invited who come back.
    invitation: Invitation,
    part: Option<Diloco>,
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
        Ok(Self {
            how: guests.invitation.how,
            leading: Arc::new(Mutex::new(Leading {
                how: guests.invitation.how,
                patience: guests.patience,
                audit: guests.audit,
                swarm: swarm.clone(),
                invitation: guests.invitation,
                part: None,
                guard: Guard::default(),
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
            how: self.how,
            side: Arc::clone(&self.leading),
            journal: None,
            runtime: self.runtime.clone(),
        })
    }

    /// What came of it.
    pub async fn report(&self) -> TogetherReport {
        let leading = self.leading.lock().await;
        TogetherReport {
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
        let mut part = match self.part.take() {
            Some(part) => part,
            None => {
                let part = Diloco::new(self.how, &weights)?;
                self.begin(&part, trainer).await?;
                part
            }
        };
        let since = *self.since.get_or_insert_with(Instant::now);
        match when {
            Meeting::Begin => {}
            Meeting::After(step) => {
                if let Some(turn) = self.how.sends(step) {
                    self.contribute(&mut part, turn, &weights)?;
                }
                if let Some(turn) = self.how.arrives(step) {
                    self.complete(&mut part, turn, &mut weights, trainer)
                        .await?;
                }
                let every = u64::from(self.how.every);
                if step.is_multiple_of(every)
                    && let Ok(round) = u32::try_from(step / every)
                {
                    self.welcome(&part, round, trainer).await?;
                }
            }
            Meeting::End => {
                let last = self.under_way.back().map(|(turn, _)| *turn);
                if let Some(turn) = last {
                    self.complete(&mut part, turn, &mut weights, trainer)
                        .await?;
                }
                for fragment in 0..self.how.fragments {
                    let turn = Turn {
                        round: LAST_ROUND,
                        fragment,
                    };
                    self.contribute(&mut part, turn, &weights)?;
                    self.complete(&mut part, turn, &mut weights, trainer)
                        .await?;
                }
                weights.copy_from_slice(part.agreed());
            }
        }
        self.part = Some(part);
        self.waited += entered.max(since).elapsed();
        self.lasted = since.elapsed();
        Ok(weights)
    }
}

/// Where a training is that has just begun with what all agreed on, in bytes.
async fn begun(part: &Diloco, trainer: &SharedTrainer) -> Result<Vec<u8>, Ended> {
    let agreed = part.agreed().to_vec();
    let state = with_trainer(trainer, move |trainer| {
        let own = trainer.state()?;
        trainer.begin_again();
        let state = trainer.state_with(&agreed);
        trainer.restore(&own)?;
        state
    });
    let state = state.await.map_err(Ended::Trainer)?;
    state.map_err(|error| Ended::Trainer(error.to_string()))
}

fn where_all_are(part: &Diloco, round: u32) -> ToMember {
    ToMember::State {
        round,
        agreed: part.agreed().to_vec(),
        velocity: part.velocity().to_vec(),
    }
}

impl Leading {
    /// Tells all who are ready where this node is.
    async fn begin(&mut self, part: &Diloco, trainer: &SharedTrainer) -> Result<(), Ended> {
        let state = begun(part, trainer).await?;
        self.state_bytes = state.len();
        let begins = *blake3::hash(&state).as_bytes();
        let message = where_all_are(part, 0);
        let weights = part.agreed().len() as u64;
        for seat in &mut self.seats {
            self.sent += seat.begin(&message, weights, begins).await as u64;
        }
        Ok(())
    }

    /// Takes those in who have come back, and asks those back who are away.
    async fn welcome(
        &mut self,
        part: &Diloco,
        round: u32,
        trainer: &SharedTrainer,
    ) -> Result<(), Ended> {
        let weights = part.agreed().len() as u64;
        if self.seats.iter().any(Seat::has_come_back) {
            let begins = *blake3::hash(&begun(part, trainer).await?).as_bytes();
            let message = where_all_are(part, round);
            for seat in self.seats.iter_mut().filter(|seat| seat.has_come_back()) {
                self.sent += seat.take_in(&message, round, begins).await as u64;
            }
        }
        // Others' recipes may not know the setting, and begin their schedule anew.
        let made = match self.invitation.recipe {
            None => u64::from(round) * u64::from(self.how.every),
            Some(_) => 0,
        };
        for seat in &mut self.seats {
            seat.invite_back(&self.swarm, &self.invitation, weights, made);
        }
        Ok(())
    }

    /// Notes what this node has moved by, at the moment when it is its turn to say so.
    fn contribute(
        &mut self,
        part: &mut Diloco,
        turn: Turn,
        weights: &[f32],
    ) -> Result<(), TogetherError> {
        let own = part.contribute(turn, weights)?;
        self.contributed += own.len() as u64;
        self.under_way.push_back((turn, own));
        Ok(())
    }

    /// Brings all turns up to this one to an end.
    async fn complete(
        &mut self,
        part: &mut Diloco,
        until: Turn,
        weights: &mut [f32],
        trainer: &SharedTrainer,
    ) -> Result<(), TogetherError> {
        while let Some((turn, own)) = self.under_way.pop_front() {
            self.decide(part, turn, own, weights, trainer).await?;
            if turn == until {
                break;
            }
        }
        Ok(())
    }

    async fn decide(
        &mut self,
        part: &mut Diloco,
        turn: Turn,
        own: Vec<u8>,
        weights: &mut [f32],
        trainer: &SharedTrainer,
    ) -> Result<(), TogetherError> {
        let deadline = Instant::now() + self.patience;
        let mut came: BTreeMap<u16, Said> = BTreeMap::new();
        for seat in &mut self.seats {
            let left = deadline
                .saturating_duration_since(Instant::now())
                .max(MOMENT);
            if let Some(said) = seat.says(turn, part.bytes(turn), left).await {
                came.insert(seat.number, said);
            }
        }
        let others = came.iter().map(|(number, said)| (*number, &said.bytes));
        let read: BTreeMap<u16, Result<Contribution, Unsound>> = std::iter::once((0, &own))
            .chain(others)
            .map(|(number, bytes)| (number, part.read(turn, bytes)))
            .collect();
        let mut judged = self.guard.judge(read, Some(&0));
        let accepted = |number: &u16| judged.accepted.contains_key(number);
        if let Some(at) = self.draw(turn, accepted)
            && let Some(said) = came.get(&self.seats[at].number)
            && !self.audit(at, part, said, trainer).await
        {
            judged.accepted.remove(&self.seats[at].number);
        }
        part.step(turn, &judged.accepted, weights)?;
        self.turns += 1;
        self.recent
            .push_back((turn, part.agreed()[part.range(turn.fragment)].to_vec()));
        // One that is not decided is the oldest that anybody may have to take over.
        if self.recent.len() > 3 * usize::from(self.how.fragments) {
            self.recent.pop_front();
        }
        for seat in &mut self.seats {
            if let Some(said) = came.get(&seat.number) {
                seat.counted(said, judged.accepted.contains_key(&seat.number));
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
        };
        for seat in &mut self.seats {
            self.sent += seat.tell(&round).await as u64;
        }
        Ok(())
    }

    /// Draws whether somebody is audited in this turn, and whom.
    fn draw(&self, turn: Turn, accepted: impl Fn(&u16) -> bool) -> Option<usize> {
        // What is said at the end was not led to by steps alone.
        if turn.round == LAST_ROUND || drawn(1_000_000)? >= u64::from(self.audit) {
            return None;
        }
        let seats = self.seats.iter().enumerate();
        let candidates = seats.filter(|(_, seat)| seat.is_here() && accepted(&seat.number));
        let candidates: Vec<usize> = candidates.map(|(at, _)| at).collect();
        let which = drawn(candidates.len() as u64)?;
        candidates.get(usize::try_from(which).ok()?).copied()
    }

    /// Has a node show something of what it did, and does that again. False if it does not hold.
    async fn audit(
        &mut self,
        at: usize,
        part: &Diloco,
        said: &Said,
        trainer: &SharedTrainer,
    ) -> bool {
        let seat = &mut self.seats[at];
        let Some(order) = seat.order(&self.how, said.turn).await else {
            return true;
        };
        let case = Self::ask_about(
            seat,
            part,
            said,
            &order,
            &self.recent,
            self.state_bytes,
            self.patience,
        );
        let doubt = match case.await {
            Ok(case) => {
                let part = part.clone();
                let judged = with_trainer(trainer, move |trainer| case.judge(&part, trainer));
                match judged.await {
                    Ok(Ok(())) => {
                        seat.told.audited += 1;
                        return true;
                    }
                    Ok(Err(Doubt::Unlike(unlike))) => Broken::Unlike(unlike),
                    Ok(Err(Doubt::Ours(why))) => {
                        tracing::warn!(node = %seat.told.node, %why, "an audit was not made");
                        return true;
                    }
                    Err(why) => {
                        tracing::warn!(node = %seat.told.node, %why, "an audit was not made");
                        return true;
                    }
                }
            }
            Err(broken) => broken,
        };
        seat.leave_out(said.turn, &doubt.to_string());
        match doubt {
            Broken::Unlike(_) => seat.ban(&doubt),
            // A cable that breaks in the middle is no lie.
            _ => seat.let_go(&doubt),
        }
        false
    }

    async fn ask_about(
        seat: &mut Seat,
        part: &Diloco,
        said: &Said,
        order: &[Digest],
        recent: &VecDeque<(Turn, Vec<f32>)>,
        state_bytes: usize,
        patience: Duration,
    ) -> Result<Case, Broken> {
        let (turn, commitment) = (said.turn, said.commitment.ok_or(Broken::OutOfTurn)?);
        let window = seat.open(turn, order.len(), patience).await?;
        window.check(&commitment, seat.begins, order)?;
        let event = drawn(window.events.len() as u64).and_then(|event| u32::try_from(event).ok());
        let event = event.ok_or(Broken::OutOfTurn)?;
        let numbers = part.range(turn.fragment).len();
        let carried = 3 * state_bytes + 4 * numbers;
        let shown = seat.draw(turn, event, carried, patience).await?;
        let event = event as usize;
        let agreed = match window.events.get(event).map(|event| event.deed) {
            Some(Deed::Took { turn }) => recent.iter().find(|(other, _)| *other == turn),
            _ => None,
        };
        Ok(Case {
            turn,
            contribution: said.bytes.clone(),
            commitment,
            window,
            event,
            unsaid: seat.unsaid(turn.fragment, numbers),
            agreed: agreed.map(|(_, agreed)| agreed.clone()),
            shown,
        })
    }
}

/// A number below this that nobody can foresee; none below 0, or where the system has none.
fn drawn(below: u64) -> Option<u64> {
    let mut bytes = [0; 8];
    getrandom::fill(&mut bytes).ok()?;
    u64::from_le_bytes(bytes).checked_rem(below)
}
