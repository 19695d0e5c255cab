//! `skep:swarm/blob-streams`: the content of blobs as streams, on the engine that has them.

use wasmtime::AsContextMut;
use wasmtime::component::{
    Access, FutureReader, HasSelf, Resource, ResourceTableError, StreamReader,
};

use super::types::HostError;
use crate::bindings::async_task::skep::swarm::blob_streams::{Host, HostWithStore};
use crate::bindings::task::skep::types::types::{Error, Host as _};
use crate::blobs::{BlobError, OpenBlob};
use crate::state::State;

/// What the guest gets: the stream, and whether it ended where the content does.
type Reading = (StreamReader<u8>, FutureReader<Result<(), Error>>);

impl Host for State {}

impl HostWithStore<State> for HasSelf<State> {
    fn read_via_stream(
        mut store: Access<'_, State, Self>,
        blob: Resource<OpenBlob>,
        offset: u64,
    ) -> wasmtime::Result<Result<Reading, Error>> {
        match read(&mut store, &blob, offset) {
            Ok(reading) => Ok(Ok(reading)),
            Err(error) => store.get().convert_error(error).map(Err),
        }
    }
}

fn read(
    store: &mut Access<'_, State, HasSelf<State>>,
    blob: &Resource<OpenBlob>,
    offset: u64,
) -> Result<Reading, HostError> {
    let state = store.get();
    state.host_calls += 1;
    state.room_for_a_stream()?;
    let content = state.table.get(blob)?.content.clone();
    let (stream, ended) = state.streams.read(content, offset);
    let told = async move {
        wasmtime::error::Ok(match ended.await {
            Ok(Err(BlobError::NotFound(digest))) => Err(Error::NotFound(digest.to_string())),
            Ok(Err(error)) => Err(Error::Failed(error.to_string())),
            // A stream that the guest dropped has not failed.
            Ok(Ok(())) | Err(_) => Ok(()),
        })
    };
    let stream = StreamReader::new(store.as_context_mut(), stream).map_err(full)?;
    let future = FutureReader::new(store.as_context_mut(), told).map_err(full)?;
    Ok((stream, future))
}

/// The table of what is asynchronous is full; anything else is a fault of the host.
pub(super) fn full(error: wasmtime::Error) -> HostError {
    match error.downcast_ref() {
        Some(ResourceTableError::Full) => HostError::Handles,
        _ => HostError::Trap(error),
    }
}
