//! What came of leases: it is written down together, after who was outvoted and before who delivered or failed is
//! remembered.

use std::collections::BTreeSet;

use skep_evidence::AccountId;
use skep_market::{AttemptId, BadDelivery, Conduct, Event, Kept};
use tokio::sync::OwnedSemaphorePermit;
use tokio::task::JoinError;

use super::super::spool::Stored;
use super::super::talk::{Delivered, TalkError};
use super::super::{failed, now};
use super::{Driver, Happened};
use crate::failure::Failure;

/// What came of a lease.
type Came = (AttemptId, Result<Box<Delivered>, TalkError>);

/// What is written down together of leases that ended.
#[derive(Default)]
struct Batch {
    events: Vec<Event>,
    kept: Kept,
    /// What is thought of whom for it, and the lease of which it came.
    conducts: Vec<(AttemptId, AccountId, Conduct)>,
    /// Shards of which something came.
    shards: BTreeSet<u32>,
    /// Given back once all of it is on disk.
    in_memory: Vec<OwnedSemaphorePermit>,
}

impl Driver {
    /// Takes in what has happened, and whatever else has by now: what is written down together waits
    /// for the disk once.
    pub(super) fn take_in_all(
        &mut self,
        first: Result<(tokio::task::Id, Happened), JoinError>,
    ) -> Result<(), Failure> {
        let mut came = Vec::new();
        let mut next = Some(first);
        while let Some(happened) = next {
            match happened {
                Ok((_, Happened::Sent(id, result))) => came.push((id, result)),
                Ok((_, happened)) => self.take_in(happened),
                Err(error) => came.extend(self.lost(&error)),
            }
            next = self.tasks.try_join_next_with_id();
        }
        self.came(came)
    }

    /// A task ended without saying what came of it: it was called off, or it failed in a way that
    /// nobody thought of, and then its shard must not wait for it.
    fn lost(&self, error: &JoinError) -> Option<Came> {
        if error.is_cancelled() {
            return None;
        }
        tracing::warn!(%error, "a conversation of a job broke off");
        let mut sends = self.sends.iter();
        let found = sends.find(|(_, send)| send.handle.id() == error.id());
        found.map(|(id, _)| (*id, Err(TalkError::Broken)))
    }

    /// Writes down what came of leases; outputs, and what was signed for them, are on disk with that or before. What
    /// fails here of one of them takes nothing away from the others, and is told when these are written down.
    pub(super) fn came(&mut self, all: Vec<Came>) -> Result<(), Failure> {
        if all.is_empty() {
            return Ok(());
        }
        let (mut batch, mut taken) = (Batch::default(), Ok(()));
        for (id, came) in all {
            self.sends.remove(&id);
            taken = taken.and(self.came_of(id, came, &mut batch));
        }
        let Batch {
            events,
            kept,
            conducts,
            shards,
            in_memory,
        } = batch;
        self.note_seen(&events, &kept, shards)?;
        drop(in_memory);
        // Of a result that is none, since another counted already, nobody knows whether it is right.
        let seen = conducts
            .into_iter()
            .filter(|(id, _, conduct)| *conduct != Conduct::Delivered || !self.job.has_ended(*id));
        let conducts: Vec<_> = seen.map(|(_, who, conduct)| (who, conduct)).collect();
        self.remember(&conducts)?;
        taken
    }

    /// Takes in what came of one lease.
    fn came_of(
        &mut self,
        id: AttemptId,
        came: Result<Box<Delivered>, TalkError>,
        batch: &mut Batch,
    ) -> Result<(), Failure> {
        let provider = self.job.provider(id);
        let (event, conduct) = match came {
            Ok(delivered) => (self.delivered(id, *delivered, batch)?, Conduct::Delivered),
            // The lease stays as it is, unless somebody else has its shard by now and nothing depends on it.
            Err(error) if error.is_of_this_disk() => {
                return match self.job.has_ended(id) {
                    true => Ok(()),
                    false => Err(failed(error)),
                };
            }
            Err(error) if error.is_for_later() && self.is_waited_for(id, provider, &error) => {
                self.put_off(id, provider, &error);
                return Ok(());
            }
            Err(error) if error.is_for_later() => {
                self.came_to_nothing(id, &error, batch);
                return Ok(());
            }
            Err(error @ TalkError::Broken) => {
                self.broke_off(provider);
                self.came_to_nothing(id, &error, batch);
                return Ok(());
            }
            Err(error) => (
                Event::Failed { id, at: now() },
                self.blame(id, provider, &error)?,
            ),
        };
        batch.events.push(event);
        batch.shards.insert(id.shard);
        let conduct = provider.map(|provider| (id, provider, conduct));
        batch.conducts.extend(conduct);
        Ok(())
    }

