//! The streams that one run has open, and what they may hold in memory together.
//!
//! A stream reads only when the guest does, at most a chunk at a time, and holds nothing between
//! two reads. So what streams can take of the host's memory is the chunks of those that read at
//! one moment, of which there are only as many as one call may carry; the others wait.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};
use wasmtime::StoreContextMut;
use wasmtime::component::{Destination, StreamProducer, StreamResult};

use crate::blobs::{BlobError, Pending, ReadBlob};

/// The most bytes that one read of a stream hands over.
pub(crate) const CHUNK: u32 = 256 << 10;

/// Handles that a stream counts as: itself and its future.
pub(crate) const HANDLES: u64 = 2;

/// The streams of one run.
pub(crate) struct Streams {
    open: Arc<()>,
    reading: Arc<Semaphore>,
}

impl Streams {
    /// None yet; those that read at one moment hold at most about so many bytes, and at least
    /// one may read.
    pub(crate) fn new(call_bytes: u64) -> Self {
        let at_once = usize::try_from(call_bytes / u64::from(CHUNK)).unwrap_or(usize::MAX);
        Streams {
            open: Arc::default(),
            reading: Arc::new(Semaphore::new(at_once.clamp(1, Semaphore::MAX_PERMITS))),
        }
    }

    /// What a stream holds as long as it is open.
    pub(crate) fn count(&self) -> Arc<()> {
        Arc::clone(&self.open)
    }

    /// How many are open.
    pub(crate) fn open(&self) -> u64 {
        Arc::strong_count(&self.open) as u64 - 1
    }

    /// The content of a blob from `offset` on. What the receiver is told is whether the stream
    /// ended where the content does; nothing, if the guest dropped the stream before.
    pub(crate) fn read(
        &self,
        content: Arc<dyn ReadBlob>,
        offset: u64,
    ) -> (BlobStream, oneshot::Receiver<Result<(), BlobError>>) {
        let (ended, outcome) = oneshot::channel();
        let stream = BlobStream {
            content,
            offset,
            next: None,
            ended: Some(ended),
            slots: Arc::clone(&self.reading),
            _counted: self.count(),
        };
        (stream, outcome)
    }
}

/// A chunk on its way, with its place among those that are.
type Chunk = Pin<Box<dyn Future<Output = Result<(Bytes, OwnedSemaphorePermit), BlobError>> + Send>>;

/// The host's end of a stream of a blob's content.
pub(crate) struct BlobStream {
    content: Arc<dyn ReadBlob>,
    offset: u64,
    next: Option<Chunk>,
    ended: Option<oneshot::Sender<Result<(), BlobError>>>,
    slots: Arc<Semaphore>,
    _counted: Arc<()>,
}

impl BlobStream {
    fn end(&mut self, outcome: Result<(), BlobError>) -> Poll<wasmtime::Result<StreamResult>> {
        if let Some(ended) = self.ended.take() {
            // A guest that dropped the future does not want to know.
            let _ = ended.send(outcome);
        }
        Poll::Ready(Ok(StreamResult::Dropped))
    }

    fn fetch(&self, length: u32) -> Chunk {
        let (slots, content, offset) = (
            Arc::clone(&self.slots),
            Arc::clone(&self.content),
            self.offset,
        );
        Box::pin(async move {
            let closed = |_| BlobError::Failed("the run is over".to_owned());
            let slot = slots.acquire_owned().await.map_err(closed)?;
            let reading: Pending<Bytes> = content.read(offset, length);
            Ok((reading.await?, slot))
        })
    }
}

