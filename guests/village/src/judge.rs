//! The judge: whether a claim is so, whether an action may be done, whether a reply stands.
//!
//! It never believes a reply. The claims are read out of the line itself, not out of anything
//! that came with it, and each is held against the state of this moment.

use npc_scene::{Action, Claim, Names, Relation, Reply, ReplyError, Slot, frames, reply, talk};

use crate::state::{FOND, ItemId, PersonId, Quest, Stage, State, VISITOR, Whereabouts};
use crate::words::{Saying, verdict};

/// Who is liked less than this is not handed what a neighbour misses.
const LEAST_REGARD_TO_GIVE: i8 = 15;
/// Who is liked less than this is not sold anything.
const LEAST_REGARD_TO_SELL: i8 = -20;
/// Who is liked less than this is not asked for help.
const LEAST_REGARD_TO_OFFER: i8 = -15;

/// Why a reply does not stand.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// It is no line and action.
    #[error("the reply cannot be read: {0}")]
    Unreadable(#[from] ReplyError),
    /// A sentence names or says what nobody can check.
    #[error("the line has a sentence that is neither a claim nor small talk: {0}")]
    Unchecked(String),
    /// A claim contradicts the state.
    #[error("the line claims what is not so: {0}")]
    Contradiction(Claim),
    /// A claim is so, but the speaker cannot know.
    #[error("the line claims what the speaker does not know: {0}")]
    Leak(Claim),
    /// The action cannot be done.
    #[error("the action may not be done: {0}")]
    Illegal(Action),
}

/// Somebody who was spoken to, and is to answer.
#[derive(Debug, Clone)]
pub struct Moment<'a> {
    /// What is so.
    pub state: &'a State,
    /// Who is to answer.
    pub speaker: PersonId,
    /// What was said to them.
    pub saying: &'a Saying,
}

/// What a claim is worth.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Worth {
    /// It is so, and the speaker knows.
    So,
    /// It is not so.
    NotSo,
    /// It is so, but the speaker cannot know.
    Secret,
}

