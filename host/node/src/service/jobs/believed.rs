//! Whether what a panel says is believed here: by what those who say it have at stake in this node's own ledger.
//!
//! Signatures show that the members of a panel said something, and the draw that they were next on a list. They do not
//! show that the members are anybody: accounts cost nothing, and the list is whoever's made out the lease. So with
//! evidence alone a requester and a few accounts of its own could convict every provider that once worked for it.
//! What they cannot make up are stakes in a ledger that is not theirs.
//!
//! It must never count anybody for a verdict who has less to lose here than the verdict takes.

use skep_evidence::{AccountId, Credits, Evidence, NoFraud};
use skep_market::{Book, Ledger};

/// What somebody is listed with who has nothing at stake.
const NOTHING: Credits = Credits::from_micro(1);

/// Why nobody is fined here by this evidence, though it shows that `accused` is not with the majority of a panel; nothing
/// if it may be fined. `fine` is the most that a fraud costs in this ledger.
///
/// A panel is believed if
///
/// - of its majority those who have as much at stake here as the accused would lose are alone more than half of the
///   panel. The accused is not of the majority, so that its own stake never counts against it;
/// - everybody else who could be drawn has as much at stake here as the list says: with stakes that are made up, whoever
///   made them up says who is drawn. That those have less by now whom this evidence shows to be odd, the accused among
///   them, makes no difference: they may have lost it by an earlier fraud, or by this one. None of them is of the
///   majority, so that to have them drawn takes votes from whoever listed them.
///
/// Evidence of what the accused signed itself needs nobody's word, and is always believed.
///
/// # What it does not keep out
///
/// - Whoever has most of a panel at stake here, each with what a fraud costs, convicts whom it wants: it lists these
///   accounts and no others, or asks for the same work until they are drawn. Nothing of what it signs shows that. For
///   each of them it has to hold that much here.
/// - What counts is at stake when it is judged. It may have been put there after the lie, and be taken back after the
///   verdict, as far as whoever holds the ledger lets stakes be taken back.
/// - Whoever holds the ledger is asked to vouch for somebody whom it does not know, by putting a stake there for it.
///   What is said here therefore tells to do so only for accounts that one knows.
///
/// # Errors
///
/// When the evidence shows no fraud at all.
pub fn doubt(
    evidence: &Evidence,
    accused: AccountId,
    fine: Credits,
    ledger: &Ledger,
) -> Result<Option<String>, NoFraud> {
    let (Evidence::Divergence {
        lease, candidates, ..
    }
    | Evidence::Unfollowed {
        lease, candidates, ..
    }) = evidence
    else {
        return Ok(None);
    };
    let (odd, _) = evidence.offenders()?;
    let staked = |account: AccountId| ledger.balance(Book::Staked(account));
    let mut others = candidates.list().iter();
    let unknown = others.find(|candidate| {
        let here = staked(candidate.account).max(NOTHING);
        !odd.contains(&candidate.account) && candidate.stake > here
    });
    if let Some(unknown) = unknown {
        let (account, stake, here) = (unknown.account, unknown.stake, staked(unknown.account));
        return Ok(Some(format!(
            "the panel was drawn by stakes, and {account} is listed with {stake} credits and has {here} at stake here; \
             whoever makes up stakes says who is drawn. If you know that account, put the rest at stake for it with \
             `skep account stake`, and judge again"
        )));
    }
    let loss = staked(accused).min(fine).max(NOTHING);
    let (able, unable): (Vec<AccountId>, Vec<AccountId>) = evidence
        .convicted_by()?
        .into_iter()
        .partition(|account| staked(*account) >= loss);
    let needed = lease.audit.panel as usize / 2 + 1;
    if able.len() >= needed {
        return Ok(None);
    }
    let unable: Vec<String> = unable.iter().map(AccountId::to_string).collect();
    Ok(Some(format!(
        "of a panel of {} it takes the word of {needed} who have {loss} credits at stake here, as much as the accused \
         would lose, and {} have: others could be accounts that somebody made up for this. If you know {}, put so much at \
         stake for them with `skep account stake {loss} --account …`, and judge again; if not, do not believe it",
        lease.audit.panel,
        able.len(),
        unable.join(", "),
    )))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use skep_evidence::{
        Agreed, Audit, AuditSecret, AuditTerms, Candidate, Candidates, Lease, Meter,
        ResultCommitment, Signed, Statement as _,
    };
    use skep_market::{Operation, Terms};
    use skep_registry::Digest;

    use super::super::testing::{self, key};
    use super::*;

    const TERMS: Terms = Terms {
        supply: Credits::from_micro(1_000 * Credits::ONE),
        fine: Credits::from_micro(10 * Credits::ONE),
        reward: 250_000,
    };

    /// Who may audit, and what each is said to have at stake, in micro-credits.
    fn candidates(list: &[(u8, u64)]) -> Candidates {
        let list = list.iter().map(|(seed, micro)| Candidate {
            account: key(*seed).id(),
            stake: Credits::from_micro(*micro),
        });
        Candidates::new(list.collect()).unwrap()
    }

    /// A lease of key 1's to another, of the same work as all others, with a panel of so many.
    fn lease(
        provider: u8,
        secret: AuditSecret,
        candidates: &Candidates,
        panel: u32,
    ) -> Agreed<Lease> {
        let lease = Lease {
            attempt: u32::from(provider),
            audit: AuditTerms {
                secret: secret.commitment(),
                candidates: candidates.digest(),
                rate: 1_000_000,
                panel,
                exact: true,
                followed: false,
                follows: None,
            },
            ..testing::lease(1, provider)
        };
        let offered = lease.sign(&key(1)).unwrap();
        offered.accept(&key(provider)).unwrap()
    }

    fn result(lease: &Agreed<Lease>, worker: u8, output: &[u8]) -> Signed<ResultCommitment> {
        let result = ResultCommitment {
            lease: lease.digest(),
            work: lease.work.digest(),
            worker: key(worker).id(),
            output: Digest::of(output),
            meter: Meter::default(),
            activations: None,
            nonce: [worker; 32],
        };
        result.sign(&key(worker)).unwrap()
    }

    /// What a panel of three says of a result of key 2's, of whom one says something else than the others. Of the
    /// candidates two are neither key 1 nor key 2, so that both are drawn.
    fn panel(candidates: &Candidates, odd: u8) -> Evidence {
        panel_of(3, candidates, &[odd])
    }

    /// The same with a panel of so many, all of whom are drawn, and of whom these say something else.
    fn panel_of(size: u32, candidates: &Candidates, odd: &[u8]) -> Evidence {
        let output = |seed: u8| -> &[u8] {
            match odd.contains(&seed) {
                true => b"odd",
                false => b"same",
            }
        };
        let secret = AuditSecret::from_bytes([5; 32]);
        let provided = lease(2, secret, candidates, size);
        let said = result(&provided, 2, output(2));
        let draw = secret.draw(said.digest());
        let others = size as usize - 1;
        let drawn = draw.auditors(candidates, others, &[key(1).id(), key(2).id()]);
        let audits = drawn.into_iter().map(|auditor| {
            let seed = (3..=9).find(|seed| key(*seed).id() == auditor).unwrap();
            let own = lease(seed, AuditSecret::from_bytes([seed; 32]), candidates, size);
            Audit {
                result: result(&own, seed, output(seed)),
                lease: own,
            }
        });
        Evidence::Divergence {
            secret,
            candidates: candidates.clone(),
            audits: audits.collect(),
            result: said,
            lease: provided,
        }
    }

    struct Books {
        ledger: Ledger,
        _folder: tempfile::TempDir,
    }

    impl Books {
        /// A ledger in which these have so much at stake, in micro-credits.
        fn with(stakes: &[(u8, u64)]) -> Self {
            let folder = tempfile::tempdir().unwrap();
            let mut books = Self {
                ledger: Ledger::open(&folder.path().join("ledger"), TERMS).unwrap(),
                _folder: folder,
            };
            for (seed, micro) in stakes {
                books.stake(*seed, *micro);
            }
            books
        }

        fn stake(&mut self, seed: u8, micro: u64) {
            let number = self.ledger.len().to_le_bytes();
            let (account, amount) = (key(seed).id(), Credits::from_micro(micro));
            let deposit = Operation::Deposit {
                id: Digest::of(&[b"deposit".as_slice(), &number].concat()),
                account,
                amount,
            };
            let stake = Operation::Stake {
                id: Digest::of(&[b"stake".as_slice(), &number].concat()),
                account,
                amount,
            };
            for outcome in self.ledger.post(&[deposit, stake]).unwrap() {
                outcome.unwrap();
            }
        }

        fn doubt(&self, evidence: &Evidence, accused: u8) -> Option<String> {
            let (offenders, _) = evidence.offenders().unwrap();
            let is_shown = offenders.contains(&key(accused).id());
            assert!(is_shown, "the evidence itself holds");
            doubt(evidence, key(accused).id(), TERMS.fine, &self.ledger).unwrap()
        }
    }

    /// What any requester can make up against a provider that once worked for it.
    #[test]
    fn strangers_and_the_accused_convict_nobody() {
        let five = 5 * Credits::ONE;
        let evidence = panel(&candidates(&[(2, five), (3, 1), (4, 1)]), 2);
        let mut books = Books::with(&[(2, five)]);
        let why = books.doubt(&evidence, 2).unwrap();
        let said = "of a panel of 3 it takes the word of 2 who have 5 credits at stake here, as much as \
                    the accused would lose, and 0 have";
        assert!(why.starts_with(said), "{why}");
        for part in [
            "somebody made up",
            "skep account stake 5 --account",
            &key(3).id().to_string(),
            &key(4).id().to_string(),
        ] {
            assert!(why.contains(part), "{part:?} is not in {why}");
        }
        assert!(!why.contains(&key(2).id().to_string()), "{why}");
        // One of them is no majority, nor is another that has less to lose than the accused.
        books.stake(3, five);
        let why = books.doubt(&evidence, 2).unwrap();
        assert!(why.contains("and 1 have"), "{why}");
        assert!(!why.contains(&key(3).id().to_string()), "{why}");
        books.stake(4, five - 1);
        assert!(books.doubt(&evidence, 2).is_some());
        books.stake(4, 1);
        assert_eq!(books.doubt(&evidence, 2), None);
    }

    #[test]
    fn nobody_has_to_have_more_at_stake_than_a_fraud_costs() {
        let (much, fine) = (100 * Credits::ONE, TERMS.fine.micro());
        let evidence = panel(&candidates(&[(2, much), (3, fine), (4, fine)]), 2);
        let books = Books::with(&[(2, much), (3, fine), (4, fine)]);
        assert_eq!(books.doubt(&evidence, 2), None);
        // Where the accused has nothing, strangers are strangers all the same.
        let evidence = panel(&candidates(&[(3, 1), (4, 1)]), 2);
        assert!(Books::with(&[]).doubt(&evidence, 2).is_some());
    }

    /// An auditor is convicted by another and the provider, whom nobody drew.
    #[test]
    fn a_provider_counts_against_its_auditor_as_anybody_else_does() {
        let five = 5 * Credits::ONE;
        let evidence = panel(&candidates(&[(2, 1), (3, five), (4, five)]), 3);
        let mut books = Books::with(&[(3, five), (4, five)]);
        let why = books.doubt(&evidence, 3).unwrap();
        assert!(why.contains("and 1 have"), "{why}");
        assert!(why.contains(&key(2).id().to_string()), "{why}");
        books.stake(2, five);
        assert_eq!(books.doubt(&evidence, 3), None);
    }

    #[test]
    fn a_list_with_stakes_that_are_not_here_is_not_believed() {
        let (ten, twenty) = (10 * Credits::ONE, 20 * Credits::ONE);
        let evidence = panel(&candidates(&[(2, twenty), (3, ten), (4, twenty)]), 2);
        let mut books = Books::with(&[(2, ten), (3, ten), (4, ten)]);
        let why = books.doubt(&evidence, 2).unwrap();
        let said = format!(
            "the panel was drawn by stakes, and {} is listed with 20 credits and has 10 at stake here",
            key(4).id()
        );
        assert!(why.starts_with(&said), "{why}");
        assert!(why.contains("skep account stake"), "{why}");
        // The accused may have lost some of what it had when it was drawn.
        books.stake(4, ten);
        assert_eq!(books.doubt(&evidence, 2), None);
    }

    /// One that lost a part by this evidence already is in the ledger with less than it was listed with.
    #[test]
    fn of_two_that_lied_to_one_panel_the_second_is_not_spared_for_the_first() {
        let (ten, twenty) = (10 * Credits::ONE, 20 * Credits::ONE);
        let all = [2, 3, 4, 5, 6].map(|seed| (seed, twenty));
        let evidence = panel_of(5, &candidates(&all), &[2, 3]);
        let mut less = all;
        less[0] = (2, ten);
        for stakes in [all, less] {
            let books = Books::with(&stakes);
            assert_eq!([2, 3].map(|odd| books.doubt(&evidence, odd)), [None, None]);
        }
        // Whose word it takes is known as listed.
        less[2] = (4, ten);
        let books = Books::with(&less);
        for odd in [2, 3] {
            let why = books.doubt(&evidence, odd).unwrap();
            let unknown = key(4).id().to_string();
            assert!(why.contains(&unknown), "{why}");
        }
    }

    #[test]
    fn who_contradicts_itself_needs_no_panel() {
        let list = candidates(&[]);
        let lease = lease(2, AuditSecret::from_bytes([5; 32]), &list, 3);
        let results = [b"one", b"two"].map(|output| result(&lease, 2, output));
        let [one, two] = results;
        let evidence = Evidence::TwoResults(one, two);
        assert_eq!(Books::with(&[]).doubt(&evidence, 2), None);
    }
}
