//! Keys and values of texts that were computed before, found again by how a text begins.
//!
//! A radix tree over whole pages of tokens: a node is one page, and the way to it from the root
//! spells the tokens whose keys and values lie in the pages on that way (RadixAttention,
//! arXiv 2312.07104, section 3). The cache holds each of its pages once; a page that only the
//! cache holds, and that no longer way leads through, may be taken back, the least recently used
//! first.
//!
//! Texts of different owners never meet: whether a prompt was seen before shows in how fast it is
//! answered, and nobody may learn that of a stranger's prompts. Texts written with different
//! adapters have different keys and values.

use std::collections::{BTreeSet, HashMap};

use skep_kernels::kv::PAGE_TOKENS;

use crate::pages::PagePool;

/// Whose texts, and written with which adapter (0 is none).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Realm {
    /// The owner.
    pub owner: u64,
    /// The version of the adapter.
    pub adapter: u64,
}

/// The tokens of one page.
type PageTokens = [u32; PAGE_TOKENS];

/// Where a way begins or goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Parent {
    Root(Realm),
    Node(usize),
}

#[derive(Debug)]
struct Node {
    parent: Parent,
    tokens: PageTokens,
    page: u32,
    children: usize,
    used: u64,
}

/// The cache.
#[derive(Debug, Default)]
pub struct PrefixCache {
    nodes: Vec<Option<Node>>,
    vacant: Vec<usize>,
    ways: HashMap<(Parent, PageTokens), usize>,
    /// Nodes that no way leads through, by when they were last used.
    leaves: BTreeSet<(u64, usize)>,
    clock: u64,
}

impl PrefixCache {
    /// The pages in which the longest known beginning of `tokens` lies, whole pages only, which
    /// the caller holds from now on. Not all of `tokens`: one at least is left to be computed.
    pub fn find(&mut self, pool: &mut PagePool, realm: Realm, tokens: &[u32]) -> Vec<u32> {
        let mut pages = Vec::new();
        let mut parent = Parent::Root(realm);
        self.clock += 1;
        let usable = tokens.len().saturating_sub(1);
        let (chunks, _) = tokens[..usable].as_chunks::<PAGE_TOKENS>();
        for chunk in chunks {
            let Some(&number) = self.ways.get(&(parent, *chunk)) else {
                break;
            };
            let Some(page) = self.touch(number) else {
                break;
            };
            pool.retain(page);
            pages.push(page);
            parent = Parent::Node(number);
        }
        pages
    }

    /// Remembers whole pages of computed tokens: `pages[n]` has the keys and values of the
    /// `n`-th page of `tokens`. Pages of a beginning that is known already are not taken.
    pub fn insert(&mut self, pool: &mut PagePool, realm: Realm, tokens: &[u32], pages: &[u32]) {
        let mut parent = Parent::Root(realm);
        self.clock += 1;
        let (chunks, _) = tokens.as_chunks::<PAGE_TOKENS>();
        for (chunk, page) in chunks.iter().zip(pages) {
            let number = match self.ways.get(&(parent, *chunk)) {
                Some(&number) => {
                    self.touch(number);
                    number
                }
                None => {
                    pool.retain(*page);
                    self.add(parent, *chunk, *page)
                }
            };
            parent = Parent::Node(number);
        }
    }

    /// Forgets all texts of an owner: whoever asks again finds nothing, and pages that no text in
    /// flight holds are free.
    pub fn forget(&mut self, pool: &mut PagePool, owner: u64) {
        let leaves: Vec<usize> = self.leaves.iter().map(|(_, number)| *number).collect();
        for leaf in leaves {
            let mut next = (self.owner_of(leaf) == Some(owner)).then_some(leaf);
            while let Some(number) = next {
                let above = self.nodes[number].as_ref().map(|node| node.parent);
                self.remove(pool, number);
                next = match above {
                    Some(Parent::Node(above)) => {
                        let node = self.nodes[above].as_ref();
                        node.is_some_and(|node| node.children == 0).then_some(above)
                    }
                    _ => None,
                };
            }
        }
    }

