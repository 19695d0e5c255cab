//! Providers that do not take a lease now, as they say: somebody else has all places, it is not the time for jobs
//! there, their owner uses the machine, or they are owed too much; and those that have made it, while there is no room
//! here for what they send. That is no failure of theirs, and nothing that a shard is given up for.

use std::collections::BTreeSet;

use skep_evidence::AccountId;
use skep_market::{AttemptId, Event, Offer, Outstanding, Refusal};

use super::super::now;
use super::super::talk::TalkError;
use super::Driver;

impl Driver {
    /// Gives nothing to a provider that does not take a shard now, and says why, before it is asked again whether
    /// it does. Its lease goes to somebody else if there is one; if not, it stays, and is offered again then. The lease
    /// of one that has made its shard, and for whose output there is no room here now, stays in any case.
    pub(super) fn put_off(&mut self, id: AttemptId, provider: Option<AccountId>, why: &TalkError) {
        self.trouble = Some(format!("shard {} waits for its provider: {why}", id.shard));
        match why {
            // It has made it, and hands it over again: elsewhere it would be made anew, and what it signed for it
            // would be owed and never paid.
            TalkError::NoRoom => self.put_off.remove(&id),
            _ => self.put_off.insert(id),
        };
        let is_unpaid = matches!(why, TalkError::Refused(Refusal::Unpaid { .. }));
        if is_unpaid {
            self.books.hurry();
        }
        let Some(provider) = provider else {
            return;
        };
        // Who is about to be paid is offered it again as soon as it is.
        if !is_unpaid || !self.unsettled().contains(&provider) {
            self.quotes.remove(&provider);
        }
    }

    /// Whether a lease is offered again to a provider that does not take it now. An audit never moves, and what it is
    /// of is not paid before it has ended: so it waits for a place, and for a payment that is due, but not for the
    /// end of an owner's hours, nor for what may be owed because of that very audit.
    pub(super) fn is_waited_for(
        &self,
        id: AttemptId,
        provider: Option<AccountId>,
        why: &TalkError,
    ) -> bool {
        !self.job.is_audit(id)
            || match why {
                TalkError::Refused(Refusal::InUse | Refusal::Hours(_)) => false,
                TalkError::Refused(Refusal::Unpaid { .. }) => {
                    provider.is_some_and(|provider| self.unsettled().contains(&provider))
                }
                _ => true,
            }
    }

    /// Those who are to be given receipts as proof of what they are paid, or are being given them.
    pub(super) fn unsettled(&self) -> BTreeSet<AccountId> {
        let due = self.job.outstanding().into_iter();
        let due = due.filter_map(|outstanding| match outstanding {
            Outstanding::Pay { id, .. } => self.job.provider(id),
            _ => None,
        });
        let paid = self.proofs.iter().map(|receipt| receipt.provider);
        let handing = self.handing.iter().copied();
        due.chain(paid).chain(handing).collect()
    }

    /// A lease that was put off and goes to one of these, who has room for it: its provider has not said since that it
    /// takes a shard, and may never say so again. It is one at a time, since room for one is not room for all.
    pub(super) fn moved(&mut self, offers: &[Offer]) -> Option<Event> {
        let (sends, job, quotes) = (&self.sends, &self.job, &self.quotes);
        self.put_off
            .retain(|id| !sends.contains_key(id) && !job.has_ended(*id));
        let is_back = |id: AttemptId| {
            let provider = job.provider(id);
            provider.is_some_and(|provider| quotes.contains_key(&provider))
        };
        let mut put_off = self.put_off.iter().copied();
        let at = now();
        let id = put_off.find(|id| !is_back(*id) && job.may_move(*id, at, offers))?;
        Some(Event::Withdrawn { id, at })
    }
}
