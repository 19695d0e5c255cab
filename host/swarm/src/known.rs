//! The announcements of others that a node remembers: so many, and so many from each who passes
//! them on.
//!
//! # What it must never do
//!
//! - Grow beyond [`MAX_KNOWN`], whatever others send.
//! - Let one peer push out what others said, while it has said more than its share.

use std::collections::{HashMap, VecDeque};

use crate::announcement::SignedAnnouncement;
use crate::discovery::{Chance, Want};
use crate::ids::{NodeId, ProviderAddr};

/// The most nodes that are remembered.
pub(crate) const MAX_KNOWN: usize = 1024;
/// The most of these that one peer may have brought.
pub(crate) const MAX_FROM_ONE: usize = 256;
/// The most nodes of which it is remembered that they have gone.
const MAX_GONE: usize = 1024;

struct Entry {
    signed: SignedAnnouncement,
    /// Who brought it: the node itself, if it ever came from that.
    from: NodeId,
    /// When, as a count of what was learned.
    order: u64,
}

/// What other nodes say of themselves.
#[derive(Default)]
pub(crate) struct Known {
    entries: HashMap<NodeId, Entry>,
    /// Nodes that did not answer, with the announcement that was good when they did not: others
    /// may go on passing it on.
    gone: VecDeque<(NodeId, u64)>,
    learned: u64,
}

impl Known {
    /// Takes in what `from` said or passed on, which has been checked. Returns whether it is news.
    pub(crate) fn learn(&mut self, signed: SignedAnnouncement, from: NodeId, now: u64) -> bool {
        let announcement = &signed.announcement;
        let (node, issued) = (announcement.node(), announcement.issued());
        if announcement.expires() <= now
            || (node != from
                && self
                    .gone
                    .iter()
                    .any(|(id, at)| *id == node && issued <= *at))
        {
            return false;
        }
        self.learned += 1;
        let order = self.learned;
        if let Some(entry) = self.entries.get_mut(&node) {
            // An older one that comes again changes nothing.
            let is_news = issued > entry.signed.announcement.issued();
            if is_news {
                entry.signed = signed;
            }
            if node == from {
                entry.from = from;
            }
            return is_news;
        }
        self.make_room(from, now);
        let entry = Entry {
            signed,
            from,
            order,
        };
        self.entries.insert(node, entry);
        true
    }

    /// Leaves room for one more from this peer.
    fn make_room(&mut self, from: NodeId, now: u64) {
        let theirs = self.entries.values().filter(|entry| entry.from == from);
        let one_of = if theirs.count() >= MAX_FROM_ONE {
            from
        } else {
            if self.entries.len() < MAX_KNOWN {
                return;
            }
            let alive = |entry: &mut Entry| entry.signed.announcement.expires() > now;
            self.entries.retain(|_, entry| alive(entry));
            if self.entries.len() < MAX_KNOWN {
                return;
            }
            let mut counts: HashMap<NodeId, usize> = HashMap::new();
            for entry in self.entries.values() {
                *counts.entry(entry.from).or_default() += 1;
            }
            match counts.into_iter().max_by_key(|(_, count)| *count) {
                Some((most, _)) => most,
                None => return,
            }
        };
        let theirs = self.entries.iter().filter(|(_, e)| e.from == one_of);
        let oldest = theirs.min_by_key(|(_, entry)| entry.order);
        if let Some(oldest) = oldest.map(|(node, _)| *node) {
            self.entries.remove(&oldest);
        }
    }

    /// Forgets a node that did not answer, until it announces itself anew. Only if it was tried wherever
    /// it says that it is: others may say that it is somewhere else.
    pub(crate) fn forget(&mut self, tried: &ProviderAddr) {
        let node = tried.id;
        let Some(entry) = self.entries.get(&node) else {
            return;
        };
        let issued = entry.signed.announcement.issued();
        if !entry.signed.announcement.addr().is_within(tried) {
            return;
        }
        self.entries.remove(&node);
        self.gone.retain(|(id, _)| *id != node);
        if self.gone.len() == MAX_GONE {
            self.gone.pop_front();
        }
        self.gone.push_back((node, issued));
    }

