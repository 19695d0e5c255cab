//! Texts as they are written, in a task that does something else meanwhile.

use crate::Result;
use crate::bindings::async_task::skep::model::text_streams::generate_via_stream;
use crate::bindings::imports::skep::types::types as wit;
use crate::text::{Chunk, Held, LanguageModel, Request};
use wit_bindgen::{FutureReader, StreamReader, StreamResult};

/// Texts that are being written. Dropping it ends the writing and gives back its two handles.
pub struct TextStream {
    chunks: StreamReader<Chunk>,
    /// How it ended; none once that is known.
    ended: Option<FutureReader<core::result::Result<(), wit::Error>>>,
}

impl LanguageModel {
    /// Writes a text to each request, to be taken as it comes. The stream goes on when the model
    /// is dropped.
    ///
    /// # Errors
    /// Where the call as a whole cannot be taken.
    pub fn stream(&self, requests: &[Request]) -> Result<TextStream> {
        let held = Held::of(requests);
        let (chunks, ended) = generate_via_stream(self.handle(), &held.requests(requests))?;
        Ok(TextStream {
            chunks,
            ended: Some(ended),
        })
    }
}

impl TextStream {
    /// The next pieces, at least one; none once all texts are complete.
    ///
    /// # Errors
    /// Where a request could not be gone on with. After that there is nothing more.
    pub async fn next(&mut self) -> Result<Option<Vec<Chunk>>> {
        /// Pieces that are taken at once.
        const ROOM: usize = 64;
        loop {
            let (result, chunks) = self.chunks.read(Vec::with_capacity(ROOM)).await;
            if !chunks.is_empty() {
                return Ok(Some(chunks));
            }
            if !matches!(result, StreamResult::Complete(_)) {
                break;
            }
        }
        if let Some(ended) = self.ended.take() {
            ended.await?;
        }
        Ok(None)
    }
}
