//! Another node of a training that this one leads: what it says, and what is told of it.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use skep_swarm::{Channel, Swarm};
use skep_together::audit::{self, Commitment, Digest, Window, digest_of};
use skep_together::message::{ENVELOPE, Invitation, LAST_ROUND, Shown, ToLeader, ToMember};
use skep_together::{Method, Turn, Unsound};
use tokio::time::Instant;

use super::guest::{Away, Guest, Offer, Place, ready};
use super::{Broken, hear_member, tell_member};
use crate::requests::LeftOut;

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

/// Another node, at its place.
pub struct Seat {
    pub place: Place,
    pub guest: Guest,
    /// Whether the place is the node's, while it is away too, or it was only asked to take it.
    is_taken: bool,
    /// Since when it is away.
    away: Option<Instant>,
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
    /// That it was asked to come, while it is away.
    offer: Option<Offer>,
}

/// A contribution as it came.
pub struct Said {
    pub turn: Turn,
    pub bytes: Vec<u8>,
    pub commitment: Option<Commitment>,
    /// The digest of its weights, if it says so.
    pub at: Option<Digest>,
}

impl Seat {
    /// A node that has taken a place.
    pub fn new(place: Place, guest: Guest, channel: Channel) -> Self {
        let mut seat = Self::offered(place, guest);
        (seat.is_taken, seat.guest.took_part) = (true, true);
        seat.channel = Some(channel);
        seat
    }

    /// A node that is to be asked to take a place.
    pub fn offered(place: Place, guest: Guest) -> Self {
        Self {
            place,
            guest,
            is_taken: false,
            away: None,
            channel: None,
            held: None,
            strikes: 0,
            first: 0,
            first_step: 0,
            next_step: 0,
            begins: None,
            unsaid: HashMap::new(),
            said_after: 0,
            committed: HashMap::new(),
            offer: None,
        }
    }

    /// A node that had taken a place and has gone.
    #[cfg(test)]
    pub fn left(place: Place, guest: Guest, why: &Broken) -> Self {
        let mut seat = Self::offered(place, guest);
        (seat.is_taken, seat.guest.took_part) = (true, true);
        seat.let_go(why);
        seat
    }

    /// The place and the node, which have nothing to do with each other any more.
    pub fn give_up(self) -> (Place, Guest) {
        (self.place, self.guest)
    }

    /// Lets it leave unread for so long what it is told.
    pub fn give_time(&mut self, time: Duration) {
        if let Some(channel) = &mut self.channel {
            channel.give_time(time);
        }
    }

    pub fn is_here(&self) -> bool {
        self.channel.is_some()
    }

    /// Whether the place is nobody's: the node will not come back, or has not taken it. Not while
    /// something may come of an offer.
    pub fn is_free(&self) -> bool {
        let is_nobody = self.channel.is_none() && self.offer.is_none();
        is_nobody && !(self.is_taken && self.guest.welcome)
    }

    /// Whether the node has been away for longer than that, and nothing may come of an offer.
    pub fn is_away_for(&self, patience: Duration, now: Instant) -> bool {
        let is_long = |away| now.duration_since(away) > patience;
        self.offer.is_none() && self.away.is_some_and(is_long)
    }

    /// Forgets an offer of which nothing came.
    pub fn forget_what_failed(&mut self) {
        if self.offer.as_ref().is_some_and(Offer::has_failed) {
            self.offer = None;
        }
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
                        || !self.place.audited
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
            self.guest.told.accepted += 1;
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
        let (own, first_step, said_after) = (self.own(turn), self.first_step, self.said_after);
        let known = self.place.order().await?;
        let at = |step: u64| usize::try_from(step.checked_add(first_step)?).ok();
        let (steps, may_end) = match (own, turn.fragment) {
            (Some(own), _) => (method.steps_before(own), false),
            (None, 0) => (method.steps_at_the_end(said_after), true),
            // Everything was made before the first fragment's.
            (None, _) => (said_after..said_after, true),
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
        tracing::warn!(node = %self.guest.told.node, %why, "a contribution was left out");
        if self.guest.told.left_out.len() < TOLD {
            self.guest.told.left_out.push(LeftOut {
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
        self.guest.welcome = false;
        self.let_go(why);
    }

    /// Lets it go; in between rounds it is asked to come back.
    pub fn let_go(&mut self, why: &Broken) {
        tracing::warn!(node = %self.guest.told.node, %why, "a node takes part in the training no more");
        self.channel = None;
        self.held = None;
        self.away.get_or_insert_with(Instant::now);
        self.guest.told.gone.get_or_insert_with(|| why.to_string());
    }

    /// Asks it to come, if it is not here and was not asked yet. Its recipe is told of the steps that all
    /// have made: so many in this run.
    pub fn invite(
        &mut self,
        swarm: &Swarm,
        invitation: (&Invitation, Duration),
        weights: u64,
        made: u64,
        is_back: &Arc<AtomicBool>,
    ) {
        let now = Instant::now();
        let is_asked = self.channel.is_some() || self.offer.is_some();
        if is_asked || !self.guest.may_be_asked(now, ASKING) {
            return;
        }
        self.guest.asked = Some(now);
        self.next_step = made;
        let node = &self.guest.node;
        let offer = self.place.offer(swarm, node, invitation, weights, is_back);
        self.offer = Some(offer);
    }

    /// Whether it has come and waits to be told where all are, or will not come any more.
    pub fn has_answered(&self) -> bool {
        self.offer.as_ref().is_some_and(Offer::is_answered)
    }

    /// Takes it in, with this as its first round.
    pub async fn take_in(&mut self, state: &ToMember, round: u32, begins: Digest) -> usize {
        let Some(offer) = self.offer.take() else {
            return 0;
        };
        match offer.answer().await {
            Ok(channel) => self.channel = Some(channel),
            Err(Away { why, for_good }) => {
                tracing::info!(node = %self.guest.told.node, %why, "a node has not come");
                if for_good {
                    self.guest.welcome = false;
                    self.guest.told.gone = Some(why);
                }
                return 0;
            }
        }
        let told = self.tell(state).await;
        if told > 0 {
            (self.first, self.begins, self.strikes) = (round, Some(begins), 0);
            self.first_step = self.next_step;
            self.unsaid.clear();
            self.committed.clear();
            self.said_after = 0;
            (self.is_taken, self.away) = (true, None);
            self.guest.told.gone = None;
            match self.guest.took_part {
                true => self.guest.told.returned += 1,
                false => self.guest.told.joined = round,
            }
            self.guest.took_part = true;
        }
        told
    }
}
