//! The key that signs and is paid, the ledger of what this node spends, and the receipts of what it
//! earned.

use std::fs;
use std::io::{Read as _, Write as _};
use std::path::Path;
use std::sync::{Arc, OnceLock, PoisonError};

use skep_evidence::{
    AccountId, AccountKey, Accusation, Credits, Evidence, Keys, Signed, Statement as _, Verdict,
    judge,
};
use skep_market::{
    Book, Dealings, Earnings, Ledger, Operation, PostError, Posted, Quotation, Terms, recompute,
};
use skep_registry::Digest;
use zeroize::Zeroizing;

use super::{Jobs, believed, failed, now, random, receipts};
use crate::failure::{Failure, FailureKind};
use crate::moment::moment;
use crate::requests::jobs::{AccountView, AvailableLine, Judged, StakeLine};
use crate::service::{Service, run};

/// What a node's own ledger is made with. All of it is in its treasury until its owner takes some.
const TERMS: Terms = Terms {
    supply: Credits::from_micro(1_000_000_000 * Credits::ONE),
    fine: Credits::from_micro(10 * Credits::ONE),
    reward: 250_000,
};

/// Who has so much at stake has something to lose.
pub const SOMETHING: Credits = Credits::from_micro(1);

/// The key of this node's account, made when it is first needed.
pub fn account(service: &Service) -> Result<Arc<AccountKey>, Failure> {
    let jobs = &service.jobs;
    if let Some(key) = jobs.account.get() {
        return Ok(Arc::clone(key));
    }
    let _one_at_a_time = jobs.opening.lock().unwrap_or_else(PoisonError::into_inner);
    let path = service.home.account_key();
    let key = match fs::read_to_string(&path) {
        Ok(text) => read_key(&path, &Zeroizing::new(text))?,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => make_key(&path)?,
        Err(error) => return Err(cannot(&path, &error.to_string())),
    };
    Ok(Arc::clone(jobs.account.get_or_init(|| Arc::new(key))))
}

fn read_key(path: &Path, text: &str) -> Result<AccountKey, Failure> {
    let mut seed = Zeroizing::new([0; 32]);
    hex::decode_to_slice(text.trim(), seed.as_mut_slice())
        .map_err(|_| cannot(path, "it does not hold 64 hexadecimal digits"))?;
    Ok(AccountKey::from_seed(&seed))
}

/// Written whole or not at all, and readable by its owner only.
fn make_key(path: &Path) -> Result<AccountKey, Failure> {
    let seed = Zeroizing::new(random()?);
    let folder = path.parent().unwrap_or(Path::new("."));
    let write = || -> std::io::Result<()> {
        let mut file = tempfile::NamedTempFile::new_in(folder)?;
        let text = Zeroizing::new(hex::encode(*seed));
        file.write_all(text.as_bytes())?;
        file.as_file().sync_all()?;
        file.persist_noclobber(path).map_err(|error| error.error)?;
        fs::File::open(folder)?.sync_all()
    };
    match write() {
        Ok(()) => Ok(AccountKey::from_seed(&seed)),
        // Another process was faster.
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {
            let text = fs::read_to_string(path).map_err(failed)?;
            read_key(path, &Zeroizing::new(text))
        }
        Err(error) => Err(cannot(path, &error.to_string())),
    }
}

fn cannot(path: &Path, reason: &str) -> Failure {
    Failure::new(
        FailureKind::Failed,
        format!("cannot use the account key {}: {reason}", path.display()),
    )
}

/// Does something with the ledger, which is opened when it is first needed.
pub fn with_ledger<T>(
    service: &Service,
    act: impl FnOnce(&mut Ledger) -> Result<T, Failure>,
) -> Result<T, Failure> {
    let mut ledger = service
        .jobs
        .ledger
        .lock()
        .unwrap_or_else(PoisonError::into_inner);
    // Every entry is checked when it opens, and every posting waits for the disk.
    tokio::task::block_in_place(|| {
        let mut opened = match ledger.take() {
            Some(opened) => opened,
            None => Ledger::open(&service.home.ledger(), TERMS).map_err(failed)?,
        };
        let done = act(&mut opened);
        // Once the disk has failed, the file is of no use before it is opened anew.
        if done.is_ok() {
            *ledger = Some(opened);
        }
        done
    })
}

/// Posts one operation. Posting it again changes nothing.
pub fn post(
    service: &Service,
    operation: &Operation<'_>,
) -> Result<Result<Posted, PostError>, Failure> {
    with_ledger(service, |ledger| {
        let mut outcomes = ledger.post(&[*operation]).map_err(failed)?;
        outcomes.pop().ok_or_else(|| {
            Failure::new(
                FailureKind::Failed,
                "the ledger does not say what became of an entry",
            )
        })
    })
}

