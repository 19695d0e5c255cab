//! The side of the node whose training it is: it invites others, hands out examples, and decides
//! in every turn whose contribution counts.
//!
//! It learns from examples itself. In a turn it waits for each of the others until its patience is
//! over. Whoever has gone, says nothing or says what the protocol does not have is let go, and told
//! of at the end; whoever sends numbers that cannot be used is left out of the turn, and let go
//! after three. The rest go on.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use skep_sandbox::{Meeting, Met, Others};
use skep_swarm::{Channel, ProviderAddr, Swarm};
use skep_together::message::{
    ENVELOPE, Invitation, LAST_ROUND, MAX_INVITATION, ToLeader, ToMember,
};
use skep_together::{Contribution, Diloco, DilocoConfig, Guard, TogetherError, Turn, Unsound};
use tokio::runtime::Handle;
use tokio::sync::Mutex;
use tokio::time::Instant;

use super::{Broken, LOADING, SILENCE, Waited, hear_member, tell_member};
use crate::failure::{Failure, FailureKind};
use crate::requests::{LeftOut, TogetherNode, TogetherReport};

/// What is left for a node to say what it has said already, when others have used up the time.
const MOMENT: Duration = Duration::from_secs(2);
/// How many times in a row a node may send what cannot be used.
const STRIKES: u32 = 3;
/// Times that a node was left out that the report has in words.
const TOLD: usize = 100;

/// A training that this node leads.
pub struct Lead {
    how: DilocoConfig,
    leading: Arc<Mutex<Leading>>,
    runtime: Handle,
}

struct Leading {
    how: DilocoConfig,
    patience: Duration,
    part: Option<Diloco>,
    guard: Guard,
    seats: Vec<Seat>,
    /// What this node has sent in turns that have not come to an end.
    under_way: VecDeque<(Turn, Vec<u8>)>,
    turns: u64,
    /// Bytes of this node's own contributions.
    contributed: u64,
    /// Bytes of all that it has sent, examples included.
    sent: u64,
}

/// Another node.
struct Seat {
    number: u16,
    node: String,
    /// None once it was let go.
    channel: Option<Channel>,
    /// What it has said ahead of its turn.
    held: Option<(Turn, Vec<u8>)>,
    strikes: u32,
    told: TogetherNode,
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
}

impl Lead {
    /// Invites as many as there are parts for, and hands those out.
    ///
    /// # Errors
    /// When too few take part.
    pub async fn invite(swarm: &Swarm, guests: Guests) -> Result<Self, Failure> {
        let mut seats: Vec<Seat> = Vec::new();
        let mut refused = Vec::new();
        let mut parts = guests.parts.into_iter().skip(1);
        let mut part = parts.next();
        let mut sent = 0;
        for node in &guests.nodes {
            let Some(examples) = part.take() else { break };
            // Not more than the most nodes, of which the request was checked.
            let number = seats.len() as u16 + 1;
            let invitation = Invitation {
                member: number,
                examples: examples.len() as u64,
                ..guests.invitation.clone()
            };
            match ask(swarm, node, invitation).await {
                Ok(mut channel) => {
                    let message = ToMember::Examples(examples);
                    match tell_member(&mut channel, &message).await {
                        Ok(bytes) => {
                            sent += bytes as u64;
                            seats.push(Seat::new(number, node.id.to_string(), channel));
                            part = parts.next();
                            continue;
                        }
                        Err(error) => refused.push(format!("{}: {error}", node.id)),
                    }
                    if let ToMember::Examples(examples) = message {
                        part = Some(examples);
                    }
                }
                Err(why) => {
                    refused.push(format!("{}: {why}", node.id));
                    part = Some(examples);
                }
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
                part: None,
                guard: Guard::default(),
                seats,
                under_way: VecDeque::new(),
                turns: 0,
                contributed: 0,
                sent,
            })),
            runtime: Handle::current(),
        })
    }

    /// What came of it.
    pub async fn report(&self) -> TogetherReport {
        let leading = self.leading.lock().await;
        TogetherReport {
            turns: leading.turns,
            contributed_bytes: leading.contributed,
            sent_bytes: leading.sent,
            nodes: leading.seats.iter().map(|seat| seat.told.clone()).collect(),
        }
    }
}

