//! Making out leases: who could be asked, who could audit them, and what both sides sign.

use std::collections::{BTreeMap, BTreeSet};

use skep_evidence::{
    AccountId, AuditSecret, AuditTerms, Candidate, Candidates, Credits, Keys, Lease, MAX_PANEL,
    Meter, Signed, Statement as _, Work,
};
use skep_market::{
    AttemptId, Book, Conduct, Event, Offer, Quotation, Reputation, ahead, division, typical,
};

use super::super::{failed, money, now};
use super::Driver;
use crate::failure::{Failure, FailureKind};

/// The most operations that a lease allows for: what is paid is bounded by its price.
const FLOPS: u64 = 1 << 60;
/// The rate of a lease whose result may be looked at whether it is drawn or not.
const EVERY: u32 = 1_000_000;
/// The most that have a say in whether a replica that is odd lies, where no audits were asked for: the job is not
/// planned for more.
const PANEL_OF_ODD: usize = 7;
/// The fewest that have a say in a disputed result, the provider among them.
pub const SMALLEST_PANEL: usize = 3;

impl Driver {
    /// Those who would take a shard. Where results are audited, they have to be of a kind of machine of
    /// which there are enough for a panel. Who has less at stake than the job asks for is there and given
    /// nothing, so that no audit waits for it to come back.
    pub(super) fn offers(&self) -> Result<Vec<Offer>, Failure> {
        let staked = self.staked(Credits::from_micro(self.spec.min_stake))?;
        let replicas = self.spec.looks_at_odd.then_some(self.spec.replicas);
        let quotes = alike(&self.quotes, replicas).filter(|(_, quotation)| {
            self.spec.audit == 0 || self.auditors_of(quotation).count() >= SMALLEST_PANEL
        });
        let has_stake = |account: &AccountId| {
            let staked = staked.as_ref();
            staked.is_none_or(|staked| staked.contains(account))
        };
        let offers = quotes.map(|(account, quotation)| {
            let (slots, ahead) = room(quotation, has_stake(account));
            let (tariff, residency) = (quotation.tariff(), self.residency(*account));
            Offer {
                provider: *account,
                price: typical(&tariff, self.spec.largest, residency),
                warmth: quotation.warm,
                reputation: self.reputation(*account),
                slots,
                ahead,
            }
        });
        Ok(offers.collect())
    }

    /// What was seen of a provider, and in this job alone besides that conversations with it broke off here.
    fn reputation(&self, provider: AccountId) -> Reputation {
        let mut reputation = self.dealings.seen(provider);
        let broke_off = self.broke_off.get(&provider).copied().unwrap_or(0);
        (0..broke_off).for_each(|_| reputation.note(Conduct::Failed));
        reputation
    }

    /// Who has at least so much at stake here; `None` is everybody.
    fn staked(&self, least: Credits) -> Result<Option<BTreeSet<AccountId>>, Failure> {
        if least == Credits::ZERO {
            return Ok(None);
        }
        money::with_ledger(&self.service, |ledger| {
            let accounts = self.quotes.keys().copied();
            let staked = accounts.filter(|account| ledger.balance(Book::Staked(*account)) >= least);
            Ok(Some(staked.collect()))
        })
    }

    /// For how many seconds a lease to this provider has things kept ready: the first one does for
    /// the whole job.
    fn residency(&self, provider: AccountId) -> u64 {
        match self.reserved.contains_key(&provider) {
            true => 0,
            false => self.spec.warm,
        }
    }

    /// Who could tell whether a result of this provider is right, itself among them.
    fn auditors_of(&self, quotation: &Quotation) -> impl Iterator<Item = AccountId> {
        let (quotation, followed) = (*quotation, self.spec.followed);
        let quotes = self.quotes.iter();
        let able = quotes.filter(move |(_, (_, other))| other.can_audit(&quotation, followed));
        able.map(|(account, _)| *account)
    }

    /// Who may audit a result of this provider: all that are known who could, itself among them,
    /// by what they have at stake in this node's ledger. Who has nothing there weighs next to
    /// nothing, and not nothing. Those who are given nothing for want of a stake would be no more than empty
    /// seats: they are left out if the others are enough.
    fn candidates(&self, quotation: &Quotation) -> Result<Candidates, Failure> {
        if !self.spec.charges() {
            return Candidates::new(Vec::new()).map_err(failed);
        }
        let mut able: Vec<AccountId> = self.auditors_of(quotation).collect();
        let asked = Credits::from_micro(self.spec.min_stake);
        let least = match self.spec.audit {
            0 => asked.max(money::SOMETHING),
            _ => asked,
        };
        if let Some(staked) = self.staked(least)? {
            let has_stake = |account: &AccountId| staked.contains(account);
            let are_enough = able.iter().filter(|account| has_stake(account)).count();
            // Where no audit was asked for, nobody has a say who has nothing to lose by it.
            if self.spec.audit == 0 || are_enough >= SMALLEST_PANEL {
                able.retain(has_stake);
            }
        }
        able.truncate(Candidates::MAX);
        let list = money::with_ledger(&self.service, |ledger| {
            let candidate = |account| Candidate {
                account,
                stake: ledger
                    .balance(Book::Staked(account))
                    .max(Credits::from_micro(1)),
            };
            Ok(able.into_iter().map(candidate).collect())
        })?;
        Candidates::new(list).map_err(failed)
    }

