//! The order in which nodes are taken that others have told of: by turns, so that nobody gets far ahead by
//! telling of many.

use std::collections::BTreeMap;

use rand::seq::SliceRandom;

use crate::ids::NodeId;

/// Each of these is told of by somebody: first one of each who told, then a second of each who told of more, and so on,
/// each time in an order that is not always the same.
pub(crate) fn in_turns<T>(mut told: Vec<(T, NodeId)>) -> Vec<(T, NodeId)> {
    told.shuffle(&mut rand::rng());
    let mut turns: BTreeMap<NodeId, usize> = BTreeMap::new();
    let numbered = told.into_iter().map(|(what, from)| {
        let turn = turns.entry(from).or_default();
        *turn += 1;
        (*turn, (what, from))
    });
    let mut numbered: Vec<_> = numbered.collect();
    numbered.sort_by_key(|(turn, _)| *turn);
    numbered.into_iter().map(|(_, told)| told).collect()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::announcement::tests::key;

    #[test]
    fn who_tells_of_many_has_no_more_turns_than_others() {
        let [loud, quiet, shy] = [1, 2, 3].map(|seed| NodeId::from(key(seed).public()));
        let of = |from: NodeId, count: usize| (0..count).map(move |number| ((from, number), from));
        let told: Vec<_> = of(loud, 100)
            .chain(of(quiet, 2))
            .chain(of(shy, 1))
            .collect();
        let all: BTreeSet<_> = told.iter().copied().collect();
        let order = in_turns(told);
        assert_eq!(order.iter().copied().collect::<BTreeSet<_>>(), all);
        let from = |part: &[((NodeId, usize), NodeId)]| {
            let from: BTreeSet<NodeId> = part.iter().map(|(_, from)| *from).collect();
            from
        };
        assert_eq!(from(&order[..3]), BTreeSet::from([loud, quiet, shy]));
        assert_eq!(from(&order[3..5]), BTreeSet::from([loud, quiet]));
        assert_eq!(from(&order[5..]), BTreeSet::from([loud]));
    }
}