    /// Nothing came of a lease, which is held against nobody.
    fn came_to_nothing(&mut self, id: AttemptId, error: &TalkError, batch: &mut Batch) {
        self.trouble = Some(format!("shard {}: {error}", id.shard));
        batch.events.push(Event::Failed { id, at: now() });
        batch.shards.insert(id.shard);
    }

    /// A conversation with a provider broke off by a fault here. Nobody can tell whether what it sent led to that, and
    /// it is no fault of its for good. In this job it counts as a failure, so that one that can make it happen is asked
    /// after others.
    fn broke_off(&mut self, provider: Option<AccountId>) {
        let Some(provider) = provider else {
            return;
        };
        *self.broke_off.entry(provider).or_default() += 1;
        // It gets nothing more before it has answered again.
        self.quotes.remove(&provider);
    }

    /// Keeps what was delivered under a lease.
    fn delivered(
        &self,
        id: AttemptId,
        delivered: Delivered,
        batch: &mut Batch,
    ) -> Result<Event, Failure> {
        let trail = self.trail_of(id, &delivered);
        let auditors = self.auditors(id, &delivered)?;
        let claim = self.claim(id, &delivered)?;
        let Delivered {
            receipt,
            output,
            held,
            room,
            ..
        } = delivered;
        let (digest, bytes) = (receipt.output, output.bytes);
        match output.kept {
            Stored::Memory(output) => batch.kept.outputs.push((digest, output)),
            Stored::File(file) => {
                tokio::task::block_in_place(|| self.folder.keep_file(digest, file))?
            }
        }
        // It is none of those any more that are coming.
        drop(room);
        batch.kept.trails.extend(trail);
        batch.in_memory.extend(held);
        Ok(Event::Delivered {
            id,
            at: now(),
            output: digest,
            claim,
            bytes,
            price: receipt.price,
            auditors: auditors.list,
            only_if_odd: auditors.only_if_odd,
            receipt: receipt.encode(),
        })
    }

    /// What to think of a provider of whose lease nothing came. Who is shown to have lied is charged and remembered.
    pub(super) fn blame(
        &mut self,
        id: AttemptId,
        provider: Option<AccountId>,
        error: &TalkError,
    ) -> Result<Conduct, Failure> {
        self.trouble = Some(format!("shard {}: {error}", id.shard));
        // It may be one who is owed too much.
        self.books.hurry();
        // Who cannot be reached is asked again once it answers.
        if let (TalkError::Channel(_) | TalkError::Interrupted, Some(provider)) = (error, &provider)
        {
            self.quotes.remove(provider);
        }
        // Who was away and says so is there, perhaps somewhere else.
        if matches!(error, TalkError::Interrupted) {
            self.quoting = None;
        }
        // Where the contradiction is in what the provider signed, it is no accident, and everybody
        // can see it. Charged and remembered before it is written down, as after an audit.
        if let (TalkError::Delivery(BadDelivery::Fraud { evidence, .. }), Some(accused)) =
            (error, provider)
        {
            self.remember(&[(accused, Conduct::Lied)])?;
            self.accuse(accused, id, evidence)?;
        }
        Ok(match error {
            TalkError::Delivery(BadDelivery::Fraud { .. }) => Conduct::Lied,
            // What nobody can prove may be a fault of its, and does not count for ever.
            _ => Conduct::Failed,
        })
    }
}
