//! Texts that are being written, as a stream that a guest reads.
//!
//! The engine writes whether or not the guest reads, up to what the texts have promised; the
//! stream itself keeps only what a read had no room for.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use tokio::sync::oneshot;
use wasmtime::StoreContextMut;
use wasmtime::component::{Destination, StreamProducer, StreamResult, VecBuffer};

use crate::bindings::task::skep::model::text::Chunk;
use crate::bindings::task::skep::types::types::Error;
use crate::interfaces::{HostError, chunk_to_contract};
use crate::writing::Writing;

/// Writing that is about to begin.
type Beginning = Pin<Box<dyn Future<Output = Result<Writing, HostError>> + Send>>;

/// The host's end of a stream of texts.
pub(crate) struct TextStream {
    writing: State,
    /// What was written and not read yet, in order.
    left: std::vec::IntoIter<skep_engine::Chunk>,
    ended: Option<oneshot::Sender<Result<(), Error>>>,
    _counted: Arc<()>,
}

enum State {
    Beginning(Beginning),
    Writing(Writing),
}

impl TextStream {
    /// A stream of what `writing` brings, and how it ended: nothing, if the guest dropped it
    /// before. `counted` is held as long as the stream is there.
    pub(crate) fn new(
        writing: Beginning,
        counted: Arc<()>,
    ) -> (Self, oneshot::Receiver<Result<(), Error>>) {
        let (ended, outcome) = oneshot::channel();
        let stream = TextStream {
            writing: State::Beginning(writing),
            left: Vec::new().into_iter(),
            ended: Some(ended),
            _counted: counted,
        };
        (stream, outcome)
    }

    fn end(&mut self, outcome: Result<(), HostError>) -> Poll<wasmtime::Result<StreamResult>> {
        if let Some(ended) = self.ended.take() {
            // A guest that dropped the future does not want to know.
            let _ = ended.send(outcome.map_err(HostError::plain));
        }
        Poll::Ready(Ok(StreamResult::Dropped))
    }

    fn poll_next(
        &mut self,
        context: &mut Context<'_>,
    ) -> Poll<Result<Vec<skep_engine::Chunk>, HostError>> {
        loop {
            match &mut self.writing {
                State::Writing(writing) => return writing.poll_next(context),
                State::Beginning(beginning) => match beginning.as_mut().poll(context) {
                    Poll::Pending => return Poll::Pending,
                    Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                    Poll::Ready(Ok(writing)) => self.writing = State::Writing(writing),
                },
            }
        }
    }
}

impl<D: 'static> StreamProducer<D> for TextStream {
    type Item = Chunk;
    type Buffer = VecBuffer<Chunk>;

    fn poll_produce<'a>(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        mut store: StoreContextMut<'a, D>,
        mut destination: Destination<'a, Chunk, VecBuffer<Chunk>>,
        finish: bool,
    ) -> Poll<wasmtime::Result<StreamResult>> {
        let room = destination.remaining(&mut store).unwrap_or(usize::MAX);
        if room == 0 {
            return Poll::Ready(Ok(StreamResult::Completed));
        }
        if self.left.len() == 0 {
            match self.poll_next(context) {
                Poll::Pending if finish => return Poll::Ready(Ok(StreamResult::Cancelled)),
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Err(error)) => return self.end(Err(error)),
                Poll::Ready(Ok(chunks)) if chunks.is_empty() => return self.end(Ok(())),
                Poll::Ready(Ok(chunks)) => self.left = chunks.into_iter(),
            }
        }
        // No more than the guest has room for, so that nothing is left over with the engine of
        // components.
        let chunks: Vec<_> = self
            .left
            .by_ref()
            .take(room)
            .map(chunk_to_contract)
            .collect();
        destination.set_buffer(chunks.into());
        Poll::Ready(Ok(StreamResult::Completed))
    }
}
