//! The side of a node that takes part in another's training, as far as its owner lets it.
//!
//! It runs the recipe on the examples that it was handed, in a room that goes with the training,
//! and says now and then what it has moved by. The adapter is the leader's: nothing of it stays
//! here. From an invitation it takes digests and settings, never a path.

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::io::Cursor;
use std::pin::Pin;
use std::sync::{Arc, Mutex as Lock, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use skep_registry::Digest;
use skep_sandbox::{Cancel, Meeting, SharedTrainer};
use skep_swarm::{Answerer, Channel};
use skep_together::message::{
    ENVELOPE, Invitation, LAST_ROUND, MAX_INVITATION, MAX_NODES, ToLeader, ToMember,
};
use skep_together::{Contribution, Diloco, DilocoConfig, Turn};
use tokio::runtime::Handle;
use tokio::sync::{Mutex, Semaphore};

use super::hook::{Hook, Side, with_trainer};
use super::journal::Journal;
use super::{Broken, LOADING, Left, SILENCE, hear_leader, tell_leader};
use crate::failure::{Failure, FailureKind};
use crate::service::Service;
use crate::service::finetune::{self, Visit};

/// How long the leader may take to decide a turn: it waits for others, and computes itself. One
/// that has gone is noticed by its connection.
const DECIDING: Duration = Duration::from_secs(30 * 60);

/// Takes part in the trainings of others from now on, as far as the owner lets this node.
pub async fn take_part(service: &Arc<Service>) -> Result<(), Failure> {
    let desk = Desk {
        service: Arc::downgrade(service),
        places: Arc::new(Semaphore::new(service.config.trainings.at_once as usize)),
    };
    service.swarm().await?.train_with(Arc::new(desk));
    Ok(())
}

#[derive(Clone)]
struct Desk {
    service: Weak<Service>,
    places: Arc<Semaphore>,
}

impl fmt::Debug for Desk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Desk")
    }
}

impl Answerer for Desk {
    fn answer(&self, channel: Channel) -> Pin<Box<dyn Future<Output = ()> + Send>> {
        let desk = self.clone();
        Box::pin(async move {
            let Some(service) = desk.service.upgrade() else {
                return;
            };
            let peer = channel.peer();
            match desk.converse(&service, channel).await {
                Ok(()) => tracing::info!(%peer, "a training that this node took part in is over"),
                Err(failure) => tracing::info!(%peer, %failure, "a training was left"),
            }
        })
    }
}

impl Desk {
    async fn converse(&self, service: &Arc<Service>, mut channel: Channel) -> Result<(), Failure> {
        let heard = hear_leader(&mut channel, MAX_INVITATION, SILENCE).await;
        let Ok(ToMember::Invitation(invitation)) = heard else {
            return Err(failed(&Broken::OutOfTurn));
        };
        let admitted = async {
            let refused = |text: &str| Failure::new(FailureKind::Refused, text);
            if !service.config.trainings.accept {
                return Err(refused("this node takes part in no trainings"));
            }
            let place = Arc::clone(&self.places).try_acquire_owned();
            let place = place.map_err(|_| refused("this node takes part in another training"))?;
            let most = service.config.trainings.largest_data;
            if invitation.examples > most {
                let text = format!("at most {most} bytes of examples are taken here");
                return Err(refused(&text));
            }
            let visit = visit(service, &invitation).await?;
            Ok((place, visit))
        };
        let (_place, visit) = match admitted.await {
            Ok(admitted) => admitted,
            Err(failure) => {
                let said = ToLeader::Refused(failure.message.clone());
                // Whoever has gone meanwhile needs no reason.
                let _ = tell_leader(&mut channel, &said).await;
                let _ = channel.finish(SILENCE).await;
                return Err(failure);
            }
        };
        let carried = usize::try_from(invitation.examples).unwrap_or(usize::MAX - ENVELOPE);
        let examples = async {
            tell_leader(&mut channel, &ToLeader::Accepted).await?;
            match hear_leader(&mut channel, carried, SILENCE).await? {
                ToMember::Examples(examples) => Ok(examples),
                _ => Err(Broken::OutOfTurn),
            }
        };
        let examples = examples.await.map_err(|error| failed(&error))?;
        let journal = Arc::default();
        let membership = Hook {
            how: invitation.how,
            side: Arc::new(Mutex::new(Seat {
                how: invitation.how,
                number: invitation.member,
                channel,
                part: None,
                first: 0,
                under_way: VecDeque::new(),
                journal: Arc::clone(&journal),
            })),
            journal: Some(journal),
            runtime: Handle::current(),
        };
        let cancel = Cancel::new();
        // When this node ends, so does its part in the training.
        let _on_drop = CancelOnDrop(cancel.clone());
        finetune::visit(
            service,
            visit,
            Arc::new(membership),
            Cursor::new(examples),
            cancel,
        )
        .await
    }
}

/// What is to be trained, if this node has it.
async fn visit(service: &Arc<Service>, invitation: &Invitation) -> Result<Visit, Failure> {
    let digest = |text: &str| {
        text.parse::<Digest>().map_err(|_| {
            let text = format!("{text:?} is no digest, and nothing else is taken from others");
            Failure::new(FailureKind::Refused, text)
        })
    };
    let base = digest(&invitation.base)?.to_string();
    let recipe = invitation.recipe.as_deref().map(digest).transpose()?;
    let found = Visit::find(service, &base, recipe.map(|recipe| recipe.to_string())).await;
    let visit = found.map_err(|failure| {
        let text = format!(
            "this node has not got what is trained, {} and its recipe: {failure}",
            invitation.base_name
        );
        Failure::new(FailureKind::Refused, text)
    })?;
    match visit.component() == invitation.component {
        true => Ok(visit.with(invitation.settings.clone())),
        false => Err(Failure::new(
            FailureKind::Refused,
            "this node has another version of the recipe",
        )),
    }
}

