//! Another node of a training that this one leads: what it says, and what is told of it.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use skep_swarm::{Channel, ProviderAddr, Swarm};
use skep_together::audit::{self, Commitment, Digest, Window, digest_of};
use skep_together::message::{
    ENVELOPE, Invitation, LAST_ROUND, MAX_INVITATION, Shown, ToLeader, ToMember,
};
use skep_together::{Method, Turn, Unsound};
use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::{Broken, LOADING, SILENCE, hear_member, tell_member};
use crate::failure::Failure;
use crate::requests::{LeftOut, TogetherNode};

/// The setting by which the recipe that comes with skep is told what all have made before it begins.
pub const STEPS_MADE: &str = "steps-made";
/// How many times in a row a node may send what cannot be used.
const STRIKES: u32 = 3;
/// Times that a node was left out that the report has in words.
const TOLD: usize = 100;
/// How long a node that does not come back is left alone before it is asked again.
const ASKING: Duration = Duration::from_millis(250);
/// The longest that what one step was made of may be, in bytes.
const MADE: usize = 64 << 20;

/// What each step of a node has to be made of.
pub type Order = JoinHandle<Result<Vec<Digest>, Failure>>;

/// Another node.
pub struct Seat {
    pub number: u16,
    node: ProviderAddr,
    examples: Arc<Vec<u8>>,
    /// None while it is away.
    channel: Option<Channel>,
    /// What it has said ahead of its turn.
    held: Option<Said>,
    strikes: u32,
    /// The round of all in which its first one is.
    first: u32,
    /// The step of the recipe that its first one is, counted from 0.
    first_step: u64,
    /// The same of its next coming back, to which it was invited.
    next_step: u64,
    /// Where it was at its last contribution.
    pub begins: Option<Digest>,
    /// What it could not say of each fragment, where that is not nothing.
    unsaid: HashMap<u16, Digest>,
    /// How many steps it had made at its last contribution, counted from its first.
    said_after: u64,
    /// The digests of the windows that it has committed to.
    pub committed: HashMap<Turn, Digest>,
    /// Whether it may be asked to show what it did.
    audited: bool,
    order: Option<Order>,
    known: Option<Vec<Digest>>,
    /// Whether it is asked to come back when it is away.
    welcome: bool,
    returning: Option<JoinHandle<Result<Channel, Away>>>,
    /// Whether that has come to nothing, so that it may be asked again.
    failed: Arc<AtomicBool>,
    /// When it was asked last.
    asked: Option<Instant>,
    pub told: TogetherNode,
}

/// Why a node has not come back.
struct Away {
    why: String,
    /// Whether it would say the same if it were asked again.
    for_good: bool,
}

/// A contribution as it came.
pub struct Said {
    pub turn: Turn,
    pub bytes: Vec<u8>,
    pub commitment: Option<Commitment>,
    /// The digest of its weights, if it says so.
    pub at: Option<Digest>,
}

impl Drop for Seat {
    fn drop(&mut self) {
        if let Some(returning) = &self.returning {
            returning.abort();
        }
        if let Some(order) = &self.order {
            order.abort();
        }
    }
}

/// Asks a node to take part, hands out its examples, and says how many bytes that took.
pub async fn ask(
    swarm: &Swarm,
    node: &ProviderAddr,
    invitation: Invitation,
    examples: &[u8],
    patience: Duration,
) -> Result<(Channel, usize), String> {
    let asking = async {
        let mut channel = swarm.invite(node).await?;
        tell_member(&mut channel, &ToMember::Invitation(Box::new(invitation))).await?;
        let answer = hear_member(&mut channel, MAX_INVITATION, SILENCE).await?;
        Ok::<_, Broken>((channel, answer))
    };
    match asking.await {
        Ok((mut channel, ToLeader::Accepted)) => {
            let message = ToMember::Examples(examples.to_vec());
            let sent = tell_member(&mut channel, &message).await;
            let sent = sent.map_err(|error| error.to_string())?;
            // From now on it reads between steps, and a step takes its time.
            channel.give_time(patience);
            Ok((channel, sent))
        }
        Ok((_, ToLeader::Refused(why))) => Err(why),
        Ok(_) => Err(Broken::OutOfTurn.to_string()),
        Err(error) => Err(error.to_string()),
    }
}

