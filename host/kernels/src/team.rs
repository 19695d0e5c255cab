//! The threads that share the work of one product.
//!
//! A token of a small model is some hundred products of some ten microseconds each, so handing
//! work over must take less than one: members wait for the next piece by spinning, and fall
//! asleep only when none has come for a while. Between two products memory has nothing to do,
//! while one thread makes the next input; so members that wait ask for what they will read next.
//!
//! A team must never return from [`Team::run`] while a member still works, because what members
//! work on is borrowed from the caller.

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// How long a member spins before it falls asleep.
const SPIN: Duration = Duration::from_micros(100);

/// Lines of memory that the caller's thread asks for before it goes on with something else.
const LINES: usize = 32;

/// Bytes of a line of memory.
const LINE: usize = 64;

/// Turns of a spinning loop between two looks at the clock.
const TURNS: u32 = 64;

/// A number of threads that work on one thing at a time.
pub struct Team {
    shared: Arc<Shared>,
    members: Vec<JoinHandle<()>>,
    /// Held while the team works: it does one thing at a time.
    leading: Mutex<()>,
}

/// Memory that a member is to ask for.
#[derive(Default)]
#[repr(align(64))]
struct Ahead {
    at: AtomicUsize,
    /// Lines that are left.
    lines: AtomicUsize,
}

impl Ahead {
    /// Asks for the next line; false if there is none. Only called by the member itself, or by
    /// the caller for itself.
    fn ask(&self) -> bool {
        let lines = self.lines.load(Ordering::Relaxed);
        if lines == 0 {
            return false;
        }
        let at = self.at.load(Ordering::Relaxed);
        self.lines.store(lines - 1, Ordering::Relaxed);
        self.at.store(at.wrapping_add(LINE), Ordering::Relaxed);
        #[cfg(target_arch = "x86_64")]
        {
            use std::arch::x86_64::{_MM_HINT_T1, _mm_prefetch};
            // SAFETY: it reads nothing, so any address will do, and every such processor has it.
            unsafe { _mm_prefetch::<_MM_HINT_T1>(std::ptr::without_provenance(at)) };
        }
        true
    }
}

/// Work that is called once by every member, with the member's number.
type Work<'a> = &'a (dyn Fn(usize) + Sync);

struct Shared {
    /// Counts pieces of work; a new number is a new piece.
    piece: AtomicUsize,
    /// Members that have not finished the piece.
    busy: AtomicUsize,
    ended: AtomicBool,
    failed: AtomicBool,
    asleep: AtomicUsize,
    /// What each member asks for when it has nothing to do.
    ahead: Vec<Ahead>,
    work: Mutex<Option<Work<'static>>>,
    wake: Condvar,
}

impl Team {
    /// A team of this many threads, the caller's included; at least one.
    ///
    /// # Errors
    /// When the system refuses a thread.
    pub fn new(threads: usize) -> std::io::Result<Self> {
        let shared = Arc::new(Shared {
            piece: AtomicUsize::new(0),
            busy: AtomicUsize::new(0),
            ended: AtomicBool::new(false),
            failed: AtomicBool::new(false),
            asleep: AtomicUsize::new(0),
            ahead: (0..threads.max(1)).map(|_| Ahead::default()).collect(),
            work: Mutex::new(None),
            wake: Condvar::new(),
        });
        let mut team = Self {
            shared: Arc::clone(&shared),
            members: Vec::new(),
            leading: Mutex::new(()),
        };
        for number in 1..threads.max(1) {
            let shared = Arc::clone(&shared);
            let thread = std::thread::Builder::new().name(format!("skep-team-{number}"));
            team.members
                .push(thread.spawn(move || shared.serve(number))?);
        }
        Ok(team)
    }

    /// Threads of the team, the caller's included.
    pub fn threads(&self) -> usize {
        self.members.len() + 1
    }

