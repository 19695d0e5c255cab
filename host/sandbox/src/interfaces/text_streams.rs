//! `skep:model/text-streams`: texts as streams, on the engine that has them.

use std::sync::Arc;

use wasmtime::AsContextMut;
use wasmtime::component::{Access, FutureReader, HasSelf, Resource, StreamReader};

use super::blob_streams::full;
use super::types::HostError;
use crate::bindings::async_task::skep::model::text_streams::{Host, HostWithStore};
use crate::bindings::task::skep::model::text::{Chunk, Request};
use crate::bindings::task::skep::types::types::{Error, Host as _};
use crate::language::OpenModel;
use crate::state::State;
use crate::text_stream::TextStream;

/// What the guest gets: the stream, and whether all texts are complete.
type Written = (StreamReader<Chunk>, FutureReader<Result<(), Error>>);

impl Host for State {}

impl HostWithStore<State> for HasSelf<State> {
    fn generate_via_stream(
        mut store: Access<'_, State, Self>,
        model: Resource<OpenModel>,
        requests: Vec<Request>,
    ) -> wasmtime::Result<Result<Written, Error>> {
        match generate(&mut store, &model, requests) {
            Ok(written) => Ok(Ok(written)),
            Err(error) => store.get().convert_error(error).map(Err),
        }
    }
}

fn generate(
    store: &mut Access<'_, State, HasSelf<State>>,
    model: &Resource<OpenModel>,
    requests: Vec<Request>,
) -> Result<Written, HostError> {
    let state = store.get();
    state.host_calls += 1;
    state.room_for_a_stream()?;
    let model = Arc::clone(&state.table.get(model)?.0);
    let drafts = state.drafts(&model.info(), requests)?;
    let adapters = drafts
        .0
        .iter()
        .flatten()
        .filter_map(|draft| draft.adapter.clone());
    for adapter in adapters {
        // One that is yet to be opened is only known on another thread.
        if let crate::writing::Adapter::Open(adapter) = adapter {
            let info = adapter.info();
            state.lent.adapters.insert(info.digest, info.bytes);
        }
    }
    let writing = state.write(&model, drafts);
    let (stream, ended) = TextStream::new(Box::pin(writing), state.streams.count());
    let told = async move {
        // A stream that the guest dropped has not failed.
        wasmtime::error::Ok(ended.await.unwrap_or(Ok(())))
    };
    let stream = StreamReader::new(store.as_context_mut(), stream).map_err(full)?;
    let future = FutureReader::new(store.as_context_mut(), told).map_err(full)?;
    Ok((stream, future))
}