    /// A lease of a shard. One that is made out to audit another result says nothing of that, unless it
    /// has to follow that result's texts.
    pub(super) fn lease(
        &mut self,
        id: AttemptId,
        provider: AccountId,
        limit: Credits,
        audits: Option<u32>,
    ) -> Result<Event, Failure> {
        let gone = || Failure::new(FailureKind::Failed, "a provider was chosen that has gone");
        let (_, quotation) = self.quotes.get(&provider).ok_or_else(gone)?;
        let residency = self.residency(provider);
        let input = self.folder.input(&self.spec, id.shard)?;
        let candidates = self.candidates(quotation)?;
        let content = tokio::task::block_in_place(|| {
            self.folder.keep_candidates(&candidates)?;
            input.digest().map_err(failed)
        })?;
        let follows = match audits.filter(|_| self.spec.followed) {
            None => None,
            Some(attempt) => Some(self.script_of(AttemptId { attempt, ..id })?.digest()),
        };
        let issued = now();
        let lease = Lease {
            job: self.spec.job,
            shard: id.shard,
            attempt: id.attempt,
            requester: self.account.id(),
            provider,
            work: Work {
                package: self.spec.release,
                model: self.spec.model,
                adapter: self.spec.adapter.as_ref().map(|adapter| adapter.release),
                input: content,
                seed: 0,
            },
            tariff: quotation.tariff(),
            allowance: Meter {
                tokens: FLOPS,
                flops: FLOPS,
                bytes: input
                    .bytes()
                    .saturating_add(quotation.largest_output.min(1 << 30)),
                residency,
            },
            limit,
            split: division(&self.split, quotation.operator()).map_err(failed)?,
            issued,
            deadline: self.spec.deadline.max(issued + 1),
            audit: AuditTerms {
                secret: self.secret(id).commitment(),
                candidates: candidates.digest(),
                // Evidence is only of what the lease lets be audited; which replica is odd is not known yet.
                rate: match self.spec.looks_at_odd {
                    true => EVERY,
                    false => self.spec.audit,
                },
                panel: panel(candidates.list().len(), self.spec.audit),
                exact: self.spec.exact || self.spec.audit > 0,
                followed: self.spec.followed,
                follows,
            },
        };
        let lease = lease.sign(&self.account).map_err(failed)?;
        if residency > 0 {
            // Others to the same provider may be made out before this one is written down.
            self.reserved.insert(provider, id);
        }
        Ok(Event::Leased {
            id,
            at: issued,
            provider,
            limit,
            lease: lease.digest(),
            audits,
            encoding: lease.encode(),
        })
    }

    /// What this node binds itself to with a lease.
    pub(super) fn secret(&self, id: AttemptId) -> AuditSecret {
        AuditSecret::of_lease(&self.spec.root, self.spec.job, id.shard, id.attempt)
    }
}

/// The providers that keep things ready after these events, each with the lease by which it does.
pub(super) fn reserved(events: &[Event]) -> Result<BTreeMap<AccountId, AttemptId>, Failure> {
    let mut reserved = BTreeMap::new();
    for event in events {
        note_reserved(&mut reserved, event)?;
    }
    Ok(reserved)
}

/// Takes in what happened: a lease of which nothing came keeps nothing ready.
pub(super) fn note_reserved(
    reserved: &mut BTreeMap<AccountId, AttemptId>,
    event: &Event,
) -> Result<(), Failure> {
    match event {
        Event::Leased {
            id,
            provider,
            encoding,
            ..
        } => {
            let lease = Signed::<Lease>::decode(encoding, &mut Keys::default()).map_err(failed)?;
            if lease.allowance.residency > 0 {
                reserved.insert(*provider, *id);
            }
        }
        Event::Failed { id, .. } | Event::Withdrawn { id, .. } => {
            reserved.retain(|_, by| by != id);
        }
        _ => {}
    }
    Ok(())
}

/// Those of these who could make a shard. Where so many replicas of it are looked at if they are odd, they are of the
/// kind of machine of which most are, if there are enough of it to look at who is odd: between two kinds those may
/// differ that are both honest.
fn alike<N>(
    quotes: &BTreeMap<AccountId, (N, Quotation)>,
    replicas: Option<u32>,
) -> impl Iterator<Item = (&AccountId, &Quotation)> {
    let kind = replicas.and_then(|replicas| one_kind(quotes, replicas));
    let quotes = quotes
        .iter()
        .map(|(account, (_, quotation))| (account, quotation));
    quotes.filter(move |(_, quotation)| kind.is_none_or(|kind| quotation.kind == kind))
}