    /// Lets a member ask for memory, to have it at hand, when it has finished the next thing that
    /// the team works on and has to wait: so many bytes from this address on, which may be any.
    /// Nothing is asked for that has been asked for before.
    pub fn ask_ahead(&self, member: usize, address: *const u8, bytes: usize) {
        if let Some(ahead) = self.shared.ahead.get(member) {
            ahead.at.store(address.addr(), Ordering::Relaxed);
            ahead.lines.store(bytes / LINE, Ordering::Relaxed);
        }
    }

    /// Calls `work` once with each number below [`Team::threads`], each on a thread of its own,
    /// and returns when all calls have. Panics if one of them has panicked. Calls from several
    /// threads at once take turns; `work` must not call it again.
    pub fn run(&self, work: impl Fn(usize) + Sync) {
        if self.members.is_empty() {
            return work(0);
        }
        let turn = lock(&self.leading);
        let borrowed: Work<'_> = &work;
        // SAFETY: the reference does not outlive `work`: it is taken out of `shared` again below,
        // after every member has finished its call, whatever any call did.
        let borrowed: Work<'static> = unsafe { std::mem::transmute(borrowed) };
        self.shared.begin(borrowed, self.members.len());
        let own = catch_unwind(AssertUnwindSafe(|| work(0)));
        self.shared.finish();
        let failed = self.shared.failed.swap(false, Ordering::Relaxed);
        drop(turn);
        match own {
            Err(panic) => resume_unwind(panic),
            #[expect(clippy::panic, reason = "passes on the panic of another thread's call")]
            Ok(()) if failed => panic!("a member of a team panicked; its message is in the log"),
            Ok(()) => {}
        }
    }

    /// Shares out `0..items` in ranges of at most `chunk`: `work` is called with each range once.
    /// Who is held up takes fewer.
    pub fn share(&self, items: usize, chunk: usize, work: impl Fn(std::ops::Range<usize>) + Sync) {
        let chunk = chunk.max(1);
        if items <= chunk {
            return if items > 0 {
                work(0..items)
            };
        }
        let next = AtomicUsize::new(0);
        self.run(|_| {
            loop {
                let start = next.fetch_add(chunk, Ordering::Relaxed);
                if start >= items {
                    break;
                }
                work(start..items.min(start + chunk));
            }
        });
    }

    /// Shares out `0..items` so that each member goes through a run of its own from front to back;
    /// who is done takes from the back of another's. `work` is called with each item once, and
    /// with the item that this member has next, if it is known.
    pub fn share_runs(&self, items: usize, work: impl Fn(usize, Option<usize>) + Sync) {
        let threads = self.threads();
        if items <= 1 || threads == 1 {
            for item in 0..items {
                work(item, Some(item + 1).filter(|next| *next < items));
            }
            return;
        }
        let start = |member: usize| self.run_start(items, member);
        let runs: Vec<Run> = (0..threads)
            .map(|member| Run::new(start(member), start(member + 1)))
            .collect();
        self.run(|member| {
            while let Some((item, end)) = runs[member].first() {
                work(item, Some(item + 1).filter(|next| *next < end));
            }
            for other in 1..threads {
                let run = &runs[(member + other) % threads];
                while let Some(item) = run.last() {
                    work(item, None);
                }
            }
        });
    }

    /// Where the run of a member begins, in [`Team::share_runs`] of so many items.
    pub fn run_start(&self, items: usize, member: usize) -> usize {
        items * member / self.threads()
    }

    /// Shares out these: `work` is called with each once.
    pub fn share_mut<T: Send>(&self, items: &mut [T], work: impl Fn(&mut T) + Sync) {
        struct All<T>(*mut T);
        // SAFETY: each element is used by one thread at a time: see below.
        unsafe impl<T: Send> Sync for All<T> {}
        let all = All(items.as_mut_ptr());
        let all = &all;
        self.share(items.len(), 1, |range| {
            for item in range {
                // SAFETY: the element is one of the slice's, which is borrowed until every call
                // has returned, and no other call has it.
                work(unsafe { &mut *all.0.add(item) });
            }
        });
    }
}

