//! Providers that have no place for a lease, as they say: somebody else has them all. That is no failure of
//! theirs, and nothing that a shard is given up for.

use skep_evidence::AccountId;
use skep_market::{AttemptId, Event};

use super::super::now;
use super::Driver;
use crate::failure::Failure;

impl Driver {
    /// Gives nothing to a provider that is busy before it is asked again whether it takes a shard. Its lease
    /// goes to somebody else if there is one; if not, it stays, and is offered again then.
    pub(super) fn put_off(
        &mut self,
        id: AttemptId,
        provider: Option<AccountId>,
    ) -> Result<Option<Event>, Failure> {
        self.trouble = Some(format!("shard {}: its provider is busy", id.shard));
        if let Some(provider) = provider {
            self.quotes.remove(&provider);
        }
        let moves = self.job.may_move(id, &self.offers()?);
        Ok(moves.then(|| Event::Withdrawn { id, at: now() }))
    }
}