    fn owner_of(&self, mut number: usize) -> Option<u64> {
        loop {
            match self.nodes[number].as_ref()?.parent {
                Parent::Root(realm) => return Some(realm.owner),
                Parent::Node(above) => number = above,
            }
        }
    }

    /// Gives back pages that nobody else holds until so many are free in the pool, or there are
    /// no more.
    pub fn shrink(&mut self, pool: &mut PagePool, free: usize) {
        while pool.free() < free {
            let unused = self.leaves.iter().copied().find(|(_, number)| {
                self.nodes[*number]
                    .as_ref()
                    .is_some_and(|node| pool.holders(node.page) == 1)
            });
            let Some((_, number)) = unused else {
                return;
            };
            self.remove(pool, number);
        }
    }

    /// Pages that nobody else holds.
    pub fn unused(&self, pool: &PagePool) -> usize {
        let nodes = self.nodes.iter().flatten();
        nodes.filter(|node| pool.holders(node.page) == 1).count()
    }

    /// Pages that the cache holds.
    #[cfg(test)]
    pub fn pages(&self) -> usize {
        self.ways.len()
    }

    /// Notes that a node was used, and says which page it is.
    fn touch(&mut self, number: usize) -> Option<u32> {
        let clock = self.clock;
        let node = self.nodes[number].as_mut()?;
        if self.leaves.remove(&(node.used, number)) {
            self.leaves.insert((clock, number));
        }
        node.used = clock;
        Some(node.page)
    }

    fn add(&mut self, parent: Parent, tokens: PageTokens, page: u32) -> usize {
        if let Parent::Node(number) = parent
            && let Some(node) = self.nodes[number].as_mut()
        {
            node.children += 1;
            self.leaves.remove(&(node.used, number));
        }
        let node = Node {
            parent,
            tokens,
            page,
            children: 0,
            used: self.clock,
        };
        let number = match self.vacant.pop() {
            Some(number) => {
                self.nodes[number] = Some(node);
                number
            }
            None => {
                self.nodes.push(Some(node));
                self.nodes.len() - 1
            }
        };
        self.ways.insert((parent, tokens), number);
        self.leaves.insert((self.clock, number));
        number
    }

