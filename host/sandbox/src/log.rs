//! What a guest prints: kept up to a limit, counted beyond it, never a burden.
//!
//! Standard output and standard error go into the same bounded buffer. A guest that floods it
//! is not told: its writes succeed and are dropped, and the log ends in a note that says so.

use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

use bytes::Bytes;
use wasmtime_wasi::cli::{IsTerminal, StdoutStream};
use wasmtime_wasi::p2::{OutputStream, Pollable, StreamResult};

use crate::limits;

/// The log of one run. Clones write to the same log.
#[derive(Clone, Debug)]
pub(crate) struct Log(Arc<Mutex<Buffer>>);

#[derive(Debug)]
struct Buffer {
    kept: Vec<u8>,
    limit: usize,
    dropped: u64,
}

impl Log {
    pub(crate) fn new(limit: u64) -> Self {
        Log(Arc::new(Mutex::new(Buffer {
            kept: Vec::new(),
            limit: usize::try_from(limit).unwrap_or(usize::MAX),
            dropped: 0,
        })))
    }

    fn buffer(&self) -> MutexGuard<'_, Buffer> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn append(&self, bytes: &[u8]) {
        let mut buffer = self.buffer();
        let room = buffer.limit.saturating_sub(buffer.kept.len());
        let (kept, dropped) = bytes.split_at(room.min(bytes.len()));
        buffer.kept.extend_from_slice(kept);
        buffer.dropped = buffer.dropped.saturating_add(dropped.len() as u64);
    }

    /// The text, with a note at its end if some of it was dropped; and whether some was.
    pub(crate) fn take(&self) -> (String, bool) {
        let mut buffer = self.buffer();
        let mut text = String::from_utf8_lossy(&std::mem::take(&mut buffer.kept)).into_owned();
        if buffer.dropped > 0 {
            if !text.is_empty() && !text.ends_with('\n') {
                text.push('\n');
            }
            text.push_str(&format!(
                "[the log is limited to {}; {} more were dropped]\n",
                limits::Bytes(buffer.limit as u64),
                limits::Bytes(buffer.dropped)
            ));
        }
        (text, buffer.dropped > 0)
    }
}

impl IsTerminal for Log {
    fn is_terminal(&self) -> bool {
        false
    }
}

impl StdoutStream for Log {
    fn async_stream(&self) -> Box<dyn tokio::io::AsyncWrite + Send + Sync> {
        Box::new(self.clone())
    }

    fn p2_stream(&self) -> Box<dyn OutputStream> {
        Box::new(self.clone())
    }
}

impl tokio::io::AsyncWrite for Log {
    fn poll_write(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<std::io::Result<usize>> {
        self.append(bytes);
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

#[async_trait::async_trait]
impl Pollable for Log {
    async fn ready(&mut self) {}
}

#[async_trait::async_trait]
impl OutputStream for Log {
    fn write(&mut self, bytes: Bytes) -> StreamResult<()> {
        self.append(&bytes);
        Ok(())
    }

    fn flush(&mut self) -> StreamResult<()> {
        Ok(())
    }

    fn check_write(&mut self) -> StreamResult<usize> {
        Ok(64 << 10)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_is_cut_and_the_cut_is_noted() {
        let log = Log::new(10);
        log.append(b"12345");
        log.clone().append(b"6789abcdef");
        log.append(b"more");
        let (text, truncated) = log.take();
        assert!(truncated);
        assert_eq!(
            text,
            "123456789a\n[the log is limited to 10 bytes; 9 bytes more were dropped]\n"
        );
    }

    #[test]
    fn what_fits_is_left_alone() {
        let log = Log::new(10);
        log.append(b"0123456789");
        assert_eq!(log.take(), ("0123456789".to_owned(), false));
    }
}
