//! Nodes that may take part in a training that this one leads, the places that there are for them, and
//! how a node is asked to take one.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use skep_swarm::{Channel, ProviderAddr, Swarm};
use skep_together::audit::Digest;
use skep_together::message::{Invitation, MAX_INVITATION, ToLeader, ToMember};
use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::hook::Waited;
use super::{Broken, LOADING, SILENCE, hear_member, tell_member};
use crate::failure::Failure;
use crate::requests::TogetherNode;

/// What each step of a node has to be made of.
pub type Order = JoinHandle<Result<Vec<Digest>, Failure>>;

/// A place in a training: its number, and the examples that whoever takes it learns from.
pub struct Place {
    pub number: u16,
    pub examples: Arc<Vec<u8>>,
    /// Whether whoever has it may be asked to show what it did.
    pub audited: bool,
    order: Option<Waited<Result<Vec<Digest>, Failure>>>,
    known: Option<Vec<Digest>>,
}

impl Place {
    pub fn new(number: u16, examples: Vec<u8>) -> Self {
        Self {
            number,
            examples: Arc::new(examples),
            audited: false,
            order: None,
            known: None,
        }
    }

    /// Has whoever takes it be audited, by the order that this comes to.
    pub fn audit(&mut self, order: Order) {
        self.order = Some(Waited::on(order));
        self.audited = true;
    }

    /// What each step on its examples has to be made of; none if that is not known.
    pub async fn order(&mut self) -> Option<&[Digest]> {
        if let Some(task) = self.order.take() {
            let place = self.number;
            match task.get().await {
                Ok(Ok(order)) => self.known = Some(order),
                Ok(Err(failure)) => tracing::warn!(place, %failure, "no audit of its steps"),
                Err(error) => tracing::warn!(place, %error, "no audit of its steps"),
            }
        }
        self.known.as_deref()
    }

    /// To what whoever takes it is invited.
    pub fn invitation(&self, invitation: &Invitation) -> Invitation {
        Invitation {
            member: self.number,
            examples: self.examples.len() as u64,
            ..invitation.clone()
        }
    }

    /// Offers it to a node, and waits until that is ready if it takes it.
    pub fn offer(
        &self,
        swarm: &Swarm,
        node: &ProviderAddr,
        (invitation, patience): (&Invitation, Duration),
        weights: u64,
        is_back: &Arc<AtomicBool>,
    ) -> Offer {
        let (swarm, node) = (swarm.clone(), node.clone());
        let examples = Arc::clone(&self.examples);
        let invitation = self.invitation(invitation);
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
        Offer::new(asking, is_back)
    }
}

/// A node that was named for a training.
pub struct Guest {
    pub node: ProviderAddr,
    /// How many were named before it.
    pub rank: usize,
    /// Whether it is asked to take part when it does not.
    pub welcome: bool,
    /// Whether it has taken part.
    pub took_part: bool,
    /// When it was asked last.
    pub asked: Option<Instant>,
    pub told: TogetherNode,
}

impl Guest {
    pub fn new(rank: usize, node: ProviderAddr) -> Self {
        Self {
            told: TogetherNode {
                node: node.id.to_string(),
                accepted: 0,
                audited: 0,
                joined: 0,
                returned: 0,
                left_out: Vec::new(),
                gone: None,
            },
            node,
            rank,
            welcome: true,
            took_part: false,
            asked: None,
        }
    }

    /// Whether it may be asked now, if not sooner than so long after it was asked last.
    pub fn may_be_asked(&self, now: Instant, pause: Duration) -> bool {
        let is_soon = |asked| now.duration_since(asked) < pause;
        self.welcome && !self.asked.is_some_and(is_soon)
    }
}

/// A place that was offered to a node, which has not been told yet where all are.
pub struct Offer {
    asking: Waited<Result<Channel, Away>>,
    /// Once something came of it: whether that is an answer, or the node may be asked again.
    over: Arc<OnceLock<bool>>,
}