/// Waits until a node has loaded what it needs, and hears which weights it has.
async fn ready(channel: &mut Channel, want: u64) -> Result<Digest, Broken> {
    match hear_member(channel, MAX_INVITATION, LOADING).await? {
        ToLeader::Ready { weights, at } if weights == want => Ok(at),
        ToLeader::Ready { weights: got, .. } => Err(Broken::Weights { got, want }),
        ToLeader::Refused(why) => Err(Broken::Refused(why)),
        _ => Err(Broken::OutOfTurn),
    }
}

impl Seat {
    pub fn new(
        number: u16,
        node: ProviderAddr,
        channel: Channel,
        examples: Arc<Vec<u8>>,
        order: Option<Order>,
    ) -> Self {
        Self {
            number,
            told: TogetherNode {
                node: node.id.to_string(),
                accepted: 0,
                audited: 0,
                returned: 0,
                left_out: Vec::new(),
                gone: None,
            },
            node,
            examples,
            channel: Some(channel),
            held: None,
            strikes: 0,
            first: 0,
            first_step: 0,
            next_step: 0,
            begins: None,
            unsaid: HashMap::new(),
            said_after: 0,
            committed: HashMap::new(),
            audited: order.is_some(),
            order,
            known: None,
            welcome: true,
            returning: None,
            failed: Arc::default(),
            asked: None,
        }
    }

    /// Lets it leave unread for so long what it is told.
    pub fn give_time(&mut self, time: Duration) {
        if let Some(channel) = &mut self.channel {
            channel.give_time(time);
        }
    }

    /// Whether it was asked to come back and has not answered.
    pub fn is_returning(&self) -> bool {
        self.returning.is_some()
    }

    pub fn is_here(&self) -> bool {
        self.channel.is_some()
    }

    /// Tells it where all are, once it is ready.
    pub async fn begin(&mut self, state: &ToMember, weights: u64, begins: Digest) -> usize {
        let Some(channel) = &mut self.channel else {
            return 0;
        };
        let begun = match ready(channel, weights).await {
            Ok(at) => tell_member(channel, &state.clone().for_one_at(&at)).await,
            Err(error) => Err(error),
        };
        self.begins = Some(begins);
        self.keep(begun)
    }

    /// Tells it something, if it is here, and says how many bytes that took.
    pub async fn tell(&mut self, message: &ToMember) -> usize {
        let Some(channel) = &mut self.channel else {
            return 0;
        };
        let told = tell_member(channel, message).await;
        self.keep(told)
    }

    /// Bytes that were sent; whoever they could not be sent to is let go.
    fn keep(&mut self, told: Result<usize, Broken>) -> usize {
        match told {
            Ok(bytes) => bytes,
            Err(why) => {
                self.let_go(&why);
                0
            }
        }
    }

