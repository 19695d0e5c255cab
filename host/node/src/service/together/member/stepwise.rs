//! Taking part in a training whose steps are all made together.

use std::collections::BTreeMap;

use skep_sandbox::{Meeting, SharedTrainer, StepTogether};
use skep_together::audit::{Digest, digest_of};
use skep_together::message::{ENVELOPE, LAST_ROUND, MAX_NODES, StepWith, ToLeader, ToMember};
use skep_together::{Contribution, Stepwise, Turn};

use super::super::hook::with_trainer;
use super::super::stepwise::{NotMade, SaidStep, make, part};
use super::super::{Broken, Left, hear_leader, tell_leader};
use super::{DECIDING, Seat};

/// This node's part.
pub(super) struct Steps {
    part: Stepwise,
    /// The digest of the weights after the last step.
    at: Digest,
}

impl Seat {
    /// Begins where all are, or comes to the end.
    pub(super) async fn meet_for_steps(
        &mut self,
        when: Meeting,
        weights: &mut [f32],
        trainer: &SharedTrainer,
    ) -> Result<(), Left> {
        match when {
            Meeting::Begin => {
                let state = self.begin(weights).await?;
                weights.copy_from_slice(&state.agreed);
                let method = self.method;
                let part = with_trainer(trainer, move |trainer| {
                    let part = part(&method, trainer)?;
                    if let Stepwise::AllReduce(_) = part {
                        trainer.take_optimizer_state(&state.optimizer)?;
                    }
                    Ok::<_, NotMade>(part)
                });
                let part = part.await.map_err(Left::Trainer)??;
                let at = digest_of(weights);
                self.steps = Some(Steps { part, at });
                Ok(())
            }
            Meeting::After(_) => Ok(()),
            Meeting::End => {
                let Some(Steps { part, at }) = self.steps.take() else {
                    return Ok(());
                };
                let turn = Turn {
                    round: LAST_ROUND,
                    fragment: 0,
                };
                let said = ToLeader::Contribution {
                    turn,
                    bytes: part.at_the_end(),
                    commitment: None,
                    at: Some(at),
                };
                tell_leader(&mut self.channel, &said).await?;
                self.decided(&part, turn, None).await?;
                Ok(())
            }
        }
    }

    /// Says what has been computed here, and makes the step that is decided.
    pub(super) async fn step_with_all(
        &mut self,
        step: StepTogether,
        trainer: &SharedTrainer,
    ) -> Result<u64, Left> {
        let Steps { mut part, .. } = self.steps.take().ok_or(NotMade::Alone)?;
        let number = u32::try_from(step.number).map_err(|_| NotMade::TooMany)?;
        let turn = self.turn(Turn {
            round: number,
            fragment: 0,
        });
        let said = with_trainer(trainer, move |trainer| {
            let of = (step.gradients.as_slice(), &step.made);
            let said = SaidStep::new(&mut part, turn.round, of, trainer)?;
            Ok::<_, NotMade>((part, said))
        });
        let (part, said) = said.await.map_err(Left::Trainer)??;
        let message = ToLeader::Contribution {
            turn,
            bytes: said.bytes.clone(),
            commitment: Some(said.commitment()),
            at: Some(said.at),
        };
        tell_leader(&mut self.channel, &message).await?;
        let (accepted, with) = self.decided(&part, turn, Some(&said)).await?;
        let with = with.ok_or(Broken::OutOfTurn)?;
        let made = with_trainer(trainer, move |trainer| {
            let made = make(&part, &accepted, &with, trainer)?;
            Ok::<_, NotMade>((part, made))
        });
        let (part, (steps, at)) = made.await.map_err(Left::Trainer)??;
        self.steps = Some(Steps { part, at });
        Ok(steps)
    }

    /// Waits for what is decided of a turn, and shows meanwhile what it is asked for.
    async fn decided(
        &mut self,
        part: &Stepwise,
        turn: Turn,
        said: Option<&SaidStep>,
    ) -> Result<(BTreeMap<u16, Contribution>, Option<StepWith>), Left> {
        let carried = usize::from(MAX_NODES) * (part.bytes() + ENVELOPE);
        loop {
            let asked = hear_leader(&mut self.channel, carried, DECIDING).await?;
            let (decided, accepted, with) = match (asked, said) {
                (ToMember::Open(asked), Some(said)) if asked == turn => {
                    let opened = ToLeader::Opened(said.window());
                    tell_leader(&mut self.channel, &opened).await?;
                    continue;
                }
                (ToMember::Draw { turn: asked, event }, Some(said))
                    if asked == turn && event == 0 =>
                {
                    let shown = ToLeader::Shown(Box::new(said.shown()));
                    tell_leader(&mut self.channel, &shown).await?;
                    continue;
                }
                (
                    ToMember::Round {
                        turn,
                        accepted,
                        with,
                    },
                    _,
                ) => (turn, accepted, with),
                _ => return Err(Broken::OutOfTurn.into()),
            };
            if decided != turn {
                // The leader has come to its end.
                return Err(match decided.round {
                    LAST_ROUND => Left::Over,
                    _ => Broken::OutOfTurn.into(),
                });
            }
            let mut read = BTreeMap::new();
            let at_the_end = part.at_the_end();
            let own = said.map_or(&at_the_end, |said| &said.bytes);
            for (number, bytes) in accepted {
                // What this node has said itself is not said once more.
                let bytes = if number == self.number { own } else { &bytes };
                let contribution = part.read(turn.round, bytes);
                let contribution = contribution.map_err(|why| Left::Passed(number, why))?;
                read.insert(number, contribution);
            }
            return Ok((read, with));
        }
    }
}
