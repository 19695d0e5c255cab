//! In which ways nodes train together, and when each asks them to say something.

use std::ops::Range;

use serde::{Deserialize, Serialize};

use crate::demo::DemoConfig;
use crate::diloco::{DilocoConfig, Turn};
use crate::guard::{Guard, TIMES};

/// How many times the median is believed of what single steps come to: gradients of one batch
/// differ more than what many steps have moved by, above all once most texts are known.
const TIMES_OF_A_STEP: f64 = 20.0;

/// A way of training together.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub enum Method {
    /// Steps of one's own, and now and then one together.
    Diloco(DilocoConfig),
    /// Every step together, by the largest frequencies of momenta.
    Demo(DemoConfig),
    /// Every step together, by the mean of all gradients.
    AllReduce,
}

impl Method {
    /// What it is called.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Diloco(_) => "diloco",
            Self::Demo(_) => "demo",
            Self::AllReduce => "all-reduce",
        }
    }

    /// Which of a node's steps, counted from 0, are those since its contribution before the one in
    /// this turn, with turns counted from its first.
    #[must_use]
    pub fn steps_before(&self, turn: Turn) -> Range<u64> {
        let Self::Diloco(how) = self else {
            return u64::from(turn.round)..u64::from(turn.round) + 1;
        };
        let from = match (turn.fragment.checked_sub(1), turn.round.checked_sub(1)) {
            (Some(fragment), _) => how.steps_at(Turn { fragment, ..turn }),
            (None, Some(round)) => how.steps_at(Turn {
                round,
                fragment: how.fragments.saturating_sub(1),
            }),
            (None, None) => 0,
        };
        from..how.steps_at(turn)
    }

    /// Which steps a node may have made that ends after its contribution before these.
    #[must_use]
    pub fn steps_at_the_end(&self, from: u64) -> Range<u64> {
        match self {
            // At the next turn it would have said so.
            Self::Diloco(how) => from..how.sends_next(from).saturating_sub(1).max(from),
            Self::Demo(_) | Self::AllReduce => from..from,
        }
    }

    /// Who decides whose contributions are believed.
    #[must_use]
    pub fn guard(&self) -> Guard {
        match self {
            Self::Diloco(_) => Guard::new(TIMES),
            Self::Demo(_) | Self::AllReduce => Guard::new(TIMES_OF_A_STEP),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn between_two_contributions_lie_all_steps_once() {
        let streamed = DilocoConfig {
            every: 10,
            fragments: 4,
            ..DilocoConfig::default()
        };
        let whole = DilocoConfig {
            every: 3,
            ..DilocoConfig::default()
        };
        let demo = Method::Demo(DemoConfig::default());
        for (method, fragments) in [
            (Method::Diloco(streamed), 4),
            (Method::Diloco(whole), 1),
            (demo, 1),
            (Method::AllReduce, 1),
        ] {
            let mut next = 0;
            for round in 0..3 {
                for fragment in 0..fragments {
                    let steps = method.steps_before(Turn { round, fragment });
                    assert!(steps.start == next && !steps.is_empty(), "{method:?}");
                    next = steps.end;
                }
            }
        }
        // Between turns after 2, 5, 7 and 10 steps.
        let ends = [0, 2, 5, 17].map(|from| Method::Diloco(streamed).steps_at_the_end(from));
        assert_eq!(ends, [0..1, 2..4, 5..6, 17..19]);
        assert_eq!(Method::Diloco(whole).steps_at_the_end(6), 6..8);
        assert_eq!(demo.steps_at_the_end(6), 6..6);
        let last = Turn {
            round: u32::MAX,
            fragment: 0,
        };
        assert_eq!(demo.steps_before(last).count(), 1);
    }
}
