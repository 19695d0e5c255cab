//! The pages that the texts of one request hold, and what is charged for them.
//!
//! Texts of one request share pages, and are charged for each page once, before it is theirs.

use std::collections::HashMap;

use skep_accounts::{Account, MemoryCharge, QuotaError};

use crate::pages::PagePool;

/// Why there is no page to be had.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Shortage {
    /// All pages of the pool are held.
    Pool,
    /// The account cannot pay for one more.
    Quota(QuotaError),
}

/// The pages of one request.
#[derive(Debug)]
pub struct Holding {
    charge: MemoryCharge,
    page_bytes: u64,
    /// How many of the request's texts hold each page.
    texts: HashMap<u32, u32>,
}

impl Holding {
    /// No pages yet. The account pays for each that will be held.
    ///
    /// # Errors
    /// When nothing at all can be charged to the account.
    pub fn new(account: &Account, page_bytes: u64) -> Result<Self, QuotaError> {
        Ok(Self {
            charge: account.charge_memory(0)?,
            page_bytes,
            texts: HashMap::new(),
        })
    }

    /// A free page for one text.
    pub fn allocate(&mut self, pool: &mut PagePool) -> Result<u32, Shortage> {
        if pool.free() == 0 {
            return Err(Shortage::Pool);
        }
        self.pay(self.texts.len() + 1).map_err(Shortage::Quota)?;
        let page = pool.allocate().ok_or(Shortage::Pool)?;
        self.texts.insert(page, 1);
        Ok(page)
    }

    /// Takes over pages that were retained for one text.
    ///
    /// # Errors
    /// When the account cannot pay; then they are released.
    pub fn adopt(&mut self, pool: &mut PagePool, pages: &[u32]) -> Result<(), QuotaError> {
        let new = pages.iter().filter(|page| !self.texts.contains_key(page));
        if let Err(refusal) = self.pay(self.texts.len() + new.count()) {
            for page in pages {
                pool.release(*page);
            }
            return Err(refusal);
        }
        for page in pages {
            *self.texts.entry(*page).or_default() += 1;
        }
        Ok(())
    }

    /// One more text of the request holds pages that another holds.
    pub fn share(&mut self, pool: &mut PagePool, pages: &[u32]) {
        for page in pages {
            debug_assert!(self.texts.contains_key(page));
            *self.texts.entry(*page).or_default() += 1;
            pool.retain(*page);
        }
    }

    /// A text lets go of pages.
    pub fn release(&mut self, pool: &mut PagePool, pages: &[u32]) {
        for page in pages {
            if let Some(texts) = self.texts.get_mut(page) {
                *texts -= 1;
                if *texts == 0 {
                    self.texts.remove(page);
                }
                pool.release(*page);
            }
        }
        // A smaller charge is never refused.
        let paid = self.pay(self.texts.len());
        debug_assert!(paid.is_ok());
    }

    fn pay(&mut self, pages: usize) -> Result<(), QuotaError> {
        self.charge
            .resize((pages as u64).saturating_mul(self.page_bytes))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use skep_accounts::Limits;

    #[test]
    fn each_page_is_paid_for_once() {
        let account = Account::new(Limits {
            device_memory: 30,
            ..Limits::UNLIMITED
        });
        let charged = || account.usage().device_bytes;
        let mut pool = PagePool::new(5);
        let mut holding = Holding::new(&account, 10).unwrap();
        let first = holding.allocate(&mut pool).unwrap();
        holding.share(&mut pool, &[first]);
        assert_eq!((charged(), pool.holders(first)), (10, 2));
        let known = pool.allocate().unwrap();
        holding.adopt(&mut pool, &[known]).unwrap();
        let third = holding.allocate(&mut pool).unwrap();
        assert!(matches!(
            holding.allocate(&mut pool),
            Err(Shortage::Quota(_))
        ));
        assert_eq!((charged(), pool.free()), (30, 2));
        holding.release(&mut pool, &[first, third]);
        assert_eq!((charged(), pool.free()), (20, 3));
        holding.release(&mut pool, &[first, known]);
        assert_eq!((charged(), pool.free()), (0, 5));
    }

    #[test]
    fn pages_that_cannot_be_paid_for_are_let_go() {
        let account = Account::new(Limits {
            device_memory: 10,
            ..Limits::UNLIMITED
        });
        let mut pool = PagePool::new(2);
        let mut holding = Holding::new(&account, 10).unwrap();
        let pages = [pool.allocate().unwrap(), pool.allocate().unwrap()];
        assert_eq!(pool.free(), 0);
        assert!(holding.adopt(&mut pool, &pages).is_err());
        assert_eq!((pool.free(), account.usage().device_bytes), (2, 0));
        let page = holding.allocate(&mut pool).unwrap();
        pool.retain(page);
        assert!(matches!(
            holding.allocate(&mut pool),
            Err(Shortage::Quota(_))
        ));
    }
}