/// Items that are left of a member's run: the first in the upper half of the word, the end in the
/// lower. Alone in its line of the cache, because its member changes it all the time.
#[repr(align(64))]
struct Run(AtomicU64);

impl Run {
    /// Of fewer than `u32::MAX` items.
    fn new(start: usize, end: usize) -> Self {
        Self(AtomicU64::new((start as u64) << 32 | end as u64))
    }

    /// Takes the first item that is left, and says where the run ends.
    fn first(&self) -> Option<(usize, usize)> {
        let word = self
            .0
            .try_update(Ordering::Relaxed, Ordering::Relaxed, |word| {
                (word >> 32 < word & 0xffff_ffff).then(|| word + (1 << 32))
            });
        let word = word.ok()?;
        Some(((word >> 32) as usize, (word & 0xffff_ffff) as usize))
    }

    /// Takes the last item that is left.
    fn last(&self) -> Option<usize> {
        let word = self
            .0
            .try_update(Ordering::Relaxed, Ordering::Relaxed, |word| {
                (word >> 32 < word & 0xffff_ffff).then(|| word - 1)
            });
        Some((word.ok()? & 0xffff_ffff) as usize - 1)
    }
}

impl Drop for Team {
    fn drop(&mut self) {
        self.shared.ended.store(true, Ordering::SeqCst);
        drop(lock(&self.shared.work));
        self.shared.wake.notify_all();
        for member in self.members.drain(..) {
            drop(member.join());
        }
    }
}

impl Shared {
    fn begin(&self, work: Work<'static>, members: usize) {
        *lock(&self.work) = Some(work);
        self.busy.store(members, Ordering::Relaxed);
        self.piece.fetch_add(1, Ordering::SeqCst);
        if self.asleep.load(Ordering::SeqCst) > 0 {
            // Whoever is about to fall asleep holds the lock until it sleeps.
            drop(lock(&self.work));
            self.wake.notify_all();
        }
    }

    /// Waits until no member works, and forgets the work.
    fn finish(&self) {
        let mut turns = 0_u32;
        while self.busy.load(Ordering::Acquire) > 0 {
            turns = turns.wrapping_add(1);
            if turns.is_multiple_of(1 << 12) {
                // The member may be waiting for this very processor.
                std::thread::yield_now();
            }
            if !self.ahead[0].ask() {
                std::hint::spin_loop();
            }
        }
        *lock(&self.work) = None;
        for _ in 0..LINES {
            self.ahead[0].ask();
        }
    }

    fn serve(&self, number: usize) {
        let mut seen = 0;
        while let Some(piece) = self.next(number, seen) {
            seen = piece;
            let work = *lock(&self.work);
            if let Some(work) = work
                && catch_unwind(AssertUnwindSafe(|| work(number))).is_err()
            {
                self.failed.store(true, Ordering::Relaxed);
            }
            self.busy.fetch_sub(1, Ordering::Release);
        }
    }

