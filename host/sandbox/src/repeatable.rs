//! Runs that give the same bytes whoever repeats them: with a seed, the guest's randomness grows
//! from it, and its clocks tell how often they were asked and not the time.
//!
//! Texts are written from the prompt's first token on, whatever the node remembers of it, and are
//! told as a whole, because pieces come as the node's batches have it. The engine does the rest: a
//! text is the same beside whatever others.
//!
//! What a guest could see of the machine besides is what it is refused for want of room, and what failed. A
//! repeatable run in which that happened has no result.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use wasmtime_wasi::WasiCtxBuilder;
use wasmtime_wasi::clocks::{HostMonotonicClock, HostWallClock};
use wasmtime_wasi::random::Deterministic;

use crate::error::RunError;
use crate::state::State;

/// Random bytes before they come again.
const RANDOM: usize = 64 << 10;
/// What passes from one look at a clock to the next, in nanoseconds.
const STEP: u64 = 1_000_000;
/// When time begins: 2020, in seconds since 1970, so that no program takes it for unset.
const BEGIN: u64 = 1_577_836_800;

/// What a component may import so that its runs can be repeated: nothing of other nodes, and no
/// streams, whose pieces depend on what else is being written.
const REPEATABLE: [&str; 7] = [
    "skep:types/",
    "skep:tensor/tensors",
    "skep:model/encoders@",
    "skep:model/text@",
    "skep:workload/",
    "skep:verify/",
    "wasi:",
];

/// Whether runs of a component with these imports can be repeated.
pub(crate) fn can_be(imports: &[String]) -> bool {
    let is_known = |import: &String| REPEATABLE.iter().any(|known| import.starts_with(known));
    imports.iter().all(is_known)
}

/// Whether texts are all that differs between such runs on machines of different kinds: tensors and
/// embeddings do as well.
pub(crate) fn but_for_texts(imports: &[String]) -> bool {
    let begins = |name: &str| imports.iter().any(|import| import.starts_with(name));
    begins("skep:model/text@") && !begins("skep:tensor/") && !begins("skep:model/encoders@")
}

/// Has randomness and time grow from a seed.
pub(crate) fn set_up(wasi: &mut WasiCtxBuilder, seed: u64) {
    let random = |purpose| {
        let mut hash = blake3::Hasher::new_derive_key(purpose);
        hash.update(&seed.to_le_bytes());
        let mut bytes = vec![0; RANDOM];
        hash.finalize_xof().fill(&mut bytes);
        bytes
    };
    let number = random("skep repeatable run, insecure seed v1");
    let mut first = [0; 16];
    first.copy_from_slice(&number[..16]);
    wasi.secure_random(Deterministic::new(random(
        "skep repeatable run, secure randomness v1",
    )))
    .insecure_random(Deterministic::new(random(
        "skep repeatable run, insecure randomness v1",
    )))
    .insecure_random_seed(u128::from_le_bytes(first))
    .wall_clock(Wall(Counting::default()))
    .monotonic_clock(Counting::default());
}

/// The seed of the `number`th request of a run that did not name one, in a repeatable run.
pub(crate) fn text_seed(seed: u64, number: u64) -> u64 {
    let mut hash = blake3::Hasher::new_derive_key("skep repeatable run, seeds of texts v1");
    hash.update(&seed.to_le_bytes());
    hash.update(&number.to_le_bytes());
    let mut bytes = [0; 8];
    hash.finalize_xof().fill(&mut bytes);
    u64::from_le_bytes(bytes)
}

/// Why a repeatable run that ended early says nothing of the guest, if it does not: on another machine it might
/// not have failed, or it is one whose texts cannot be shown.
pub(crate) fn why_it_ended(state: &State) -> Option<RunError> {
    if state.showing.lacks_some() {
        return Some(RunError::Unshown);
    }
    let met_a_busy_node = state.spec.seed.is_some() && state.was_busy;
    met_a_busy_node.then_some(RunError::Unrepeatable)
}

/// Ends a repeatable run in which the guest could have seen how much room this machine has, or that
/// something of it failed.
pub(crate) fn check(state: &State) -> Result<(), RunError> {
    let saw_a_limit = state.refused.is_some() || state.memory.refused.is_some();
    let saw_the_machine = state.spec.seed.is_some() && (saw_a_limit || state.had_fault);
    match why_it_ended(state) {
        Some(error) => Err(error),
        None if saw_the_machine => Err(RunError::Unrepeatable),
        None => Ok(()),
    }
}

/// Time as the number of looks at it.
#[derive(Default)]
struct Counting(AtomicU64);

impl Counting {
    fn look(&self) -> u64 {
        self.0.fetch_add(STEP, Ordering::Relaxed)
    }
}

impl HostMonotonicClock for Counting {
    fn resolution(&self) -> u64 {
        STEP
    }

    fn now(&self) -> u64 {
        self.look()
    }
}

struct Wall(Counting);

impl HostWallClock for Wall {
    fn resolution(&self) -> Duration {
        Duration::from_nanos(STEP)
    }

    fn now(&self) -> Duration {
        Duration::from_secs(BEGIN) + Duration::from_nanos(self.0.look())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_depends_on_others_cannot_be_repeated() {
        let imports = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        let classifier: Vec<String> = imports(&[
            "skep:types/types@0.1.0",
            "skep:tensor/tensors@0.1.0",
            "skep:model/encoders@0.1.0",
            "skep:model/text@0.1.0",
            "wasi:clocks/monotonic-clock@0.2.6",
            "wasi:random/random@0.2.6",
        ]);
        assert!(can_be(&classifier) && !but_for_texts(&classifier));
        let writer = imports(&["skep:model/text@0.1.0", "wasi:random/random@0.2.6"]);
        assert!(can_be(&writer) && but_for_texts(&writer));
        assert!(!but_for_texts(&writer[1..]), "there is nothing to follow");
        for other in [
            "skep:model/text-streams@0.1.0",
            "skep:adapter/adapters@0.1.0",
            "skep:swarm/blobs@0.1.0",
            "skep:jobs/jobs@0.1.0",
            "skep:train/training@0.1.0",
        ] {
            let with: Vec<String> = [classifier.clone(), imports(&[other])].concat();
            assert!(!can_be(&with), "{other}");
        }
    }

    #[test]
    fn texts_of_one_run_have_seeds_of_their_own_and_the_same_again() {
        let seeds: Vec<u64> = (0..4).map(|number| text_seed(7, number)).collect();
        assert_eq!(seeds, (0..4).map(|n| text_seed(7, n)).collect::<Vec<_>>());
        assert_ne!(seeds[0], seeds[1]);
        assert_ne!(seeds[0], text_seed(8, 0));
    }

    #[test]
    fn clocks_count_and_do_not_tell_the_time() {
        let clock = Counting::default();
        let first = HostMonotonicClock::now(&clock);
        assert_eq!(HostMonotonicClock::now(&clock), first + STEP);
        let wall = Wall(Counting::default());
        let (one, two) = (HostWallClock::now(&wall), HostWallClock::now(&wall));
        assert_eq!(one, Duration::from_secs(BEGIN));
        assert_eq!(two - one, Duration::from_nanos(STEP));
    }
}
