//! Leading a training whose steps are all made together: a turn at every step.
//!
//! Whoever takes part has the same weights and says which with every contribution, by their digest;
//! who has others is let go, and may come back to those of all. At the end all say it once more.

use std::collections::BTreeMap;
use std::time::Duration;

use skep_sandbox::{Meeting, SharedTrainer, StepTogether};
use skep_together::audit::{Digest, digest_of};
use skep_together::message::{LAST_ROUND, ToMember};
use skep_together::{Position, Stepwise, Turn};

use super::super::Broken;
use super::super::audit::StepCase;
use super::super::hook::with_trainer;
use super::super::seat::{Said, Seat};
use super::super::stepwise::{NotMade, make, part, with};
use super::table::Table;
use super::{Ended, Leading};

impl Leading {
    /// Begins, or comes to the end.
    pub(super) async fn meet_for_steps(
        &mut self,
        when: Meeting,
        trainer: &SharedTrainer,
    ) -> Result<(), Ended> {
        match when {
            Meeting::Begin => {
                let method = self.method;
                let begun = with_trainer(trainer, move |trainer| {
                    let part = part(&method, trainer)?;
                    Ok::<_, NotMade>((part, digest_of(trainer.weights())))
                });
                let (part, at) = begun.await.map_err(Ended::Trainer)??;
                let (state, weights) = where_all_are(&part, 0, trainer).await?;
                let mut table = self.table.lock().await;
                table.begin(&state, weights, first_position(&part)).await;
                drop(table);
                (self.stepwise, self.at) = (Some(part), Some(at));
                Ok(())
            }
            Meeting::After(_) => Ok(()),
            Meeting::End => {
                let turn = Turn {
                    round: LAST_ROUND,
                    fragment: 0,
                };
                if let Some(part) = self.stepwise.take() {
                    let mut table = self.table.lock().await;
                    // Who joined late may be making a step still, and is told what is wrong with that.
                    let most = part.bytes();
                    let came = table.hear_those_at(turn, most, self.at).await;
                    let own = part.at_the_end();
                    let judged = table.judge(&own, &came, |bytes| part.read(LAST_ROUND, bytes));
                    table.settle(turn, &own, came, judged, None).await;
                    drop(table);
                    self.stepwise = Some(part);
                }
                Ok(())
            }
        }
    }

    /// Makes a step with all who are here.
    pub(super) async fn step_with_all(
        &mut self,
        step: StepTogether,
        trainer: &SharedTrainer,
    ) -> Result<u64, Ended> {
        let mut part = self.stepwise.take().ok_or(NotMade::Alone)?;
        let turn = turn_of(step.number)?;
        let hyper = step.made.hyper;
        let said = with_trainer(trainer, move |trainer| {
            let own = part.contribute(turn.round, &step.gradients, hyper.learning_rate)?;
            Ok::<_, NotMade>((part, own, digest_of(trainer.weights())))
        });
        let (part, own, at) = said.await.map_err(Ended::Trainer)??;
        self.contributed += own.len() as u64;
        self.at = Some(at);
        let mut table = self.table.lock().await;
        let came = table.hear_those_at(turn, part.bytes(), self.at).await;
        let mut judged = table.judge(&own, &came, |bytes| part.read(turn.round, bytes));
        let accepted = |number: &u16| judged.accepted.contains_key(number);
        if let Some(drawn) = table.draw(accepted)
            && let Some(said) = came.get(&table.seats[drawn].place.number)
            && !table.audit_step(drawn, &part, said, trainer).await
        {
            judged.accepted.remove(&table.seats[drawn].place.number);
        }
        let accepted = judged.accepted.clone();
        let with = with(&hyper);
        // The others make the step at the same time.
        table.settle(turn, &own, came, judged, Some(with)).await;
        drop(table);
        let made = with_trainer(trainer, move |trainer| {
            let made = make(&part, &accepted, &with, trainer)?;
            Ok::<_, NotMade>((part, made))
        });
        let (part, (steps, at)) = made.await.map_err(Ended::Trainer)??;
        self.at = Some(at);
        self.welcome_to_steps(&part, step.number + 1, trainer)
            .await?;
        self.stepwise = Some(part);
        Ok(steps)
    }

