//! Who pays: the memory, the work and the time that one run may use on its device.
//!
//! Everything that allocates on a device charges an [`Account`] first, and everything that
//! launches work on one meters it first. A charge that would pass a limit changes nothing.
//! This module never allocates or launches anything itself.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use crate::error::{QuotaError, QuotaKind};

/// What an account may use.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Bytes on the device at one moment.
    pub device_memory: u64,
    /// Floating-point operations in total.
    pub device_work: u64,
    /// When the run must have ended.
    pub deadline: Option<Instant>,
}

impl Limits {
    /// No limit at all.
    pub const UNLIMITED: Limits = Limits {
        device_memory: u64::MAX,
        device_work: u64::MAX,
        deadline: None,
    };
}

/// What an account has used so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Bytes charged now.
    pub device_bytes: u64,
    /// The most bytes that were charged at one moment.
    pub device_bytes_peak: u64,
    /// Floating-point operations metered, those of refused operators excluded.
    pub flops: u64,
    /// Operators metered, refused ones excluded.
    pub operators: u64,
    /// Tokens that language models computed, read and written ones.
    pub tokens: u64,
}

/// The account of one run. Clones are the same account.
#[derive(Clone, Debug)]
pub struct Account(Arc<State>);

#[derive(Debug)]
struct State {
    limits: Limits,
    /// The account that this one is a part of.
    whole: Option<Account>,
    opened: Instant,
    cancelled: AtomicBool,
    bytes: AtomicU64,
    peak: AtomicU64,
    flops: AtomicU64,
    operators: AtomicU64,
    tokens: AtomicU64,
}

impl Account {
    /// The rate that is assumed when an operator is held against the deadline, in metered
    /// operations per second: a floor that one core of an old machine keeps for every operator
    /// of the tensor crate, and far below what a device does at its best.
    pub const ASSUMED_FLOPS_PER_SECOND: u64 = 1_000_000_000;

    /// An operator of fewer metered operations than this reads the clock only every
    /// [`CLOCK_STRIDE`]th time, so that many small ones stay cheap.
    const SMALL: u64 = 16_384;

    /// Opens an account under `limits`, with nothing used.
    pub fn new(limits: Limits) -> Self {
        Account::open(limits, None)
    }

    /// Opens an account whose charges all go to this one too, so that they can be told from the
    /// others. What this one refuses, the part refuses; cancelling this one cancels the part, and
    /// not the other way round.
    pub fn part(&self) -> Self {
        Account::open(self.limits(), Some(self.clone()))
    }

    fn open(limits: Limits, whole: Option<Account>) -> Self {
        Account(Arc::new(State {
            limits,
            whole,
            opened: Instant::now(),
            cancelled: AtomicBool::new(false),
            bytes: AtomicU64::new(0),
            peak: AtomicU64::new(0),
            flops: AtomicU64::new(0),
            operators: AtomicU64::new(0),
            tokens: AtomicU64::new(0),
        }))
    }

    /// Opens an account that counts and never refuses, unless it is cancelled.
    pub fn unlimited() -> Self {
        Account::new(Limits::UNLIMITED)
    }

    /// The limits that the account was opened under.
    pub fn limits(&self) -> Limits {
        self.0.limits
    }

    /// Charges `bytes` of device memory until the returned charge is dropped.
    ///
    /// # Errors
    /// [`QuotaKind::DeviceMemory`] if more than the limit would be charged at once; then
    /// nothing is.
    pub fn charge_memory(&self, bytes: u64) -> Result<MemoryCharge, QuotaError> {
        let now = self.take_memory(bytes)?;
        self.note_peak(now);
        Ok(MemoryCharge {
            account: self.clone(),
            bytes,
        })
    }

    /// Meters an operator of `flops` operations and charges `bytes` for what it allocates:
    /// both or neither.
    ///
    /// # Errors
    /// As [`Self::charge_memory`] and [`Self::charge_work`].
    pub fn charge(&self, flops: u64, bytes: u64) -> Result<MemoryCharge, QuotaError> {
        let now = self.take_memory(bytes)?;
        if let Err(refusal) = self.charge_work(flops) {
            self.give_back(bytes);
            return Err(refusal);
        }
        self.note_peak(now);
        Ok(MemoryCharge {
            account: self.clone(),
            bytes,
        })
    }

    /// Adds to the bytes charged and returns their new sum.
    fn take_memory(&self, bytes: u64) -> Result<u64, QuotaError> {
        let state = &*self.0;
        let limit = state.limits.device_memory;
        if let Some(whole) = &state.whole {
            whole.take_memory(bytes)?;
        }
        let taken = state.bytes.fetch_update(Relaxed, Relaxed, |held| {
            held.checked_add(bytes).filter(|sum| *sum <= limit)
        });
        match taken {
            Ok(before) => Ok(before + bytes),
            Err(held) => {
                if let Some(whole) = &state.whole {
                    whole.give_back(bytes);
                }
                Err(QuotaError {
                    quota: QuotaKind::DeviceMemory,
                    limit,
                    asked: held.saturating_add(bytes),
                })
            }
        }
    }

