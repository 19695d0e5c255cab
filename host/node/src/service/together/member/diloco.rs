//! Taking part in a training by DiLoCo: steps of this node's own, and turns in between.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex as Lock, MutexGuard, PoisonError};

use skep_sandbox::{Meeting, SharedTrainer};
use skep_together::audit::Deed;
use skep_together::message::{ENVELOPE, LAST_ROUND, MAX_NODES, ToLeader, ToMember};
use skep_together::{Contribution, Diloco, DilocoConfig, Turn};

use super::super::hook::with_trainer;
use super::super::journal::Journal;
use super::super::{Broken, Left, hear_leader, tell_leader};
use super::{DECIDING, Seat};

impl Seat {
    /// Goes on at a meeting, with the weights as they are here, which become those to go on with.
    pub(super) async fn meet_for_turns(
        &mut self,
        how: &DilocoConfig,
        when: Meeting,
        weights: &mut [f32],
        trainer: &SharedTrainer,
    ) -> Result<(), Left> {
        let mut part = match self.diloco.take() {
            Some(part) => part,
            None => {
                let state = self.begin(weights).await?;
                let part = Diloco::join(*how, &state.agreed, &state.velocity)?;
                weights.copy_from_slice(part.agreed());
                if let Some(journal) = &self.journal {
                    let state = state_with(trainer, weights).await?;
                    lock(journal).begin(state);
                }
                part
            }
        };
        match when {
            Meeting::Begin => {}
            Meeting::After(step) => {
                if let Some(turn) = how.sends(step) {
                    let turn = self.turn(turn);
                    self.contribute(&mut part, turn, weights, trainer).await?;
                }
                if let Some(turn) = how.arrives(step) {
                    let turn = self.turn(turn);
                    self.complete(&mut part, turn, weights, trainer).await?;
                }
            }
            Meeting::End => {
                let as_said: Vec<Turn> = self
                    .under_way
                    .iter()
                    .map(|(turn, _)| *turn)
                    .filter(|turn| part.is_as_said(turn.fragment, weights))
                    .collect();
                if let Some(turn) = self.under_way.back().map(|(turn, _)| *turn) {
                    self.complete(&mut part, turn, weights, trainer).await?;
                }
                for turn in as_said {
                    part.take_whole(turn.fragment, weights)?;
                    self.took(Deed::TookWhole { turn }, weights, trainer)
                        .await?;
                }
                for fragment in 0..how.fragments {
                    let turn = Turn {
                        round: LAST_ROUND,
                        fragment,
                    };
                    self.contribute(&mut part, turn, weights, trainer).await?;
                    self.complete(&mut part, turn, weights, trainer).await?;
                }
                weights.copy_from_slice(part.agreed());
            }
        }
        self.diloco = Some(part);
        Ok(())
    }

    /// Notes that something was taken over.
    async fn took(&self, deed: Deed, weights: &[f32], trainer: &SharedTrainer) -> Result<(), Left> {
        if let Some(journal) = &self.journal {
            let state = state_with(trainer, weights).await?;
            lock(journal).took(deed, weights, &state);
        }
        Ok(())
    }

    async fn contribute(
        &mut self,
        part: &mut Diloco,
        turn: Turn,
        weights: &[f32],
        trainer: &SharedTrainer,
    ) -> Result<(), Left> {
        let range = part.range(turn.fragment);
        let unsaid = part.lost()[range.clone()].to_vec();
        let bytes = part.contribute(turn, weights)?;
        let commitment = match &self.journal {
            Some(journal) => {
                let state = state_with(trainer, weights).await?;
                let still_unsaid = &part.lost()[range];
                Some(lock(journal).contributed(turn, state, unsaid, still_unsaid)?)
            }
            None => None,
        };
        self.under_way.push_back((turn, bytes.clone()));
        let said = ToLeader::Contribution {
            turn,
            bytes,
            commitment,
            at: None,
        };
        Ok(tell_leader(&mut self.channel, &said).await?)
    }

    /// Makes the steps of all turns up to this one, as they were decided.
    async fn complete(
        &mut self,
        part: &mut Diloco,
        until: Turn,
        weights: &mut [f32],
        trainer: &SharedTrainer,
    ) -> Result<(), Left> {
        loop {
            let carried = usize::from(MAX_NODES) * (part.bytes(until) + ENVELOPE)
                + usize::from(MAX_NODES) * 4 * skep_together::quantize::BLOCK;
            let (turn, accepted) = match hear_leader(&mut self.channel, carried, DECIDING).await? {
                ToMember::Round { turn, accepted, .. } => (turn, accepted),
                ToMember::Open(turn) => {
                    let journal = self.journal.as_ref().ok_or(Broken::OutOfTurn)?;
                    let window = lock(journal).window(turn)?;
                    tell_leader(&mut self.channel, &ToLeader::Opened(window)).await?;
                    continue;
                }
                ToMember::Draw { turn, event } => {
                    self.show(turn, event as usize, trainer).await?;
                    continue;
                }
                _ => return Err(Broken::OutOfTurn.into()),
            };
            if turn.fragment >= part.config().fragments {
                return Err(Broken::OutOfTurn.into());
            }
            let mut read: BTreeMap<u16, Contribution> = BTreeMap::new();
            let said = self.under_way.iter().find(|(other, _)| *other == turn);
            for (number, bytes) in accepted {
                // What this node has said itself is not said once more.
                let bytes = match (number == self.number, said) {
                    (true, Some((_, own))) => own,
                    _ => &bytes,
                };
                let contribution = part.read(turn, bytes);
                let contribution = contribution.map_err(|why| Left::Passed(number, why))?;
                read.insert(number, contribution);
            }
            part.step(turn, &read, weights)?;
            if !read.contains_key(&self.number) {
                part.forget(turn.fragment);
            }
            self.took(Deed::Took { turn }, weights, trainer).await?;
            if let Some(journal) = &self.journal {
                lock(journal).decided(turn);
            }
            self.under_way.retain(|(other, _)| *other != turn);
            if turn == until {
                return Ok(());
            }
            // The leader has come to its end, and hears nothing more of this turn.
            if turn.round == LAST_ROUND && until.round != LAST_ROUND {
                return Err(Left::Over);
            }
        }
    }

    /// Shows how something was done.
    async fn show(
        &mut self,
        turn: Turn,
        event: usize,
        trainer: &SharedTrainer,
    ) -> Result<(), Left> {
        let journal = Arc::clone(self.journal.as_ref().ok_or(Broken::OutOfTurn)?);
        let shown = with_trainer(trainer, move |trainer| {
            lock(&journal).show(turn, event, trainer)
        });
        let shown = shown.await.map_err(Left::Trainer)??;
        Ok(tell_leader(&mut self.channel, &ToLeader::Shown(Box::new(shown))).await?)
    }
}

fn lock(journal: &Lock<Journal>) -> MutexGuard<'_, Journal> {
    journal.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Where a training would be with these weights.
async fn state_with(trainer: &SharedTrainer, weights: &[f32]) -> Result<Vec<u8>, Left> {
    let weights = weights.to_vec();
    let state = with_trainer(trainer, move |trainer| trainer.state_with(&weights)).await;
    let state = state.map_err(Left::Trainer)?;
    state.map_err(|error| Left::Trainer(error.to_string()))
}
