//! The memory of a pool of pages.
//!
//! A page is a run of bytes of a fixed length, and all pages lie in one allocation. What is in a
//! page is for others to say: keys and values of some tokens ([`crate::kv`]), or a part of an
//! adapter ([`crate::lora`]). So both come out of the same memory, and a page that one gave back
//! the other may have. Which page belongs to whom is for the owner of the pool to say.
//!
//! What this module must never do: touch a page before somebody writes to it, because memory
//! that nobody has touched costs nothing.

use std::fmt;

use crate::{ShapeError, expect_below, expect_len};

/// Every page begins at a multiple of this many bytes: a line of the cache.
pub const PAGE_ALIGNMENT: usize = 64;

/// Words of 8 bytes in [`PAGE_ALIGNMENT`].
const WORDS: usize = PAGE_ALIGNMENT / 8;

/// Pages of the same length.
pub struct PageMemory {
    /// The pages, and less than [`PAGE_ALIGNMENT`] bytes before and after them.
    words: Vec<u64>,
    /// The word that the first page begins at.
    first: usize,
    page_bytes: usize,
    pages: usize,
    /// Whether the system was asked for large pages.
    large: bool,
}

impl PageMemory {
    /// So many pages of at least `page_bytes` bytes, all zeros. The system hands out the memory
    /// as it is written to. Panics, as a vector does, when no address space has so many bytes.
    pub fn new(page_bytes: usize, pages: usize) -> Self {
        let page_bytes = page_bytes
            .checked_next_multiple_of(PAGE_ALIGNMENT)
            .unwrap_or(usize::MAX);
        // Asked for as words, whose zeros come from the system as they are; more strictly
        // aligned ones would be written by the allocator.
        let words = (page_bytes / 8).saturating_mul(pages);
        let words = vec![0; words.saturating_add(WORDS - 1)];
        // Whole words away, because a word is aligned.
        let first = words.as_ptr().align_offset(PAGE_ALIGNMENT).min(WORDS - 1);
        Self {
            words,
            first,
            page_bytes,
            pages,
            large: false,
        }
    }

    /// Says that long runs of this memory will be read again and again, as an adapter's are: from
    /// now on the system hands it out 2 MiB at a time where it can. Keys and values alone do not
    /// ask for that, because a short text would take that much too.
    pub fn expect_long_runs(&mut self) {
        if !self.large {
            self.large = true;
            #[cfg(target_os = "linux")]
            prefer_large_pages(&self.words);
        }
    }

    /// Pages.
    pub fn pages(&self) -> usize {
        self.pages
    }

    /// Bytes of a page, a multiple of [`PAGE_ALIGNMENT`].
    pub fn page_bytes(&self) -> usize {
        self.page_bytes
    }

    /// The bytes of a page.
    ///
    /// # Errors
    /// When there is no such page.
    pub fn page(&self, page: usize) -> Result<&[u8], ShapeError> {
        expect_below("pages", "the pages", page, self.pages)?;
        Ok(&self.bytes()[page * self.page_bytes..(page + 1) * self.page_bytes])
    }

    /// The bytes of a page, to be written to.
    ///
    /// # Errors
    /// When there is no such page.
    pub fn page_mut(&mut self, page: usize) -> Result<&mut [u8], ShapeError> {
        expect_below("pages", "the pages", page, self.pages)?;
        let bytes = self.page_bytes;
        Ok(&mut self.bytes_mut()[page * bytes..(page + 1) * bytes])
    }

    /// Writes page `from` of another memory over page `page` of this one.
    ///
    /// # Errors
    /// When there is no such page in one of them, or their pages are not of one length.
    pub fn copy_from(&mut self, page: usize, other: &Self, from: usize) -> Result<(), ShapeError> {
        let bytes = other.page(from)?;
        expect_len("pages", "a page", bytes.len(), Some(self.page_bytes))?;
        self.page_mut(page)?.copy_from_slice(bytes);
        Ok(())
    }

    /// All pages, one after the other.
    pub(crate) fn bytes(&self) -> &[u8] {
        let words = self.page_bytes / 8 * self.pages;
        bytemuck::cast_slice(&self.words[self.first..self.first + words])
    }

    /// All pages, one after the other, to be written to.
    pub(crate) fn bytes_mut(&mut self) -> &mut [u8] {
        let words = self.page_bytes / 8 * self.pages;
        bytemuck::cast_slice_mut(&mut self.words[self.first..self.first + words])
    }
}

/// Tells the system to have this memory in pages of 2 MiB as far as it can. An adapter's matrices
/// are read from front to back at every token, and with pages of 4 KiB a good part of that time goes
/// into finding them. It is advice: without it everything is the same, but slower.
#[cfg(target_os = "linux")]
fn prefer_large_pages(words: &[u64]) {
    const LARGE: usize = 2 << 20;
    let bytes: &[u8] = bytemuck::cast_slice(words);
    let start = bytes.as_ptr().align_offset(LARGE);
    let whole = bytes.len().saturating_sub(start) / LARGE * LARGE;
    if whole > 0 {
        let inside = bytes[start..start + whole].as_ptr();
        // SAFETY: these are whole pages of our own, and the advice changes nothing in them.
        unsafe { libc::madvise(inside.cast_mut().cast(), whole, libc::MADV_HUGEPAGE) };
    }
}

impl fmt::Debug for PageMemory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} pages of {} bytes", self.pages, self.page_bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_are_aligned_and_apart() {
        for (bytes, pages) in [(1, 3), (64, 2), (100, 5), (4096, 1), (64, 0)] {
            let mut memory = PageMemory::new(bytes, pages);
            assert!(memory.page_bytes() >= bytes);
            for page in 0..pages {
                let at = memory.page_mut(page).unwrap();
                assert_eq!(at.as_ptr().align_offset(PAGE_ALIGNMENT), 0);
                assert!(at.iter().all(|byte| *byte == 0));
                at.fill(page as u8 + 1);
            }
            for page in 0..pages {
                let bytes = memory.page(page).unwrap();
                assert!(bytes.iter().all(|byte| *byte == page as u8 + 1));
            }
            assert!(memory.page(pages).is_err() && memory.page_mut(pages).is_err());
            assert!(memory.page(usize::MAX).is_err());
        }
    }

    #[test]
    fn a_page_goes_to_another_memory_and_back() {
        let mut pool = PageMemory::new(128, 4);
        pool.page_mut(3).unwrap().fill(7);
        let mut parked = PageMemory::new(128, 1);
        parked.copy_from(0, &pool, 3).unwrap();
        pool.page_mut(3).unwrap().fill(0);
        pool.copy_from(1, &parked, 0).unwrap();
        assert_eq!(pool.page(1).unwrap(), [7; 128]);
        assert!(parked.copy_from(1, &pool, 0).is_err());
        assert!(parked.copy_from(0, &pool, 4).is_err());
        assert!(PageMemory::new(64, 1).copy_from(0, &pool, 0).is_err());
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn memory_that_nobody_touches_costs_nothing() {
        let resident = || -> usize {
            let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
            statm.split(' ').nth(1).unwrap().parse::<usize>().unwrap() * 4096
        };
        let before = resident();
        let memory = PageMemory::new(1 << 20, 1 << 11);
        assert_eq!(memory.page((1 << 11) - 1).unwrap()[(1 << 20) - 1], 0);
        assert!(resident() < before + (1 << 29));
    }
}
