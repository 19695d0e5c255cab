//! The input and the output of a task, as the standard library knows streams.

use crate::Result;
use crate::bindings::imports::skep::workload::io as wit;
use std::io;

/// How much is asked for, or handed over, in one call. Large enough to make the price of a call
/// vanish, small enough for any memory limit.
const PIECE: usize = 64 * 1024;

/// The input of the task, from its beginning or wherever the last reader left it.
pub fn input() -> Input {
    Input {
        buffer: ReadBuffer::default(),
    }
}

/// The output of the task. Call [`Output::finish`] at the end.
pub fn output() -> Output {
    Output { buffer: Vec::new() }
}

/// The input of a task, read in pieces, so that its size does not matter. What one `Input` has
/// buffered is lost to the next: make one, and keep it.
pub struct Input {
    buffer: ReadBuffer,
}

impl io::BufRead for Input {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        self.buffer.fill(|| Ok(wit::read(PIECE as u32)?))
    }

    fn consume(&mut self, count: usize) {
        self.buffer.consume(count);
    }
}

impl io::Read for Input {
    fn read(&mut self, target: &mut [u8]) -> io::Result<usize> {
        let available = io::BufRead::fill_buf(self)?;
        let count = available.len().min(target.len());
        target[..count].copy_from_slice(&available[..count]);
        self.buffer.consume(count);
        Ok(count)
    }
}

/// The output of a task. It gathers small writes, and hands them over when enough is there,
/// on [`io::Write::flush`] and on [`Output::finish`].
pub struct Output {
    buffer: Vec<u8>,
}

impl Output {
    /// Hands over what is left, and says whether that went well. Dropping does it too, but has
    /// nobody to tell.
    pub fn finish(mut self) -> Result<()> {
        self.hand_over()
    }

    fn hand_over(&mut self) -> Result<()> {
        let buffer = std::mem::take(&mut self.buffer);
        for piece in buffer.chunks(PIECE) {
            wit::write(piece)?;
        }
        Ok(())
    }
}

impl io::Write for Output {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        self.buffer.extend_from_slice(data);
        if self.buffer.len() >= PIECE {
            self.hand_over()?;
        }
        Ok(data.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(self.hand_over()?)
    }
}

impl Drop for Output {
    fn drop(&mut self) {
        let _ = self.hand_over();
    }
}

/// Bytes that were read and are not consumed yet.
#[derive(Default)]
struct ReadBuffer {
    data: Vec<u8>,
    consumed: usize,
}

impl ReadBuffer {
    /// What is left, or else what `more` brings. Empty at the end.
    fn fill(&mut self, more: impl FnOnce() -> Result<Vec<u8>>) -> io::Result<&[u8]> {
        if self.consumed == self.data.len() {
            self.data = more()?;
            self.consumed = 0;
        }
        Ok(&self.data[self.consumed..])
    }

    fn consume(&mut self, count: usize) {
        self.consumed = (self.consumed + count).min(self.data.len());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Error;

    #[test]
    fn the_buffer_asks_again_only_when_it_is_empty() {
        let mut buffer = ReadBuffer::default();
        assert_eq!(buffer.fill(|| Ok(b"abc".to_vec())).unwrap(), b"abc");
        buffer.consume(2);
        assert_eq!(buffer.fill(|| panic!("asked too early")).unwrap(), b"c");
        buffer.consume(9);
        assert_eq!(buffer.fill(|| Ok(Vec::new())).unwrap(), b"");
    }

    #[test]
    fn an_error_of_the_node_reaches_the_reader_as_it_was() {
        let mut buffer = ReadBuffer::default();
        let error = buffer.fill(|| Err(Error::Busy)).unwrap_err();
        assert_eq!(Error::from(error), Error::Busy);
        assert_eq!(buffer.fill(|| Ok(b"later".to_vec())).unwrap(), b"later");
    }
}