    /// Waits for a piece after `seen`. `None` when the team is to end.
    fn next(&self, number: usize, seen: usize) -> Option<usize> {
        let began = Instant::now();
        loop {
            for _ in 0..TURNS {
                let piece = self.piece.load(Ordering::Acquire);
                if piece != seen {
                    return Some(piece);
                }
                if !self.ahead[number].ask() {
                    std::hint::spin_loop();
                }
            }
            if self.ended.load(Ordering::Relaxed) {
                return None;
            }
            if began.elapsed() > SPIN {
                break;
            }
        }
        self.asleep.fetch_add(1, Ordering::SeqCst);
        let mut guard = lock(&self.work);
        while self.piece.load(Ordering::SeqCst) == seen && !self.ended.load(Ordering::SeqCst) {
            guard = self
                .wake
                .wait(guard)
                .unwrap_or_else(PoisonError::into_inner);
        }
        drop(guard);
        self.asleep.fetch_sub(1, Ordering::SeqCst);
        let piece = self.piece.load(Ordering::SeqCst);
        (piece != seen).then_some(piece)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_member_is_called_once_a_piece() {
        for threads in 1..4 {
            let team = Team::new(threads).unwrap();
            for round in 0..2000 {
                let calls: Vec<AtomicUsize> = (0..threads).map(|_| AtomicUsize::new(0)).collect();
                team.run(|member| {
                    calls[member].fetch_add(1, Ordering::Relaxed);
                });
                assert!(calls.iter().all(|c| c.load(Ordering::Relaxed) == 1));
                if round % 500 == 0 {
                    // Long enough that members have fallen asleep, or nearly.
                    let until = Instant::now() + SPIN * (round / 500);
                    while Instant::now() < until {
                        std::hint::spin_loop();
                    }
                }
            }
        }
    }

    #[test]
    fn every_item_is_worked_on_once() {
        let team = Team::new(3).unwrap();
        for (items, chunk) in [(0, 4), (1, 4), (7, 2), (1000, 1), (1000, 7), (5, 0)] {
            let seen: Vec<AtomicUsize> = (0..items).map(|_| AtomicUsize::new(0)).collect();
            team.share(items, chunk, |range| {
                for item in range {
                    seen[item].fetch_add(1, Ordering::Relaxed);
                }
            });
            assert!(seen.iter().all(|n| n.load(Ordering::Relaxed) == 1));
        }
    }

    #[test]
    fn runs_are_gone_through_once_and_others_help() {
        for threads in 1..4 {
            let team = Team::new(threads).unwrap();
            for items in [0, 1, 2, 7, 100, 1000] {
                let seen: Vec<AtomicUsize> = (0..items).map(|_| AtomicUsize::new(0)).collect();
                let waits = AtomicBool::new(threads > 1 && items == 100);
                team.share_runs(items, |item, next| {
                    assert!(next.is_none_or(|next| next == item + 1 && next < items));
                    // Who has the first item keeps it until all of its run has been taken by
                    // others.
                    while item == 0 && waits.load(Ordering::Relaxed) {
                        std::hint::spin_loop();
                    }
                    if item == 1 {
                        waits.store(false, Ordering::Relaxed);
                    }
                    seen[item].fetch_add(1, Ordering::Relaxed);
                });
                assert!(seen.iter().all(|n| n.load(Ordering::Relaxed) == 1));
            }
        }
    }

    #[test]
    fn every_element_is_changed_once() {
        let team = Team::new(3).unwrap();
        for count in [0, 1, 5, 1000] {
            let mut items: Vec<usize> = (0..count).collect();
            team.share_mut(&mut items, |item| *item *= 2);
            assert!(items.iter().enumerate().all(|(n, item)| *item == 2 * n));
        }
    }

    #[test]
    fn a_panic_reaches_the_caller_and_the_team_goes_on() {
        let team = Team::new(2).unwrap();
        for bad in 0..2 {
            let run = || team.run(|member| assert!(member != bad, "on purpose"));
            assert!(catch_unwind(AssertUnwindSafe(run)).is_err());
            let calls = AtomicUsize::new(0);
            team.run(|_| {
                calls.fetch_add(1, Ordering::Relaxed);
            });
            assert_eq!(calls.load(Ordering::Relaxed), 2);
        }
    }

    #[test]
    fn callers_take_turns() {
        let team = Team::new(2).unwrap();
        let total = AtomicUsize::new(0);
        std::thread::scope(|scope| {
            for _ in 0..3 {
                scope.spawn(|| {
                    for _ in 0..500 {
                        team.run(|_| {
                            total.fetch_add(1, Ordering::Relaxed);
                        });
                    }
                });
            }
        });
        assert_eq!(total.load(Ordering::Relaxed), 3 * 500 * 2);
    }
}
