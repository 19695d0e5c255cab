//! Buffers of activations, which the next layer uses again.
//!
//! Memory is charged before it is allocated and stays charged while the pool has it. Where the
//! account has no room, the pool first gives back what nobody uses.

use std::ops::{Deref, DerefMut};
use std::sync::{Arc, Mutex, PoisonError};

use skep_accounts::{Account, MemoryCharge, QuotaError};

/// Buffers that nobody uses now.
#[derive(Debug)]
pub(crate) struct Pool {
    account: Account,
    free: Mutex<Vec<Owned>>,
}

#[derive(Debug)]
struct Owned {
    values: Vec<f32>,
    _charge: MemoryCharge,
}

/// Some floats, of which the pool has others. Gives them back when it is dropped.
#[derive(Debug)]
pub(crate) struct Buffer {
    owned: Option<Owned>,
    len: usize,
    pool: Arc<Pool>,
}

impl Pool {
    pub fn new(account: &Account) -> Arc<Self> {
        Arc::new(Self {
            account: account.clone(),
            free: Mutex::new(Vec::new()),
        })
    }

    /// A buffer of this length. What it holds is whatever was computed last in it.
    pub fn take(self: &Arc<Self>, len: usize) -> Result<Buffer, QuotaError> {
        let owned = match self.fitting(len) {
            Some(owned) => owned,
            None => {
                let bytes = 4 * len as u64;
                let charge = self.account.charge_memory(bytes).or_else(|_| {
                    self.trim();
                    self.account.charge_memory(bytes)
                })?;
                Owned {
                    values: vec![0.0; len],
                    _charge: charge,
                }
            }
        };
        Ok(Buffer {
            owned: Some(owned),
            len,
            pool: Arc::clone(self),
        })
    }

    /// The smallest free buffer of at least this length and not far beyond it.
    fn fitting(&self, len: usize) -> Option<Owned> {
        let mut free = self.free.lock().unwrap_or_else(PoisonError::into_inner);
        let fits = |owned: &Owned| (len..=len + len / 2).contains(&owned.values.len());
        let fitting = free.iter().enumerate().filter(|(_, owned)| fits(owned));
        let best = fitting.min_by_key(|(_, owned)| owned.values.len())?.0;
        Some(free.swap_remove(best))
    }

    /// Gives back what nobody uses.
    pub fn trim(&self) {
        self.free
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clear();
    }
}

impl Deref for Buffer {
    type Target = [f32];

    fn deref(&self) -> &[f32] {
        self.owned
            .as_ref()
            .map_or(&[], |owned| &owned.values[..self.len])
    }
}

impl DerefMut for Buffer {
    fn deref_mut(&mut self) -> &mut [f32] {
        let len = self.len;
        self.owned
            .as_mut()
            .map_or(&mut [], |owned| &mut owned.values[..len])
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        let mut free = self
            .pool
            .free
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        free.extend(self.owned.take());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use skep_accounts::Limits;

    #[test]
    fn buffers_are_used_again_and_given_back_under_pressure() {
        let account = Account::new(Limits {
            device_memory: 1000,
            ..Limits::UNLIMITED
        });
        let pool = Pool::new(&account);
        let mut first = pool.take(200).unwrap();
        first.fill(3.0);
        assert_eq!((first.len(), account.usage().device_bytes), (200, 800));
        assert!(pool.take(100).is_err());
        drop(first);
        let again = pool.take(150).unwrap();
        assert_eq!(
            (again.len(), again[0], account.usage().device_bytes),
            (150, 3.0, 800)
        );
        drop(again);
        // Too large for a request of this size: the pool gives it back to have room.
        let small = pool.take(60).unwrap();
        assert_eq!(account.usage().device_bytes, 240);
        drop(small);
        pool.trim();
        assert_eq!(account.usage().device_bytes, 0);
    }
}
