//! Which packages go when one more comes.

use skep_registry::Digest;

/// The most packages that are kept for others' work: their releases are in memory.
const MOST: usize = 256;

/// One of those of which some may have to go.
#[derive(Clone, Debug)]
pub(super) struct Candidate {
    pub(super) digest: Digest,
    pub(super) bytes: u64,
    pub(super) used: u64,
    pub(super) stays: bool,
}

/// Who goes for one more.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Going {
    pub(super) who: Vec<Digest>,
    /// Whether it has room once they have gone, or only when the store has been swept after that.
    pub(super) is_enough: bool,
}

/// What is to fit in beside what is here.
#[derive(Clone, Copy)]
pub(super) struct Wanted {
    pub(super) bytes: u64,
    pub(super) places: usize,
    pub(super) room: u64,
}

/// Which have to go, that what is wanted fits: those that were not used for longest. `leaving` is what the disk is
/// not rid of yet. `None` if it does not fit as long as those stay that cannot go.
pub(super) fn who_goes(mut here: Vec<Candidate>, leaving: u64, wanted: Wanted) -> Option<Going> {
    here.sort_by_key(|candidate| candidate.used);
    if let Some(who) = oldest(&here, leaving, wanted, |bytes| bytes - bytes / 2) {
        let is_enough = true;
        return Some(Going { who, is_enough });
    }
    // They go nevertheless: if nothing went, the next sweep would make no room, and there would never be any.
    oldest(&here, 0, wanted, |bytes| bytes).map(|who| Going {
        who,
        is_enough: false,
    })
}

/// The first of these that have to go, if the disk is rid at once of what `freed` says of their bytes.
fn oldest(
    here: &[Candidate],
    leaving: u64,
    wanted: Wanted,
    freed: fn(u64) -> u64,
) -> Option<Vec<Digest>> {
    let wide = u128::from;
    let all = here.iter().map(|candidate| wide(candidate.bytes));
    let mut taken = all.sum::<u128>() + wide(leaving) + wide(wanted.bytes);
    let mut count = here.len() + wanted.places;
    let mut going = Vec::new();
    let mut candidates = here.iter().filter(|candidate| !candidate.stays);
    while taken > wide(wanted.room) || count > MOST {
        let candidate = candidates.next()?;
        taken -= wide(freed(candidate.bytes));
        count -= 1;
        going.push(candidate.digest);
    }
    Some(going)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn candidate(number: u8, bytes: u64, used: u64) -> Candidate {
        Candidate {
            digest: Digest::of(&[number]),
            bytes,
            used,
            stays: false,
        }
    }

    fn digests(numbers: &[u8]) -> Vec<Digest> {
        numbers
            .iter()
            .map(|number| Digest::of(&[*number]))
            .collect()
    }

    fn going(numbers: &[u8], is_enough: bool) -> Option<Going> {
        let who = digests(numbers);
        Some(Going { who, is_enough })
    }

    #[test]
    fn those_go_that_were_not_used_for_longest_and_no_more_than_have_to() {
        let here = vec![
            candidate(1, 40, 30),
            candidate(2, 40, 10),
            candidate(3, 20, 20),
        ];
        let goes = |here: &[Candidate], leaving, bytes| {
            let (places, room) = (1, 100);
            let wanted = Wanted {
                bytes,
                places,
                room,
            };
            who_goes(here.to_vec(), leaving, wanted)
        };
        assert_eq!(goes(&here[..2], 0, 20), going(&[], true), "it fits");
        // Half of what goes is on the disk until the next sweep.
        assert_eq!(goes(&here, 0, 20), going(&[2], true));
        assert_eq!(goes(&here, 0, 21), going(&[2, 3], true));
        assert_eq!(goes(&here, 0, 50), going(&[2, 3, 1], true));
        // And so is what went before.
        assert_eq!(goes(&here, 10, 20), going(&[2, 3], true));
        // What has room only after that sweep has as many go as that takes, and nobody for the sake of what
        // is leaving.
        assert_eq!(goes(&here, 0, 51), going(&[2, 3], false));
        assert_eq!(goes(&here, 0, 100), going(&[2, 3, 1], false));
        assert_eq!(goes(&here, 60, 20), going(&[2], false));
        assert_eq!(goes(&[], 60, 100), going(&[], false));
        let mut held = here.clone();
        held[1].stays = true;
        assert_eq!(goes(&held, 0, 10), going(&[3], true));
        assert_eq!(goes(&held, 0, 31), going(&[3, 1], false));
        assert_eq!(goes(&held, 0, 61), None, "what is in use stays");
    }

    #[test]
    fn there_are_no_more_packages_than_the_most_however_small() {
        let here: Vec<Candidate> = (0..=255).map(|n| candidate(n, 1, u64::from(n))).collect();
        assert_eq!(here.len(), MOST);
        let goes = |places| {
            let (bytes, room) = (1, u64::MAX);
            let wanted = Wanted {
                bytes,
                places,
                room,
            };
            who_goes(here.clone(), 0, wanted)
        };
        assert_eq!(goes(1), going(&[0], true));
        assert_eq!(goes(0), going(&[], true), "a blob takes no place");
    }
}
