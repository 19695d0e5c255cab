//! Leading a training by DiLoCo: turns of fragments, each of which is heard and decided while the next
//! steps are made, and taken over after some of them.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use skep_sandbox::{Meeting, SharedTrainer};
use skep_together::audit::Deed;
use skep_together::message::{LAST_ROUND, ToMember};
use skep_together::{Contribution, Diloco, DilocoConfig, Judgement, TogetherError, Turn};
use tokio::sync::{Mutex, OwnedMutexGuard};

use super::super::audit::Case;
use super::super::hook::{Waited, with_trainer};
use super::super::seat::{Said, Seat};
use super::table::Table;
use super::{Ended, Leading};

impl Leading {
    /// Goes on at a meeting, with the weights as they are here, which become those to go on with.
    pub(super) async fn meet_for_turns(
        &mut self,
        how: &DilocoConfig,
        when: Meeting,
        weights: &mut [f32],
        trainer: &SharedTrainer,
    ) -> Result<(), Ended> {
        let mut part = match self.diloco.take() {
            Some(part) => part,
            None => {
                let part = Diloco::new(*how, weights)?;
                self.begin_turns(&part, trainer).await?;
                part
            }
        };
        match when {
            Meeting::Begin => {}
            Meeting::After(step) => {
                if let Some(turn) = how.arrives(step).filter(|_| how.overlap > 0) {
                    self.complete(&mut part, turn, weights, trainer).await?;
                }
                let is_between = step.is_multiple_of(u64::from(how.every));
                if is_between {
                    // Nothing is under way now, so nobody else has it.
                    let mut table = self.table.lock().await;
                    table.invite(part.agreed().len(), step);
                }
                if let Some(turn) = how.sends(step) {
                    self.contribute(&mut part, turn, weights, self.meanwhile(how, step))?;
                    if how.overlap == 0 {
                        self.complete(&mut part, turn, weights, trainer).await?;
                    }
                }
                if is_between && self.is_back.swap(false, Ordering::AcqRel) {
                    self.take_in(&mut part, step, weights, trainer).await?;
                }
            }
            Meeting::End => {
                let as_said: Vec<u16> = self
                    .under_way
                    .iter()
                    .map(|under_way| under_way.turn.fragment)
                    .filter(|fragment| part.is_as_said(*fragment, weights))
                    .collect();
                if let Some(turn) = self.under_way.back().map(|under_way| under_way.turn) {
                    self.complete(&mut part, turn, weights, trainer).await?;
                }
                for fragment in as_said {
                    part.take_whole(fragment, weights)?;
                }
                for fragment in 0..how.fragments {
                    let turn = Turn {
                        round: LAST_ROUND,
                        fragment,
                    };
                    self.contribute(&mut part, turn, weights, Duration::ZERO)?;
                    self.complete(&mut part, turn, weights, trainer).await?;
                }
                weights.copy_from_slice(part.agreed());
            }
        }
        self.diloco = Some(part);
        Ok(())
    }

    /// Tells all who are ready where this node is.
    async fn begin_turns(&mut self, part: &Diloco, trainer: &SharedTrainer) -> Result<(), Ended> {
        let state = begun(part, trainer).await?;
        self.state_bytes = state.len();
        let begins = *blake3::hash(&state).as_bytes();
        let mut table = self.table.lock().await;
        table
            .begin(&where_all_are(part, 0), part.agreed().len(), begins)
            .await;
        Ok(())
    }

    /// Takes those in who have come, between two rounds. They begin after all turns so far, so none
    /// may be under way.
    async fn take_in(
        &mut self,
        part: &mut Diloco,
        step: u64,
        weights: &mut [f32],
        trainer: &SharedTrainer,
    ) -> Result<(), Ended> {
        let Ok(round) = u32::try_from(step / u64::from(part.config().every)) else {
            return Ok(());
        };
        if let Some(turn) = self.under_way.back().map(|under_way| under_way.turn) {
            self.complete(part, turn, weights, trainer).await?;
        }
        let mut table = self.table.lock().await;
        if table.seats.iter().any(Seat::has_answered) {
            let begins = *blake3::hash(&begun(part, trainer).await?).as_bytes();
            let state = where_all_are(part, round);
            table.take_in(&state, round, begins).await;
        }
        Ok(())
    }

    /// About how long this node computes while a turn is under way.
    fn meanwhile(&self, how: &DilocoConfig, step: u64) -> Duration {
        let since = self.since.map_or(Duration::ZERO, |since| since.elapsed());
        let steps = u32::try_from(step).unwrap_or(u32::MAX).max(1);
        since.saturating_sub(self.waited) / steps * how.overlap
    }

    /// Notes what this node has moved by, at the moment when it is its turn to say so, and begins to
    /// hear what the others say.
    fn contribute(
        &mut self,
        part: &mut Diloco,
        turn: Turn,
        weights: &[f32],
        meanwhile: Duration,
    ) -> Result<(), TogetherError> {
        let own = part.contribute(turn, weights)?;
        self.contributed += own.len() as u64;
        let saying = Saying {
            table: Arc::clone(&self.table),
            part: part.clone(),
            turn,
            own,
            meanwhile,
        };
        self.under_way.push_back(UnderWay {
            turn,
            decided: Waited::on(tokio::spawn(saying.decide())),
        });
        Ok(())
    }

