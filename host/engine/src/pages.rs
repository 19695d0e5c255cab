//! Who holds which page of the pool.
//!
//! A page is held by every text whose beginning lies in it, by the prefix cache, or by an
//! adapter. It is free when nobody holds it. What lies in a page is not known here.
//!
//! What this module must never do: hand out a page that somebody holds.

/// The pages of a pool, and how many hold each.
#[derive(Debug)]
pub struct PagePool {
    holders: Vec<u32>,
    free: Vec<u32>,
}

impl PagePool {
    /// So many pages, all free.
    pub fn new(pages: usize) -> Self {
        let pages = u32::try_from(pages).unwrap_or(u32::MAX);
        Self {
            holders: vec![0; pages as usize],
            // The first page is handed out first.
            free: (0..pages).rev().collect(),
        }
    }

    /// A free page, which the caller holds from now on. `None` if there is none.
    pub fn allocate(&mut self) -> Option<u32> {
        let page = self.free.pop()?;
        self.holders[page as usize] = 1;
        Some(page)
    }

    /// One more holds the page, which somebody must hold already.
    pub fn retain(&mut self, page: u32) {
        let holders = &mut self.holders[page as usize];
        debug_assert!(*holders > 0, "page {page} is free");
        *holders += 1;
    }

    /// One fewer holds the page. Whether it is free now.
    pub fn release(&mut self, page: u32) -> bool {
        let holders = &mut self.holders[page as usize];
        debug_assert!(*holders > 0, "page {page} is free");
        *holders = holders.saturating_sub(1);
        if *holders == 0 {
            self.free.push(page);
            return true;
        }
        false
    }

    /// How many hold the page.
    pub fn holders(&self, page: u32) -> u32 {
        self.holders[page as usize]
    }

    /// Pages that nobody holds.
    pub fn free(&self) -> usize {
        self.free.len()
    }

    /// All pages.
    pub fn pages(&self) -> usize {
        self.holders.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_is_free_when_its_last_holder_lets_go() {
        let mut pool = PagePool::new(2);
        let first = pool.allocate().unwrap();
        let second = pool.allocate().unwrap();
        assert_ne!(first, second);
        assert_eq!(pool.allocate(), None);
        pool.retain(first);
        assert!(!pool.release(first));
        assert_eq!(pool.free(), 0);
        assert!(pool.release(first));
        assert_eq!((pool.free(), pool.pages()), (1, 2));
        assert_eq!(pool.allocate(), Some(first));
        assert_eq!(pool.holders(second), 1);
    }
}