impl Moment<'_> {
    /// Whether a reply stands: the claims that its line makes.
    ///
    /// # Errors
    /// The first fault.
    pub fn judge(&self, reply: &Reply, names: &Names) -> Result<Vec<Claim>, Fault> {
        if !self.may(&reply.action) {
            return Err(Fault::Illegal(reply.action.clone()));
        }
        let mut claims = Vec::new();
        for sentence in reply::sentences(&reply.line) {
            let read = frames::read(sentence, names);
            if read.is_empty() {
                talk::check(sentence).map_err(Fault::Unchecked)?;
            }
            // A sentence that can be read in two ways has to be so in both.
            for claim in read {
                match self.worth(&claim, &reply.action) {
                    Worth::So => claims.push(claim),
                    Worth::NotSo => return Err(Fault::Contradiction(claim)),
                    Worth::Secret => return Err(Fault::Leak(claim)),
                }
            }
        }
        Ok(claims)
    }

    /// Whether the speaker may do this now.
    pub fn may(&self, action: &Action) -> bool {
        let state = self.state;
        let regard = state.regard(self.speaker, VISITOR);
        let item = |name: &str| state.item_named(name);
        match action {
            Action::Nothing => true,
            Action::Give(name) => item(name).is_some_and(|item| self.may_give(item, regard)),
            Action::Sell(name) => item(name).is_some_and(|item| {
                self.price(item).is_some_and(|price| price <= self.purse())
                    && regard >= LEAST_REGARD_TO_SELL
            }),
            Action::Offer(name) => item(name).is_some_and(|item| {
                let quest = state
                    .quest_for(item)
                    .filter(|quest| quest.giver == self.speaker);
                quest.is_some_and(|quest| quest.stage == Stage::Open)
                    && regard >= LEAST_REGARD_TO_OFFER
            }),
            Action::Go(name) => {
                let here = state.place_of(self.speaker);
                let paths = here.and_then(|here| state.places.get(usize::from(here.0)));
                let place = state.place_named(name);
                place.is_some_and(|place| paths.is_some_and(|from| from.paths.contains(&place)))
                    && regard < 0
            }
        }
    }

    /// A friend is given what the speaker owns, and, once asked to fetch it, what a neighbour
    /// misses.
    fn may_give(&self, item: ItemId, regard: i8) -> bool {
        let Some(thing) = self.state.item(item) else {
            return false;
        };
        let asked_for = self
            .state
            .quest_for(item)
            .is_some_and(|q| q.stage == Stage::Offered);
        let theirs = thing.owner == self.speaker && regard >= FOND;
        let missed = thing.owner != self.speaker && asked_for && regard >= LEAST_REGARD_TO_GIVE;
        self.state.has(self.speaker, item) && (theirs || missed)
    }

    /// What the speaker asks for an item, if they sell it.
    fn price(&self, item: ItemId) -> Option<u32> {
        let thing = self.state.item(item)?;
        let theirs = thing.owner == self.speaker && self.state.has(self.speaker, item);
        (theirs && thing.price > 0).then_some(thing.price)
    }

    fn purse(&self) -> u32 {
        self.state
            .person(VISITOR)
            .map_or(0, |visitor| visitor.coins)
    }

    /// What the claim is worth, coming with this action.
    pub fn worth(&self, claim: &Claim, action: &Action) -> Worth {
        match self.so(claim, action) {
            None | Some(false) => Worth::NotSo,
            Some(true) if self.hidden(claim) => Worth::Secret,
            Some(true) => Worth::So,
        }
    }

    /// Whether the speaker has no way to know what the claim is about.
    fn hidden(&self, claim: &Claim) -> bool {
        let item = claim
            .term(Slot::Item)
            .and_then(|name| self.state.item_named(name));
        matches!(claim.relation, Relation::Holds | Relation::Lies)
            && item.is_none_or(|item| !self.state.knows(self.speaker, item))
    }

    /// Whether the claim is so; nothing if it names what does not exist.
    fn so(&self, claim: &Claim, action: &Action) -> Option<bool> {
        let state = self.state;
        let me = self.speaker;
        let item = || {
            claim
                .term(Slot::Item)
                .and_then(|name| state.item_named(name))
        };
        let person = || {
            claim
                .term(Slot::Person)
                .and_then(|name| state.person_named(name))
        };
        let place = || {
            claim
                .term(Slot::Place)
                .and_then(|name| state.place_named(name))
        };
        let coins = || {
            claim
                .term(Slot::Coins)
                .and_then(|coins| coins.parse::<u32>().ok())
        };
        let quest = || {
            let quest = state.quest_for(item()?)?;
            (quest.giver == me).then_some(quest)
        };
        let named = |slot| claim.term(slot).map(str::to_owned);
        let so = match claim.relation {
            Relation::Have => state.has(me, item()?),
            Relation::Lack => !state.has(me, item()?),
            Relation::Holds => {
                let person = person()?;
                person != me && state.has(person, item()?)
            }
            Relation::Lies => state.whereabouts(item()?)? == Whereabouts::Lies(place()?),
            Relation::Unknown => !state.has(me, item()?) && !state.knows(me, item()?),
            Relation::Mine => state.item(item()?)?.owner == me,
            Relation::Belongs => {
                let person = person()?;
                person != me && state.item(item()?)?.owner == person
            }
            Relation::Price => self.price(item()?)? == coins()?,
            Relation::TooDear => self.price(item()?)? > self.purse(),
            Relation::Wants => quest()?.stage < Stage::Done,
            Relation::Reward => quest()?.stage < Stage::Done && quest()?.reward == coins()?,
            Relation::Returned => quest()?.stage == Stage::Done,
            Relation::NoWork => {
                let open = |quest: &Quest| quest.giver == me && quest.stage < Stage::Done;
                !state.quests.iter().any(open)
            }
            Relation::Carries => state.has(VISITOR, item()?),
            Relation::Works => {
                let person = person()?;
                person != me && state.role(person).1 == place()?
            }
            Relation::Near => {
                let other = state.place_named(claim.term(Slot::Place2)?)?;
                let from = state.places.get(usize::from(place()?.0))?;
                from.paths.contains(&other)
            }
            Relation::Time => claim.term(Slot::Time)? == state.time(),
            Relation::Weather => claim.term(Slot::Weather)? == state.weather(),
            Relation::True => self.verdict() == Some(true),
            Relation::False => self.verdict() == Some(false),
            Relation::Unheard => self.saying.names() == 0 && !self.saying.addressed,
            Relation::Trusts => state.regard(me, person()?) >= FOND,
            Relation::Distrusts => state.regard(me, person()?) <= -FOND,
            Relation::Gives => *action == Action::Give(named(Slot::Item)?),
            Relation::Sells => {
                let sold = *action == Action::Sell(named(Slot::Item)?);
                sold && self.price(item()?)? == coins()?
            }
            Relation::Refuses => {
                let name = named(Slot::Item)?;
                let handed = *action == Action::Give(name.clone()) || *action == Action::Sell(name);
                state.has(me, item()?) && !handed
            }
            Relation::Leaves => *action == Action::Go(named(Slot::Place)?),
        };
        Some(so)
    }

    /// Whether what the visitor claimed is so, as far as the speaker knows.
    fn verdict(&self) -> Option<bool> {
        verdict(self.state, self.speaker, self.saying.claim?)
    }
}