/// The kind of machine that so many replicas of a shard are made on.
fn one_kind<N>(quotes: &BTreeMap<AccountId, (N, Quotation)>, replicas: u32) -> Option<[u8; 32]> {
    let mut kinds: BTreeMap<[u8; 32], usize> = BTreeMap::new();
    for (_, quotation) in quotes.values() {
        *kinds.entry(quotation.kind).or_default() += 1;
    }
    let enough = SMALLEST_PANEL.max(replicas as usize);
    let able = kinds.into_iter().filter(|(_, count)| *count >= enough);
    able.max_by_key(|(kind, count)| (*count, *kind))
        .map(|(kind, _)| kind)
}

/// How many shards a provider gets at once, and how many more that wait there.
fn room(quotation: &Quotation, has_stake: bool) -> (u32, u32) {
    let slots = quotation.room();
    let given = if has_stake { slots } else { 0 };
    (given, ahead(slots))
}

/// How many of so many have a say in a disputed result, where at this rate results are audited: as many as there can be,
/// but for those of a job without audits, and an odd number.
fn panel(candidates: usize, audit: u32) -> u32 {
    let able = match audit {
        0 => candidates.min(PANEL_OF_ODD),
        _ => candidates,
    };
    let most = u32::try_from(able).unwrap_or(MAX_PANEL);
    let odd = most.saturating_sub(1) / 2 * 2 + 1;
    odd.clamp(3, MAX_PANEL)
}

#[cfg(test)]
mod tests {
    use skep_evidence::AccountKey;
    use skep_market::{NUMERICS, Warmth};

    use super::*;

    #[test]
    fn whoever_says_that_it_takes_everything_gets_what_a_machine_works_on() {
        let quotation = |slots| Quotation {
            account: [1; 32],
            tariff: [0; 4],
            operator: None,
            slots,
            warm: Warmth::default(),
            largest_output: 1,
            kind: [2; 32],
            numerics: NUMERICS,
        };
        assert_eq!(room(&quotation(u32::MAX), true), (56, 0));
        assert_eq!(room(&quotation(2), true), (2, 2));
        assert_eq!(room(&quotation(u32::MAX), false).0, 0);
        // A price, receipts, a report and what it says of a lease have room beside them.
        let (slots, ahead) = room(&quotation(u32::MAX), true);
        assert!((slots + ahead) as usize + 4 <= skep_swarm::FOR_ONE);
        let mut many = (0..=64).map(|slots| room(&quotation(slots), true));
        assert!(many.all(|(slots, ahead)| slots + ahead <= 56));
    }

    #[test]
    fn a_panel_is_an_odd_number() {
        let found = [0, 2, 3, 4, 5, 30, 31, 5_000].map(|able| panel(able, 1));
        assert_eq!(found, [3, 3, 3, 3, 5, 29, 31, 31]);
    }

    #[test]
    fn where_no_audits_were_asked_for_no_panel_has_more_than_seven() {
        let found = [0, 3, 6, 7, 8, 9, 31, 5_000].map(|able| panel(able, 0));
        assert_eq!(found, [3, 3, 5, 7, 7, 7, 7, 7]);
    }

    /// What nodes on machines of these kinds said.
    fn quotes(kinds: &[u8]) -> BTreeMap<AccountId, ((), Quotation)> {
        let quote = |(seed, kind): (u8, &u8)| {
            let account = AccountKey::from_seed(&[seed; 32]).id();
            let quotation = Quotation {
                account: *account.as_bytes(),
                tariff: [0; 4],
                operator: None,
                slots: 1,
                warm: Warmth::default(),
                largest_output: 1,
                kind: [*kind; 32],
                numerics: NUMERICS,
            };
            (account, ((), quotation))
        };
        (1..).zip(kinds).map(quote).collect()
    }

    /// The kinds of those who could make a shard, in order.
    fn makers(kinds: &[u8], replicas: Option<u32>) -> Vec<u8> {
        let quotes = quotes(kinds);
        let mut makers: Vec<u8> = alike(&quotes, replicas)
            .map(|(_, quotation)| quotation.kind[0])
            .collect();
        makers.sort_unstable();
        makers
    }

    #[test]
    fn replicas_that_are_looked_at_keep_to_the_kind_of_machine_of_which_most_are() {
        assert_eq!(makers(&[1, 2, 1, 2, 1], Some(2)), [1, 1, 1]);
        assert_eq!(makers(&[1, 2, 2, 1, 1, 2, 2], Some(2)), [2, 2, 2, 2]);
        // As many of each: all of one of them.
        let one = makers(&[1, 2, 1, 2, 1, 2], Some(2));
        assert!(one == [1, 1, 1] || one == [2, 2, 2], "{one:?}");
    }

    #[test]
    fn where_no_kind_has_enough_for_a_panel_or_nobody_is_looked_at_any_machine_makes_them() {
        assert_eq!(makers(&[1, 2, 1, 2], Some(2)), [1, 1, 2, 2]);
        assert_eq!(makers(&[1, 2, 1, 1], Some(4)), [1, 1, 1, 2]);
        assert_eq!(makers(&[1, 2, 1, 1], None), [1, 1, 1, 2]);
    }
}
