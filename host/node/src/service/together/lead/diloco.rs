//! Leading a training by DiLoCo: turns of fragments, each decided some steps after it was said.

use skep_sandbox::{Meeting, SharedTrainer};
use skep_together::audit::Deed;
use skep_together::message::{LAST_ROUND, ToMember};
use skep_together::{Diloco, DilocoConfig, TogetherError, Turn};

use super::super::audit::Case;
use super::super::hook::with_trainer;
use super::super::seat::{Said, Seat};
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
                if let Some(turn) = how.sends(step) {
                    self.contribute(&mut part, turn, weights)?;
                }
                if let Some(turn) = how.arrives(step) {
                    self.complete(&mut part, turn, weights, trainer).await?;
                }
                let every = u64::from(how.every);
                if step.is_multiple_of(every)
                    && let Ok(round) = u32::try_from(step / every)
                {
                    self.welcome_to_turns(&part, round, trainer).await?;
                }
            }
            Meeting::End => {
                let as_said: Vec<u16> = self
                    .under_way
                    .iter()
                    .map(|(turn, _)| turn.fragment)
                    .filter(|fragment| part.is_as_said(*fragment, weights))
                    .collect();
                if let Some(turn) = self.under_way.back().map(|(turn, _)| *turn) {
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
                    self.contribute(&mut part, turn, weights)?;
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
        self.begin(&where_all_are(part, 0), part.agreed().len(), begins)
            .await;
        Ok(())
    }

    /// Takes those in who have come back, and asks those back who are away.
    async fn welcome_to_turns(
        &mut self,
        part: &Diloco,
        round: u32,
        trainer: &SharedTrainer,
    ) -> Result<(), Ended> {
        if self.seats.iter().any(Seat::has_come_back) {
            let begins = *blake3::hash(&begun(part, trainer).await?).as_bytes();
            self.take_in(&where_all_are(part, round), round, begins)
                .await;
        }
        let made = u64::from(round) * u64::from(part.config().every);
        self.ask_back(part.agreed().len(), made);
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
        let came = self.hear(turn, part.bytes(turn)).await;
        let mut judged = self.judge(&own, &came, |bytes| part.read(turn, bytes));
        let accepted = |number: &u16| judged.accepted.contains_key(number);
        if let Some(at) = self.draw(accepted)
            && let Some(said) = came.get(&self.seats[at].number)
            && !self.audit(at, part, said, trainer).await
        {
            judged.accepted.remove(&self.seats[at].number);
        }
        part.step(turn, &judged.accepted, weights)?;
        self.recent
            .push_back((turn, part.agreed()[part.range(turn.fragment)].to_vec()));
        // One that is not decided is the oldest that anybody may have to take over.
        if self.recent.len() > 3 * usize::from(part.config().fragments) {
            self.recent.pop_front();
        }
        self.settle(turn, own, came, judged, None).await;
        Ok(())
    }

    /// Has a node show something of what it did, and does that again. False if it does not hold.
    async fn audit(
        &mut self,
        at: usize,
        part: &Diloco,
        said: &Said,
        trainer: &SharedTrainer,
    ) -> bool {
        let numbers = part.range(said.turn.fragment).len();
        let carried = 3 * self.state_bytes + 4 * numbers;
        let evidence = match self.examine(at, said, carried).await {
            Some(Ok(evidence)) => evidence,
            Some(Err(broken)) => return self.doubt(at, said.turn, &broken),
            None => return true,
        };
        let deed = evidence.window.events.get(evidence.event);
        let agreed = match deed.map(|event| event.deed) {
            Some(Deed::Took { turn } | Deed::TookWhole { turn }) => {
                self.recent.iter().find(|(other, _)| *other == turn)
            }
            _ => None,
        };
        let case = Case {
            turn: said.turn,
            contribution: said.bytes.clone(),
            commitment: evidence.commitment,
            window: evidence.window,
            event: evidence.event,
            unsaid: self.seats[at].unsaid(said.turn.fragment, numbers),
            agreed: agreed.map(|(_, agreed)| agreed.clone()),
            committed: self.seats[at].committed.clone(),
            shown: evidence.shown,
        };
        let part = part.clone();
        let judged = with_trainer(trainer, move |trainer| case.judge(&part, trainer));
        let judged = judged.await;
        self.conclude(at, said.turn, judged)
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