/// Asks a node to take part.
async fn ask(
    swarm: &Swarm,
    node: &ProviderAddr,
    invitation: Invitation,
) -> Result<Channel, String> {
    let asking = async {
        let mut channel = swarm.invite(node).await?;
        tell_member(&mut channel, &ToMember::Invitation(Box::new(invitation))).await?;
        let answer = hear_member(&mut channel, MAX_INVITATION, SILENCE).await?;
        Ok::<_, Broken>((channel, answer))
    };
    match asking.await {
        Ok((channel, ToLeader::Accepted)) => Ok(channel),
        Ok((_, ToLeader::Refused(why))) => Err(why),
        Ok(_) => Err(Broken::OutOfTurn.to_string()),
        Err(error) => Err(error.to_string()),
    }
}

impl Others for Lead {
    fn meets(&self, when: Meeting) -> bool {
        match when {
            Meeting::Begin | Meeting::End => true,
            Meeting::After(step) => {
                self.how.sends(step).is_some() || self.how.arrives(step).is_some()
            }
        }
    }

    fn meet(&self, when: Meeting, weights: Vec<f32>) -> Met {
        let leading = Arc::clone(&self.leading);
        let work = self.runtime.spawn(async move {
            let met = leading.lock().await.meet(when, weights).await;
            met.map_err(|error| error.to_string())
        });
        Box::pin(async move { Waited(work).get().await? })
    }
}

impl Leading {
    async fn meet(
        &mut self,
        when: Meeting,
        mut weights: Vec<f32>,
    ) -> Result<Vec<f32>, TogetherError> {
        let mut part = match self.part.take() {
            Some(part) => part,
            None => {
                let part = Diloco::new(self.how, &weights)?;
                self.begin(&part).await;
                part
            }
        };
        match when {
            Meeting::Begin => {}
            Meeting::After(step) => {
                if let Some(turn) = self.how.sends(step) {
                    self.contribute(&mut part, turn, &weights)?;
                }
                if let Some(turn) = self.how.arrives(step) {
                    self.complete(&mut part, turn, &mut weights).await?;
                }
            }
            Meeting::End => {
                let last = self.under_way.back().map(|(turn, _)| *turn);
                if let Some(turn) = last {
                    self.complete(&mut part, turn, &mut weights).await?;
                }
                for fragment in 0..self.how.fragments {
                    let turn = Turn {
                        round: LAST_ROUND,
                        fragment,
                    };
                    self.contribute(&mut part, turn, &weights)?;
                    self.complete(&mut part, turn, &mut weights).await?;
                }
                weights.copy_from_slice(part.agreed());
            }
        }
        self.part = Some(part);
        Ok(weights)
    }

