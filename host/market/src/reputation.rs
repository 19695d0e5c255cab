//! What a node has seen of another: how often it delivered or failed, whether it lied, and whether it is doubted.
//!
//! It is one node's own memory. Nobody's word counts in it, so that nobody can be praised or
//! slandered by friends and enemies; what others can prove is a matter of stake, not of this.
//!
//! A lie is what a panel or the liar's own signatures show. That others made something else than a node did shows that
//! somebody lied, and not who: accounts cost nothing, and two that lie alike have whoever is honest be outvoted. So it
//! is a *doubt*. Who is doubted is asked after all who are not, and once others get what it got it is doubted no more.

/// What was seen of one provider.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Reputation {
    delivered: u32,
    failed: u32,
    lied: bool,
    doubted: bool,
}

/// One thing that was seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Conduct {
    /// A result in time that nobody found wrong.
    Delivered,
    /// No result, nothing that is one, or too late.
    Failed,
    /// A result that an audit found wrong, or statements of which everybody can see that they contradict each other.
    Lied,
    /// A result that is another than what enough others got, of which no audit found anything.
    Outvoted,
    /// A result that others got as well, which were to make the same or to look at it.
    Agreed,
}

/// Beyond so many, earlier ones count half: what a node did long ago matters less and less.
const MEMORY: u32 = 256;

/// Whoever is less likely to deliver, in millionths, mostly fails: below one in three, which is what one failure makes
/// of whom nothing else is known.
const MOSTLY_FAILS: u32 = 333_333;

impl Reputation {
    /// Adds something that was seen.
    pub fn note(&mut self, conduct: Conduct) {
        match conduct {
            Conduct::Delivered => self.delivered += 1,
            Conduct::Failed => self.failed += 1,
            Conduct::Lied => self.lied = true,
            Conduct::Outvoted => self.doubted = true,
            Conduct::Agreed => self.doubted = false,
        }
        if self.delivered + self.failed > MEMORY {
            self.delivered /= 2;
            self.failed /= 2;
        }
    }

    /// As it is kept: how often it delivered and failed, and whether it lied.
    pub(crate) fn parts(self) -> (u32, u32, bool) {
        (self.delivered, self.failed, self.lied)
    }

    pub(crate) fn from_parts((delivered, failed, lied): (u32, u32, bool), doubted: bool) -> Self {
        // What a file says may be anything, and is not to overflow later.
        Self {
            delivered: delivered.min(MEMORY),
            failed: failed.min(MEMORY),
            lied,
            doubted,
        }
    }

    /// Whether it may be given work at all: one lie ends that.
    #[must_use]
    pub fn is_trusted(&self) -> bool {
        !self.lied
    }

    /// Whether others got something else than it did, and nobody has agreed with it since: it is asked last.
    #[must_use]
    pub fn is_doubted(&self) -> bool {
        self.doubted
    }

    /// Whether it delivered more often than not: to have done so costs work, which an account does not.
    #[must_use]
    pub fn is_proven(&self) -> bool {
        self.delivered > self.failed
    }

    /// Whether so little came of what it was given that it is asked after all of whom more comes: two failures and
    /// nothing that was delivered are enough.
    #[must_use]
    pub fn mostly_fails(&self) -> bool {
        self.reliability() < MOSTLY_FAILS
    }

    /// How likely it delivers, in millionths, by Laplace's rule: one half of whom nothing is
    /// known.
    #[must_use]
    pub fn reliability(&self) -> u32 {
        let (good, all) = (
            u64::from(self.delivered),
            u64::from(self.delivered + self.failed),
        );
        u32::try_from((good + 1) * 1_000_000 / (all + 2)).unwrap_or(1_000_000)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_follows_what_was_seen_and_forgets_slowly() {
        let mut reputation = Reputation::default();
        assert_eq!(reputation.reliability(), 500_000);
        (0..100).for_each(|_| reputation.note(Conduct::Delivered));
        assert!(reputation.reliability() > 985_000);
        (0..100).for_each(|_| reputation.note(Conduct::Failed));
        assert_eq!(reputation.reliability(), 500_000);
        (0..1_000).for_each(|_| reputation.note(Conduct::Delivered));
        assert!(
            reputation.reliability() > 940_000,
            "{}",
            reputation.reliability()
        );
        reputation.note(Conduct::Lied);
        (0..1_000).for_each(|_| reputation.note(Conduct::Delivered));
        assert!(!reputation.is_trusted());
    }

    #[test]
    fn one_failure_is_not_most_of_it() {
        let mut reputation = Reputation::default();
        assert!(!reputation.mostly_fails());
        reputation.note(Conduct::Failed);
        assert!(!reputation.mostly_fails());
        reputation.note(Conduct::Failed);
        assert!(reputation.mostly_fails());
        // What it delivers makes up for that.
        reputation.note(Conduct::Delivered);
        assert!(!reputation.mostly_fails());
    }

    #[test]
    fn a_doubt_is_no_lie_and_ends_when_others_agree() {
        let mut reputation = Reputation::default();
        reputation.note(Conduct::Outvoted);
        assert!(reputation.is_doubted() && reputation.is_trusted());
        // Nobody has looked at what it delivers alone.
        reputation.note(Conduct::Delivered);
        assert!(reputation.is_doubted());
        reputation.note(Conduct::Agreed);
        assert!(!reputation.is_doubted());
        let mut delivered = Reputation::default();
        delivered.note(Conduct::Delivered);
        assert_eq!(reputation, delivered, "nothing is left of it");
        reputation.note(Conduct::Lied);
        reputation.note(Conduct::Agreed);
        assert!(!reputation.is_trusted(), "of a lie there is");
    }
}