    /// Takes from the bytes charged.
    fn give_back(&self, bytes: u64) {
        self.0.bytes.fetch_sub(bytes, Relaxed);
        if let Some(whole) = &self.0.whole {
            whole.give_back(bytes);
        }
    }

    fn note_peak(&self, now: u64) {
        if now > self.0.peak.load(Relaxed) {
            self.0.peak.fetch_max(now, Relaxed);
        }
        if let Some(whole) = &self.0.whole {
            whole.note_peak(whole.0.bytes.load(Relaxed));
        }
    }

    /// Meters an operator of `flops` operations, to be called before it is launched.
    ///
    /// # Errors
    /// - [`QuotaKind::Time`] if the account was cancelled, the deadline has passed, or the
    ///   operator could not end before it at [`Self::ASSUMED_FLOPS_PER_SECOND`].
    /// - [`QuotaKind::DeviceWork`] if the total would pass its limit.
    ///
    /// In either case nothing is metered.
    pub fn charge_work(&self, flops: u64) -> Result<(), QuotaError> {
        let state = &*self.0;
        if state.cancelled.load(Relaxed) {
            return Err(self.cancelled());
        }
        if let Some(whole) = &state.whole {
            whole.charge_work(flops)?;
            // It cannot be more than the whole has.
            state.flops.fetch_add(flops, Relaxed);
            state.operators.fetch_add(1, Relaxed);
            return Ok(());
        }
        let nth = state.operators.load(Relaxed);
        if state.limits.deadline.is_some()
            && (flops >= Self::SMALL || nth.is_multiple_of(CLOCK_STRIDE))
        {
            self.check_deadline(flops)?;
        }
        self.meter(flops)
    }

    fn meter(&self, flops: u64) -> Result<(), QuotaError> {
        let state = &*self.0;
        if let Some(whole) = &state.whole {
            whole.meter(flops)?;
            // It cannot be more than the whole has.
            state.flops.fetch_add(flops, Relaxed);
            state.operators.fetch_add(1, Relaxed);
            return Ok(());
        }
        let limit = state.limits.device_work;
        state
            .flops
            .fetch_update(Relaxed, Relaxed, |used| {
                used.checked_add(flops).filter(|sum| *sum <= limit)
            })
            .map_err(|used| QuotaError {
                quota: QuotaKind::DeviceWork,
                limit,
                asked: used.saturating_add(flops),
            })?;
        state.operators.fetch_add(1, Relaxed);
        Ok(())
    }

    /// Meters work of `flops` operations that is done in pieces, between which whoever does it
    /// asks [`Self::check`]: it may begin whenever the deadline has not passed.
    ///
    /// # Errors
    /// As [`Self::charge_work`], but for how long the work may take.
    pub fn charge_work_in_pieces(&self, flops: u64) -> Result<(), QuotaError> {
        self.check()?;
        self.meter(flops)
    }

    /// Meters work that is to begin, as [`Self::charge_work_in_pieces`] does, or asks whether it may go on if there
    /// is none to be metered: what long work on the host asks that knows no account, first with its operations and
    /// then with 0 between its pieces.
    ///
    /// # Errors
    /// As [`Self::charge_work_in_pieces`] and [`Self::check`].
    pub fn goes_on(&self, flops: u64) -> Result<(), QuotaError> {
        match flops {
            0 => self.check(),
            flops => self.charge_work_in_pieces(flops),
        }
    }

    /// Whether the run may go on: long work on the host calls this between its pieces.
    ///
    /// # Errors
    /// [`QuotaKind::Time`] if the account was cancelled or its deadline has passed.
    pub fn check(&self) -> Result<(), QuotaError> {
        if self.0.cancelled.load(Relaxed) {
            return Err(self.cancelled());
        }
        if let Some(whole) = &self.0.whole {
            return whole.check();
        }
        if self.0.limits.deadline.is_some() {
            self.check_deadline(0)?;
        }
        Ok(())
    }

    /// Counts tokens that a language model computes. Their work is charged by itself, and is what
    /// has a limit.
    pub fn count_tokens(&self, tokens: u64) {
        if let Some(whole) = &self.0.whole {
            whole.count_tokens(tokens);
        }
        self.0.tokens.fetch_add(tokens, Relaxed);
    }

    /// Makes every later charge of work and every [`Self::check`] fail. May be called from any
    /// thread, and more than once.
    pub fn cancel(&self) {
        self.0.cancelled.store(true, Relaxed);
    }

