//! An adapter comes from disk into the pool while its request waits behind another.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod common;

use std::path::Path;
use std::sync::{Arc, Mutex};

use common::backend::backend;
use common::{caller, model};
use skep_engine::scheduler::{Event, Prepared, Scheduler, Task, store_options};
use skep_engine::{AdapterStore, Options, Priority, Request, Residency};

#[test]
fn an_adapter_is_there_before_its_request_has_its_turn() {
    // One text at a time, and no host memory for adapters outside the pool.
    let options = Options {
        pages: 512,
        batch_texts: 1,
        adapter_bytes: 0,
        ..Options::default()
    };
    let model = model();
    let store = AdapterStore::new(store_options(&model, &options)).unwrap();
    let store = Arc::new(Mutex::new(store));
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../decoder/tests/adapters/plain");
    store.lock().unwrap().add("plain", "1", folder).unwrap();
    let lease = store.lock().unwrap().acquire("plain").unwrap();
    let mut scheduler = Scheduler::new(
        Arc::clone(&model),
        &*backend(1),
        options.clone(),
        Arc::clone(&store),
    )
    .unwrap();
    let submit = |scheduler: &mut Scheduler, tokens, adapter: Option<&str>| {
        let request = Request {
            adapter: adapter.map(str::to_owned),
            ..Request::greedy(vec![5, 6, 7], tokens)
        };
        let prepared = Prepared::new(&model, &options, &store, Task::Write(request)).unwrap();
        let caller = caller(1, Priority::Normal);
        scheduler.submit(caller, prepared).unwrap()
    };
    let first = submit(&mut scheduler, 40, None);
    let second = submit(&mut scheduler, 2, Some("plain"));
    let written = |deliveries: Vec<skep_engine::scheduler::Delivery>, group| {
        let chunks = deliveries.into_iter().filter(|d| d.group == group);
        chunks
            .filter(|d| matches!(d.event, Event::Chunk(_)))
            .count()
    };
    let residency = || store.lock().unwrap().residency(&lease);
    assert_eq!(residency(), Residency::Disk);
    // The first has its turn, and the other's adapter begins to come.
    assert_eq!(written(scheduler.step(), second), 0);
    assert!(
        store.lock().unwrap().wait(),
        "nothing is on its way from disk"
    );
    assert_eq!(residency(), Residency::Memory);
    assert_eq!(written(scheduler.step(), second), 0);
    assert_eq!(residency(), Residency::Device);
    // The first goes on all the while: of its 40 tokens most are still to be written.
    assert_eq!(written(scheduler.step(), first), 1);
    let mut answered = 0;
    while !scheduler.is_idle() {
        answered += written(scheduler.step(), second);
    }
    assert!(answered > 0);
}