    fn remove(&mut self, pool: &mut PagePool, number: usize) {
        let Some(node) = self.nodes[number].take() else {
            return;
        };
        self.leaves.remove(&(node.used, number));
        self.ways.remove(&(node.parent, node.tokens));
        self.vacant.push(number);
        pool.release(node.page);
        if let Parent::Node(parent) = node.parent
            && let Some(above) = self.nodes[parent].as_mut()
        {
            above.children -= 1;
            if above.children == 0 {
                self.leaves.insert((above.used, parent));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const REALM: Realm = Realm {
        owner: 1,
        adapter: 0,
    };

    fn tokens(pages: &[u32]) -> Vec<u32> {
        let page = |n: &u32| std::iter::repeat_n(*n, PAGE_TOKENS);
        pages.iter().flat_map(page).collect()
    }

    /// A text that was computed and is over: only the cache holds its pages.
    fn remember(cache: &mut PrefixCache, pool: &mut PagePool, realm: Realm, text: &[u32]) {
        let found = cache.find(pool, realm, text);
        let mut pages = found;
        while pages.len() < text.len() / PAGE_TOKENS {
            pages.push(pool.allocate().unwrap());
        }
        cache.insert(pool, realm, text, &pages);
        for page in pages {
            pool.release(page);
        }
    }

    #[test]
    fn the_longest_known_beginning_is_found() {
        let (mut cache, mut pool) = (PrefixCache::default(), PagePool::new(8));
        remember(&mut cache, &mut pool, REALM, &tokens(&[1, 2, 3]));
        remember(&mut cache, &mut pool, REALM, &tokens(&[1, 2, 4]));
        assert_eq!(cache.pages(), 4);
        let mut text = tokens(&[1, 2, 4]);
        // All of it is known, but one token is left to be computed.
        assert_eq!(cache.find(&mut pool, REALM, &text).len(), 2);
        text.push(9);
        let found = cache.find(&mut pool, REALM, &text);
        assert_eq!(found.len(), 3);
        assert!(found.iter().all(|page| pool.holders(*page) >= 2));
        let other = Realm { owner: 2, ..REALM };
        assert!(cache.find(&mut pool, other, &text).is_empty());
        let adapted = Realm {
            adapter: 1,
            ..REALM
        };
        assert!(cache.find(&mut pool, adapted, &text).is_empty());
    }

    #[test]
    fn what_was_used_longest_ago_goes_first_and_what_is_in_use_stays() {
        let (mut cache, mut pool) = (PrefixCache::default(), PagePool::new(3));
        for text in [[1], [2], [3]] {
            remember(&mut cache, &mut pool, REALM, &tokens(&text));
        }
        let held = cache.find(&mut pool, REALM, &tokens(&[1, 0]));
        cache.shrink(&mut pool, 1);
        assert!(cache.find(&mut pool, REALM, &tokens(&[2, 0])).is_empty());
        cache.shrink(&mut pool, 3);
        assert_eq!((pool.free(), cache.pages()), (2, 1));
        assert_eq!(cache.find(&mut pool, REALM, &tokens(&[1, 0])), held);
    }

    #[test]
    fn of_an_owner_who_has_gone_nothing_stays() {
        let (mut cache, mut pool) = (PrefixCache::default(), PagePool::new(12));
        let other = Realm { owner: 2, ..REALM };
        let adapted = Realm {
            adapter: 1,
            ..REALM
        };
        for realm in [REALM, other, adapted] {
            remember(&mut cache, &mut pool, realm, &tokens(&[1, 2, 3]));
            remember(&mut cache, &mut pool, realm, &tokens(&[1, 4]));
        }
        // A text in flight keeps its pages, and what goes on from them is not found any more.
        let held = cache.find(&mut pool, REALM, &tokens(&[1, 2, 9]));
        assert_eq!((held.len(), pool.free()), (2, 0));
        cache.forget(&mut pool, 1);
        assert_eq!((cache.pages(), pool.free()), (4, 6));
        for realm in [REALM, adapted] {
            assert!(
                cache
                    .find(&mut pool, realm, &tokens(&[1, 2, 3, 0]))
                    .is_empty()
            );
        }
        assert_eq!(
            cache.find(&mut pool, other, &tokens(&[1, 2, 3, 0])).len(),
            3
        );
        for page in held {
            pool.release(page);
        }
        assert_eq!(pool.free(), 8);
    }

    proptest! {
        /// Whatever is remembered and taken back: every page is free, or held by the cache once,
        /// and what is found is what was remembered.
        #[test]
        fn no_page_is_lost(texts in prop::collection::vec((prop::collection::vec(0u32..3, 1..5), 0usize..12), 1..40)) {
            let (mut cache, mut pool) = (PrefixCache::default(), PagePool::new(12));
            for (text, free) in texts {
                cache.shrink(&mut pool, text.len().max(free));
                let text = tokens(&text);
                remember(&mut cache, &mut pool, REALM, &text);
                prop_assert_eq!(pool.free() + cache.pages(), pool.pages());
                let found = cache.find(&mut pool, REALM, &text);
                prop_assert_eq!(found.len(), (text.len() - 1) / PAGE_TOKENS);
                for page in found {
                    pool.release(page);
                }
            }
            cache.shrink(&mut pool, 12);
            prop_assert_eq!((pool.free(), cache.pages()), (12, 0));
        }
    }
}