    /// Whether [`Self::cancel`] was called, of this account or the one that it is a part of.
    pub fn is_cancelled(&self) -> bool {
        self.0.cancelled.load(Relaxed) || self.0.whole.as_ref().is_some_and(Account::is_cancelled)
    }

    /// What has been used so far.
    pub fn usage(&self) -> Usage {
        let state = &*self.0;
        Usage {
            device_bytes: state.bytes.load(Relaxed),
            device_bytes_peak: state.peak.load(Relaxed),
            flops: state.flops.load(Relaxed),
            operators: state.operators.load(Relaxed),
            tokens: state.tokens.load(Relaxed),
        }
    }

    /// Whether both are the same account.
    pub fn is_same(&self, other: &Account) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }

    fn check_deadline(&self, flops: u64) -> Result<(), QuotaError> {
        let Some(deadline) = self.0.limits.deadline else {
            return Ok(());
        };
        let now = Instant::now();
        let needed = Duration::from_nanos(
            flops.saturating_mul(1_000_000_000 / Self::ASSUMED_FLOPS_PER_SECOND),
        );
        let left = deadline.saturating_duration_since(now);
        if left.is_zero() || needed > left {
            return Err(QuotaError {
                quota: QuotaKind::Time,
                limit: millis(deadline.saturating_duration_since(self.0.opened)),
                asked: millis(now.saturating_duration_since(self.0.opened))
                    .saturating_add(millis(needed)),
            });
        }
        Ok(())
    }

    #[cold]
    fn cancelled(&self) -> QuotaError {
        let had = millis(self.0.opened.elapsed());
        QuotaError {
            quota: QuotaKind::Time,
            limit: had,
            asked: had,
        }
    }
}

/// Small operators between two readings of the clock.
const CLOCK_STRIDE: u64 = 16;

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// Bytes of device memory charged to an account. Dropping it gives them back.
#[derive(Debug)]
#[must_use = "dropping a charge gives the memory back"]
pub struct MemoryCharge {
    account: Account,
    bytes: u64,
}

impl MemoryCharge {
    /// The bytes charged.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// The account charged.
    pub fn account(&self) -> &Account {
        &self.account
    }

    /// Changes the charge to `bytes`.
    ///
    /// # Errors
    /// [`QuotaKind::DeviceMemory`] as [`Account::charge_memory`]; then the charge stays as it
    /// was.
    pub fn resize(&mut self, bytes: u64) -> Result<(), QuotaError> {
        if bytes > self.bytes {
            let now = self.account.take_memory(bytes - self.bytes)?;
            self.account.note_peak(now);
        } else {
            self.account.give_back(self.bytes - bytes);
        }
        self.bytes = bytes;
        Ok(())
    }

    /// Takes `bytes`, or as many as there are, out of this charge into one of their own.
    pub fn split(&mut self, bytes: u64) -> MemoryCharge {
        let bytes = bytes.min(self.bytes);
        self.bytes -= bytes;
        MemoryCharge {
            account: self.account.clone(),
            bytes,
        }
    }
}