    /// Tells all who are ready where this node is.
    async fn begin(&mut self, part: &Diloco) {
        let want = part.agreed().len() as u64;
        let state = ToMember::State {
            round: 0,
            agreed: part.agreed().to_vec(),
            velocity: part.velocity().to_vec(),
        };
        for seat in &mut self.seats {
            let Some(channel) = &mut seat.channel else {
                continue;
            };
            let heard = async {
                match hear_member(channel, 0, LOADING).await? {
                    ToLeader::Ready { weights } if weights == want => {
                        tell_member(channel, &state).await
                    }
                    ToLeader::Ready { weights: got } => Err(Broken::Weights { got, want }),
                    _ => Err(Broken::OutOfTurn),
                }
            };
            match heard.await {
                Ok(bytes) => self.sent += bytes as u64,
                Err(why) => seat.let_go(&why),
            }
        }
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
    ) -> Result<(), TogetherError> {
        while let Some((turn, own)) = self.under_way.pop_front() {
            self.decide(part, turn, own, weights).await?;
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
    ) -> Result<(), TogetherError> {
        let deadline = Instant::now() + self.patience;
        let mut came = BTreeMap::from([(0, own)]);
        for seat in &mut self.seats {
            let left = deadline
                .saturating_duration_since(Instant::now())
                .max(MOMENT);
            if let Some(bytes) = seat.says(turn, part.bytes(turn), left).await {
                came.insert(seat.number, bytes);
            }
        }
        let read: BTreeMap<u16, Result<Contribution, Unsound>> = came
            .iter()
            .map(|(number, bytes)| (*number, part.read(turn, bytes)))
            .collect();
        let judged = self.guard.judge(read, Some(&0));
        part.step(turn, &judged.accepted, weights)?;
        self.turns += 1;
        let accepted = came
            .into_iter()
            .filter(|(number, _)| judged.accepted.contains_key(number));
        let round = ToMember::Round {
            turn,
            accepted: accepted.collect(),
        };
        let mut left_out = judged.left_out;
        for seat in &mut self.seats {
            if judged.accepted.contains_key(&seat.number) {
                seat.strikes = 0;
                seat.told.accepted += 1;
            }
            if let Some(why) = left_out.remove(&seat.number) {
                seat.leave_out(turn, why);
            }
            let Some(channel) = &mut seat.channel else {
                continue;
            };
            match tell_member(channel, &round).await {
                Ok(bytes) => self.sent += bytes as u64,
                Err(why) => seat.let_go(&why),
            }
        }
        Ok(())
    }
}

impl Seat {
    fn new(number: u16, node: String, channel: Channel) -> Self {
        Self {
            number,
            told: TogetherNode {
                node: node.clone(),
                accepted: 0,
                left_out: Vec::new(),
                gone: None,
            },
            node,
            channel: Some(channel),
            held: None,
            strikes: 0,
        }
    }

    /// What it says in a turn. None is nothing, of somebody who has gone or is elsewhere: who has
    /// come to its end has no more turns before that, and who has not has another turn.
    async fn says(&mut self, turn: Turn, bytes: usize, patience: Duration) -> Option<Vec<u8>> {
        let (said, contribution) = match self.held.take() {
            Some(held) => held,
            None => {
                let channel = self.channel.as_mut()?;
                // It may be of a fragment that is a block longer.
                let carried = bytes + 4 * skep_together::quantize::BLOCK + ENVELOPE;
                match hear_member(channel, carried, patience).await {
                    Ok(ToLeader::Contribution { turn, bytes }) => (turn, bytes),
                    Ok(_) => {
                        self.let_go(&Broken::OutOfTurn);
                        return None;
                    }
                    Err(why) => {
                        self.let_go(&why);
                        return None;
                    }
                }
            }
        };
        match said.cmp(&turn) {
            std::cmp::Ordering::Equal => Some(contribution),
            std::cmp::Ordering::Greater => {
                self.held = Some((said, contribution));
                None
            }
            std::cmp::Ordering::Less => {
                // It has turns before it that there will not be any more.
                self.let_go(&Broken::Behind);
                None
            }
        }
    }

    fn leave_out(&mut self, turn: Turn, why: Unsound) {
        tracing::warn!(node = %self.node, %why, "a contribution was left out");
        if self.told.left_out.len() < TOLD {
            self.told.left_out.push(LeftOut {
                round: (turn.round != LAST_ROUND).then_some(turn.round),
                fragment: turn.fragment,
                why: why.to_string(),
            });
        }
        self.strikes += 1;
        if self.strikes >= STRIKES {
            self.let_go(&Broken::Again(self.strikes, why));
        }
    }

    fn let_go(&mut self, why: &Broken) {
        tracing::warn!(node = %self.node, %why, "a node takes part in the training no more");
        self.channel = None;
        self.held = None;
        self.told.gone.get_or_insert_with(|| why.to_string());
    }
}
