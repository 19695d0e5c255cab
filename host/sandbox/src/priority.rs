//! The standing of threads with the operating system's scheduler, and the time they have had.
//!
//! Guests run below everything else on the machine: a guest that spins takes only what neither
//! the owner's own programs nor the node's device work want. On systems other than Linux the
//! standing is left as it is.

use std::time::Duration;

/// The niceness of compilers.
pub(crate) const COMPILER: i32 = 10;

/// Lowers the calling thread to the given niceness. It cannot be raised again.
#[cfg(target_os = "linux")]
pub(crate) fn lower_this_thread(niceness: i32) {
    // SAFETY: `setpriority` takes no pointers. On Linux, `PRIO_PROCESS` with 0 names the
    // calling thread alone. Failing leaves the standing as it was, which is safe.
    unsafe {
        libc::setpriority(libc::PRIO_PROCESS, 0, niceness);
    }
}

/// Lowers the calling thread to the given niceness: not on this system.
#[cfg(not(target_os = "linux"))]
pub(crate) fn lower_this_thread(_niceness: i32) {}

/// Lets the calling thread run only where nothing else wants to. That is more than the lowest
/// priority: whatever else wakes takes such a processor for a free one, where otherwise two
/// threads of a neighbour's model may meet on one processor while a guest that spins keeps
/// another. It cannot be raised again.
#[cfg(target_os = "linux")]
pub(crate) fn idle_this_thread() {
    lower_this_thread(19);
    let parameters = libc::sched_param { sched_priority: 0 };
    // SAFETY: `parameters` is valid for the length of the call, and 0 names the calling thread.
    // Failing leaves the standing as it was, which is safe.
    unsafe {
        libc::sched_setscheduler(0, libc::SCHED_IDLE, &parameters);
    }
}

/// Lets the calling thread run only where nothing else wants to: not on this system.
#[cfg(not(target_os = "linux"))]
pub(crate) fn idle_this_thread() {}

/// The time that the calling thread has had on a processor; none where that is not known.
#[cfg(unix)]
pub(crate) fn thread_time() -> Option<Duration> {
    let mut time = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: `time` is a valid place for a `timespec` for the length of the call.
    let result = unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &mut time) };
    if result != 0 {
        return None;
    }
    Some(Duration::new(
        u64::try_from(time.tv_sec).ok()?,
        u32::try_from(time.tv_nsec).ok()?,
    ))
}

/// The time that the calling thread has had on a processor: not known on this system.
#[cfg(not(unix))]
pub(crate) fn thread_time() -> Option<Duration> {
    None
}