impl<D: 'static> StreamProducer<D> for BlobStream {
    type Item = u8;
    type Buffer = Bytes;

    fn poll_produce<'a>(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        mut store: StoreContextMut<'a, D>,
        mut destination: Destination<'a, u8, Bytes>,
        finish: bool,
    ) -> Poll<wasmtime::Result<StreamResult>> {
        let left = self.content.size().saturating_sub(self.offset);
        if left == 0 {
            return self.end(Ok(()));
        }
        // No more than the guest has room for, so that nothing is left over with the host.
        let room = destination.remaining(&mut store).unwrap_or(CHUNK as usize);
        if room == 0 {
            return Poll::Ready(Ok(StreamResult::Completed));
        }
        let length = u32::try_from(left.min(room as u64))
            .unwrap_or(CHUNK)
            .min(CHUNK);
        let mut next = match self.next.take() {
            Some(next) => next,
            None => self.fetch(length),
        };
        let read = match next.as_mut().poll(context) {
            // Giving the read up loses nothing: the next one begins at the same place.
            Poll::Pending if finish => return Poll::Ready(Ok(StreamResult::Cancelled)),
            Poll::Pending => {
                self.next = Some(next);
                return Poll::Pending;
            }
            Poll::Ready(read) => read,
        };
        let (mut bytes, slot) = match read {
            Ok(read) => read,
            Err(error) => return self.end(Err(error)),
        };
        // The room may be another than when the read began.
        bytes.truncate(length as usize);
        if bytes.is_empty() {
            return self.end(Err(BlobError::Failed(
                "the content ended before its size".to_owned(),
            )));
        }
        self.offset += bytes.len() as u64;
        destination.set_buffer(bytes);
        drop(slot);
        Poll::Ready(Ok(StreamResult::Completed))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::task::Waker;

    use tokio::sync::Semaphore;

    use super::*;

    /// Content whose reads count themselves and wait to be let through.
    #[derive(Default)]
    struct Slow {
        reading: Arc<AtomicUsize>,
        gate: Option<Arc<Semaphore>>,
    }

    impl ReadBlob for Slow {
        fn size(&self) -> u64 {
            u64::MAX
        }

        fn read(&self, _: u64, length: u32) -> Pending<Bytes> {
            let (reading, gate) = (Arc::clone(&self.reading), self.gate.clone());
            Box::pin(async move {
                reading.fetch_add(1, Ordering::Relaxed);
                if let Some(gate) = gate {
                    gate.acquire().await.unwrap().forget();
                }
                Ok(vec![7; length as usize].into())
            })
        }
    }

    #[test]
    fn only_so_many_streams_read_at_once_and_the_rest_wait() {
        let gate = Arc::new(Semaphore::new(0));
        let content = Arc::new(Slow {
            gate: Some(Arc::clone(&gate)),
            ..Slow::default()
        });
        // Room for two chunks.
        let streams = Streams::new(2 * u64::from(CHUNK) + 1);
        let opened: Vec<_> = (0..5).map(|_| streams.read(content.clone(), 0).0).collect();
        assert_eq!(streams.open(), 5);
        let mut chunks: Vec<_> = opened.iter().map(|stream| stream.fetch(CHUNK)).collect();
        let mut context = Context::from_waker(Waker::noop());
        let mut poll_all = |chunks: &mut Vec<Chunk>| {
            chunks.retain_mut(|chunk| chunk.as_mut().poll(&mut context).is_pending());
            content.reading.load(Ordering::Relaxed)
        };
        assert_eq!(poll_all(&mut chunks), 2);
        assert_eq!(poll_all(&mut chunks), 2);
        // One that is done, and one that is given up, make room for one each.
        gate.add_permits(1);
        poll_all(&mut chunks);
        assert_eq!(poll_all(&mut chunks), 3);
        drop(chunks.remove(0));
        assert_eq!(poll_all(&mut chunks), 4);
        drop(opened);
        assert_eq!(streams.open(), 0);
    }

    #[test]
    fn one_may_read_however_little_a_call_may_carry() {
        let streams = Streams::new(0);
        let (stream, _) = streams.read(Arc::new(Slow::default()), 0);
        let mut chunk = stream.fetch(10);
        let mut context = Context::from_waker(Waker::noop());
        assert!(matches!(
            chunk.as_mut().poll(&mut context),
            Poll::Ready(Ok((bytes, _))) if bytes.len() == 10
        ));
    }
}