/// Why a node has not taken a place.
#[derive(Debug)]
pub struct Away {
    pub why: String,
    /// Whether it would say the same if it were asked again.
    pub for_good: bool,
}

impl Offer {
    fn new(
        asking: impl Future<Output = Result<Channel, Away>> + Send + 'static,
        is_back: &Arc<AtomicBool>,
    ) -> Self {
        let over: Arc<OnceLock<bool>> = Arc::default();
        let (is_over, is_back) = (Arc::clone(&over), Arc::clone(is_back));
        let asking = tokio::spawn(async move {
            let asked = asking.await;
            let is_answer = asked.as_ref().err().is_none_or(|away| away.for_good);
            // Nobody else sets it, and whoever sees that somebody is back has to find out who.
            let _ = is_over.set(is_answer);
            if is_answer {
                is_back.store(true, Ordering::Release);
            }
            asked
        });
        Self {
            asking: Waited::on(asking),
            over,
        }
    }

    /// Whether the node has taken it, or never will.
    pub fn is_answered(&self) -> bool {
        self.over.get() == Some(&true)
    }

    /// Whether nothing came of it, so that it may be offered again.
    pub fn has_failed(&self) -> bool {
        self.over.get() == Some(&false)
    }

    /// The conversation with a node that has taken it.
    pub async fn answer(self) -> Result<Channel, Away> {
        let answer = self.asking.get().await;
        answer.unwrap_or_else(|why| {
            Err(Away {
                why,
                for_good: false,
            })
        })
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
pub(super) async fn ready(channel: &mut Channel, want: u64) -> Result<Digest, Broken> {
    match hear_member(channel, MAX_INVITATION, LOADING).await? {
        ToLeader::Ready { weights, at } if weights == want => Ok(at),
        ToLeader::Ready { weights: got, .. } => Err(Broken::Weights { got, want }),
        ToLeader::Refused(why) => Err(Broken::Refused(why)),
        _ => Err(Broken::OutOfTurn),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
mod tests {
    use super::*;

    fn away(for_good: bool) -> Result<Channel, Away> {
        let why = "it sleeps".to_owned();
        Err(Away { why, for_good })
    }

    /// Waits until something came of it, and says whether it is an answer.
    async fn is_answer(offer: &Offer) -> bool {
        while offer.over.get().is_none() {
            tokio::task::yield_now().await;
        }
        offer.is_answered()
    }

    #[tokio::test]
    async fn only_what_is_for_good_is_looked_at_between_rounds() {
        let is_back = Arc::new(AtomicBool::new(false));
        let asleep = Offer::new(async { away(false) }, &is_back);
        // The task has not begun.
        assert!(!asleep.has_failed() && !asleep.is_answered());
        assert!(!is_answer(&asleep).await);
        assert!(asleep.has_failed());
        assert!(!asleep.answer().await.unwrap_err().for_good);
        assert!(!is_back.load(Ordering::Acquire));

        let never = Offer::new(async { away(true) }, &is_back);
        assert!(is_answer(&never).await);
        assert!(!never.has_failed());
        assert!(is_back.load(Ordering::Acquire));
        let away = never.answer().await.unwrap_err();
        assert!(away.for_good && away.why == "it sleeps", "{away:?}");
    }

    #[tokio::test]
    async fn a_place_knows_its_order_for_whoever_takes_it() {
        let mut place = Place::new(2, b"examples".to_vec());
        assert!(!place.audited);
        assert_eq!(place.order().await, None);
        place.audit(tokio::spawn(async { Ok(vec![[7; 32], [8; 32]]) }));
        assert!(place.audited);
        for _ in 0..2 {
            let order = place.order().await.map(<[Digest]>::to_vec);
            assert_eq!(order, Some(vec![[7; 32], [8; 32]]));
        }
    }
}