    /// Brings all turns up to this one to an end, if it is under way.
    async fn complete(
        &mut self,
        part: &mut Diloco,
        until: Turn,
        weights: &mut [f32],
        trainer: &SharedTrainer,
    ) -> Result<(), Ended> {
        if !self.under_way.iter().any(|other| other.turn == until) {
            return Ok(());
        }
        while let Some(UnderWay { turn, decided, .. }) = self.under_way.pop_front() {
            let accepted = match decided.get().await.map_err(Ended::Trainer)? {
                Decided::Settled(accepted) => accepted,
                Decided::Drawn(drawn) => self.settle_drawn(part, *drawn, trainer).await,
            };
            part.step(turn, &accepted, weights)?;
            self.recent
                .push_back((turn, part.agreed()[part.range(turn.fragment)].to_vec()));
            // Whoever goes on as the others do has taken over nothing that is older.
            if self.recent.len() > 3 * usize::from(part.config().fragments) {
                self.recent.pop_front();
            }
            if turn == until {
                break;
            }
        }
        Ok(())
    }

    /// Has a node show something of what it did, does that again, and tells what is decided.
    async fn settle_drawn(
        &self,
        part: &Diloco,
        drawn: Drawn,
        trainer: &SharedTrainer,
    ) -> BTreeMap<u16, Contribution> {
        let Drawn {
            mut table,
            at,
            turn,
            own,
            came,
            mut judged,
        } = drawn;
        let number = table.seats[at].place.number;
        if let Some(said) = came.get(&number)
            && !self.audit(&mut table, at, part, said, trainer).await
        {
            judged.accepted.remove(&number);
        }
        let accepted = judged.accepted.clone();
        table.settle(turn, &own, came, judged, None).await;
        accepted
    }

    /// False if what a node shows does not hold.
    async fn audit(
        &self,
        table: &mut Table,
        at: usize,
        part: &Diloco,
        said: &Said,
        trainer: &SharedTrainer,
    ) -> bool {
        let numbers = part.range(said.turn.fragment).len();
        let carried = 3 * self.state_bytes + 4 * numbers;
        let evidence = match table.examine(at, said, carried).await {
            Some(Ok(evidence)) => evidence,
            Some(Err(broken)) => return table.doubt(at, said.turn, &broken),
            None => return true,
        };
        let deed = evidence.window.events.get(evidence.event);
        let agreed = match deed.map(|event| event.deed) {
            Some(Deed::Took { turn } | Deed::TookWhole { turn }) => {
                self.recent.iter().find(|(other, _)| *other == turn)
            }
            _ => None,
        };
        // Whoever came to its end long before the others takes over turns that are not known here any more.
        if let Some(Deed::Took { turn }) = deed.map(|event| event.deed)
            && said.turn.round == LAST_ROUND
            && self
                .recent
                .front()
                .is_some_and(|(oldest, _)| turn < *oldest)
        {
            return true;
        }
        let case = Case {
            turn: said.turn,
            contribution: said.bytes.clone(),
            commitment: evidence.commitment,
            window: evidence.window,
            event: evidence.event,
            unsaid: table.seats[at].unsaid(said.turn.fragment, numbers),
            agreed: agreed.map(|(_, agreed)| agreed.clone()),
            committed: table.seats[at].committed.clone(),
            shown: evidence.shown,
        };
        let part = part.clone();
        let judged = with_trainer(trainer, move |trainer| case.judge(&part, trainer));
        let judged = judged.await;
        table.conclude(at, said.turn, judged)
    }
}

/// A turn in which this node has said what it has moved by.
pub(super) struct UnderWay {
    turn: Turn,
    decided: Waited<Decided>,
}

/// What came of a turn.
enum Decided {
    /// Everybody was told.
    Settled(BTreeMap<u16, Contribution>),
    /// Somebody is to be audited before that, which takes the trainer.
    Drawn(Box<Drawn>),
}

/// A turn in which somebody is audited. Nobody else has the table before it is settled.
struct Drawn {
    table: OwnedMutexGuard<Table>,
    at: usize,
    turn: Turn,
    own: Vec<u8>,
    came: BTreeMap<u16, Said>,
    judged: Judgement<u16>,
}

/// A turn that has begun.
struct Saying {
    table: Arc<Mutex<Table>>,
    part: Diloco,
    turn: Turn,
    own: Vec<u8>,
    /// How long nobody waits for it.
    meanwhile: Duration,
}

impl Saying {
    /// Hears what the others say, and tells them what counts, unless one of them is to be audited. No
    /// other turn is under way.
    async fn decide(self) -> Decided {
        let Self {
            part, turn, own, ..
        } = self;
        let mut table = self.table.lock_owned().await;
        let came = table.hear(turn, part.bytes(turn), self.meanwhile).await;
        let judged = table.judge(&own, &came, |bytes| part.read(turn, bytes));
        match table.draw(|number| judged.accepted.contains_key(number)) {
            Some(at) => Decided::Drawn(Box::new(Drawn {
                table,
                at,
                turn,
                own,
                came,
                judged,
            })),
            None => {
                let accepted = judged.accepted.clone();
                table.settle(turn, &own, came, judged, None).await;
                Decided::Settled(accepted)
            }
        }
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
        optimizer: Vec::new(),
    }
}