    /// Whether these very bytes are known of this node. If it is the node that says them, that is noted.
    pub(crate) fn hears_again(&mut self, node: NodeId, bytes: &[u8], from: NodeId) -> bool {
        let entry = self.entries.get_mut(&node);
        let Some(entry) = entry.filter(|entry| entry.signed.bytes == bytes) else {
            return false;
        };
        if node == from {
            entry.from = from;
        }
        true
    }

    /// Whether a node says that it has this; `None` if nothing that is still good is known of it.
    pub(crate) fn says(&self, node: &NodeId, want: &Want, now: u64) -> Option<bool> {
        let announcement = &self.entries.get(node)?.signed.announcement;
        (announcement.expires() > now).then(|| announcement.has(want))
    }

    /// Whether a node has this, by what it says.
    pub(crate) fn chance(&self, node: &NodeId, want: &Want, now: u64) -> Chance {
        let entry = self.entries.get(node);
        let has_rather = entry.is_some_and(|its| its.signed.announcement.has_rather(want));
        match self.says(node, want, now) {
            Some(true) if has_rather => Chance::SaysRather,
            says => Chance::by(says),
        }
    }

    /// Nodes that say they have this, each with who told of it: the node itself, if it ever did.
    pub(crate) fn having(&self, want: &Want, now: u64) -> Vec<(ProviderAddr, NodeId)> {
        let entries = self.entries.values();
        let having = entries.filter(|entry| {
            let announcement = &entry.signed.announcement;
            announcement.expires() > now && announcement.has(want)
        });
        having
            .map(|entry| (entry.signed.announcement.addr(), entry.from))
            .collect()
    }

    /// What others may be told: of nodes that have announced themselves here, which so are there. Whoever
    /// makes keys and signs for them would otherwise fill with them what everybody remembers, and each of
    /// those who passed them on would seem to have brought them.
    pub(crate) fn passed_on(&self, now: u64) -> impl Iterator<Item = &SignedAnnouncement> {
        let own = self
            .entries
            .iter()
            .filter(|(node, entry)| entry.from == **node);
        let signed = own.map(|(_, entry)| &entry.signed);
        signed.filter(move |signed| signed.announcement.expires() > now)
    }