impl Drop for MemoryCharge {
    fn drop(&mut self) {
        self.account.give_back(self.bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn account(device_memory: u64, device_work: u64, milliseconds: Option<u64>) -> Account {
        Account::new(Limits {
            device_memory,
            device_work,
            deadline: milliseconds.map(|ms| Instant::now() + Duration::from_millis(ms)),
        })
    }

    #[test]
    fn memory_is_given_back_on_drop_and_the_peak_stays() {
        let account = account(100, 0, None);
        let first = account.charge_memory(60).unwrap();
        let refused = account.charge_memory(41).unwrap_err();
        assert_eq!(
            refused,
            QuotaError {
                quota: QuotaKind::DeviceMemory,
                limit: 100,
                asked: 101
            }
        );
        let second = account.charge_memory(40).unwrap();
        assert_eq!(account.usage().device_bytes, 100);
        drop(first);
        drop(second);
        assert_eq!(account.usage().device_bytes, 0);
        assert_eq!(account.usage().device_bytes_peak, 100);
    }

    #[test]
    fn sums_that_overflow_are_refused() {
        let account = Account::unlimited();
        let held = account.charge_memory(u64::MAX).unwrap();
        assert!(account.charge_memory(1).is_err());
        assert_eq!(held.bytes(), u64::MAX);
        account.charge_work(u64::MAX).unwrap();
        assert!(account.charge_work(1).is_err());
        assert_eq!(account.usage().operators, 1);
    }

    #[test]
    fn a_charge_can_grow_and_shrink_within_the_limit() {
        let account = account(10, 0, None);
        let mut charge = account.charge_memory(4).unwrap();
        charge.resize(10).unwrap();
        assert!(charge.resize(11).is_err());
        assert_eq!(account.usage().device_bytes, 10);
        charge.resize(1).unwrap();
        assert_eq!(account.usage().device_bytes, 1);
        drop(charge);
        assert_eq!(account.usage().device_bytes, 0);
    }

    #[test]
    fn a_charge_can_be_split_and_neither_part_is_lost() {
        let account = account(10, 0, None);
        let mut charge = account.charge_memory(10).unwrap();
        let part = charge.split(4);
        assert_eq!((charge.bytes(), part.bytes()), (6, 4));
        assert_eq!(account.usage().device_bytes, 10);
        drop(charge);
        assert_eq!(account.usage().device_bytes, 4);
        drop(part);
        assert_eq!(account.usage().device_bytes, 0);
    }

    #[test]
    fn work_that_cannot_end_in_time_is_refused_before_it_starts() {
        let account = account(0, u64::MAX, Some(60_000));
        account.charge_work(1_000).unwrap();
        let refused = account
            .charge_work(100 * Account::ASSUMED_FLOPS_PER_SECOND)
            .unwrap_err();
        assert_eq!(refused.quota, QuotaKind::Time);
        assert_eq!(account.usage().flops, 1_000);
        assert!(refused.asked > refused.limit, "{refused}");
    }

    #[test]
    fn work_that_is_done_in_pieces_is_metered_before_the_first() {
        let account = account(0, 10, None);
        account.goes_on(10).unwrap();
        account.goes_on(0).unwrap();
        let used = account.usage();
        assert_eq!((used.flops, used.operators), (10, 1));
        let refused = account.goes_on(1).unwrap_err();
        assert_eq!(refused.quota, QuotaKind::DeviceWork);
        account.cancel();
        let refused = account.goes_on(0).unwrap_err();
        assert_eq!(refused.quota, QuotaKind::Time);
    }

    #[test]
    fn after_the_deadline_small_operators_are_refused_within_a_stride() {
        let account = account(0, u64::MAX, Some(0));
        assert!(account.check().is_err());
        let done = (0..2 * CLOCK_STRIDE)
            .filter(|_| account.charge_work(1).is_ok())
            .count();
        assert!(done < CLOCK_STRIDE as usize, "{done} went through");
    }

    #[test]
    fn cancelling_refuses_everything_at_once() {
        let account = Account::unlimited();
        account.charge_work(1).unwrap();
        account.check().unwrap();
        account.clone().cancel();
        assert_eq!(account.charge_work(1).unwrap_err().quota, QuotaKind::Time);
        assert!(account.check().is_err());
        assert!(account.is_cancelled());
    }

    #[test]
    fn a_part_counts_for_itself_and_for_the_whole() {
        let whole = account(100, 10, None);
        let part = whole.part();
        let mine = whole.charge_memory(30).unwrap();
        let mut its = part.charge(4, 50).unwrap();
        assert_eq!(part.usage().device_bytes, 50);
        assert_eq!(whole.usage().device_bytes, 80);
        assert_eq!((part.usage().flops, whole.usage().flops), (4, 4));
        // The rest of the whole is less than the part could have.
        let refused = part.charge_memory(21).unwrap_err();
        assert_eq!((refused.limit, refused.asked), (100, 101));
        assert!(its.resize(71).is_err());
        its.resize(60).unwrap();
        assert!(part.charge(7, 1).is_err());
        assert_eq!(whole.usage().device_bytes, 90);
        drop(its);
        drop(mine);
        assert_eq!(part.usage().device_bytes_peak, 60);
        assert_eq!(whole.usage().device_bytes_peak, 90);
        assert_eq!(
            (part.usage().device_bytes, whole.usage().device_bytes),
            (0, 0)
        );
    }

    #[test]
    fn a_part_is_cancelled_with_the_whole_and_not_the_other_way_round() {
        let whole = Account::unlimited();
        let part = whole.part();
        part.cancel();
        assert!(part.check().is_err() && whole.check().is_ok());
        let other = whole.part();
        whole.cancel();
        assert!(other.is_cancelled() && other.check().is_err());
        assert!(other.charge_work(1).is_err());
        assert_eq!(other.usage().flops, 0);
    }

    #[test]
    fn many_threads_never_pass_the_limit() {
        let account = account(64, 1_000, None);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for bytes in 1..200 {
                        let charge = account.charge_memory(bytes % 40);
                        assert!(account.usage().device_bytes <= 64);
                        drop(charge);
                        let _ = account.charge_work(3);
                    }
                });
            }
        });
        assert_eq!(account.usage().device_bytes, 0);
        assert!(account.usage().device_bytes_peak <= 64);
        assert_eq!(account.usage().flops, account.usage().operators * 3);
        assert!(account.usage().flops <= 1_000);
    }
}