    /// Takes those in who have come, and asks others where somebody is missing.
    async fn welcome_to_steps(
        &mut self,
        part: &Stepwise,
        made: u64,
        trainer: &SharedTrainer,
    ) -> Result<(), Ended> {
        let next = turn_of(made)?.round;
        let mut table = self.table.lock().await;
        if table.seats.iter().any(Seat::has_answered) {
            let (state, _) = where_all_are(part, next, trainer).await?;
            table.take_in(&state, next, first_position(part)).await;
        }
        if !table.is_full() {
            let weights = with_trainer(trainer, |trainer| trainer.parameters());
            let weights = weights.await.map_err(Ended::Trainer)?;
            table.invite(weights, made);
        }
        Ok(())
    }
}

impl Table {
    /// What those say who have the same weights. Whoever has others is let go.
    async fn hear_those_at(
        &mut self,
        turn: Turn,
        bytes: usize,
        at: Option<Digest>,
    ) -> BTreeMap<u16, Said> {
        let mut came = self.hear(turn, bytes, Duration::ZERO).await;
        for seat in &mut self.seats {
            if came
                .get(&seat.place.number)
                .is_some_and(|said| said.at != at)
            {
                came.remove(&seat.place.number);
                seat.leave_out(turn, &Broken::Elsewhere.to_string());
                seat.let_go(&Broken::Elsewhere);
            }
        }
        came
    }

    /// Has a node show what it has computed, and computes that. False if it does not hold.
    async fn audit_step(
        &mut self,
        at: usize,
        part: &Stepwise,
        said: &Said,
        trainer: &SharedTrainer,
    ) -> bool {
        let carried = 2 * (8 + 4 * part.unsaid().len());
        let evidence = match self.examine(at, said, carried).await {
            Some(Ok(evidence)) => evidence,
            Some(Err(broken)) => return self.doubt(at, said.turn, &broken),
            None => return true,
        };
        let case = StepCase {
            step: said.turn.round,
            contribution: said.bytes.clone(),
            window: evidence.window,
            shown: evidence.shown,
        };
        let part = part.clone();
        let judged = with_trainer(trainer, move |trainer| case.judge(&part, trainer));
        let judged = judged.await;
        self.conclude(at, said.turn, judged)
    }
}

fn turn_of(number: u64) -> Result<Turn, NotMade> {
    // The last number is the end's.
    let round = u32::try_from(number).ok().filter(|step| *step < LAST_ROUND);
    let round = round.ok_or(NotMade::TooMany)?;
    Ok(Turn { round, fragment: 0 })
}

/// Where a node is that has learned from nothing and left nothing unsaid.
fn first_position(part: &Stepwise) -> Digest {
    let position = Position {
        batches: 0,
        unsaid: vec![0.0; part.unsaid().len()],
    };
    position.digest()
}

/// What a node needs to make the next step with the others, and how many weights there are.
async fn where_all_are(
    part: &Stepwise,
    round: u32,
    trainer: &SharedTrainer,
) -> Result<(ToMember, usize), Ended> {
    let has_optimizer = matches!(part, Stepwise::AllReduce(_));
    let state = with_trainer(trainer, move |trainer| {
        let optimizer = match has_optimizer {
            true => trainer.optimizer_state()?,
            false => Vec::new(),
        };
        Ok::<_, NotMade>((trainer.weights().to_vec(), optimizer))
    });
    let (agreed, optimizer) = state.await.map_err(Ended::Trainer)??;
    let weights = agreed.len();
    let state = ToMember::State {
        round,
        agreed,
        velocity: Vec::new(),
        optimizer,
    };
    Ok((state, weights))
}
