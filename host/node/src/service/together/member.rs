//! The side of a node that takes part in another's training, as far as its owner lets it.
//!
//! It runs the recipe on the examples that it was handed, in a room that goes with the training,
//! and says now and then what it has moved by. The adapter is the leader's: nothing of it stays
//! here. From an invitation it takes digests and settings, never a path.
//!
//! [`diloco`] says something between steps of this node's own, [`stepwise`] makes every step with the
//! others.

mod diloco;
mod stepwise;

use std::collections::VecDeque;
use std::fmt;
use std::io::Cursor;
use std::pin::Pin;
use std::sync::{Arc, Mutex as Lock, Weak};
use std::time::Duration;

use skep_registry::Digest;
use skep_sandbox::{Cancel, Meeting, SharedTrainer, StepTogether};
use skep_swarm::{Answerer, Channel};
use skep_together::audit::digest_of;
use skep_together::message::{ENVELOPE, Invitation, MAX_INVITATION, ToLeader, ToMember};
use skep_together::{Diloco, Method, Turn};
use tokio::runtime::Handle;
use tokio::sync::{Mutex, Semaphore};

use self::stepwise::Steps;
use super::hook::{Hook, Side};
use super::journal::Journal;
use super::{Broken, LOADING, Left, SILENCE, hear_leader, tell_leader};
use crate::failure::{Failure, FailureKind};
use crate::service::Service;
use crate::service::finetune::{self, Visit};

/// How long the leader may take to decide a turn: it waits for others, and computes itself. One
/// that has gone is noticed by its connection.
const DECIDING: Duration = Duration::from_secs(30 * 60);

/// Bytes of where all are, for each weight, at most: the weight, and both moments of an optimizer.
const STATE: usize = 12;

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
        // The leader hears one after the other, and computes in between.
        channel.give_time(DECIDING);
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
        let journal: Option<Arc<Lock<Journal>>> = invitation.audited.then(Arc::default);
        let seat = Arc::new(Mutex::new(Seat {
            method: invitation.how,
            number: invitation.member,
            channel,
            has_begun: false,
            diloco: None,
            steps: None,
            first: 0,
            under_way: VecDeque::new(),
            journal: journal.clone(),
        }));
        let membership = Hook {
            method: invitation.how,
            side: Arc::clone(&seat),
            journal,
            runtime: Handle::current(),
        };
        let cancel = Cancel::new();
        // When this node ends, so does its part in the training.
        let _on_drop = CancelOnDrop(cancel.clone());
        let visited = finetune::visit(
            service,
            visit,
            Arc::new(membership),
            Cursor::new(examples),
            cancel,
        );
        let visited = visited.await;
        let why = match &visited {
            Ok(()) => "its recipe has made all of its steps already",
            Err(failure) => failure.message.as_str(),
        };
        // The run is over, and nobody else has it.
        if let Some(seat) = Arc::into_inner(seat) {
            seat.into_inner().say_why_not(why).await;
        }
        visited
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
    method: Method,
    number: u16,
    channel: Channel,
    /// Whether it has heard where all are.
    has_begun: bool,
    /// Its part, once it has begun: one of these.
    diloco: Option<Diloco>,
    steps: Option<Steps>,
    /// The round of all in which this node's first one was.
    first: u32,
    /// The turns in which it has said something that was not decided yet, and what.
    under_way: VecDeque<(Turn, Vec<u8>)>,
    /// What it did, if anybody may ask.
    journal: Option<Arc<Lock<Journal>>>,
}

impl Side for Seat {
    type Error = Left;

    async fn meet(
        &mut self,
        when: Meeting,
        mut weights: Vec<f32>,
        trainer: &SharedTrainer,
    ) -> Result<Vec<f32>, Left> {
        match self.method {
            Method::Diloco(how) => {
                self.meet_for_turns(&how, when, &mut weights, trainer)
                    .await?;
            }
            Method::Demo(_) | Method::AllReduce => {
                self.meet_for_steps(when, &mut weights, trainer).await?;
            }
        }
        Ok(weights)
    }

    async fn step(&mut self, step: StepTogether, trainer: &SharedTrainer) -> Result<u64, Left> {
        self.step_with_all(step, trainer).await
    }
}

impl Seat {
    /// A turn of this node's as all others count it.
    fn turn(&self, turn: Turn) -> Turn {
        Turn {
            round: turn.round.saturating_add(self.first),
            ..turn
        }
    }

    /// Tells the leader why this node has not begun, if it has not.
    async fn say_why_not(mut self, why: &str) {
        if !self.has_begun {
            let said = ToLeader::Refused(why.to_owned());
            // Whoever has gone meanwhile needs no reason.
            let _ = tell_leader(&mut self.channel, &said).await;
            let _ = self.channel.finish(SILENCE).await;
        }
    }

    /// Says that this node is ready, with these weights, and hears where all are.
    async fn begin(&mut self, weights: &[f32]) -> Result<State, Left> {
        let ready = ToLeader::Ready {
            weights: weights.len() as u64,
            at: digest_of(weights),
        };
        tell_leader(&mut self.channel, &ready).await?;
        let carried = STATE * weights.len() + MAX_INVITATION;
        match hear_leader(&mut self.channel, carried, LOADING + DECIDING).await? {
            ToMember::State {
                round,
                agreed,
                velocity,
                optimizer,
            } if agreed.len() == weights.len() || agreed.is_empty() => {
                (self.first, self.has_begun) = (round, true);
                Ok(State {
                    agreed: match agreed.is_empty() {
                        true => weights.to_vec(),
                        false => agreed,
                    },
                    velocity,
                    optimizer,
                })
            }
            _ => Err(Broken::OutOfTurn.into()),
        }
    }
}

/// Where all are.
struct State {
    agreed: Vec<f32>,
    velocity: Vec<f32>,
    optimizer: Vec<u8>,
}
