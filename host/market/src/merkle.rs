//! Merkle trees over BLAKE3: one digest for a list, and short proofs that something is in it.
//!
//! Leaves and inner nodes are hashed under different words, so that neither passes for the other.
//! The last node of an odd level goes up as it is, and the number of leaves is hashed into the
//! root: no two lists have the same root, and a proof fits one place only.

use skep_registry::Digest;

const LEAF: &str = "skep merkle leaf v1";
const NODE: &str = "skep merkle node v1";
const ROOT: &str = "skep merkle root v1";

/// A tree over a list of byte strings.
#[derive(Clone, Debug)]
pub struct Tree {
    /// From the leaves to the top; the top has one node, or none if the list is empty.
    levels: Vec<Vec<Digest>>,
}

/// The proof that something is at a place of a list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Inclusion {
    /// Which place.
    pub place: u64,
    /// How long the list is.
    pub count: u64,
    /// The nodes beside the way up, from the leaf on.
    pub beside: Vec<Digest>,
}

impl Tree {
    /// The tree over `leaves`.
    pub fn new<T: AsRef<[u8]>>(leaves: impl IntoIterator<Item = T>) -> Self {
        let mut level: Vec<Digest> = leaves.into_iter().map(|l| leaf(l.as_ref())).collect();
        let mut levels = Vec::new();
        while level.len() > 1 {
            let above = level
                .chunks(2)
                .map(|pair| match pair {
                    [left, right] => node(*left, *right),
                    other => other[0],
                })
                .collect();
            levels.push(std::mem::replace(&mut level, above));
        }
        levels.push(level);
        Self { levels }
    }

    /// The digest of the whole list.
    #[must_use]
    pub fn root(&self) -> Digest {
        let top = self.levels.last().and_then(|level| level.first());
        root(self.count(), top.copied())
    }

    fn count(&self) -> u64 {
        self.levels.first().map_or(0, |leaves| leaves.len() as u64)
    }

    /// The proof that the list has at `place` what it has there.
    #[must_use]
    pub fn prove(&self, place: u64) -> Option<Inclusion> {
        if place >= self.count() {
            return None;
        }
        let mut at = usize::try_from(place).ok()?;
        let mut beside = Vec::new();
        for level in &self.levels {
            beside.extend(level.get(at ^ 1).filter(|_| level.len() > 1));
            at /= 2;
        }
        Some(Inclusion {
            place,
            count: self.count(),
            beside,
        })
    }
}

impl Inclusion {
    /// Whether the list with this root has `leaf` at the proof's place.
    #[must_use]
    pub fn holds(&self, root: Digest, leaf: &[u8]) -> bool {
        self.root_of(leaf) == Some(root)
    }

    /// The root of the list that has `leaf` at the proof's place, if the proof is one at all.
    #[must_use]
    pub fn root_of(&self, leaf: &[u8]) -> Option<Digest> {
        if self.place >= self.count {
            return None;
        }
        let (mut at, mut width) = (self.place, self.count);
        let mut beside = self.beside.iter();
        let mut found = self::leaf(leaf);
        while width > 1 {
            // The last of an odd level has nothing beside it.
            if at ^ 1 < width {
                let other = beside.next()?;
                found = match at % 2 {
                    0 => node(found, *other),
                    _ => node(*other, found),
                };
            }
            (at, width) = (at / 2, width.div_ceil(2));
        }
        match beside.next() {
            Some(_) => None,
            None => Some(root(self.count, Some(found))),
        }
    }
}

fn leaf(bytes: &[u8]) -> Digest {
    Digest::from_bytes(blake3::derive_key(LEAF, bytes))
}

fn node(left: Digest, right: Digest) -> Digest {
    let both = [*left.as_bytes(), *right.as_bytes()].concat();
    Digest::from_bytes(blake3::derive_key(NODE, &both))
}

fn root(count: u64, top: Option<Digest>) -> Digest {
    let mut bytes = count.to_be_bytes().to_vec();
    bytes.extend(top.iter().flat_map(|top| top.as_bytes()));
    Digest::from_bytes(blake3::derive_key(ROOT, &bytes))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn what_is_in_the_list_is_proven_and_nothing_else(count in 0..70_u64, other: u64) {
            let leaves: Vec<[u8; 8]> = (0..count).map(u64::to_be_bytes).collect();
            let tree = Tree::new(&leaves);
            for (place, leaf) in (0..).zip(&leaves) {
                let proof = tree.prove(place).unwrap();
                prop_assert!(proof.holds(tree.root(), leaf));
                prop_assert!(proof.beside.len() <= 7);
                // Another leaf, another place, another root, a proof that is longer or shorter.
                let elsewhere = (place + 1 + other % count.max(1)) % (count + 1);
                prop_assert!(!proof.holds(tree.root(), &count.to_be_bytes()));
                let moved = Inclusion { place: elsewhere, ..proof.clone() };
                prop_assert!(elsewhere == place || !moved.holds(tree.root(), leaf));
                let grown = Inclusion { count: count + 1, ..proof.clone() };
                prop_assert!(!grown.holds(tree.root(), leaf));
                prop_assert!(!proof.holds(Digest::of(b""), leaf));
                let mut longer = proof.clone();
                longer.beside.push(tree.root());
                prop_assert!(!longer.holds(tree.root(), leaf));
                if longer.beside.len() > 1 {
                    longer.beside.truncate(longer.beside.len() - 2);
                    prop_assert!(!longer.holds(tree.root(), leaf));
                }
            }
            prop_assert_eq!(tree.prove(count), None);
        }
    }

    #[test]
    fn no_two_lists_share_a_root() {
        let root = |leaves: &[&[u8]]| Tree::new(leaves).root();
        let mut roots = vec![
            root(&[]),
            root(&[b""]),
            root(&[b"a"]),
            root(&[b"a", b"b"]),
            root(&[b"b", b"a"]),
            // The last one twice, and a node that passes for a leaf.
            root(&[b"a", b"b", b"b"]),
            root(&[b"a", b"b", b"b", b"b"]),
        ];
        let inner = [*leaf(b"a").as_bytes(), *leaf(b"b").as_bytes()].concat();
        roots.push(root(&[&inner]));
        let before = roots.len();
        roots.sort_unstable();
        roots.dedup();
        assert_eq!(roots.len(), before);
    }
}