    /// What it says in a turn. None is nothing, of somebody who has gone, is new or is elsewhere: who
    /// has come to its end has no more turns before that, and who has not has another turn.
    pub async fn says(&mut self, turn: Turn, bytes: usize, patience: Duration) -> Option<Said> {
        if turn.round < self.first {
            return None;
        }
        let said = match self.held.take() {
            Some(held) => held,
            None => {
                let channel = self.channel.as_mut()?;
                // It may be of a fragment that is a block longer.
                let carried = bytes + 4 * skep_together::quantize::BLOCK + ENVELOPE;
                match hear_member(channel, carried, patience).await {
                    Ok(ToLeader::Contribution {
                        turn,
                        bytes,
                        commitment,
                        at,
                    }) if commitment.is_some()
                        || !self.audited
                        || (turn.round == LAST_ROUND && at.is_some()) =>
                    {
                        Said {
                            turn,
                            bytes,
                            commitment,
                            at,
                        }
                    }
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
        match said.turn.cmp(&turn) {
            std::cmp::Ordering::Equal => Some(said),
            std::cmp::Ordering::Greater => {
                self.held = Some(said);
                None
            }
            std::cmp::Ordering::Less => {
                // It has turns before it that there will not be any more.
                self.let_go(&Broken::Behind);
                None
            }
        }
    }

    /// Notes what was decided of its contribution.
    pub fn counted(&mut self, method: &Method, said: &Said, accepted: bool) {
        let fragment = said.turn.fragment;
        if accepted {
            self.strikes = 0;
            self.told.accepted += 1;
        }
        let Some(commitment) = &said.commitment else {
            return;
        };
        self.begins = Some(commitment.state);
        if let Method::Diloco(_) = method {
            self.committed.insert(said.turn, commitment.window);
        }
        if let Some(own) = self.own(said.turn) {
            self.said_after = method.steps_before(own).end;
        }
        // Whoever was left out forgets it.
        match accepted {
            true => self.unsaid.insert(fragment, commitment.unsaid),
            false => self.unsaid.remove(&fragment),
        };
    }

    /// What it could not say of a fragment of so many weights before its next contribution.
    pub fn unsaid(&self, fragment: u16, weights: usize) -> Digest {
        let known = self.unsaid.get(&fragment).copied();
        known.unwrap_or_else(|| digest_of(&vec![0.0; weights]))
    }

    /// A turn as it counts them itself; none of one at the end, or before its first.
    fn own(&self, turn: Turn) -> Option<Turn> {
        let round = turn.round.checked_sub(self.first)?;
        (turn.round != LAST_ROUND).then_some(Turn { round, ..turn })
    }

    /// What the steps before a contribution have to be made of; none if that is not known.
    pub async fn order(&mut self, method: &Method, turn: Turn) -> Option<audit::Order> {
        if let Some(task) = self.order.take() {
            match task.await {
                Ok(Ok(order)) => self.known = Some(order),
                Ok(Err(failure)) => {
                    tracing::warn!(node = %self.told.node, %failure, "no audit of its steps");
                }
                Err(error) => {
                    tracing::warn!(node = %self.told.node, %error, "no audit of its steps")
                }
            }
        }
        let known = self.known.as_ref()?;
        let at = |step: u64| usize::try_from(step.checked_add(self.first_step)?).ok();
        let (steps, may_end) = match (self.own(turn), turn.fragment) {
            (Some(own), _) => (method.steps_before(own), false),
            (None, 0) => (method.steps_at_the_end(self.said_after), true),
            // Everything was made before the first fragment's.
            (None, _) => (self.said_after..self.said_after, true),
        };
        let (from, until) = (at(steps.start)?, at(steps.end)?);
        let until = match may_end {
            true => until.min(known.len()).max(from),
            false => until,
        };
        let steps = known.get(from..until)?.to_vec();
        Some(audit::Order { steps, may_end })
    }

    /// Has it show what it did before a contribution.
    pub async fn open(
        &mut self,
        turn: Turn,
        steps: usize,
        patience: Duration,
    ) -> Result<Window, Broken> {
        let channel = self.channel.as_mut().ok_or(Broken::OutOfTurn)?;
        tell_member(channel, &ToMember::Open(turn)).await?;
        // As many things taken over as there are fragments, and some to spare.
        let limit = 80 * (steps + 1024);
        match hear_member(channel, limit, patience).await? {
            ToLeader::Opened(window) => Ok(window),
            _ => Err(Broken::OutOfTurn),
        }
    }

    /// Has it show one event of that.
    pub async fn draw(
        &mut self,
        turn: Turn,
        event: u32,
        bytes: usize,
        patience: Duration,
    ) -> Result<Shown, Broken> {
        let channel = self.channel.as_mut().ok_or(Broken::OutOfTurn)?;
        tell_member(channel, &ToMember::Draw { turn, event }).await?;
        match hear_member(channel, bytes + MADE, patience).await? {
            ToLeader::Shown(shown) => Ok(*shown),
            _ => Err(Broken::OutOfTurn),
        }
    }

    /// Notes that its contribution did not count.
    pub fn leave_out(&mut self, turn: Turn, why: &str) {
        tracing::warn!(node = %self.told.node, %why, "a contribution was left out");
        if self.told.left_out.len() < TOLD {
            self.told.left_out.push(LeftOut {
                round: (turn.round != LAST_ROUND).then_some(turn.round),
                fragment: turn.fragment,
                why: why.to_owned(),
            });
        }
    }

    /// The same of one that cannot be used: after some in a row it is let go for good.
    pub fn strike(&mut self, turn: Turn, why: Unsound) {
        self.leave_out(turn, &why.to_string());
        self.strikes += 1;
        if self.strikes >= STRIKES {
            self.ban(&Broken::Again(self.strikes, why));
        }
    }

    /// Lets it go for good.
    pub fn ban(&mut self, why: &Broken) {
        self.welcome = false;
        self.let_go(why);
    }

    /// Lets it go; in between rounds it is asked to come back.
    pub fn let_go(&mut self, why: &Broken) {
        tracing::warn!(node = %self.told.node, %why, "a node takes part in the training no more");
        self.channel = None;
        self.held = None;
        self.told.gone.get_or_insert_with(|| why.to_string());
    }

    /// Asks it to come back, if it is away and was not asked yet. Its recipe is told of the steps that all
    /// have made: so many in this run.
    pub fn invite_back(
        &mut self,
        swarm: &Swarm,
        (invitation, patience): (&Invitation, Duration),
        weights: u64,
        made: u64,
        is_back: &Arc<AtomicBool>,
    ) {
        if self.failed.swap(false, Ordering::AcqRel) {
            self.returning = None;
        }
        let is_soon = self.asked.is_some_and(|asked| asked.elapsed() < ASKING);
        if self.channel.is_some() || !self.welcome || self.returning.is_some() || is_soon {
            return;
        }
        self.asked = Some(Instant::now());
        let (swarm, node) = (swarm.clone(), self.node.clone());
        let examples = Arc::clone(&self.examples);
        let invitation = Invitation {
            member: self.number,
            examples: examples.len() as u64,
            ..invitation.clone()
        };
        self.next_step = made;
        let (is_back, failed) = (Arc::clone(is_back), Arc::clone(&self.failed));
        let asking = async move {
            let away = |why, for_good| Away { why, for_good };
            let asked = ask(&swarm, &node, invitation, &examples, patience).await;
            let (mut channel, _) = asked.map_err(|why| away(why, false))?;
            match ready(&mut channel, weights).await {
                Ok(_) => Ok(channel),
                Err(broken) => {
                    let for_good = matches!(broken, Broken::Refused(_));
                    Err(away(broken.to_string(), for_good))
                }
            }
        };
        self.returning = Some(tokio::spawn(async move {
            let asked = asking.await;
            match &asked {
                Err(away) if !away.for_good => failed.store(true, Ordering::Release),
                _ => is_back.store(true, Ordering::Release),
            }
            asked
        }));
    }

    /// Whether it has come back and waits to be told where all are.
    pub fn has_come_back(&self) -> bool {
        let returning = self.returning.as_ref();
        returning.is_some_and(JoinHandle::is_finished)
    }

    /// Takes it in again, with this as its first round.
    pub async fn take_in(&mut self, state: &ToMember, round: u32, begins: Digest) -> usize {
        let Some(task) = self.returning.take() else {
            return 0;
        };
        let channel = match task.await {
            Ok(Ok(channel)) => channel,
            Ok(Err(Away { why, for_good })) => {
                tracing::info!(node = %self.told.node, %why, "a node has not come back");
                if for_good {
                    self.welcome = false;
                    self.told.gone = Some(why);
                }
                return 0;
            }
            Err(error) => {
                tracing::info!(node = %self.told.node, %error, "a node has not come back");
                return 0;
            }
        };
        self.channel = Some(channel);
        let told = self.tell(state).await;
        if told > 0 {
            (self.first, self.begins, self.strikes) = (round, Some(begins), 0);
            self.first_step = self.next_step;
            self.unsaid.clear();
            self.committed.clear();
            self.said_after = 0;
            self.told.gone = None;
            self.told.returned += 1;
        }
        told
    }
}
