//! Reading a header front to back, never past its end.

use std::path::Path;

use super::GgufError;

/// A place in a file's bytes.
pub(super) struct Cursor<'a> {
    pub path: &'a Path,
    pub bytes: &'a [u8],
    pub at: usize,
}

impl<'a> Cursor<'a> {
    pub fn left(&self) -> usize {
        self.bytes.len() - self.at
    }

    /// The next `len` bytes, which hold `what`.
    pub fn take(&mut self, len: u64, what: &'static str) -> Result<&'a [u8], GgufError> {
        let taken = usize::try_from(len)
            .ok()
            .and_then(|len| self.bytes[self.at..].get(..len));
        match taken {
            Some(taken) => {
                self.at += taken.len();
                Ok(taken)
            }
            None => Err(self.truncated(len, what)),
        }
    }

    fn array<const N: usize>(&mut self, what: &'static str) -> Result<[u8; N], GgufError> {
        match self.bytes[self.at..].first_chunk::<N>() {
            Some(taken) => {
                self.at += N;
                Ok(*taken)
            }
            None => Err(self.truncated(N as u64, what)),
        }
    }

    pub fn u32(&mut self, what: &'static str) -> Result<u32, GgufError> {
        self.array(what).map(u32::from_le_bytes)
    }

    pub fn u64(&mut self, what: &'static str) -> Result<u64, GgufError> {
        self.array(what).map(u64::from_le_bytes)
    }

    /// A string: its length in eight bytes, then that many bytes of UTF-8.
    pub fn string(&mut self, what: &'static str) -> Result<&'a str, GgufError> {
        let at = self.at;
        let len = self.u64(what)?;
        let bytes = self.take(len, what)?;
        std::str::from_utf8(bytes).map_err(|_| self.malformed(at, format!("{what} is not UTF-8")))
    }

    /// A name of 1 to `limit` bytes.
    pub fn name(&mut self, limit: usize, what: &'static str) -> Result<&'a str, GgufError> {
        let at = self.at;
        let name = self.string(what)?;
        if name.is_empty() || name.len() > limit {
            let reason = format!("{what} has {} bytes; it may have 1 to {limit}", name.len());
            return Err(self.malformed(at, reason));
        }
        Ok(name)
    }

    /// A count of entries, of which there may be `limit`.
    pub fn count(&mut self, limit: u64, what: &'static str) -> Result<u64, GgufError> {
        let count = self.u64(what)?;
        if count > limit {
            return Err(GgufError::TooMany {
                path: self.path.to_owned(),
                what,
                count,
                limit,
            });
        }
        Ok(count)
    }

    /// An error unless `count` entries of at least `least` bytes each could be left.
    pub fn expect_left(&self, count: u64, least: u64, what: &'static str) -> Result<(), GgufError> {
        let needed = count.saturating_mul(least);
        if needed > self.left() as u64 {
            return Err(self.truncated(needed, what));
        }
        Ok(())
    }

    pub fn malformed(&self, offset: usize, reason: String) -> GgufError {
        GgufError::Malformed {
            path: self.path.to_owned(),
            offset,
            reason,
        }
    }

    fn truncated(&self, needed: u64, what: &'static str) -> GgufError {
        GgufError::Truncated {
            path: self.path.to_owned(),
            what,
            offset: self.at,
            needed,
            left: self.left(),
        }
    }
}
