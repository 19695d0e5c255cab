//! The input and the output of a task, between the guest's thread and the caller's.
//!
//! The caller owns both streams. The guest's thread asks for input and hands over output
//! through a bounded channel, so that a slow caller holds the guest up and never the memory.

use tokio::sync::{mpsc, oneshot};

/// The most bytes that one read hands over, and that gather before they are written.
pub(crate) const CHUNK: usize = 256 << 10;

/// What the guest's thread asks of the caller's.
pub(crate) enum Request {
    /// The next bytes of the input, at most so many.
    Read(usize, oneshot::Sender<Vec<u8>>),
    /// Bytes of the output.
    Write(Vec<u8>),
}

/// The caller has gone, or failed; it knows why.
#[derive(Debug)]
pub(crate) struct Gone;

/// The guest's end.
#[derive(Default)]
pub(crate) struct TaskIo {
    requests: Option<mpsc::Sender<Request>>,
    gathered: Vec<u8>,
    /// Bytes of output that were taken.
    pub written: u64,
    /// Whether some were refused because of the limit.
    pub refused: bool,
}

impl TaskIo {
    pub(crate) fn new(requests: mpsc::Sender<Request>) -> Self {
        TaskIo {
            requests: Some(requests),
            ..TaskIo::default()
        }
    }

    /// The next bytes, at most `length` of them and at most [`CHUNK`]; none at the end.
    pub(crate) async fn read(&mut self, length: usize) -> Result<Vec<u8>, Gone> {
        let Some(requests) = &self.requests else {
            return Ok(Vec::new());
        };
        let (sender, receiver) = oneshot::channel();
        requests
            .send(Request::Read(length.min(CHUNK), sender))
            .await
            .map_err(|_| Gone)?;
        receiver.await.map_err(|_| Gone)
    }

    /// Takes bytes of output.
    pub(crate) async fn write(&mut self, data: &[u8]) -> Result<(), Gone> {
        self.written += data.len() as u64;
        self.gathered.extend_from_slice(data);
        if self.gathered.len() >= CHUNK {
            self.flush().await?;
        }
        Ok(())
    }

    /// Hands over what has gathered.
    pub(crate) async fn flush(&mut self) -> Result<(), Gone> {
        let Some(requests) = &self.requests else {
            return Ok(());
        };
        if self.gathered.is_empty() {
            return Ok(());
        }
        requests
            .send(Request::Write(std::mem::take(&mut self.gathered)))
            .await
            .map_err(|_| Gone)
    }
}