struct CancelOnDrop(Cancel);

impl Drop for CancelOnDrop {
    fn drop(&mut self) {
        self.0.cancel();
    }
}

fn failed(error: &Broken) -> Failure {
    Failure::of(FailureKind::Failed, error)
}

/// This node's part in a training.
struct Seat {
    how: DilocoConfig,
    number: u16,
    channel: Channel,
    part: Option<Diloco>,
    /// The round of all in which this node's first one was.
    first: u32,
    /// The turns in which it has said something that was not decided yet.
    under_way: VecDeque<Turn>,
    journal: Arc<Lock<Journal>>,
}

impl Side for Seat {
    type Error = Left;

    async fn meet(
        &mut self,
        when: Meeting,
        mut weights: Vec<f32>,
        trainer: &SharedTrainer,
    ) -> Result<Vec<f32>, Left> {
        let mut part = match self.part.take() {
            Some(part) => part,
            None => {
                let part = self.begin(weights.len()).await?;
                weights.copy_from_slice(part.agreed());
                let state = state_with(trainer, &weights).await?;
                self.journal().begin(state);
                part
            }
        };
        match when {
            Meeting::Begin => {}
            Meeting::After(step) => {
                if let Some(turn) = self.how.sends(step) {
                    let turn = self.turn(turn);
                    self.contribute(&mut part, turn, &weights, trainer).await?;
                }
                if let Some(turn) = self.how.arrives(step) {
                    let turn = self.turn(turn);
                    self.complete(&mut part, turn, &mut weights, trainer)
                        .await?;
                }
            }
            Meeting::End => {
                if let Some(turn) = self.under_way.back().copied() {
                    self.complete(&mut part, turn, &mut weights, trainer)
                        .await?;
                }
                for fragment in 0..self.how.fragments {
                    let turn = Turn {
                        round: LAST_ROUND,
                        fragment,
                    };
                    self.contribute(&mut part, turn, &weights, trainer).await?;
                    self.complete(&mut part, turn, &mut weights, trainer)
                        .await?;
                }
                weights.copy_from_slice(part.agreed());
            }
        }
        self.part = Some(part);
        Ok(weights)
    }
}

/// Where a training would be with these weights.
async fn state_with(trainer: &SharedTrainer, weights: &[f32]) -> Result<Vec<u8>, Left> {
    let weights = weights.to_vec();
    let state = with_trainer(trainer, move |trainer| trainer.state_with(&weights)).await;
    let state = state.map_err(Left::Trainer)?;
    state.map_err(|error| Left::Trainer(error.to_string()))
}

impl Seat {
    fn journal(&self) -> MutexGuard<'_, Journal> {
        self.journal.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A turn of this node's as all others count it.
    fn turn(&self, turn: Turn) -> Turn {
        Turn {
            round: turn.round.saturating_add(self.first),
            ..turn
        }
    }

    /// Says that this node is ready, and hears where all are.
    async fn begin(&mut self, weights: usize) -> Result<Diloco, Left> {
        let ready = ToLeader::Ready {
            weights: weights as u64,
        };
        tell_leader(&mut self.channel, &ready).await?;
        match hear_leader(&mut self.channel, 8 * weights, LOADING + DECIDING).await? {
            ToMember::State {
                round,
                agreed,
                velocity,
            } if agreed.len() == weights => {
                self.first = round;
                Ok(Diloco::join(self.how, &agreed, &velocity)?)
            }
            _ => Err(Broken::OutOfTurn.into()),
        }
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
        // At the end the recipe may have gone back to the best that it had, and no step led there.
        let commitment = match turn.round {
            LAST_ROUND => None,
            _ => {
                let state = state_with(trainer, weights).await?;
                let still_unsaid = &part.lost()[range];
                let mut journal = self.journal();
                Some(journal.contributed(turn, state, unsaid, still_unsaid)?)
            }
        };
        let said = ToLeader::Contribution {
            turn,
            bytes,
            commitment,
        };
        tell_leader(&mut self.channel, &said).await?;
        self.under_way.push_back(turn);
        Ok(())
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
                ToMember::Round { turn, accepted } => (turn, accepted),
                ToMember::Open(turn) => {
                    let window = self.journal().window(turn)?;
                    tell_leader(&mut self.channel, &ToLeader::Opened(window)).await?;
                    continue;
                }
                ToMember::Draw { turn, event } => {
                    self.show(turn, event as usize, trainer).await?;
                    continue;
                }
                _ => return Err(Broken::OutOfTurn.into()),
            };
            if turn.fragment >= self.how.fragments {
                return Err(Broken::OutOfTurn.into());
            }
            let mut read: BTreeMap<u16, Contribution> = BTreeMap::new();
            for (number, bytes) in accepted {
                let contribution = part.read(turn, &bytes);
                let contribution = contribution.map_err(|why| Left::Passed(number, why))?;
                read.insert(number, contribution);
            }
            part.step(turn, &read, weights)?;
            if !read.contains_key(&self.number) {
                part.forget(turn.fragment);
            }
            let state = state_with(trainer, weights).await?;
            self.journal().took(turn, weights, &state);
            self.journal().decided(turn);
            self.under_way.retain(|other| *other != turn);
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
        let journal = Arc::clone(&self.journal);
        let shown = with_trainer(trainer, move |trainer| {
            let journal = journal.lock().unwrap_or_else(PoisonError::into_inner);
            journal.show(turn, event, trainer)
        });
        let shown = shown.await.map_err(Left::Trainer)??;
        Ok(tell_leader(&mut self.channel, &ToLeader::Shown(Box::new(shown))).await?)
    }
}