    /// All whose time is not over.
    pub(crate) fn alive(&self, now: u64) -> impl Iterator<Item = &SignedAnnouncement> {
        let signed = self.entries.values().map(|entry| &entry.signed);
        signed.filter(move |signed| signed.announcement.expires() > now)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use skep_registry::Digest;

    use super::*;
    use crate::announcement::LIFE;
    use crate::announcement::tests::{NOW, key, signed};
    use crate::topic::Topic;

    fn id(seed: u16) -> NodeId {
        key(seed).public().into()
    }

    /// Where it says that it is.
    fn at(seed: u16) -> ProviderAddr {
        signed(seed, &[], NOW).announcement.addr()
    }

    #[test]
    fn an_older_announcement_changes_nothing_and_an_expired_one_is_gone() {
        let mut known = Known::default();
        assert!(known.learn(signed(1, &[], NOW), id(9), NOW));
        assert!(!known.learn(signed(1, &[], NOW), id(9), NOW), "replayed");
        assert!(!known.learn(signed(1, &[], NOW - 60), id(9), NOW), "older");
        assert!(known.learn(signed(1, &[], NOW + 60), id(9), NOW));
        assert_eq!(known.having(&Want::Anything, NOW + LIFE).len(), 1);
        assert!(known.having(&Want::Anything, NOW + LIFE + 60).is_empty());
        assert!(!known.learn(signed(2, &[], NOW), id(9), NOW + LIFE));
    }

    #[test]
    fn what_a_node_says_counts_while_it_is_good() {
        let mut known = Known::default();
        let digest = Digest::of(b"a model");
        let (has, lacks) = (Want::Blob(digest), Want::Release(digest));
        known.learn(
            signed(1, &[Topic::blob(digest.as_bytes())], NOW),
            id(9),
            NOW,
        );
        assert_eq!(known.says(&id(1), &has, NOW), Some(true));
        assert_eq!(known.says(&id(1), &lacks, NOW), Some(false));
        assert_eq!(known.says(&id(1), &has, NOW + LIFE), None, "it is over");
        assert_eq!(known.says(&id(2), &has, NOW), None, "nobody has said it");
    }

    #[test]
    fn a_node_that_has_gone_comes_back_by_its_own_word_only() {
        let mut known = Known::default();
        known.learn(signed(1, &[], NOW), id(9), NOW);
        known.forget(&at(1));
        assert!(!known.learn(signed(1, &[], NOW), id(9), NOW));
        assert!(known.learn(signed(1, &[], NOW + 1), id(9), NOW));
        known.forget(&at(1));
        assert!(
            known.learn(signed(1, &[], NOW + 1), id(1), NOW),
            "from itself"
        );
    }

    #[test]
    fn a_node_that_does_not_answer_where_others_say_it_is_is_remembered() {
        let mut known = Known::default();
        known.learn(signed(1, &[], NOW), id(9), NOW);
        let elsewhere = ProviderAddr {
            id: id(1),
            addrs: at(2).addrs,
        };
        let nowhere = ProviderAddr {
            id: id(1),
            addrs: Vec::new(),
        };
        for tried in [&elsewhere, &nowhere] {
            known.forget(tried);
            assert_eq!(known.having(&Want::Anything, NOW), [(at(1), id(9))]);
        }
        assert!(known.gone.is_empty(), "others may go on telling of it");
        let both = ProviderAddr {
            id: id(1),
            addrs: [at(2).addrs, at(1).addrs].concat(),
        };
        known.forget(&both);
        assert!(known.having(&Want::Anything, NOW).is_empty());
    }

    #[test]
    fn only_who_has_announced_itself_here_is_passed_on() {
        let mut known = Known::default();
        let passed_on = |known: &Known| {
            let passed_on = known
                .passed_on(NOW)
                .map(|signed| signed.announcement.node());
            passed_on.collect::<Vec<_>>()
        };
        known.learn(signed(1, &[], NOW), id(9), NOW);
        assert_eq!(passed_on(&known), []);
        let bytes = signed(1, &[], NOW).bytes;
        // Somebody else says the same, or the node itself something else.
        assert!(known.hears_again(id(1), &bytes, id(8)));
        assert!(!known.hears_again(id(1), &bytes[1..], id(1)));
        assert_eq!(passed_on(&known), []);
        assert!(known.hears_again(id(1), &bytes, id(1)));
        assert_eq!(passed_on(&known), [id(1)]);
        // It was there, whoever brings what it says later.
        assert!(known.learn(signed(1, &[], NOW + 1), id(9), NOW));
        assert_eq!(passed_on(&known), [id(1)]);
        assert!(known.learn(signed(2, &[], NOW), id(2), NOW));
        assert_eq!(known.passed_on(NOW).count(), 2);
        assert_eq!(known.passed_on(NOW + 1 + LIFE).count(), 0);
    }

    #[test]
    fn a_flood_from_one_peer_pushes_out_its_own_only() {
        let mut known = Known::default();
        for seed in 0..20 {
            assert!(known.learn(signed(seed, &[], NOW), id(seed), NOW));
        }
        for seed in 1000..1000 + 2 * u16::try_from(MAX_KNOWN).unwrap() {
            known.learn(signed(seed, &[], NOW), id(999), NOW);
        }
        assert_eq!(known.entries.len(), 20 + MAX_FROM_ONE);
        assert!((0..20).all(|seed| known.entries.contains_key(&id(seed))));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(8))]
        #[test]
        fn no_order_of_any_announcements_grows_it(
            steps in prop::collection::vec((0_u16..3000, 0_u16..12, 0_u64..9), 3000)
        ) {
            let mut known = Known::default();
            for (seed, from, later) in steps {
                known.learn(signed(seed, &[], NOW + later), id(from + 4000), NOW);
                if later == 8 {
                    known.forget(&at(seed));
                }
                prop_assert!(known.entries.len() <= MAX_KNOWN);
                prop_assert!(known.gone.len() <= MAX_GONE);
            }
            let mut counts = HashMap::new();
            for entry in known.entries.values() {
                *counts.entry(entry.from).or_insert(0) += 1;
            }
            prop_assert!(counts.values().all(|count| *count <= MAX_FROM_ONE));
        }
    }
}