/// Posts operations together, which waits for the disk once.
pub fn post_all(
    service: &Service,
    operations: &[Operation<'_>],
) -> Result<Vec<Result<Posted, PostError>>, Failure> {
    with_ledger(service, |ledger| ledger.post(operations).map_err(failed))
}

/// The receipts of what this node did for others.
pub fn earnings(service: &Service) -> Result<Arc<Earnings>, Failure> {
    let jobs = &service.jobs;
    opened(jobs, &jobs.earnings, || {
        Earnings::open(&service.home.earnings())
    })
}

/// What this node remembers of those who worked for it.
pub fn dealings(service: &Service) -> Result<Arc<Dealings>, Failure> {
    let jobs = &service.jobs;
    opened(jobs, &jobs.dealings, || {
        Dealings::open(&service.home.dealings())
    })
}

/// A file that is opened when it is first needed, once.
fn opened<T, E: std::error::Error>(
    jobs: &Jobs,
    place: &OnceLock<Arc<T>>,
    open: impl FnOnce() -> Result<T, E>,
) -> Result<Arc<T>, Failure> {
    if let Some(opened) = place.get() {
        return Ok(Arc::clone(opened));
    }
    let _one_at_a_time = jobs.opening.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(opened) = place.get() {
        return Ok(Arc::clone(opened));
    }
    let opened = open().map_err(failed)?;
    Ok(Arc::clone(place.get_or_init(|| Arc::new(opened))))
}

/// The account that somebody names; this node's own if nobody does.
fn named(service: &Service, whose: Option<&str>) -> Result<AccountId, Failure> {
    match whose {
        None => Ok(account(service)?.id()),
        Some(text) => text
            .parse::<AccountId>()
            .map_err(|error| Failure::new(FailureKind::Usage, format!("--account: {error}"))),
    }
}

/// Puts credits out of the treasury of this node's own ledger into its account, or into another.
pub fn credit(service: &Service, micro: u64, whose: Option<&str>) -> Result<AccountView, Failure> {
    let account = named(service, whose)?;
    let id = Digest::of(&random()?);
    let amount = Credits::from_micro(micro);
    let deposit = Operation::Deposit {
        id,
        account,
        amount,
    };
    post(service, &deposit)?.map_err(|error| Failure::of(FailureKind::Usage, &error))?;
    view(service)
}

/// Puts credits at stake in this node's own ledger. Its own come out of its account, and those of
/// another account out of the treasury.
pub fn stake(service: &Service, micro: u64, whose: Option<&str>) -> Result<AccountView, Failure> {
    let own = account(service)?.id();
    let usage = |error: &dyn std::error::Error| Failure::of(FailureKind::Usage, error);
    let account = named(service, whose)?;
    let amount = Credits::from_micro(micro);
    if account != own {
        let deposit = Operation::Deposit {
            id: Digest::of(&random()?),
            account,
            amount,
        };
        post(service, &deposit)?.map_err(|error| usage(&error))?;
    }
    let stake = Operation::Stake {
        id: Digest::of(&random()?),
        account,
        amount,
    };
    post(service, &stake)?.map_err(|error| usage(&error))?;
    view(service)
}

/// Takes credits out of what an account has at stake in this node's own ledger, for it to spend.
pub fn unstake(service: &Service, micro: u64, whose: Option<&str>) -> Result<AccountView, Failure> {
    let unstake = Operation::Unstake {
        id: Digest::of(&random()?),
        account: named(service, whose)?,
        amount: Credits::from_micro(micro),
        at: now(),
    };
    match post(service, &unstake)? {
        Ok(_) => view(service),
        Err(PostError::Bound { account, until }) => Err(Failure::new(
            FailureKind::Refused,
            format!(
                "what {account} has at stake stays there until {}: it was given work by a lease that can be disputed \
                 until then, and a fraud would cost it its stake; take it back afterwards",
                moment(until)
            ),
        )),
        Err(error) => Err(Failure::of(FailureKind::Usage, &error)),
    }
}

/// How many of those who quoted have so much at stake in this node's own ledger.
pub fn staked(service: &Service, least: Credits, taking: &[Quotation]) -> Result<usize, Failure> {
    if least == Credits::ZERO {
        return Ok(taking.len());
    }
    with_ledger(service, |ledger| {
        let accounts = taking
            .iter()
            .map(|quotation| AccountId::from_bytes(quotation.account));
        let staked = accounts.filter(|account| ledger.balance(Book::Staked(*account)) >= least);
        Ok(staked.count())
    })
}

/// Judges an accusation, and takes from whoever is in the wrong what is at stake here: from the accused only where its
/// panel is believed.
///
/// One that is true is judged whoever brings it. One that is not, by somebody with nothing to lose here, is refused: it
/// cost its accuser nothing, and there is no end of such accounts.
pub fn judged(service: &Service, file: &Path) -> Result<Judged, Failure> {
    let cannot = |error: std::io::Error| run::cannot_read(file, &error);
    let mut bytes = Vec::new();
    // One byte more than there may be tells that it is too long.
    let most = Accusation::MAX_BYTES as u64 + 1;
    let hint = "name a file with an accusation, as `skep job status` does";
    let opened = receipts::opened(file, hint)?;
    opened.take(most).read_to_end(&mut bytes).map_err(cannot)?;
    let mut keys = Keys::default();
    let accusation = Signed::<Accusation>::decode(&bytes, &mut keys).map_err(|error| {
        let failure = Failure::of(FailureKind::Refused, &error);
        Failure::new(
            FailureKind::Refused,
            format!("{} is no accusation: {failure}", file.display()),
        )
    })?;
    let verdict = judge(&accusation, &mut keys);
    let (loser, lease, reason) = match &verdict {
        Verdict::Guilty { offender, lease } => (*offender, Some(*lease), None),
        Verdict::FalseAccusation { accuser, reason } => (*accuser, None, Some(reason.to_string())),
    };
    let spared = match lease.is_some() {
        true => {
            let evidence = Evidence::decode(&accusation.evidence.0, &mut keys).map_err(failed)?;
            with_ledger(service, |ledger| {
                believed::doubt(&evidence, loser, TERMS.fine, ledger).map_err(failed)
            })?
        }
        false => None,
    };
    let at_stake =
        |service: &Service| with_ledger(service, |ledger| Ok(ledger.balance(Book::Staked(loser))));
    let before = at_stake(service)?;
    let spared = match spared {
        Some(why) => Some(why),
        None => match post(service, &Operation::Judge(&accusation))? {
            Ok(Posted::New { .. }) => None,
            Ok(Posted::Already { .. }) => Some("it was fined for this before".to_owned()),
            Err(PostError::NothingAtStake { .. }) if lease.is_none() => {
                return Err(not_heard(
                    &accusation,
                    reason.as_deref().unwrap_or_default(),
                ));
            }
            Err(error @ PostError::NothingAtStake { .. }) => Some(error.to_string()),
            Err(error) => return Err(failed(error)),
        },
    };
    let after = at_stake(service)?;
    Ok(Judged {
        accuser: accusation.accuser.to_string(),
        accused: accusation.accused.to_string(),
        guilty: lease.is_some(),
        reason,
        lease: lease.map(|lease| lease.to_string()),
        fined_micro: before.micro().saturating_sub(after.micro()),
        spared,
    })
}

/// Why an accusation is not judged that is not true, by somebody who has nothing at stake here.
fn not_heard(accusation: &Accusation, reason: &str) -> Failure {
    let (accuser, accused) = (accusation.accuser, accusation.accused);
    Failure::new(
        FailureKind::Refused,
        format!(
            "{accuser} accuses {accused}, and shows nothing: {reason}. It has nothing at stake here, so that it had nothing \
             to lose by that, and it is not judged: hold nothing of it against {accused}, and take no accusations of \
             {accuser}'s before it has a stake here (`skep account stake {} --account {accuser}`)",
            TERMS.fine
        ),
    )
}

/// What this node has, spent and earned.
pub fn view(service: &Service) -> Result<AccountView, Failure> {
    let account = account(service)?.id();
    let receipts = earnings(service)?.receipts().map_err(failed)?;
    let earned = recompute(&receipts).get(&account).copied().unwrap_or(0);
    with_ledger(service, |ledger| {
        let balance = |book| ledger.balance(book).micro();
        let is_line =
            |other: AccountId, credits: Credits| other != account && credits > Credits::ZERO;
        let now = now();
        let bound = |account| ledger.bound(account).filter(|until| now < *until);
        let balances = ledger.books().filter_map(|(book, credits)| match book {
            Book::Available(other) if is_line(other, credits) => Some(AvailableLine {
                account: other.to_string(),
                micro: credits.micro(),
            }),
            _ => None,
        });
        let stakes = ledger.books().filter_map(|(book, credits)| match book {
            Book::Staked(other) if is_line(other, credits) => Some(StakeLine {
                account: other.to_string(),
                micro: credits.micro(),
                until: bound(other),
            }),
            _ => None,
        });
        Ok(AccountView {
            account: account.to_string(),
            available_micro: balance(Book::Available(account)),
            escrowed_micro: balance(Book::Escrowed(account)),
            staked_micro: balance(Book::Staked(account)),
            staked_until: bound(account),
            earned_micro: u64::try_from(earned.max(0)).unwrap_or(u64::MAX),
            receipts: receipts.len() as u64,
            balances: balances.collect(),
            stakes: stakes.collect(),
            supply_micro: u64::try_from(ledger.total()).unwrap_or(u64::MAX),
        })
    })
}

/// Whether this node has so much to spend; if not, what to do.
pub fn can_spend(service: &Service, account: AccountId, amount: Credits) -> Result<(), Failure> {
    let has = with_ledger(service, |ledger| {
        Ok(ledger.balance(Book::Available(account)))
    })?;
    match has >= amount {
        true => Ok(()),
        false => Err(Failure::new(
            FailureKind::Refused,
            format!(
                "the job may cost {amount} credits, and this node has {has} to spend; lower \
                 --max-price, or put some in with `skep account add`"
            ),
        )),
    }
}
