//! What a node has seen of another: how often it delivered, failed, or lied.
//!
//! It is one node's own memory. Nobody's word counts in it, so that nobody can be praised or
//! slandered by friends and enemies; what others can prove is a matter of stake, not of this.

/// What was seen of one provider.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Reputation {
    delivered: u32,
    failed: u32,
    lied: bool,
}

/// One thing that was seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Conduct {
    /// A result in time that nobody found wrong.
    Delivered,
    /// No result, nothing that is one, or too late.
    Failed,
    /// A result that an audit or a majority found wrong, or statements of which everybody can see that they
    /// contradict each other.
    Lied,
}

/// Beyond so many, earlier ones count half: what a node did long ago matters less and less.
const MEMORY: u32 = 256;

impl Reputation {
    /// Adds something that was seen.
    pub fn note(&mut self, conduct: Conduct) {
        match conduct {
            Conduct::Delivered => self.delivered += 1,
            Conduct::Failed => self.failed += 1,
            Conduct::Lied => self.lied = true,
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

    pub(crate) fn from_parts((delivered, failed, lied): (u32, u32, bool)) -> Self {
        // What a file says may be anything, and is not to overflow later.
        Self {
            delivered: delivered.min(MEMORY),
            failed: failed.min(MEMORY),
            lied,
        }
    }

    /// Whether it may be given work at all: one lie ends that.
    #[must_use]
    pub fn is_trusted(&self) -> bool {
        !self.lied
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
}
