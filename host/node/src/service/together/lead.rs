//! The side of the node whose training it is: it invites others, hands out examples, and decides
//! in every turn whose contribution counts.
//!
//! It learns from examples itself. In a turn it waits for each of the others until its patience is
//! over. Whoever has gone, says nothing or says what the protocol does not have is let go, and told
//! of at the end; whoever sends numbers that cannot be used is left out of the turn, and let go
//! after three. The rest go on. In between rounds whoever has gone is asked to come back, and places that
//! nobody has are offered to the others that were named.
//!
//! Now and then it has one of them show a step that it says it has made, and makes it again. Whoever
//! made another is let go for good.
//!
//! [`diloco`] decides turns while it makes steps of its own, [`stepwise`] makes every step with the
//! others, [`table`] is what both know of them, [`queue`] says who is asked to take which place.

mod diloco;
mod queue;
mod stepwise;
mod table;

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use skep_sandbox::{Meeting, Others, SharedTrainer, StepTogether};
use skep_swarm::{ProviderAddr, Swarm};
use skep_together::audit::Digest;
use skep_together::message::Invitation;
use skep_together::{Diloco, Method, Stepwise, TogetherError, Turn};
use tokio::runtime::Handle;
use tokio::sync::Mutex;
use tokio::time::Instant;

use self::diloco::UnderWay;
use self::queue::Queue;
use self::table::Table;
use super::guest::{Guest, Place, ask};
use super::hook::{Hook, Side};
use super::seat::Seat;
use super::stepwise::NotMade;
use crate::failure::{Failure, FailureKind};
use crate::requests::TogetherReport;

pub use super::guest::Order;
pub use super::seat::STEPS_MADE;

/// A training that this node leads.
pub struct Lead {
    method: Method,
    leading: Arc<Mutex<Leading>>,
    runtime: Handle,
}

struct Leading {
    method: Method,
    table: Arc<Mutex<Table>>,
    /// Whether somebody has come since it was looked at: also in the table, which may be in use.
    is_back: Arc<AtomicBool>,
    /// This node's part, once it has begun: one of these.
    diloco: Option<Diloco>,
    stepwise: Option<Stepwise>,
    /// Where all are after the last step that they have made together.
    at: Option<Digest>,
    /// What this node has sent in turns that it has not taken over.
    under_way: VecDeque<UnderWay>,
    /// What all agreed on in the last turns.
    recent: VecDeque<(Turn, Vec<f32>)>,
    /// Bytes of where a training is.
    state_bytes: usize,
    /// When the first batch was begun, and how long no step was computed since then.
    since: Option<Instant>,
    lasted: Duration,
    waited: Duration,
    /// Bytes of this node's own contributions.
    contributed: u64,
}

/// Whom to invite, and to what.
pub struct Guests {
    /// Where they are, in the order in which they are asked.
    pub nodes: Vec<ProviderAddr>,
    /// What each learns from; the first is this node's own.
    pub parts: Vec<Vec<u8>>,
    /// How many have to take part for the training to begin, this node included.
    pub at_least: u16,
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
    /// Invites as many as there are parts for, each node once, and hands those out. What nobody has taken
    /// is offered again while the training lasts.
    ///
    /// # Errors
    /// When too few take part.
    pub async fn invite(swarm: &Swarm, guests: Guests) -> Result<Self, Failure> {
        let mut seats: Vec<Seat> = Vec::new();
        let mut queue = Queue::default();
        let mut refused = Vec::new();
        let mut sent = 0;
        // Not more than the most nodes, of which the request was checked.
        let parts = guests.parts.into_iter().skip(1).zip(1_u16..);
        let mut places = parts.map(|(examples, number)| Place::new(number, examples));
        let mut next = places.next();
        for (rank, node) in once(guests.nodes).into_iter().enumerate() {
            let mut guest = Guest::new(rank, node);
            let Some(place) = next.take() else {
                queue.wait(guest);
                continue;
            };
            guest.asked = Some(Instant::now());
            let invitation = place.invitation(&guests.invitation);
            let (node, examples) = (&guest.node, &place.examples);
            let asked = ask(swarm, node, invitation, examples, guests.patience).await;
            match asked {
                Ok((channel, bytes)) => {
                    sent += bytes as u64;
                    seats.push(Seat::new(place, guest, channel));
                    next = places.next();
                }
                Err(why) => {
                    refused.push(format!("{}: {why}", guest.node.id));
                    queue.wait(guest);
                    next = Some(place);
                }
            }
        }
        if seats.len() + 1 < usize::from(guests.at_least) {
            let mut text = format!(
                "{} other nodes take part, and {} have to; name them with --provider, and let them \
                 have `[trainings] accept = true` in their configuration, or say with --at-least how \
                 many nodes are enough to begin",
                seats.len(),
                guests.at_least - 1
            );
            for why in refused {
                text.push_str("\n  ");
                text.push_str(&why);
            }
            return Err(Failure::new(FailureKind::NotFound, text));
        }
        for place in next.into_iter().chain(places) {
            queue.offer(place);
        }
        if guests.audit > 0 {
            let taken = seats.iter_mut().map(|seat| &mut seat.place);
            for place in taken.chain(queue.places()) {
                let order = (guests.rehearse)(Arc::clone(&place.examples));
                place.audit(order);
            }
        }
        let method = guests.invitation.how;
        let is_back: Arc<AtomicBool> = Arc::default();
        Ok(Self {
            method,
            leading: Arc::new(Mutex::new(Leading {
                method,
                table: Arc::new(Mutex::new(Table {
                    method,
                    patience: guests.patience,
                    audit: guests.audit,
                    swarm: swarm.clone(),
                    invitation: guests.invitation,
                    kept: guests.kept,
                    guard: method.guard(),
                    seats,
                    queue,
                    turns: 0,
                    sent,
                    is_back: Arc::clone(&is_back),
                })),
                is_back,
                diloco: None,
                stepwise: None,
                at: None,
                under_way: VecDeque::new(),
                recent: VecDeque::new(),
                state_bytes: 0,
                since: None,
                lasted: Duration::ZERO,
                waited: Duration::ZERO,
                contributed: 0,
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
        let mut leading = self.leading.lock().await;
        // A turn that nobody waits for any more may have the table.
        leading.under_way.clear();
        let table = leading.table.lock().await;
        let seated = table.seats.iter().map(|seat| &seat.guest);
        let all = seated.chain(table.queue.guests());
        let mut nodes: Vec<&Guest> = all.filter(|guest| guest.took_part).collect();
        nodes.sort_by_key(|guest| guest.rank);
        TogetherReport {
            method: leading.method.name().to_owned(),
            turns: table.turns,
            seconds: leading.lasted.as_secs_f64(),
            waited_seconds: leading.waited.as_secs_f64(),
            contributed_bytes: leading.contributed,
            sent_bytes: table.sent,
            nodes: nodes.iter().map(|guest| guest.told.clone()).collect(),
        }
    }
}

/// Each node once, in this order, at all of its addresses.
fn once(nodes: Vec<ProviderAddr>) -> Vec<ProviderAddr> {
    let mut all: Vec<ProviderAddr> = Vec::new();
    for node in nodes {
        match all.iter_mut().find(|other| other.id == node.id) {
            Some(known) => known.addrs.extend(node.addrs),
            None => all.push(node),
        }
    }
    all
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
}
