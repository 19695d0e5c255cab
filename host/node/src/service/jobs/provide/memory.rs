//! How much memory a run of others has here, for the announcement.

use skep_registry::Limits;
use skep_sandbox::RunLimits;
use sysinfo::System;

/// The most memory that a run has, in bytes: what the owner allows each, as far as the machine has it.
pub(super) fn most(owner: &Limits) -> u64 {
    let allowed = RunLimits::of(&Limits::default(), owner).memory;
    machine().map_or(allowed, |machine| allowed.min(machine))
}

/// The memory of the machine in bytes, or of that part of it in which this process is kept. Nothing where that
/// cannot be found out.
fn machine() -> Option<u64> {
    let mut system = System::new();
    system.refresh_memory();
    let kept_in = system.cgroup_limits().map(|limits| limits.total_memory);
    let sizes = kept_in.into_iter().chain([system.total_memory()]);
    sizes.filter(|bytes| *bytes > 0).min()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn owner(memory: Option<u64>) -> Limits {
        Limits {
            memory,
            ..Limits::default()
        }
    }

    #[test]
    fn no_more_memory_is_announced_than_a_run_has() {
        assert_eq!(most(&owner(Some(3 << 20))), 3 << 20);
        // Who says nothing allows what every run has.
        assert!(most(&owner(None)) <= RunLimits::default().memory);
        // And nobody has what the machine has not.
        let generous = most(&owner(Some(u64::MAX)));
        assert_eq!(Some(generous), machine());
        assert!((1 << 20..1 << 50).contains(&generous), "{generous}");
    }
}
